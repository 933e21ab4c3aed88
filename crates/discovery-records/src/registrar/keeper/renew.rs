//! What renewals led to.

use discovery_core::{
    DiscoveryError, ErrorKind,
    backoff::{FIRST, jitter},
    store::{Kept, Record, Writer},
};
use tokio::time::Instant;

use super::Keeper;
use crate::registrar::{
    call::{Answer, Renewed},
    row::{Row, Stage},
};

impl Keeper {
    pub(super) fn renewed(&mut self, renewed: Renewed) {
        let Renewed {
            asked,
            session,
            held,
            renewal,
            shared,
        } = renewed;
        if self
            .lease
            .as_ref()
            .is_none_or(|lease| lease.session.id != session.id)
        {
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
                let wait = self
                    .renewing
                    .next(&error, self.interval())
                    .min(self.interval().max(FIRST));
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
            // Ours, but not kept by this session as it stands: it is written once more.
            (Kept::Other(record), _) if record.writer == writer && !row.is_withdrawn() => {
                row.stage = Stage::Create {
                    over: Some(record.version),
                };
            }
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
    pub(super) fn session_lost(&mut self, cause: &DiscoveryError) {
        self.lease = None;
        self.renewal = None;
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
}
