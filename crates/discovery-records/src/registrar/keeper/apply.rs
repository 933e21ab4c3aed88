//! What calls led to.

use discovery_core::{
    DiscoveryError, ErrorKind, RegistrationState, Retry,
    store::{Record, Writer, Written},
};
use tokio::time::Instant;

use super::Keeper;
use crate::registrar::{
    call::{Answer, Outcome},
    row::{Row, Stage, Standing},
};

impl Keeper {
    pub(super) fn apply(&mut self, outcome: Outcome) {
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
                let current = self
                    .lease
                    .as_ref()
                    .is_some_and(|lease| lease.session.id == session.id);
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
        self.open_at = Some(Instant::now() + self.opening.next(error, self.interval()));
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
            // On the session of now, or on one that was handed over to it meanwhile.
            (Ok(Written::Done(record)), Some(_)) if row.is_withdrawn() => {
                row.stage = Stage::Withdraw {
                    version: Some(record.version),
                };
            }
            // The session went while the write was on its way, and the record with it.
            (Ok(Written::Done(_)), _) if !current => {}
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
    pub(super) fn found(&mut self, writer: Writer, record: &Record) {
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
            // Without a session nothing can be said of another holder's record: look again then.
            (Standing::Same(_), None) if row.registered => row.stage = Stage::Create { over: None },
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

    fn removed(&mut self, answers: Vec<(Writer, Answer<bool>)>) {
        let mut ended = None;
        for (writer, answer) in answers {
            let Some(row) = self.rows.get_mut(&writer) else {
                continue;
            };
            row.in_flight = false;
            match answer {
                Ok(fenced) => {
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
        let cap = self.interval();
        let Some(leaving) = &mut self.leaving else { return };
        let cause = match answer {
            Err(error) if error.kind() != ErrorKind::LeaseLost => {
                if !leaving.expires.passed() {
                    leaving.close_at = Instant::now() + leaving.backoff.next(&error, cap);
                    return;
                }
                // Nobody renews it any more, so it has expired by our clock; that is no
                // confirmation, but no reason to go on asking, either.
                Some(error)
            }
            _ => None,
        };
        if self.goodbye.is_some() {
            self.confirmed &= cause.is_none();
        }
        for row in self.leaving.take().into_iter().flat_map(|leaving| leaving.rows) {
            self.gone(&row, cause.clone());
        }
    }

    /// Drops rows of which nothing can stand in the backend.
    pub(super) fn drop_unwritten(&mut self) {
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
}
