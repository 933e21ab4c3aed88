//! One connection: from being accepted until both of its sockets are closed.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;
use tokio::{
    net::{TcpSocket, TcpStream},
    select,
    sync::watch,
    task::consume_budget,
    time::timeout,
    try_join,
};

use super::{
    faults::{Direction, Entry, Faults},
    pump::Pump,
};

/// How long the target may take to accept.
const DIAL: Duration = Duration::from_secs(5);

/// What the proxy, its listener and its connections share.
pub(super) struct Shared {
    pub(super) faults: watch::Sender<Faults>,
    open: AtomicUsize,
    accepted: AtomicU64,
    passed: [AtomicU64; 2],
    swallowed: [AtomicU64; 2],
}

impl Shared {
    pub(super) fn new(target: SocketAddr) -> Self {
        Self {
            faults: watch::Sender::new(Faults::none(target)),
            open: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            passed: Default::default(),
            swallowed: Default::default(),
        }
    }

    pub(super) fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(super) fn passed(&self, direction: Direction) -> u64 {
        self.passed[direction as usize].load(Ordering::Relaxed)
    }

    pub(super) fn swallowed(&self, direction: Direction) -> u64 {
        self.swallowed[direction as usize].load(Ordering::Relaxed)
    }

    pub(super) fn pass(&self, direction: Direction, bytes: usize) {
        self.passed[direction as usize].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes that were counted as passed were not.
    pub(super) fn take_back(&self, direction: Direction, bytes: usize) {
        self.passed[direction as usize].fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn swallow(&self, direction: Direction, bytes: usize) {
        self.swallowed[direction as usize].fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The connection is to be reset on both sides.
#[derive(Debug)]
pub(super) struct Broken;

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// A connection that was accepted; counted as open until dropped.
pub(super) struct Connection {
    shared: Arc<Shared>,
    since: Faults,
}

impl Connection {
    /// A connection that knows the faults as they are in `since`: whatever happens once, happens to it if
    /// it happened after that.
    pub(super) fn new(shared: Arc<Shared>, since: Faults) -> Self {
        shared.open.fetch_add(1, Ordering::Relaxed);
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        Self { shared, since }
    }

    pub(super) async fn run(self, mut client: TcpStream) {
        // A second hold on the other socket: it may be connected before the runtime knows.
        let mut server = None;
        let ended = select! {
            biased;
            ended = self.told_to_end() => ended,
            ended = self.relay(&mut client, &mut server) => ended,
        };
        if ended.is_err() {
            abort(&client);
            server.iter().for_each(abort);
        }
        // Only then is the connection counted as gone.
        drop((client, server));
    }

    /// Waits until connections are to be closed or reset.
    async fn told_to_end(&self) -> Result<(), Broken> {
        let since = &self.since;
        let mut faults = self.shared.faults.subscribe();
        let told = faults.wait_for(|now| {
            now.resets != since.resets || now.hang_ups != since.hang_ups || now.entry() != Entry::Free
        });
        match told.await {
            Ok(now) if now.resets != since.resets => Err(Broken),
            _ => Ok(()),
        }
    }

    async fn relay(&self, client: &mut TcpStream, server: &mut Option<OwnedFd>) -> Result<(), Broken> {
        self.wait_for_passage(client).await?;
        let target = self.shared.faults.borrow().target;
        let socket = socket_for(target)?;
        *server = Some(socket.as_fd().try_clone_to_owned()?);
        let mut dialed = match timeout(DIAL, socket.connect(target)).await {
            Ok(Ok(dialed)) => dialed,
            // It was there, and went before the runtime knew.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Err(Broken),
            _ => return Ok(()),
        };
        // The proxy itself adds no delay.
        client.set_nodelay(true)?;
        dialed.set_nodelay(true)?;
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = dialed.split();
        let pump = |direction, source, sink| Pump::new(direction, &self.shared, &self.since, source, sink);
        let up = pump(Direction::ToServer, from_client, to_server);
        let down = pump(Direction::ToClient, from_server, to_client);
        try_join!(up.run(), down.run())?;
        Ok(())
    }

    /// Waits while nothing gets to the server, which then does not see the connection either.
    async fn wait_for_passage(&self, client: &TcpStream) -> Result<(), Broken> {
        let mut faults = self.shared.faults.subscribe();
        let mut lost = None;
        let mut listening = true;
        loop {
            let now = *faults.borrow_and_update();
            match lost {
                Some(heals) if heals != now.heals => return Err(Broken),
                None if !now.holds(Direction::ToServer) => return Ok(()),
                _ => {}
            }
            select! {
                biased;
                changed = faults.changed() => changed.map_err(|_| Broken)?,
                ready = client.readable(), if listening && now.swallows(Direction::ToServer) => {
                    ready?;
                    match self.swallow_from(client) {
                        Ok(0) => listening = false,
                        Ok(_) => lost = lost.or(Some(now.heals)),
                        // The server has not seen this client, nor will the client see it any more.
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(Broken),
                        Err(_) => {}
                    }
                    consume_budget().await;
                }
            }
        }
    }

    /// Throws away what the client sent.
    fn swallow_from(&self, client: &TcpStream) -> io::Result<usize> {
        let read = client.try_read(&mut [0; 4096])?;
        self.shared.swallow(Direction::ToServer, read);
        Ok(read)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn socket_for(target: SocketAddr) -> io::Result<TcpSocket> {
    if target.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
}

/// Makes the close that follows a reset.
fn abort(socket: impl AsFd) {
    // Fails only for a socket that is closed already.
    let _ = set_socket_linger(socket, Some(Duration::ZERO));
}
