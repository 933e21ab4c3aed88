//! The one future that creates, renews and removes.
//!
//! At most one renewal and one other call are under way at a time, and neither waits for the
//! other. What they lead to is applied here, without I/O; what is to be done next is planned
//! here. Each registration has a back-off of its own.

use std::{collections::HashMap, sync::Arc, time::Duration};

use discovery_core::{
    Deadline, DiscoveryError, ErrorKind, Moment, RegistrationState, Retry,
    limit::TTL,
    store::{Expect, Kept, Record, RecordStore, Removal, Session, Writer, Written},
};
use tokio::time::{Instant, sleep_until};

use super::{
    backoff::{Backoff, FIRST, jitter},
    call::{self, Answer, Outcome, Renewed, Renewing, Work},
    desk::{Desk, Order},
    row::{Row, Stage, Standing},
};

/// Records written by one call.
const WRITE_BATCH: usize = 128;
/// Records removed at once.
const REMOVALS: usize = 32;
/// How long the keeper tries to say goodbye when nobody waits for it.
const GOODBYE: Duration = Duration::from_secs(10);

/// A session that is being renewed.
struct Lease {
    session: Session,
    renewed: Moment,
    renew_at: Instant,
}

/// A session that is being closed, with the rows that end with it. Nothing is written on it any
/// more: a close that went unanswered may still arrive.
struct Leaving {
    session: Session,
    rows: Vec<Row>,
    /// When it has expired by itself.
    expires: Deadline,
}

pub(super) struct Keeper {
    ending: Ending,
    store: Option<Arc<dyn RecordStore>>,
    lease: Option<Lease>,
    leaving: Option<Leaving>,
    rows: HashMap<Writer, Row>,
    work: Option<Work>,
    renewal: Option<Renewing>,
    /// Back-off of renewals, and of opening and closing.
    renewing: Backoff,
    opening: Backoff,
    closing: Backoff,
    open_at: Option<Instant>,
    close_at: Option<Instant>,
    goodbye: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(desk: Arc<Desk>) -> Self {
        Self {
            ending: Ending { desk, clean: false },
            store: None,
            lease: None,
            leaving: None,
            rows: HashMap::new(),
            work: None,
            renewal: None,
            renewing: Backoff::default(),
            opening: Backoff::default(),
            closing: Backoff::default(),
            open_at: None,
            close_at: None,
            goodbye: None,
        }
    }

    fn desk(&self) -> &Arc<Desk> {
        &self.ending.desk
    }

    /// Runs until everything was given up, or until aborted. What it returns tells so when
    /// dropped, also by a panic or with its runtime.
    pub(super) async fn run(mut self) -> Ending {
        let desk = self.desk().clone();
        tokio::select! {
            biased;
            () = desk.aborted() => {}
            clean = self.keep() => self.ending.clean = clean,
        }
        self.ending
    }

    /// Whether it ended with everything confirmed.
    async fn keep(&mut self) -> bool {
        loop {
            self.take_orders();
            self.start_renewal();
            self.start_work();
            if let Some(goodbye) = self.goodbye {
                let clean = self.rows.is_empty() && self.lease.is_none() && self.leaving.is_none();
                if clean || goodbye <= Instant::now() {
                    return clean;
                }
            }
            let (desk, due) = (self.desk().clone(), self.due());
            tokio::select! {
                () = desk.ordered() => {}
                outcome = some(&mut self.work) => {
                    self.work = None;
                    self.apply(outcome);
                }
                renewed = some(&mut self.renewal) => {
                    self.renewal = None;
                    self.renewed(renewed);
                }
                () = sleep_until_some(due) => {}
            }
        }
    }

    fn take_orders(&mut self) {
        let (orders, closing) = self.desk().take_orders();
        for order in orders {
            match order {
                Order::Keep(row) => {
                    self.rows.insert(row.writer, *row);
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
        self.drop_unwritten();
    }

    /// When something has to be done, if nothing happens before.
    fn due(&self) -> Option<Instant> {
        let work = if self.work.is_none() {
            self.work_due()
        } else {
            None
        };
        let renewal = if self.renewal.is_none() {
            self.renewal_due()
        } else {
            None
        };
        [work, renewal, self.goodbye].into_iter().flatten().min()
    }

    /// When the session has to be renewed, if there is anything that it keeps.
    fn renewal_due(&self) -> Option<Instant> {
        let lease = self.lease.as_ref()?;
        self.rows
            .values()
            .any(Row::stands_somehow)
            .then_some(lease.renew_at)
    }

    /// When something has to be opened, created, removed or closed.
    fn work_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let close = if self.leaving.is_some() {
            Some(self.close_at.unwrap_or(now))
        } else {
            None
        };
        let idle_lease = self.lease.is_some() && self.rows.is_empty() && self.leaving.is_none();
        let rows = self.rows.values().filter_map(Row::due).min();
        let unopened = self.store.is_none() || self.lease.is_none();
        let rows = rows.map(|at| {
            if unopened {
                at.max(self.open_at.unwrap_or(at))
            } else {
                at
            }
        });
        [close, idle_lease.then_some(now), rows]
            .into_iter()
            .flatten()
            .min()
    }

    // ---- planning

    fn start_renewal(&mut self) {
        let due = self.renewal_due().is_some_and(|at| at <= Instant::now());
        let (Some(store), Some(lease)) = (&self.store, &self.lease) else {
            return;
        };
        if !due || self.renewal.is_some() {
            return;
        }
        let held = self.rows.values().filter_map(Row::held).collect();
        let shared = self
            .rows
            .values()
            .filter(|row| matches!(row.stage, Stage::Shared));
        let shared = shared.map(|row| (row.writer, row.key.clone())).collect();
        let asked = self.desk().config().clock.now();
        self.renewal = Some(call::renew(
            store.clone(),
            asked,
            lease.session.clone(),
            held,
            shared,
        ));
    }

    fn start_work(&mut self) {
        if self.work.is_none() && self.work_due().is_some_and(|at| at <= Instant::now()) {
            self.work = self.plan();
        }
    }

    /// The next call that is due.
    fn plan(&mut self) -> Option<Work> {
        self.give_lease_up();
        let now = Instant::now();
        let wanted = self
            .rows
            .values()
            .any(|row| row.due().is_some_and(|at| at <= now));
        if wanted && self.open_at.is_none_or(|at| at <= now) {
            let Some(store) = self.store.clone() else {
                return Some(call::open_store(self.desk().open_store()));
            };
            let Some(lease) = &self.lease else {
                let config = self.desk().config();
                return Some(call::open_session(store, config.ttl, config.clock.now()));
            };
            let session = lease.session.clone();
            if let Some(work) = self.plan_rows(store, session, now) {
                return Some(work);
            }
        }
        let leaving = self
            .leaving
            .as_ref()
            .filter(|_| self.close_at.is_none_or(|at| at <= now))?;
        Some(call::close(self.store.clone()?, leaving.session.clone()))
    }

    fn plan_rows(&mut self, store: Arc<dyn RecordStore>, session: Session, now: Instant) -> Option<Work> {
        let due = |row: &Row| row.due().is_some_and(|at| at <= now);
        let unsure = self.take(WRITE_BATCH, |row| {
            due(row) && row.is_to_be_written() && row.unsure
        });
        if !unsure.is_empty() {
            let rows = unsure
                .iter()
                .filter_map(|writer| Some((*writer, self.rows.get(writer)?.key.clone())));
            return Some(call::look(store, rows.collect()));
        }
        let removed = self.take(REMOVALS, |row| due(row) && row.is_withdrawn());
        if !removed.is_empty() {
            return Some(call::remove(store, session, self.removals(&removed)));
        }
        let written = self.take(WRITE_BATCH, |row| due(row) && row.is_to_be_written());
        let items: Vec<_> = written
            .iter()
            .filter_map(|writer| self.rows.get(writer)?.write())
            .collect();
        (!items.is_empty()).then(|| call::write(store, session, items))
    }

    /// Chooses rows for a call, and marks them so that no other call is made about them.
    fn take(&mut self, most: usize, which: impl Fn(&Row) -> bool) -> Vec<Writer> {
        let rows = self.rows.values_mut().filter(|row| which(row)).take(most);
        rows.map(|row| {
            row.in_flight = true;
            row.writer
        })
        .collect()
    }

    fn removals(&self, writers: &[Writer]) -> Vec<Removal> {
        let rows = writers.iter().filter_map(|writer| self.rows.get(writer));
        let removals = rows.filter_map(|row| match &row.stage {
            Stage::Withdraw { version } => Some(call::removal(row.key.clone(), row.writer, version.clone())),
            _ => None,
        });
        removals.collect()
    }

    /// If nothing is left to keep, the session goes, and everything that hangs on it.
    fn give_lease_up(&mut self) {
        let settled = self.rows.values().all(|row| row.is_withdrawn() && !row.in_flight);
        let has_id = self
            .lease
            .as_ref()
            .is_some_and(|lease| !lease.session.id.is_empty());
        if !settled || self.leaving.is_some() || !(has_id || self.rows.is_empty()) {
            return;
        }
        let Some(expires) = self.deadline() else { return };
        let Some(lease) = self.lease.take() else { return };
        let rows = self.rows.drain().map(|(_, row)| row).collect();
        self.leaving = Some(Leaving {
            session: lease.session,
            rows,
            expires,
        });
        self.close_at = None;
    }

    // ---- applying

    fn apply(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Store(Ok(store)) => self.store = Some(store),
            Outcome::Session(asked, Ok(session)) => {
                self.opening.reset();
                self.open_at = None;
                self.granted(session, asked);
            }
            Outcome::Store(Err(error)) | Outcome::Session(_, Err(error)) => self.not_opened(&error),
            Outcome::Looked(answers) => {
                for (writer, answer) in answers {
                    self.looked(writer, answer);
                }
            }
            Outcome::Written(session, answers) => {
                let current = self.lease.as_ref().is_some_and(|lease| lease.session == session);
                let mut ended = None;
                for (writer, answer) in answers {
                    if let Err(error) = &answer
                        && error.kind() == ErrorKind::LeaseLost
                    {
                        ended = Some(error.clone());
                    }
                    self.written(writer, answer, current);
                }
                if let Some(cause) = ended.filter(|_| current) {
                    self.session_lost(&cause);
                }
            }
            Outcome::Removed(answers) => self.removed(answers),
            Outcome::Closed(answer) => self.closed(answer),
        }
        self.drop_unwritten();
    }

    /// Everything that waits for the session waits a little longer, or fails.
    fn not_opened(&mut self, error: &DiscoveryError) {
        self.open_at = Some(Instant::now() + self.opening.next(error, Duration::MAX));
        for writer in self.writers(|row| !row.stands_somehow()) {
            self.failed(writer, error);
        }
    }

    fn looked(&mut self, writer: Writer, answer: Answer<Option<Record>>) {
        let Some(row) = self.rows.get_mut(&writer) else {
            return;
        };
        row.in_flight = false;
        match answer {
            Ok(Some(record)) => self.found(writer, &record),
            // It may still arrive, so a fence stays due; but there is nothing to recognise.
            Ok(None) => row.unsure = false,
            Err(error) => self.failed(writer, &error),
        }
    }

    fn written(&mut self, writer: Writer, answer: Answer<Written>, current: bool) {
        let deadline = self.deadline();
        let Some(row) = self.rows.get_mut(&writer) else {
            return;
        };
        row.in_flight = false;
        row.unsure = matches!(&answer, Err(error) if error.retry() == Retry::OutcomeUnknown);
        row.unfenced |= row.unsure;
        match (answer, deadline) {
            // The session went while the write was on its way, and the record with it.
            (Ok(Written::Done(_)), _) if !current => {}
            (Ok(Written::Done(record)), _) if row.is_withdrawn() => {
                row.stage = Stage::Withdraw {
                    version: Some(record.version),
                };
            }
            (Ok(Written::Done(record)), Some(deadline)) => row.stands(Stage::Own(record.version), deadline),
            (Ok(Written::Conflict(Some(record))), _) => self.found(writer, &record),
            (Ok(Written::Done(_) | Written::Conflict(None)), _) => {
                if !row.is_withdrawn() {
                    row.stage = Stage::Create { over: None };
                }
                let context = "the record is refused although nothing else stands there";
                self.failed(writer, &DiscoveryError::new(ErrorKind::Unavailable, context));
            }
            (Err(error), _) => self.failed(writer, &error),
        }
    }

    fn failed(&mut self, writer: Writer, error: &DiscoveryError) {
        let cap = self.interval();
        let Some(row) = self.rows.get_mut(&writer) else {
            return;
        };
        if !row.failed(error, cap) {
            self.end(writer, RegistrationState::Gone, error.clone());
        }
    }

    /// A record stands under the key of a row.
    fn found(&mut self, writer: Writer, record: &Record) {
        let deadline = self.deadline();
        let Some(row) = self.rows.get_mut(&writer) else {
            return;
        };
        match (row.judge(record), deadline) {
            (Standing::Own(version), _) if row.is_withdrawn() => {
                row.stage = Stage::Withdraw {
                    version: Some(version),
                };
            }
            (_, _) if row.is_withdrawn() => {}
            (Standing::Own(version), Some(deadline)) => row.stands(Stage::Own(version), deadline),
            // Renewing never moves a record; only registering does, once.
            (Standing::Same(_), Some(deadline)) if row.registered => row.stands(Stage::Shared, deadline),
            (Standing::Own(version) | Standing::Same(version), _) => {
                row.stage = Stage::Create { over: Some(version) };
                row.unsure = false;
                if !row.takes_over() {
                    let context = "the record there cannot be taken over, although it is the same peer's";
                    self.failed(writer, &DiscoveryError::new(ErrorKind::Unavailable, context));
                }
            }
            (Standing::Other(error), _) if row.registered => {
                let context = format!("the place was taken: {}", error.context());
                let cause = DiscoveryError::new(ErrorKind::Superseded, context).with_source(error);
                self.end(writer, RegistrationState::Superseded, cause);
            }
            (Standing::Other(error), _) => self.end(writer, RegistrationState::Gone, error),
        }
    }

    /// A registration has failed for good. Nothing of it stands; what may still arrive is fenced.
    fn end(&mut self, writer: Writer, state: RegistrationState, cause: DiscoveryError) {
        let Some(row) = self.rows.get_mut(&writer) else {
            return;
        };
        row.stage = Stage::Create { over: None };
        row.withdraw();
        let key = row.key.clone();
        // First forgotten, then told: whoever is told may register again at once.
        self.ending.desk.forget(&key, writer);
        if let Some(row) = self.rows.get(&writer) {
            row.ended(state, Some(cause));
        }
    }

    fn removed(&mut self, answers: Vec<(Writer, Removal, Answer<()>)>) {
        let mut ended = None;
        for (writer, removal, answer) in answers {
            let Some(row) = self.rows.get_mut(&writer) else {
                continue;
            };
            row.in_flight = false;
            match answer {
                Ok(()) => {
                    let fenced = removal.expect == Expect::Absent;
                    row.unfenced &= !fenced;
                    row.stage = Stage::Withdraw { version: None };
                    row.succeeded();
                }
                Err(error) => {
                    if error.kind() == ErrorKind::LeaseLost {
                        ended = Some(error.clone());
                    }
                    self.failed(writer, &error);
                }
            }
        }
        if let Some(cause) = ended {
            self.session_lost(&cause);
        }
    }

    fn closed(&mut self, answer: Answer<()>) {
        let Some(leaving) = &self.leaving else { return };
        let cause = match answer {
            Err(error) if error.kind() != ErrorKind::LeaseLost => {
                if !leaving.expires.passed() {
                    let cap = self.interval();
                    self.close_at = Some(Instant::now() + self.closing.next(&error, cap));
                    return;
                }
                // Nobody renews it any more, so it has expired by our clock; that is no
                // confirmation, but no reason to go on asking, either.
                Some(error)
            }
            _ => None,
        };
        self.closing.reset();
        for row in self.leaving.take().into_iter().flat_map(|leaving| leaving.rows) {
            self.gone(&row, cause.clone());
        }
    }

    /// Drops rows of which nothing can stand in the backend.
    fn drop_unwritten(&mut self) {
        for writer in self.writers(Row::is_unwritten) {
            if let Some(row) = self.rows.remove(&writer) {
                self.gone(&row, None);
            }
        }
    }

    fn gone(&self, row: &Row, cause: Option<DiscoveryError>) {
        self.desk().forget(&row.key, row.writer);
        row.ended(RegistrationState::Gone, cause);
    }

    // ---- renewing

    fn renewed(&mut self, renewed: Renewed) {
        let Renewed {
            asked,
            session,
            held,
            renewal,
            shared,
        } = renewed;
        if self.lease.as_ref().is_none_or(|lease| lease.session != session) {
            // That session was lost meanwhile.
            return;
        }
        match renewal {
            Ok(renewal) => {
                self.renewing.reset();
                self.granted(renewal.session, asked);
                let answers = held.into_iter().zip(renewal.kept);
                let unknown = answers
                    .map(|(writer, kept)| self.kept(writer, kept))
                    .filter(|known| !known)
                    .count();
                if unknown + self.shared(shared) > 0 {
                    self.renew_early();
                }
                for record in renewal.unwanted {
                    self.unwanted(record);
                }
            }
            Err(error) if error.kind() == ErrorKind::LeaseLost => self.session_lost(&error),
            Err(error) => {
                let wait = self.renewing.next(&error, self.interval());
                if let Some(lease) = &mut self.lease {
                    lease.renew_at = Instant::now() + wait;
                }
                for row in self.rows.values().filter(|row| row.stands_somehow()) {
                    row.unrenewed(&error);
                }
            }
        }
        self.drop_unwritten();
    }

    /// Some records could not be told of: ask again before they are at risk, but not so often
    /// that one of them makes all the others expensive.
    fn renew_early(&mut self) {
        let early = Instant::now() + jitter(self.interval() / 2, 0.5);
        if let Some(lease) = &mut self.lease {
            lease.renew_at = lease.renew_at.min(early);
        }
    }

    /// Whether it is known now how the record stands.
    fn kept(&mut self, writer: Writer, kept: Kept) -> bool {
        let deadline = self.deadline();
        let Some(row) = self.rows.get_mut(&writer) else {
            return true;
        };
        match (kept, deadline) {
            (Kept::Mine(version), _) if row.is_withdrawn() => {
                row.stage = Stage::Withdraw {
                    version: Some(version),
                };
            }
            (Kept::Mine(version), Some(deadline)) => row.stands(Stage::Own(version), deadline),
            (Kept::Other(record), _) => self.found(writer, &record),
            (Kept::Unknown(error), _) => return self.unknown(writer, &error),
            (Kept::Gone, _) | (Kept::Mine(_), None) => self.vanished(writer),
        }
        true
    }

    /// How many of the records that others keep could not be told of.
    fn shared(&mut self, answers: Vec<(Writer, Answer<Option<Record>>)>) -> usize {
        let mut unknown = 0;
        for (writer, answer) in answers {
            match answer {
                Ok(Some(record)) => self.found(writer, &record),
                Ok(None) => self.vanished(writer),
                Err(error) => unknown += usize::from(!self.unknown(writer, &error)),
            }
        }
        unknown
    }

    fn unknown(&mut self, writer: Writer, error: &DiscoveryError) -> bool {
        if let Some(row) = self.rows.get(&writer).filter(|row| row.stands_somehow()) {
            row.unrenewed(error);
        }
        false
    }

    fn vanished(&mut self, writer: Writer) {
        let cause = DiscoveryError::new(ErrorKind::LeaseLost, "the backend says that the record is gone");
        match self.rows.get_mut(&writer) {
            Some(row) if row.stands_somehow() => row.lost(&cause),
            _ => {}
        }
    }

    /// A record hangs on the session although it was not among those held: a write whose
    /// answer was lost, or one of a registration that has ended.
    fn unwanted(&mut self, record: Record) {
        match self.rows.get(&record.writer) {
            Some(row) if row.in_flight => {}
            Some(row) if row.stands_somehow() => {}
            Some(_) => self.found(record.writer, &record),
            None => {
                tracing::debug!(target: "discovery::registration", key = %record.key, "a late write is removed");
                self.rows
                    .insert(record.writer, Row::stray(self.ending.desk.config(), record));
            }
        }
    }

    /// The backend said that the session has ended, and its records with it.
    fn session_lost(&mut self, cause: &DiscoveryError) {
        self.lease = None;
        self.open_at = Some(Instant::now() + self.opening.next(cause, self.interval()));
        for row in self.rows.values_mut() {
            match row.stage {
                Stage::Own(_) | Stage::Shared => row.lost(cause),
                // What belonged to the session is gone, and what was on its way must fail.
                Stage::Create { .. } => (row.unsure, row.unfenced) = (false, false),
                Stage::Withdraw { .. } => {
                    row.stage = Stage::Withdraw { version: None };
                    row.unfenced = false;
                }
            }
        }
    }

    /// Notes what was granted, counted from when it was asked for.
    fn granted(&mut self, session: Session, asked: Moment) {
        let third = (session.ttl / 3).clamp(FIRST, *TTL.end());
        let renew_at = Instant::now() + jitter(third, 0.9);
        self.lease = Some(Lease {
            session,
            renewed: asked,
            renew_at,
        });
    }

    fn deadline(&self) -> Option<Deadline> {
        let lease = self.lease.as_ref()?;
        Some(Deadline::new(
            self.desk().config().clock.clone(),
            lease.renewed,
            lease.session.ttl,
        ))
    }

    fn interval(&self) -> Duration {
        self.lease
            .as_ref()
            .map_or(self.desk().config().ttl, |lease| lease.session.ttl)
            / 3
    }

    fn writers(&self, which: impl Fn(&Row) -> bool) -> Vec<Writer> {
        self.rows
            .values()
            .filter(|row| which(row))
            .map(|row| row.writer)
            .collect()
    }
}

/// Tells that the keeper has ended once dropped.
pub(super) struct Ending {
    desk: Arc<Desk>,
    clean: bool,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.desk.tell_ended(self.clean);
    }
}

async fn some<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
