//! Peers, for programs that hold no record store: views of the same records.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use discovery_core::{
    ErrorKind, InstanceId, PeerInfo, WorkerAddress, WorkerId,
    store::{Expect, Held, Kept, Record, RecordKey, RecordStore, Session, Write, Writer, Written},
};
use discovery_records::peer::{self, PeerObject};
use serde::{Deserialize, Serialize};

use super::{
    app::App,
    call::{Call, broken_contract, ttl},
    list::{limit, page},
    problem::Refusal,
    sessions::renew_every_ms,
    token::Token,
};
use crate::{config::DEFAULT_TTL, wire};

/// How often a record that changes under our hands is looked at again.
const ATTEMPTS: usize = 4;

/// A registration.
#[derive(Serialize)]
pub(super) struct Registered {
    #[serde(flatten)]
    peer: PeerObject,
    lease_id: String,
    ttl_ms: u64,
    renew_every_ms: u64,
}

/// One page of peers.
#[derive(Serialize)]
pub(super) struct Peers {
    instances: Vec<PeerObject>,
    skipped: u64,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Register {
    address: Option<String>,
    address_base64: Option<String>,
    ttl_ms: Option<u64>,
}

/// `PUT` an instance: registers it, and moves what it registered before to a new lease.
pub(super) async fn register(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<(StatusCode, Json<Registered>), Refusal> {
    let ask: Register = call.json()?;
    let peer = PeerInfo::new(instance_id(&call)?, address(&ask)?);
    let asked = ask.ttl_ms.map_or(Ok(DEFAULT_TTL), ttl)?;
    let key = peer::peer_key(&call.cluster, peer.worker_id());
    let body = peer::encode(&peer)?;
    let session = app.store.open(asked).await?;
    let write = Write {
        key,
        body,
        writer: Writer::random(),
        expect: Expect::Absent,
    };
    match claim(&*app.store, &session, write, &peer).await {
        Ok(status) => {
            let registered = Registered {
                peer: PeerObject::from(&peer),
                lease_id: Token::write(app.epoch, &session),
                ttl_ms: wire::millis(session.ttl),
                renew_every_ms: renew_every_ms(&session),
            };
            Ok((status, Json(registered)))
        }
        Err(refusal) => {
            // Also fences a write whose outcome is not known. If this fails, it expires.
            let _ = app.store.close(&session).await;
            Err(refusal)
        }
    }
}

/// `PUT` the lease: keeps the registration for another TTL.
pub(super) async fn renew(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<(StatusCode, HeaderMap), Refusal> {
    let id = instance_id(&call)?;
    let session = app.session(call.session("lease-id")?)?;
    let key = peer::peer_key(&call.cluster, id.worker_id());
    let Some(standing) = get(&*app.store, &key).await? else {
        app.store.renew(&session, &[]).await?;
        return Err(unregistered());
    };
    let holder = peer::decode(&key, &standing.body)?;
    if holder.instance_id() != id {
        return Err(superseded(&holder));
    }
    let held = Held {
        key: standing.key,
        body: standing.body,
        writer: standing.writer,
        version: standing.version,
    };
    let mut renewal = app.store.renew(&session, &[held]).await?;
    still_stands(renewal.kept.pop(), &holder)?;
    let mut headers = HeaderMap::new();
    let expires_in = HeaderValue::from(renewal.session.ttl.as_secs());
    headers.insert(HeaderName::from_static("expires-in"), expires_in);
    Ok((StatusCode::NO_CONTENT, headers))
}

/// Whether what a renewal says about the record of `holder` is that this peer stands there.
fn still_stands(kept: Option<Kept>, holder: &PeerInfo) -> Result<(), Refusal> {
    match kept.unwrap_or_else(|| Kept::Unknown(broken_contract())) {
        Kept::Mine(_) => Ok(()),
        Kept::Gone => Err(unregistered()),
        Kept::Unknown(error) => Err(error.into()),
        // Kept by another lease of the same peer, perhaps.
        Kept::Other(record) => match peer::decode(&record.key, &record.body)? {
            other if other == *holder => Ok(()),
            other => Err(superseded(&other)),
        },
    }
}

/// `DELETE` an instance: ends its lease, and with it the record that hangs on it.
pub(super) async fn unregister(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, Refusal> {
    instance_id(&call)?;
    app.close(&call.session("lease-id")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET` by instance id.
pub(super) async fn by_instance_id(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<Json<PeerObject>, Refusal> {
    let id = instance_id(&call)?;
    let peer = find(&app, &call, id.worker_id()).await?;
    if peer.instance_id() != id {
        return Err(absent("another instance stands under the worker id of this one"));
    }
    Ok(Json(PeerObject::from(&peer)))
}

/// `GET` by worker id.
pub(super) async fn by_worker_id(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<Json<PeerObject>, Refusal> {
    let id = call.segment(1).parse()?;
    Ok(Json(PeerObject::from(&find(&app, &call, id).await?)))
}

/// `GET` every instance, page by page.
pub(super) async fn list(State(app): State<Arc<App>>, call: Call) -> Result<Json<Peers>, Refusal> {
    const OPTIONS: &[&str] = &["limit", "after"];
    app.warm_up.check()?;
    let limit = limit(call.option("limit", OPTIONS)?)?;
    let after = call.option("after", OPTIONS)?;
    let prefix = peer::peers_prefix(&call.cluster);
    let listing = page(&*app.store, &prefix, limit, after).await?;
    let records = listing.records.len() as u64;
    let peers = listing.records.iter();
    let instances: Vec<_> = peers
        .filter_map(|record| peer::decode(&record.key, &record.body).ok())
        .map(|peer| PeerObject::from(&peer))
        .collect();
    Ok(Json(Peers {
        skipped: listing.skipped + records - instances.len() as u64,
        instances,
        next: listing.next.and_then(|next| String::from_utf8(next.into()).ok()),
    }))
}

/// Creates the record, or moves the one of the same peer.
async fn claim(
    store: &dyn RecordStore,
    session: &Session,
    mut write: Write,
    peer: &PeerInfo,
) -> Result<StatusCode, Refusal> {
    let mut created = StatusCode::CREATED;
    for _ in 0..ATTEMPTS {
        let answer = store.write(session, std::slice::from_ref(&write)).await.pop();
        match answer.unwrap_or_else(|| Err(broken_contract()))? {
            Written::Done(_) => return Ok(created),
            Written::Conflict(None) => {
                (write.expect, created) = (Expect::Absent, StatusCode::CREATED);
            }
            Written::Conflict(Some(record)) => {
                peer::judge(peer, &write.key, &record.body)?;
                (write.expect, created) = (Expect::Version(record.version), StatusCode::OK);
            }
        }
    }
    let detail = "the record changes too often to be written now";
    Err(Refusal::unavailable(
        "contended",
        detail,
        Duration::from_millis(100),
    ))
}

async fn find(app: &App, call: &Call, id: WorkerId) -> Result<PeerInfo, Refusal> {
    let key = peer::peer_key(&call.cluster, id);
    match get(&*app.store, &key).await? {
        Some(record) => Ok(peer::decode(&record.key, &record.body)?),
        None => {
            app.warm_up.check()?;
            Err(absent("there is no such peer"))
        }
    }
}

async fn get(store: &dyn RecordStore, key: &RecordKey) -> Result<Option<Record>, Refusal> {
    let answer = store.get(std::slice::from_ref(key)).await.pop();
    let found = answer.unwrap_or_else(|| Err(broken_contract()));
    found.map_err(Refusal::of_read)
}

fn instance_id(call: &Call) -> Result<InstanceId, Refusal> {
    Ok(call.segment(1).parse()?)
}

fn address(ask: &Register) -> Result<WorkerAddress, Refusal> {
    let address = match (&ask.address, &ask.address_base64) {
        (Some(text), None) => WorkerAddress::from_bytes(text),
        (None, Some(text)) => {
            let bytes = BASE64_STANDARD.decode(text);
            WorkerAddress::from_bytes(bytes.map_err(|_| Refusal::invalid("address_base64 is not base64"))?)
        }
        _ => {
            return Err(Refusal::invalid(
                "exactly one of address and address_base64 is needed",
            ));
        }
    };
    address.validate()?;
    Ok(address)
}

/// Never `warming-up`: registering again is what ends the warm-up.
fn unregistered() -> Refusal {
    absent("this instance is not registered any more: register again")
}

fn superseded(holder: &PeerInfo) -> Refusal {
    let detail = format!("instance {} has taken this place", holder.instance_id());
    Refusal::of_kind(ErrorKind::Superseded, detail)
}

fn absent(detail: &str) -> Refusal {
    Refusal::of_kind(ErrorKind::NotFound, detail)
}

#[cfg(test)]
mod tests {
    use discovery_core::{Cluster, DiscoveryError, store::Version};

    use super::*;

    /// Two instance ids of one worker id.
    const TWINS: [&str; 2] = [
        "b93942ea-7b73-8267-d59f-3d805cf975ae",
        "b81a078d-f2d8-4f88-3a52-96093bbc56af",
    ];

    fn peer(id: &str, address: &str) -> PeerInfo {
        PeerInfo::new(id.parse().unwrap(), WorkerAddress::from_bytes(address))
    }

    fn other(peer: &PeerInfo) -> Kept {
        Kept::Other(Record {
            key: peer::peer_key(&Cluster::default(), peer.worker_id()),
            body: peer::encode(peer).unwrap(),
            writer: Writer::random(),
            version: Version("2".into()),
            at: None,
        })
    }

    #[test]
    fn what_a_renewal_says_about_the_record_decides() {
        let holder = peer(TWINS[0], "a");
        let code = |kept| {
            let refusal = still_stands(kept, &holder).err();
            refusal.map(|refusal| refusal.into_problem().code)
        };
        let down = DiscoveryError::new(ErrorKind::Unavailable, "down");
        for (kept, expected) in [
            (Some(Kept::Mine(Version("1".into()))), None),
            (Some(other(&holder)), None),
            (Some(other(&peer(TWINS[0], "b"))), Some("superseded")),
            (Some(other(&peer(TWINS[1], "a"))), Some("superseded")),
            (Some(Kept::Gone), Some("not-found")),
            (Some(Kept::Unknown(down)), Some("unavailable")),
            (None, Some("unexpected")),
        ] {
            let shown = format!("{kept:?}");
            assert_eq!(code(kept).as_deref(), expected, "{shown}");
        }
    }
}
