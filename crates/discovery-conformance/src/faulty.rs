//! A store with faults on demand, in front of any other store.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use discovery_core::{
    DiscoveryError, ErrorKind, Retry,
    limit::CALL_DEADLINE,
    store::{
        Change, Changes, Held, Listing, Position, Record, RecordKey, RecordStore, Removal, Removed, Renewal,
        Session, Write, Written,
    },
};
use futures_util::{StreamExt, stream};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// What happens to calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They go through.
    Pass,
    /// They fail at once: nobody listens there.
    Cut,
    /// They get no answer: each ends with `Timeout` after its deadline, unless the mode changes.
    Stall,
    /// The caller itself stands still: they wait for as long as the mode lasts.
    Freeze,
    /// They are refused: whoever asks is not known, as while credentials are changed.
    Deny,
}

/// How long a watch that is stalled is waited for.
pub(crate) const WATCH_SILENCE: Duration = Duration::from_secs(10);

/// Where a single call is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It never arrives; the caller is told so.
    Before,
    /// It happens, but its answer is lost.
    After,
}

/// Lets calls through to another store, or not; counts them, and notes what was sent.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn RecordStore>,
    mode: watch::Sender<Mode>,
    lose_answers: AtomicU32,
    hold_writes: AtomicU32,
    late_answers: Mutex<Duration>,
    slow_calls: Mutex<Duration>,
    cut_call: Mutex<Option<(u64, Cut)>>,
    watch_items: Arc<Mutex<Option<u32>>>,
    leave_out: Arc<AtomicU32>,
    sent: Mutex<Sent>,
    opens: AtomicU64,
    renewals: AtomicU64,
    writes: AtomicU64,
    reads: AtomicU64,
    calls: AtomicU64,
    watches: Arc<AtomicUsize>,
}

/// What went to the store, to be replayed by a trial.
#[derive(Debug, Default)]
struct Sent {
    sessions: Vec<Session>,
    held_back: Vec<(Session, Vec<Write>)>,
    renewal: Option<(Session, Vec<Held>)>,
}

impl Faulty {
    /// In front of `inner`, letting everything through.
    #[must_use]
    pub fn new(inner: Arc<dyn RecordStore>) -> Self {
        Self {
            inner,
            mode: watch::Sender::new(Mode::Pass),
            lose_answers: AtomicU32::new(0),
            hold_writes: AtomicU32::new(0),
            late_answers: Mutex::default(),
            slow_calls: Mutex::default(),
            cut_call: Mutex::default(),
            watch_items: Arc::default(),
            leave_out: Arc::default(),
            sent: Mutex::default(),
            opens: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            watches: Arc::default(),
        }
    }

    /// Changes what happens to calls, also to those that wait.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// The next `count` write calls happen, but their answers are lost.
    pub fn lose_answers(&self, count: u32) {
        self.lose_answers.store(count, Ordering::Relaxed);
    }

    /// The next `count` write calls get no answer and are kept back, as if they were still on
    /// their way; see [`deliver_late`](Self::deliver_late).
    pub fn hold_writes(&self, count: u32) {
        self.hold_writes.store(count, Ordering::Relaxed);
    }

    /// Sessions are opened and renewed at once, but the answer takes this long to come back.
    pub fn late_answers(&self, by: Duration) {
        *lock(&self.late_answers) = by;
    }

    /// Every call takes this long to arrive, and its answer as long to come back.
    pub fn slow_calls(&self, by: Duration) {
        *lock(&self.slow_calls) = by;
    }

    /// After `calls` more calls, cuts a single one.
    pub fn cut_call(&self, calls: u64, cut: Cut) {
        *lock(&self.cut_call) = Some((calls, cut));
    }

    /// Whether the call that was to be cut has not come yet.
    #[must_use]
    pub fn cut_is_pending(&self) -> bool {
        lock(&self.cut_call).is_some()
    }

    /// After `items` more items, whichever watch they belong to, that watch breaks.
    pub fn break_watch_after(&self, items: u32) {
        *lock(&self.watch_items) = Some(items);
    }

    /// The next `changes` changes that watches are told of are left out, without a word.
    pub fn leave_out(&self, changes: u32) {
        self.leave_out.store(changes, Ordering::Relaxed);
    }

    /// Whether everything that was to be left out has been.
    #[must_use]
    pub fn left_out(&self) -> bool {
        self.leave_out.load(Ordering::Relaxed) == 0
    }

    /// How many write calls are kept back.
    #[must_use]
    pub fn held_back(&self) -> usize {
        self.sent().held_back.len()
    }

    /// Delivers what was kept back; how many writes happened.
    pub async fn deliver_late(&self) -> usize {
        let held_back = std::mem::take(&mut self.sent().held_back);
        let mut happened = 0;
        for (session, items) in held_back {
            let answers = self.inner.write(&session, &items).await;
            happened += answers
                .iter()
                .filter(|answer| matches!(answer, Ok(Written::Done(_))))
                .count();
        }
        happened
    }

    /// Sends the last renewal once more, as if the network had duplicated it.
    pub async fn renew_late(&self) -> Option<Result<Renewal, DiscoveryError>> {
        let (session, held) = self.sent().renewal.clone()?;
        Some(self.inner.renew(&session, &held).await)
    }

    /// Every session that was opened, in order.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        self.sent().sessions.clone()
    }

    /// How many sessions were opened.
    #[must_use]
    pub fn opens(&self) -> u64 {
        self.opens.load(Ordering::Relaxed)
    }

    /// How many renewals were sent.
    #[must_use]
    pub fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Relaxed)
    }

    /// How many records went to the store to be written.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// How many `get` calls were made.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// How many calls of any sort were made.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// How many watches are open.
    #[must_use]
    pub fn watches(&self) -> usize {
        self.watches.load(Ordering::Relaxed)
    }

    fn sent(&self) -> std::sync::MutexGuard<'_, Sent> {
        lock(&self.sent)
    }

    async fn answer(&self) {
        let by = *lock(&self.late_answers);
        if !by.is_zero() {
            sleep(by).await;
        }
    }

    /// Takes the time that a slow call takes, one way.
    async fn travel(&self) {
        let by = *lock(&self.slow_calls);
        if !by.is_zero() {
            sleep(by).await;
        }
    }

    /// What befalls this very call.
    fn single_cut(&self) -> Option<Cut> {
        let mut planned = lock(&self.cut_call);
        match &mut *planned {
            Some((0, cut)) => {
                let cut = *cut;
                *planned = None;
                Some(cut)
            }
            Some((calls, _)) => {
                *calls -= 1;
                None
            }
            None => None,
        }
    }

    /// Makes a call of which the answer may be lost, after [`pass`](Self::pass).
    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, DiscoveryError>>,
    ) -> Result<T, DiscoveryError> {
        match self.single_cut() {
            Some(Cut::Before) => Err(refused()),
            Some(Cut::After) => call.await.and(Err(lost())),
            None => {
                let answer = call.await;
                self.travel().await;
                answer
            }
        }
    }

    async fn pass(&self) -> Result<(), DiscoveryError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.travel().await;
        let mut mode = self.mode.subscribe();
        loop {
            let now = *mode.borrow_and_update();
            let changed = match now {
                Mode::Pass => return Ok(()),
                Mode::Cut => {
                    return Err(refused());
                }
                Mode::Deny => {
                    return Err(DiscoveryError::new(
                        ErrorKind::PermissionDenied,
                        "these credentials are not known",
                    ));
                }
                Mode::Stall => timeout(CALL_DEADLINE, mode.changed())
                    .await
                    .map_err(|_| silent())?,
                Mode::Freeze => mode.changed().await,
            };
            if changed.is_err() {
                return Err(silent());
            }
        }
    }

    /// `pass` for a write: silence leaves its outcome unknown only if it may have been sent.
    async fn pass_write(&self) -> Result<(), DiscoveryError> {
        self.pass().await.map_err(|error| match error.kind() {
            ErrorKind::Timeout => error.with_retry(Retry::OutcomeUnknown),
            _ => error,
        })
    }
}

fn refused() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Unavailable, "the connection was refused")
}

fn silent() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Timeout, format!("no answer within {CALL_DEADLINE:?}"))
        .with_retry(Retry::Safe { after: None })
}

fn lost() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Timeout, "the answer was lost").with_retry(Retry::OutcomeUnknown)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_one(count: &AtomicU32) -> bool {
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
        .is_ok()
}

#[async_trait]
impl RecordStore for Faulty {
    async fn open(&self, ttl: Duration) -> Result<Session, DiscoveryError> {
        self.pass().await?;
        self.opens.fetch_add(1, Ordering::Relaxed);
        let session = self.call(self.inner.open(ttl)).await?;
        self.sent().sessions.push(session.clone());
        self.answer().await;
        Ok(session)
    }

    async fn write(&self, session: &Session, items: &[Write]) -> Vec<Result<Written, DiscoveryError>> {
        if let Err(error) = self.pass_write().await {
            return items.iter().map(|_| Err(error.clone())).collect();
        }
        if take_one(&self.hold_writes) {
            self.sent().held_back.push((session.clone(), items.to_vec()));
            return items.iter().map(|_| Err(lost())).collect();
        }
        self.writes.fetch_add(items.len() as u64, Ordering::Relaxed);
        let answers = self
            .call(async { Ok(self.inner.write(session, items).await) })
            .await;
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => items.iter().map(|_| Err(error.clone())).collect(),
        };
        if take_one(&self.lose_answers) {
            return items.iter().map(|_| Err(lost())).collect();
        }
        answers
    }

    async fn renew(&self, session: &Session, held: &[Held]) -> Result<Renewal, DiscoveryError> {
        self.pass().await?;
        self.renewals.fetch_add(1, Ordering::Relaxed);
        self.sent().renewal = Some((session.clone(), held.to_vec()));
        let renewed = self.call(self.inner.renew(session, held)).await;
        self.answer().await;
        renewed
    }

    async fn remove(&self, session: &Session, removal: &Removal) -> Result<Removed, DiscoveryError> {
        self.pass_write().await?;
        self.call(self.inner.remove(session, removal)).await
    }

    async fn close(&self, session: &Session) -> Result<(), DiscoveryError> {
        self.pass_write().await?;
        self.call(self.inner.close(session)).await
    }

    async fn get(&self, keys: &[RecordKey]) -> Vec<Result<Option<Record>, DiscoveryError>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        match self.pass().await {
            Ok(()) => self
                .call(async { Ok(self.inner.get(keys).await) })
                .await
                .unwrap_or_else(|error| keys.iter().map(|_| Err(error.clone())).collect()),
            Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Result<Listing, DiscoveryError> {
        self.pass().await?;
        self.call(self.inner.list(prefix, page)).await
    }

    async fn watch(&self, prefix: &RecordKey, after: Option<Position>) -> Result<Changes, DiscoveryError> {
        self.pass().await?;
        let through = Through {
            inner: Some(self.call(self.inner.watch(prefix, after)).await?),
            items: self.watch_items.clone(),
            leave_out: self.leave_out.clone(),
            mode: self.mode.subscribe(),
            _modes: self.mode.clone(),
            _open: Open::new(&self.watches),
        };
        Ok(Box::pin(stream::unfold(through, |mut through| async move {
            let item = through.next().await?;
            Some((item, through))
        })))
    }
}

/// A watch, for as long as changes get through.
struct Through {
    /// Nothing once it has ended.
    inner: Option<Changes>,
    /// How many items come before a watch breaks.
    items: Arc<Mutex<Option<u32>>>,
    leave_out: Arc<AtomicU32>,
    mode: watch::Receiver<Mode>,
    /// Keeps the channel open.
    _modes: watch::Sender<Mode>,
    _open: Open,
}

impl Through {
    async fn next(&mut self) -> Option<Result<Change, DiscoveryError>> {
        loop {
            let mode = *self.mode.borrow_and_update();
            let changed = self.mode.changed();
            let end = match mode {
                Mode::Pass => tokio::select! {
                    biased;
                    _ = changed => continue,
                    item = self.inner.as_mut()?.next() => match self.breaks() {
                        false if is_change(item.as_ref()) && take_one(&self.leave_out) => continue,
                        false => return item,
                        true => refused(),
                    },
                },
                Mode::Freeze => {
                    let _ = changed.await;
                    continue;
                }
                Mode::Stall => match timeout(WATCH_SILENCE, changed).await {
                    Ok(_) => continue,
                    Err(_) => DiscoveryError::new(ErrorKind::Timeout, "the watch is silent"),
                },
                Mode::Cut | Mode::Deny => {
                    DiscoveryError::new(ErrorKind::Unavailable, "the connection was lost")
                }
            };
            self.inner = None;
            return Some(Err(end));
        }
    }

    fn breaks(&self) -> bool {
        let mut items = lock(&self.items);
        let breaks = *items == Some(0);
        *items = items.and_then(|items| items.checked_sub(1));
        breaks
    }
}

fn is_change(item: Option<&Result<Change, DiscoveryError>>) -> bool {
    matches!(item, Some(Ok(Change::Put(_) | Change::Gone { .. })))
}

/// One that is counted while it lives.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
