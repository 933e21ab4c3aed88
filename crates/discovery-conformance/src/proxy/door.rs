//! Where connections come in.

use std::{
    io, mem,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    select,
    sync::watch,
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Connection, Shared},
    faults::{Entry, Faults},
};

/// How many connections there may be at once; tests have not the files to try so many.
const CONNECTIONS: usize = if cfg!(test) { 64 } else { 1024 };
/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;
/// How often a port is tried that is still taken, and how long to wait in between: a process that is
/// being started holds a copy of the listener until it runs its program.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// Up to which change the listener is as it should be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settled {
    pub(super) epoch: u64,
    /// Why it is not.
    pub(super) failed: Option<io::ErrorKind>,
}

/// Keeps the door as the faults in force say, and owns the connections.
pub(super) struct Porter {
    door: Door,
    /// The faults that the door is adjusted to, and that new connections know of.
    since: Faults,
    shared: Arc<Shared>,
    settle: watch::Sender<Settled>,
    connections: JoinSet<()>,
}

impl Porter {
    /// Nothing may have been applied yet.
    pub(super) fn new(door: Door, shared: Arc<Shared>, settle: watch::Sender<Settled>) -> Self {
        let since = *shared.faults.borrow();
        Self {
            door,
            since,
            shared,
            settle,
            connections: JoinSet::new(),
        }
    }

    pub(super) async fn run(mut self, cancel: CancellationToken) {
        select! {
            () = cancel.cancelled() => {}
            () = self.attend() => {}
        }
        drop(self.door);
        self.connections.shutdown().await;
    }

    async fn attend(&mut self) {
        let mut faults = self.shared.faults.subscribe();
        // Something may have been applied before this ran.
        faults.mark_changed();
        loop {
            let room = self.has_room();
            select! {
                biased;
                changed = faults.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = *faults.borrow_and_update();
                    self.adjust(now).await;
                }
                Some(_) = self.connections.join_next() => {}
                knocked = self.door.knock(), if room => match knocked {
                    Ok(client) => self.let_in(client),
                    // The client is gone already, or there are no files left.
                    Err(_) => sleep(PAUSE).await,
                },
            }
        }
    }

    async fn adjust(&mut self, now: Faults) {
        // Whoever came before a fault meets it, also if it happens only once.
        while self.has_room()
            && let Ok(client) = self.door.next()
        {
            self.let_in(client);
        }
        let failed = self
            .door
            .adjust(now.entry())
            .await
            .err()
            .map(|error| error.kind());
        self.since = now;
        let epoch = now.epoch;
        self.settle.send_replace(Settled { epoch, failed });
    }

    fn let_in(&mut self, client: TcpStream) {
        let connection = Connection::new(self.shared.clone(), self.since);
        self.connections.spawn(connection.run(client));
    }

    fn has_room(&self) -> bool {
        self.connections.len() < CONNECTIONS
    }
}

/// The port that clients connect to.
pub(super) struct Door {
    address: SocketAddr,
    state: State,
}

enum State {
    /// Somebody listens.
    Open(Listener),
    /// Nobody listens, but the port is ours.
    Kept(TcpSocket),
    /// Nobody listens, and the port may be anybody's.
    Lost,
}

/// One socket twice: tokio's accepts only what the runtime has noticed, but before a fault begins, whoever
/// waits has to be let in.
struct Listener {
    later: TcpListener,
    now: std::net::TcpListener,
}

impl Door {
    /// Listens on a free port of this host.
    pub(super) fn open() -> io::Result<Self> {
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self {
            address: socket.local_addr()?,
            state: State::Open(listen(socket)?),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until somebody is there.
    async fn knock(&self) -> io::Result<TcpStream> {
        let State::Open(listener) = &self.state else {
            return std::future::pending().await;
        };
        let (client, _) = listener.later.accept().await?;
        Ok(client)
    }

    /// Who is there already.
    fn next(&self) -> io::Result<TcpStream> {
        let State::Open(listener) = &self.state else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let (client, _) = listener.now.accept()?;
        client.set_nonblocking(true)?;
        TcpStream::from_std(client)
    }

    async fn adjust(&mut self, entry: Entry) -> io::Result<()> {
        match (entry, &self.state) {
            (Entry::Refused, State::Kept(_)) | (Entry::Free | Entry::HungUp, State::Open(_)) => Ok(()),
            (Entry::Refused, _) => self.shut().await,
            (Entry::Free | Entry::HungUp, _) => self.reopen().await,
        }
    }

    async fn shut(&mut self) -> io::Result<()> {
        self.state = State::Lost;
        self.state = State::Kept(bind_patiently(self.address).await?);
        Ok(())
    }

    async fn reopen(&mut self) -> io::Result<()> {
        let socket = match mem::replace(&mut self.state, State::Lost) {
            State::Kept(socket) => socket,
            _ => bind_patiently(self.address).await?,
        };
        self.state = State::Open(listen(socket)?);
        Ok(())
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Connections of the listener before this one may not be quite gone.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn bind_patiently(address: SocketAddr) -> io::Result<TcpSocket> {
    for _ in 1..TRIES {
        match bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => sleep(PAUSE).await,
            other => return other,
        }
    }
    bind(address)
}

fn listen(socket: TcpSocket) -> io::Result<Listener> {
    let later = socket.listen(BACKLOG)?;
    let now = later.as_fd().try_clone_to_owned()?.into();
    Ok(Listener { later, now })
}
