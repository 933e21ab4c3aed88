//! Stores that each break one line of the contract, to see that its trials notice.

mod watch;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use discovery_core::{
    Capabilities, Cluster, DiscoveryError, DiscoverySystem, ErrorKind, limit,
    peer::PeerDiscovery,
    store::{
        Changes, Expect, Held, Kept, Listing, Position, Record, RecordKey, RecordStore, Removal, Removed,
        Renewal, Session, Version, Write, Writer, Written,
    },
};
use discovery_records::peer::decode;
use tokio::time::{Instant, sleep};

use self::watch::Leaked;

/// A way to break the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A write is acknowledged a second before anybody can read it.
    VisibleLate,
    /// A write is acknowledged and does not happen.
    AcksWithoutWriting,
    /// A record cannot be replaced, not even by whoever read its version.
    RefusesTakeover,
    /// Create-if-absent overwrites what stands there.
    Overwrites,
    /// Records do not tell who wrote them.
    ForgetsWriters,
    /// A removal ignores which version was meant.
    RemovesWhateverStands,
    /// Removals and closed sessions are acknowledged and do not happen.
    KeepsWhatWasRemoved,
    /// Sessions never expire.
    NeverExpires,
    /// A renewal says that everything is there, whatever is.
    RenewalAlwaysSaysMine,
    /// A renewal writes its records again, over whatever stands there.
    RenewalRewrites,
    /// A renewal of a session that has ended opens another one and writes its records again.
    RenewalRevives,
    /// A fence does nothing.
    NoFence,
    /// A TTL outside the limits is clamped instead of refused.
    ClampsTtl,
    /// Every renewal ends the session.
    SessionPerRenewal,
    /// "Not found" takes as long as a timeout.
    SlowNotFound,
    /// An error is taken for "not found".
    ErrorsAreNotFound,
    /// A record that cannot be read is taken for "not found".
    HidesMalformed,
    /// Clusters that differ in case only are one.
    IgnoresCase,
    /// A read that was dropped half-way leaves a lock behind.
    LocksForEver,
    /// One read after the other, 50 ms each.
    OneAtATime,
    /// A batch is answered in another order than asked.
    AnswersOutOfOrder,
    /// A watch begins when it is first read.
    WatchesLate,
    /// A watch of nothing begins with nothing.
    NoEmptySnapshot,
    /// What is written over a record is told as its removal first.
    TellsTakeoverAsRemoval,
    /// An expiry is told as a removal by its owner, and the reverse.
    ConfusesDepartures,
    /// What is written is told twice, with a removal in between.
    TellsTwice,
    /// A watch that goes on from a position leaves out what happened in between.
    ForgetsWhatWasMissed,
    /// A watch tells everything once only, also to readers who were too slow.
    SwallowsResets,
    /// A watch that goes on from a position tells what happened in between the other way round.
    TellsBackwards,
    /// A watch that goes on from a position does not say when it has told what there was.
    NeverThrough,
    /// A watch that goes on from a position says that this was all before it has told it.
    ThroughTooEarly,
    /// What a watch tells carries a position that it has not come to yet.
    RunsAhead,
    /// Of what waits for a reader, only so much is told.
    DropsPastABatch,
    /// An expiry is told with the next change only.
    TellsExpiryWithTheNext,
    /// A prefix matches whatever begins with its text.
    MatchesTextPrefixes,
    /// A watch that broke is silent for ever.
    SilentForEver,
    /// A page of a list lacks its last record.
    SkipsAtPageEnd,
    /// A page of a list begins with the last record of the one before.
    RepeatsAtPageStart,
    /// A watch that is dropped goes on.
    LeaksWatches,
}

impl Flaw {
    /// Whether a client is to blame, for what it makes of the faults of its backend.
    #[must_use]
    pub const fn is_of_the_client(self) -> bool {
        matches!(
            self,
            Self::ErrorsAreNotFound | Self::SilentForEver | Self::LeaksWatches | Self::ForgetsWhatWasMissed
        )
    }
}

/// Each line of the contract that can be broken by a store, with a store that breaks it.
pub const FLAWS: &[(&str, Flaw)] = &[
    ("R1", Flaw::VisibleLate),
    ("R2", Flaw::AcksWithoutWriting),
    ("R3", Flaw::RefusesTakeover),
    ("R3", Flaw::RenewalRewrites),
    ("R4", Flaw::Overwrites),
    ("R5", Flaw::Overwrites),
    ("R6", Flaw::ForgetsWriters),
    ("R7", Flaw::RemovesWhateverStands),
    ("R8", Flaw::KeepsWhatWasRemoved),
    ("R9", Flaw::NeverExpires),
    ("R10", Flaw::RenewalAlwaysSaysMine),
    ("R11", Flaw::RenewalRewrites),
    ("R12", Flaw::NoFence),
    ("R12", Flaw::RenewalRevives),
    ("R14", Flaw::SessionPerRenewal),
    ("R15", Flaw::ClampsTtl),
    ("R17", Flaw::Overwrites),
    ("L1", Flaw::SlowNotFound),
    ("L2", Flaw::ErrorsAreNotFound),
    ("L3", Flaw::HidesMalformed),
    ("L4", Flaw::IgnoresCase),
    ("L5", Flaw::LocksForEver),
    ("L6", Flaw::OneAtATime),
    ("L7", Flaw::AnswersOutOfOrder),
    ("R13", Flaw::RenewalAlwaysSaysMine),
    ("W1", Flaw::WatchesLate),
    ("W1", Flaw::NoEmptySnapshot),
    ("W2", Flaw::TellsTakeoverAsRemoval),
    ("W2", Flaw::ConfusesDepartures),
    ("W2", Flaw::TellsTwice),
    ("W2", Flaw::TellsExpiryWithTheNext),
    ("W2", Flaw::MatchesTextPrefixes),
    ("W3", Flaw::ForgetsWhatWasMissed),
    ("W3", Flaw::SwallowsResets),
    ("W3", Flaw::TellsBackwards),
    ("W3", Flaw::NeverThrough),
    ("W3", Flaw::ThroughTooEarly),
    ("W3", Flaw::RunsAhead),
    ("W3", Flaw::DropsPastABatch),
    ("W4", Flaw::ForgetsWhatWasMissed),
    ("W5", Flaw::SilentForEver),
    ("W6", Flaw::SkipsAtPageEnd),
    ("W6", Flaw::RepeatsAtPageStart),
    ("W7", Flaw::LeaksWatches),
    ("S2", Flaw::KeepsWhatWasRemoved),
    ("S9", Flaw::SessionPerRenewal),
    ("M1", Flaw::KeepsWhatWasRemoved),
    ("M8", Flaw::RenewalAlwaysSaysMine),
    ("M11", Flaw::KeepsWhatWasRemoved),
];

/// A system that takes its registrations along when it is dropped, whoever still holds a handle.
#[derive(Debug)]
pub struct SelfishSystem(pub Arc<dyn DiscoverySystem>);

impl Drop for SelfishSystem {
    fn drop(&mut self) {
        let system = self.0.clone();
        tokio::spawn(async move { system.shutdown(Duration::from_secs(1)).await });
    }
}

#[async_trait]
impl DiscoverySystem for SelfishSystem {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn cluster(&self) -> &Cluster {
        self.0.cluster()
    }

    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    fn peer_discovery(&self) -> Option<Arc<dyn PeerDiscovery>> {
        self.0.peer_discovery()
    }

    fn records(&self) -> Option<Arc<dyn RecordStore>> {
        self.0.records()
    }

    async fn shutdown(&self, deadline: Duration) -> Result<(), DiscoveryError> {
        self.0.shutdown(deadline).await
    }
}

/// A store with a flaw, in front of one without.
#[derive(Debug)]
pub struct Broken {
    inner: Arc<dyn RecordStore>,
    flaw: Flaw,
    sessions: Mutex<Vec<Session>>,
    written: Mutex<Vec<(RecordKey, Instant)>>,
    busy: AtomicBool,
    turn: tokio::sync::Mutex<()>,
    last_listed: Mutex<Option<Record>>,
    leaked: Mutex<Vec<Leaked>>,
}

impl Broken {
    /// Breaks `inner` in this way.
    #[must_use]
    pub fn new(inner: Arc<dyn RecordStore>, flaw: Flaw) -> Self {
        Self {
            inner,
            flaw,
            sessions: Mutex::default(),
            written: Mutex::default(),
            busy: AtomicBool::new(false),
            turn: tokio::sync::Mutex::default(),
            last_listed: Mutex::default(),
            leaked: Mutex::default(),
        }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    fn sessions(&self) -> Vec<Session> {
        self.sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn standing(&self, key: &RecordKey) -> Option<Record> {
        self.inner
            .get(std::slice::from_ref(key))
            .await
            .remove(0)
            .ok()
            .flatten()
    }

    async fn write_one(&self, session: &Session, item: &Write) -> Result<Written, DiscoveryError> {
        if self.has(Flaw::AcksWithoutWriting) {
            let Write {
                key, body, writer, ..
            } = item.clone();
            return Ok(Written::Done(Record {
                key,
                body,
                writer,
                version: Version("1".into()),
                at: None,
            }));
        }
        if self.has(Flaw::RefusesTakeover) && item.expect != Expect::Absent {
            return Ok(Written::Conflict(self.standing(&item.key).await));
        }
        self.written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((item.key.clone(), Instant::now()));
        let answer = self
            .inner
            .write(session, std::slice::from_ref(item))
            .await
            .remove(0);
        match answer {
            Ok(Written::Conflict(Some(record))) if self.has(Flaw::Overwrites) => {
                self.force(session, item, record).await
            }
            Ok(Written::Conflict(Some(record))) => Ok(Written::Conflict(Some(self.shown(record)))),
            other => other,
        }
    }

    /// Writes over a record, whoever's it is.
    async fn force(&self, session: &Session, item: &Write, over: Record) -> Result<Written, DiscoveryError> {
        let item = Write {
            expect: Expect::Version(over.version),
            ..item.clone()
        };
        self.inner.write(session, &[item]).await.remove(0)
    }

    fn shown(&self, mut record: Record) -> Record {
        if self.has(Flaw::ForgetsWriters) {
            record.writer = Writer::random();
        }
        record
    }

    async fn get_one(&self, key: &RecordKey) -> Result<Option<Record>, DiscoveryError> {
        let found = self.inner.get(std::slice::from_ref(key)).await.remove(0);
        let found = match found {
            Err(_) if self.has(Flaw::ErrorsAreNotFound) => Ok(None),
            Ok(None) if self.has(Flaw::IgnoresCase) => Ok(self.in_other_case(key).await),
            other => other,
        };
        let record = found?.map(|record| self.shown(record));
        if record.is_none() && self.has(Flaw::SlowNotFound) {
            sleep(Duration::from_secs(2)).await;
        }
        Ok(record.filter(|record| !self.hidden(record)))
    }

    fn hidden(&self, record: &Record) -> bool {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh =
            |(key, at): &(RecordKey, Instant)| *key == record.key && at.elapsed() < Duration::from_secs(1);
        self.has(Flaw::HidesMalformed) && decode(&record.key, &record.body).is_err()
            || self.has(Flaw::VisibleLate) && written.iter().any(fresh)
    }

    async fn in_other_case(&self, key: &RecordKey) -> Option<Record> {
        let mut segments = key.segments();
        let (cluster, kind) = (segments.next()?.to_lowercase(), segments.next()?.to_owned());
        let rest: Vec<_> = segments.collect();
        let other = RecordKey::try_new(&Cluster::try_new(cluster).ok()?, &kind, &rest).ok()?;
        let record = self.standing(&other).await?;
        Some(Record {
            key: key.clone(),
            ..record
        })
    }

    async fn rewrite(&self, session: &Session, held: &[Held]) {
        for held in held {
            let item = Write {
                key: held.key.clone(),
                body: held.body.clone(),
                writer: held.writer,
                expect: Expect::Absent,
            };
            match self.standing(&held.key).await {
                Some(record) => drop(self.force(session, &item, record).await),
                None => drop(self.inner.write(session, &[item]).await),
            }
        }
    }

    /// Renews on a session that lives, whether or not the one asked for does.
    async fn alive(&self, session: &Session) -> Result<Session, DiscoveryError> {
        match self.inner.renew(session, &[]).await {
            Ok(renewal) => Ok(renewal.session),
            Err(_) => self.inner.open(session.ttl).await,
        }
    }
}

fn all_mine(session: Session, held: &[Held]) -> Renewal {
    let kept = held.iter().map(|held| Kept::Mine(held.version.clone())).collect();
    Renewal {
        session,
        kept,
        unwanted: Vec::new(),
    }
}

#[async_trait]
impl RecordStore for Broken {
    async fn open(&self, ttl: Duration) -> Result<Session, DiscoveryError> {
        let ttl = match self.flaw {
            Flaw::ClampsTtl => ttl.clamp(*limit::TTL.start(), *limit::TTL.end()),
            _ => ttl,
        };
        let session = self.inner.open(ttl).await?;
        self.sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(session.clone());
        Ok(session)
    }

    async fn write(&self, session: &Session, items: &[Write]) -> Vec<Result<Written, DiscoveryError>> {
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            answers.push(self.write_one(session, item).await);
        }
        answers
    }

    async fn renew(&self, session: &Session, held: &[Held]) -> Result<Renewal, DiscoveryError> {
        match self.flaw {
            Flaw::RenewalAlwaysSaysMine => {
                let _ = self.inner.renew(session, held).await;
                Ok(all_mine(session.clone(), held))
            }
            Flaw::RenewalRewrites | Flaw::RenewalRevives => {
                let revives =
                    self.has(Flaw::RenewalRewrites) || self.inner.renew(session, &[]).await.is_err();
                if !revives {
                    return self.inner.renew(session, held).await;
                }
                let session = self.alive(session).await?;
                self.rewrite(&session, held).await;
                Ok(all_mine(session, held))
            }
            Flaw::SessionPerRenewal => {
                self.inner.close(session).await?;
                Err(DiscoveryError::new(ErrorKind::LeaseLost, "the session has ended"))
            }
            _ => self.inner.renew(session, held).await,
        }
    }

    async fn remove(&self, session: &Session, removal: &Removal) -> Result<Removed, DiscoveryError> {
        match (self.flaw, &removal.expect) {
            (Flaw::KeepsWhatWasRemoved, _) | (Flaw::NoFence, Expect::Absent) => Ok(Removed::Done),
            (Flaw::RemovesWhateverStands, Expect::Version(_)) => match self.standing(&removal.key).await {
                Some(record) => {
                    let removal = Removal {
                        expect: Expect::Version(record.version),
                        ..removal.clone()
                    };
                    self.inner.remove(session, &removal).await
                }
                None => Ok(Removed::Done),
            },
            _ => self.inner.remove(session, removal).await,
        }
    }

    async fn close(&self, session: &Session) -> Result<(), DiscoveryError> {
        match self.flaw {
            Flaw::KeepsWhatWasRemoved => Ok(()),
            _ => self.inner.close(session).await,
        }
    }

    async fn get(&self, keys: &[RecordKey]) -> Vec<Result<Option<Record>, DiscoveryError>> {
        if self.has(Flaw::NeverExpires) {
            for session in self.sessions() {
                let _ = self.inner.renew(&session, &[]).await;
            }
        }
        if self.has(Flaw::LocksForEver) {
            while self.busy.swap(true, Ordering::Relaxed) {
                sleep(Duration::from_millis(10)).await;
            }
            tokio::task::yield_now().await;
            self.busy.store(false, Ordering::Relaxed);
        }
        let turn = self.has(Flaw::OneAtATime).then(|| self.turn.lock());
        let _turn = match turn {
            Some(turn) => {
                let turn = turn.await;
                sleep(Duration::from_millis(50)).await;
                Some(turn)
            }
            None => None,
        };
        let mut answers = Vec::with_capacity(keys.len());
        for key in keys {
            answers.push(self.get_one(key).await);
        }
        if self.has(Flaw::AnswersOutOfOrder) {
            answers.reverse();
        }
        answers
    }

    async fn list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Result<Listing, DiscoveryError> {
        let mut listing = self.inner.list(prefix, page.clone()).await?;
        if self.has(Flaw::SkipsAtPageEnd) && listing.next.is_some() {
            listing.records.pop();
        }
        if self.has(Flaw::RepeatsAtPageStart) {
            let mut last = lock(&self.last_listed);
            let before = std::mem::replace(&mut *last, listing.records.last().cloned());
            listing.records.splice(0..0, before.filter(|_| page.is_some()));
        }
        listing.records = listing
            .records
            .into_iter()
            .map(|record| self.shown(record))
            .collect();
        Ok(listing)
    }

    async fn watch(&self, prefix: &RecordKey, after: Option<Position>) -> Result<Changes, DiscoveryError> {
        self.flawed_watch(prefix, after).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
