//! One registration, as the keeper sees it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use discovery_core::{
    Deadline, DiscoveryError, ErrorKind, RegistrationState, Retry,
    backoff::Backoff,
    registration::Status,
    store::{Expect, Held, Record, RecordKey, Version, Write, Writer},
};
use tokio::{sync::watch, time::Instant};

use super::{Judge, REGISTER_BUDGET, RegistrarConfig};

/// Takeovers that are tried without waiting in between.
const TAKEOVERS: u32 = 4;

/// What is to be done about a registration.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// It must be written: if absent, or over the record of the same holder in this version.
    Create { over: Option<Version> },
    /// It stands, by our own writing.
    Own(Version),
    /// It stands, kept by another living holder of the same peer.
    Shared,
    /// It must be removed, if the record there is ours.
    Withdraw { version: Option<Version> },
}

/// What a record that was found means for a registration.
pub(super) enum Standing {
    /// Our own write.
    Own(Version),
    /// The same holder with the same content, written by somebody else.
    Same(Version),
    /// Somebody or something else.
    Other(DiscoveryError),
}

pub(super) struct Row {
    system: Arc<str>,
    pub(super) key: RecordKey,
    body: Bytes,
    judge: Option<Judge>,
    pub(super) writer: Writer,
    pub(super) stage: Stage,
    status: watch::Sender<Status>,
    /// When the first attempt may have begun.
    since: Instant,
    /// Whether it ever stood: what fails from then on is mended, not reported to the caller.
    pub(super) registered: bool,
    /// Whether a call about it is under way.
    pub(super) in_flight: bool,
    /// Whether the last write went unanswered: look before writing again.
    pub(super) unsure: bool,
    /// Whether any write ever went unanswered: it may still arrive, so removing needs a fence.
    pub(super) unfenced: bool,
    /// How often a record that stands there was to be taken over, in a row.
    takeovers: u32,
    backoff: Backoff,
    retry_at: Option<Instant>,
}

impl Row {
    pub(super) fn new(
        config: &RegistrarConfig,
        key: RecordKey,
        body: Bytes,
        judge: Judge,
        writer: Writer,
        status: watch::Sender<Status>,
    ) -> Self {
        Self {
            system: config.system.clone(),
            key,
            body,
            judge: Some(judge),
            writer,
            stage: Stage::Create { over: None },
            status,
            since: Instant::now(),
            registered: false,
            in_flight: false,
            unsure: false,
            unfenced: false,
            takeovers: 0,
            backoff: Backoff::default(),
            retry_at: None,
        }
    }

    /// A record that nobody asked for and that hangs on our session: to be removed.
    pub(super) fn stray(config: &RegistrarConfig, record: Record) -> Self {
        let status = watch::Sender::new(Status {
            state: RegistrationState::Gone,
            deadline: None,
            cause: None,
        });
        Self {
            judge: None,
            stage: Stage::Withdraw {
                version: Some(record.version),
            },
            ..Self::new(
                config,
                record.key,
                record.body,
                Box::new(|_| Ok(())),
                record.writer,
                status,
            )
        }
    }

    pub(super) fn write(&self) -> Option<Write> {
        let Stage::Create { over } = &self.stage else {
            return None;
        };
        let expect = over.clone().map_or(Expect::Absent, Expect::Version);
        Some(Write {
            key: self.key.clone(),
            body: self.body.clone(),
            writer: self.writer,
            expect,
        })
    }

    pub(super) fn held(&self) -> Option<Held> {
        let Stage::Own(version) = &self.stage else {
            return None;
        };
        let (key, body, version) = (self.key.clone(), self.body.clone(), version.clone());
        Some(Held {
            key,
            body,
            writer: self.writer,
            version,
        })
    }

    pub(super) fn judge(&self, record: &Record) -> Standing {
        let version = record.version.clone();
        if record.writer == self.writer && record.body == self.body {
            return Standing::Own(version);
        }
        let judged = self.judge.as_ref().map_or(Ok(Ok(())), |judge| {
            // The judge is the caller's; one that panics must not take the others along.
            catch_unwind(AssertUnwindSafe(|| judge(&record.body)))
        });
        match judged {
            Ok(Ok(())) => Standing::Same(version),
            Ok(Err(error)) => Standing::Other(error),
            Err(_) => Standing::Other(DiscoveryError::new(ErrorKind::Unexpected, "the judge panicked")),
        }
    }

    pub(super) fn is_withdrawn(&self) -> bool {
        matches!(self.stage, Stage::Withdraw { .. })
    }

    pub(super) fn stands_somehow(&self) -> bool {
        matches!(self.stage, Stage::Own(_) | Stage::Shared)
    }

    /// Whether nothing of it can stand in the backend, now or later.
    pub(super) fn is_unwritten(&self) -> bool {
        !self.in_flight && !self.unfenced && matches!(self.stage, Stage::Withdraw { version: None })
    }

    /// When something is to be done about it; `None` if nothing is.
    pub(super) fn due(&self) -> Option<Instant> {
        let idle = self.in_flight || self.stands_somehow();
        (!idle).then(|| self.retry_at.unwrap_or(self.since))
    }

    /// It stands, and what was granted lasts until `deadline`.
    pub(super) fn stands(&mut self, stage: Stage, deadline: Deadline) {
        self.stage = stage;
        (self.registered, self.unsure, self.takeovers) = (true, false, 0);
        self.succeeded();
        self.publish(RegistrationState::Live, Some(deadline), None);
    }

    /// A record that stands there is to be taken over, at once; `false` if that was tried too
    /// often in a row, so that the next time has to wait.
    pub(super) fn takes_over(&mut self) -> bool {
        self.takeovers += 1;
        let at_once = !self.takeovers.is_multiple_of(TAKEOVERS);
        if at_once {
            self.retry_at = None;
        }
        at_once
    }

    /// The last call led somewhere: the next one need not wait.
    pub(super) fn succeeded(&mut self) {
        self.backoff.reset();
        self.retry_at = None;
    }

    /// It is to be removed; what is known of it decides how.
    pub(super) fn withdraw(&mut self) {
        let version = match &self.stage {
            Stage::Own(version) => Some(version.clone()),
            Stage::Withdraw { version } => version.clone(),
            Stage::Shared | Stage::Create { .. } => None,
        };
        self.unfenced |= self.unsure;
        self.stage = Stage::Withdraw { version };
        self.retry_at = None;
    }

    /// The backend said that it is gone: write it again.
    pub(super) fn lost(&mut self, cause: &DiscoveryError) {
        self.stage = Stage::Create { over: None };
        self.publish(RegistrationState::Lost, None, Some(cause.clone()));
    }

    /// A call about it failed. `false` if it was never registered and has failed for good.
    pub(super) fn failed(&mut self, error: &DiscoveryError, cap: Duration) -> bool {
        let retry_at = Instant::now() + self.backoff.next(error, cap);
        self.retry_at = Some(retry_at);
        if self.is_withdrawn() {
            return true;
        }
        if self.registered {
            self.lost(error);
            return true;
        }
        self.publish(RegistrationState::Pending, None, Some(error.clone()));
        let hopeless = error.retry() == Retry::Never && error.kind() != ErrorKind::LeaseLost;
        !hopeless && retry_at < self.since + REGISTER_BUDGET
    }

    /// A renewal went unanswered.
    pub(super) fn unrenewed(&self, cause: &DiscoveryError) {
        let deadline = self.status.borrow().deadline.clone();
        let passed = deadline.as_ref().is_none_or(Deadline::passed);
        let state = if passed {
            RegistrationState::Suspect
        } else {
            RegistrationState::Renewing
        };
        self.publish(state, deadline, Some(cause.clone()));
    }

    /// It has ended for good.
    pub(super) fn ended(&self, state: RegistrationState, cause: Option<DiscoveryError>) {
        self.publish(state, None, cause);
    }

    /// Stores what is known; wakes and logs only if the state changed. A final state stays.
    fn publish(&self, state: RegistrationState, deadline: Option<Deadline>, cause: Option<DiscoveryError>) {
        let changed = self.status.send_if_modified(|status| {
            let before = status.state;
            if before.is_final() {
                return false;
            }
            *status = Status {
                state,
                deadline,
                cause: cause.clone(),
            };
            before != state
        });
        if changed {
            self.log(state, cause.as_ref());
        }
    }

    fn log(&self, state: RegistrationState, cause: Option<&DiscoveryError>) {
        use RegistrationState::{Gone, Live, Pending};
        let (system, key) = (&*self.system, self.key.as_str());
        let cause = cause.map(tracing::field::display);
        match state {
            Live | Gone | Pending => {
                tracing::info!(target: "discovery::registration", system, key, state = state.name(), cause, "registration changed");
            }
            _ => {
                tracing::warn!(target: "discovery::registration", system, key, state = state.name(), cause, "registration changed");
            }
        }
    }
}
