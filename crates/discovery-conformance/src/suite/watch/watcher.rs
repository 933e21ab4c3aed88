//! Somebody who watches, folds what is told, and notices what cannot be true.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use discovery_core::{
    PeerInfo, WorkerId,
    peer::{PeerDiscovery, PeerEvent, PeerEvents, PeerWatch},
};
use futures_util::StreamExt;
use tokio::task::JoinHandle;

use crate::trial::eventually;

/// What was told so far.
#[derive(Debug, Default)]
pub(in crate::suite) struct Seen {
    pub(in crate::suite) peers: BTreeMap<WorkerId, PeerInfo>,
    pub(in crate::suite) events: Vec<PeerEvent>,
}

impl Seen {
    /// Folds an event; panics if it contradicts what was told before.
    pub(in crate::suite) fn fold(&mut self, event: PeerEvent) {
        let first = self.events.is_empty();
        match &event {
            PeerEvent::Snapshot(peers) => {
                assert!(first, "a second snapshot");
                self.peers = peers
                    .iter()
                    .map(|peer| (peer.worker_id(), peer.clone()))
                    .collect();
                assert_eq!(self.peers.len(), peers.len(), "a peer twice in a snapshot");
            }
            _ if first => panic!("begins with {event:?}"),
            PeerEvent::Added(peer) => {
                let known = self.peers.insert(peer.worker_id(), peer.clone());
                assert!(known.is_none(), "{peer:?} was added in place of {known:?}");
            }
            PeerEvent::Modified { previous, peer } => {
                let known = self.peers.insert(peer.worker_id(), peer.clone());
                assert_eq!(known.as_ref(), Some(previous), "modified to {peer:?}");
                assert_eq!(previous.instance_id(), peer.instance_id());
                assert_ne!(previous, peer, "modified to the same");
            }
            PeerEvent::Removed { peer, .. } => {
                let known = self.peers.remove(&peer.worker_id());
                assert_eq!(known.as_ref(), Some(peer), "removed what was not there");
            }
            PeerEvent::Resynced { suspects } => {
                for suspect in suspects {
                    assert_eq!(self.peers.get(&suspect.worker_id()), Some(suspect), "a suspect");
                }
            }
            _ => {}
        }
        self.events.push(event);
    }
}

pub(in crate::suite) struct Watcher {
    watch: Arc<dyn PeerWatch>,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watcher {
    /// Begins to watch, and waits for the snapshot.
    pub(in crate::suite) async fn start(peers: &dyn PeerDiscovery) -> Self {
        let watch = peers.watch().expect("the system watches");
        let events = watch.watch_peers().await.expect("a watch");
        let watcher = Self::follow(watch, events);
        eventually(Duration::from_secs(10), || async { !watcher.events().is_empty() }).await;
        watcher
    }

    pub(in crate::suite) fn follow(watch: Arc<dyn PeerWatch>, events: PeerEvents) -> Self {
        Self::resume(watch, events, Seen::default())
    }

    /// Goes on from what was folded already.
    pub(in crate::suite) fn resume(watch: Arc<dyn PeerWatch>, mut events: PeerEvents, seen: Seen) -> Self {
        let seen = Arc::new(Mutex::new(seen));
        let fold = seen.clone();
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                lock(&fold).fold(event);
            }
        });
        Self { watch, seen, task }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        assert!(
            !self.task.is_finished(),
            "the watch ended, or told what cannot be"
        );
        lock(&self.seen)
    }

    pub(in crate::suite) fn peers(&self) -> Vec<PeerInfo> {
        self.seen().peers.values().cloned().collect()
    }

    pub(in crate::suite) fn events(&self) -> Vec<PeerEvent> {
        self.seen().events.clone()
    }

    /// What was told after the first `count` events.
    pub(in crate::suite) fn events_after(&self, count: usize) -> Vec<PeerEvent> {
        self.seen().events[count..].to_vec()
    }

    pub(in crate::suite) fn count(&self, which: impl Fn(&PeerEvent) -> bool) -> usize {
        self.seen().events.iter().filter(|event| which(event)).count()
    }

    pub(in crate::suite) fn interruptions(&self) -> usize {
        self.count(|event| matches!(event, PeerEvent::Interrupted(_)))
    }

    pub(in crate::suite) fn resyncs(&self) -> usize {
        self.count(|event| matches!(event, PeerEvent::Resynced { .. }))
    }

    /// Waits until what was told comes to exactly these peers.
    pub(in crate::suite) async fn comes_to(&self, limit: Duration, peers: &[PeerInfo]) {
        let mut expected = peers.to_vec();
        expected.sort_by_key(PeerInfo::worker_id);
        eventually(limit, || async { self.peers() == expected }).await;
    }

    /// Waits until what was told comes to what the backend lists.
    pub(in crate::suite) async fn comes_to_the_list(&self, limit: Duration) {
        eventually(limit, || async {
            let listed = self.watch.list_peers().await;
            listed.is_ok_and(|listed| listed == self.peers())
        })
        .await;
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
