//! How the process ends: the one place where kinds of errors become exit codes.

use std::process::ExitCode;

use discovery::ErrorKind;

/// An exit code and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Something that should not happen.
    Unexpected = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// A backend was asked and answered that there is no such thing.
    NotFound = 3,
    /// A backend could not be asked.
    Unasked = 4,
    /// The place is taken by another instance or address.
    Taken = 5,
    /// Stopped by a signal before it was done.
    Interrupted = 130,
}

impl Exit {
    /// The code for a kind of error.
    pub(crate) fn of(kind: ErrorKind) -> Self {
        use ErrorKind as K;
        match kind {
            K::NotFound => Self::NotFound,
            K::WorkerIdCollision | K::ChecksumMismatch | K::Superseded => Self::Taken,
            K::InvalidConfig | K::InvalidArgument | K::Unsupported => Self::Usage,
            K::Unavailable
            | K::Timeout
            | K::RateLimited
            | K::PermissionDenied
            | K::LeaseLost
            | K::Malformed => Self::Unasked,
            // `Closed`, `Unexpected`, and kinds that this version does not know.
            _ => Self::Unexpected,
        }
    }

    /// The number.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_exit_code() {
        let table = [
            (ErrorKind::NotFound, 3),
            (ErrorKind::WorkerIdCollision, 5),
            (ErrorKind::ChecksumMismatch, 5),
            (ErrorKind::Superseded, 5),
            (ErrorKind::LeaseLost, 4),
            (ErrorKind::Unavailable, 4),
            (ErrorKind::Timeout, 4),
            (ErrorKind::RateLimited, 4),
            (ErrorKind::PermissionDenied, 4),
            (ErrorKind::InvalidConfig, 2),
            (ErrorKind::InvalidArgument, 2),
            (ErrorKind::Unsupported, 2),
            (ErrorKind::Malformed, 4),
            (ErrorKind::Closed, 1),
            (ErrorKind::Unexpected, 1),
        ];
        assert_eq!(table.len(), ErrorKind::ALL.len());
        for kind in ErrorKind::ALL {
            let expected = table.iter().find(|row| row.0 == kind).map(|row| row.1);
            assert_eq!(Some(Exit::of(kind).code()), expected, "{kind}");
        }
    }
}
