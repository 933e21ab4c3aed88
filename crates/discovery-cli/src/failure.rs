//! Why a command did not do what it was asked: one line for people, one object for scripts.

use std::{error::Error, fmt::Display, time::Duration};

use clap::error::ContextKind;
use discovery::{DiscoveryError, ErrorKind, Retry};
use serde::Serialize;

use crate::exit::Exit;

/// The longest message, in characters: foreign text in it may be long.
const LONGEST: usize = 600;

/// What failed, on which system, and what to try.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    exit: Exit,
    code: &'static str,
    message: String,
    system: Option<String>,
    hint: Option<String>,
}

#[derive(Serialize)]
struct FailureObject {
    event: &'static str,
    code: &'static str,
    exit: u8,
    message: String,
    system: Option<String>,
    hint: Option<String>,
}

impl Failure {
    /// A failure of this kind, without a hint.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            exit: Exit::of(kind),
            code: kind.code(),
            message: message.into(),
            system: None,
            hint: None,
        }
    }

    /// Wrong usage.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// A bug, or a machine that refuses what every process needs.
    pub(crate) fn unexpected(what: &str, cause: &dyn Error) -> Self {
        Self::new(ErrorKind::Unexpected, format!("{what}: {cause}"))
    }

    /// Whoever read stdout has gone: the end, and nobody to tell.
    pub(crate) fn unread() -> Self {
        Self {
            exit: Exit::Done,
            ..Self::new(ErrorKind::Closed, "")
        }
    }

    /// Stopped by a signal before it was done.
    pub(crate) fn interrupted() -> Self {
        Self {
            exit: Exit::Interrupted,
            code: "interrupted",
            ..Self::new(ErrorKind::Closed, "interrupted before it was done")
        }
    }

    /// What clap refused, without its usage text.
    pub(crate) fn refused(error: &clap::Error) -> Self {
        let rendered = error.render().to_string();
        let lines = rendered.lines().map(str::trim);
        let lines: Vec<_> = lines
            .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
            .filter(|line| !line.is_empty())
            .collect();
        let mut message = lines.join(" ").trim_start_matches("error: ").to_owned();
        // An argument in the wrong place may be a URL with a password.
        for kind in [
            ContextKind::InvalidArg,
            ContextKind::InvalidValue,
            ContextKind::InvalidSubcommand,
        ] {
            if let Some(given) = error.get(kind).map(ToString::to_string)
                && given.contains("://")
            {
                message = message.replace(&given, "…");
            }
        }
        Self::usage(message).with_hint("see `discovery --help`")
    }

    /// Says what to try.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says what was being done.
    #[must_use]
    pub(crate) fn during(mut self, what: impl Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// What kind of failure it is, in one word.
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// What failed, on one line.
    pub(crate) fn message(&self) -> String {
        one_line(&self.message)
    }

    /// What to try.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// How the process ends.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Whether there is nobody to tell.
    pub(crate) fn is_silent(&self) -> bool {
        self.exit == Exit::Done
    }

    /// The line for people.
    pub(crate) fn line(&self) -> String {
        let message = self.message();
        match &self.hint {
            Some(hint) => format!("{message}; {hint}"),
            None => message,
        }
    }

    /// The object for scripts.
    pub(crate) fn object(&self) -> impl Serialize {
        FailureObject {
            event: "error",
            code: self.code,
            exit: self.exit.code(),
            message: self.message(),
            system: self.system.clone(),
            hint: self.hint.clone(),
        }
    }
}

impl From<DiscoveryError> for Failure {
    fn from(error: DiscoveryError) -> Self {
        let mut message = error.to_string();
        if let Some(root) = root(&error)
            && !message.contains(&root)
        {
            message = format!("{message} ({root})");
        }
        Self {
            system: error.system().map(str::to_owned),
            hint: hint(&error),
            ..Self::new(error.kind(), message)
        }
    }
}

/// The innermost cause, which usually is the one that helps.
fn root(error: &dyn Error) -> Option<String> {
    let mut inner = error.source()?;
    while let Some(source) = inner.source() {
        inner = source;
    }
    Some(inner.to_string())
}

/// How long the backend asks to wait; a manager's error has that of its source inside.
fn retry_after(error: &DiscoveryError) -> Option<Duration> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(Retry::Safe { after: Some(after) }) = error.downcast_ref().map(DiscoveryError::retry) {
            return Some(after);
        }
        next = error.source();
    }
    None
}

fn hint(error: &DiscoveryError) -> Option<String> {
    if let Some(after) = retry_after(error) {
        return Some(format!("try again in {after:.1?}"));
    }
    let hint = match error.kind() {
        ErrorKind::NotFound => "`discovery list` shows who is registered",
        ErrorKind::WorkerIdCollision => "register with another instance id, or with none for a fresh one",
        ErrorKind::ChecksumMismatch => "use the registered address, or stop the process that holds it",
        ErrorKind::Superseded => "another process took this place: start again with a fresh instance id",
        ErrorKind::Unavailable | ErrorKind::Timeout => "check that it runs and can be reached from here",
        ErrorKind::RateLimited => "try again more slowly",
        ErrorKind::PermissionDenied => "check the credentials",
        ErrorKind::InvalidConfig | ErrorKind::InvalidArgument | ErrorKind::Unsupported => {
            "see `discovery --help`"
        }
        ErrorKind::Malformed => "something else wrote there: remove it, or use another cluster",
        ErrorKind::Unexpected => "is that a discovery service? then this is a bug: please report it",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Foreign text must not break the line, steer the terminal, or run on for ever.
fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST)
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_failed_where_why_and_what_to_try() {
        let error = DiscoveryError::new(ErrorKind::Unavailable, "cannot connect to h:1")
            .with_system("http")
            .with_operation("connect")
            .with_source(std::io::Error::other("connection refused"));
        let line = Failure::from(error).line();
        for part in [
            "connect on http",
            "h:1",
            "connection refused",
            "check that it runs",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }

    #[test]
    fn a_backend_that_asks_to_wait_is_given_time() {
        let after = Some(Duration::from_secs(3));
        let inner =
            DiscoveryError::new(ErrorKind::Unavailable, "warming up").with_retry(Retry::Safe { after });
        let error = DiscoveryError::new(ErrorKind::Unavailable, "1 of 1 sources").with_source(inner);
        assert!(Failure::from(error).line().ends_with("; try again in 3.0s"));
    }

    #[test]
    fn foreign_text_stays_on_one_short_line() {
        let line = Failure::usage(format!("a\nb\u{1b}[31m{}", "x".repeat(120_000))).line();
        assert!(line.len() < 1_000 && !line.contains(['\n', '\u{1b}']), "{line}");
    }
}
