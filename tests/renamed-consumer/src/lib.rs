//! Uses the crate `discovery` under another name: no path in it depends on what it is called.

use std::sync::Arc;
use dynamo_am_discovery::peer::{InstanceId, PeerInfo, WorkerAddress};
use dynamo_am_discovery::peer::manager::PeerDiscoveryManager;
use dynamo_am_discovery::systems::DiscoverySystem;

/// Registers a peer with everything that discovers peers in a system, and looks it up.
///
/// # Errors
/// Whatever registration or lookup reports.
pub async fn example(system: Arc<dyn DiscoverySystem>) -> anyhow::Result<()> {
    let local_instance = InstanceId::new_v4();
    let local_address = WorkerAddress::from_bytes(b"tcp://127.0.0.1:5555".as_slice());
    let local_peer = PeerInfo::new(local_instance, local_address);
    let mut sources = Vec::new();
    if let Some(peer_disc) = system.peer_discovery() {
        sources.push(peer_disc);
    }
    let manager = PeerDiscoveryManager::new(local_peer, sources).await?;
    let _peer = manager.discover_by_worker_id(local_instance.worker_id()).await?;
    let _same = manager.discover_by_instance_id(local_instance).await?;
    Ok(())
}
