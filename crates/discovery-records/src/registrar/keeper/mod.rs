//! The one future that creates, renews and removes.
//!
//! At most one renewal and one other call are under way at a time, and neither waits for the
//! other. What they lead to is applied here, without I/O; what is to be done next is planned
//! here. Each registration has a back-off of its own.

mod apply;
mod plan;
mod renew;

use std::{collections::HashMap, sync::Arc, time::Duration};

use discovery_core::{
    Deadline, Moment,
    backoff::{Backoff, FIRST, jitter},
    limit::TTL,
    store::{RecordStore, Session, Writer},
};
use tokio::time::{Instant, sleep_until};

use super::{
    call::{Renewing, Work},
    desk::{Desk, Order},
    row::Row,
};

/// Records written by one call.
const WRITE_BATCH: usize = 960;
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
    close_at: Instant,
    backoff: Backoff,
}

pub(super) struct Keeper {
    ending: Ending,
    store: Option<Arc<dyn RecordStore>>,
    lease: Option<Lease>,
    leaving: Option<Leaving>,
    rows: HashMap<Writer, Row>,
    work: Option<Work>,
    renewal: Option<Renewing>,
    /// Back-off of renewals, and of opening the store or a session.
    renewing: Backoff,
    opening: Backoff,
    open_at: Option<Instant>,
    goodbye: Option<Instant>,
    /// Whether every session that ended since goodbye was confirmed to have.
    confirmed: bool,
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
            open_at: None,
            goodbye: None,
            confirmed: true,
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
                    return clean && self.confirmed;
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
        let close = self.leaving.as_ref().map(|leaving| leaving.close_at);
        let idle_lease = self.lease.is_some() && self.rows.is_empty() && self.leaving.is_none();
        let rows = self.rows.values().filter_map(|row| self.row_due(row)).min();
        [close, idle_lease.then(Instant::now), rows]
            .into_iter()
            .flatten()
            .min()
    }

    /// When something is to be done about a row, which may have to wait for a session.
    fn row_due(&self, row: &Row) -> Option<Instant> {
        let at = row.due()?;
        let opened = self.store.is_some() && self.lease.is_some();
        Some(
            self.open_at
                .filter(|_| !opened)
                .map_or(at, |open_at| at.max(open_at)),
        )
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
