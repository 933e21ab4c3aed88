//! What stands in a folder, for as long as one call holds its lock.
//!
//! ```text
//! lock                          held by every call
//! position.json                 the generation of the folder, and the number of the last change
//! sessions/ID.json              a session: when it ends, what hangs on it, what it must not write
//! records/CLUSTER/KIND/….json   a record
//! ```
//!
//! A record stands if its session does, and a session does until its time has come by the wall
//! clock. Whoever meets what has expired takes it out.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use discovery_core::{
    DiscoveryError, ErrorKind, limit,
    store::{
        Expect, Held, Kept, Listing, Position, Record, RecordKey, Removal, Removed, Renewal, Session,
        Version, Write, Writer, Written,
    },
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::files::{self, Lock, failed};

/// Records on one page of a list.
const PAGE: usize = 1_000;
/// Fences that one session remembers. Past that it is ended instead, which fences everything.
const FENCES: usize = 4_096;

/// `position.json`
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Counter {
    generation: u64,
    seq: u64,
}

/// A file below `sessions`.
#[derive(Clone, Serialize, Deserialize)]
struct Lease {
    ttl_ms: u64,
    /// Milliseconds since 1970.
    ends_ms: u64,
    /// What may hang on it; a record itself says whether it does.
    keys: BTreeSet<String>,
    /// What must not be written: keys and their authors.
    fences: BTreeSet<(String, u128)>,
}

/// A file below `records`.
#[derive(Serialize, Deserialize)]
struct Stored {
    key: String,
    session: String,
    writer: u128,
    generation: u64,
    seq: u64,
    body: Body,
}

/// A body, readable if it can be.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Body {
    Text(String),
    Bytes(Vec<u8>),
}

impl Stored {
    fn record(&self, key: &RecordKey) -> Record {
        let Self { generation, seq, .. } = *self;
        Record {
            key: key.clone(),
            body: match &self.body {
                Body::Text(text) => text.clone().into(),
                Body::Bytes(bytes) => bytes.clone().into(),
            },
            writer: Writer::from_u128(self.writer),
            // Versions of one generation never equal those of another.
            version: Version(format!("{generation:x}.{seq:x}").into()),
            at: Some(Position { generation, seq }),
        }
    }
}

/// The folder, locked.
pub(crate) struct Folder {
    root: PathBuf,
    lock: Lock,
    now_ms: u64,
    /// What was read already: thousands of records may hang on one session.
    leases: HashMap<String, Option<Arc<Lease>>>,
    changed: bool,
}

impl Folder {
    pub(crate) fn lock(root: &Path, until: Instant) -> Result<Self, DiscoveryError> {
        let lock = Lock::take(root, until)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Ok(Self {
            root: root.to_owned(),
            lock,
            now_ms: millis(now.unwrap_or_default()),
            leases: HashMap::new(),
            changed: false,
        })
    }

    /// Checks that all of this was about the folder that is there.
    pub(crate) fn stands(&self) -> Result<(), DiscoveryError> {
        self.lock.stands()
    }

    /// Whether something was written or removed.
    pub(crate) fn changed(&self) -> bool {
        self.changed
    }

    pub(crate) fn open(&mut self, id: &str, ttl: Duration) -> Result<(), DiscoveryError> {
        self.sweep()?;
        let ttl_ms = millis(limit::ttl(ttl)?);
        let lease = Lease {
            ttl_ms,
            ends_ms: self.end_of(ttl_ms),
            keys: BTreeSet::new(),
            fences: BTreeSet::new(),
        };
        self.put_lease(id, lease).map(drop)
    }

    pub(crate) fn write(
        &mut self,
        session: &str,
        items: &[Write],
    ) -> Result<Vec<Result<Written, DiscoveryError>>, DiscoveryError> {
        let mut lease = self.living(session)?;
        // Before the records: none may hang on a session that does not know of it.
        let keys = items.iter().map(|item| item.key.to_string());
        lease.keys.extend(keys);
        let lease = self.put_lease(session, lease)?;
        let last = self.advance(items.len())?;
        let positions = (last.seq + 1 - items.len() as u64..).map(|seq| Position { seq, ..last });
        let answers = items
            .iter()
            .zip(positions)
            .map(|(item, at)| self.write_one(session, &lease, item, at));
        Ok(answers.collect())
    }

    fn write_one(
        &mut self,
        session: &str,
        lease: &Lease,
        item: &Write,
        at: Position,
    ) -> Result<Written, DiscoveryError> {
        limit::body(&item.body)?;
        let standing = self.get(&item.key)?;
        let fence = (item.key.to_string(), item.writer.as_u128());
        if lease.fences.contains(&fence) || !as_expected(standing.as_ref(), &item.expect) {
            return Ok(Written::Conflict(standing));
        }
        let Position { generation, seq } = at;
        let (key, writer) = fence;
        let stored = Stored {
            key,
            session: session.to_owned(),
            writer,
            generation,
            seq,
            body: match String::from_utf8(item.body.to_vec()) {
                Ok(text) => Body::Text(text),
                Err(error) => Body::Bytes(error.into_bytes()),
            },
        };
        self.put(&self.record_path(&item.key), &stored)?;
        Ok(Written::Done(stored.record(&item.key)))
    }

    pub(crate) fn renew(&mut self, session: &str, held: &[Held]) -> Result<Renewal, DiscoveryError> {
        let mut lease = self.living(session)?;
        lease.ends_ms = self.end_of(lease.ttl_ms);
        let ttl = Duration::from_millis(lease.ttl_ms);
        let kept = held
            .iter()
            .map(|held| self.kept(session, held).unwrap_or_else(Kept::Unknown))
            .collect();
        let mut asked: BTreeSet<_> = held.iter().map(|held| held.key.to_string()).collect();
        let mut unwanted = Vec::new();
        for key in lease.keys.difference(&asked).filter_map(|key| files::key(key)) {
            if let Some(stored) = self.stored(&key)?.filter(|stored| stored.session == session) {
                unwanted.push(stored.record(&key));
            }
        }
        // What else it knew of does not hang on it any more.
        asked.extend(unwanted.iter().map(|record| record.key.to_string()));
        lease.keys = asked;
        self.put_lease(session, lease)?;
        let id = session.to_owned().into();
        Ok(Renewal {
            session: Session { id, ttl },
            kept,
            unwanted,
        })
    }

    fn kept(&mut self, session: &str, held: &Held) -> Result<Kept, DiscoveryError> {
        let Some(stored) = self.stored(&held.key)? else {
            return Ok(Kept::Gone);
        };
        let record = stored.record(&held.key);
        if stored.session == session && record.version == held.version {
            return Ok(Kept::Mine(record.version));
        }
        Ok(Kept::Other(record))
    }

    pub(crate) fn remove(&mut self, session: &str, removal: &Removal) -> Result<Removed, DiscoveryError> {
        let mut lease = self.living(session)?;
        let standing = self.get(&removal.key)?;
        if let Expect::Version(_) = removal.expect {
            if standing.is_none() || !as_expected(standing.as_ref(), &removal.expect) {
                return Ok(Removed::Conflict(standing));
            }
            self.take(&self.record_path(&removal.key))?;
            return self.advance(1).map(|_| Removed::Done);
        }
        if lease.fences.len() == FENCES {
            self.end(session, &lease)?;
            return Err(ended());
        }
        lease
            .fences
            .insert((removal.key.to_string(), removal.writer.as_u128()));
        self.put_lease(session, lease)?;
        let own = standing.filter(|record| record.writer == removal.writer);
        Ok(own.map_or(Removed::Done, |record| Removed::Conflict(Some(record))))
    }

    pub(crate) fn close(&mut self, session: &str) -> Result<(), DiscoveryError> {
        match self.lease(session)? {
            Some(lease) => self.end(session, &lease),
            None => Ok(()),
        }
    }

    /// Reads a record that stands.
    pub(crate) fn get(&mut self, key: &RecordKey) -> Result<Option<Record>, DiscoveryError> {
        Ok(self.stored(key)?.map(|stored| stored.record(key)))
    }

    pub(crate) fn list(
        &mut self,
        prefix: &RecordKey,
        page: Option<&RecordKey>,
    ) -> Result<Listing, DiscoveryError> {
        let (mut keys, mut foreign) = (BTreeSet::new(), 0);
        let path = self.record_path(prefix);
        if path.exists() {
            keys.insert(prefix.clone());
        }
        self.walk(&path.with_extension(""), &mut keys, &mut foreign)?;
        let from = page.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = keys.range::<RecordKey, _>((from, Bound::Unbounded));
        let mut listing = Listing::default();
        let asked: Vec<_> = rest.by_ref().take(PAGE).collect();
        for key in &asked {
            match self.get(key) {
                Ok(record) => listing.records.extend(record),
                Err(error) if error.kind() == ErrorKind::Malformed => listing.skipped += 1,
                Err(error) => return Err(error),
            }
        }
        if page.is_none() {
            listing.skipped += foreign;
        }
        let last = asked.last().filter(|_| rest.next().is_some());
        listing.next = last.map(|last| Bytes::from(last.to_string()));
        listing.as_of = Some(self.position()?);
        Ok(listing)
    }

    /// Collects the keys below a folder of records, and counts what has the name of none.
    fn walk(
        &self,
        folder: &Path,
        keys: &mut BTreeSet<RecordKey>,
        foreign: &mut u64,
    ) -> Result<(), DiscoveryError> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            if entry.file_type().map_err(failed)?.is_dir() {
                self.walk(&path, keys, foreign)?;
                continue;
            }
            let named = path.strip_prefix(self.root.join("records")).ok();
            let named = named.filter(|name| name.extension().is_some_and(|ending| ending == "json"));
            match named.and_then(|name| files::key_of(&name.with_extension(""))) {
                Some(key) => drop(keys.insert(key)),
                None => *foreign += 1,
            }
        }
        Ok(())
    }

    /// A record that stands, with what it hangs on.
    fn stored(&mut self, key: &RecordKey) -> Result<Option<Stored>, DiscoveryError> {
        let path = self.record_path(key);
        let Some(stored) = files::read::<Stored>(&path)? else {
            return Ok(None);
        };
        if stored.key != key.as_str() || !is_id(&stored.session) {
            let context = format!("{} contradicts itself", path.display());
            return Err(DiscoveryError::new(ErrorKind::Malformed, context));
        }
        if self.lease(&stored.session)?.is_some() {
            return Ok(Some(stored));
        }
        self.take(&path)?;
        self.advance(1).map(|_| None)
    }

    /// A session to change.
    fn living(&mut self, id: &str) -> Result<Lease, DiscoveryError> {
        self.lease(id)?.map(Arc::unwrap_or_clone).ok_or_else(ended)
    }

    /// A session that has not ended; ends one whose time has come.
    fn lease(&mut self, id: &str) -> Result<Option<Arc<Lease>>, DiscoveryError> {
        if let Some(known) = self.leases.get(id) {
            return Ok(known.clone());
        }
        let read = files::read::<Lease>(&self.lease_path(id)?)?.map(Arc::new);
        self.leases.insert(id.to_owned(), read.clone());
        match read {
            Some(lease) if lease.ends_ms <= self.now_ms => self.end(id, &lease).map(|()| None),
            lease => Ok(lease),
        }
    }

    /// When a session ends that is granted so much now. Rounded up: whoever holds it counts from
    /// when it asked, and must not believe in it for longer than it stands.
    fn end_of(&self, ttl_ms: u64) -> u64 {
        self.now_ms + 1 + ttl_ms
    }

    /// Ends a session. With its file everything on it is gone; the records go after it.
    fn end(&mut self, id: &str, lease: &Lease) -> Result<(), DiscoveryError> {
        self.take(&self.lease_path(id)?)?;
        self.leases.insert(id.to_owned(), None);
        for key in lease.keys.iter().filter_map(|key| files::key(key)) {
            skip_malformed(self.stored(&key))?;
        }
        Ok(())
    }

    /// Ends every session whose time has come, so that nothing is left of those that nobody meets.
    fn sweep(&mut self) -> Result<(), DiscoveryError> {
        let entries = match fs::read_dir(self.root.join("sessions")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
            if let Some(id) = id.filter(|id| is_id(id)) {
                skip_malformed(self.lease(id))?;
            }
        }
        Ok(())
    }

    fn position(&mut self) -> Result<Position, DiscoveryError> {
        self.advance(0)
    }

    /// The position of the last one of so many changes that are about to happen. Written before
    /// them, so that no version is ever given twice. A folder without a position is new, or lost
    /// everything: what comes is of a later generation.
    fn advance(&mut self, changes: usize) -> Result<Position, DiscoveryError> {
        let path = self.root.join("position.json");
        let read = files::read::<Counter>(&path)?;
        let mut counter = read.unwrap_or(Counter {
            generation: self.now_ms,
            seq: 0,
        });
        counter.seq += changes as u64;
        if read.is_none() || changes > 0 {
            self.put(&path, &counter)?;
        }
        let Counter { generation, seq } = counter;
        Ok(Position { generation, seq })
    }

    fn put_lease(&mut self, id: &str, lease: Lease) -> Result<Arc<Lease>, DiscoveryError> {
        self.put(&self.lease_path(id)?, &lease)?;
        let lease = Arc::new(lease);
        self.leases.insert(id.to_owned(), Some(lease.clone()));
        Ok(lease)
    }

    fn put(&mut self, path: &Path, value: &impl Serialize) -> Result<(), DiscoveryError> {
        self.changed = true;
        files::write(&self.root, path, value)
    }

    fn take(&mut self, path: &Path) -> Result<(), DiscoveryError> {
        self.changed = true;
        files::remove(path)
    }

    fn record_path(&self, key: &RecordKey) -> PathBuf {
        self.root
            .join("records")
            .join(files::path_of(key))
            .with_extension("json")
    }

    fn lease_path(&self, id: &str) -> Result<PathBuf, DiscoveryError> {
        // It becomes a path.
        if !is_id(id) {
            return Err(DiscoveryError::invalid_argument(
                "the session is none of this store",
            ));
        }
        Ok(self.root.join("sessions").join(id).with_extension("json"))
    }
}

fn as_expected(standing: Option<&Record>, expect: &Expect) -> bool {
    match (standing, expect) {
        (None, Expect::Absent) => true,
        (Some(record), Expect::Version(version)) => record.version == *version,
        _ => false,
    }
}

/// What cannot be read is left where it is, and keeps nobody from going on.
fn skip_malformed<T>(met: Result<T, DiscoveryError>) -> Result<(), DiscoveryError> {
    match met {
        Err(error) if error.kind() != ErrorKind::Malformed => Err(error),
        _ => Ok(()),
    }
}

fn is_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn ended() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::LeaseLost, "the session has ended")
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
