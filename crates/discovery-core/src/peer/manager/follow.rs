//! Following what the watches of the sources tell.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt};
use tokio::{
    task::{consume_budget, yield_now},
    time::{Instant, sleep, timeout},
};

use super::{Shared, board::Board};
use crate::{
    DiscoveryError, ErrorKind,
    backoff::Backoff,
    peer::{PeerEvent, PeerInfo, PeerWatch},
};

/// How long a source may take to establish its watch; each has a shorter bound of its own.
const ESTABLISH: Duration = Duration::from_secs(30);

/// Entries that are forgotten before others may run.
const FORGOTTEN_AT_ONCE: usize = 1_000;

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

/// A watch begins or goes on, and confirms these peers: what is known from its source or a later
/// one and is not among them is forgotten.
async fn confirm(board: &Board, source: u16, peers: &[PeerInfo]) {
    board.detach_all();
    for some in board.unconfirmed(source, peers).chunks(FORGOTTEN_AT_ONCE) {
        for identity in some {
            board.remove(*identity);
        }
        yield_now().await;
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
            PeerEvent::Snapshot(peers) => confirm(&shared.board, source, &peers).await,
            PeerEvent::Added(peer) | PeerEvent::Modified { peer, .. } => shared.board.heard(source, peer),
            PeerEvent::Removed { peer, .. } => shared.board.left(source, peer.worker_id()),
            // What is known expires by itself while nothing is heard.
            PeerEvent::Interrupted(_) => {}
            // Who came and left while nothing was heard was perhaps looked up, but is in no
            // event: only what the source keeps for now is not asked for again.
            PeerEvent::Resynced { suspects } => confirm(&shared.board, source, &suspects).await,
        }
        // A stream that always has something to tell must not keep others from running.
        consume_budget().await;
    }
    backoff.lasted(since.elapsed());
    DiscoveryError::new(ErrorKind::Unavailable, "the watch ended")
}
