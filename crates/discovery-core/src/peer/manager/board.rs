//! Who asks, who waits, and what may be published: the state machine of lookups.
//!
//! The invariant: nobody ever gets, and the table never keeps, an answer whose source call
//! began before the last event for that key that had been delivered when the caller called.
//! To that end all writers of a key hold the key's shard lock; an event *detaches* the key's
//! running flights, which takes them out of the map of flights, so that their own callers get
//! their answer but later callers start anew; a flight publishes only if it is still in the
//! map; publishing and leaving the map are one step; and an entry is removed by identity, never
//! by key.
//!
//! A "not found" is an entry like others. What concerns every key bumps the shards' generations
//! instead of looking for them: each counts only in the generation that its flight noted before
//! it asked.
//!
//! There is no I/O, no task and no await here, so a test can walk through every interleaving.

use std::{
    collections::HashMap,
    hash::BuildHasherDefault,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::table::{Hit, IdHasher, Table};
use crate::{
    DiscoveryError, ErrorKind,
    peer::{InstanceId, PeerInfo, WorkerId},
};

const SHARDS: usize = 64;

/// What a caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Question {
    Worker(WorkerId),
    Instance(InstanceId),
}

impl Question {
    pub(super) fn key(self) -> WorkerId {
        match self {
            Self::Worker(id) => id,
            Self::Instance(id) => id.worker_id(),
        }
    }

    /// Whether this peer answers it.
    pub(super) fn fits(self, peer: &PeerInfo) -> bool {
        match self {
            Self::Worker(id) => peer.worker_id() == id,
            Self::Instance(id) => peer.instance_id() == id,
        }
    }
}

/// How a flight ended.
#[derive(Clone, Debug)]
pub(super) struct Landing {
    pub(super) answer: Result<Hit, DiscoveryError>,
    /// Whether a source used its whole deadline up: a caller that joined late may try again.
    pub(super) hung: bool,
}

/// Waits for a flight.
pub(super) type Waiting = watch::Receiver<Option<Landing>>;

/// What a caller has to do.
#[derive(Debug)]
pub(super) enum Joined {
    /// It is known.
    Hit(Hit),
    /// It was not found a moment ago.
    NotFound,
    /// Somebody is asking already.
    Wait(Waiting),
    /// Nobody asks yet: fly, and land the ticket.
    Lead(Ticket, Waiting),
}

/// The right to ask and to publish the answer.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) question: Question,
    flight: u64,
    generation: u64,
    landing: watch::Sender<Option<Landing>>,
}

#[derive(Debug)]
struct Flight {
    id: u64,
    landing: Waiting,
}

impl Flight {
    /// Whether somebody still holds its ticket; else it crashed.
    fn is_under_way(&self) -> bool {
        self.landing.has_changed().is_ok()
    }
}

#[derive(Debug, Default)]
struct Shard {
    generation: u64,
    flights: HashMap<Question, Flight>,
}

/// An answer "not found", for as long as no event came. Of two questions about one key, the one
/// that was answered last is remembered.
#[derive(Clone, Copy, Debug)]
struct Negative {
    question: Question,
    generation: u64,
    deadline: Instant,
}

/// Mistakes that the tests plant, to see that they would be noticed.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plant {
    Nothing,
    /// Publishes although an event has detached the flight.
    NoGenerationCheck,
    NoDetach,
    RemovalByKey,
    PublishOutsideLock,
}

#[derive(Debug)]
pub(super) struct Board {
    table: Table,
    shards: Vec<Mutex<Shard>>,
    negative: moka::sync::Cache<WorkerId, Negative>,
    negative_for: Duration,
    flights: AtomicU64,
    #[cfg(test)]
    plant: Plant,
}

impl Board {
    pub(super) fn new(table: Table, negative_capacity: u64, negative_for: Duration) -> Self {
        let negative = moka::sync::Cache::builder()
            .max_capacity(negative_capacity)
            .eviction_policy(moka::policy::EvictionPolicy::lru())
            .build();
        Self {
            table,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            negative,
            negative_for,
            flights: AtomicU64::new(0),
            #[cfg(test)]
            plant: Plant::Nothing,
        }
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// Joins the flight for a question, or leads a new one.
    pub(super) fn join(&self, question: Question) -> Joined {
        let mut shard = self.shard(question.key());
        // A flight may have landed since the caller looked.
        if let Some(hit) = self
            .table
            .hit(question.key())
            .filter(|hit| question.fits(&hit.peer))
        {
            return Joined::Hit(hit);
        }
        if let Some(flight) = shard
            .flights
            .get(&question)
            .filter(|flight| flight.is_under_way())
        {
            return Joined::Wait(flight.landing.clone());
        }
        if let Some(negative) = self.negative.get(&question.key())
            && negative.question == question
            && negative.generation == shard.generation
            && negative.deadline > Instant::now()
        {
            return Joined::NotFound;
        }
        let (landing, waiting) = watch::channel(None);
        let id = self.flights.fetch_add(1, Ordering::Relaxed);
        shard.flights.insert(
            question,
            Flight {
                id,
                landing: waiting.clone(),
            },
        );
        Joined::Lead(
            Ticket {
                question,
                flight: id,
                generation: shard.generation,
                landing,
            },
            waiting,
        )
    }

    /// `land` in two steps that the lock does not join: what must not be.
    #[cfg(test)]
    pub(super) fn land_outside_lock(&self, ticket: &Ticket) -> bool {
        let mut shard = self.shard(ticket.question.key());
        let may = self.may_publish(&shard, ticket);
        Self::leave(&mut shard, ticket);
        may
    }

    /// Publishes the answer if no event came in between, and hands it to those who wait.
    pub(super) fn land(&self, ticket: Ticket, landing: Landing) {
        let mut shard = self.shard(ticket.question.key());
        if self.may_publish(&shard, &ticket) {
            self.publish(&ticket, &landing);
        }
        Self::leave(&mut shard, &ticket);
        drop(shard);
        ticket.landing.send_replace(Some(landing));
        self.trim();
    }

    fn may_publish(&self, shard: &Shard, ticket: &Ticket) -> bool {
        #[cfg(test)]
        if self.plant == Plant::NoGenerationCheck {
            return true;
        }
        Self::flies(shard, ticket)
    }

    /// Whether no event has detached this flight.
    fn flies(shard: &Shard, ticket: &Ticket) -> bool {
        shard
            .flights
            .get(&ticket.question)
            .is_some_and(|flight| flight.id == ticket.flight)
    }

    fn publish(&self, ticket: &Ticket, landing: &Landing) {
        match &landing.answer {
            Ok(hit) => self.table.put(hit.peer.clone(), hit.source, ticket.flight),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let deadline = Instant::now() + self.negative_for;
                self.negative.insert(
                    ticket.question.key(),
                    Negative {
                        question: ticket.question,
                        generation: ticket.generation,
                        deadline,
                    },
                );
            }
            Err(_) => {}
        }
    }

    fn leave(shard: &mut Shard, ticket: &Ticket) {
        if Self::flies(shard, ticket) {
            shard.flights.remove(&ticket.question);
        }
    }

    /// Gives a ticket up that nobody will land: those who wait learn that it is over.
    pub(super) fn give_up(&self, ticket: Ticket) {
        Self::leave(&mut self.shard(ticket.question.key()), &ticket);
    }

    /// Somebody found that this instance cannot be reached: forget it, and what is being
    /// asked about it.
    pub(super) fn report(&self, instance: InstanceId) {
        let key = instance.worker_id();
        let mut shard = self.shard(key);
        self.event(&mut shard, key);
        if let Some(identity) = self.table.identify(key, |peer, _| peer.instance_id() == instance) {
            self.table.remove(identity);
        }
        #[cfg(test)]
        if self.plant == Plant::RemovalByKey {
            self.table.remove_key(key);
        }
    }

    /// A source's watch tells that a peer is there, or how it is now: what is known from this
    /// source or a later one is replaced. What nobody asked for is not taken in.
    pub(super) fn heard(&self, source: u16, peer: PeerInfo) {
        let key = peer.worker_id();
        let mut shard = self.shard(key);
        self.event(&mut shard, key);
        if self.table.identify(key, |_, of| source <= of).is_some() {
            let now = self.flights.fetch_add(1, Ordering::Relaxed);
            self.table.put(peer, source, now);
        }
    }

    /// A source's watch tells that a peer has left: what is known under its worker id from this
    /// source or a later one is forgotten.
    pub(super) fn left(&self, source: u16, key: WorkerId) {
        let mut shard = self.shard(key);
        self.event(&mut shard, key);
        if let Some(identity) = self.table.identify(key, |_, of| source <= of) {
            self.table.remove(identity);
        }
    }

    /// Something happened that may concern every key: what was asked before it must not be
    /// published after it.
    pub(super) fn detach_all(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.generation += 1;
            shard.flights.clear();
        }
    }

    /// What is known from this source or a later one and is not among these peers.
    pub(super) fn unconfirmed(&self, source: u16, peers: &[PeerInfo]) -> Vec<super::table::Identity> {
        let stand: HashMap<_, _, BuildHasherDefault<IdHasher>> =
            peers.iter().map(|peer| (peer.worker_id(), peer)).collect();
        let gone = |peer: &PeerInfo, of| source <= of && stand.get(&peer.worker_id()) != Some(&peer);
        self.table.identify_all(gone)
    }

    /// Something happened to a key: what was asked before it must not be published after it.
    /// What is asked about other keys goes on, or a busy fleet would have no answer kept.
    fn event(&self, shard: &mut Shard, key: WorkerId) {
        self.negative.invalidate(&key);
        #[cfg(test)]
        if self.plant == Plant::NoDetach {
            return;
        }
        shard.flights.retain(|question, _| question.key() != key);
    }

    /// Evicts until the table is within its capacity.
    fn trim(&self) {
        while let Some(victim) = self.table.victim() {
            if let Some(identity) = victim {
                let _shard = self.shard(identity.key);
                self.table.evict(identity);
            }
        }
    }

    /// The first half of an eviction: which entry shall go.
    #[cfg(test)]
    pub(super) fn pick(&self, key: WorkerId) -> Option<super::table::Identity> {
        self.table.identify(key, |_, _| true)
    }

    /// Removes some of what has expired.
    pub(super) fn sweep(&self, slots: usize) {
        for identity in self.table.expired(slots) {
            self.remove(identity);
        }
    }

    pub(super) fn remove(&self, identity: super::table::Identity) {
        let _shard = self.shard(identity.key);
        #[cfg(test)]
        if self.plant == Plant::RemovalByKey {
            return self.table.remove_key(identity.key);
        }
        self.table.remove(identity);
    }

    fn shard(&self, key: WorkerId) -> MutexGuard<'_, Shard> {
        // The low bits choose the bucket in the table; these are others.
        let at = (key.as_u64() >> 32) as usize % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
