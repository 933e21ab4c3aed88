//! The one error type, and what may be done about an error.

use std::{error::Error, fmt, sync::Arc, time::Duration};

/// What went wrong, as far as a caller can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A backend was asked and answered that there is no such thing. Never a guess.
    NotFound,
    /// Another instance stands under the same worker id.
    WorkerIdCollision,
    /// The same instance stands there with another address.
    ChecksumMismatch,
    /// A registration lost its place to another instance or address.
    Superseded,
    /// The session behind a registration ended: expired, revoked or forgotten by the backend.
    LeaseLost,
    /// The backend could not be reached, or refused to work.
    Unavailable,
    /// No answer within the deadline.
    Timeout,
    /// The backend asks for fewer requests.
    RateLimited,
    /// The backend knows who asks and says no, or does not know who asks.
    PermissionDenied,
    /// A configuration or URL that cannot work; the message names the key.
    InvalidConfig,
    /// An argument outside its limits; the message names it.
    InvalidArgument,
    /// The backend cannot do this at all.
    Unsupported,
    /// Something stands there that this version cannot read, or that contradicts itself.
    Malformed,
    /// The manager or system was shut down.
    Closed,
    /// A bug, here or in the backend.
    Unexpected,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::NotFound,
        Self::WorkerIdCollision,
        Self::ChecksumMismatch,
        Self::Superseded,
        Self::LeaseLost,
        Self::Unavailable,
        Self::Timeout,
        Self::RateLimited,
        Self::PermissionDenied,
        Self::InvalidConfig,
        Self::InvalidArgument,
        Self::Unsupported,
        Self::Malformed,
        Self::Closed,
        Self::Unexpected,
    ];

    /// The kind as one lower-case, hyphenated word, stable across releases.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::WorkerIdCollision => "worker-id-collision",
            Self::ChecksumMismatch => "checksum-mismatch",
            Self::Superseded => "superseded",
            Self::LeaseLost => "lease-lost",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::RateLimited => "rate-limited",
            Self::PermissionDenied => "permission-denied",
            Self::InvalidConfig => "invalid-config",
            Self::InvalidArgument => "invalid-argument",
            Self::Unsupported => "unsupported",
            Self::Malformed => "malformed",
            Self::Closed => "closed",
            Self::Unexpected => "unexpected",
        }
    }

    /// The kind whose [`code`](Self::code) this is.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    const fn retry(self) -> Retry {
        match self {
            Self::Unavailable | Self::RateLimited => Retry::Safe { after: None },
            Self::Timeout => Retry::OutcomeUnknown,
            _ => Retry::Never,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::WorkerIdCollision => "worker id collision",
            Self::ChecksumMismatch => "checksum mismatch",
            Self::LeaseLost => "lease lost",
            Self::RateLimited => "rate limited",
            Self::PermissionDenied => "permission denied",
            Self::InvalidConfig => "invalid configuration",
            Self::InvalidArgument => "invalid argument",
            other => other.code(),
        })
    }
}

/// Whether the same call may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It would fail the same way.
    Never,
    /// Nothing happened; call again, not before `after` if given.
    Safe {
        /// How long the backend asked to wait.
        after: Option<Duration>,
    },
    /// It may have happened: look before repeating a write.
    OutcomeUnknown,
}

/// The error of every fallible call of this workspace.
///
/// Cheap to clone: callers that shared one lookup share its error. `Display` is one line
/// without the source chain, which [`Error::source`] carries. Neither ever holds a secret.
///
/// ```
/// use discovery_core::{DiscoveryError, ErrorKind, Retry};
///
/// let error = DiscoveryError::new(ErrorKind::Unavailable, "connection refused")
///     .with_system("etcd")
///     .with_operation("get");
/// assert_eq!(error.kind(), ErrorKind::Unavailable);
/// assert_eq!(error.retry(), Retry::Safe { after: None });
/// assert_eq!(error.to_string(), "get on etcd: unavailable: connection refused");
/// ```
#[derive(Clone)]
pub struct DiscoveryError(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    retry: Retry,
    context: String,
    system: Option<Arc<str>>,
    operation: Option<&'static str>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl DiscoveryError {
    /// An error of this kind, with the retry class that the kind usually has.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            retry: kind.retry(),
            context: context.into(),
            system: None,
            operation: None,
            source: None,
        }))
    }

    /// An argument outside its limits.
    pub fn invalid_argument(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, context)
    }

    /// A configuration that cannot work.
    pub fn invalid_config(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidConfig, context)
    }

    /// Replaces the retry class.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.inner().retry = retry;
        self
    }

    /// Names the system that failed, unless it is named already.
    #[must_use]
    pub fn with_system(mut self, system: impl Into<Arc<str>>) -> Self {
        self.inner().system.get_or_insert(system.into());
        self
    }

    /// Names the operation that failed, unless it is named already.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        self.inner().operation.get_or_insert(operation);
        self
    }

    /// Attaches the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.inner().source = Some(Arc::from(source.into()));
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the call may be repeated.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// The system that failed, if one did.
    #[must_use]
    pub fn system(&self) -> Option<&str> {
        self.0.system.as_deref()
    }

    /// The operation that failed, if known.
    #[must_use]
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The message without kind, system and operation.
    #[must_use]
    pub fn context(&self) -> &str {
        &self.0.context
    }

    fn inner(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }
}

impl fmt::Display for DiscoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            kind,
            context,
            system,
            operation,
            ..
        } = &*self.0;
        match (operation, system) {
            (Some(operation), Some(system)) => write!(f, "{operation} on {system}: ")?,
            (Some(word), None) => write!(f, "{word}: ")?,
            (None, Some(word)) => write!(f, "{word}: ")?,
            (None, None) => {}
        }
        write!(f, "{kind}: {}", context.replace(['\n', '\r'], " "))
    }
}

impl fmt::Debug for DiscoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryError")
            .field("kind", &self.0.kind)
            .field("retry", &self.0.retry)
            .field("message", &self.to_string())
            .field("source", &self.0.source)
            .finish()
    }
}

impl Error for DiscoveryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_and_leaves_the_source_to_the_chain() {
        let error = DiscoveryError::new(ErrorKind::Timeout, "no answer\nwithin 2s")
            .with_operation("get")
            .with_source("the secret cause");
        assert_eq!(error.to_string(), "get: timeout: no answer within 2s");
        assert_eq!(error.source().unwrap().to_string(), "the secret cause");
    }

    #[test]
    fn the_first_system_named_stays() {
        let error = DiscoveryError::new(ErrorKind::Closed, "x")
            .with_system("a")
            .with_system("b");
        assert_eq!(error.system(), Some("a"));
    }

    #[test]
    fn codes_lead_back_to_their_kinds() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(ErrorKind::from_code("no-such-code"), None);
    }
}
