//! The service as `serve` and `demo` run it: in front of a store of their own.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use discovery::{
    DiscoveryError,
    systems::{
        http::server::{Server, ServerConfig},
        memory::MemoryStore,
    },
};
use tokio::time::{MissedTickBehavior, interval};

/// How often a store of our own is looked at, so that a pause of this process is noticed.
const OBSERVED_EVERY: Duration = Duration::from_millis(250);
/// Silence that tells of a pause: nothing expires for the renewals that were missed in it.
const PAUSE: Duration = Duration::from_secs(2);

/// A service in front of a memory store of its own.
#[derive(Debug)]
pub(super) struct OwnService {
    server: Server,
    observer: tokio::task::JoinHandle<()>,
}

impl OwnService {
    /// Starts it; on success it accepts connections.
    pub(super) async fn start(listen: SocketAddr, warm_up: Duration) -> Result<Self, DiscoveryError> {
        let store = Arc::new(MemoryStore::new().with_pause_grace(PAUSE));
        let server = Server::start(ServerConfig { listen, warm_up }, store.clone()).await?;
        let observer = tokio::spawn(observe(store));
        Ok(Self { server, observer })
    }

    /// The running server.
    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Stops it.
    pub(super) async fn shutdown(self, deadline: Duration) -> Result<(), DiscoveryError> {
        self.observer.abort();
        let _ = self.observer.await;
        self.server.shutdown(deadline).await
    }
}

async fn observe(store: Arc<MemoryStore>) {
    let mut ticks = interval(OBSERVED_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        store.observe();
    }
}
