//! What a backend supplies to be tested.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use discovery_core::{Capabilities, Cluster, DiscoveryError, DiscoverySystem};
use discovery_records::view::ViewConfig;

/// Which clock a backend's trials run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// tokio's, paused: for what never touches a socket or a thread of its own.
    Virtual,
    /// The real one.
    Real,
}

/// How a trial wants to be connected.
#[derive(Clone, Debug)]
pub struct Connect {
    /// The cluster to see.
    pub cluster: Cluster,
    /// The time to live to ask for.
    pub ttl: Duration,
    /// How watches distrust what they are told.
    pub view: ViewConfig,
    /// Whether renewal must run on a thread of its own; else where the backend runs it by default.
    pub own_thread: bool,
}

/// What happens to the backend as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be reached: calls are refused at once.
    Cut,
    /// It is silent: calls get no answer.
    Stall,
    /// It is there again.
    Heal,
    /// It lost everything and is there again.
    Wipe,
}

/// A connection that must not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadConnection {
    /// With credentials that the server does not know.
    WrongCredentials,
    /// To a server whose certificate nobody vouches for.
    UnknownAuthority,
    /// To a server whose certificate is for another host.
    WrongHostName,
    /// To a server whose certificate has expired.
    ExpiredCertificate,
    /// Without TLS to a port that speaks TLS.
    PlaintextToTls,
    /// With TLS to a port that does not.
    TlsToPlaintext,
}

/// A backend under test: how to start one, and what it declares.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// The backend's name, as in its URL scheme.
    fn name(&self) -> &str;

    /// Which clock the trials run on.
    fn timing(&self) -> Timing;

    /// What the backend declares.
    fn capabilities(&self) -> Capabilities;

    /// Starts a backend for one trial; it ends when dropped. An error says why there is none
    /// on this machine.
    async fn start(&self) -> Result<Box<dyn Backend>, String>;

    /// Attaches to a backend that another process started, by its
    /// [`endpoint`](Backend::endpoint). Only for backends with members in processes.
    fn attach(&self, endpoint: &str) -> Result<Box<dyn Backend>, String> {
        Err(format!("{} has no endpoint such as {endpoint}", self.name()))
    }

    /// Texts that a user or operator may see when this secret stands in the configuration:
    /// messages, debug output, error chains. None may contain it.
    fn texts_with_secret(&self, secret: &str) -> Vec<String>;
}

/// A running backend.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Connects, checking that the backend is there.
    async fn connect(&self, connect: &Connect) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError>;

    /// Makes a system without any I/O.
    fn connect_lazy(&self, connect: &Connect) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError>;

    /// Connects in a way that must fail. Asked only of backends that declare `authentication`
    /// or `tls`.
    async fn connect_badly(
        &self,
        _connect: &Connect,
        how: BadConnection,
    ) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> {
        panic!("the backend declares what its harness cannot try: {how:?}")
    }

    /// Makes the server take other credentials from now on, and refuse those it took, and hands
    /// the new ones to whoever is connected in the way that operators do. Asked only of
    /// backends that declare `authentication`.
    async fn rotate_credentials(&self) {
        panic!("the backend declares what its harness cannot try: rotation of credentials")
    }

    /// Where other processes find the backend; `None` if it is only in this one.
    fn endpoint(&self) -> Option<String> {
        None
    }

    /// Where its server listens, so that a [`FaultProxy`](crate::FaultProxy) can be put in front.
    /// Asked only of backends that declare `server_restart`.
    fn server_address(&self) -> Option<SocketAddr> {
        None
    }

    /// The same backend, reached at another address. Asked only of backends that declare
    /// `server_restart`.
    fn via(&self, address: SocketAddr) -> Option<Arc<dyn Backend>> {
        let _ = address;
        None
    }

    /// Makes a fault happen.
    async fn fault(&self, fault: Fault);

    /// Watches that the backend serves now, where that can be told.
    fn watches(&self) -> Option<usize> {
        None
    }

    /// Connections that clients have open now, where that can be told.
    fn connections(&self) -> Option<usize> {
        None
    }
}
