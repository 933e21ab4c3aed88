//! Who is who: instances, workers and the cluster they live in.

use std::{fmt, num::NonZeroU64, str::FromStr, sync::Arc};

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::{DiscoveryError, limit};

/// One incarnation of a process: a UUID that is not nil and does not hash to worker id zero.
///
/// ```
/// use discovery_core::InstanceId;
///
/// let id: InstanceId = "5f3c8d1e-8a43-4c1b-9a65-0a6c1a3f9b10".parse()?;
/// assert_eq!(id.worker_id(), id.worker_id());
/// assert!("00000000-0000-0000-0000-000000000000".parse::<InstanceId>().is_err());
/// # Ok::<(), discovery_core::DiscoveryError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(Uuid);

impl InstanceId {
    /// A new random id (UUID version 4).
    #[must_use]
    pub fn new_v4() -> Self {
        loop {
            if let Ok(id) = Self::try_from(Uuid::new_v4()) {
                return id;
            }
        }
    }

    /// The id with these 16 bytes.
    ///
    /// # Errors
    /// `InvalidArgument` for the nil UUID and for one whose hash is zero.
    pub fn try_from_bytes(bytes: [u8; 16]) -> Result<Self, DiscoveryError> {
        Self::try_from(Uuid::from_bytes(bytes))
    }

    /// The worker id that belongs to this instance: `xxh3_64` of its 16 bytes.
    #[must_use]
    pub fn worker_id(self) -> WorkerId {
        // Zero was refused when the instance id was made.
        WorkerId(NonZeroU64::new(xxh3_64(self.0.as_bytes())).unwrap_or(NonZeroU64::MAX))
    }

    /// The 16 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl TryFrom<Uuid> for InstanceId {
    type Error = DiscoveryError;

    fn try_from(uuid: Uuid) -> Result<Self, DiscoveryError> {
        if uuid.is_nil() {
            return Err(DiscoveryError::invalid_argument(
                "instance id is the nil UUID; use a random one",
            ));
        }
        if xxh3_64(uuid.as_bytes()) == 0 {
            let context = format!("instance id {uuid} hashes to worker id zero; use another one");
            return Err(DiscoveryError::invalid_argument(context));
        }
        Ok(Self(uuid))
    }
}

impl From<InstanceId> for Uuid {
    fn from(id: InstanceId) -> Self {
        id.0
    }
}

impl FromStr for InstanceId {
    type Err = DiscoveryError;

    fn from_str(text: &str) -> Result<Self, DiscoveryError> {
        let uuid = Uuid::try_parse(text).map_err(|cause| {
            let context = format!("instance id {} is not a UUID", quoted(text));
            DiscoveryError::invalid_argument(context).with_source(cause)
        })?;
        Self::try_from(uuid)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceId({})", self.0)
    }
}

/// 64 bits derived from an [`InstanceId`], never zero, written as 16 lower-case hex digits.
///
/// The hash is fast and *not* collision resistant against somebody who crafts instance ids,
/// so a worker id is no security boundary.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(NonZeroU64);

impl WorkerId {
    /// The number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0.get()
    }
}

impl TryFrom<u64> for WorkerId {
    type Error = DiscoveryError;

    fn try_from(value: u64) -> Result<Self, DiscoveryError> {
        NonZeroU64::new(value)
            .map(Self)
            .ok_or_else(|| DiscoveryError::invalid_argument("worker id is zero"))
    }
}

impl FromStr for WorkerId {
    type Err = DiscoveryError;

    /// Reads exactly 16 hex digits.
    fn from_str(text: &str) -> Result<Self, DiscoveryError> {
        let hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = u64::from_str_radix(text, 16)
            .ok()
            .filter(|_| hex)
            .ok_or_else(|| {
                DiscoveryError::invalid_argument(format!("worker id {} is not 16 hex digits", quoted(text)))
            })?;
        Self::try_from(value)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerId({self})")
    }
}

/// The isolation boundary: peers of one cluster never see those of another.
///
/// 1 to 128 bytes of UTF-8 without `/` and control characters, and neither `.` nor `..`. Part of
/// every key, compared byte for byte.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cluster(Arc<str>);

impl Cluster {
    /// Validates a name.
    ///
    /// # Errors
    /// `InvalidArgument` naming the cluster and its limit.
    pub fn try_new(name: impl AsRef<str>) -> Result<Self, DiscoveryError> {
        let name = name.as_ref();
        limit::segment("cluster", name)?;
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Cluster {
    /// The cluster called `default`.
    fn default() -> Self {
        Self("default".into())
    }
}

impl FromStr for Cluster {
    type Err = DiscoveryError;

    fn from_str(text: &str) -> Result<Self, DiscoveryError> {
        Self::try_new(text)
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cluster({:?})", &*self.0)
    }
}

/// Foreign text for a message: escaped, and cut short when long.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn known_uuids_collide_in_their_worker_id() {
        let one: InstanceId = "b93942ea-7b73-8267-d59f-3d805cf975ae".parse().unwrap();
        let two: InstanceId = "b81a078d-f2d8-4f88-3a52-96093bbc56af".parse().unwrap();
        assert_eq!(one.worker_id(), two.worker_id());
    }

    #[test]
    fn ids_that_cannot_be_told_apart_from_nothing_are_refused() {
        for text in [
            "b93942ea-7b73-8267-caad-69f6c443a950",
            "00000000-0000-0000-0000-000000000000",
            "x",
            "",
        ] {
            let error = text.parse::<InstanceId>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
            assert!(error.to_string().contains("instance id"), "{error}");
        }
    }

    #[test]
    fn worker_ids_are_sixteen_hex_digits() {
        let id: WorkerId = "00000000000000ff".parse().unwrap();
        assert_eq!((id.as_u64(), id.to_string().as_str()), (255, "00000000000000ff"));
        for text in [
            "ff",
            "0000000000000000",
            "+0000000000000ff",
            "00000000000000fg",
            "00000000000000ff0",
        ] {
            assert!(text.parse::<WorkerId>().is_err(), "{text}");
        }
    }

    #[test]
    fn clusters_have_no_separator_and_a_length() {
        for text in ["", ".", "..", "a/b", "a\n", &"x".repeat(129)] {
            assert!(Cluster::try_new(text).is_err(), "{text:?}");
        }
        for text in ["a", "a.b", "a%2Fb", "grün", &"x".repeat(128)] {
            assert_eq!(Cluster::try_new(text).unwrap().as_str(), text);
        }
    }
}
