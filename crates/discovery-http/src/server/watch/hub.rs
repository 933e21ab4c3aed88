//! One watch of the store per prefix, told to everybody who watches it.
//!
//! ```text
//! RecordStore::watch ─► Follow ─► Hub: records as text, Ring of changes ─► a Reader per watch
//! ```

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use discovery_core::{
    DiscoveryError, ErrorKind,
    store::{Change, Position, Record, RecordKey, RecordStore},
};
use discovery_records::view::{Follow, Heard};
use futures_util::FutureExt;
use tokio::{
    sync::{Notify, futures::Notified},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    frame,
    ring::{Next, Ring},
    snapshot::Snapshot,
};
use crate::wire;

/// Changes are told at most this often, so that many of them cost a reader one write.
const TELL_EVERY: Duration = Duration::from_millis(20);
/// Bytes of changes that are told at once, however little time has passed.
const TELL_BYTES: usize = 32 * 1_024;
/// Changes that are taken from the store before somebody who waits for them is answered.
const CAUGHT_UP: usize = 16_384;
/// How long the store may not be heard before all watches end and say so.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything under one prefix.
pub(super) struct Hub {
    state: Mutex<State>,
    /// Tells readers that there is something to read.
    changed: Notify,
    /// Tells the task that somebody waits for it to catch up.
    wanted: Notify,
}

#[derive(Default)]
struct State {
    records: BTreeMap<RecordKey, Bytes>,
    ring: Ring,
    /// The last one made, as long as somebody uses it or nothing has changed.
    snapshot: Option<Arc<Snapshot>>,
    /// The last position given by the hub itself, if the store has none.
    numbered: Option<Position>,
    link: Link,
    /// How many times somebody asked to catch up, and for how many of these it is done.
    asked: u64,
    caught_up: u64,
}

/// Whether the store is heard.
#[derive(Default)]
enum Link {
    #[default]
    Opening,
    Open,
    Broken(DiscoveryError, Instant),
    /// For good; without an error because nobody needs it any more.
    Ended(Option<DiscoveryError>),
}

/// How a watch begins.
pub(super) enum Start {
    Snapshot(Arc<Snapshot>),
    Resume(Bytes, u64),
}

impl Hub {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            wanted: Notify::new(),
        }
    }

    /// Waits until everything is told that the store tells at once: what somebody has written
    /// before he watches is in what he is told first.
    pub(super) async fn caught_up(&self) -> Result<(), DiscoveryError> {
        let ask = {
            let mut state = self.lock();
            state.asked += 1;
            state.asked
        };
        self.wanted.notify_one();
        loop {
            let changed = self.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.lock();
                match &state.link {
                    Link::Ended(error) => return Err(error.clone().unwrap_or_else(stopping)),
                    Link::Broken(error, _) => return Err(error.clone()),
                    Link::Open if state.caught_up >= ask => return Ok(()),
                    Link::Open | Link::Opening => {}
                }
            }
            changed.await;
        }
    }

    /// Where somebody who knows everything up to `after` begins.
    pub(super) fn start(&self, after: Option<Position>) -> Start {
        let mut state = self.lock();
        if let Some((text, place)) = after.and_then(|after| state.ring.resume(after)) {
            return Start::Resume(text, place);
        }
        let waited = state.ring.waiting() > 0;
        let snapshot = state.snapshot();
        drop(state);
        if waited {
            self.changed.notify_waiters();
        }
        Start::Snapshot(snapshot)
    }

    /// What there is to read at a place, and the position if that is the end.
    pub(super) fn next(&self, place: u64) -> (Next, Option<Position>) {
        let state = self.lock();
        (state.ring.next(place), state.ring.position())
    }

    /// Told whenever there may be something to read, or the end has come.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Whether it has ended, and perhaps why.
    pub(super) fn ended(&self) -> Option<Option<DiscoveryError>> {
        match &self.lock().link {
            Link::Ended(error) => Some(error.clone()),
            _ => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end(&self, error: Option<DiscoveryError>) {
        let mut state = self.lock();
        if !matches!(state.link, Link::Ended(_)) {
            state.link = Link::Ended(error);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Follows the store until told to stop, until the store cannot be heard for too long, or
    /// until `unused` says that nobody is there.
    pub(super) async fn run(
        &self,
        store: Arc<dyn RecordStore>,
        prefix: RecordKey,
        stop: CancellationToken,
        unused: impl Future<Output = ()>,
    ) {
        let work = async {
            match Follow::start(store, prefix).await {
                Ok(follow) => tokio::select! {
                    error = self.follow(follow) => Some(error),
                    () = unused => None,
                },
                Err(error) => Some(error),
            }
        };
        let error = stop.run_until_cancelled(work).await.flatten();
        self.end(error);
    }

    async fn follow(&self, mut follow: Follow) -> DiscoveryError {
        let mut told = Instant::now();
        loop {
            let (waiting, patience) = self.due();
            tokio::select! {
                biased;
                () = self.wanted.notified() => {
                    self.catch_up(&mut follow);
                    told = Instant::now();
                }
                heard = follow.next() => {
                    self.hear(heard);
                    if self.lock().ring.waiting() >= TELL_BYTES {
                        self.tell();
                        told = Instant::now();
                    }
                }
                () = sleep_until(told + TELL_EVERY), if waiting => {
                    self.tell();
                    told = Instant::now();
                }
                error = overdue(patience) => return error,
            }
        }
    }

    /// Whether something waits to be told, and when a broken link has been broken for too long.
    fn due(&self) -> (bool, Option<(Instant, DiscoveryError)>) {
        let state = self.lock();
        let patience = match &state.link {
            Link::Broken(error, since) => Some((*since + PATIENCE, error.clone())),
            _ => None,
        };
        (state.ring.waiting() > 0, patience)
    }

    /// Hears whatever the store tells without waiting, and tells it.
    fn catch_up(&self, follow: &mut Follow) {
        let asked = self.lock().asked;
        for _ in 0..CAUGHT_UP {
            let Some(heard) = follow.next().now_or_never() else {
                break;
            };
            self.hear(heard);
        }
        let mut state = self.lock();
        if matches!(state.link, Link::Open) {
            state.caught_up = asked;
        }
        drop(state);
        self.tell();
    }

    fn tell(&self) {
        self.lock().ring.tell();
        self.changed.notify_waiters();
    }

    fn hear(&self, heard: Heard) {
        match heard {
            Heard::Change(change) => self.apply(change),
            Heard::Interrupted(error) => {
                tracing::warn!(%error, "the store cannot be watched; trying again");
                let mut state = self.lock();
                let since = match mem::take(&mut state.link) {
                    Link::Broken(_, since) => since,
                    _ => Instant::now(),
                };
                state.link = Link::Broken(error, since);
                drop(state);
                self.changed.notify_waiters();
            }
        }
    }

    fn apply(&self, change: Change) {
        // Written before the lock is taken.
        match change {
            Change::Reset { records, as_of } => {
                let texts = records
                    .iter()
                    .map(|record| (record.key.clone(), frame::record(record)));
                let texts = texts.collect();
                self.lock().reset(texts, as_of);
                // Everybody has lost his place.
                self.changed.notify_waiters();
            }
            Change::Put(record) => {
                let text = frame::record(&record);
                self.lock().put(record, text);
            }
            Change::Gone { key, at, why } => {
                let text = frame::gone(&key, why);
                self.lock().gone(&key, at, &text);
            }
            Change::Progress(at) => self.lock().progress(at),
        }
    }
}

impl State {
    fn reset(&mut self, records: BTreeMap<RecordKey, Bytes>, as_of: Option<Position>) {
        self.link = Link::Open;
        self.records = records;
        self.numbered = match as_of {
            Some(_) => None,
            None => Some(Position {
                generation: super::super::app::next_epoch(),
                seq: 0,
            }),
        };
        self.ring.start_over(as_of.or(self.numbered));
        self.snapshot = None;
    }

    fn put(&mut self, record: Record, text: Bytes) {
        let at = self.at(record.at);
        self.ring.push(wire::PUT, at, &text);
        self.records.insert(record.key, text);
    }

    fn gone(&mut self, key: &RecordKey, at: Option<Position>, text: &[u8]) {
        let at = self.at(at);
        self.ring.push(wire::GONE, at, text);
        self.records.remove(key);
    }

    fn progress(&mut self, at: Position) {
        self.link = Link::Open;
        self.ring.progress(at);
    }

    /// The position of a change: the store's, or one of the hub's own where the store has none.
    fn at(&mut self, at: Option<Position>) -> Option<Position> {
        self.link = Link::Open;
        let Some(numbered) = &mut self.numbered else {
            return at;
        };
        numbered.seq += 1;
        Some(*numbered)
    }

    /// Everything that stands, made once for all who ask before something changes.
    fn snapshot(&mut self) -> Arc<Snapshot> {
        // What waits is part of what stands already.
        self.ring.tell();
        let place = self.ring.end();
        match &self.snapshot {
            Some(snapshot) if snapshot.place == place => snapshot.clone(),
            _ => {
                let records = self.records.values().cloned().collect();
                let snapshot = Arc::new(Snapshot::new(place, self.ring.position(), records));
                self.snapshot = Some(snapshot.clone());
                snapshot
            }
        }
    }
}

async fn overdue(patience: Option<(Instant, DiscoveryError)>) -> DiscoveryError {
    match patience {
        Some((due, error)) => {
            sleep_until(due).await;
            error
        }
        None => std::future::pending().await,
    }
}

fn stopping() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Unavailable, "the service is stopping")
}
