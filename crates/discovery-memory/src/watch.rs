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
            // Made before the look: it is woken by whatever happens from here on.
            let changed = store.changed().notified();
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use discovery_core::{
        Cluster,
        store::{Departure, Expect, RecordStore, Removal, Session, Write, Writer, Written},
    };
    use futures_util::{FutureExt, StreamExt};

    use super::*;
    use crate::MemoryStore;

    fn prefix() -> RecordKey {
        RecordKey::try_new(&Cluster::default(), "things", &[]).unwrap()
    }

    async fn write(store: &MemoryStore, session: &Session, key: RecordKey) -> Removal {
        let (body, writer) = (Bytes::new(), Writer::random());
        let expect = Expect::Absent;
        let item = Write {
            key,
            body,
            writer,
            expect,
        };
        match store.write(session, &[item]).await.remove(0) {
            Ok(Written::Done(record)) => Removal {
                key: record.key,
                writer,
                expect: Expect::Version(record.version),
            },
            other => panic!("{other:?}"),
        }
    }

    /// What there is to read.
    fn told(changes: &mut Changes) -> Vec<Change> {
        std::iter::from_fn(|| changes.next().now_or_never())
            .map(|change| change.expect("it does not end").expect("it does not break"))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn why_a_record_left_is_told() {
        let store = MemoryStore::new();
        let mut changes = store.watch(&prefix(), None).await.unwrap();
        let one = store.open(Duration::from_secs(3)).await.unwrap();
        let other = store.open(Duration::from_secs(2)).await.unwrap();
        let [removed, _closed, _expired] = [
            write(&store, &one, prefix().child("removed").unwrap()).await,
            write(&store, &one, prefix().child("closed").unwrap()).await,
            write(&store, &other, prefix().child("expired").unwrap()).await,
        ];
        store.remove(&one, &removed).await.unwrap();
        store.close(&one).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let left: Vec<_> = told(&mut changes)
            .into_iter()
            .filter_map(|change| match change {
                Change::Gone { key, why, .. } => Some((key.last().to_owned(), why)),
                _ => None,
            })
            .collect();
        let expected = [
            ("removed", Departure::Removed),
            ("closed", Departure::Removed),
            ("expired", Departure::Expired),
        ];
        assert_eq!(left, expected.map(|(name, why)| (name.to_owned(), why)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_takes_many_batches_misses_nothing() {
        let store = MemoryStore::new();
        let session = store.open(Duration::from_secs(3)).await.unwrap();
        write(&store, &session, prefix().child("first").unwrap()).await;
        let mut changes = store.watch(&prefix(), None).await.unwrap();
        let at = told(&mut changes).last().and_then(Change::position);
        let many = BATCH * 3 + 1;
        for name in 0..many {
            write(&store, &session, prefix().child(&name.to_string()).unwrap()).await;
        }
        assert_eq!(told(&mut changes).len(), many);
        // Who comes back learns only after the last of them that this was all.
        let told = told(&mut store.watch(&prefix(), at).await.unwrap());
        assert_eq!(told.len(), many + 1);
        let through = told
            .iter()
            .position(|change| matches!(change, Change::Progress(_)));
        assert_eq!(through, Some(many));
    }

    #[tokio::test(start_paused = true)]
    async fn a_position_in_a_store_that_was_wiped_is_none_in_the_next() {
        let store = MemoryStore::new();
        let session = store.open(Duration::from_secs(3)).await.unwrap();
        write(&store, &session, prefix().child("lost").unwrap()).await;
        let mut changes = store.watch(&prefix(), None).await.unwrap();
        let at = told(&mut changes).last().and_then(Change::position);
        store.wipe();
        let session = store.open(Duration::from_secs(3)).await.unwrap();
        // The next one has come further already.
        for name in 0..3 {
            write(&store, &session, prefix().child(&name.to_string()).unwrap()).await;
        }
        for mut changes in [changes, store.watch(&prefix(), at).await.unwrap()] {
            let told = told(&mut changes);
            assert!(
                matches!(&told[..], [Change::Reset { records, .. }] if records.len() == 3),
                "{told:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_is_below_its_own_key_and_not_below_the_beginning_of_it() {
        let store = MemoryStore::new();
        let session = store.open(Duration::from_secs(3)).await.unwrap();
        let own = prefix().child("own").unwrap();
        write(&store, &session, own.clone()).await;
        let longer = prefix().child("owner").unwrap();
        write(&store, &session, longer.clone()).await;
        let mut changes = store.watch(&own, None).await.unwrap();
        let first = told(&mut changes);
        assert!(
            matches!(&first[..], [Change::Reset { records, .. }] if records.len() == 1 && records[0].key == own),
            "{first:?}"
        );
        store.close(&session).await.unwrap();
        let left = told(&mut changes);
        assert!(
            matches!(&left[..], [Change::Gone { key, .. }] if *key == own),
            "{left:?}"
        );
    }
}
