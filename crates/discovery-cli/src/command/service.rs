//! The service as `serve` and `demo` run it: in front of a store of their own.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use discovery::{DiscoveryError, systems::memory::MemoryStore, task::OwnedTask};
use discovery_http::server::{Server, ServerConfig};
use tokio::runtime::Handle;

/// A service in front of a memory store of its own.
#[derive(Debug)]
pub(super) struct OwnService {
    server: Server,
    pauses: OwnedTask,
}

impl OwnService {
    /// Starts it; on success it accepts connections.
    pub(super) async fn start(listen: SocketAddr, warm_up: Duration) -> Result<Self, DiscoveryError> {
        let (store, pauses) = MemoryStore::forgiving_pauses(&Handle::current());
        let config = ServerConfig {
            listen,
            warm_up,
            forgetful: true,
            ..ServerConfig::default()
        };
        let server = Server::start(config, Arc::new(store)).await?;
        Ok(Self { server, pauses })
    }

    /// The running server.
    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Stops it.
    pub(super) async fn shutdown(self, deadline: Duration) -> Result<(), DiscoveryError> {
        self.pauses.shutdown(deadline).await;
        self.server.shutdown(deadline).await
    }
}
