//! Limits that hold for every backend. Outside them a call is refused, never clamped.

use std::{ops::RangeInclusive, time::Duration};

use crate::{DiscoveryError, id::quoted};

/// Bytes of an address.
pub const ADDRESS_BYTES: RangeInclusive<usize> = 1..=4_096;
/// The most bytes of a record's body.
pub const BODY_BYTES: usize = 16 * 1_024;
/// Bytes of a cluster name, and of each other segment of a key.
pub const SEGMENT_BYTES: RangeInclusive<usize> = 1..=128;
/// The most bytes of a whole key, cluster and kind included.
pub const KEY_BYTES: usize = 1_024;
/// The time to live that may be asked for.
pub const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);

/// How long connecting may take, unless configured otherwise.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long one call of a store may take, unless configured otherwise.
pub const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// Checks a time to live against [`TTL`].
///
/// # Errors
/// `InvalidConfig` naming `ttl` and its limits.
pub fn ttl(ttl: Duration) -> Result<Duration, DiscoveryError> {
    if TTL.contains(&ttl) {
        return Ok(ttl);
    }
    let shown = humantime::format_duration(ttl);
    Err(DiscoveryError::invalid_config(format!(
        "ttl {shown} is outside its limits of 1s to 1h"
    )))
}

/// Checks the length of a record's body against [`BODY_BYTES`].
///
/// # Errors
/// `InvalidArgument` naming both lengths.
pub fn body(body: &[u8]) -> Result<(), DiscoveryError> {
    if body.len() <= BODY_BYTES {
        return Ok(());
    }
    let length = body.len();
    Err(DiscoveryError::invalid_argument(format!(
        "a body of {length} bytes; at most {BODY_BYTES} fit"
    )))
}

/// Checks the length of a whole key against [`KEY_BYTES`].
pub(crate) fn key(key: String) -> Result<String, DiscoveryError> {
    if key.len() <= KEY_BYTES {
        return Ok(key);
    }
    let start: String = key.chars().take(64).collect();
    Err(DiscoveryError::invalid_argument(format!(
        "record key {}… has {} bytes; at most {KEY_BYTES} are allowed",
        quoted(&start),
        key.len()
    )))
}

/// Checks one segment of a key: its length, no `/`, no control character, and not `.` or `..`,
/// which URLs and object stores take for a way through their folders.
pub(crate) fn segment(name: &str, value: &str) -> Result<(), DiscoveryError> {
    let refuse = |why: &str| {
        Err(DiscoveryError::invalid_argument(format!(
            "{name} {} {why}",
            quoted(value)
        )))
    };
    if !SEGMENT_BYTES.contains(&value.len()) {
        return refuse("must have 1 to 128 bytes");
    }
    if matches!(value, "." | "..") {
        return refuse("means a folder in URLs and object stores; use another name");
    }
    if value.contains('/') || value.chars().any(char::is_control) {
        return refuse("must not contain `/` or control characters");
    }
    Ok(())
}
