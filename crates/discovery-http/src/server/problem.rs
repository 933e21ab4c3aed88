//! Errors as answers (RFC 9457).

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use discovery_core::{DiscoveryError, ErrorKind, Retry};
use serde_json::{Map, Value};

use super::warm_up;
use crate::wire::{self, Problem};

const OVERLOADED: &str = "overloaded";

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct Refusal(Box<Problem>);

impl Refusal {
    /// A code of the service's own.
    pub(super) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem {
            kind: format!("{}{code}", wire::PROBLEM_TYPE),
            title: code.replace('-', " "),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.to_owned(),
            retryable: false,
            outcome_unknown: false,
            retry_after_ms: None,
            more: Map::new(),
        }))
    }

    /// The code of an error kind.
    pub(super) fn of_kind(kind: ErrorKind, detail: impl Into<String>) -> Self {
        DiscoveryError::new(kind, detail).into()
    }

    /// An argument outside its limits.
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::of_kind(ErrorKind::InvalidArgument, detail)
    }

    /// A read that failed: whatever became of it, it may be repeated.
    pub(super) fn of_read(error: DiscoveryError) -> Self {
        Self::from(error).with_outcome_unknown(false)
    }

    /// Not now; nothing happened.
    pub(super) fn unavailable(code: &str, detail: &str, retry_after: Duration) -> Self {
        let mut refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail);
        refusal.0.retryable = true;
        refusal.0.retry_after_ms = Some(wire::millis(retry_after));
        refusal
    }

    /// More is asked for than the service works on at a time; nothing happened.
    pub(super) fn overloaded(detail: &str) -> Self {
        Self::unavailable(OVERLOADED, detail, Duration::from_millis(500))
    }

    /// Nothing happened; it may be repeated at once.
    pub(super) fn retryable(mut self) -> Self {
        self.0.retryable = true;
        self
    }

    /// Says whether what was asked for may have happened.
    pub(super) fn with_outcome_unknown(mut self, unknown: bool) -> Self {
        self.0.outcome_unknown = unknown;
        self
    }

    /// Adds an extension member.
    pub(super) fn with(mut self, name: &str, value: Value) -> Self {
        self.0.more.insert(name.to_owned(), value);
        self
    }

    /// The problem, for an answer about one of many items.
    pub(super) fn into_problem(self) -> Problem {
        *self.0
    }
}

impl From<DiscoveryError> for Refusal {
    fn from(error: DiscoveryError) -> Self {
        let mut refusal = Self::new(status(error.kind()), error.kind().code(), error.context());
        let problem = &mut refusal.0;
        match error.retry() {
            Retry::Never => {}
            Retry::Safe { after } => {
                problem.retryable = true;
                problem.retry_after_ms = after.map(wire::millis);
            }
            Retry::OutcomeUnknown => {
                problem.retryable = true;
                problem.outcome_unknown = true;
            }
        }
        refusal
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = self.0;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if [warm_up::CODE, OVERLOADED].contains(&problem.code.as_str()) {
            // Expected, and every request of a fleet would say so.
            tracing::debug!(code = problem.code, "request refused");
        } else if status.is_server_error() {
            tracing::warn!(code = problem.code, detail = problem.detail, "request refused");
        }
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(wire::PROBLEM_JSON));
        if let Some(wait) = problem.retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.div_ceil(1_000)));
        }
        response
    }
}

fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidArgument | ErrorKind::InvalidConfig => StatusCode::BAD_REQUEST,
        ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::WorkerIdCollision | ErrorKind::ChecksumMismatch | ErrorKind::Superseded => {
            StatusCode::CONFLICT
        }
        ErrorKind::LeaseLost => StatusCode::GONE,
        ErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Unavailable | ErrorKind::Closed => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
