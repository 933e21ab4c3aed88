//! Sessions: what keeps records alive, and when it ends.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use bytes::Bytes;
use discovery_core::store::{RecordKey, Writer};
use tokio::time::Instant;
use uuid::Uuid;

/// Fences that one session remembers. Past that it is ended instead, which fences everything.
const FENCES: usize = 4_096;

pub(crate) struct Lease {
    pub(crate) ttl: Duration,
    deadline: Instant,
    pub(crate) keys: HashSet<RecordKey>,
    fences: HashSet<(RecordKey, Writer)>,
}

impl Lease {
    pub(crate) fn fenced(&self, key: &RecordKey, writer: Writer) -> bool {
        self.fences.contains(&(key.clone(), writer))
    }

    /// Remembers a fence; `false` if there is no room.
    pub(crate) fn fence(&mut self, key: &RecordKey, writer: Writer) -> bool {
        self.fences.len() < FENCES && {
            self.fences.insert((key.clone(), writer));
            true
        }
    }
}

/// Every open session, and the order in which they end.
#[derive(Default)]
pub(crate) struct Leases {
    open: HashMap<Bytes, Lease>,
    ends: BTreeSet<(Instant, Bytes)>,
}

impl Leases {
    pub(crate) fn open(&mut self, ttl: Duration) -> Bytes {
        let id = Bytes::copy_from_slice(Uuid::new_v4().as_bytes());
        let deadline = Instant::now() + ttl;
        self.ends.insert((deadline, id.clone()));
        let lease = Lease {
            ttl,
            deadline,
            keys: HashSet::new(),
            fences: HashSet::new(),
        };
        self.open.insert(id.clone(), lease);
        id
    }

    pub(crate) fn get(&mut self, id: &Bytes) -> Option<&mut Lease> {
        self.open.get_mut(id)
    }

    pub(crate) fn prolong(&mut self, id: &Bytes, until: Instant) {
        if let Some(lease) = self.open.get_mut(id) {
            self.ends.remove(&(lease.deadline, id.clone()));
            lease.deadline = until;
            self.ends.insert((until, id.clone()));
        }
    }

    pub(crate) fn end(&mut self, id: &Bytes) -> Option<Lease> {
        let lease = self.open.remove(id)?;
        self.ends.remove(&(lease.deadline, id.clone()));
        Some(lease)
    }

    /// Ends one session whose time is up.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Lease> {
        let id = self
            .ends
            .first()
            .filter(|(deadline, _)| *deadline <= now)?
            .1
            .clone();
        self.end(&id)
    }

    /// When the next session ends, unless it is renewed.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(deadline, _)| *deadline)
    }

    /// Gives every session its whole TTL from now on.
    pub(crate) fn prolong_all(&mut self, now: Instant) {
        let ids: Vec<_> = self
            .open
            .iter()
            .map(|(id, lease)| (id.clone(), now + lease.ttl))
            .collect();
        for (id, until) in ids {
            self.prolong(&id, until);
        }
    }
}
