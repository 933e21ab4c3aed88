//! The record store.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use discovery_core::{
    DiscoveryError, ErrorKind, limit,
    store::{
        Expect, Held, Kept, Listing, Position, Record, RecordKey, RecordStore, Removal, Removed, Renewal,
        Session, Version, Write, Writer, Written,
    },
    task::OwnedTask,
};
use tokio::{
    runtime::Handle,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::lease::Leases;

/// Records on one page of a list.
const PAGE: usize = 1_000;
/// How often a store that forgives pauses is looked at.
const OBSERVED_EVERY: Duration = Duration::from_millis(250);
/// Silence that tells of a pause.
const PAUSE: Duration = Duration::from_secs(2);

/// A store of leased records in memory, on tokio's clock.
///
/// Whatever has expired is taken out by the next call; nothing needs to run in the background.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    pause_grace: Option<Duration>,
}

struct State {
    records: BTreeMap<RecordKey, Stored>,
    leases: Leases,
    position: Position,
    observed: Option<Instant>,
}

struct Stored {
    body: Bytes,
    writer: Writer,
    seq: u64,
    session: Bytes,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A store for a process that serves others, and the task that goes with it.
    ///
    /// While such a process is stopped or suspended, it cannot hear renewals; when it goes on,
    /// everything would seem to have expired. The task looks at the store every 250 ms; if
    /// nothing did for 2 s, every session gets its whole TTL again before anything expires.
    /// Dropping the task ends that.
    #[must_use]
    pub fn forgiving_pauses(runtime: &Handle) -> (Arc<Self>, OwnedTask) {
        let store = Arc::new(Self {
            pause_grace: Some(PAUSE),
            ..Self::default()
        });
        let observed = store.clone();
        let task = OwnedTask::spawn(runtime, |cancel| async move {
            let mut ticks = interval(OBSERVED_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
                drop(observed.lock());
            }
        });
        (store, task)
    }

    /// Loses everything, as if the store had been replaced by an empty one.
    pub fn wipe(&self) {
        let mut state = self.lock();
        let generation = state.position.generation + 1;
        *state = State {
            position: Position { generation, seq: 0 },
            ..State::default()
        };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let (Some(grace), Some(observed)) = (self.pause_grace, state.observed)
            && now.saturating_duration_since(observed) > grace
        {
            state.leases.prolong_all(now);
        }
        state.observed = Some(now);
        state.expire(now);
        state
    }
}

impl Default for State {
    fn default() -> Self {
        let started = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let generation = u64::try_from(started.as_millis()).unwrap_or(u64::MAX);
        let position = Position { generation, seq: 0 };
        Self {
            records: BTreeMap::new(),
            leases: Leases::default(),
            position,
            observed: None,
        }
    }
}

impl State {
    fn expire(&mut self, now: Instant) {
        while let Some(lease) = self.leases.expire(now) {
            self.drop_records(lease.keys);
        }
    }

    fn drop_records(&mut self, keys: impl IntoIterator<Item = RecordKey>) {
        for key in keys {
            self.records.remove(&key);
            self.position.seq += 1;
        }
    }

    fn record(&self, key: &RecordKey) -> Option<Record> {
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

    fn write(&mut self, session: &Bytes, item: &Write) -> Result<Written, DiscoveryError> {
        if item.body.len() > limit::BODY_BYTES {
            let context = format!(
                "a body of {} bytes; at most {} fit",
                item.body.len(),
                limit::BODY_BYTES
            );
            return Err(DiscoveryError::invalid_argument(context));
        }
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

    fn kept(&self, session: &Bytes, held: &Held) -> Kept {
        match (self.records.get(&held.key), self.record(&held.key)) {
            (Some(stored), Some(record)) if stored.session == *session && record.version == held.version => {
                Kept::Mine(record.version)
            }
            (_, Some(record)) => Kept::Other(record),
            (_, None) => Kept::Gone,
        }
    }

    fn unwanted(&mut self, session: &Bytes, held: &[Held]) -> Vec<Record> {
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

    fn remove(&mut self, session: &Bytes, removal: &Removal) -> Result<Removed, DiscoveryError> {
        if self.leases.get(session).is_none() {
            return Err(ended());
        }
        match removal.expect {
            Expect::Version(_) if self.stands(&removal.key, &removal.expect) => {
                self.take(&removal.key);
                self.position.seq += 1;
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

    fn close(&mut self, session: &Bytes) {
        if let Some(lease) = self.leases.end(session) {
            self.drop_records(lease.keys);
        }
    }
}

fn ended() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::LeaseLost, "the session has ended")
}

#[async_trait]
impl RecordStore for MemoryStore {
    async fn open(&self, ttl: Duration) -> Result<Session, DiscoveryError> {
        let ttl = limit::ttl(ttl)?;
        Ok(Session {
            id: self.lock().leases.open(ttl),
            ttl,
        })
    }

    async fn write(&self, session: &Session, items: &[Write]) -> Vec<Result<Written, DiscoveryError>> {
        let mut state = self.lock();
        items.iter().map(|item| state.write(&session.id, item)).collect()
    }

    async fn renew(&self, session: &Session, held: &[Held]) -> Result<Renewal, DiscoveryError> {
        let mut state = self.lock();
        let ttl = state.leases.get(&session.id).ok_or_else(ended)?.ttl;
        state.leases.prolong(&session.id, Instant::now() + ttl);
        let kept = held.iter().map(|held| state.kept(&session.id, held)).collect();
        let unwanted = state.unwanted(&session.id, held);
        Ok(Renewal {
            session: Session {
                id: session.id.clone(),
                ttl,
            },
            kept,
            unwanted,
        })
    }

    async fn remove(&self, session: &Session, removal: &Removal) -> Result<Removed, DiscoveryError> {
        self.lock().remove(&session.id, removal)
    }

    async fn close(&self, session: &Session) -> Result<(), DiscoveryError> {
        self.lock().close(&session.id);
        Ok(())
    }

    async fn get(&self, keys: &[RecordKey]) -> Vec<Result<Option<Record>, DiscoveryError>> {
        let state = self.lock();
        keys.iter().map(|key| Ok(state.record(key))).collect()
    }

    async fn list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Result<Listing, DiscoveryError> {
        let state = self.lock();
        let after = match &page {
            None => prefix.as_str(),
            Some(page) => std::str::from_utf8(page)
                .ok()
                .filter(|key| key.starts_with(prefix.as_str()))
                .ok_or_else(|| DiscoveryError::invalid_argument("that is no page of this list"))?,
        };
        let range = state
            .records
            .range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        // Keys between the prefix and its children, such as `a/b-` before `a/b/`, are skipped.
        let mut keys = range
            .map(|(key, _)| key)
            .take_while(|key| key.as_str().starts_with(prefix.as_str()))
            .filter(|key| key.starts_with(prefix));
        let records: Vec<_> = keys
            .by_ref()
            .take(PAGE)
            .filter_map(|key| state.record(key))
            .collect();
        let more = keys.next().is_some();
        let next = records
            .last()
            .filter(|_| more)
            .map(|record| Bytes::from(record.key.as_str().to_owned()));
        Ok(Listing {
            records,
            skipped: 0,
            as_of: Some(state.position),
            next,
        })
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("MemoryStore")
            .field("records", &state.records.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use discovery_core::Cluster;

    use super::*;

    fn item() -> Write {
        let key = RecordKey::try_new(&Cluster::default(), "things", &["one"]).unwrap();
        Write {
            key,
            body: Bytes::new(),
            writer: Writer::random(),
            expect: Expect::Absent,
        }
    }

    async fn stands(store: &MemoryStore) -> bool {
        store.get(&[item().key]).await.remove(0).unwrap().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_the_process_ends_no_session() {
        let (store, task) = MemoryStore::forgiving_pauses(&Handle::current());
        let session = store.open(Duration::from_secs(3)).await.unwrap();
        store.write(&session, &[item()]).await;
        // Nothing runs while the clock jumps: that is a pause.
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(stands(&store).await);
        tokio::time::sleep(Duration::from_millis(2_900)).await;
        assert!(stands(&store).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!stands(&store).await, "then it expires as ever");
        task.shutdown(Duration::from_secs(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_with_too_many_fences_is_ended() {
        let store = MemoryStore::new();
        let session = store.open(Duration::from_secs(3)).await.unwrap();
        let mut outcome = Ok(Removed::Done);
        for _ in 0..5_000 {
            let Write {
                key, writer, expect, ..
            } = item();
            outcome = store.remove(&session, &Removal { key, writer, expect }).await;
            if outcome.is_err() {
                break;
            }
        }
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::LeaseLost);
        assert!(
            store.write(&session, &[item()]).await.remove(0).is_err(),
            "everything is fenced"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn pages_follow_each_other_without_gap_or_repetition() {
        let store = MemoryStore::new();
        let session = store.open(Duration::from_secs(3)).await.unwrap();
        let prefix = RecordKey::try_new(&Cluster::default(), "things", &[]).unwrap();
        let keys: Vec<_> = (0..2_500)
            .map(|at| prefix.child(&format!("{at:05}")).unwrap())
            .collect();
        let items: Vec<_> = keys
            .iter()
            .map(|key| Write {
                key: key.clone(),
                ..item()
            })
            .collect();
        store.write(&session, &items).await;
        let (mut listed, mut page) = (Vec::new(), None);
        loop {
            let listing = store.list(&prefix, page).await.unwrap();
            listed.extend(listing.records.into_iter().map(|record| record.key));
            page = listing.next;
            if page.is_none() {
                break;
            }
        }
        assert_eq!(listed, keys);
        assert!(store.list(&prefix, Some("elsewhere".into())).await.is_err());
    }
}
