//! Stores that misbehave.

use std::{
    collections::HashMap,
    slice,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use discovery_core::{
    Retry,
    store::{Changes, Held, Kept, Listing, Position, Renewal, Session, Write, Written},
};

use futures_util::future::join_all;

use super::*;

pub(super) type Answer<T> = Result<T, DiscoveryError>;

/// How long a call takes that ends without an answer.
const SLOW: Duration = Duration::from_secs(2);
/// When a close takes effect that nobody got an answer to.
const LATE: Duration = Duration::from_millis(2_500);

/// So often a write is refused: a caller that never waits comes to an end, and is seen.
const REFUSALS: usize = 1_000;

/// What befalls every call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    Down,
    Panics,
    /// Takes so long, and ends without an answer.
    Stalls(Duration),
}

/// What goes wrong, until told otherwise.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) trouble: Option<Trouble>,
    /// Writes under these keys fail so.
    pub(super) refused: HashMap<RecordKey, DiscoveryError>,
    /// Writes and removals under these keys go unanswered, and do nothing.
    pub(super) slow: Vec<RecordKey>,
    /// So many writes happen without an answer.
    pub(super) lost_answers: u32,
    /// Reads go unanswered.
    pub(super) slow_reads: bool,
    /// Closing fails.
    pub(super) never_closes: bool,
    /// Writes under this key take so long to be answered, after they happened.
    pub(super) late_answer: Option<(RecordKey, Duration)>,
    /// Renewals answer with another session that keeps the same records.
    pub(super) hands_over: bool,
    /// Renewals cannot tell of these.
    pub(super) untold: Vec<RecordKey>,
    /// Renewals tell of no record at all.
    pub(super) short: bool,
    /// A renewal on a session that is gone opens another one and puts the held records there.
    pub(super) takes_up: bool,
    /// The next close goes unanswered, and arrives later.
    pub(super) late_close: bool,
}

/// A memory store with faults.
#[derive(Debug, Default)]
pub(super) struct Faulty {
    pub(super) memory: Arc<MemoryStore>,
    faults: Mutex<Faults>,
    opened: AtomicU32,
    renewals: AtomicU32,
    writes: Mutex<Vec<(RecordKey, Instant)>>,
}

pub(super) fn unavailable() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Unavailable, "as told")
}

fn unanswered() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Timeout, "as told").with_retry(Retry::OutcomeUnknown)
}

impl Faulty {
    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap()
    }

    /// How many sessions were asked for.
    pub(super) fn opened(&self) -> u32 {
        self.opened.load(Ordering::Relaxed)
    }

    /// How many renewals were asked for.
    pub(super) fn renewals(&self) -> u32 {
        self.renewals.load(Ordering::Relaxed)
    }

    /// When a write under a key was asked for.
    pub(super) fn writes(&self, key: &RecordKey) -> Vec<Instant> {
        let writes = self.writes.lock().unwrap();
        let writes = writes.iter().filter(|(written, _)| written == key);
        writes.map(|(_, at)| *at).collect()
    }

    async fn suffer(&self) -> Answer<()> {
        let trouble = self.faults().trouble;
        match trouble {
            None => Ok(()),
            Some(Trouble::Down) => Err(unavailable()),
            Some(Trouble::Panics) => panic!("as told"),
            Some(Trouble::Stalls(time)) => {
                sleep(time).await;
                Err(unanswered())
            }
        }
    }

    async fn suffer_for(&self, key: &RecordKey) -> Answer<()> {
        self.suffer().await?;
        let slow = self.faults().slow.contains(key);
        if slow {
            sleep(SLOW).await;
            return Err(unanswered());
        }
        Ok(())
    }

    fn refusal(&self, key: &RecordKey) -> Option<DiscoveryError> {
        let error = self.faults().refused.get(key).cloned();
        error.filter(|_| self.writes(key).len() <= REFUSALS)
    }

    async fn write_one(&self, session: &Session, item: &Write) -> Answer<Written> {
        self.writes
            .lock()
            .unwrap()
            .push((item.key.clone(), Instant::now()));
        self.suffer_for(&item.key).await?;
        if let Some(error) = self.refusal(&item.key) {
            return Err(error);
        }
        let answer = self.memory.write(session, slice::from_ref(item)).await.remove(0);
        let late = self
            .faults()
            .late_answer
            .clone()
            .filter(|(key, _)| *key == item.key);
        if let Some((_, time)) = late {
            sleep(time).await;
        }
        let mut faults = self.faults();
        match faults.lost_answers.checked_sub(1) {
            Some(left) => {
                faults.lost_answers = left;
                Err(unanswered())
            }
            None => answer,
        }
    }

    async fn take_up(&self, ttl: Duration, held: &[Held]) -> Answer<Renewal> {
        let session = self.memory.open(ttl).await?;
        let items: Vec<_> = held.iter().map(|held| write(held, Expect::Absent)).collect();
        let answers = self.memory.write(&session, &items).await;
        Ok(Renewal {
            session,
            kept: answers.into_iter().map(kept).collect(),
            unwanted: Vec::new(),
        })
    }
}

pub(super) fn write(held: &Held, expect: Expect) -> Write {
    Write {
        key: held.key.clone(),
        body: held.body.clone(),
        writer: held.writer,
        expect,
    }
}

pub(super) fn kept(answer: Answer<Written>) -> Kept {
    match answer {
        Ok(Written::Done(record)) => Kept::Mine(record.version),
        Ok(Written::Conflict(Some(record))) => Kept::Other(record),
        Ok(Written::Conflict(None)) => Kept::Gone,
        Err(error) => Kept::Unknown(error),
    }
}

#[async_trait]
impl RecordStore for Faulty {
    async fn open(&self, ttl: Duration) -> Answer<Session> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.suffer().await?;
        self.memory.open(ttl).await
    }

    async fn write(&self, session: &Session, items: &[Write]) -> Vec<Answer<Written>> {
        join_all(items.iter().map(|item| self.write_one(session, item))).await
    }

    async fn renew(&self, session: &Session, held: &[Held]) -> Answer<Renewal> {
        self.renewals.fetch_add(1, Ordering::Relaxed);
        self.suffer().await?;
        let takes_up = self.faults().takes_up;
        let mut renewal = match self.memory.renew(session, held).await {
            Err(error) if takes_up && error.kind() == ErrorKind::LeaseLost => {
                self.take_up(session.ttl, held).await?
            }
            answer => answer?,
        };
        let faults = self.faults();
        if faults.hands_over {
            // The same session to the store, by another name of its time to live.
            renewal.session.ttl += Duration::from_millis(1);
        }
        for (held, kept) in held.iter().zip(&mut renewal.kept) {
            if faults.untold.contains(&held.key) {
                *kept = Kept::Unknown(unavailable());
            }
        }
        if faults.short {
            renewal.kept.clear();
        }
        Ok(renewal)
    }

    async fn remove(&self, session: &Session, removal: &Removal) -> Answer<Removed> {
        self.suffer_for(&removal.key).await?;
        self.memory.remove(session, removal).await
    }

    async fn close(&self, session: &Session) -> Answer<()> {
        self.suffer().await?;
        if self.faults().never_closes {
            return Err(unavailable());
        }
        let late = std::mem::take(&mut self.faults().late_close);
        if !late {
            return self.memory.close(session).await;
        }
        let (memory, session) = (self.memory.clone(), session.clone());
        tokio::spawn(async move {
            sleep(LATE).await;
            memory.close(&session).await
        });
        sleep(SLOW).await;
        Err(unanswered())
    }

    async fn get(&self, keys: &[RecordKey]) -> Vec<Answer<Option<Record>>> {
        let slow = self.faults().slow_reads;
        if slow {
            sleep(SLOW).await;
            return keys.iter().map(|_| Err(unanswered())).collect();
        }
        match self.suffer().await {
            Ok(()) => self.memory.get(keys).await,
            Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Answer<Listing> {
        self.suffer().await?;
        self.memory.list(prefix, page).await
    }

    async fn watch(&self, prefix: &RecordKey, after: Option<Position>) -> Answer<Changes> {
        self.memory.watch(prefix, after).await
    }
}
