//! Records: in batches for stores, one by one for people.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use discovery_core::{
    Cluster, DiscoveryError,
    store::{Expect, Record, RecordKey, Removal, Removed, Version, Write, Writer, Written},
};
use serde_json::Value;

use super::{
    app::App,
    call::{Call, at_most, broken_contract, record_body},
    problem::Refusal,
    token::Token,
};
use crate::wire::{
    self, BatchGet, BatchWrite, Body, Got, Remove, RemoveAnswer, Results, WireRecord, WriteAnswer, WriteItem,
};

pub(super) async fn batch_get(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<Json<Results<Option<Got>>>, Refusal> {
    let ask: BatchGet = call.json()?;
    at_most(wire::KEYS_PER_GET, ask.keys.len())?;
    let keys = ask.keys.iter().map(|key| wire::key(&call.cluster, key));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    let answers = app.store.get(&keys).await.into_iter();
    let results = answers.map(|answer| got(&app, answer)).collect();
    Ok(Json(Results { results }))
}

pub(super) async fn batch_write(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<Json<Results<WriteAnswer>>, Refusal> {
    let ask: BatchWrite = call.json()?;
    at_most(wire::ITEMS, ask.items.len())?;
    let token = Token::parse(&ask.session)?;
    let items = ask.items.into_iter().map(|item| read_item(item, &call.cluster));
    let items = items.collect::<Result<Vec<_>, _>>()?;
    let session = app.session(token)?;
    let answers = app.store.write(&session, &items).await.into_iter();
    let results = answers.map(written).collect();
    Ok(Json(Results { results }))
}

pub(super) async fn remove(State(app): State<Arc<App>>, call: Call) -> Result<Json<RemoveAnswer>, Refusal> {
    let ask: Remove = call.json()?;
    let token = Token::parse(&ask.session)?;
    let removal = Removal {
        key: wire::key(&call.cluster, &ask.key)?,
        writer: wire::writer(&ask.writer)?,
        expect: ask.expect.into_expect()?,
    };
    let session = app.session(token)?;
    Ok(Json(match app.store.remove(&session, &removal).await? {
        Removed::Done => RemoveAnswer::Done,
        Removed::Conflict(record) => RemoveAnswer::Conflict(record.as_ref().map(WireRecord::new)),
    }))
}

/// `GET` one record.
pub(super) async fn read(State(app): State<Arc<App>>, call: Call) -> Result<Response, Refusal> {
    let key = key(&call)?;
    let answer = app.store.get(std::slice::from_ref(&key)).await.pop();
    let found = answer.unwrap_or_else(|| Err(broken_contract()));
    match found.map_err(Refusal::of_read)? {
        Some(record) => Ok(with_etag(StatusCode::OK, &record)),
        None => {
            app.warm_up.check()?;
            let detail = format!("there is no record {}", wire::relative(&key));
            Err(Refusal::of_kind(discovery_core::ErrorKind::NotFound, detail))
        }
    }
}

/// `PUT` one record: `If-None-Match: *` creates, `If-Match` replaces.
pub(super) async fn write(State(app): State<Arc<App>>, call: Call) -> Result<Response, Refusal> {
    let token = call.session("session-id")?;
    let key = key(&call)?;
    let body: Body = call.json()?;
    let item = Write {
        body: record_body(wire::relative(&key), body)?,
        writer: call.writer()?.unwrap_or_else(Writer::random),
        expect: condition(&call)?,
        key,
    };
    let status = match item.expect {
        Expect::Absent => StatusCode::CREATED,
        Expect::Version(_) => StatusCode::OK,
    };
    let session = app.session(token)?;
    let answer = app.store.write(&session, std::slice::from_ref(&item)).await.pop();
    match answer.unwrap_or_else(|| Err(broken_contract()))? {
        Written::Done(record) => Ok(with_etag(status, &record)),
        Written::Conflict(record) => Err(precondition_failed(record)),
    }
}

/// `DELETE` one record: `If-Match` removes, `If-None-Match: *` fences the author.
pub(super) async fn delete(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, Refusal> {
    let token = call.session("session-id")?;
    let expect = condition(&call)?;
    let writer = match (&expect, call.writer()?) {
        (_, Some(writer)) => writer,
        (Expect::Version(_), None) => Writer::random(),
        (Expect::Absent, None) => return Err(Refusal::invalid("the header writer-id is missing")),
    };
    let removal = Removal {
        key: key(&call)?,
        writer,
        expect,
    };
    let session = app.session(token)?;
    match app.store.remove(&session, &removal).await? {
        Removed::Done => Ok(StatusCode::NO_CONTENT),
        Removed::Conflict(record) => Err(precondition_failed(record)),
    }
}

fn got(app: &App, answer: Result<Option<Record>, DiscoveryError>) -> Option<Got> {
    let refusal = match answer {
        Ok(Some(record)) => return Some(Got::Record(WireRecord::new(&record))),
        Ok(None) => app.warm_up.check().err()?,
        Err(error) => Refusal::of_read(error),
    };
    Some(Got::Problem(refusal.into_problem()))
}

fn read_item(item: WriteItem, cluster: &Cluster) -> Result<Write, Refusal> {
    Ok(Write {
        body: record_body(&item.key, item.body)?,
        key: wire::key(cluster, &item.key)?,
        writer: wire::writer(&item.writer)?,
        expect: item.expect.into_expect()?,
    })
}

fn written(answer: Result<Written, DiscoveryError>) -> WriteAnswer {
    match answer {
        Ok(Written::Done(record)) => WriteAnswer::Done {
            version: wire::hex(&record.version.0),
            at: record.at.map(wire::WirePosition::new),
        },
        Ok(Written::Conflict(record)) => WriteAnswer::Conflict(record.as_ref().map(WireRecord::new)),
        Err(error) => WriteAnswer::Problem(Refusal::from(error).into_problem()),
    }
}

/// The key in the path: `records/{kind}/{segment}…`.
fn key(call: &Call) -> Result<RecordKey, Refusal> {
    Ok(RecordKey::try_new(
        &call.cluster,
        call.segment(1),
        &call.segments(2),
    )?)
}

/// What the request says must stand there.
fn condition(call: &Call) -> Result<Expect, Refusal> {
    match (call.header("if-match")?, call.header("if-none-match")?) {
        (None, Some("*")) => Ok(Expect::Absent),
        (Some(etag), None) => Ok(Expect::Version(version(etag)?)),
        (None, None) => {
            let detail = "say what must stand there: If-None-Match: * or If-Match with an ETag";
            let status = StatusCode::PRECONDITION_REQUIRED;
            Err(Refusal::new(status, "precondition-required", detail))
        }
        _ => Err(Refusal::invalid("one of If-None-Match: * and If-Match is needed")),
    }
}

fn version(etag: &str) -> Result<Version, Refusal> {
    let quoted = etag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let text = quoted.ok_or_else(|| Refusal::invalid("If-Match needs one ETag in double quotes"))?;
    Ok(wire::version(text)?)
}

fn with_etag(status: StatusCode, record: &Record) -> Response {
    let etag = format!("\"{}\"", wire::hex(&record.version.0));
    let mut response = (status, Json(WireRecord::new(record))).into_response();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

fn precondition_failed(standing: Option<Record>) -> Refusal {
    let detail = match standing {
        Some(_) => "something else stands there; see `record`",
        None => "nothing stands there, or the author was fenced",
    };
    let record = standing.map(|record| serde_json::to_value(WireRecord::new(&record)).unwrap_or_default());
    Refusal::new(StatusCode::PRECONDITION_FAILED, "precondition-failed", detail)
        .with("record", record.unwrap_or(Value::Null))
}
