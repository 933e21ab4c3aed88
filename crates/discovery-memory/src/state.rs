//! What stands in the store, without lock and without I/O.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use bytes::Bytes;
use discovery_core::{
    DiscoveryError, ErrorKind, limit,
    store::{
        Change, Departure, Expect, Held, Kept, Position, Record, RecordKey, Removal, Removed, Version, Write,
        Writer, Written,
    },
};
use tokio::time::Instant;

use crate::{lease::Leases, log::Log};

pub(crate) struct State {
    pub(crate) records: BTreeMap<RecordKey, Stored>,
    pub(crate) leases: Leases,
    pub(crate) position: Position,
    pub(crate) observed: Option<Instant>,
    pub(crate) log: Log,
}

pub(crate) struct Stored {
    body: Bytes,
    writer: Writer,
    seq: u64,
    session: Bytes,
}

impl Default for State {
    fn default() -> Self {
        Self {
            records: BTreeMap::new(),
            leases: Leases::default(),
            position: Position {
                generation: next_generation(),
                seq: 0,
            },
            observed: None,
            log: Log::default(),
        }
    }
}

impl State {
    /// Loses everything; what comes is of a later generation.
    pub(crate) fn wipe(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(lease) = self.leases.expire(now) {
            self.drop_records(lease.keys, Departure::Expired);
        }
    }

    fn drop_records(&mut self, keys: impl IntoIterator<Item = RecordKey>, why: Departure) {
        for key in keys {
            self.records.remove(&key);
            self.gone(key, why);
        }
    }

    fn gone(&mut self, key: RecordKey, why: Departure) {
        self.position.seq += 1;
        let at = Some(self.position);
        self.log.push(self.position.seq, Change::Gone { key, at, why });
    }

    /// Everything below a prefix, and the prefix itself, in the order of keys.
    pub(crate) fn below<'a>(
        &'a self,
        prefix: &'a RecordKey,
        from: Bound<&str>,
    ) -> impl Iterator<Item = &'a RecordKey> {
        let range = self.records.range::<str, _>((from, Bound::Unbounded));
        // Keys between the prefix and its children, such as `a/b-` before `a/b/`, are skipped.
        range
            .map(|(key, _)| key)
            .take_while(|key| key.as_str().starts_with(prefix.as_str()))
            .filter(|key| key.starts_with(prefix))
    }

    pub(crate) fn record(&self, key: &RecordKey) -> Option<Record> {
        let stored = self.records.get(key)?;
        let seq = stored.seq;
        Some(Record {
            key: key.clone(),
            body: stored.body.clone(),
            writer: stored.writer,
            version: self.version(seq),
            at: Some(Position { seq, ..self.position }),
        })
    }

    /// Versions of one generation never equal those of another.
    fn version(&self, seq: u64) -> Version {
        Version(format!("{:x}.{seq:x}", self.position.generation).into())
    }

    fn stands(&self, key: &RecordKey, expect: &Expect) -> bool {
        match (self.records.get(key), expect) {
            (None, Expect::Absent) => true,
            (Some(stored), Expect::Version(version)) => self.version(stored.seq) == *version,
            _ => false,
        }
    }

    pub(crate) fn write(&mut self, session: &Bytes, item: &Write) -> Result<Written, DiscoveryError> {
        limit::body(&item.body)?;
        let lease = self.leases.get(session).ok_or_else(ended)?;
        if lease.fenced(&item.key, item.writer) || !self.stands(&item.key, &item.expect) {
            return Ok(Written::Conflict(self.record(&item.key)));
        }
        self.take(&item.key);
        self.position.seq += 1;
        let stored = Stored {
            body: item.body.clone(),
            writer: item.writer,
            seq: self.position.seq,
            session: session.clone(),
        };
        self.records.insert(item.key.clone(), stored);
        if let Some(lease) = self.leases.get(session) {
            lease.keys.insert(item.key.clone());
        }
        let record = self.record(&item.key);
        if let Some(record) = &record {
            self.log.push(self.position.seq, Change::Put(record.clone()));
        }
        record
            .map(Written::Done)
            .ok_or_else(|| DiscoveryError::new(ErrorKind::Unexpected, "a write vanished"))
    }

    fn take(&mut self, key: &RecordKey) {
        if let Some(stored) = self.records.remove(key)
            && let Some(lease) = self.leases.get(&stored.session)
        {
            lease.keys.remove(key);
        }
    }

    pub(crate) fn kept(&self, session: &Bytes, held: &Held) -> Kept {
        match (self.records.get(&held.key), self.record(&held.key)) {
            (Some(stored), Some(record)) if stored.session == *session && record.version == held.version => {
                Kept::Mine(record.version)
            }
            (_, Some(record)) => Kept::Other(record),
            (_, None) => Kept::Gone,
        }
    }

    pub(crate) fn unwanted(&mut self, session: &Bytes, held: &[Held]) -> Vec<Record> {
        let Some(lease) = self.leases.get(session) else {
            return Vec::new();
        };
        let asked: std::collections::HashSet<_> = held.iter().map(|held| &held.key).collect();
        let keys: Vec<_> = lease
            .keys
            .iter()
            .filter(|key| !asked.contains(key))
            .cloned()
            .collect();
        keys.iter().filter_map(|key| self.record(key)).collect()
    }

    pub(crate) fn remove(&mut self, session: &Bytes, removal: &Removal) -> Result<Removed, DiscoveryError> {
        if self.leases.get(session).is_none() {
            return Err(ended());
        }
        match removal.expect {
            Expect::Version(_) if self.stands(&removal.key, &removal.expect) => {
                self.take(&removal.key);
                self.gone(removal.key.clone(), Departure::Removed);
                Ok(Removed::Done)
            }
            Expect::Version(_) => Ok(Removed::Conflict(self.record(&removal.key))),
            Expect::Absent => self.fence(session, removal),
        }
    }

    fn fence(&mut self, session: &Bytes, removal: &Removal) -> Result<Removed, DiscoveryError> {
        let fenced = self
            .leases
            .get(session)
            .is_some_and(|lease| lease.fence(&removal.key, removal.writer));
        if !fenced {
            self.close(session);
            return Err(ended());
        }
        let own = self
            .record(&removal.key)
            .filter(|record| record.writer == removal.writer);
        Ok(own.map_or(Removed::Done, |record| Removed::Conflict(Some(record))))
    }

    pub(crate) fn close(&mut self, session: &Bytes) {
        if let Some(lease) = self.leases.end(session) {
            self.drop_records(lease.keys, Departure::Removed);
        }
    }
}

pub(crate) fn ended() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::LeaseLost, "the session has ended")
}

/// Later than that of every other store of this process, also of those made or wiped in the same
/// millisecond, and than those of earlier processes.
fn next_generation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let next = |last: u64| now.max(last.saturating_add(1));
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
    next(last.unwrap_or_else(|last| last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_store_and_every_wipe_is_a_later_generation() {
        let mut last = 0;
        for _ in 0..1_000 {
            let mut state = State::default();
            for wiped in [false, true, true] {
                if wiped {
                    state.wipe();
                }
                assert!(state.position.generation > last, "two at once are two");
                last = state.position.generation;
            }
        }
    }
}
