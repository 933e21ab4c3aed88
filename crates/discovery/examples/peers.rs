//! Registers this process, finds it again, and leaves.
//!
//! `cargo run -p discovery --example peers --features http -- http://127.0.0.1:7400`

use std::time::Duration;

use discovery::peer::{InstanceId, PeerInfo, WorkerAddress, manager::PeerDiscoveryManager};

#[tokio::main]
async fn main() -> Result<(), discovery::DiscoveryError> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let system = discovery::connect(&url).await?;

    let me = InstanceId::new_v4();
    let local = PeerInfo::new(me, WorkerAddress::from_bytes("tcp://127.0.0.1:5555"));
    let manager = PeerDiscoveryManager::new(local, system.peer_discovery()).await?;

    let peer = manager.discover_by_worker_id(me.worker_id()).await?;
    println!("worker {} is at {}", peer.worker_id(), peer.address());

    if let Some(everybody) = system.peer_discovery().and_then(|peers| peers.watch()) {
        println!(
            "{} peers in cluster {}",
            everybody.list_peers().await?.len(),
            system.cluster()
        );
    }
    manager.shutdown(Duration::from_secs(2)).await
}
