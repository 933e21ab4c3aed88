//! Uses the crate `discovery` as an application does: by its public paths, and by nothing else.

use std::sync::Arc;
use discovery::peer::{InstanceId, PeerEvent, PeerInfo, WorkerAddress};
use discovery::peer::manager::PeerDiscoveryManager;
use discovery::systems::DiscoverySystem;
use futures_util::StreamExt;

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

/// Watches until `count` peers are there, and gives them in the order of worker ids.
///
/// # Errors
/// Whatever establishing the watch reports, or that the system has none.
pub async fn wait_for(system: &dyn DiscoverySystem, count: usize) -> anyhow::Result<Vec<PeerInfo>> {
    let watch = system.peer_discovery().and_then(|peers| peers.watch());
    let watch = watch.ok_or_else(|| anyhow::anyhow!("{} has no watch", system.name()))?;
    let mut events = watch.watch_peers().await?;
    let mut there = std::collections::BTreeMap::new();
    while there.len() != count {
        match events.next().await {
            Some(PeerEvent::Snapshot(peers)) => {
                there.extend(peers.into_iter().map(|peer| (peer.worker_id(), peer)));
            }
            Some(PeerEvent::Added(peer) | PeerEvent::Modified { peer, .. }) => {
                there.insert(peer.worker_id(), peer);
            }
            Some(PeerEvent::Removed { peer, .. }) => {
                there.remove(&peer.worker_id());
            }
            Some(_) => {}
            None => anyhow::bail!("the watch ended"),
        }
    }
    Ok(there.into_values().collect())
}
