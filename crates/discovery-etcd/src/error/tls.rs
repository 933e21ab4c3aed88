//! Why no encrypted connection came about.

use std::{error, io};

use discovery_core::{ErrorKind, Retry};
use rustls::{AlertDescription, CertificateError, Error};
use tonic::{ConnectError, Status};

use super::{Fault, Reach, causes};

/// What TLS has against a connection; nothing if it is something else that failed.
pub(super) fn refusal(status: &Status, host: &str) -> Option<Fault> {
    if let Some(cause) = causes(status).find_map(of_tls) {
        return Some(fault(cause, host));
    }
    // What fails below TLS stands behind one more cause.
    let connecting = causes(status).find_map(|cause| cause.downcast_ref::<ConnectError>());
    let cause = connecting.and_then(error::Error::source);
    cause.is_some_and(is_the_end).then(|| {
        let context = format!("{host} hung up when TLS was to begin");
        let retry = Retry::Safe { after: None };
        Fault::new(Reach::HungUp, ErrorKind::Unavailable, retry, context)
    })
}

/// The same, of what failed to read or write; with its cause.
pub(super) fn refused(cause: &io::Error, host: &str) -> Option<Fault> {
    let cause = of_tls(cause)?;
    let mut fault = fault(cause, host);
    fault.error = fault.error.with_source(cause.clone());
    Some(fault)
}

fn fault(cause: &Error, host: &str) -> Fault {
    if matches!(cause, Error::InvalidMessage(_)) {
        return Fault::speaks_no_tls(host);
    }
    let (kind, context) = told(cause, host);
    // Nobody who reads on answers a request that came over such a connection.
    Fault::new(Reach::NotSent, kind, Retry::Never, context)
}

fn is_the_end(cause: &(dyn error::Error + 'static)) -> bool {
    let cause = cause.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| {
        matches!(
            cause.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
        )
    })
}

/// An I/O error keeps what it stands for to itself, and names that one's cause as its own.
fn of_tls<'a>(cause: &'a (dyn error::Error + 'static)) -> Option<&'a Error> {
    let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    cause
        .downcast_ref()
        .or_else(|| inner.and_then(|inner| inner.downcast_ref()))
}

fn told(cause: &Error, host: &str) -> (ErrorKind, String) {
    match cause {
        Error::InvalidCertificate(cause) => {
            let way_out = way_out(cause);
            let context = format!("the certificate of {host} is not to be trusted{way_out}");
            (ErrorKind::Unavailable, context)
        }
        Error::AlertReceived(alert) if is_about_certificates(*alert) => {
            let context = format!("{host} wants a certificate that it trusts: give cert_file= and key_file=");
            (ErrorKind::PermissionDenied, context)
        }
        _ => (ErrorKind::Unavailable, format!("no TLS connection to {host}")),
    }
}

fn way_out(cause: &CertificateError) -> &'static str {
    match cause {
        CertificateError::UnknownIssuer => ": its authority belongs into ca_file=",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            ": the name that it is for belongs into the URL, or into server_name="
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => ": it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ": it is not valid yet by the clock of this machine"
        }
        _ => "",
    }
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::Code;

    use super::*;

    fn connecting(cause: io::Error) -> Status {
        let mut status = Status::new(Code::Unavailable, "x");
        status.set_source(Arc::new(ConnectError(cause.into())));
        status
    }

    fn kind(status: &Status) -> Option<ErrorKind> {
        refusal(status, "h:1").map(|fault| fault.error.kind())
    }

    #[test]
    fn what_tls_says_is_found_inside_of_what_failed_to_read() {
        let invalid = |cause: Error| io::Error::new(io::ErrorKind::InvalidData, cause);
        for (cause, expected) in [
            (
                Error::InvalidCertificate(CertificateError::UnknownIssuer),
                ErrorKind::Unavailable,
            ),
            (
                Error::AlertReceived(AlertDescription::CertificateRequired),
                ErrorKind::PermissionDenied,
            ),
            (
                Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
                ErrorKind::InvalidConfig,
            ),
            (
                Error::AlertReceived(AlertDescription::HandshakeFailure),
                ErrorKind::Unavailable,
            ),
        ] {
            assert_eq!(
                kind(&connecting(invalid(cause.clone()))),
                Some(expected),
                "{cause:?}"
            );
            // A server that speaks TLS 1.3 refuses a client after the connection was made.
            let mut later = Status::new(Code::Unknown, "x");
            later.set_source(Arc::new(invalid(cause.clone())));
            assert_eq!(kind(&later), Some(expected), "{cause:?}");
        }
    }

    #[test]
    fn only_who_hangs_up_on_a_greeting_may_speak_no_tls() {
        for ended in [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset] {
            let fault = refusal(&connecting(ended.into()), "h:1").unwrap();
            assert_eq!(
                (fault.reach, fault.error.kind()),
                (Reach::HungUp, ErrorKind::Unavailable)
            );
            let mut later = Status::new(Code::Unknown, "x");
            later.set_source(Arc::new(io::Error::from(ended)));
            assert_eq!(kind(&later), None);
        }
        assert_eq!(kind(&connecting(io::ErrorKind::ConnectionRefused.into())), None);
        let mut below = Status::new(Code::Unavailable, "x");
        let reset = ConnectError(io::Error::from(io::ErrorKind::ConnectionReset).into());
        below.set_source(Arc::new(ConnectError(reset.into())));
        assert_eq!(kind(&below), None, "no connection was there yet");
        assert_eq!(
            kind(&Status::new(Code::Unavailable, "etcdserver: no leader")),
            None
        );
    }
}
