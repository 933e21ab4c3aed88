//! Where a peer can be reached.

use std::{fmt, hash, str, sync::Arc};

use xxhash_rust::xxh3::xxh3_64;

use crate::{DiscoveryError, limit};

/// Longest address that is kept without an allocation; makes the whole value 32 bytes.
const INLINE: usize = 30;

/// An address of a peer: opaque bytes, 1 to 4,096 of them.
///
/// Cheap to clone; up to 30 bytes are kept inline.
///
/// ```
/// use discovery_core::WorkerAddress;
///
/// let address = WorkerAddress::from_bytes("tcp://127.0.0.1:5555");
/// assert_eq!(address.as_bytes(), b"tcp://127.0.0.1:5555");
/// assert!(address.validate().is_ok());
/// assert!(WorkerAddress::from_bytes("").validate().is_err());
/// ```
#[derive(Clone)]
pub struct WorkerAddress(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE] },
    Shared(Arc<[u8]>),
}

impl WorkerAddress {
    /// Copies the bytes. Their number is checked by [`validate`](Self::validate), which every
    /// call that takes an address makes.
    pub fn from_bytes(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        if bytes.len() > INLINE {
            return Self(Repr::Shared(bytes.into()));
        }
        let mut inline = [0; INLINE];
        inline[..bytes.len()].copy_from_slice(bytes);
        Self(Repr::Inline {
            len: bytes.len() as u8,
            bytes: inline,
        })
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
        }
    }

    /// The address as text, if it is UTF-8.
    #[must_use]
    pub fn to_str(&self) -> Option<&str> {
        str::from_utf8(self.as_bytes()).ok()
    }

    /// `xxh3_64` of the bytes: tells two addresses apart, and catches damage.
    #[must_use]
    pub fn checksum(&self) -> u64 {
        xxh3_64(self.as_bytes())
    }

    /// Checks the length.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty address and one of more than 4,096 bytes.
    pub fn validate(&self) -> Result<(), DiscoveryError> {
        let len = self.as_bytes().len();
        if limit::ADDRESS_BYTES.contains(&len) {
            return Ok(());
        }
        let context = format!(
            "address has {len} bytes; it must have 1 to {}",
            limit::ADDRESS_BYTES.end()
        );
        Err(DiscoveryError::invalid_argument(context))
    }
}

impl PartialEq for WorkerAddress {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for WorkerAddress {}

impl hash::Hash for WorkerAddress {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Display for WorkerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().escape_ascii().fmt(f)
    }
}

impl fmt::Debug for WorkerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerAddress({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_reads_back() {
        for len in [0, 1, 29, 30, 31, 4_096, 120_000] {
            let bytes = vec![7; len];
            assert_eq!(WorkerAddress::from_bytes(&bytes).as_bytes(), bytes);
        }
    }

    #[test]
    fn a_short_address_costs_four_words() {
        assert_eq!(size_of::<WorkerAddress>(), 32);
    }

    #[test]
    fn lengths_outside_the_limits_are_refused_by_name() {
        for (len, fits) in [(0, false), (1, true), (4_096, true), (4_097, false)] {
            let outcome = WorkerAddress::from_bytes(vec![0; len]).validate();
            assert_eq!(outcome.is_ok(), fits, "{len}");
            if let Err(error) = outcome {
                assert!(error.to_string().contains("address"), "{error}");
            }
        }
    }
}
