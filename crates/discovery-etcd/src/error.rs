//! What etcd and the way to it say, as errors that a caller can act on.
//!
//! etcd tells most things by a gRPC code alone. Where one code means several things, the text is
//! all that it gives; those texts are constants of its protocol
//! (`api/v3rpc/rpctypes/error.go` of the server).

mod tls;

use std::{
    error::{self, Error as _},
    io, iter,
    time::Duration,
};

use discovery_core::{DiscoveryError, ErrorKind, Retry};
use etcd_client::Error;
use tonic::{Code, ConnectError, Status};

use crate::client::Gone;

/// Name of the system in messages.
pub(crate) const SYSTEM: &str = "etcd";

/// After how long a server without space, or with too many requests, may be asked again.
const CROWDED: Duration = Duration::from_secs(1);

/// Whether a request may have changed something that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It may be repeated.
    Read,
    /// It must be looked at before it is repeated.
    Write,
}

impl Effect {
    /// What may be done after a request whose outcome nobody told.
    fn unanswered(self) -> Retry {
        match self {
            Self::Read => Retry::Safe { after: None },
            Self::Write => Retry::OutcomeUnknown,
        }
    }
}

/// How far a request came that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It certainly was not sent.
    NotSent,
    /// The same: the server hung up when TLS was to begin.
    HungUp,
    /// It may have been sent, and its connection is not to be trusted any more.
    Broken,
    /// There was no answer in time: the same, and waiting again would take as long.
    Silent,
    /// The server says that it cannot answer now; another one may.
    Elsewhere,
    /// The server's answer.
    Answered,
    /// The server's answer: it does not have this revision, not any more or not yet.
    NoRevision,
    /// The server does not know any more who asks, and has done nothing.
    Forgotten,
}

impl Reach {
    /// Whether it is what the server says to what it was asked.
    pub(crate) fn is_answer(self) -> bool {
        matches!(self, Self::Answered | Self::NoRevision | Self::Forgotten)
    }
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) reach: Reach,
    pub(crate) error: DiscoveryError,
}

impl Fault {
    fn new(reach: Reach, kind: ErrorKind, retry: Retry, context: String) -> Self {
        let error = DiscoveryError::new(kind, context)
            .with_system(SYSTEM)
            .with_retry(retry);
        Self { reach, error }
    }

    /// What was found on this side, and is the same at every server.
    pub(crate) fn own(error: DiscoveryError) -> Self {
        Self {
            reach: Reach::Answered,
            error: error.with_system(SYSTEM),
        }
    }

    /// A server that is spoken to in plaintext speaks TLS.
    pub(crate) fn speaks_tls(host: &str) -> Self {
        let context = format!("{host} speaks TLS only: use etcds://");
        Self::new(Reach::NotSent, ErrorKind::InvalidConfig, Retry::Never, context)
    }

    /// What TLS says, if it is that which failed.
    pub(crate) fn refused(cause: &io::Error, host: &str) -> Option<Self> {
        tls::refused(cause, host)
    }

    /// A server that is spoken to in TLS does not speak it.
    pub(crate) fn speaks_no_tls(host: &str) -> Self {
        let context = format!("{host} does not speak TLS: use etcd://");
        Self::new(Reach::NotSent, ErrorKind::InvalidConfig, Retry::Never, context)
    }

    /// The same failure of what had to come before a request, which therefore was not sent.
    pub(crate) fn before_sending(mut self) -> Self {
        match self.reach {
            Reach::Broken | Reach::Silent | Reach::Elsewhere => self.reach = Reach::NotSent,
            Reach::NotSent | Reach::HungUp | Reach::Answered | Reach::NoRevision | Reach::Forgotten => {}
        }
        self
    }

    /// The server answered with what it should not.
    pub(crate) fn strange(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self::new(Reach::Answered, kind, Retry::Never, context.into())
    }

    /// No answer in time.
    pub(crate) fn silent(effect: Effect, host: &str, limit: Duration) -> Self {
        let context = format!("no answer from {host} within {limit:?}");
        Self::new(Reach::Silent, ErrorKind::Timeout, effect.unanswered(), context)
    }

    /// There was no time left to ask.
    pub(crate) fn too_late(host: &str) -> Self {
        let context = format!("no time left to ask {host}");
        let retry = Retry::Safe { after: None };
        Self::new(Reach::NotSent, ErrorKind::Timeout, retry, context)
    }

    /// A stream came to its end.
    pub(crate) fn ended(context: String) -> Self {
        let retry = Retry::Safe { after: None };
        Self::new(Reach::Broken, ErrorKind::Unavailable, retry, context)
    }

    /// The session has ended.
    pub(crate) fn lease_lost() -> Self {
        let context = "the lease has expired or was revoked".to_owned();
        Self::new(Reach::Answered, ErrorKind::LeaseLost, Retry::Never, context)
    }

    /// What the vendor's client says.
    pub(crate) fn from_vendor(cause: Error, effect: Effect, host: &str) -> Self {
        let mut fault = match &cause {
            Error::GRpcStatus(status) => from_status(status, effect, host),
            Error::LeaseKeepAliveError(text) if text == "lease not found" => Self::lease_lost(),
            Error::LeaseKeepAliveError(_) | Error::WatchError(_) => {
                let context = format!("the connection to {host} broke before the answer was complete");
                Self::new(
                    Reach::Broken,
                    ErrorKind::Unavailable,
                    effect.unanswered(),
                    context,
                )
            }
            Error::InvalidArgs(_)
            | Error::InvalidUri(_)
            | Error::EndpointError(_)
            | Error::TransportError(_) => {
                let context = format!("cannot form a request to {host}");
                Self::new(Reach::NotSent, ErrorKind::InvalidConfig, Retry::Never, context)
            }
            _ => {
                let context = format!("a request to {host} failed in an unexpected way");
                Self::new(Reach::Broken, ErrorKind::Unexpected, effect.unanswered(), context)
            }
        };
        fault.error = match cause {
            // What a status says of its causes is a dump of them: what it began with will do.
            Error::GRpcStatus(status) => match root(&status) {
                Some(root) => fault.error.with_source(root),
                None => fault.error,
            },
            cause => fault.error.with_source(cause),
        };
        fault
    }
}

fn from_status(status: &Status, effect: Effect, host: &str) -> Fault {
    if let Some(fault) = tls::refusal(status, host) {
        return fault;
    }
    if causes(status).any(|cause| cause.is::<Gone>()) {
        let context = format!("the connection to {host} broke, and with it ended the login");
        let retry = Retry::Safe { after: None };
        return Fault::new(Reach::Forgotten, ErrorKind::Unavailable, retry, context);
    }
    if was_not_sent(status) {
        let context = format!("cannot connect to {host}");
        let retry = Retry::Safe { after: None };
        return Fault::new(Reach::NotSent, ErrorKind::Unavailable, retry, context);
    }
    let text = status.message();
    let context = format!("{host} answered: {}", short(text));
    let safe = |after| Retry::Safe { after };
    let (reach, kind, retry) = match (status.code(), text) {
        // What has a cause was made on this side: the connection broke under the request.
        (Code::Cancelled, text) if text.contains("Timeout expired") => {
            (Reach::Silent, ErrorKind::Timeout, effect.unanswered())
        }
        (Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled, _)
            if status.source().is_some() =>
        {
            let context = format!("the connection to {host} broke before the answer was complete");
            return Fault::new(
                Reach::Broken,
                ErrorKind::Unavailable,
                effect.unanswered(),
                context,
            );
        }
        (Code::DeadlineExceeded, _) => (Reach::Silent, ErrorKind::Timeout, effect.unanswered()),
        // No quorum, no leader, or stopping: another server may know more.
        (Code::Unknown, text) if text.contains("context deadline exceeded") => {
            (Reach::Elsewhere, ErrorKind::Timeout, effect.unanswered())
        }
        (Code::Unavailable | Code::Aborted | Code::Cancelled | Code::Internal, _) => {
            (Reach::Elsewhere, ErrorKind::Unavailable, effect.unanswered())
        }
        (Code::NotFound, text) if text.contains("requested lease not found") => {
            (Reach::Answered, ErrorKind::LeaseLost, Retry::Never)
        }
        (Code::OutOfRange, text) if text.contains("required revision") => {
            (Reach::NoRevision, ErrorKind::Unexpected, safe(None))
        }
        (Code::ResourceExhausted, text) if text.contains("database space exceeded") => {
            (Reach::Answered, ErrorKind::Unavailable, safe(Some(CROWDED)))
        }
        (Code::ResourceExhausted, _) => (Reach::Answered, ErrorKind::RateLimited, safe(Some(CROWDED))),
        (Code::Unauthenticated, _) => (Reach::Forgotten, ErrorKind::PermissionDenied, Retry::Never),
        (Code::PermissionDenied, _) => (Reach::Answered, ErrorKind::PermissionDenied, Retry::Never),
        (Code::InvalidArgument, text)
            if text.contains("authentication failed") || text.contains("user name is empty") =>
        {
            (Reach::Answered, ErrorKind::PermissionDenied, Retry::Never)
        }
        // Users or their rights were changed since the login.
        (Code::InvalidArgument, text) if text.contains("revision of auth store is old") => {
            (Reach::Forgotten, ErrorKind::PermissionDenied, Retry::Never)
        }
        (Code::InvalidArgument, text) if text.contains("request is too large") => {
            (Reach::Answered, ErrorKind::InvalidArgument, Retry::Never)
        }
        (Code::FailedPrecondition, text) if text.contains("authentication is not enabled") => {
            (Reach::Answered, ErrorKind::InvalidConfig, Retry::Never)
        }
        (Code::Unimplemented, _) => (Reach::Answered, ErrorKind::Unsupported, Retry::Never),
        _ => {
            let retry = match effect {
                Effect::Read => Retry::Never,
                Effect::Write => Retry::OutcomeUnknown,
            };
            (Reach::Answered, ErrorKind::Unexpected, retry)
        }
    };
    Fault::new(reach, kind, retry, context)
}

/// Whether the connection could not even be made.
fn was_not_sent(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<ConnectError>())
}

/// What it all began with, in words.
fn root(status: &Status) -> Option<String> {
    causes(status).last().map(ToString::to_string)
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn error::Error + 'static)> {
    iter::successors(status.source(), |&cause| cause.source())
}

/// Why the server ended a watch, where it does not say that it is for a compaction.
pub(crate) fn canceled(reason: &str, host: &str) -> Fault {
    let context = format!("{host} ended the watch: {}", short(reason));
    // In-band, the reason is the only thing that tells.
    if reason.contains("auth token") {
        let kind = ErrorKind::PermissionDenied;
        return Fault::new(Reach::Forgotten, kind, Retry::Safe { after: None }, context);
    }
    if reason.contains("PermissionDenied") || reason.contains("permission denied") {
        return Fault::new(
            Reach::Answered,
            ErrorKind::PermissionDenied,
            Retry::Never,
            context,
        );
    }
    Fault::new(
        Reach::Elsewhere,
        ErrorKind::Unavailable,
        Retry::Safe { after: None },
        context,
    )
}

/// Foreign text, cut short.
fn short(text: &str) -> &str {
    let end = text.char_indices().nth(500).map_or(text.len(), |(end, _)| end);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn seen(status: Status, effect: Effect) -> (Reach, ErrorKind, Retry) {
        let fault = Fault::from_vendor(Error::GRpcStatus(status), effect, "h:1");
        assert!(fault.error.to_string().contains("h:1"), "{}", fault.error);
        assert_eq!(fault.error.system(), Some("etcd"));
        (fault.reach, fault.error.kind(), fault.error.retry())
    }

    #[test]
    fn what_the_server_says_is_told_apart() {
        use ErrorKind::{
            InvalidArgument, InvalidConfig, LeaseLost, PermissionDenied, RateLimited, Timeout, Unavailable,
            Unexpected, Unsupported,
        };
        use Reach::{Answered, Elsewhere, Forgotten, NoRevision, Silent};
        let (safe, never, unknown) = (Retry::Safe { after: None }, Retry::Never, Retry::OutcomeUnknown);
        let later = Retry::Safe { after: Some(CROWDED) };
        // The code, the text, how far it came, the kind, and what a read and a write may do.
        let table = [
            (
                Code::NotFound,
                "etcdserver: requested lease not found",
                Answered,
                LeaseLost,
                never,
                never,
            ),
            (
                Code::Unavailable,
                "etcdserver: no leader",
                Elsewhere,
                Unavailable,
                safe,
                unknown,
            ),
            (
                Code::Unavailable,
                "etcdserver: request timed out",
                Elsewhere,
                Unavailable,
                safe,
                unknown,
            ),
            (
                Code::Unavailable,
                "etcdserver: leader changed",
                Elsewhere,
                Unavailable,
                safe,
                unknown,
            ),
            (Code::Cancelled, "Timeout expired", Silent, Timeout, safe, unknown),
            (
                Code::Cancelled,
                "context canceled",
                Elsewhere,
                Unavailable,
                safe,
                unknown,
            ),
            (Code::DeadlineExceeded, "", Silent, Timeout, safe, unknown),
            (
                Code::Unknown,
                "context deadline exceeded",
                Elsewhere,
                Timeout,
                safe,
                unknown,
            ),
            (
                Code::Unknown,
                "something else",
                Answered,
                Unexpected,
                never,
                unknown,
            ),
            (Code::Aborted, "", Elsewhere, Unavailable, safe, unknown),
            (Code::Internal, "", Elsewhere, Unavailable, safe, unknown),
            (
                Code::ResourceExhausted,
                "etcdserver: too many requests",
                Answered,
                RateLimited,
                later,
                later,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                Answered,
                Unavailable,
                later,
                later,
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                NoRevision,
                Unexpected,
                safe,
                safe,
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
                NoRevision,
                Unexpected,
                safe,
                safe,
            ),
            (
                Code::OutOfRange,
                "decoded message length too large",
                Answered,
                Unexpected,
                never,
                unknown,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: revision of auth store is old",
                Forgotten,
                PermissionDenied,
                never,
                never,
            ),
            (
                Code::Unauthenticated,
                "etcdserver: invalid auth token",
                Forgotten,
                PermissionDenied,
                never,
                never,
            ),
            (
                Code::PermissionDenied,
                "etcdserver: permission denied",
                Answered,
                PermissionDenied,
                never,
                never,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                Answered,
                PermissionDenied,
                never,
                never,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: user name is empty",
                Answered,
                PermissionDenied,
                never,
                never,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: request is too large",
                Answered,
                InvalidArgument,
                never,
                never,
            ),
            (
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled",
                Answered,
                InvalidConfig,
                never,
                never,
            ),
            (Code::Unimplemented, "", Answered, Unsupported, never, never),
        ];
        for (code, text, reach, kind, read, write) in table {
            let status = || Status::new(code, text);
            assert_eq!(
                seen(status(), Effect::Read),
                (reach, kind, read),
                "{code:?} {text}"
            );
            assert_eq!(
                seen(status(), Effect::Write),
                (reach, kind, write),
                "{code:?} {text}"
            );
        }
    }

    #[test]
    fn what_broke_on_the_way_is_no_answer() {
        for code in [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled] {
            let mut status = Status::new(code, "h2 protocol error");
            status.set_source(Arc::new(io::Error::from(io::ErrorKind::ConnectionReset)));
            let (reach, kind, retry) = seen(status, Effect::Write);
            assert_eq!(
                (reach, kind, retry),
                (Reach::Broken, ErrorKind::Unavailable, Retry::OutcomeUnknown),
                "{code:?}"
            );
        }
    }

    #[test]
    fn only_what_could_not_connect_was_certainly_not_sent() {
        let mut status = Status::new(Code::Unavailable, "tcp connect error");
        status.set_source(Arc::new(ConnectError("refused".into())));
        assert_eq!(
            seen(status, Effect::Write),
            (
                Reach::NotSent,
                ErrorKind::Unavailable,
                Retry::Safe { after: None }
            )
        );
    }

    #[test]
    fn who_was_logged_in_over_a_connection_that_is_gone_has_sent_nothing() {
        let mut status = Status::new(Code::Unavailable, "x");
        status.set_source(Arc::new(ConnectError(Gone.into())));
        let (reach, kind, retry) = seen(status, Effect::Write);
        let safe = Retry::Safe { after: None };
        assert_eq!(
            (reach, kind, retry),
            (Reach::Forgotten, ErrorKind::Unavailable, safe)
        );
    }

    #[test]
    fn the_cause_of_a_broken_connection_is_told_in_words() {
        let mut status = Status::new(Code::Unavailable, "tcp connect error");
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        status.set_source(Arc::new(ConnectError(refused.into())));
        let fault = Fault::from_vendor(Error::GRpcStatus(status), Effect::Read, "h:1");
        let cause = fault.error.source().unwrap();
        assert_eq!(cause.to_string(), "connection refused");
    }

    #[test]
    fn keep_alive_tells_of_a_lost_lease_by_its_text_only() {
        let fault = |text: &str| {
            let error = Error::LeaseKeepAliveError(text.to_owned());
            Fault::from_vendor(error, Effect::Read, "h:1")
        };
        assert_eq!(fault("lease not found").error.kind(), ErrorKind::LeaseLost);
        assert_eq!(fault("channel closed").error.kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn the_end_of_a_watch_is_read_from_its_reason() {
        let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        assert_eq!(canceled(denied, "h:1").error.kind(), ErrorKind::PermissionDenied);
        let expired = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
        assert_eq!(canceled(expired, "h:1").reach, Reach::Forgotten);
        assert_eq!(canceled("", "h:1").error.kind(), ErrorKind::Unavailable);
    }
}
