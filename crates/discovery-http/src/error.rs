//! What went wrong on the wire, as errors that a caller can act on.

use std::time::Duration;

use discovery_core::{DiscoveryError, ErrorKind, Retry};

use crate::wire::{self, Problem};

/// Name of the system in messages.
pub(crate) const SYSTEM: &str = "http";

/// Whether a request may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Read,
    Write,
}

impl Effect {
    /// What may be done after a request whose outcome nobody told.
    pub(crate) fn unanswered(self) -> Retry {
        match self {
            Self::Read => Retry::Safe { after: None },
            Self::Write => Retry::OutcomeUnknown,
        }
    }
}

/// An answer with a problem. Of the service's own, the code decides; of anything in between,
/// the status does.
pub(crate) fn from_problem(problem: &Problem, status: u16, effect: Effect, host: &str) -> DiscoveryError {
    if !problem.kind.starts_with(wire::PROBLEM_TYPE) {
        return from_status(status, effect, host);
    }
    let kind = match kind_of(&problem.code, status) {
        // That nothing stands there is said by a success, item by item.
        ErrorKind::NotFound => ErrorKind::Unexpected,
        kind => kind,
    };
    let safe = Retry::Safe {
        after: problem.retry_after_ms.map(Duration::from_millis),
    };
    let retry = match (problem.outcome_unknown, problem.retryable) {
        (true, _) if effect == Effect::Write => Retry::OutcomeUnknown,
        (true, _) | (false, true) => safe,
        (false, false) => Retry::Never,
    };
    let detail = match problem.detail.as_str() {
        "" => &problem.code,
        detail => detail,
    };
    error(kind, format!("{} (answered by {host})", short(detail))).with_retry(retry)
}

/// An answer that is not of the service's own making, such as the page of a proxy in between.
pub(crate) fn from_status(status: u16, effect: Effect, host: &str) -> DiscoveryError {
    let context = format!("{host} answered with status {status}, not as a discovery service does");
    let error = error(kind_of("", status), context);
    match status {
        408 | 500.. => error.with_retry(effect.unanswered()),
        _ => error,
    }
}

/// A success that cannot be read.
pub(crate) fn unreadable(effect: Effect, host: &str, why: &str) -> DiscoveryError {
    let error = error(ErrorKind::Malformed, format!("{host} answered, but {why}"));
    match effect {
        Effect::Read => error,
        Effect::Write => error.with_retry(Retry::OutcomeUnknown),
    }
}

/// No answer in time; `sent` tells whether the request had left.
pub(crate) fn timed_out(effect: Effect, sent: bool, host: &str, limit: Duration) -> DiscoveryError {
    let retry = match sent {
        true => effect.unanswered(),
        false => Retry::Safe { after: None },
    };
    let context = match sent {
        true => format!("no answer from {host} within {limit:?}"),
        false => format!("too many requests to {host} in flight for {limit:?}"),
    };
    error(ErrorKind::Timeout, context).with_retry(retry)
}

/// The request failed below HTTP.
pub(crate) fn from_reqwest(cause: reqwest::Error, effect: Effect, host: &str) -> DiscoveryError {
    // The URL in reqwest's own message holds the session's name.
    let cause = cause.without_url();
    let (kind, retry, context) = if cause.is_builder() {
        (
            ErrorKind::InvalidConfig,
            Retry::Never,
            format!("cannot form a request to {host}"),
        )
    } else if cause.is_connect() && !cause.is_timeout() {
        let context = format!("cannot connect to {host}");
        (ErrorKind::Unavailable, Retry::Safe { after: None }, context)
    } else if cause.is_connect() {
        let context = format!("no connection to {host} in time");
        (ErrorKind::Timeout, Retry::Safe { after: None }, context)
    } else if cause.is_timeout() {
        (
            ErrorKind::Timeout,
            effect.unanswered(),
            format!("no answer from {host} in time"),
        )
    } else {
        let context = format!("the connection to {host} broke before the answer was complete");
        (ErrorKind::Unavailable, effect.unanswered(), context)
    };
    error(kind, context).with_retry(retry).with_source(cause)
}

pub(crate) fn error(kind: ErrorKind, context: String) -> DiscoveryError {
    DiscoveryError::new(kind, context).with_system(SYSTEM)
}

/// The kind that a code stands for; for codes that are no kind, what they come down to.
fn kind_of(code: &str, status: u16) -> ErrorKind {
    if let Some(kind) = ErrorKind::from_code(code) {
        return kind;
    }
    match (code, status) {
        ("no-such-route" | "method-not-allowed" | "not-acceptable", _) | (_, 406) => ErrorKind::Unsupported,
        ("too-large", _) => ErrorKind::InvalidArgument,
        ("warming-up" | "overloaded", _) | (_, 500..) => ErrorKind::Unavailable,
        (_, 401 | 403) => ErrorKind::PermissionDenied,
        (_, 408) => ErrorKind::Timeout,
        (_, 429) => ErrorKind::RateLimited,
        _ => ErrorKind::Unexpected,
    }
}

/// Foreign text, cut short.
fn short(text: &str) -> &str {
    let end = text.char_indices().nth(500).map_or(text.len(), |(end, _)| end);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(code: &str) -> Problem {
        let kind = format!("urn:discovery:problem:{code}");
        serde_json::from_value(serde_json::json!({"type": kind, "code": code})).unwrap()
    }

    fn kind(problem: &Problem, status: u16) -> ErrorKind {
        from_problem(problem, status, Effect::Read, "h:1").kind()
    }

    #[test]
    fn every_kind_survives_the_wire_but_one_that_is_no_answer() {
        for expected in ErrorKind::ALL {
            let found = kind(&problem(expected.code()), 400);
            match expected {
                ErrorKind::NotFound => assert_eq!(found, ErrorKind::Unexpected),
                _ => assert_eq!(found, expected),
            }
        }
    }

    #[test]
    fn the_code_of_a_stranger_says_nothing() {
        for stranger in ["", "about:blank", "https://shop/problems/not-found"] {
            let mut problem = problem("lease-lost");
            problem.kind = stranger.to_owned();
            problem.retryable = true;
            for (status, expected) in [
                (404, ErrorKind::Unexpected),
                (410, ErrorKind::Unexpected),
                (403, ErrorKind::PermissionDenied),
                (503, ErrorKind::Unavailable),
            ] {
                assert_eq!(kind(&problem, status), expected, "{stranger} {status}");
            }
            let error = from_problem(&problem, 503, Effect::Write, "h:1");
            assert_eq!(error.retry(), Retry::OutcomeUnknown, "nor does its advice");
        }
    }

    #[test]
    fn codes_that_are_no_kind_come_down_to_one() {
        for (code, status, expected) in [
            ("no-such-route", 404, ErrorKind::Unsupported),
            ("method-not-allowed", 405, ErrorKind::Unsupported),
            ("not-acceptable", 406, ErrorKind::Unsupported),
            ("from-the-future", 406, ErrorKind::Unsupported),
            ("too-large", 413, ErrorKind::InvalidArgument),
            ("warming-up", 503, ErrorKind::Unavailable),
            ("overloaded", 503, ErrorKind::Unavailable),
            ("from-the-future", 404, ErrorKind::Unexpected),
            ("from-the-future", 503, ErrorKind::Unavailable),
            ("from-the-future", 429, ErrorKind::RateLimited),
            ("from-the-future", 401, ErrorKind::PermissionDenied),
        ] {
            assert_eq!(kind(&problem(code), status), expected, "{code} {status}");
        }
    }

    #[test]
    fn a_page_of_a_proxy_is_never_a_missing_record() {
        for (status, effect, kind, retry) in [
            (
                502,
                Effect::Read,
                ErrorKind::Unavailable,
                Retry::Safe { after: None },
            ),
            (502, Effect::Write, ErrorKind::Unavailable, Retry::OutcomeUnknown),
            (504, Effect::Write, ErrorKind::Unavailable, Retry::OutcomeUnknown),
            (404, Effect::Read, ErrorKind::Unexpected, Retry::Never),
            (302, Effect::Read, ErrorKind::Unexpected, Retry::Never),
            (401, Effect::Write, ErrorKind::PermissionDenied, Retry::Never),
            (408, Effect::Read, ErrorKind::Timeout, Retry::Safe { after: None }),
        ] {
            let error = from_status(status, effect, "h:1");
            assert_eq!(
                (error.kind(), error.retry()),
                (kind, retry),
                "{status} {effect:?}"
            );
            assert!(error.to_string().contains("h:1"), "{error}");
        }
    }

    #[test]
    fn retry_advice_is_taken_over() {
        let mut advice = problem("warming-up");
        (advice.retryable, advice.retry_after_ms) = (true, Some(1_500));
        let retry = |problem: &Problem, effect| from_problem(problem, 503, effect, "h:1").retry();
        let after = Some(Duration::from_millis(1_500));
        assert_eq!(retry(&advice, Effect::Write), Retry::Safe { after });
        advice.outcome_unknown = true;
        assert_eq!(retry(&advice, Effect::Write), Retry::OutcomeUnknown);
        assert_eq!(
            retry(&advice, Effect::Read),
            Retry::Safe { after },
            "a read has no outcome"
        );
    }

    #[test]
    fn a_write_that_never_left_may_be_repeated() {
        let limit = Duration::from_secs(2);
        let retry = |effect, sent| timed_out(effect, sent, "h:1", limit).retry();
        assert_eq!(retry(Effect::Write, true), Retry::OutcomeUnknown);
        assert_eq!(retry(Effect::Write, false), Retry::Safe { after: None });
        assert_eq!(retry(Effect::Read, true), Retry::Safe { after: None });
        assert_eq!(
            unreadable(Effect::Write, "h:1", "x").retry(),
            Retry::OutcomeUnknown
        );
    }
}
