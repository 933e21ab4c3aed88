//! The record store over etcd: translation only.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use discovery_core::{
    DiscoveryError, ErrorKind, limit,
    store::{
        Changes, Expect, Held, Listing, Position, Record, RecordKey, RecordStore, Removal, Removed, Renewal,
        Session, Write, Written,
    },
};
use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::Instant;

use crate::{
    client::{Client, Condition, Entry, Found, Line, Outcome, Read, Request},
    config::EtcdConfig,
    error::{Effect, Fault, SYSTEM},
    key::Keys,
    lease::{self, Looks, Renewing},
    scan::{self, Generations, Place, Scan},
    value,
    watch::{self, Watched},
};

/// Operations of one transaction. A server takes 128 unless told otherwise (`--max-txn-ops`),
/// and counts those of nested ones on top of those around them.
const OPERATIONS: usize = 120;
/// Bytes of values in one request; a server takes 1.5 MiB unless told otherwise
/// (`--max-request-bytes`).
const REQUEST_BYTES: usize = 1_024 * 1_024;
/// Reads of one call that are under way at the same time, over one connection.
pub(crate) const CONCURRENT_READS: usize = 64;

/// The records that etcd keeps, each one key, on the lease of its session.
///
/// A record says its position where it comes from a list or a watch. Holds one connection per
/// server that it talks to, driven by the runtime that makes the calls; a clone shares them.
#[derive(Clone)]
pub struct EtcdStore {
    client: Client,
    keys: Keys,
    looks: Arc<Looks>,
    generations: Arc<Generations>,
}

impl EtcdStore {
    /// A store with connections of its own; connects with the first call.
    ///
    /// # Errors
    /// `InvalidConfig` naming what cannot work.
    pub fn try_new(config: &EtcdConfig) -> Result<Self, DiscoveryError> {
        Ok(Self {
            client: Client::try_new(config)?,
            keys: Keys::new(config.root()),
            looks: Arc::default(),
            generations: Arc::default(),
        })
    }

    /// Checks that a server answers, within `limit`.
    pub(crate) async fn check(&self, cluster: &str, limit: Duration) -> Result<(), DiscoveryError> {
        let key = self.keys.generation_of(cluster);
        let answer = read(&self.client, &key, Instant::now() + limit).await;
        answer.map(drop).map_err(|fault| during("connect")(fault.error))
    }

    async fn write_part(
        &self,
        lease: i64,
        items: &[Write],
        deadline: Instant,
    ) -> Result<Vec<Written>, DiscoveryError> {
        let requests = items.iter().map(|item| self.write_request(lease, item)).collect();
        let answer = run(&self.client, requests, deadline).await;
        let (revision, outcomes) = answer.map_err(|fault| fault.error)?;
        let pairs = items.iter().zip(outcomes);
        Ok(pairs
            .map(|(item, outcome)| written(item, outcome, revision))
            .collect())
    }

    fn write_request(&self, lease: i64, item: &Write) -> Request {
        let key = self.keys.record(&item.key);
        let mut when = vec![Condition::Absent(self.keys.fence(&item.key, item.writer))];
        when.extend(condition(&key, &item.expect));
        let put = Request::Put {
            key: key.clone(),
            value: value::encode(&item.body, item.writer),
            lease,
        };
        Request::If {
            when,
            then: Box::new(put),
            otherwise: Box::new(Request::Get(key)),
        }
    }

    async fn try_remove(&self, session: &Session, removal: &Removal) -> Result<Removed, DiscoveryError> {
        let key = self.keys.record(&removal.key);
        let requests = match &removal.expect {
            Expect::Absent => vec![
                Request::Get(key),
                Request::Put {
                    key: self.keys.fence(&removal.key, removal.writer),
                    value: Vec::new(),
                    lease: lease::lease(session)?,
                },
            ],
            expect => vec![Request::If {
                when: condition(&key, expect).into_iter().collect(),
                then: Box::new(Request::Delete(key.clone())),
                otherwise: Box::new(Request::Get(key)),
            }],
        };
        let answer = run(&self.client, requests, self.client.deadline()).await;
        let (_, outcomes) = answer.map_err(|fault| fault.error)?;
        Ok(removed(removal, outcomes))
    }

    async fn get_one(&self, key: &RecordKey, deadline: Instant) -> Result<Option<Record>, DiscoveryError> {
        let entry = read(&self.client, &self.keys.record(key), deadline).await;
        let entry = entry.map_err(|fault| during("get")(fault.error))?;
        Ok(standing(key, entry))
    }

    async fn try_list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Result<Listing, DiscoveryError> {
        let place = page
            .map(|token| Place::read(&token, &self.keys, prefix))
            .transpose()?;
        let (scan, place) = (&self.scan(prefix), place.as_ref());
        let listing = self
            .client
            .call(Effect::Read, self.client.deadline(), |line| async move {
                scan.page(&line, &self.generations, place).await
            });
        listing.await.map_err(|fault| fault.error)
    }

    fn scan(&self, prefix: &RecordKey) -> Scan {
        Scan {
            keys: self.keys.clone(),
            prefix: prefix.clone(),
        }
    }
}

/// Does all of it in one transaction that writes, at the first server that does.
async fn run(
    client: &Client,
    requests: Vec<Request>,
    deadline: Instant,
) -> Result<(i64, Vec<Outcome>), Fault> {
    let requests = &requests;
    let ask = |line: Line| async move { line.run(requests.clone()).await };
    client.call(Effect::Write, deadline, ask).await
}

/// What stands under one key.
pub(crate) async fn read(client: &Client, key: &[u8], deadline: Instant) -> Result<Option<Entry>, Fault> {
    let ask = |line: Line| async move { line.read(Read::one(key.to_vec())).await };
    let found: Found = client.call(Effect::Read, deadline, ask).await?;
    Ok(found.entries.into_iter().next())
}

/// What must hold for an expectation; nothing that etcd knows holds for a version that is none.
fn condition(key: &[u8], expect: &Expect) -> Option<Condition> {
    Some(match expect {
        Expect::Absent => Condition::Absent(key.to_vec()),
        // No revision is that large.
        Expect::Version(version) => {
            Condition::Revision(key.to_vec(), scan::revision(version).unwrap_or(i64::MAX))
        }
    })
}

fn written(item: &Write, outcome: Outcome, revision: i64) -> Written {
    match outcome {
        Outcome::Branch(true, _) => Written::Done(Record {
            key: item.key.clone(),
            body: item.body.clone(),
            writer: item.writer,
            version: scan::version(revision),
            at: None,
        }),
        other => Written::Conflict(standing(&item.key, other.entry())),
    }
}

fn removed(removal: &Removal, outcomes: Vec<Outcome>) -> Removed {
    let Some(outcome) = outcomes.into_iter().next() else {
        return Removed::Conflict(None);
    };
    if matches!(outcome, Outcome::Branch(true, _)) {
        return Removed::Done;
    }
    let standing = standing(&removal.key, outcome.entry());
    match (&removal.expect, &standing) {
        // Fenced; whoever else's record stands there is none of the fence's business.
        (Expect::Absent, None) => Removed::Done,
        (Expect::Absent, Some(record)) if record.writer != removal.writer => Removed::Done,
        _ => Removed::Conflict(standing),
    }
}

fn standing(key: &RecordKey, entry: Option<Entry>) -> Option<Record> {
    entry.map(|entry| scan::record(key.clone(), entry, None))
}

/// Splits items into parts that fit one transaction, none with a key twice. One that is refused
/// is a part of its own, so that it keeps no other from being written.
fn parts(items: &[Write]) -> Vec<&[Write]> {
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, item) in items.iter().enumerate() {
        let part = &items[start..at];
        let size = item.body.len() + 2 * item.key.as_str().len() + 256;
        let twice = part.iter().any(|other| other.key == item.key);
        let refused = [Some(item), part.last()]
            .into_iter()
            .flatten()
            .any(|item| limit::body(&item.body).is_err());
        let full = part.len() == OPERATIONS || bytes + size > REQUEST_BYTES;
        if at > start && (full || twice || refused) {
            parts.push(part);
            (start, bytes) = (at, 0);
        }
        bytes += size;
    }
    parts.push(&items[start..]);
    parts.retain(|part| !part.is_empty());
    parts
}

#[async_trait]
impl RecordStore for EtcdStore {
    async fn open(&self, ttl: Duration) -> Result<Session, DiscoveryError> {
        lease::open(&self.client, ttl).await.map_err(during("open"))
    }

    async fn write(&self, session: &Session, items: &[Write]) -> Vec<Result<Written, DiscoveryError>> {
        let deadline = self.client.deadline();
        let lease = match lease::lease(session) {
            Ok(lease) => lease,
            Err(error) => return per_item(Err(error), items.len(), "write"),
        };
        let mut answers = Vec::with_capacity(items.len());
        for part in parts(items) {
            let outcome = match part.iter().try_for_each(|item| limit::body(&item.body)) {
                Ok(()) => self.write_part(lease, part, deadline).await,
                Err(error) => Err(error),
            };
            answers.extend(per_item(outcome, part.len(), "write"));
        }
        answers
    }

    async fn renew(&self, session: &Session, held: &[Held]) -> Result<Renewal, DiscoveryError> {
        let renewing = Renewing {
            client: &self.client,
            keys: &self.keys,
            looks: &self.looks,
            session,
            held,
        };
        renewing.run().await.map_err(during("renew"))
    }

    async fn remove(&self, session: &Session, removal: &Removal) -> Result<Removed, DiscoveryError> {
        self.try_remove(session, removal).await.map_err(during("remove"))
    }

    async fn close(&self, session: &Session) -> Result<(), DiscoveryError> {
        let closed = lease::close(&self.client, session).await;
        if let Ok(lease) = lease::lease(session) {
            self.looks.forget(lease);
        }
        closed.map_err(during("close"))
    }

    async fn get(&self, keys: &[RecordKey]) -> Vec<Result<Option<Record>, DiscoveryError>> {
        let deadline = self.client.deadline();
        let calls: Vec<_> = keys
            .iter()
            .map(|key| self.get_one(key, deadline).boxed())
            .collect();
        stream::iter(calls).buffered(CONCURRENT_READS).collect().await
    }

    async fn list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Result<Listing, DiscoveryError> {
        self.try_list(prefix, page).await.map_err(during("list"))
    }

    async fn watch(&self, prefix: &RecordKey, after: Option<Position>) -> Result<Changes, DiscoveryError> {
        let watched = Watched {
            client: self.client.clone(),
            generations: self.generations.clone(),
            scan: self.scan(prefix),
        };
        let changes = watch::changes(watched, after).await.map_err(during("watch"))?;
        Ok(changes.map(|change| change.map_err(during("watch"))).boxed())
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore")
            .field("client", &self.client)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

/// Spreads one answer for many items over the items.
fn per_item<T>(
    outcome: Result<Vec<T>, DiscoveryError>,
    items: usize,
    operation: &'static str,
) -> Vec<Result<T, DiscoveryError>> {
    let missing = || DiscoveryError::new(ErrorKind::Unexpected, "the server answered not once per item");
    let error = match outcome {
        Ok(answers) if answers.len() == items => return answers.into_iter().map(Ok).collect(),
        Ok(_) => during(operation)(missing()),
        Err(error) => during(operation)(error),
    };
    (0..items).map(|_| Err(error.clone())).collect()
}

fn during(operation: &'static str) -> impl Fn(DiscoveryError) -> DiscoveryError {
    move |error| error.with_system(SYSTEM).with_operation(operation)
}

#[cfg(test)]
mod tests {
    use discovery_core::{
        Cluster,
        store::{Version, Writer},
    };

    use super::*;

    fn write(name: &str, bytes: usize) -> Write {
        Write {
            key: RecordKey::try_new(&Cluster::default(), "k", &[name]).unwrap(),
            body: vec![b'x'; bytes].into(),
            writer: Writer::random(),
            expect: Expect::Absent,
        }
    }

    fn sizes(items: &[Write]) -> Vec<usize> {
        parts(items).iter().map(|part| part.len()).collect()
    }

    #[test]
    fn parts_fit_a_transaction() {
        let small: Vec<_> = (0..250).map(|number| write(&number.to_string(), 10)).collect();
        assert_eq!(sizes(&small), [120, 120, 10]);
        let large: Vec<_> = (0..100)
            .map(|number| write(&number.to_string(), 16_384))
            .collect();
        assert!(sizes(&large).iter().all(|size| (1..=63).contains(size)));
        assert_eq!(sizes(&large).iter().sum::<usize>(), 100);
        assert_eq!(sizes(&[]), [0; 0]);
        let refused = ["a", "b", "c", "d"].map(|name| write(name, 1 + 16_384 * usize::from(name == "b")));
        assert_eq!(sizes(&refused), [1, 1, 2], "what is refused stands alone");
    }

    #[test]
    fn no_part_has_a_key_twice() {
        let items = ["a", "b", "a", "a", "c"].map(|name| write(name, 1));
        assert_eq!(sizes(&items), [2, 1, 2]);
    }

    #[test]
    fn a_fence_conflicts_with_a_record_of_its_own_writer_only() {
        let item = write("a", 1);
        let removal = Removal {
            key: item.key.clone(),
            writer: item.writer,
            expect: Expect::Absent,
        };
        let fenced = |value: Option<Vec<u8>>| {
            let entry = value.map(|value| Entry {
                key: Vec::new(),
                value,
                revision: 3,
                lease: 0,
            });
            let read = Outcome::Read(entry);
            removed(&removal, vec![read, Outcome::Changed])
        };
        assert!(matches!(fenced(None), Removed::Done));
        let other = value::encode(b"{}", Writer::random());
        assert!(matches!(fenced(Some(other)), Removed::Done));
        let own = value::encode(b"{}", item.writer);
        assert!(matches!(fenced(Some(own)), Removed::Conflict(Some(_))));
    }

    #[test]
    fn the_version_of_another_store_is_compared_with_what_never_stands() {
        let expect = Expect::Version(Version(Bytes::from_static(b"etag")));
        assert_eq!(
            condition(b"k", &expect),
            Some(Condition::Revision(b"k".to_vec(), i64::MAX))
        );
    }
}
