//! The local peer's registrations: all of them, or none.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::source::Source;
use crate::{
    DiscoveryError, ErrorKind,
    peer::{PeerInfo, Registration},
};

/// How long one source may take to register; each has a shorter bound of its own.
const REGISTER: Duration = Duration::from_secs(30);
/// How long rolling a failed start back may take.
const ROLLBACK: Duration = Duration::from_secs(5);

/// A registration and the source that keeps it.
pub(super) type Registered = (Arc<str>, Registration);

/// Registers in every source at once; if one fails, takes the others back.
pub(super) async fn register(
    sources: &[Source],
    local: &PeerInfo,
) -> Result<Vec<Registered>, DiscoveryError> {
    let registering = sources.iter().map(|source| async move {
        let discovery = source.discovery();
        let registering = discovery.register_instance(local.instance_id(), local.address().clone());
        let registered = timeout(REGISTER, registering).await.unwrap_or_else(|_| {
            let context = format!("not registered within {REGISTER:?}");
            Err(DiscoveryError::new(ErrorKind::Timeout, context).with_operation("register"))
        });
        (source.name().clone(), registered)
    });
    let mut registered = Vec::new();
    let mut failed = None;
    for (name, outcome) in join_all(registering).await {
        match outcome {
            Ok(registration) => registered.push((name, registration)),
            Err(error) => failed = failed.or(Some(error.with_system(name))),
        }
    }
    let Some(error) = failed else {
        return Ok(registered);
    };
    if let Err(left) = unregister(registered, ROLLBACK).await {
        tracing::warn!(target: "discovery::manager", error = %left, "a registration was not taken back; it expires");
    }
    Err(error)
}

/// Gives every registration up at once, within the deadline.
pub(super) async fn unregister(
    registered: Vec<Registered>,
    deadline: Duration,
) -> Result<(), DiscoveryError> {
    let leaving = registered.into_iter().map(|(name, registration)| async move {
        let outcome = timeout(deadline, registration.unregister())
            .await
            .unwrap_or_else(|_| {
                let context = format!("not confirmed within {deadline:?}; the registration expires");
                Err(DiscoveryError::new(ErrorKind::Timeout, context))
            });
        outcome.map_err(|error| error.with_operation("unregister").with_system(name))
    });
    join_all(leaving).await.into_iter().collect()
}
