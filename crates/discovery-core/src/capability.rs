//! What a system declares that it can do, and how fast.

use std::{fmt, time::Duration};

/// One thing that a system can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Capability {
    /// Registers peers and keeps them registered.
    Register,
    /// Streams changes.
    Watch,
    /// Lists everything that is registered.
    List,
    /// Records leave when their owner dies.
    Expiry,
    /// Of any number of racing claimants of one key, exactly one wins.
    StrongCollision,
    /// Other processes can take part.
    MultiProcess,
    /// Asks callers who they are.
    Authentication,
    /// Encrypts the connection.
    Tls,
    /// Has a server that may restart while clients live on.
    ServerRestart,
    /// The client may send a write after the call that made it was given up.
    ClientQueue,
}

impl Capability {
    /// Every capability.
    pub const ALL: [Self; 10] = [
        Self::Register,
        Self::Watch,
        Self::List,
        Self::Expiry,
        Self::StrongCollision,
        Self::MultiProcess,
        Self::Authentication,
        Self::Tls,
        Self::ServerRestart,
        Self::ClientQueue,
    ];

    /// The capability as one lower-case word with underscores.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Watch => "watch",
            Self::List => "list",
            Self::Expiry => "expiry",
            Self::StrongCollision => "strong_collision",
            Self::MultiProcess => "multi_process",
            Self::Authentication => "authentication",
            Self::Tls => "tls",
            Self::ServerRestart => "server_restart",
            Self::ClientQueue => "client_queue",
        }
    }
}

/// How long things take at most, as a system declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The shortest time to live it grants.
    pub min_ttl: Duration,
    /// The time to live it asks for unless told otherwise.
    pub default_ttl: Duration,
    /// After the TTL of a killed peer, until nobody finds it any more.
    pub expiry_slack: Duration,
    /// After a write was acknowledged, until every reader sees it.
    pub propagation: Duration,
    /// After a watch was cut off without a word, until it is noticed. Zero where that cannot
    /// happen.
    pub watch_silence: Duration,
}

/// What a system can do, and its bounds.
///
/// ```
/// use std::time::Duration;
/// use discovery_core::{Bounds, Capabilities, Capability};
///
/// let bounds = Bounds {
///     min_ttl: Duration::from_secs(1),
///     default_ttl: Duration::from_secs(10),
///     expiry_slack: Duration::ZERO,
///     propagation: Duration::ZERO,
///     watch_silence: Duration::ZERO,
/// };
/// let capabilities = Capabilities::new(bounds).with(Capability::Register);
/// assert!(capabilities.has(Capability::Register));
/// assert!(!capabilities.has(Capability::Watch));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Capabilities {
    set: u16,
    bounds: Bounds,
}

impl Capabilities {
    /// Nothing but bounds.
    #[must_use]
    pub const fn new(bounds: Bounds) -> Self {
        Self { set: 0, bounds }
    }

    /// Adds a capability.
    #[must_use]
    pub const fn with(mut self, capability: Capability) -> Self {
        self.set |= 1 << capability as u16;
        self
    }

    /// Takes a capability away.
    #[must_use]
    pub const fn without(mut self, capability: Capability) -> Self {
        self.set &= !(1 << capability as u16);
        self
    }

    /// Whether the system can do this.
    #[must_use]
    pub const fn has(&self, capability: Capability) -> bool {
        self.set & (1 << capability as u16) != 0
    }

    /// The declared bounds.
    #[must_use]
    pub const fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Everything the system can do.
    pub fn iter(&self) -> impl Iterator<Item = Capability> {
        Capability::ALL
            .into_iter()
            .filter(|capability| self.has(*capability))
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Capability::name).collect();
        f.debug_struct("Capabilities")
            .field("set", &names)
            .field("bounds", &self.bounds)
            .finish()
    }
}
