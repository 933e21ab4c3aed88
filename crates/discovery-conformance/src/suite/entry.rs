//! Who is let in, and over what: S6, S7.

use std::{error::Error, time::Duration};

use discovery_core::{DiscoveryError, ErrorKind, RegistrationState, limit::CONNECT_DEADLINE};
use tokio::time::{Instant, sleep};

use crate::{
    BadConnection,
    trial::{Ctx, eventually, peer, register, trials},
};

trials! { "system":
    "S6" wrong_credentials_are_denied_at_start [Authentication];
    "S6" rotated_credentials_heal_without_a_restart [Register, Authentication];
    "S7" a_server_that_cannot_be_trusted_is_refused [Tls];
    "S7" speaking_tls_on_one_side_only_is_named [Tls];
}

/// What a connection that must not come about ends with, in time.
async fn refusal(ctx: &Ctx, bad: BadConnection) -> DiscoveryError {
    let begun = Instant::now();
    let connected = ctx.backend.connect_badly(&ctx.how(), bad).await;
    let took = begun.elapsed();
    assert!(
        took < CONNECT_DEADLINE + Duration::from_secs(1),
        "{bad:?} after {took:?}"
    );
    match connected {
        Ok(_) => panic!("{bad:?} was let in"),
        Err(error) => error,
    }
}

/// The error and everything behind it, as an operator reads it.
fn told(error: &DiscoveryError) -> String {
    let (mut told, mut next) = (String::new(), Some(error as &dyn Error));
    while let Some(error) = next {
        told.push_str(&error.to_string().to_lowercase());
        told.push_str("; ");
        next = error.source();
    }
    told
}

async fn wrong_credentials_are_denied_at_start(ctx: Ctx) {
    let error = refusal(&ctx, BadConnection::WrongCredentials).await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.system().is_some(), "{error} names no system");
}

async fn rotated_credentials_heal_without_a_restart(ctx: Ctx) {
    let (system, peer) = (ctx.connect().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    ctx.backend.rotate_credentials().await;
    sleep(ctx.ttl() * 2).await;
    ctx.found_within(ctx.recovery(), &peer).await;
    eventually(ctx.recovery(), || async {
        registration.state() == RegistrationState::Live
    })
    .await;
    refusal(&ctx, BadConnection::WrongCredentials).await;
}

async fn a_server_that_cannot_be_trusted_is_refused(ctx: Ctx) {
    for bad in [
        BadConnection::UnknownAuthority,
        BadConnection::WrongHostName,
        BadConnection::ExpiredCertificate,
    ] {
        let error = refusal(&ctx, bad).await;
        assert_ne!(error.kind(), ErrorKind::Timeout, "{bad:?}: {error}");
        assert!(told(&error).contains("certificate"), "{bad:?}: {}", told(&error));
    }
}

async fn speaking_tls_on_one_side_only_is_named(ctx: Ctx) {
    for bad in [BadConnection::PlaintextToTls, BadConnection::TlsToPlaintext] {
        let error = refusal(&ctx, bad).await;
        assert!(told(&error).contains("tls"), "{bad:?}: {}", told(&error));
    }
}
