//! What is to be done next.

use discovery_core::{
    backoff::Backoff,
    store::{Removal, Writer},
};
use tokio::time::Instant;

use super::{Keeper, Leaving, REMOVALS, WRITE_BATCH};
use crate::registrar::{
    call::{self, Work},
    row::{Row, Stage},
};

/// What a call does about a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Look,
    Remove,
    Write,
}

impl Kind {
    fn of(row: &Row) -> Self {
        match row.is_withdrawn() {
            true => Self::Remove,
            false if row.unsure => Self::Look,
            false => Self::Write,
        }
    }
}

impl Keeper {
    pub(super) fn start_renewal(&mut self) {
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

    pub(super) fn start_work(&mut self) {
        if self.work.is_none() && self.work_due().is_some_and(|at| at <= Instant::now()) {
            self.work = self.plan();
        }
    }

    /// The next call: about whatever has been due for longest, so that nothing that keeps
    /// failing holds up the rest.
    fn plan(&mut self) -> Option<Work> {
        self.give_lease_up();
        let now = Instant::now();
        let rows = self
            .rows
            .values()
            .filter_map(|row| Some((self.row_due(row)?, Kind::of(row))));
        let oldest = rows.filter(|(at, _)| *at <= now).min_by_key(|(at, _)| *at);
        let leaving = self.leaving.as_ref().filter(|leaving| leaving.close_at <= now);
        match (oldest, leaving) {
            (Some((at, kind)), leaving) if leaving.is_none_or(|leaving| at <= leaving.close_at) => {
                self.plan_rows(kind, now)
            }
            (_, Some(leaving)) => Some(call::close(self.store.clone()?, leaving.session.clone())),
            _ => None,
        }
    }

    fn plan_rows(&mut self, kind: Kind, now: Instant) -> Option<Work> {
        let config = self.desk().config();
        let Some(store) = self.store.clone() else {
            return Some(call::open_store(self.desk().open_store()));
        };
        let Some(lease) = &self.lease else {
            return Some(call::open_session(store, config.ttl, config.clock.now()));
        };
        let session = lease.session.clone();
        let most = if kind == Kind::Remove {
            REMOVALS
        } else {
            WRITE_BATCH
        };
        let taken = self.take(kind, most, now);
        Some(match kind {
            Kind::Look => {
                let rows = taken
                    .iter()
                    .filter_map(|writer| Some((*writer, self.rows.get(writer)?.key.clone())));
                call::look(store, rows.collect())
            }
            Kind::Remove => call::remove(store, session, self.removals(&taken)),
            Kind::Write => {
                let items = taken.iter().filter_map(|writer| self.rows.get(writer)?.write());
                call::write(store, session, items.collect())
            }
        })
    }

    /// Chooses those rows for a call that have been due for longest, and marks them so that no
    /// other call is made about them.
    fn take(&mut self, kind: Kind, most: usize, now: Instant) -> Vec<Writer> {
        let due = self.rows.values().filter(|row| Kind::of(row) == kind);
        let mut due: Vec<_> = due
            .filter_map(|row| Some((row.due().filter(|at| *at <= now)?, row.writer)))
            .collect();
        due.sort_unstable_by_key(|(at, _)| *at);
        due.truncate(most);
        for (_, writer) in &due {
            if let Some(row) = self.rows.get_mut(writer) {
                row.in_flight = true;
            }
        }
        due.into_iter().map(|(_, writer)| writer).collect()
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
            close_at: Instant::now(),
            backoff: Backoff::default(),
        });
        // Its answer would tell of a session that is on its way out.
        self.renewal = None;
    }
}
