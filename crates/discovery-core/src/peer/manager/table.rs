//! The read table: what is known and fresh, read without a lock.
//!
//! All writers of a key hold that key's shard lock (see `board.rs`); readers hold none.

use std::{
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use crate::peer::{PeerInfo, WorkerId};

/// Slots that one eviction looks at before it takes whatever comes next.
const PROBES: usize = 16;

/// How old a tick may be before a reader ticks by itself.
const STALE_TICK: i64 = 100;

/// Milliseconds since a base, as of the last tick: cheap to read.
///
/// Ticks come from a task. Where nobody drives that task (a runtime that only runs while it is
/// blocked on, or that has ended), the reader notices by the system's coarse clock.
#[derive(Debug)]
pub(super) struct CoarseClock {
    base: Instant,
    millis: AtomicU64,
    ticked: AtomicI64,
}

impl CoarseClock {
    pub(super) fn new() -> Self {
        Self {
            base: Instant::now(),
            millis: AtomicU64::new(0),
            ticked: AtomicI64::new(system_millis()),
        }
    }

    pub(super) fn tick(&self) {
        self.ticked.store(system_millis(), Ordering::Relaxed);
        self.millis.store(self.exact(), Ordering::Relaxed);
    }

    fn exact(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn coarse(&self) -> u64 {
        if system_millis().saturating_sub(self.ticked.load(Ordering::Relaxed)) > STALE_TICK {
            self.tick();
        }
        self.millis.load(Ordering::Relaxed)
    }
}

/// The system's coarse clock, which costs a few nanoseconds and no system call.
fn system_millis() -> i64 {
    #[cfg(target_os = "linux")]
    const CLOCK: ClockId = ClockId::MonotonicCoarse;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: ClockId = ClockId::Monotonic;
    let now = clock_gettime(CLOCK);
    now.tv_sec
        .saturating_mul(1_000)
        .saturating_add(now.tv_nsec / 1_000_000)
}

/// A worker id is a hash already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[derive(Debug)]
struct Entry {
    peer: PeerInfo,
    /// Milliseconds on the table's clock.
    deadline: u64,
    stamp: u64,
    /// The flight that brought it: later flights have higher numbers.
    flight: u64,
    source: u16,
    /// Whether it was read since the last eviction came by.
    used: AtomicBool,
}

/// What a read found.
#[derive(Clone, Debug)]
pub(super) struct Hit {
    pub(super) peer: PeerInfo,
    pub(super) source: u16,
    pub(super) age: Duration,
}

/// A particular entry: removing it never removes its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) key: WorkerId,
    stamp: u64,
}

#[derive(Debug)]
pub(super) struct Table {
    map: papaya::HashMap<WorkerId, Entry, BuildHasherDefault<IdHasher>>,
    clock: CoarseClock,
    fresh_for: u64,
    capacity: usize,
    stamps: AtomicU64,
    ring: Mutex<Ring>,
}

/// The keys in the order in which eviction and sweep visit them. A key whose entry is gone
/// keeps its slot until one of them comes by; every entry has a slot, so the number of slots
/// bounds the number of entries.
#[derive(Debug, Default)]
struct Ring {
    slots: Vec<WorkerId>,
    hand: usize,
    sweep: usize,
}

impl Table {
    pub(super) fn new(capacity: usize, fresh_for: Duration) -> Self {
        Self {
            map: papaya::HashMap::default(),
            clock: CoarseClock::new(),
            fresh_for: u64::try_from(fresh_for.as_millis()).unwrap_or(u64::MAX / 2),
            capacity,
            stamps: AtomicU64::new(0),
            ring: Mutex::default(),
        }
    }

    /// Moves the table's time on.
    pub(super) fn tick(&self) {
        self.clock.tick();
    }

    /// The peer, if it is known and fresh. No lock, no allocation.
    pub(super) fn get(&self, key: WorkerId) -> Option<PeerInfo> {
        self.read(key, |entry| entry.peer.clone())
    }

    /// The peer with where it came from and how old the answer is.
    pub(super) fn hit(&self, key: WorkerId) -> Option<Hit> {
        self.read(key, |entry| {
            let left = entry.deadline.saturating_sub(self.clock.exact());
            let age = Duration::from_millis(self.fresh_for.saturating_sub(left));
            Hit {
                peer: entry.peer.clone(),
                source: entry.source,
                age,
            }
        })
    }

    fn read<T>(&self, key: WorkerId, take: impl FnOnce(&Entry) -> T) -> Option<T> {
        let map = self.map.pin();
        let entry = map
            .get(&key)
            .filter(|entry| entry.deadline > self.clock.coarse())?;
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        Some(take(entry))
    }

    /// Puts an entry in place of whatever an earlier flight brought. The caller holds the key's
    /// shard lock.
    pub(super) fn put(&self, peer: PeerInfo, source: u16, flight: u64) {
        let key = peer.worker_id();
        let map = self.map.pin();
        if self.fresh_for == 0 || map.get(&key).is_some_and(|entry| entry.flight > flight) {
            return;
        }
        let entry = Entry {
            peer,
            deadline: self.clock.exact().saturating_add(self.fresh_for),
            stamp: self.stamps.fetch_add(1, Ordering::Relaxed),
            flight,
            source,
            used: AtomicBool::new(true),
        };
        if map.insert(key, entry).is_none() {
            self.ring().slots.push(key);
        }
    }

    /// The entry that stands under a key, if `which` accepts it.
    pub(super) fn identify(
        &self,
        key: WorkerId,
        which: impl FnOnce(&PeerInfo, u16) -> bool,
    ) -> Option<Identity> {
        let map = self.map.pin();
        let entry = map.get(&key).filter(|entry| which(&entry.peer, entry.source))?;
        Some(Identity {
            key,
            stamp: entry.stamp,
        })
    }

    /// Every entry that `which` accepts, by its peer and source.
    pub(super) fn identify_all(&self, which: impl Fn(&PeerInfo, u16) -> bool) -> Vec<Identity> {
        let map = self.map.pin();
        map.iter()
            .filter(|(_, entry)| which(&entry.peer, entry.source))
            .map(|(key, entry)| Identity {
                key: *key,
                stamp: entry.stamp,
            })
            .collect()
    }

    /// Removes that very entry. The caller holds the key's shard lock.
    pub(super) fn remove(&self, identity: Identity) {
        let _ = self
            .map
            .pin()
            .remove_if(&identity.key, |_, entry| entry.stamp == identity.stamp);
    }

    /// Removes an entry whose slot [`victim`](Self::victim) freed. If another one has come in
    /// its place meanwhile, that one gets the slot back. The caller holds the key's shard lock.
    pub(super) fn evict(&self, identity: Identity) {
        let map = self.map.pin();
        let removed = map.remove_if(&identity.key, |_, entry| entry.stamp == identity.stamp);
        if !matches!(removed, Ok(Some(_))) && map.contains_key(&identity.key) {
            self.ring().slots.push(identity.key);
        }
    }

    #[cfg(test)]
    pub(super) fn remove_key(&self, key: WorkerId) {
        self.map.pin().remove(&key);
    }

    /// If there are more slots than the capacity: frees one, and names the entry that has to
    /// leave with it, if its key still has one. Entries that were read get a second chance.
    pub(super) fn victim(&self) -> Option<Option<Identity>> {
        let mut ring = self.ring();
        if ring.slots.len() <= self.capacity {
            return None;
        }
        let map = self.map.pin();
        let mut probes = 0;
        loop {
            let at = ring.hand % ring.slots.len();
            let key = ring.slots[at];
            let identity = match map.get(&key) {
                Some(entry) if probes < PROBES && entry.used.swap(false, Ordering::Relaxed) => {
                    probes += 1;
                    ring.hand = at + 1;
                    continue;
                }
                entry => entry.map(|entry| Identity {
                    key,
                    stamp: entry.stamp,
                }),
            };
            ring.slots.swap_remove(at);
            ring.hand = at;
            return Some(identity);
        }
    }

    /// Looks at the next `slots` slots: frees those without an entry, and names the entries
    /// that have expired.
    pub(super) fn expired(&self, slots: usize) -> Vec<Identity> {
        let (map, now) = (self.map.pin(), self.clock.coarse());
        let mut ring = self.ring();
        let mut expired = Vec::new();
        for _ in 0..slots.min(ring.slots.len()) {
            if ring.sweep >= ring.slots.len() {
                ring.sweep = 0;
            }
            let at = ring.sweep;
            match ring.slots.get(at).map(|key| (*key, map.get(key))) {
                Some((_, None)) => {
                    ring.slots.swap_remove(at);
                }
                Some((key, Some(entry))) => {
                    if entry.deadline <= now {
                        expired.push(Identity {
                            key,
                            stamp: entry.stamp,
                        });
                    }
                    ring.sweep += 1;
                }
                None => break,
            }
        }
        expired
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.map.pin().len()
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{InstanceId, WorkerAddress};

    fn peer() -> PeerInfo {
        PeerInfo::new(
            InstanceId::new_v4(),
            WorkerAddress::from_bytes("tcp://127.0.0.1:5555"),
        )
    }

    fn trim(table: &Table) {
        while let Some(victim) = table.victim() {
            if let Some(identity) = victim {
                table.evict(identity);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn entries_leave_at_their_deadline() {
        let table = Table::new(10, Duration::from_secs(5));
        let peer = peer();
        table.put(peer.clone(), 0, 0);
        tokio::time::advance(Duration::from_millis(4_999)).await;
        table.tick();
        assert_eq!(
            table.hit(peer.worker_id()).unwrap().age,
            Duration::from_millis(4_999)
        );
        tokio::time::advance(Duration::from_millis(1)).await;
        table.tick();
        assert!(table.get(peer.worker_id()).is_none());
        for identity in table.expired(10) {
            table.remove(identity);
        }
        table.expired(10);
        assert_eq!((table.len(), table.ring().slots.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_table_admits_newcomers_and_keeps_what_is_read() {
        let table = Table::new(100, Duration::from_secs(5));
        let favourite = peer();
        table.put(favourite.clone(), 0, 0);
        for _ in 0..1_000 {
            let newcomer = peer();
            table.put(newcomer.clone(), 0, 0);
            trim(&table);
            assert!(
                table.get(newcomer.worker_id()).is_some(),
                "a newcomer is admitted"
            );
            assert!(table.get(favourite.worker_id()).is_some(), "what is read stays");
            assert!(table.len() <= 100);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_comes_and_goes_does_not_grow_the_ring() {
        let table = Table::new(10, Duration::from_secs(5));
        let peer = peer();
        for _ in 0..1_000 {
            table.put(peer.clone(), 0, 0);
            table.remove(table.identify(peer.worker_id(), |_, _| true).unwrap());
            trim(&table);
        }
        assert!(table.ring().slots.len() <= 10);
    }

    #[tokio::test(start_paused = true)]
    async fn removing_an_entry_leaves_its_successor() {
        let table = Table::new(10, Duration::from_secs(5));
        let peer = peer();
        table.put(peer.clone(), 0, 0);
        let old = table.identify(peer.worker_id(), |_, _| true).unwrap();
        table.put(peer.clone(), 1, 0);
        table.remove(old);
        assert_eq!(table.hit(peer.worker_id()).unwrap().source, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_is_refreshed_while_it_is_evicted_keeps_a_slot() {
        let table = Table::new(1, Duration::from_secs(5));
        for _ in 0..100 {
            let refreshed = peer();
            table.put(refreshed.clone(), 0, 0);
            table.put(peer(), 0, 0);
            while let Some(victim) = table.victim() {
                if let Some(identity) = victim {
                    if identity.key == refreshed.worker_id() {
                        table.put(refreshed.clone(), 0, 0);
                    }
                    table.evict(identity);
                }
            }
            assert!(table.len() <= table.ring().slots.len(), "an entry without a slot");
        }
        assert!(table.len() <= 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_an_earlier_flight_does_not_replace_a_later_one() {
        let table = Table::new(10, Duration::from_secs(5));
        let peer = peer();
        table.put(peer.clone(), 1, 8);
        table.put(peer.clone(), 0, 7);
        assert_eq!(table.hit(peer.worker_id()).unwrap().source, 1);
    }

    #[test]
    fn entries_expire_although_nobody_ticks() {
        let table = Table::new(10, Duration::from_millis(50));
        let peer = peer();
        table.put(peer.clone(), 0, 0);
        assert!(table.get(peer.worker_id()).is_some());
        let patience = Instant::now() + Duration::from_secs(5);
        while table.get(peer.worker_id()).is_some() {
            assert!(Instant::now() < patience, "served for ever");
            std::thread::yield_now();
        }
    }
}
