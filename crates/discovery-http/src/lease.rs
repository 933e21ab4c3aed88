//! Sessions: opened, renewed with what they hold, closed.

use std::{str, time::Duration};

use bytes::Bytes;
use discovery_core::{
    Cluster, DiscoveryError, ErrorKind,
    store::{Held, Kept, Renewal, Session},
};
use tokio::time::Instant;

use crate::{
    client::{self, Client, Request},
    error::Effect,
    part::{self, REQUEST_BYTES},
    wire::{self, Body, HeldRecord, KeptRecord, OpenSession, RenewSession, SessionGranted, SessionRenewed},
};

/// The name of a session on the wire.
pub(crate) fn token(session: &Session) -> Result<&str, DiscoveryError> {
    str::from_utf8(&session.id)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'.'))
        .ok_or_else(|| DiscoveryError::invalid_argument("the session is none of this store"))
}

/// Opens a session.
pub(crate) async fn open(
    client: &Client,
    cluster: &Cluster,
    ttl: Duration,
) -> Result<Session, DiscoveryError> {
    let body = OpenSession {
        ttl_ms: wire::millis(ttl),
    };
    let request = Request::post(client::path(cluster, "sessions"), &body, Effect::Write)?.creating();
    let granted: SessionGranted = client.json(&request, client.deadline()).await?;
    let granted = session(granted.session, granted.ttl_ms);
    if granted.ttl < ttl {
        let context = format!("the service grants {:?} at most, not {ttl:?}", granted.ttl);
        return Err(DiscoveryError::invalid_config(context));
    }
    Ok(granted)
}

/// Renews a session, in as many requests as what it holds needs.
pub(crate) async fn renew(
    client: &Client,
    cluster: &Cluster,
    renewed: &Session,
    held: &[Held],
) -> Result<Renewal, DiscoveryError> {
    let deadline = client.deadline();
    let size = |held: &Held| part::size(&held.key, &held.body);
    let mut parts = part::split(held, |held| &held.key, size, REQUEST_BYTES);
    if parts.is_empty() {
        parts.push(&[]);
    }
    let complete = parts.len() == 1;
    let mut renewal: Option<Renewal> = None;
    for part in parts {
        let ask = Part {
            session: renewed,
            held: part,
            complete,
        };
        let outcome = ask.send(client, cluster, deadline).await;
        match (outcome, &mut renewal) {
            (Ok(first), None) => renewal = Some(first),
            (Ok(next), Some(renewal)) => renewal.kept.extend(next.kept),
            // Part of the session was renewed: what is not known of the rest is no reason to
            // forget that, or under which name.
            (Err(error), Some(renewal)) if error.kind() != ErrorKind::LeaseLost => {
                let unknown = part.iter().map(|_| Kept::Unknown(error.clone()));
                renewal.kept.extend(unknown);
            }
            (Err(error), _) => return Err(error),
        }
    }
    renewal.ok_or_else(|| DiscoveryError::new(ErrorKind::Unexpected, "a renewal without a part"))
}

/// Ends a session.
pub(crate) async fn close(
    client: &Client,
    cluster: &Cluster,
    session: &Session,
) -> Result<(), DiscoveryError> {
    let path = client::path(cluster, &format!("sessions/{}", token(session)?));
    client.done(&Request::delete(path), client.deadline()).await
}

/// One request of a renewal.
struct Part<'a> {
    session: &'a Session,
    held: &'a [Held],
    complete: bool,
}

impl Part<'_> {
    async fn send(
        &self,
        client: &Client,
        cluster: &Cluster,
        deadline: Instant,
    ) -> Result<Renewal, DiscoveryError> {
        let cluster = match self.held.first() {
            Some(held) => part::cluster(&held.key)?,
            None => cluster.clone(),
        };
        let body = RenewSession {
            ttl_ms: wire::millis(self.session.ttl),
            complete: self.complete,
            held: self.held.iter().map(held_record).collect(),
        };
        let path = client::path(&cluster, &format!("sessions/{}/renew", token(self.session)?));
        let request = Request::post(path, &body, Effect::Write)?;
        let answer: SessionRenewed = client.json(&request, deadline).await?;
        if answer.kept.len() != self.held.len() {
            return Err(client.unreadable(Effect::Write, "not once per record"));
        }
        read(client, answer, &cluster)
    }
}

fn read(client: &Client, answer: SessionRenewed, cluster: &Cluster) -> Result<Renewal, DiscoveryError> {
    let unreadable = |cause: DiscoveryError| {
        let error = client.unreadable(Effect::Write, "with a record that is none");
        error.with_source(cause)
    };
    let kept = |kept| {
        Ok(match kept {
            KeptRecord::Mine(version) => Kept::Mine(wire::version(&version)?),
            KeptRecord::Other(record) => Kept::Other(record.into_record(cluster)?),
            KeptRecord::Gone => Kept::Gone,
            KeptRecord::Unknown(problem) => Kept::Unknown(client.problem(&problem, Effect::Write)),
        })
    };
    let kept = answer.kept.into_iter().map(kept);
    let unwanted = answer.unwanted.into_iter();
    Ok(Renewal {
        session: session(answer.session, answer.ttl_ms),
        kept: kept.collect::<Result<_, _>>().map_err(unreadable)?,
        unwanted: unwanted
            .map(|record| record.into_record(cluster))
            .collect::<Result<_, _>>()
            .map_err(unreadable)?,
    })
}

fn session(token: String, ttl_ms: u64) -> Session {
    Session {
        id: Bytes::from(token),
        ttl: Duration::from_millis(ttl_ms),
    }
}

fn held_record(held: &Held) -> HeldRecord {
    HeldRecord {
        key: wire::relative(&held.key).to_owned(),
        body: Body::new(&held.body),
        writer: wire::writer_text(held.writer),
        version: wire::hex(&held.version.0),
    }
}
