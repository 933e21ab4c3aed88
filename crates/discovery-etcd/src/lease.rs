//! Sessions: etcd's leases, renewed with what hangs on them.

use std::{
    collections::{HashMap, HashSet},
    str,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use discovery_core::{
    DiscoveryError, ErrorKind, limit,
    store::{Held, Kept, Record, RecordKey, Renewal, Session},
};
use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::Instant;

use crate::{
    client::{Client, Entry},
    error::{Effect, Fault},
    key::Keys,
    scan,
    store::{self, CONCURRENT_READS},
};

/// The most sessions of which it is noted how they were looked at last.
const NOTED: usize = 4_096;

/// What a session is to etcd: the number of a lease.
pub(crate) fn lease(session: &Session) -> Result<i64, DiscoveryError> {
    let lease = str::from_utf8(&session.id)
        .ok()
        .and_then(|text| text.parse().ok());
    lease
        .filter(|lease| *lease > 0)
        .ok_or_else(|| DiscoveryError::invalid_argument("the session is none of this store"))
}

/// Opens a session.
pub(crate) async fn open(client: &Client, ttl: Duration) -> Result<Session, DiscoveryError> {
    let ttl = limit::ttl(ttl)?;
    // etcd counts in whole seconds.
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    let asked = i64::try_from(seconds).unwrap_or(i64::MAX);
    // A lease that nobody heard of expires by itself.
    let granted = client.call(Effect::Read, client.deadline(), |line| async move {
        line.grant(asked).await
    });
    let (lease, granted) = granted.await.map_err(|fault| fault.error)?;
    if granted < ttl {
        let context = format!("the server grants {granted:?} at most, not {ttl:?}");
        return Err(DiscoveryError::invalid_config(context));
    }
    Ok(Session {
        id: Bytes::from(lease.to_string()),
        ttl: granted,
    })
}

/// Ends a session.
pub(crate) async fn close(client: &Client, session: &Session) -> Result<(), DiscoveryError> {
    let lease = lease(session)?;
    let revoked = client.call(Effect::Read, client.deadline(), |line| async move {
        line.revoke(lease).await
    });
    match revoked.await {
        Err(fault) if fault.error.kind() == ErrorKind::LeaseLost => Ok(()),
        outcome => outcome.map_err(|fault| fault.error),
    }
}

/// How sessions were looked at last.
///
/// A lease tells which keys hang on it, however many, but not what they say; a read tells what
/// they say, but not what else hangs on the lease. So a renewal looks in one way, and the next
/// one in the other, where there is one record only.
#[derive(Debug, Default)]
pub(crate) struct Looks(Mutex<HashMap<i64, bool>>);

impl Looks {
    /// Whether this renewal reads what the records say.
    fn reads(&self, lease: i64) -> bool {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() >= NOTED && !looks.contains_key(&lease) {
            // Only in a gateway with that many clients; it costs them one look out of turn.
            looks.clear();
        }
        let read_last = looks.entry(lease).or_insert(true);
        *read_last = !*read_last;
        *read_last
    }

    pub(crate) fn forget(&self, lease: i64) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.remove(&lease);
    }
}

/// A renewal.
pub(crate) struct Renewing<'a> {
    pub(crate) client: &'a Client,
    pub(crate) keys: &'a Keys,
    pub(crate) looks: &'a Looks,
    pub(crate) session: &'a Session,
    pub(crate) held: &'a [Held],
}

impl Renewing<'_> {
    /// Renews the session in two requests, and some more if not everything stands as it should.
    pub(crate) async fn run(&self) -> Result<Renewal, DiscoveryError> {
        let (lease, deadline) = (lease(self.session)?, self.client.deadline());
        let kept = self.client.call(Effect::Read, deadline, |line| async move {
            line.keep_alive(lease).await
        });
        kept.await.map_err(|fault| fault.error)?;
        // More would be as many requests.
        let (kept, unwanted) = if self.looks.reads(lease) && self.held.len() == 1 {
            let all: Vec<_> = self.held.iter().collect();
            (self.standing(lease, &all, deadline).await, Vec::new())
        } else {
            self.attached(lease, deadline).await?
        };
        Ok(Renewal {
            session: self.session.clone(),
            kept,
            unwanted,
        })
    }

    /// What the lease tells; what it does not name is read.
    async fn attached(
        &self,
        lease: i64,
        deadline: Instant,
    ) -> Result<(Vec<Kept>, Vec<Record>), DiscoveryError> {
        let attached = self.client.call(Effect::Read, deadline, |line| async move {
            line.attached(lease).await
        });
        let attached: HashSet<_> = match attached.await {
            Ok(attached) => attached
                .into_iter()
                .filter_map(|key| self.keys.read(&key))
                .collect(),
            Err(fault) if fault.error.kind() == ErrorKind::LeaseLost => return Err(fault.error),
            // The session was renewed: what is not known of its records is no reason to forget that.
            Err(fault) => {
                let unknown = self.held.iter().map(|_| Kept::Unknown(fault.error.clone()));
                return Ok((unknown.collect(), Vec::new()));
            }
        };
        let hangs = |held: &&Held| attached.contains(&held.key);
        let missing: Vec<_> = self.held.iter().filter(|held| !hangs(held)).collect();
        let mut read = self.standing(lease, &missing, deadline).await.into_iter();
        let unknown = || Kept::Unknown(DiscoveryError::new(ErrorKind::Unexpected, "a key was not read"));
        let kept = self.held.iter().map(|held| match hangs(&held) {
            true => Kept::Mine(held.version.clone()),
            false => read.next().unwrap_or_else(unknown),
        });
        let kept = kept.collect();
        let wanted: HashSet<_> = self.held.iter().map(|held| &held.key).collect();
        let others = attached.iter().filter(|key| !wanted.contains(key));
        let unwanted = self.unwanted(lease, others.cloned().collect(), deadline).await;
        Ok((kept, unwanted))
    }

    /// What stands where these records should.
    async fn standing(&self, lease: i64, held: &[&Held], deadline: Instant) -> Vec<Kept> {
        let keys = held.iter().map(|held| &held.key);
        let entries = self.read(keys, deadline).await;
        let pairs = held.iter().zip(entries);
        let kept = pairs.map(|(held, entry)| match entry {
            Ok(entry) => kept_as(held, entry, lease),
            Err(fault) => Kept::Unknown(fault.error),
        });
        kept.collect()
    }

    /// The records under keys that hang on the lease although nobody asked for them.
    async fn unwanted(&self, lease: i64, keys: Vec<RecordKey>, deadline: Instant) -> Vec<Record> {
        let entries = self.read(keys.iter(), deadline).await;
        let mut unwanted = Vec::new();
        for (key, entry) in keys.iter().zip(entries) {
            match entry {
                Ok(entry) => {
                    let ours = entry.filter(|entry| entry.lease == lease);
                    unwanted.extend(ours.map(|entry| scan::record(key.clone(), entry, None)));
                }
                // It is named again by a later renewal.
                Err(fault) => tracing::debug!(%key, error = %fault.error, "unwanted, but not to be read"),
            }
        }
        unwanted
    }

    async fn read(
        &self,
        keys: impl Iterator<Item = &RecordKey>,
        deadline: Instant,
    ) -> Vec<Result<Option<Entry>, Fault>> {
        let reads = keys.map(|key| {
            let key = self.keys.record(key);
            async move { store::read(self.client, &key, deadline).await }.boxed()
        });
        let reads: Vec<_> = reads.collect();
        stream::iter(reads).buffered(CONCURRENT_READS).collect().await
    }
}

fn kept_as(held: &Held, entry: Option<Entry>, lease: i64) -> Kept {
    let Some(entry) = entry else { return Kept::Gone };
    let hangs = entry.lease == lease;
    let record = scan::record(held.key.clone(), entry, None);
    if hangs && record.writer == held.writer && record.body == held.body {
        return Kept::Mine(record.version);
    }
    Kept::Other(record)
}

#[cfg(test)]
mod tests {
    use discovery_core::{
        Cluster,
        store::{Version, Writer},
    };

    use super::*;
    use crate::value;

    fn session(id: &'static str) -> Session {
        Session {
            id: Bytes::from_static(id.as_bytes()),
            ttl: Duration::from_secs(1),
        }
    }

    #[test]
    fn sessions_of_other_stores_are_refused() {
        assert_eq!(lease(&session("7587869132456")).unwrap(), 7_587_869_132_456);
        for foreign in ["", "x", "0", "-1", "99999999999999999999"] {
            let error = lease(&session(foreign)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{foreign}");
        }
    }

    #[test]
    fn each_session_is_looked_at_in_both_ways_in_turn() {
        let looks = Looks::default();
        let turns: Vec<_> = (0..6).map(|turn| looks.reads(turn % 2)).collect();
        assert_eq!(turns, [false, false, true, true, false, false]);
        looks.forget(0);
        assert!(!looks.reads(0), "begins anew");
    }

    #[test]
    fn a_value_that_was_put_on_our_lease_by_somebody_else_is_not_ours() {
        let key = RecordKey::try_new(&Cluster::default(), "peers", &["1"]).unwrap();
        let held = Held {
            key,
            body: Bytes::from_static(b"{}"),
            writer: Writer::random(),
            version: Version(Bytes::from_static(b"7")),
        };
        let entry = |value: Vec<u8>, lease| {
            Some(Entry {
                key: Vec::new(),
                value,
                revision: 9,
                lease,
            })
        };
        let own = value::encode(b"{}", held.writer);
        let kept = |entry| kept_as(&held, entry, 5);
        assert!(matches!(kept(entry(own.clone(), 5)), Kept::Mine(version) if version == scan::version(9)));
        assert!(matches!(kept(entry(own, 6)), Kept::Other(_)));
        assert!(matches!(kept(entry(b"garbage".to_vec(), 5)), Kept::Other(_)));
        assert!(matches!(kept(None), Kept::Gone));
    }
}
