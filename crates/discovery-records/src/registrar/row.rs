//! One registration, as the keeper sees it.

use std::sync::Arc;

use bytes::Bytes;
use discovery_core::Deadline;
use discovery_core::{
    DiscoveryError, RegistrationState,
    registration::Status,
    store::{Expect, Held, Record, RecordKey, Removal, Version, Write, Writer},
};
use tokio::{sync::watch, time::Instant};

use super::{Judge, RegistrarConfig};

/// What is to be done about a registration.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// It must be written: if absent, or over the record of the same holder in this version.
    Create { over: Option<Version> },
    /// It stands. `own`: by our writing; else another living holder of the same peer keeps it.
    Held { version: Version, own: bool },
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
    judge: Judge,
    pub(super) writer: Writer,
    pub(super) stage: Stage,
    status: watch::Sender<Status>,
    /// When the first attempt may have begun.
    pub(super) since: Instant,
    /// Whether it ever stood: what fails from then on is mended, not reported to the caller.
    pub(super) registered: bool,
    /// Whether the last write went unanswered: look before writing again.
    pub(super) unsure: bool,
    /// Whether any write ever went unanswered: it may still arrive, so removing needs a fence.
    pub(super) unfenced: bool,
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
            judge,
            writer,
            stage: Stage::Create { over: None },
            status,
            since: Instant::now(),
            registered: false,
            unsure: false,
            unfenced: false,
        }
    }

    pub(super) fn write(&self, over: Option<Version>) -> Write {
        let expect = over.map_or(Expect::Absent, Expect::Version);
        Write {
            key: self.key.clone(),
            body: self.body.clone(),
            writer: self.writer,
            expect,
        }
    }

    pub(super) fn held(&self) -> Option<Held> {
        let Stage::Held { version, .. } = &self.stage else {
            return None;
        };
        Some(Held {
            key: self.key.clone(),
            body: self.body.clone(),
            writer: self.writer,
            version: version.clone(),
        })
    }

    pub(super) fn removal(&self, expect: Expect) -> Removal {
        Removal {
            key: self.key.clone(),
            writer: self.writer,
            expect,
        }
    }

    pub(super) fn judge(&self, record: &Record) -> Standing {
        let version = record.version.clone();
        if record.writer == self.writer && record.body == self.body {
            return Standing::Own(version);
        }
        match (self.judge)(&record.body) {
            Ok(()) => Standing::Same(version),
            Err(error) => Standing::Other(error),
        }
    }

    pub(super) fn is_withdrawn(&self) -> bool {
        matches!(self.stage, Stage::Withdraw { .. })
    }

    /// It stands, and what was granted lasts until `deadline`.
    pub(super) fn stands(&mut self, version: Version, own: bool, deadline: Deadline) {
        self.stage = Stage::Held { version, own };
        (self.registered, self.unsure) = (true, false);
        self.publish(RegistrationState::Live, Some(deadline), None);
    }

    /// It is to be removed; what is known of it decides how.
    pub(super) fn withdraw(&mut self) {
        let version = match &self.stage {
            Stage::Held { version, own: true } => Some(version.clone()),
            Stage::Withdraw { version } => version.clone(),
            Stage::Held { own: false, .. } | Stage::Create { .. } => None,
        };
        // A record found by another's hand needs no removal, and an unwritten one none either.
        self.unfenced |= self.unsure;
        self.stage = Stage::Withdraw { version };
    }

    /// The backend said that it is gone: write it again.
    pub(super) fn lost(&mut self, cause: &DiscoveryError) {
        self.stage = Stage::Create { over: None };
        if self.registered {
            self.publish(RegistrationState::Lost, None, Some(cause.clone()));
        }
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
