//! Shows every peer, and every change, until interrupted.
//!
//! `cargo run -p discovery --example watch --features http -- http://127.0.0.1:7400`

use discovery::peer::{InstanceId, PeerEvent, WorkerAddress};
use futures_util::StreamExt;

#[tokio::main]
async fn main() -> Result<(), discovery::DiscoveryError> {
    let url = std::env::args().nth(1);
    let system = discovery::connect(url.as_deref().unwrap_or("memory://")).await?;
    let peers = system.peer_discovery().expect("this system registers peers");
    let watch = peers.watch().expect("this system watches");
    let mut events = watch.watch_peers().await?;

    // Nobody else is in the memory of this process: one peer comes and goes.
    if url.is_none() {
        let address = WorkerAddress::from_bytes("tcp://127.0.0.1:5555");
        let registration = peers.register_instance(InstanceId::new_v4(), address).await?;
        registration.unregister().await?;
    }
    while let Some(event) = events.next().await {
        match event {
            PeerEvent::Snapshot(peers) => println!("{} peers", peers.len()),
            PeerEvent::Added(peer) => println!("{} came, at {}", peer.worker_id(), peer.address()),
            PeerEvent::Modified { peer, .. } => println!("{} moved to {}", peer.worker_id(), peer.address()),
            PeerEvent::Removed { peer, reason } => {
                println!("{} left: {}", peer.worker_id(), reason.name());
                if url.is_none() {
                    break;
                }
            }
            PeerEvent::Interrupted(why) => println!("out of date for now: {why}"),
            PeerEvent::Resynced { suspects } => println!("up to date again; {} in doubt", suspects.len()),
            _ => {}
        }
    }
    Ok(())
}
