//! The contract, tried on the etcd backend: real servers, each a process of its own.

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use async_trait::async_trait;
use discovery_conformance::{Backend, Connect, Fault, Harness, Timing, servers::EtcdServer};
use discovery_core::{Capabilities, DiscoveryError, DiscoverySystem};
use discovery_etcd::{EtcdConfig, EtcdSystem};

fn main() -> ExitCode {
    discovery_conformance::run(Etcd)
}

struct Etcd;

#[async_trait]
impl Harness for Etcd {
    fn name(&self) -> &str {
        "etcd"
    }

    fn timing(&self) -> Timing {
        Timing::Real
    }

    fn capabilities(&self) -> Capabilities {
        EtcdSystem::declared()
    }

    async fn start(&self) -> Result<Box<dyn Backend>, String> {
        let server = EtcdServer::start().await?;
        Ok(Box::new(Running {
            address: server.address().to_string(),
            server: Some(server),
        }))
    }

    fn attach(&self, endpoint: &str) -> Result<Box<dyn Backend>, String> {
        Ok(Box::new(Running {
            address: endpoint.to_owned(),
            server: None,
        }))
    }

    fn texts_with_secret(&self, secret: &str) -> Vec<String> {
        let text = format!("etcd://me:{secret}@127.0.0.1:2379?cluster=x");
        let url: discovery_core::SystemUrl = text.parse().expect("a URL");
        let shown = format!("{url:?}");
        let error = EtcdConfig::from_url(url).expect_err("users are not supported yet");
        let again = EtcdConfig::try_new(&text).expect_err("users are not supported yet");
        vec![
            shown,
            error.to_string(),
            format!("{error:?}"),
            again.to_string(),
            format!("{again:?}"),
        ]
    }
}

/// A server, or another process's.
struct Running {
    address: String,
    server: Option<EtcdServer>,
}

impl Running {
    fn config(&self, connect: &Connect) -> Result<EtcdConfig, DiscoveryError> {
        let config = EtcdConfig::try_new(&format!("etcd://{}", self.address))?;
        Ok(config
            .with_cluster(connect.cluster.clone())
            .with_view(connect.view)
            .with_ttl(connect.ttl))
    }

    fn server(&self) -> &EtcdServer {
        self.server.as_ref().expect("a server of our own")
    }
}

#[async_trait]
impl Backend for Running {
    async fn connect(&self, connect: &Connect) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> {
        Ok(Arc::new(EtcdSystem::connect(self.config(connect)?).await?))
    }

    fn connect_lazy(&self, connect: &Connect) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> {
        Ok(Arc::new(EtcdSystem::connect_lazy(self.config(connect)?)?))
    }

    fn endpoint(&self) -> Option<String> {
        Some(self.address.clone())
    }

    fn server_address(&self) -> Option<SocketAddr> {
        self.address.parse().ok()
    }

    fn via(&self, address: SocketAddr) -> Option<Arc<dyn Backend>> {
        Some(Arc::new(Self {
            address: address.to_string(),
            server: None,
        }))
    }

    async fn fault(&self, fault: Fault) {
        match fault {
            Fault::Cut => self.server().kill().await,
            Fault::Stall => self.server().stop().await,
            Fault::Heal => self.server().resume().await,
            Fault::Wipe => {
                self.server().wipe().await;
                self.server().resume().await;
            }
        }
    }

    fn connections(&self) -> Option<usize> {
        self.server.as_ref()?.sockets()
    }
}
