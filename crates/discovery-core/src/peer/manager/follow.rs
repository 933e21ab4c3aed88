//! Following what the watches of the sources tell.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt};
use tokio::{
    task::consume_budget,
    time::{Instant, sleep, timeout},
};

use super::Shared;
use crate::{
    DiscoveryError, ErrorKind,
    backoff::Backoff,
    peer::{PeerEvent, PeerWatch},
};

/// How long a source may take to establish its watch; each has a shorter bound of its own.
const ESTABLISH: Duration = Duration::from_secs(30);

/// Follows a source's watch for ever. While it cannot be had, answers are kept for as long as
/// they are without a watch.
pub(super) async fn follow(shared: Arc<Shared>, source: u16, watch: Arc<dyn PeerWatch>) {
    let mut backoff = Backoff::default();
    loop {
        let ended = AssertUnwindSafe(one(&shared, source, &*watch, &mut backoff))
            .catch_unwind()
            .await;
        let error =
            ended.unwrap_or_else(|_| DiscoveryError::new(ErrorKind::Unexpected, "the watch panicked"));
        let name = shared
            .sources
            .get(usize::from(source))
            .map(|source| &**source.name());
        tracing::debug!(target: "discovery::manager", source = name, %error, "no watch; trying again");
        sleep(backoff.next(&error, Duration::MAX)).await;
    }
}

/// Follows one stream to its end; why it ended.
async fn one(shared: &Shared, source: u16, watch: &dyn PeerWatch, backoff: &mut Backoff) -> DiscoveryError {
    let mut events = match timeout(ESTABLISH, watch.watch_peers()).await {
        Ok(Ok(events)) => events,
        Ok(Err(error)) => return error,
        Err(_) => return DiscoveryError::new(ErrorKind::Timeout, "the watch was not established in time"),
    };
    let since = Instant::now();
    while let Some(event) = events.next().await {
        match event {
            PeerEvent::Snapshot(peers) => shared.board.begins(source, &peers),
            PeerEvent::Added(peer) | PeerEvent::Modified { peer, .. } => shared.board.heard(source, peer),
            PeerEvent::Removed { peer, .. } => shared.board.left(source, peer.worker_id()),
            // What is known expires by itself while nothing is heard.
            PeerEvent::Interrupted(_) => {}
            // Who came and left while nothing was heard was perhaps looked up, but is in no
            // event: only what the source keeps for now is not asked for again.
            PeerEvent::Resynced { suspects } => shared.board.begins(source, &suspects),
        }
        // A stream that always has something to tell must not keep others from running.
        consume_budget().await;
    }
    backoff.lasted(since.elapsed());
    DiscoveryError::new(ErrorKind::Unavailable, "the watch ended")
}
