//! The one future that creates, renews and removes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use discovery_core::{
    Deadline, DiscoveryError, ErrorKind, Moment, RegistrationState, Retry,
    limit::CONNECT_DEADLINE,
    store::{
        Expect, Kept, Record, RecordKey, RecordStore, Removal, Removed, Renewal, Session, Version, Writer,
        Written,
    },
};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    REGISTER_BUDGET,
    backoff::{Backoff, jitter},
    desk::{Desk, Order},
    row::{Row, Stage, Standing},
};

/// Records written by one call.
const WRITE_BATCH: usize = 128;
/// Removals under way at once.
const REMOVALS: usize = 32;
/// The longest wait before trying again, whatever the TTL.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// The shortest wait, also if the backend asks for none.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// How long the keeper tries to say goodbye when nobody waits for it.
const GOODBYE: Duration = Duration::from_secs(10);

/// A session that is being renewed.
struct Lease {
    session: Session,
    renewed: Moment,
    renew_at: Instant,
}

pub(super) struct Keeper {
    desk: Arc<Desk>,
    store: Option<Arc<dyn RecordStore>>,
    lease: Option<Lease>,
    rows: HashMap<Writer, Row>,
    /// Back-off of renewals, and of everything else; one does not hold up the other.
    renewing: Backoff,
    working: Backoff,
    retry_at: Option<Instant>,
    goodbye: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(desk: Arc<Desk>) -> Self {
        Self {
            desk,
            store: None,
            lease: None,
            rows: HashMap::new(),
            renewing: Backoff::default(),
            working: Backoff::default(),
            retry_at: None,
            goodbye: None,
        }
    }

    /// Runs until everything was given up, or until aborted, and tells so when dropped.
    pub(super) async fn run(mut self) -> Ending {
        let mut ending = Ending::of(self.desk.clone());
        let desk = self.desk.clone();
        tokio::select! {
            biased;
            () = desk.aborted() => {}
            clean = self.keep() => ending.clean = clean,
        }
        ending
    }

    /// Whether it ended with everything confirmed.
    async fn keep(&mut self) -> bool {
        loop {
            self.take_orders();
            if self.renewal_due().is_some_and(|at| at <= Instant::now()) {
                match self.renew().await {
                    Ok(()) => self.renewing.reset(),
                    Err(error) => self.renewal_failed(&error),
                }
            }
            if self.work_due().is_some_and(|at| at <= Instant::now()) {
                match self.work().await {
                    Ok(()) => self.working.reset(),
                    Err(error) => self.work_failed(&error),
                }
            }
            if let Some(goodbye) = self.goodbye {
                let clean = self.rows.is_empty() && self.lease.is_none();
                if clean || goodbye <= Instant::now() {
                    return clean;
                }
            }
            let due = [self.renewal_due(), self.work_due(), self.goodbye]
                .into_iter()
                .flatten()
                .min();
            let desk = self.desk.clone();
            tokio::select! {
                () = desk.ordered() => {}
                () = sleep_until_some(due) => {}
            }
        }
    }

    fn take_orders(&mut self) {
        let (orders, closing) = self.desk.take_orders();
        for order in orders {
            match order {
                Order::Keep(row) => {
                    self.rows.insert(row.writer, row);
                }
                Order::Withdraw(writer) => {
                    if let Some(row) = self.rows.get_mut(&writer) {
                        row.withdraw();
                    }
                }
            }
        }
        if closing && self.goodbye.is_none() {
            self.goodbye = Some(Instant::now() + GOODBYE);
        }
    }

    /// When the session has to be renewed, if there is anything that it keeps.
    fn renewal_due(&self) -> Option<Instant> {
        let lease = self.lease.as_ref()?;
        self.rows
            .values()
            .any(|row| matches!(row.stage, Stage::Held { .. }))
            .then_some(lease.renew_at)
    }

    /// When something has to be created, removed or closed.
    fn work_due(&self) -> Option<Instant> {
        let idle = match self.rows.is_empty() {
            true => self.lease.is_none(),
            false => self
                .rows
                .values()
                .all(|row| matches!(row.stage, Stage::Held { .. })),
        };
        (!idle).then(|| self.retry_at.unwrap_or_else(Instant::now))
    }

    /// Creates and removes. Neither holds up the other, nor the renewal of what stands.
    async fn work(&mut self) -> Result<(), DiscoveryError> {
        self.retry_at = None;
        self.drop_unwritten();
        if self.rows.is_empty() {
            return self.close().await;
        }
        let store = self.opened().await?;
        if self.rows.values().all(Row::is_withdrawn) && self.has_session_to_end() {
            return self.close().await;
        }
        let withdrawn = self.withdraw(&store).await;
        self.create(&store).await?;
        self.drop_unwritten();
        if self.rows.is_empty() {
            self.close().await
        } else {
            withdrawn
        }
    }

    async fn opened(&mut self) -> Result<Arc<dyn RecordStore>, DiscoveryError> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let opening = (self.desk.open_store())();
        let store = timeout(CONNECT_DEADLINE, opening).await.map_err(|_| {
            let context = format!("not connected within {CONNECT_DEADLINE:?}");
            DiscoveryError::new(ErrorKind::Unavailable, context)
        })??;
        self.store = Some(store.clone());
        Ok(store)
    }

    async fn session(&mut self, store: &Arc<dyn RecordStore>) -> Result<Session, DiscoveryError> {
        if let Some(lease) = &self.lease {
            return Ok(lease.session.clone());
        }
        let renewed = self.desk.config().clock.now();
        let session = store.open(self.desk.config().ttl).await?;
        self.granted(session.clone(), renewed);
        Ok(session)
    }

    /// Notes what was granted, counted from when it was asked for.
    fn granted(&mut self, session: Session, renewed: Moment) {
        let renew_at = Instant::now() + jitter(session.ttl / 3, 0.9);
        self.lease = Some(Lease {
            session,
            renewed,
            renew_at,
        });
    }

    fn deadline(&self) -> Option<Deadline> {
        let lease = self.lease.as_ref()?;
        Some(Deadline::new(
            self.desk.config().clock.clone(),
            lease.renewed,
            lease.session.ttl,
        ))
    }

    // ---- creating

    async fn create(&mut self, store: &Arc<dyn RecordStore>) -> Result<(), DiscoveryError> {
        // A record that stands in the way may be ours to take over: that is one write more.
        for _ in 0..3 {
            let mut wanted: Vec<_> = self.writers(|row| matches!(row.stage, Stage::Create { .. }));
            if wanted.is_empty() {
                return Ok(());
            }
            let session = self.session(store).await?;
            self.look_first(store, &wanted).await?;
            wanted.retain(|writer| {
                self.rows
                    .get(writer)
                    .is_some_and(|row| matches!(row.stage, Stage::Create { .. }))
            });
            for batch in wanted.chunks(WRITE_BATCH) {
                self.write(store, &session, batch).await?;
            }
        }
        match self
            .rows
            .values()
            .any(|row| matches!(row.stage, Stage::Create { .. }))
        {
            true => {
                let context = "the record is refused although nothing else stands there";
                Err(DiscoveryError::new(ErrorKind::Unavailable, context))
            }
            false => Ok(()),
        }
    }

    /// Re-reads what an unanswered write may have left behind.
    async fn look_first(
        &mut self,
        store: &Arc<dyn RecordStore>,
        wanted: &[Writer],
    ) -> Result<(), DiscoveryError> {
        let unsure: Vec<_> = wanted
            .iter()
            .filter_map(|writer| self.rows.get(writer).filter(|row| row.unsure))
            .map(|row| (row.writer, row.key.clone()))
            .collect();
        if unsure.is_empty() {
            return Ok(());
        }
        let keys: Vec<RecordKey> = unsure.iter().map(|(_, key)| key.clone()).collect();
        let mut trouble = None;
        for ((writer, _), found) in unsure.into_iter().zip(store.get(&keys).await) {
            match found {
                Ok(Some(record)) => self.found(writer, &record),
                Ok(None) => {}
                Err(error) => trouble = Some(error),
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    async fn write(
        &mut self,
        store: &Arc<dyn RecordStore>,
        session: &Session,
        batch: &[Writer],
    ) -> Result<(), DiscoveryError> {
        let mut items = Vec::with_capacity(batch.len());
        for writer in batch {
            let Some(row) = self.rows.get(writer) else {
                continue;
            };
            let Stage::Create { over } = &row.stage else {
                continue;
            };
            items.push(row.write(over.clone()));
        }
        let answers = store.write(session, &items).await;
        let mut trouble = None;
        for (item, answer) in items.into_iter().zip(answers) {
            if let Err(error) = self.written(item.writer, answer) {
                trouble = Some(error);
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    fn written(
        &mut self,
        writer: Writer,
        answer: Result<Written, DiscoveryError>,
    ) -> Result<(), DiscoveryError> {
        let deadline = self.deadline();
        let Some(row) = self.rows.get_mut(&writer) else {
            return Ok(());
        };
        row.unsure = matches!(&answer, Err(error) if error.retry() == Retry::OutcomeUnknown);
        row.unfenced |= row.unsure;
        match answer {
            Ok(Written::Done(record)) => {
                if let Some(deadline) = deadline {
                    row.stands(record.version, true, deadline);
                }
                Ok(())
            }
            Ok(Written::Conflict(Some(record))) => {
                self.found(writer, &record);
                Ok(())
            }
            Ok(Written::Conflict(None)) => {
                row.stage = Stage::Create { over: None };
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::LeaseLost => {
                self.session_lost(&error);
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// A record stands under the key of a row that is to be written.
    fn found(&mut self, writer: Writer, record: &Record) {
        let deadline = self.deadline();
        let Some(row) = self.rows.get_mut(&writer) else {
            return;
        };
        match (row.judge(record), deadline) {
            (Standing::Own(version), Some(deadline)) => row.stands(version, true, deadline),
            // Renewing never moves a record; only registering does, once.
            (Standing::Same(version), Some(deadline)) if row.registered => {
                row.stands(version, false, deadline)
            }
            (Standing::Own(version) | Standing::Same(version), _) => {
                row.stage = Stage::Create { over: Some(version) };
                row.unsure = false;
            }
            (Standing::Other(error), _) => self.superseded(writer, error),
        }
    }

    /// Somebody else stands there: final.
    fn superseded(&mut self, writer: Writer, cause: DiscoveryError) {
        let Some(row) = self.rows.get_mut(&writer) else {
            return;
        };
        let (state, cause) = if row.registered {
            let lost = format!("the place was taken: {}", cause.context());
            let cause = DiscoveryError::new(ErrorKind::Superseded, lost).with_source(cause);
            (RegistrationState::Superseded, cause)
        } else {
            (RegistrationState::Gone, cause)
        };
        row.ended(state, Some(cause));
        // Nothing of ours stands there; a write that may still arrive is fenced.
        row.stage = Stage::Create { over: None };
        row.withdraw();
        self.desk.forget(&row.key, writer);
    }

    // ---- renewing

    async fn renew(&mut self) -> Result<(), DiscoveryError> {
        let store = self.opened().await?;
        let Some(lease) = &self.lease else { return Ok(()) };
        let session = lease.session.clone();
        let rows: Vec<_> = self.writers(|row| matches!(row.stage, Stage::Held { .. }));
        let held: Vec<_> = rows
            .iter()
            .filter_map(|writer| self.rows.get(writer)?.held())
            .collect();
        let renewed = self.desk.config().clock.now();
        match store.renew(&session, &held).await {
            Ok(renewal) => self.renewed(&store, &rows, renewal, renewed).await,
            Err(error) if error.kind() == ErrorKind::LeaseLost => {
                self.session_lost(&error);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn renewed(
        &mut self,
        store: &Arc<dyn RecordStore>,
        rows: &[Writer],
        renewal: Renewal,
        renewed: Moment,
    ) -> Result<(), DiscoveryError> {
        let Renewal {
            session,
            kept,
            unwanted,
        } = renewal;
        self.granted(session.clone(), renewed);
        let mut unknown = None;
        for (writer, kept) in rows.iter().zip(kept) {
            if let Err(error) = self.kept(*writer, kept) {
                unknown = Some(error);
            }
        }
        for record in unwanted {
            self.unwanted(store, &session, record).await?;
        }
        unknown.map_or(Ok(()), Err)
    }

    fn kept(&mut self, writer: Writer, kept: Kept) -> Result<(), DiscoveryError> {
        let deadline = self.deadline();
        let Some(row) = self.rows.get_mut(&writer) else {
            return Ok(());
        };
        match (kept, deadline) {
            (Kept::Mine(version), Some(deadline)) => {
                let own = !matches!(row.stage, Stage::Held { own: false, .. });
                row.stands(version, own, deadline);
            }
            (Kept::Other(record), _) => self.found(writer, &record),
            (Kept::Unknown(error), _) => {
                row.unrenewed(&error);
                return Err(error);
            }
            (Kept::Gone, _) | (Kept::Mine(_), None) => {
                row.lost(&DiscoveryError::new(
                    ErrorKind::LeaseLost,
                    "the backend says that the record is gone",
                ));
            }
        }
        Ok(())
    }

    /// A record hangs on the session although it was not among those held: a write whose
    /// answer was lost, or one of a registration that has ended.
    async fn unwanted(
        &mut self,
        store: &Arc<dyn RecordStore>,
        session: &Session,
        record: Record,
    ) -> Result<(), DiscoveryError> {
        match self.rows.get(&record.writer) {
            Some(row) if matches!(row.stage, Stage::Create { .. }) => {
                self.found(record.writer, &record);
                Ok(())
            }
            Some(_) => Ok(()),
            None => {
                tracing::debug!(target: "discovery::registration", key = %record.key, "removed a late write");
                let Record {
                    key, writer, version, ..
                } = record;
                let removal = Removal {
                    key,
                    writer,
                    expect: Expect::Version(version),
                };
                store.remove(session, &removal).await.map(drop)
            }
        }
    }

    /// The backend said that the session has ended, and its records with it.
    fn session_lost(&mut self, cause: &DiscoveryError) {
        self.lease = None;
        for row in self.rows.values_mut() {
            match row.stage {
                Stage::Held { .. } => row.lost(cause),
                // What belonged to the session is gone, and what was on its way must fail.
                Stage::Create { .. } => (row.unsure, row.unfenced) = (false, false),
                Stage::Withdraw { .. } => {
                    row.stage = Stage::Withdraw { version: None };
                    row.unfenced = false;
                }
            }
        }
    }

    // ---- removing

    /// Drops rows of which nothing can stand in the backend.
    fn drop_unwritten(&mut self) {
        self.rows.retain(|_, row| match &row.stage {
            Stage::Withdraw { version: None } if !row.unfenced => {
                row.ended(RegistrationState::Gone, None);
                false
            }
            _ => true,
        });
    }

    fn has_session_to_end(&self) -> bool {
        self.lease
            .as_ref()
            .is_some_and(|lease| !lease.session.id.is_empty())
    }

    /// Ends the session: nothing is left to keep.
    async fn close(&mut self) -> Result<(), DiscoveryError> {
        if let (Some(store), Some(lease)) = (&self.store, &self.lease) {
            store.close(&lease.session).await?;
        }
        self.lease = None;
        for (_, row) in self.rows.drain() {
            row.ended(RegistrationState::Gone, None);
        }
        Ok(())
    }

    async fn withdraw(&mut self, store: &Arc<dyn RecordStore>) -> Result<(), DiscoveryError> {
        let writers = self.writers(|row| row.is_withdrawn());
        if writers.is_empty() {
            return Ok(());
        }
        let session = self.session(store).await?;
        let rows: Vec<_> = writers
            .iter()
            .filter_map(|writer| self.rows.remove(writer))
            .collect();
        let removals = rows.into_iter().map(|mut row| {
            let (store, session) = (store.clone(), session.clone());
            async move {
                let outcome = remove(&*store, &session, &mut row).await;
                (row, outcome)
            }
        });
        let mut removals = stream::iter(removals).buffer_unordered(REMOVALS);
        let mut trouble = None;
        let mut lost = None;
        while let Some((row, outcome)) = removals.next().await {
            match outcome {
                Ok(()) => row.ended(RegistrationState::Gone, None),
                Err(error) => {
                    if error.kind() == ErrorKind::LeaseLost {
                        lost = Some(error.clone());
                    }
                    self.rows.insert(row.writer, row);
                    trouble = Some(error);
                }
            }
        }
        drop(removals);
        if let Some(error) = lost {
            self.session_lost(&error);
        }
        trouble.map_or(Ok(()), Err)
    }

    // ---- trouble

    /// Renewal went unanswered: try again soon, and let everybody see it.
    fn renewal_failed(&mut self, error: &DiscoveryError) {
        let wait = self.wait(error, |keeper| &mut keeper.renewing);
        if let Some(lease) = &mut self.lease {
            lease.renew_at = Instant::now() + wait;
        }
        for row in self
            .rows
            .values()
            .filter(|row| matches!(row.stage, Stage::Held { .. }))
        {
            row.unrenewed(error);
        }
    }

    /// Something could not be created or removed: report what must not wait, go on later.
    fn work_failed(&mut self, error: &DiscoveryError) {
        self.retry_at = Some(Instant::now() + self.wait(error, |keeper| &mut keeper.working));
        let hopeless = error.retry() == Retry::Never && error.kind() != ErrorKind::LeaseLost;
        for writer in self.writers(|row| matches!(row.stage, Stage::Create { .. })) {
            let Some(row) = self.rows.get_mut(&writer) else {
                continue;
            };
            if row.registered {
                row.lost(error);
            } else if hopeless || row.since.elapsed() >= REGISTER_BUDGET {
                row.ended(RegistrationState::Gone, Some(error.clone()));
                row.withdraw();
                self.desk.forget(&row.key, writer);
            }
        }
        if self.rows.is_empty() && self.deadline().is_none_or(|deadline| deadline.passed()) {
            // Nobody renews the session any more, so it has expired.
            self.lease = None;
        }
    }

    fn wait(&mut self, error: &DiscoveryError, backoff: impl Fn(&mut Self) -> &mut Backoff) -> Duration {
        let ttl = self
            .lease
            .as_ref()
            .map_or(self.desk.config().ttl, |lease| lease.session.ttl);
        let cap = LONGEST_WAIT.min(ttl / 3);
        match error.retry() {
            Retry::Safe { after: Some(after) } => jitter(after.clamp(FIRST_WAIT, cap), 0.5),
            _ => backoff(self).next(cap),
        }
    }

    fn writers(&self, which: impl Fn(&Row) -> bool) -> Vec<Writer> {
        self.rows
            .values()
            .filter(|row| which(row))
            .map(|row| row.writer)
            .collect()
    }
}

/// Removes what is ours under the key of a row, and fences what may still arrive.
async fn remove(store: &dyn RecordStore, session: &Session, row: &mut Row) -> Result<(), DiscoveryError> {
    // Each turn reacts to a change by somebody else in between; there is no need to race for ever.
    for _ in 0..8 {
        let Stage::Withdraw { version } = &row.stage else {
            return Ok(());
        };
        let expect = match version.clone() {
            Some(version) => Expect::Version(version),
            None if row.unfenced => Expect::Absent,
            None => return Ok(()),
        };
        let fencing = expect == Expect::Absent;
        let next: Option<Version> = match store.remove(session, &row.removal(expect)).await? {
            Removed::Conflict(Some(record)) if record.writer == row.writer => Some(record.version),
            // Somebody else's record, or none: ours is gone.
            Removed::Done | Removed::Conflict(_) if !fencing => None,
            Removed::Done | Removed::Conflict(_) => {
                row.unfenced = false;
                None
            }
        };
        row.stage = Stage::Withdraw { version: next };
    }
    Err(DiscoveryError::new(
        ErrorKind::Unavailable,
        "the record kept changing while it was removed",
    ))
}

/// Tells that the keeper has ended once dropped, also by a panic or with its runtime.
pub(super) struct Ending {
    desk: Arc<Desk>,
    clean: bool,
}

impl Ending {
    fn of(desk: Arc<Desk>) -> Self {
        Self { desk, clean: false }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.desk.tell_ended(self.clean);
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
