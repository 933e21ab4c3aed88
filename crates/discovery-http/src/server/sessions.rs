//! Sessions: opened, renewed, closed.

use std::{mem, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use discovery_core::{
    Cluster,
    store::{Held, Kept, RecordKey, Renewal, Session},
};

use super::{
    app::App,
    call::{Call, at_most, record_body, ttl},
    list::fitting,
    problem::Refusal,
    take_up::{Ask, take_up},
    token::Token,
};
use crate::wire::{
    self, HeldRecord, KeptRecord, OpenSession, RenewSession, SessionGranted, SessionRenewed, WireRecord,
};

pub(super) async fn open(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<(StatusCode, Json<SessionGranted>), Refusal> {
    let ask: OpenSession = call.json()?;
    let session = app.store.open(ttl(ask.ttl_ms)?).await?;
    let granted = SessionGranted {
        session: Token::write(app.epoch, &session),
        ttl_ms: wire::millis(session.ttl),
        renew_every_ms: renew_every_ms(&session),
    };
    Ok((StatusCode::CREATED, Json(granted)))
}

pub(super) async fn renew(State(app): State<Arc<App>>, call: Call) -> Result<Json<SessionRenewed>, Refusal> {
    let ask: RenewSession = call.json()?;
    at_most(wire::ITEMS, ask.held.len())?;
    let token = Token::parse(call.segment(1))?;
    let ttl = ttl(ask.ttl_ms)?;
    let held = ask.held.into_iter().map(|held| read_held(held, &call.cluster));
    let held = held.collect::<Result<Vec<_>, _>>()?;
    let renewal = match app.earlier(&token) {
        Some(earlier) => {
            let ask = Ask {
                token: &token,
                ttl,
                held: &held,
                complete: ask.complete,
            };
            take_up(&*app.store, earlier, &ask).await?
        }
        None => {
            let id = token.session.id;
            app.store.renew(&Session { id, ttl }, &held).await?
        }
    };
    Ok(Json(answer(&app, &call.cluster, renewal, ask.complete)))
}

pub(super) async fn close(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, Refusal> {
    let token = Token::parse(call.segment(1))?;
    app.close(&token).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How often a session is to be renewed.
pub(super) fn renew_every_ms(session: &Session) -> u64 {
    wire::millis(session.ttl / 3)
}

fn read_held(held: HeldRecord, cluster: &Cluster) -> Result<Held, Refusal> {
    Ok(Held {
        body: record_body(&held.key, held.body)?,
        key: wire::key(cluster, &held.key)?,
        writer: wire::writer(&held.writer)?,
        version: wire::version(&held.version)?,
    })
}

fn answer(app: &App, cluster: &Cluster, mut renewal: Renewal, complete: bool) -> SessionRenewed {
    // What does not fit is told by the next renewal, when these are gone.
    let mut unwanted = mem::take(&mut renewal.unwanted);
    unwanted.retain(|record| complete && is_in(cluster, &record.key));
    unwanted.truncate(fitting(&unwanted, wire::PAGE_RECORDS));
    SessionRenewed {
        session: Token::write(app.epoch, &renewal.session),
        ttl_ms: wire::millis(renewal.session.ttl),
        renew_every_ms: renew_every_ms(&renewal.session),
        unwanted: unwanted.iter().map(WireRecord::new).collect(),
        kept: renewal.kept.into_iter().map(kept).collect(),
    }
}

fn kept(kept: Kept) -> KeptRecord {
    match kept {
        Kept::Mine(version) => KeptRecord::Mine(wire::hex(&version.0)),
        Kept::Other(record) => KeptRecord::Other(WireRecord::new(&record)),
        Kept::Gone => KeptRecord::Gone,
        Kept::Unknown(error) => KeptRecord::Unknown(Refusal::from(error).into_problem()),
    }
}

fn is_in(cluster: &Cluster, key: &RecordKey) -> bool {
    key.segments().next() == Some(cluster.as_str())
}
