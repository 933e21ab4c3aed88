//! Leased records: the contract between record-keeping backends and everything built on them.
//!
//! A *record* is a key, a body, the writer of the body and a version. A *session* keeps
//! records alive for as long as it is renewed. Every discovery trait is written once over
//! this contract, so that a backend which fulfils it offers them all.

use std::{borrow::Borrow, fmt, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;

use crate::{Cluster, DiscoveryError, limit};

/// Names a record: `cluster/kind/segment…`, every segment validated.
///
/// Also names a prefix, which matches whole segments only: `a/peers` is a prefix of
/// `a/peers/1`, not of `a/peersx`.
///
/// ```
/// use discovery_core::{Cluster, store::RecordKey};
///
/// let peers = RecordKey::try_new(&Cluster::default(), "peers", &[])?;
/// let one = peers.child("00000000000000ff")?;
/// assert_eq!(one.as_str(), "default/peers/00000000000000ff");
/// assert!(one.starts_with(&peers));
/// # Ok::<(), discovery_core::DiscoveryError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey(Arc<str>);

impl RecordKey {
    /// A key of this kind in a cluster; without segments, the prefix of all of that kind.
    ///
    /// # Errors
    /// `InvalidArgument` naming the segment that is empty, too long, or contains `/` or a
    /// control character, or the key if it has more than [`limit::KEY_BYTES`] bytes.
    pub fn try_new(cluster: &Cluster, kind: &str, segments: &[&str]) -> Result<Self, DiscoveryError> {
        limit::segment("record kind", kind)?;
        let mut key = format!("{cluster}/{kind}");
        for segment in segments {
            limit::segment("record key", segment)?;
            key.push('/');
            key.push_str(segment);
        }
        Ok(Self(limit::key(key)?.into()))
    }

    /// The key one segment longer.
    ///
    /// # Errors
    /// `InvalidArgument` for an invalid segment, or a key that would be too long.
    pub fn child(&self, segment: &str) -> Result<Self, DiscoveryError> {
        limit::segment("record key", segment)?;
        Ok(Self(limit::key(format!("{}/{segment}", self.0))?.into()))
    }

    /// The whole key, segments joined by `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, cluster and kind first.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The last segment.
    #[must_use]
    pub fn last(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// Whether this is `prefix` or lies below it, segment by segment.
    #[must_use]
    pub fn starts_with(&self, prefix: &Self) -> bool {
        let rest = self.0.strip_prefix(&*prefix.0);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl Borrow<str> for RecordKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordKey({:?})", &*self.0)
    }
}

/// The state of one record, for compare-and-replace. Opaque, compared for equality only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Version(pub Bytes);

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({})", self.0.escape_ascii())
    }
}

/// The state of a store as a whole, where it has one. Not a fencing token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Grows when the store was wiped or replaced.
    pub generation: u64,
    /// Grows with every change within a generation.
    pub seq: u64,
}

/// The author of a write: random, one per registration.
///
/// Stored with the record, so that an author whose reply was lost recognises its own write;
/// never part of comparing records.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Writer(u128);

impl Writer {
    /// A new author.
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().as_u128())
    }

    /// An author read back from a store.
    #[must_use]
    pub const fn from_u128(value: u128) -> Self {
        Self(value)
    }

    /// The number to store.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writer({:032x})", self.0)
    }
}

/// A record as it stands in a store.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its name.
    pub key: RecordKey,
    /// What it says, at most [`limit::BODY_BYTES`] bytes.
    pub body: Bytes,
    /// Who wrote the body.
    pub writer: Writer,
    /// Its state.
    pub version: Version,
    /// When it was written, where the store is ordered as a whole.
    pub at: Option<Position>,
}

/// What keeps records alive: an etcd lease, a session of the HTTP service, a renew loop.
///
/// Whoever knows its id can renew or end it.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// The backend's name for it; empty where the backend has no such thing.
    pub id: Bytes,
    /// The time to live that was *granted*; not less than asked for.
    pub ttl: Duration,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The id is all that it takes to end the session.
        f.debug_struct("Session")
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// What must stand in the store for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No record, or one that expired or was removed.
    Absent,
    /// The record in this state.
    Version(Version),
}

/// A record to be written.
#[derive(Clone, Debug)]
pub struct Write {
    /// Its name.
    pub key: RecordKey,
    /// What it says.
    pub body: Bytes,
    /// Who says it.
    pub writer: Writer,
    /// What it may replace.
    pub expect: Expect,
}

/// The answer to a write.
#[derive(Clone, Debug)]
pub enum Written {
    /// It stands, like this.
    Done(Record),
    /// Not written, because this stands there; `None` if nothing does but the write was
    /// refused all the same (another version was expected, or the write was fenced).
    Conflict(Option<Record>),
}

/// A record to be removed.
#[derive(Clone, Debug)]
pub struct Removal {
    /// Its name.
    pub key: RecordKey,
    /// Whose record.
    pub writer: Writer,
    /// `Version`: removes the record in that state. `Absent`: removes nothing, but makes every
    /// write of `writer` under this key that may still be on its way fail (a *fence*), whoever
    /// else's record stands there; a record of `writer` itself is a conflict. A store that
    /// cannot fence answers [`Removed::Done`] and names what turns up late as
    /// [`Renewal::unwanted`].
    pub expect: Expect,
}

/// The answer to a removal.
#[derive(Clone, Debug)]
pub enum Removed {
    /// It is gone, or fenced.
    Done,
    /// Not removed, because this stands there; `None` if nothing does.
    Conflict(Option<Record>),
}

/// A record that a session is believed to keep alive: one of its own writing.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its name.
    pub key: RecordKey,
    /// Its body.
    pub body: Bytes,
    /// Its writer.
    pub writer: Writer,
    /// Its version as last seen.
    pub version: Version,
}

/// The answer to a renewal, for one record.
#[derive(Clone, Debug)]
pub enum Kept {
    /// Kept alive by this session, in this version, as written by [`Held::writer`].
    Mine(Version),
    /// This stands there instead, or it hangs on another session.
    Other(Record),
    /// Nothing stands there.
    Gone,
    /// Could not be told.
    Unknown(DiscoveryError),
}

/// The answer to a renewal.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// The session that keeps the records from now on; usually the one that was renewed.
    pub session: Session,
    /// One answer per record, in the order asked.
    pub kept: Vec<Kept>,
    /// Records that hang on the session although nobody asked for them.
    pub unwanted: Vec<Record>,
}

/// One page of a list.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Records in the order of their keys.
    pub records: Vec<Record>,
    /// What lies under the prefix but is no record.
    pub skipped: u64,
    /// The position this page is true as of.
    pub as_of: Option<Position>,
    /// Where the next page begins; `None` on the last one. Opaque.
    pub next: Option<Bytes>,
}

/// Why a record is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Departure {
    /// Its owner removed it, or closed the session that it hung on.
    Removed,
    /// Its session was not renewed in time.
    Expired,
    /// The store does not tell, or nobody was looking when it left.
    Unknown,
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum Change {
    /// Everything that stands under the prefix: what went before is void.
    Reset {
        /// All records, each once.
        records: Arc<[Record]>,
        /// The position that this is true as of.
        as_of: Option<Position>,
    },
    /// A record was written: a new one, or in place of another.
    Put(Record),
    /// A record left.
    Gone {
        /// Its name.
        key: RecordKey,
        /// When it left, where the store is ordered as a whole.
        at: Option<Position>,
        /// Why it left.
        why: Departure,
    },
    /// Nothing else has happened under the prefix up to this position.
    Progress(Position),
}

impl Change {
    /// The position that a watch which saw this has come to, where the store has positions.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Reset { as_of, .. } => *as_of,
            Self::Put(record) => record.at,
            Self::Gone { at, .. } => *at,
            Self::Progress(position) => Some(*position),
        }
    }
}

/// The changes under a prefix, as [`RecordStore::watch`] tells them.
///
/// An error is the last item. Dropping the stream ends the watch at the store, too.
pub type Changes = Pin<Box<dyn Stream<Item = Result<Change, DiscoveryError>> + Send>>;

/// A store of leased records.
///
/// Every call has a deadline of its own and ends with `Timeout` when it passes, is cancel safe
/// (a dropped write may still happen), and never repeats by itself what may have been written.
/// Calls may run concurrently. A store keeps no desired state: that is the registrar's.
#[async_trait]
pub trait RecordStore: fmt::Debug + Send + Sync + 'static {
    /// Opens a session. The granted time to live is not less than `ttl`; a store that cannot
    /// grant that much fails.
    ///
    /// # Errors
    /// `InvalidConfig` for a TTL that the store does not grant; `Unavailable`, `Timeout`,
    /// `PermissionDenied`. A session may have been opened all the same; it expires.
    async fn open(&self, ttl: Duration) -> Result<Session, DiscoveryError>;

    /// Writes records, each on its own condition; one answer per item, in order.
    ///
    /// # Errors
    /// `LeaseLost`: the session has ended, nothing was written. `Timeout` with
    /// [`Retry::OutcomeUnknown`](crate::Retry::OutcomeUnknown): may have been written.
    async fn write(&self, session: &Session, items: &[Write]) -> Vec<Result<Written, DiscoveryError>>;

    /// Prolongs the session by its TTL and tells of every held record whether it still stands.
    /// Never creates, replaces or moves a record of a session that it knows. A store that lost
    /// its memory may take the held records up again, each if absent.
    ///
    /// # Errors
    /// `LeaseLost`: the session has ended, its records with it, and nothing that was sent on it
    /// can happen any more. A store without sessions of its own never answers that.
    async fn renew(&self, session: &Session, held: &[Held]) -> Result<Renewal, DiscoveryError>;

    /// Removes a record, or fences one; see [`Removal::expect`].
    ///
    /// # Errors
    /// `Timeout`: may have been removed. `LeaseLost`: the session has ended, and its records
    /// with it.
    async fn remove(&self, session: &Session, removal: &Removal) -> Result<Removed, DiscoveryError>;

    /// Ends the session: its records go, and none of its writes can happen any more. Success
    /// if it has ended already.
    ///
    /// # Errors
    /// `Unavailable` or `Timeout`: it may live on until its TTL passes.
    async fn close(&self, session: &Session) -> Result<(), DiscoveryError>;

    /// Reads records, one answer per key, in order, with as few requests as possible. `None`
    /// only if the store answered that nothing stands there.
    async fn get(&self, keys: &[RecordKey]) -> Vec<Result<Option<Record>, DiscoveryError>>;

    /// Lists what lies under a prefix, a page at a time; `page` is [`Listing::next`] of the page
    /// before. A record that stands throughout appears exactly once.
    ///
    /// # Errors
    /// As [`get`](Self::get); `InvalidArgument` for a page token that is none.
    async fn list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Result<Listing, DiscoveryError>;

    /// Watches what lies under a prefix. What happens after the call has returned is in the
    /// stream.
    ///
    /// The stream begins with a [`Change::Reset`]. With `after`, a store that can still tell
    /// everything that happened after that position begins with it instead, and says with a
    /// [`Change::Progress`] when it has told what there was.
    ///
    /// Changes of one key come in their order; several may come as the last one of them, and what
    /// came and left within [`Bounds::propagation`](crate::Bounds::propagation) may not come at
    /// all. Changes that bear a position come in the order of positions, whatever their keys,
    /// and of several at one position only the last bears it: whoever goes on after a position
    /// that a change told has missed nothing. A renewal is no change.
    ///
    /// A reader who is too slow gets a [`Change::Reset`], and so does every reader after the store
    /// was wiped or replaced; nothing is left out silently, and what waits for a reader is
    /// bounded. A connection that is lost, or silent for longer than
    /// [`Bounds::watch_silence`](crate::Bounds::watch_silence), ends the stream with an error:
    /// whoever wants to go on watches again from the position that it has come to, as
    /// `discovery_records::view` does.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `PermissionDenied`: there is no watch.
    async fn watch(&self, prefix: &RecordKey, after: Option<Position>) -> Result<Changes, DiscoveryError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn prefixes_match_whole_segments() {
        let key = |cluster: &str, segments: &[&str]| {
            RecordKey::try_new(&Cluster::try_new(cluster).unwrap(), "peers", segments).unwrap()
        };
        assert!(key("a", &["1"]).starts_with(&key("a", &[])));
        assert!(!key("ab", &["1"]).starts_with(&key("a", &[])));
        assert!(!key("a", &["10"]).starts_with(&key("a", &["1"])));
        assert_eq!(key("a", &["1"]).last(), "1");
    }

    #[test]
    fn a_key_has_a_longest_length_however_it_is_made() {
        let long = "x".repeat(127);
        // With `default/k` in front, 7 of these and a last one are 1,024 bytes.
        let most = [&long[..]; 7];
        let last = "x".repeat(limit::KEY_BYTES - "default/k".len() - 7 * 128 - 1);
        let parent = RecordKey::try_new(&Cluster::default(), "k", &most).unwrap();
        let longest = parent.child(&last).unwrap();
        assert_eq!(longest.as_str().len(), limit::KEY_BYTES);
        let segments: Vec<_> = longest.segments().skip(2).collect();
        assert_eq!(
            RecordKey::try_new(&Cluster::default(), "k", &segments).unwrap(),
            longest
        );
        let more = format!("{last}x");
        let mut segments = segments.clone();
        *segments.last_mut().unwrap() = &more;
        for refused in [
            parent.child(&more),
            RecordKey::try_new(&Cluster::default(), "k", &segments),
        ] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains("record key"), "{error}");
            assert!(error.to_string().contains("1024"), "{error}");
        }
    }

    #[test]
    fn a_session_does_not_show_its_id() {
        let session = Session {
            id: Bytes::from_static(b"hunter2"),
            ttl: Duration::from_secs(1),
        };
        assert!(!format!("{session:?}").contains("hunter2"));
    }
}
