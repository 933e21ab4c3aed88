//! Serves records kept in memory on 127.0.0.1:7400 until interrupted.

use std::{sync::Arc, time::Duration};

use discovery_http::server::{Server, ServerConfig};
use discovery_memory::MemoryStore;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), discovery_core::DiscoveryError> {
    let config = ServerConfig {
        // A first start: nobody can be on the way back.
        warm_up: Duration::ZERO,
        forgetful: true,
        ..ServerConfig::default()
    };
    let server = Server::start(config, Arc::new(MemoryStore::new())).await?;
    println!("listening on http://{}", server.local_addr());
    Err(server.failed().await)
}
