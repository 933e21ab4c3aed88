//! What goes over the wire: JSON, the same types on both sides.
//!
//! Record keys are relative to the cluster in the path. Fields that are not known are ignored,
//! so that either side may be the newer one.

use std::{ops::RangeInclusive, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use discovery_core::{
    Cluster, DiscoveryError, ErrorKind,
    store::{Departure, Expect, Position, Record, RecordKey, Version, Writer},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

/// What `/healthz` calls the service.
pub(crate) const SERVICE: &str = "discovery";
/// The version of the API.
pub(crate) const API: &str = "v1";
/// What the types of the service's own problems begin with.
pub(crate) const PROBLEM_TYPE: &str = "urn:discovery:problem:";
/// Media type of every success that says something.
pub(crate) const JSON: &str = "application/json";
/// Media type of a watch.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";
/// Media type of every error answer (RFC 9457).
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";
/// The most keys in one batch of reads; with bodies of full size the answer stays below
/// [`ANSWER_BYTES`].
pub(crate) const KEYS_PER_GET: usize = 400;
/// The most records in one request, whatever their size.
pub(crate) const ITEMS: usize = 1_000;
/// The most records in one page of a list.
#[cfg(feature = "server")]
pub(crate) const PAGE_RECORDS: usize = 1_000;
/// The most bytes of keys and bodies in one page of a list.
#[cfg(feature = "server")]
pub(crate) const PAGE_BYTES: usize = 4 * 1_024 * 1_024;
/// The most bytes of a request that the server reads.
#[cfg(feature = "server")]
pub(crate) const REQUEST_BYTES: usize = 1_024 * 1_024;
/// The most bytes of an answer that the client reads.
pub(crate) const ANSWER_BYTES: usize = 16 * 1_024 * 1_024;
/// The most bytes of one event of a watch that the client reads; a part of a reset has
/// [`PART_BYTES`] and at most one record more.
pub(crate) const EVENT_BYTES: usize = 1_024 * 1_024;
/// How many bytes of records one part of a reset has about.
#[cfg(feature = "server")]
pub(crate) const PART_BYTES: usize = 64 * 1_024;
/// How often a watch is heard of at least, as the asker may choose.
pub(crate) const KEEP_ALIVE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
/// How often a watch is heard of at least, unless chosen.
pub(crate) const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Everything that stands, in parts: what went before is void once the last one is there.
pub(crate) const RESET: &str = "reset";
/// A record was written.
pub(crate) const PUT: &str = "put";
/// A record left.
pub(crate) const GONE: &str = "gone";
/// Nothing else happened up to this position.
pub(crate) const PROGRESS: &str = "progress";
/// The watch ends, and why.
pub(crate) const ERROR: &str = "error";

/// Who answers, from `GET /healthz`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Health {
    pub(crate) service: String,
    pub(crate) api: String,
    /// When the server started: Unix time in milliseconds, as hex digits.
    pub(crate) epoch: String,
    /// How many watches it serves.
    #[serde(default)]
    pub(crate) watches: usize,
}

/// Asks for a session.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OpenSession {
    pub(crate) ttl_ms: u64,
}

/// A session that was granted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SessionGranted {
    pub(crate) session: String,
    pub(crate) ttl_ms: u64,
    pub(crate) renew_every_ms: u64,
}

/// Asks to renew a session.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RenewSession {
    pub(crate) ttl_ms: u64,
    /// Whether `held` is everything that the session is believed to hold.
    #[serde(default)]
    pub(crate) complete: bool,
    #[serde(default)]
    pub(crate) held: Vec<HeldRecord>,
}

/// A record that a session is believed to hold.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HeldRecord {
    pub(crate) key: String,
    #[serde(flatten)]
    pub(crate) body: Body,
    pub(crate) writer: String,
    pub(crate) version: String,
}

/// The answer to a renewal.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SessionRenewed {
    pub(crate) session: String,
    pub(crate) ttl_ms: u64,
    pub(crate) renew_every_ms: u64,
    pub(crate) kept: Vec<KeptRecord>,
    #[serde(default)]
    pub(crate) unwanted: Vec<WireRecord>,
}

/// The answer to a renewal, for one record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KeptRecord {
    Mine(String),
    Other(WireRecord),
    Gone,
    Unknown(Problem),
}

/// Asks for records.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BatchGet {
    pub(crate) keys: Vec<String>,
}

/// One answer per item, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results<T> {
    pub(crate) results: Vec<T>,
}

/// The answer to a read; `null` where nothing stands.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Got {
    Record(WireRecord),
    Problem(Problem),
}

/// Asks to write records.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BatchWrite {
    pub(crate) session: String,
    pub(crate) items: Vec<WriteItem>,
}

/// A record to be written.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WriteItem {
    pub(crate) key: String,
    #[serde(flatten)]
    pub(crate) body: Body,
    pub(crate) writer: String,
    pub(crate) expect: WireExpect,
}

/// What must stand for a write or a removal to happen.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WireExpect {
    Absent,
    Version(String),
}

/// The answer to a write.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WriteAnswer {
    Done {
        version: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<WirePosition>,
    },
    Conflict(Option<WireRecord>),
    Problem(Problem),
}

/// Asks to remove or fence a record.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Remove {
    pub(crate) session: String,
    pub(crate) key: String,
    pub(crate) writer: String,
    pub(crate) expect: WireExpect,
}

/// The answer to a removal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RemoveAnswer {
    Done,
    Conflict(Option<WireRecord>),
}

/// One page of a list.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) records: Vec<WireRecord>,
    #[serde(default)]
    pub(crate) skipped: u64,
    #[serde(default)]
    pub(crate) as_of: Option<WirePosition>,
    pub(crate) next: Option<String>,
}

/// A record as it stands.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireRecord {
    pub(crate) key: String,
    #[serde(flatten)]
    pub(crate) body: Body,
    pub(crate) writer: String,
    pub(crate) version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<WirePosition>,
}

/// The data of a [`RESET`]. The server writes it piece by piece, from records written before.
#[derive(Debug, Deserialize)]
pub(crate) struct ResetPart {
    /// Counts from 0.
    pub(crate) part: u64,
    pub(crate) last: bool,
    pub(crate) records: Vec<WireRecord>,
}

/// The data of a [`GONE`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GoneRecord {
    pub(crate) key: String,
    why: String,
}

/// What a long poll answers with.
#[derive(Debug, Deserialize)]
pub(crate) struct PollAnswer {
    pub(crate) events: Vec<PollEvent>,
    pub(crate) cursor: Option<String>,
}

/// One event of a long poll.
#[derive(Debug, Deserialize)]
pub(crate) struct PollEvent {
    pub(crate) event: String,
    #[serde(default)]
    pub(crate) id: Option<String>,
    pub(crate) data: Box<RawValue>,
}

/// A position; decimal digits, because JSON numbers end at 2^53 in most languages.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WirePosition {
    generation: String,
    seq: String,
}

/// Bytes: as text where that is short and readable, else in base64.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Body {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// An error answer (RFC 9457). `code` decides; the rest is for people.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Problem {
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) title: String,
    #[serde(default)]
    pub(crate) status: u16,
    #[serde(default)]
    pub(crate) detail: String,
    pub(crate) code: String,
    #[serde(default)]
    pub(crate) retryable: bool,
    /// Whether what was asked for may have happened.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) outcome_unknown: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after_ms: Option<u64>,
    /// Extension members of single codes.
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

impl Body {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        // Control characters would take six bytes each as JSON text.
        match std::str::from_utf8(bytes) {
            Ok(text) if !bytes.iter().any(|byte| *byte < b' ') => Self {
                body: Some(text.to_owned()),
                body_base64: None,
            },
            _ => Self {
                body: None,
                body_base64: Some(BASE64_STANDARD.encode(bytes)),
            },
        }
    }

    pub(crate) fn into_bytes(self) -> Result<Bytes, DiscoveryError> {
        match (self.body, self.body_base64) {
            (Some(text), None) => Ok(text.into()),
            (None, Some(text)) => BASE64_STANDARD.decode(text).map(Bytes::from).map_err(|cause| {
                DiscoveryError::invalid_argument("body_base64 is not base64").with_source(cause)
            }),
            _ => Err(DiscoveryError::invalid_argument(
                "exactly one of body and body_base64 is needed",
            )),
        }
    }
}

impl WirePosition {
    #[cfg(feature = "server")]
    pub(crate) fn new(at: Position) -> Self {
        Self {
            generation: at.generation.to_string(),
            seq: at.seq.to_string(),
        }
    }

    pub(crate) fn into_position(self) -> Result<Position, DiscoveryError> {
        let number = |text: &str| text.parse().map_err(|_| malformed("a position is no number"));
        Ok(Position {
            generation: number(&self.generation)?,
            seq: number(&self.seq)?,
        })
    }
}

impl GoneRecord {
    #[cfg(feature = "server")]
    pub(crate) fn new(key: &RecordKey, why: Departure) -> Self {
        let why = match why {
            Departure::Removed => "removed",
            Departure::Expired => "expired",
            _ => "unknown",
        };
        Self {
            key: relative(key).to_owned(),
            why: why.to_owned(),
        }
    }

    pub(crate) fn why(&self) -> Departure {
        match self.why.as_str() {
            "removed" => Departure::Removed,
            "expired" => Departure::Expired,
            _ => Departure::Unknown,
        }
    }
}

impl WireRecord {
    #[cfg(feature = "server")]
    pub(crate) fn new(record: &Record) -> Self {
        Self {
            key: relative(&record.key).to_owned(),
            body: Body::new(&record.body),
            writer: writer_text(record.writer),
            version: hex(&record.version.0),
            at: record.at.map(WirePosition::new),
        }
    }

    pub(crate) fn into_record(self, cluster: &Cluster) -> Result<Record, DiscoveryError> {
        Ok(Record {
            key: key(cluster, &self.key)?,
            body: self.body.into_bytes()?,
            writer: writer(&self.writer)?,
            version: version(&self.version)?,
            at: self.at.map(WirePosition::into_position).transpose()?,
        })
    }
}

impl WireExpect {
    pub(crate) fn new(expect: &Expect) -> Self {
        match expect {
            Expect::Absent => Self::Absent,
            Expect::Version(version) => Self::Version(hex(&version.0)),
        }
    }

    #[cfg(feature = "server")]
    pub(crate) fn into_expect(self) -> Result<Expect, DiscoveryError> {
        Ok(match self {
            Self::Absent => Expect::Absent,
            Self::Version(text) => Expect::Version(version(&text)?),
        })
    }
}

/// The key without its cluster.
pub(crate) fn relative(key: &RecordKey) -> &str {
    key.as_str().split_once('/').map_or("", |(_, rest)| rest)
}

/// The key in a cluster that a relative one names.
pub(crate) fn key(cluster: &Cluster, relative: &str) -> Result<RecordKey, DiscoveryError> {
    let (kind, rest) = match relative.split_once('/') {
        Some((kind, rest)) => (kind, rest.split('/').collect()),
        None => (relative, Vec::new()),
    };
    RecordKey::try_new(cluster, kind, &rest)
}

/// A position as the id of an event.
pub(crate) fn cursor_text(at: Position) -> String {
    format!("{}-{}", at.generation, at.seq)
}

/// The position that the id of an event stands for.
pub(crate) fn cursor(text: &str) -> Option<Position> {
    let (generation, seq) = text.split_once('-')?;
    let number = |text: &str| {
        // `parse` takes a sign.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits)
    };
    Some(Position {
        generation: number(generation)?,
        seq: number(seq)?,
    })
}

pub(crate) fn writer_text(writer: Writer) -> String {
    format!("{:032x}", writer.as_u128())
}

pub(crate) fn writer(text: &str) -> Result<Writer, DiscoveryError> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(text, 16)
        .ok()
        .filter(|_| digits)
        .map(Writer::from_u128)
        .ok_or_else(|| DiscoveryError::invalid_argument("a writer has 32 hex digits"))
}

pub(crate) fn version(text: &str) -> Result<Version, DiscoveryError> {
    unhex(text)
        .map(Version)
        .ok_or_else(|| DiscoveryError::invalid_argument("a version has hex digits in pairs"))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

pub(crate) fn unhex(text: &str) -> Option<Bytes> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let half = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let pairs = text.as_bytes().chunks_exact(2);
    pairs
        .map(|pair| Some(half(pair[0])? << 4 | half(pair[1])?))
        .collect::<Option<Vec<u8>>>()
        .map(Bytes::from)
}

/// A duration in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn malformed(context: &str) -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Malformed, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_read_back_as_text_or_base64() {
        for bytes in [&b""[..], b"{\"a\":1}", b"\0\xff", b"a\nb", "grün".as_bytes()] {
            let json = serde_json::to_string(&Body::new(bytes)).unwrap();
            let body: Body = serde_json::from_str(&json).unwrap();
            assert_eq!(body.into_bytes().unwrap(), bytes, "{json}");
        }
    }

    #[test]
    fn a_body_is_given_once() {
        for json in [
            "{}",
            r#"{"body":"a","body_base64":"YQ=="}"#,
            r#"{"body_base64":"!"}"#,
        ] {
            let body: Body = serde_json::from_str(json).unwrap();
            assert_eq!(
                body.into_bytes().unwrap_err().kind(),
                ErrorKind::InvalidArgument,
                "{json}"
            );
        }
    }

    #[test]
    fn relative_keys_lead_back_to_their_keys() {
        for cluster in ["a", "a%2Fb", "grün", "a.b"] {
            let cluster = Cluster::try_new(cluster).unwrap();
            let whole = RecordKey::try_new(&cluster, "peers", &["1", "x y"]).unwrap();
            assert_eq!(relative(&whole), "peers/1/x y");
            assert_eq!(key(&cluster, relative(&whole)).unwrap(), whole);
        }
        for bad in ["", "/", "a/", "/a", "a//b"] {
            assert!(key(&Cluster::default(), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hex_reads_back_and_rubbish_does_not() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)).unwrap(), bytes);
        for bad in ["a", "0g", "+1", "é"] {
            assert!(unhex(bad).is_none(), "{bad}");
        }
        for bad in ["", "00", &"g".repeat(32), &"+".repeat(32)] {
            assert!(writer(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cursors_read_back_and_rubbish_does_not() {
        let at = Position {
            generation: u64::MAX,
            seq: 0,
        };
        assert_eq!(cursor(&cursor_text(at)), Some(at));
        for bad in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "1-2-3",
            "+1-2",
            "1--2",
            "a-b",
            "1-18446744073709551616",
        ] {
            assert_eq!(cursor(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_problem_needs_only_its_code() {
        let problem: Problem = serde_json::from_str(r#"{"code":"x","colour":"red"}"#).unwrap();
        assert_eq!((problem.code.as_str(), problem.retryable), ("x", false));
        assert_eq!(problem.more["colour"], "red");
    }
}
