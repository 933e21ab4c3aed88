//! Watching: `GET /v1/clusters/{cluster}/watch/{kind}`, as server-sent events or by long polls.

mod frame;
mod hub;
mod poll;
mod reader;
mod registry;
mod ring;
mod snapshot;

use std::{convert::Infallible, ops::RangeInclusive, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use discovery_core::store::{Position, RecordKey};
use futures_util::{StreamExt, stream};

use self::reader::Reader;
pub(super) use self::registry::Watches;
use super::{app::App, call::Call, list, problem::Refusal};
use crate::wire;

/// How long a poll may wait for a change.
const WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);

const OPTIONS: &[&str] = &["cursor", "keep_alive", "under", "wait"];

pub(super) async fn watch(State(app): State<Arc<App>>, call: Call) -> Result<Response, Refusal> {
    let prefix = list::prefix(&call, OPTIONS)?;
    let cursor = cursor(&call)?;
    let keep_alive = duration(&call, "keep_alive", wire::KEEP_ALIVE)?.unwrap_or(wire::DEFAULT_KEEP_ALIVE);
    let wait = duration(&call, "wait", WAIT)?;
    if wait.is_none() {
        accepts_events(&call)?;
    }
    // A reset is everything there is, which is not yet known.
    app.warm_up.check()?;
    let reader = subscribe(&app, prefix, cursor).await?;
    Ok(match wait {
        Some(wait) => {
            let text = poll::answer(reader.without_progress(), wait).map(Ok::<_, Infallible>);
            answer(wire::JSON, Body::from_stream(text))
        }
        None => answer(wire::EVENT_STREAM, events(reader, keep_alive)),
    })
}

async fn subscribe(app: &App, prefix: RecordKey, cursor: Option<Position>) -> Result<Reader, Refusal> {
    let permit = app.watches.permit()?;
    let hub = app.watches.hub(&app.store, prefix)?;
    hub.caught_up().await.map_err(Refusal::of_read)?;
    Ok(Reader::new(hub, cursor, permit))
}

fn events(reader: Reader, keep_alive: Duration) -> Body {
    let texts = stream::unfold(reader, move |mut reader| async move {
        let text = reader.text(keep_alive).await?;
        Some((Ok::<_, Infallible>(text), reader))
    });
    Body::from_stream(texts)
}

fn answer(media_type: &'static str, body: Body) -> Response {
    let mut response = (StatusCode::OK, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    // What nginx and others understand: pass everything on at once.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Where to go on: the header of an `EventSource` that reconnects comes before what its URL said
/// in the first place.
fn cursor(call: &Call) -> Result<Option<Position>, Refusal> {
    let header = call.header("last-event-id")?.filter(|id| !id.is_empty());
    let text = header.or(call.option("cursor", OPTIONS)?);
    text.map(|text| wire::cursor(text).ok_or_else(|| Refusal::invalid("this is not the id of an event")))
        .transpose()
}

fn duration(call: &Call, name: &str, limits: RangeInclusive<Duration>) -> Result<Option<Duration>, Refusal> {
    let Some(text) = call.option(name, OPTIONS)? else {
        return Ok(None);
    };
    let duration = humantime::parse_duration(text).ok();
    let duration = duration.filter(|duration| limits.contains(duration));
    duration.map(Some).ok_or_else(|| {
        let (least, most) = (limits.start(), limits.end());
        Refusal::invalid(format!(
            "{name} is a duration from {least:?} to {most:?}, such as 5s"
        ))
    })
}

fn accepts_events(call: &Call) -> Result<(), Refusal> {
    let accepted = call.header("accept")?.unwrap_or("*/*");
    let fits = |range: &str| {
        let essence = range.split(';').next().unwrap_or_default().trim();
        ["*/*", "text/*", wire::EVENT_STREAM].contains(&essence.to_ascii_lowercase().as_str())
    };
    if accepted.split(',').any(fits) {
        return Ok(());
    }
    let detail = "a watch is told as text/event-stream, or as JSON with the option wait";
    Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, "not-acceptable", detail))
}
