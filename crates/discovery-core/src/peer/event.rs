//! What a watch of peers tells.

use std::pin::Pin;

use futures_util::Stream;

use super::PeerInfo;
use crate::DiscoveryError;

/// Why a peer is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RemovalReason {
    /// It unregistered, or was unregistered.
    Unregistered,
    /// It was not heard of for its TTL.
    Expired,
    /// The backend does not tell, or the watch was interrupted when it happened.
    Unknown,
}

impl RemovalReason {
    /// The reason as one lower-case word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unregistered => "unregistered",
            Self::Expired => "expired",
            Self::Unknown => "unknown",
        }
    }
}

/// One item of a watch of peers.
///
/// A watch begins with a `Snapshot`, also when there are no peers. When the backend cannot be
/// heard any more, the watch says `Interrupted`, tries again by itself, and once it can be heard
/// tells the difference as ordinary events followed by `Resynced`: no gap is silent.
///
/// Renewals and takeovers by the same peer are no events. Around an interruption, and where a
/// backend is polled, several changes of one peer may come as the last of them; nothing is
/// invented or told in another order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PeerEvent {
    /// Every peer, in the order of worker ids.
    Snapshot(Vec<PeerInfo>),
    /// A peer appeared.
    Added(PeerInfo),
    /// The same instance is at another address.
    Modified {
        /// As it was.
        previous: PeerInfo,
        /// As it is.
        peer: PeerInfo,
    },
    /// A peer left.
    Removed {
        /// As it was.
        peer: PeerInfo,
        /// Why it left.
        reason: RemovalReason,
    },
    /// The backend cannot be heard; what is known may be out of date until `Resynced`.
    Interrupted(DiscoveryError),
    /// What was missed while interrupted has been told.
    Resynced {
        /// Peers that the backend does not know any more, but so many at once that they are
        /// kept until one TTL has passed: then they come back, or are `Removed`.
        suspects: Vec<PeerInfo>,
    },
}

/// The events of a watch.
pub type PeerEvents = Pin<Box<dyn Stream<Item = PeerEvent> + Send>>;
