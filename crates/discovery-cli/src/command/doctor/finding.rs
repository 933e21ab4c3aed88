//! What an examination finds out, one check at a time.

use std::time::Duration;

use discovery::{DiscoveryError, ErrorKind};
use serde::Serialize;

use crate::failure::Failure;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    /// It works.
    Ok,
    /// It works, but takes longer than it may.
    Late,
    /// It does not work.
    Failed,
    /// The system does not declare it.
    NotOffered,
    /// What it builds upon has failed.
    Skipped,
}

/// What one check found.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) status: Status,
    pub(super) what: String,
    pub(super) took: Option<Duration>,
    pub(super) limit: Option<Duration>,
    /// What is wrong, and how to put it right.
    pub(super) failure: Option<Failure>,
}

impl Finding {
    /// It works.
    pub(super) fn fine(what: impl Into<String>, took: Duration) -> Self {
        Self {
            took: Some(took),
            ..Self::new(Status::Ok, what)
        }
    }

    /// It works, later than it may.
    pub(super) fn late(what: impl Into<String>, took: Duration, limit: Duration) -> Self {
        let what = what.into();
        let message = format!("{what}, but later than the limit of {limit:?}");
        let failure =
            wrong(message).with_hint("the backend, the network or this machine is busy: look there");
        Self {
            status: Status::Late,
            took: Some(took),
            limit: Some(limit),
            failure: Some(failure),
            what,
        }
    }

    /// Works within its limit, or late.
    pub(super) fn timed(what: impl Into<String>, took: Duration, limit: Duration) -> Self {
        match took <= limit {
            true => Self::fine(what, took).within(limit),
            false => Self::late(what, took, limit),
        }
    }

    /// It does not work.
    pub(super) fn failed(failure: impl Into<Failure>, took: Duration) -> Self {
        Self {
            took: Some(took),
            failure: Some(failure.into()),
            ..Self::new(Status::Failed, "")
        }
    }

    /// Nobody claims that it works.
    pub(super) fn not_offered() -> Self {
        Self::new(Status::NotOffered, "the system does not offer it")
    }

    /// Without that other check it means nothing.
    pub(super) fn skipped(without: &str) -> Self {
        Self::new(Status::Skipped, format!("means nothing without `{without}`"))
    }

    /// How long it may take.
    #[must_use]
    pub(super) fn within(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    fn new(status: Status, what: impl Into<String>) -> Self {
        Self {
            status,
            what: what.into(),
            took: None,
            limit: None,
            failure: None,
        }
    }
}

/// The system answers, and answers wrongly.
pub(super) fn wrong(message: impl Into<String>) -> Failure {
    Failure::new(ErrorKind::Unexpected, message)
}

/// An error of a call that the system declares: that it is not supported is wrong, too.
pub(super) fn refused(error: DiscoveryError) -> Failure {
    match error.kind() {
        ErrorKind::Unsupported => wrong(format!("declared, but not there: {error}"))
            .with_hint("this is a bug of the backend: please report it"),
        _ => error.into(),
    }
}
