//! The envelope: versioned, readable JSON, so that a backend's own tools show what it holds.
//!
//! ```json
//! {"v":1,"kind":"peer","data":{…}}
//! ```

use bytes::Bytes;
use discovery_core::{DiscoveryError, ErrorKind, limit};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The version of the envelope that this crate writes and reads.
pub const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Envelope<'a, T> {
    v: u32,
    kind: &'a str,
    data: T,
}

#[derive(Deserialize)]
struct Header<'a> {
    v: u32,
    kind: &'a str,
}

/// Wraps data of a kind.
///
/// # Errors
/// `InvalidArgument` if the result is larger than [`limit::BODY_BYTES`].
pub fn encode(kind: &str, data: impl Serialize) -> Result<Bytes, DiscoveryError> {
    let body = serde_json::to_vec(&Envelope {
        v: VERSION,
        kind,
        data,
    })
    .map_err(|cause| {
        DiscoveryError::new(
            ErrorKind::Unexpected,
            format!("a {kind} cannot be written as JSON"),
        )
        .with_source(cause)
    })?;
    if body.len() > limit::BODY_BYTES {
        let context = format!(
            "{kind} record has {} bytes; at most {} fit",
            body.len(),
            limit::BODY_BYTES
        );
        return Err(DiscoveryError::invalid_argument(context));
    }
    Ok(body.into())
}

/// Unwraps data of a kind.
///
/// # Errors
/// `Malformed` for anything else: too large, no envelope, of another version or kind.
pub fn decode<T: DeserializeOwned>(kind: &str, body: &[u8]) -> Result<T, DiscoveryError> {
    let malformed = |context: String| DiscoveryError::new(ErrorKind::Malformed, context);
    if body.len() > limit::BODY_BYTES {
        return Err(malformed(format!("a record of {} bytes", body.len())));
    }
    let cause = match serde_json::from_slice::<Envelope<'_, T>>(body) {
        Ok(envelope) if envelope.v == VERSION && envelope.kind == kind => return Ok(envelope.data),
        Ok(_) => None,
        Err(cause) => Some(cause),
    };
    let error = match serde_json::from_slice::<Header<'_>>(body) {
        Ok(header) if header.v != VERSION => malformed(format!(
            "a record of envelope version {}; this release reads version {VERSION}",
            header.v
        )),
        Ok(header) if header.kind != kind => {
            malformed(format!("a record of kind {:?}, not {kind}", header.kind))
        }
        _ => malformed(format!("not a {kind} record")),
    };
    Err(match cause {
        Some(cause) => error.with_source(cause),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &[u8]) -> String {
        let error = decode::<u32>("number", body).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        error.to_string()
    }

    #[test]
    fn what_was_wrapped_is_unwrapped() {
        let body = encode("number", 7).unwrap();
        assert_eq!(&body[..], br#"{"v":1,"kind":"number","data":7}"#);
        assert_eq!(decode::<u32>("number", &body).unwrap(), 7);
    }

    #[test]
    fn a_newer_version_is_named_whatever_it_holds() {
        assert!(refusal(br#"{"v":2,"kind":"number","data":{"new":true}}"#).contains("version 2"));
        assert!(refusal(br#"{"v":1,"kind":"text","data":"x"}"#).contains("\"text\""));
        for body in ["", "7", "null", "{}", "{\"v\":1", "\u{0}"] {
            assert!(refusal(body.as_bytes()).contains("not a number record"), "{body}");
        }
    }

    #[test]
    fn size_is_bounded_both_ways() {
        let long = "x".repeat(limit::BODY_BYTES);
        assert_eq!(
            encode("text", &long).unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
        let body = format!(r#"{{"v":1,"kind":"text","data":"{long}"}}"#);
        assert_eq!(
            decode::<String>("text", body.as_bytes()).unwrap_err().kind(),
            ErrorKind::Malformed
        );
    }
}
