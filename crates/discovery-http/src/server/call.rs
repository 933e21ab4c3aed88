//! A request, read and taken apart; whatever is wrong with it is answered as a problem.

use std::time::Duration;

use axum::{
    body::{self, Body},
    extract::{FromRequest, Request},
    http::{HeaderMap, HeaderValue, StatusCode, request::Parts},
};
use bytes::{Bytes, BytesMut};
use discovery_core::{Cluster, DiscoveryError, ErrorKind, limit, store::Writer};
use futures_util::StreamExt;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{problem::Refusal, token::Token};
use crate::wire;

/// The most time for the body of a request to arrive.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A request within a cluster.
pub(super) struct Call {
    pub(super) cluster: Cluster,
    /// The segments of the path after the cluster, decoded one by one.
    segments: Vec<String>,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
}

impl<S: Send + Sync> FromRequest<S> for Call {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let (cluster, segments) = path(&parts)?;
        Ok(Self {
            cluster,
            segments,
            query: query(parts.uri.query().unwrap_or_default())?,
            body: body::to_bytes(body, wire::REQUEST_BYTES)
                .await
                .map_err(|_| Refusal::invalid("the body could not be read to its end"))?,
            headers: parts.headers,
        })
    }
}

impl Call {
    /// A segment of the path after the cluster.
    pub(super) fn segment(&self, index: usize) -> &str {
        self.segments.get(index).map_or("", String::as_str)
    }

    /// The segments of the path from this one on.
    pub(super) fn segments(&self, from: usize) -> Vec<&str> {
        self.segments.iter().skip(from).map(String::as_str).collect()
    }

    /// The body, which must be JSON.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let media_type = self.header("content-type")?.unwrap_or_default();
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let detail = "the body must be sent with Content-Type: application/json";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Refusal::new(status, "unsupported-media-type", detail));
        }
        serde_json::from_slice(&self.body)
            .map_err(|cause| Refusal::invalid(format!("the body is not the JSON expected here: {cause}")))
    }

    /// A header, if it is there.
    pub(super) fn header(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let text = self.headers.get(name).map(HeaderValue::to_str).transpose();
        text.map_err(|_| Refusal::invalid(format!("the header {name} is not plain text")))
    }

    /// A header that must be there.
    pub(super) fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.header(name)?
            .ok_or_else(|| Refusal::invalid(format!("the header {name} is missing")))
    }

    /// The session that a header names.
    pub(super) fn session(&self, name: &str) -> Result<Token, Refusal> {
        Token::parse(self.required(name)?)
    }

    /// The author that the header `Writer-Id` names.
    pub(super) fn writer(&self) -> Result<Option<Writer>, Refusal> {
        Ok(self.header("writer-id")?.map(wire::writer).transpose()?)
    }

    /// An option of the query; one that is not among `known` is refused.
    pub(super) fn option(&self, name: &str, known: &[&str]) -> Result<Option<&str>, Refusal> {
        if let Some((stranger, _)) = self
            .query
            .iter()
            .find(|(name, _)| !known.contains(&name.as_str()))
        {
            let known = known.join(", ");
            return Err(Refusal::invalid(format!(
                "there is no option {:?} here; the options are: {known}",
                cut(stranger)
            )));
        }
        let found = self.query.iter().find(|(found, _)| found == name);
        Ok(found.map(|(_, value)| value.as_str()))
    }
}

/// The cluster and what follows it. Segments are told apart before they are decoded, so that
/// an encoded slash stays inside its segment, where it is refused.
fn path(parts: &Parts) -> Result<(Cluster, Vec<String>), Refusal> {
    let rest = parts.uri.path().strip_prefix("/v1/clusters/").unwrap_or_default();
    let mut segments = rest.split('/').map(|segment| decode("path", segment));
    let cluster = segments.next().transpose()?.unwrap_or_default();
    Ok((Cluster::try_new(cluster)?, segments.collect::<Result<_, _>>()?))
}

fn query(text: &str) -> Result<Vec<(String, String)>, Refusal> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode("query", name)?, decode("query", value)?))
        })
        .collect()
}

fn decode(part: &str, text: &str) -> Result<String, Refusal> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded
        .map(|text| text.into_owned())
        .map_err(|_| Refusal::invalid(format!("the {part} is not UTF-8")))
}

/// Reads the body of a request, which must arrive in time and find room.
pub(super) async fn receive(
    body: Body,
    room: &Semaphore,
) -> Result<(Bytes, Option<SemaphorePermit<'_>>), Refusal> {
    let read = timeout(RECEIVE_TIMEOUT, whole(body, room)).await;
    read.unwrap_or_else(|_| {
        let detail = "the request did not arrive in time";
        let status = StatusCode::REQUEST_TIMEOUT;
        Err(Refusal::new(status, ErrorKind::Timeout.code(), detail).retryable())
    })
}

async fn whole(body: Body, room: &Semaphore) -> Result<(Bytes, Option<SemaphorePermit<'_>>), Refusal> {
    let mut chunks = body.into_data_stream();
    let mut whole = BytesMut::new();
    let mut taken: Option<SemaphorePermit<'_>> = None;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Refusal::invalid("the body could not be read to its end"))?;
        if whole.len() + chunk.len() > wire::REQUEST_BYTES {
            return Err(large(format!(
                "a request has at most {} bytes",
                wire::REQUEST_BYTES
            )));
        }
        let more = room.try_acquire_many(u32::try_from(chunk.len()).unwrap_or(u32::MAX));
        let more = more.map_err(|_| Refusal::overloaded("too many bytes of requests at once"))?;
        match &mut taken {
            Some(taken) => taken.merge(more),
            None => taken = Some(more),
        }
        whole.extend_from_slice(&chunk);
    }
    Ok((whole.freeze(), taken))
}

/// A time to live on the wire; outside the limits it is refused, never clamped.
pub(super) fn ttl(ttl_ms: u64) -> Result<Duration, Refusal> {
    Ok(limit::ttl(Duration::from_millis(ttl_ms))?)
}

/// Refuses more items in one request than are worked on at a time.
pub(super) fn at_most(most: usize, items: usize) -> Result<(), Refusal> {
    if items <= most {
        return Ok(());
    }
    Err(Refusal::invalid(format!(
        "at most {most} records fit in one request, not {items}"
    )))
}

/// A body of a record, within its limit.
pub(super) fn record_body(key: &str, body: wire::Body) -> Result<Bytes, Refusal> {
    let body = body.into_bytes()?;
    if body.len() > limit::BODY_BYTES {
        let detail = format!(
            "the body of {:?} has more than {} bytes",
            cut(key),
            limit::BODY_BYTES
        );
        return Err(large(detail));
    }
    Ok(body)
}

fn large(detail: String) -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
}

/// Foreign text for a message, cut short.
pub(super) fn cut(text: &str) -> &str {
    text.char_indices().nth(64).map_or(text, |(end, _)| &text[..end])
}

/// An answer of the store that contradicts its contract.
pub(super) fn broken_contract() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Unexpected, "the store did not answer once per item")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_takes_room_until_it_is_done_with() {
        let room = Semaphore::new(10);
        let (body, taken) = receive(Body::from("12345678"), &room).await.unwrap();
        assert_eq!((&body[..], room.available_permits()), (&b"12345678"[..], 2));
        let refusal = receive(Body::from("123"), &room).await.unwrap_err();
        let problem = refusal.into_problem();
        assert_eq!((problem.code.as_str(), problem.retryable), ("overloaded", true));
        assert_eq!(room.available_permits(), 2);
        drop(taken);
        assert_eq!(room.available_permits(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_must_arrive_in_time() {
        let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, axum::Error>>());
        let problem = receive(body, &Semaphore::new(10))
            .await
            .unwrap_err()
            .into_problem();
        assert_eq!((problem.code.as_str(), problem.status), ("timeout", 408));
        assert!(problem.retryable && !problem.outcome_unknown);
    }
}
