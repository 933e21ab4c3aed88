//! The manager over the backend's systems.

pub(super) mod answers;
pub(super) mod flights;
pub(super) mod life;
pub(super) mod watched;

use std::{sync::Arc, time::Duration};

use discovery_core::{
    PeerInfo,
    peer::{PeerDiscovery, manager::PeerDiscoveryManager},
};

use super::scripted::Scripted;
use crate::trial::Ctx;

pub(super) const FRESH: Duration = Duration::from_secs(2);

pub(super) const SOURCE_DEADLINE: Duration = Duration::from_secs(1);

/// Scripted sources in front of the backend, each over a connection of its own.
pub(super) async fn sources<const N: usize>(ctx: &Ctx) -> [Arc<Scripted>; N] {
    let mut sources = Vec::new();
    for at in 0..N {
        sources.push(Scripted::new(&format!("source-{at}"), ctx.peers().await));
    }
    sources.try_into().expect("as many as asked")
}

pub(super) async fn manager(
    local: impl Into<Option<PeerInfo>>,
    sources: &[Arc<Scripted>],
) -> PeerDiscoveryManager {
    manager_that_keeps(local, sources, FRESH).await
}

/// The same, with answers that are fresh for another time.
pub(super) async fn manager_that_keeps(
    local: impl Into<Option<PeerInfo>>,
    sources: &[Arc<Scripted>],
    fresh_for: Duration,
) -> PeerDiscoveryManager {
    let sources = sources
        .iter()
        .map(|source| source.clone() as Arc<dyn PeerDiscovery>);
    let builder = PeerDiscoveryManager::builder().local_peer(local).sources(sources);
    builder
        .fresh_for(fresh_for)
        .source_deadline(SOURCE_DEADLINE)
        .build()
        .await
        .expect("a manager")
}
