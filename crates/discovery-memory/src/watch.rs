//! Watching: every reader reads the log at its own pace.

use std::{collections::VecDeque, ops::Bound, sync::Arc};

use discovery_core::store::{Change, Changes, Position, RecordKey};
use futures_util::stream;
use tokio::time::{Instant, sleep_until};

use crate::{state::State, store::Inner};

/// Changes that a reader takes at once.
const BATCH: usize = 256;

/// The changes under a prefix. Nothing waits for a reader but the log: one who falls behind
/// what it holds starts over with a reset.
pub(crate) fn changes(store: Arc<Inner>, prefix: RecordKey, after: Option<Position>) -> Changes {
    let mut reader = Reader {
        store,
        prefix,
        seen: after,
        resumes: after.is_some(),
        ready: VecDeque::new(),
    };
    // The first look belongs to the call that established the watch.
    let state = reader.store.clone();
    reader.look(&state.lock());
    Box::pin(stream::unfold(reader, |mut reader| async move {
        let change = reader.next().await;
        Some((Ok(change), reader))
    }))
}

struct Reader {
    store: Arc<Inner>,
    prefix: RecordKey,
    /// What it has read up to; nothing before its first reset.
    seen: Option<Position>,
    /// Whether it still has to say that it has told everything since where it resumed.
    resumes: bool,
    ready: VecDeque<Change>,
}

impl Reader {
    async fn next(&mut self) -> Change {
        let store = self.store.clone();
        loop {
            if let Some(change) = self.ready.pop_front() {
                return change;
            }
            let changed = store.changed().notified();
            tokio::pin!(changed);
            // Before the look, so that nothing falls between.
            changed.as_mut().enable();
            let end = {
                let state = store.lock();
                self.look(&state);
                state.leases.next_end()
            };
            if self.ready.is_empty() {
                // Nobody else may be there to notice that a session has ended.
                tokio::select! { () = changed => {}, () = until(end) => {} }
            }
        }
    }

    /// Takes what there is to read.
    fn look(&mut self, state: &State) {
        let now = state.position;
        let read = self
            .seen
            .filter(|seen| seen.generation == now.generation)
            .and_then(|seen| state.log.after(seen.seq, now.seq, &self.prefix, BATCH));
        let Some((changes, reached)) = read else {
            return self.reset(state);
        };
        self.ready.extend(changes);
        self.seen = Some(Position { seq: reached, ..now });
        if self.resumes && reached == now.seq {
            self.resumes = false;
            self.ready.push_back(Change::Progress(now));
        }
    }

    fn reset(&mut self, state: &State) {
        let below = state.below(&self.prefix, Bound::Included(self.prefix.as_str()));
        let records = below.filter_map(|key| state.record(key)).collect();
        let as_of = Some(state.position);
        self.ready.push_back(Change::Reset { records, as_of });
        (self.seen, self.resumes) = (as_of, false);
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}
