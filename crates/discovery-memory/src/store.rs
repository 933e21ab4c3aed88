//! The record store.

use std::{
    fmt,
    ops::{Bound, Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use discovery_core::{
    DiscoveryError, limit,
    store::{
        Changes, Held, Listing, Position, Record, RecordKey, RecordStore, Removal, Removed, Renewal, Session,
        Write, Written,
    },
    task::OwnedTask,
};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    state::{State, ended},
    watch,
};

/// Records on one page of a list.
const PAGE: usize = 1_000;
/// How often a store that forgives pauses is looked at.
const OBSERVED_EVERY: Duration = Duration::from_millis(250);
/// Silence that tells of a pause.
const PAUSE: Duration = Duration::from_secs(2);

/// A store of leased records in memory, on tokio's clock.
///
/// Whatever has expired is taken out by the next call; nothing needs to run in the background.
///
/// A clone is another handle to the same store.
#[derive(Clone, Default)]
pub struct MemoryStore(pub(crate) Arc<Inner>);

#[derive(Default)]
pub(crate) struct Inner {
    state: Mutex<State>,
    pause_grace: Option<Duration>,
    /// Tells those who watch that there is something to read.
    changed: Notify,
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
    pub fn forgiving_pauses(runtime: &Handle) -> (Self, OwnedTask) {
        let store = Self(Arc::new(Inner {
            pause_grace: Some(PAUSE),
            ..Inner::default()
        }));
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
        self.lock().wipe();
    }

    fn lock(&self) -> Locked<'_> {
        self.0.lock()
    }
}

impl Inner {
    /// The state, with everything taken out that has expired.
    pub(crate) fn lock(&self) -> Locked<'_> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.position;
        let now = Instant::now();
        if let (Some(grace), Some(observed)) = (self.pause_grace, state.observed)
            && now.saturating_duration_since(observed) > grace
        {
            state.leases.prolong_all(now);
        }
        state.observed = Some(now);
        state.expire(now);
        Locked {
            changed: &self.changed,
            state,
            before,
        }
    }

    /// Told whenever the position has changed.
    pub(crate) fn changed(&self) -> &Notify {
        &self.changed
    }
}

/// The state, for one call; tells those who watch if the call changed something.
pub(crate) struct Locked<'a> {
    state: MutexGuard<'a, State>,
    changed: &'a Notify,
    before: Position,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.state.position != self.before {
            self.changed.notify_waiters();
        }
    }
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
        let from = match &page {
            None => Bound::Included(prefix.as_str()),
            Some(page) => std::str::from_utf8(page)
                .ok()
                .filter(|key| key.starts_with(prefix.as_str()))
                .map(Bound::Excluded)
                .ok_or_else(|| DiscoveryError::invalid_argument("that is no page of this list"))?,
        };
        let mut keys = state.below(prefix, from);
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

    async fn watch(&self, prefix: &RecordKey, after: Option<Position>) -> Result<Changes, DiscoveryError> {
        Ok(watch::changes(self.0.clone(), prefix.clone(), after))
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("MemoryStore")
            .field("records", &state.records.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use discovery_core::{
        Cluster, ErrorKind,
        store::{Expect, Writer},
    };

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
