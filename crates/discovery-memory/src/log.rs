//! What happened lately, for those who watch.

use std::collections::VecDeque;

use discovery_core::store::{Change, RecordKey};

/// Changes that are kept.
const CHANGES: usize = 8_192;
/// Bytes of bodies that are kept.
const BYTES: usize = 16 * 1_024 * 1_024;

/// The latest changes, one per sequence number, without gaps. The oldest leave first.
#[derive(Default)]
pub(crate) struct Log {
    changes: VecDeque<(u64, Change)>,
    bytes: usize,
}

impl Log {
    pub(crate) fn push(&mut self, seq: u64, change: Change) {
        self.bytes += size(&change);
        self.changes.push_back((seq, change));
        while self.changes.len() > CHANGES || self.bytes > BYTES {
            let Some((_, oldest)) = self.changes.pop_front() else {
                return;
            };
            self.bytes -= size(&oldest);
        }
    }

    /// At most `limit` changes under a prefix after `seq`, and up to where that is everything;
    /// `now` is the last sequence number given. `None` if some of it is not known any more.
    pub(crate) fn after(
        &self,
        seq: u64,
        now: u64,
        prefix: &RecordKey,
        limit: usize,
    ) -> Option<(Vec<Change>, u64)> {
        let first = self.changes.front().map_or(now + 1, |(first, _)| *first);
        if seq > now || seq + 1 < first {
            return None;
        }
        let skip = usize::try_from(seq + 1 - first).ok()?;
        let (mut found, mut reached) = (Vec::new(), now);
        for (seq, change) in self.changes.iter().skip(skip) {
            if found.len() == limit {
                reached = seq - 1;
                break;
            }
            if key(change).is_some_and(|key| key.starts_with(prefix)) {
                found.push(change.clone());
            }
        }
        Some((found, reached))
    }
}

fn key(change: &Change) -> Option<&RecordKey> {
    match change {
        Change::Put(record) => Some(&record.key),
        Change::Gone { key, .. } => Some(key),
        Change::Reset { .. } | Change::Progress(_) => None,
    }
}

fn size(change: &Change) -> usize {
    match change {
        Change::Put(record) => record.body.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use discovery_core::{Cluster, store::Departure};

    use super::*;

    fn key(name: &str) -> RecordKey {
        RecordKey::try_new(&Cluster::default(), name, &["one"]).unwrap()
    }

    fn gone(name: &str) -> Change {
        let (at, why) = (None, Departure::Removed);
        Change::Gone {
            key: key(name),
            at,
            why,
        }
    }

    #[test]
    fn what_is_too_old_is_not_made_up() {
        let (mut log, ours) = (Log::default(), key("ours"));
        let count = 10_000;
        for seq in 1..=count {
            log.push(seq, gone(if seq % 2 == 0 { "ours" } else { "theirs" }));
        }
        assert!(log.after(0, count, &ours, 10).is_none());
        assert!(log.after(count - CHANGES as u64 - 1, count, &ours, 10).is_none());
        let oldest = count - CHANGES as u64;
        assert!(log.after(oldest, count, &ours, 10).is_some());
        assert!(
            log.after(count + 1, count, &ours, 10).is_none(),
            "from the future"
        );
        let (none, reached) = log.after(count, count, &ours, 10).unwrap();
        assert_eq!((none.len(), reached), (0, count));
    }

    #[test]
    fn batches_follow_each_other_without_gap() {
        for every in [1, 3] {
            let (mut log, ours) = (Log::default(), key("ours"));
            for seq in 1..=100 {
                log.push(seq, gone(if seq % every == 0 { "ours" } else { "theirs" }));
            }
            let (mut seen, mut at) = (0, 0);
            while at < 100 {
                let (batch, reached) = log.after(at, 100, &ours, 7).unwrap();
                assert!(batch.len() <= 7 && reached > at);
                seen += batch.len();
                at = reached;
            }
            assert_eq!(seen as u64, 100 / every);
        }
    }

    #[test]
    fn large_bodies_push_old_ones_out() {
        use bytes::Bytes;
        use discovery_core::store::{Record, Version, Writer};
        let mut log = Log::default();
        for seq in 1..=2_000 {
            let record = Record {
                key: key("ours"),
                body: Bytes::from(vec![0; 16 * 1_024]),
                writer: Writer::random(),
                version: Version(Bytes::new()),
                at: None,
            };
            log.push(seq, Change::Put(record));
        }
        assert_eq!(log.changes.len(), BYTES / (16 * 1_024));
    }
}
