//! Keeps registrations alive: one life cycle for all record stores.
//!
//! The caller states what shall exist; one background future, the *keeper*, makes it so and
//! keeps it so until told otherwise. It reads the answer to every renewal, creates again
//! whatever the backend lost, treats an unanswered write as one that may have happened, and
//! never gives up while somebody holds the registration.

mod call;
mod desk;
mod keeper;
mod row;
mod thread;

#[cfg(test)]
mod tests;

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use discovery_core::{
    Clock, DiscoveryError, ErrorKind, RegistrationState, limit,
    registration::{Registration, Status},
    store::{RecordKey, RecordStore},
};
use tokio::{
    runtime::{Handle, TryCurrentError},
    sync::watch,
    time::timeout,
};

use self::desk::{Desk, DeskHold};

/// How long a first registration may take before it is reported as failed. Covers opening a
/// store (5 s) with one call (2 s) after it.
const REGISTER_BUDGET: Duration = Duration::from_secs(7);
/// How long giving a registration up may take before that is reported. The removal goes on.
const RELEASE_BUDGET: Duration = Duration::from_secs(7);

/// How long an aborted keeper may take to end.
const ABORT: Duration = Duration::from_millis(500);

/// Tells whether a record that stands under the key is the one intended: `Ok` if it is the same
/// holder with the same content, else what stands there instead.
pub type Judge = Box<dyn Fn(&[u8]) -> Result<(), DiscoveryError> + Send + Sync>;

/// Opens a store, called where renewal runs, so that its connections are driven from there.
pub type OpenStore = Box<dyn Fn() -> Opening + Send + Sync>;

/// A store being opened.
pub type Opening = Pin<Box<dyn Future<Output = Result<Arc<dyn RecordStore>, DiscoveryError>> + Send>>;

/// Who drives renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewing {
    /// The runtime that makes the first registration. Tests can pause its clock; a runtime that
    /// is blocked does not renew.
    Shared,
    /// A thread of its own with a runtime of its own: renewal goes on while the application
    /// blocks. What stores behind a network should use.
    OwnThread,
}

/// What shall exist for as long as it is held.
pub struct Intent {
    /// The record's name.
    pub key: RecordKey,
    /// What it says.
    pub body: Bytes,
    /// Who counts as the same holder.
    pub judge: Judge,
}

impl fmt::Debug for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intent")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// How a registrar works.
#[derive(Clone, Debug)]
pub struct RegistrarConfig {
    system: Arc<str>,
    ttl: Duration,
    renewing: Renewing,
    clock: Clock,
}

impl RegistrarConfig {
    /// For a system of this name, asking for this time to live.
    pub fn new(system: impl Into<Arc<str>>, ttl: Duration) -> Self {
        Self {
            system: system.into(),
            ttl,
            renewing: Renewing::Shared,
            clock: Clock::default(),
        }
    }

    /// Chooses who drives renewal; [`Renewing::Shared`] by default.
    #[must_use]
    pub fn with_renewing(mut self, renewing: Renewing) -> Self {
        self.renewing = renewing;
        self
    }

    /// Chooses the clock that deadlines are judged by.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}

/// Keeps the registrations of one process in one system alive, on one session.
///
/// A cheap handle: clones share the keeper. Nothing runs until the first registration. When
/// the last handle and the last [`Registration`] are gone, the keeper gives up what is left and
/// ends.
#[derive(Clone)]
pub struct Registrar(Arc<Owner>);

/// Ends the keeper when nobody can reach it any more.
struct Owner(Arc<Desk>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Registrar {
    /// A registrar over the store that `open_store` opens.
    pub fn new(config: RegistrarConfig, open_store: OpenStore) -> Self {
        Self(Arc::new(Owner(Arc::new(Desk::new(config, open_store)))))
    }

    /// Makes the record exist and keeps it so; returns once the backend has acknowledged it.
    ///
    /// A record of the same holder with the same content that stands already is taken over:
    /// it moves to this process's session. The same intent again is another hold on the same
    /// registration.
    ///
    /// # Errors
    /// What the judge says of the record that stands there. `Unavailable`, `Timeout` or the
    /// like if the backend did not acknowledge: nothing is kept, and should a write still
    /// arrive, it is taken back. `InvalidConfig` for a TTL outside its limits, and outside a
    /// tokio runtime. `Closed` after [`shutdown`](Self::shutdown),
    /// and if the registration was given up meanwhile.
    ///
    /// # Cancel safety
    /// Dropping the future gives the registration up.
    pub async fn register(&self, intent: Intent) -> Result<Registration, DiscoveryError> {
        limit::ttl(self.desk().config().ttl)?;
        Handle::try_current().map_err(no_runtime)?;
        let key = intent.key.clone();
        let (writer, status) = self.desk().enter(intent)?;
        let hold = DeskHold::new(self.clone(), key, writer, status.clone());
        let registration = Registration::new(status.clone(), Box::new(hold));
        let settled = settled(status, REGISTER_BUDGET * 2, |state| {
            matches!(state, RegistrationState::Live | RegistrationState::Renewing) || state.is_final()
        });
        match settled.await? {
            Status { state, cause, .. } if state.is_final() => Err(cause.unwrap_or_else(|| {
                DiscoveryError::new(ErrorKind::Closed, "the registration was given up meanwhile")
            })),
            _ => Ok(registration),
        }
    }

    /// Ends every hold on the record, if `is_it` says of its body that it is the one meant.
    /// Success if there is none; one that is leaving already is waited for.
    ///
    /// # Errors
    /// As [`Registration::unregister`].
    pub async fn unregister(
        &self,
        key: &RecordKey,
        is_it: impl Fn(&[u8]) -> bool,
    ) -> Result<(), DiscoveryError> {
        match self.desk().withdraw(key, is_it) {
            Some(status) => released(status).await,
            None => Ok(()),
        }
    }

    /// Gives everything up, closes the session and ends the keeper. May be called again, and
    /// then ends the same way.
    ///
    /// # Errors
    /// `Timeout` if the backend did not confirm within `deadline`, 10 s at most; the keeper has
    /// ended all the same, up to half a second later, and nothing is renewed any more.
    ///
    /// # Cancel safety
    /// Begun with the first poll; goes on when the future is dropped.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), DiscoveryError> {
        self.desk().close();
        let mut ended = self.desk().ended();
        let mut over = timeout(deadline, ended.wait_for(Option::is_some)).await.is_ok();
        if !over {
            self.desk().abort();
            // Takes effect at the keeper's next await.
            over = timeout(ABORT, ended.wait_for(Option::is_some)).await.is_ok();
        }
        if over {
            self.desk().join();
        }
        if *ended.borrow() == Some(true) {
            return Ok(());
        }
        let context = format!("the backend did not confirm within {deadline:?}; what is left expires");
        Err(DiscoveryError::new(ErrorKind::Timeout, context))
    }

    fn desk(&self) -> &Arc<Desk> {
        &self.0.0
    }
}

impl fmt::Debug for Registrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrar")
            .field("config", self.desk().config())
            .finish_non_exhaustive()
    }
}

fn no_runtime(cause: TryCurrentError) -> DiscoveryError {
    let context = "registering needs a tokio runtime with its timer enabled";
    DiscoveryError::new(ErrorKind::InvalidConfig, context).with_source(cause)
}

/// Waits for a status that `done` accepts.
async fn settled(
    mut status: watch::Receiver<Status>,
    budget: Duration,
    done: impl Fn(RegistrationState) -> bool,
) -> Result<Status, DiscoveryError> {
    let settled = timeout(budget, status.wait_for(|status| done(status.state()))).await;
    match settled.map(|status| status.map(|status| status.clone())) {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(_)) => Err(DiscoveryError::new(
            ErrorKind::Closed,
            "the registrar has ended, or its runtime has",
        )),
        Err(_) => Err(status.borrow().cause.clone().unwrap_or_else(|| {
            let context = format!("the backend did not confirm within {budget:?}");
            DiscoveryError::new(ErrorKind::Timeout, context)
        })),
    }
}

/// Waits until a registration that was given up has ended.
async fn released(status: watch::Receiver<Status>) -> Result<(), DiscoveryError> {
    match settled(status, RELEASE_BUDGET, RegistrationState::is_final).await {
        // Gone, but nobody confirmed it.
        Ok(Status {
            state: RegistrationState::Gone,
            cause: Some(cause),
            ..
        }) => Err(cause),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::Closed => {
            let context = "renewal ended before the backend confirmed; the record expires with its TTL";
            Err(DiscoveryError::new(ErrorKind::Closed, context))
        }
        Err(error) => Err(error),
    }
}
