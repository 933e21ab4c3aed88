//! The service: any record store behind an HTTP API, for [`HttpStore`](crate::HttpStore) and
//! for other languages.

mod app;
mod call;
mod connection;
mod earlier;
mod exchange;
mod health;
mod instances;
mod list;
mod problem;
mod records;
mod sessions;
mod socket;
mod take_up;
mod token;
mod warm_up;
mod watch;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use discovery_core::{
    DiscoveryError, ErrorKind, limit,
    store::RecordStore,
    task::{Exit, OwnedTask},
};
use tokio::{net::TcpListener, runtime::Handle};
use tokio_util::sync::CancellationToken;

use self::app::App;
use crate::error::SYSTEM;

/// The most watches at a time; fewer than there may be connections, so that renewals get through.
const WATCHES: usize = 10_000;

/// Where the service listens, and how it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// The address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// How long after the start a record that is not there may still be on its way back: until
    /// then, "nothing there" and lists are answered with `warming-up`. What is there is
    /// found at once. Needed where the store forgets what it held when the service stops, and then
    /// as long as the longest interval at which clients renew.
    pub warm_up: Duration,
    /// The store loses its records and sessions when the service stops, and nobody else serves
    /// them. Then the first renewal of a session of an earlier start takes its records up again.
    /// In front of a store that remembers, that would bring back what was ended.
    pub forgetful: bool,
    /// The most watches at a time, 1 to 10,000; further ones are told to come back. Each takes a
    /// connection, and so an open file of the process.
    pub max_watches: usize,
}

impl Default for ServerConfig {
    /// `127.0.0.1:7400`, no warm-up, in front of a store that remembers, 10,000 watches.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7400)),
            warm_up: Duration::ZERO,
            forgetful: false,
            max_watches: WATCHES,
        }
    }
}

impl ServerConfig {
    /// Checks what can be checked without listening.
    ///
    /// # Errors
    /// `InvalidConfig` for a warm-up of more than an hour, since no renewal is that far away, or
    /// for a number of watches that cannot be.
    pub fn validate(&self) -> Result<(), DiscoveryError> {
        let refuse = |context: String| Err(DiscoveryError::invalid_config(context).with_system(SYSTEM));
        if self.warm_up > *limit::TTL.end() {
            return refuse(format!("warm_up {:?} is longer than 1h", self.warm_up));
        }
        if !(1..=WATCHES).contains(&self.max_watches) {
            return refuse(format!(
                "max_watches {} is not from 1 to {WATCHES}",
                self.max_watches
            ));
        }
        Ok(())
    }
}

/// A running service.
///
/// It asks nobody who they are and does not encrypt: whoever reaches it can read and write
/// every cluster. Dropping it stops it in the background.
pub struct Server {
    local_addr: SocketAddr,
    app: Arc<App>,
    ended: CancellationToken,
    task: OwnedTask,
}

impl Server {
    /// Starts to listen; on success, connections are accepted. Runs on the runtime that polls
    /// this.
    ///
    /// # Errors
    /// `InvalidConfig` naming the address that cannot be listened on, or what
    /// [`ServerConfig::validate`] refuses.
    pub async fn start(config: ServerConfig, store: Arc<dyn RecordStore>) -> Result<Self, DiscoveryError> {
        config.validate()?;
        let refused = |cause| {
            let context = format!("cannot listen on {}", config.listen);
            DiscoveryError::invalid_config(context)
                .with_system(SYSTEM)
                .with_source(cause)
        };
        let listener = TcpListener::bind(config.listen).await.map_err(refused)?;
        let local_addr = listener.local_addr().map_err(refused)?;
        let app = Arc::new(App::new(store, &config));
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let served = app.clone();
        let task = OwnedTask::spawn(&Handle::current(), |stop| async move {
            let _guard = guard;
            connection::serve(listener, served, stop).await;
        });
        tracing::info!(%local_addr, "the discovery service listens");
        Ok(Self {
            local_addr,
            app,
            ended,
            task,
        })
    }

    /// The address it listens on, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// How many watches it serves.
    #[must_use]
    pub fn watches(&self) -> usize {
        self.app.watches.count()
    }

    /// Waits until the service has ended although nobody asked it to.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn failed(&self) -> DiscoveryError {
        self.ended.cancelled().await;
        let context = format!("the service on {} ended by itself", self.local_addr);
        DiscoveryError::new(ErrorKind::Unexpected, context).with_system(SYSTEM)
    }

    /// Stops: accepts nothing more, answers the requests that are being worked on until the last
    /// byte has left, and closes every connection. Watches end at once, and idle connections do not
    /// delay it.
    ///
    /// # Errors
    /// `Timeout` if requests were cut off at `deadline`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the service stopping by itself.
    pub async fn shutdown(self, deadline: Duration) -> Result<(), DiscoveryError> {
        let error = |kind, context: &str| Err(DiscoveryError::new(kind, context).with_system(SYSTEM));
        match self.task.shutdown(deadline).await {
            Exit::Done => Ok(()),
            Exit::Panicked => error(ErrorKind::Unexpected, "the service had panicked"),
            Exit::Aborted => error(ErrorKind::Timeout, "requests were cut off at the deadline"),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.local_addr)
    }
}
