//! A TCP proxy within this process whose network is as bad as a test wants it to be.

mod connection;
mod door;
mod faults;
mod pump;
mod queue;
#[cfg(test)]
mod tests;

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use discovery_core::task::{Exit, OwnedTask};
use tokio::{runtime::Handle, sync::watch};

pub use self::faults::{Direction, Toxic};
use self::{
    connection::Shared,
    door::{Door, Porter, Settled},
    faults::Faults,
};

/// Stands in front of a server and forwards TCP connections to it, until a [`Toxic`] is applied.
///
/// It listens on a free port of 127.0.0.1, opens one connection to the target for each that it accepts,
/// and closes the client's if the target cannot be reached within 5 s. Bytes go on as they come. At most
/// 64 KiB per connection and direction are kept here, and at most 1024 connections at once, of three files
/// each; more wait to be accepted. An end of stream is passed on for its direction; an error of one side resets the other.
///
/// It needs the real clock: a paused one runs ahead of sockets.
///
/// Dropping it closes the listener and all connections soon after, without blocking;
/// [`shutdown`](Self::shutdown) also waits for that.
///
/// ```
/// use std::time::Duration;
///
/// use discovery_conformance::{Direction, FaultProxy, Toxic};
/// use tokio::{
///     io::{AsyncReadExt, AsyncWriteExt},
///     net::{TcpListener, TcpStream},
/// };
///
/// # #[tokio::main]
/// # async fn main() -> std::io::Result<()> {
/// let server = TcpListener::bind("127.0.0.1:0").await?;
/// let proxy = FaultProxy::start(server.local_addr()?).await?;
///
/// let mut client = TcpStream::connect(proxy.local_addr()).await?;
/// let (mut served, _) = server.accept().await?;
/// client.write_all(b"hello").await?;
/// let mut heard = [0; 5];
/// served.read_exact(&mut heard).await?;
/// assert_eq!(proxy.bytes(Direction::ToServer), 5);
///
/// proxy.apply(Toxic::Reset).await?;
/// assert!(client.read(&mut heard).await.is_err());
///
/// proxy.shutdown(Duration::from_secs(1)).await;
/// # Ok(())
/// # }
/// ```
pub struct FaultProxy {
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    settled: watch::Receiver<Settled>,
    task: OwnedTask,
}

impl FaultProxy {
    /// Starts a proxy on a port of its own, in front of `target`, which need not be there yet.
    ///
    /// # Errors
    /// That of the operating system if it has no port or no socket left.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let door = Door::open()?;
        let local_addr = door.address();
        let shared = Arc::new(Shared::new(target));
        let (settle, settled) = watch::channel(Settled::default());
        let porter = Porter::new(door, shared.clone(), settle);
        let task = OwnedTask::spawn(&Handle::current(), |cancel| porter.run(cancel));
        Ok(Self {
            local_addr,
            shared,
            settled,
            task,
        })
    }

    /// Where clients connect to; the same for as long as the proxy lives.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Connections that are made from now on go to `target`, such as a server that came back on another
    /// port; open ones stay where they are.
    pub fn set_target(&self, target: SocketAddr) {
        self.shared.faults.send_modify(|faults| faults.target = target);
    }

    /// Adds a fault to those in force; another of the same kind replaces the first.
    ///
    /// Once it returns, the fault holds for every connection that was open or waiting to be accepted, for
    /// each that comes, and for every byte that is sent from then on. What was sent before may still get
    /// through. That connections are *closed* follows soon; see [`connections`](Self::connections).
    ///
    /// # Errors
    /// For [`Toxic::Refuse`]: that of the operating system if the port cannot be kept while nobody listens
    /// on it. Nobody listens then either, and [`heal`](Self::heal) tries again to have the port. For all:
    /// `BrokenPipe` if the runtime that the proxy was started on is gone.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the fault back.
    pub async fn apply(&self, toxic: Toxic) -> io::Result<()> {
        self.change(|faults| faults.add(toxic)).await
    }

    /// Ends all faults: the network is as it should be.
    ///
    /// Connections that lost bytes or were to lose them without knowing, as under [`Toxic::Swallow`], are
    /// reset, so that nobody goes on reading in the middle of a message. Those that lost nothing go on,
    /// and what was held back is delivered at once, in its order. What was closed stays closed.
    ///
    /// # Errors
    /// That of the operating system if the port cannot be listened on again, in which case connections are
    /// still refused; `BrokenPipe` if the runtime that the proxy was started on is gone.
    ///
    /// # Cancel safety
    /// Dropping the future does not bring the faults back.
    pub async fn heal(&self) -> io::Result<()> {
        self.change(Faults::heal).await
    }

    /// How many connections are open: accepted, and neither closed nor broken.
    ///
    /// While [`Toxic::Swallow`] or [`Toxic::Stall`] is in force, the proxy does not let on that one side
    /// has gone, so that such connections are counted until it is healed.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections()
    }

    /// How many connections were accepted so far, those included that were closed at once.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted()
    }

    /// How many bytes were passed on so far, in all connections together. What a receiver has read is
    /// counted; what is just being written may be, too.
    #[must_use]
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.shared.passed(direction)
    }

    /// How many bytes [`Toxic::Swallow`] threw away so far, in all connections together.
    #[must_use]
    pub fn swallowed(&self, direction: Direction) -> u64 {
        self.shared.swallowed(direction)
    }

    /// Closes the listener and all connections, without delivering what is held back, and waits for that.
    /// Past `deadline` it is forced, and [`Exit::Aborted`] is returned.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the proxy ending by itself.
    pub async fn shutdown(self, deadline: Duration) -> Exit {
        self.task.shutdown(deadline).await
    }

    async fn change(&self, how: impl FnOnce(&mut Faults)) -> io::Result<()> {
        let mut epoch = 0;
        self.shared.faults.send_modify(|faults| {
            how(faults);
            faults.epoch += 1;
            epoch = faults.epoch;
        });
        let mut settled = self.settled.clone();
        let failed = match settled.wait_for(|settled| settled.epoch >= epoch).await {
            Ok(settled) => settled.failed,
            Err(_) => Some(io::ErrorKind::BrokenPipe),
        };
        match failed {
            Some(kind) => Err(io::Error::new(
                kind,
                format!("the proxy cannot have {}", self.local_addr),
            )),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.shared.faults.borrow().target;
        write!(f, "FaultProxy({} to {target})", self.local_addr)
    }
}
