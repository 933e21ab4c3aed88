//! What stands, and what is to be told about it: no I/O, no clock of its own.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Debug,
    time::Duration,
};

use discovery_core::{
    DiscoveryError,
    store::{Change, Departure, Record, RecordKey},
};
use tokio::time::Instant;

use super::{Read, ViewEvent};

/// From how many items on a removal of more than half of them is a mass removal.
const MASS: usize = 10;

pub(super) struct Fold<T> {
    read: Read<T>,
    /// How long a mass removal is held, if at all.
    hold: Option<Duration>,
    items: BTreeMap<RecordKey, T>,
    /// What is held, and until when.
    suspects: BTreeMap<RecordKey, Instant>,
    /// When to look at the suspects next; not later than the first of them is due.
    look_at: Option<Instant>,
    /// Whether the snapshot was told.
    begun: bool,
    /// Whether an interruption was told and not yet its end.
    interrupted: bool,
    /// What was heard of since a check began.
    touched: Option<BTreeSet<RecordKey>>,
    events: VecDeque<ViewEvent<T>>,
}

impl<T: Clone + PartialEq + Debug> Fold<T> {
    pub(super) fn new(read: Read<T>, hold: Option<Duration>) -> Self {
        Self {
            read,
            hold,
            items: BTreeMap::new(),
            suspects: BTreeMap::new(),
            look_at: None,
            begun: false,
            interrupted: false,
            touched: None,
            events: VecDeque::new(),
        }
    }

    pub(super) fn next_event(&mut self) -> Option<ViewEvent<T>> {
        let event = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > 1_024 {
            self.events = VecDeque::new();
        }
        event
    }

    pub(super) fn apply(&mut self, change: Change, now: Instant) {
        match change {
            Change::Reset { records, .. } => self.reset(&records, now),
            Change::Put(record) => self.put(&record),
            Change::Gone { key, why, .. } => self.gone(key, why),
            Change::Progress(_) => self.resynced(false),
        }
    }

    pub(super) fn interrupted(&mut self, error: DiscoveryError) {
        if self.begun && !self.interrupted {
            self.interrupted = true;
            self.events.push_back(ViewEvent::Interrupted(error));
        }
    }

    /// When to [`believe`](Self::believe). Not while nothing can be heard: a store that was
    /// away twice may have learned again what it had lost.
    pub(super) fn due(&self) -> Option<Instant> {
        self.look_at.filter(|_| !self.interrupted)
    }

    /// Believes that suspects are gone whose time has come.
    pub(super) fn believe(&mut self, now: Instant) {
        let due: Vec<_> = self
            .suspects
            .iter()
            .filter(|(_, due)| **due <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.remove(&key, Departure::Unknown);
        }
        self.look_at = self.suspects.values().min().copied();
    }

    fn reset(&mut self, records: &[Record], now: Instant) {
        let mut stand = BTreeMap::new();
        for record in records {
            if let Some(item) = self.readable(record) {
                stand.insert(record.key.clone(), item);
            }
        }
        if !self.begun {
            self.begun = true;
            self.events
                .push_back(ViewEvent::Snapshot(stand.values().cloned().collect()));
            self.items = stand;
            return;
        }
        let absent: Vec<_> = self
            .items
            .keys()
            .filter(|key| !stand.contains_key(*key))
            .cloned()
            .collect();
        self.leave(absent, now);
        for (key, item) in stand {
            self.stands(key, item);
        }
        self.resynced(true);
    }

    /// What a reset does not name any more leaves, or is held.
    fn leave(&mut self, absent: Vec<RecordKey>, now: Instant) {
        let mass = self.items.len() >= MASS && absent.len() * 2 > self.items.len();
        let until = self.hold.filter(|_| mass).map(|hold| now + hold);
        self.look_at = self.look_at.or(until);
        for key in absent {
            match until {
                // Held once: what was held before keeps its time.
                Some(until) => drop(self.suspects.entry(key).or_insert(until)),
                None if self.suspects.contains_key(&key) => {}
                None => self.remove(&key, Departure::Unknown),
            }
        }
    }

    fn put(&mut self, record: &Record) {
        self.touch(&record.key);
        match self.readable(record) {
            Some(item) => self.stands(record.key.clone(), item),
            None => self.remove(&record.key, Departure::Unknown),
        }
    }

    fn stands(&mut self, key: RecordKey, item: T) {
        self.suspects.remove(&key);
        match self.items.get(&key) {
            Some(known) if *known == item => {}
            Some(_) => {
                let previous = self.items.insert(key, item.clone());
                let modified = previous.map(|previous| ViewEvent::Modified { previous, item });
                self.events.extend(modified);
            }
            None => {
                self.items.insert(key, item.clone());
                self.events.push_back(ViewEvent::Added(item));
            }
        }
    }

    fn gone(&mut self, key: RecordKey, why: Departure) {
        self.touch(&key);
        self.remove(&key, why);
    }

    fn remove(&mut self, key: &RecordKey, why: Departure) {
        self.suspects.remove(key);
        if let Some(item) = self.items.remove(key) {
            self.events.push_back(ViewEvent::Removed { item, why });
        }
    }

    /// A gap has ended: a reset always ends one, even if nobody noticed that it had begun.
    fn resynced(&mut self, reset: bool) {
        if self.begun && (self.interrupted || reset) {
            self.interrupted = false;
            let held = self.suspects.keys().filter_map(|key| self.items.get(key));
            let suspects = held.cloned().collect();
            self.events.push_back(ViewEvent::Resynced { suspects });
        }
    }

    fn readable(&self, record: &Record) -> Option<T> {
        let read = (self.read)(&record.key, &record.body);
        let logged = read.inspect_err(|error| {
            tracing::debug!(target: "discovery::watch", key = %record.key, %error, "skipped a record");
        });
        logged.ok()
    }

    fn touch(&mut self, key: &RecordKey) {
        if let Some(touched) = &mut self.touched {
            touched.insert(key.clone());
        }
    }

    /// Notes from now on what is heard of.
    pub(super) fn note(&mut self) {
        self.touched = Some(BTreeSet::new());
    }

    /// Forgets what was noted.
    pub(super) fn note_no_more(&mut self) {
        self.touched = None;
    }

    /// Where a list that began after [`note`](Self::note) says something else, among what was
    /// not heard of since.
    pub(super) fn differences(&self, listed: &[Record]) -> Vec<RecordKey> {
        let mut stand = BTreeMap::new();
        for record in listed {
            if let Some(item) = self.readable(record) {
                stand.insert(&record.key, item);
            }
        }
        let unknown = stand
            .iter()
            .filter(|(key, item)| self.items.get(**key) != Some(*item))
            .map(|(key, _)| *key);
        let absent = self
            .items
            .keys()
            .filter(|key| !stand.contains_key(key) && !self.suspects.contains_key(*key));
        unknown
            .chain(absent)
            .filter(|key| !self.was_touched(key))
            .cloned()
            .collect()
    }

    pub(super) fn was_touched(&self, key: &RecordKey) -> bool {
        self.touched.as_ref().is_some_and(|touched| touched.contains(key))
    }
}
