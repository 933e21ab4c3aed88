//! The contract, tried on the etcd backend: real servers, each a process of its own, that ask who
//! calls, and forget it after a few seconds without a call.

mod support;

use std::{
    error::Error, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, thread, time::Duration,
};

use async_trait::async_trait;
use discovery_conformance::{Backend, BadConnection, Connect, Fault, Harness, Timing, servers::EtcdServer};
use discovery_core::{Capabilities, DiscoveryError, DiscoverySystem, Secret, SystemUrl};
use discovery_etcd::{EtcdConfig, EtcdSystem};
use support::{Authority, Folder, USER, Valid, change_password, encrypted, guard, guarded};
use tokio::runtime::Builder;

/// After how long without a call a login is forgotten.
const TOKEN_TTL: Duration = Duration::from_secs(3);
const PASSWORD: &str = "as it is";
/// What it becomes where credentials are rotated.
const NEW_PASSWORD: &str = "as it will be";

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
        let server = guarded(TOKEN_TTL, PASSWORD).await?;
        let folder = Folder::new();
        Ok(Box::new(Running {
            address: server.address().to_string(),
            password: folder.write("password", PASSWORD),
            own: Some(Own { server, folder }),
        }))
    }

    fn attach(&self, endpoint: &str) -> Result<Box<dyn Backend>, String> {
        let (address, password) = endpoint.split_once(' ').ok_or("no password file")?;
        Ok(Box::new(Running {
            address: address.to_owned(),
            password: password.into(),
            own: None,
        }))
    }

    fn texts_with_secret(&self, secret: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for options in [
            "?cluster=x",
            "?cluster=a/b",
            "?password_env=X",
            "?ca_file=x",
            "?colour=red",
        ] {
            let text = format!("etcd://me:{secret}@127.0.0.1:2379{options}");
            let url: SystemUrl = text.parse().expect("a URL");
            texts.push(format!("{url:?}"));
            match EtcdConfig::from_url(url) {
                Ok(config) => {
                    texts.push(format!("{config:?} {config:#?}"));
                    let system = EtcdSystem::connect_lazy(config).expect("no I/O");
                    texts.push(format!("{system:?} {:?}", system.peer_discovery()));
                }
                Err(error) => texts.extend(shown(&error)),
            }
        }
        texts.extend(refused(secret).iter().flat_map(shown));
        texts
    }
}

/// The error as operators see it, and all that is behind it.
fn shown(error: &DiscoveryError) -> Vec<String> {
    let mut texts = vec![error.to_string(), format!("{error:?}")];
    let mut next = error.source();
    while let Some(cause) = next {
        texts.push(format!("{cause} {cause:?}"));
        next = cause.source();
    }
    texts
}

/// What comes of showing a server a password that it does not know; nothing if there is no
/// server.
fn refused(secret: &str) -> Option<DiscoveryError> {
    let asking = async {
        let server = guarded(TOKEN_TTL, PASSWORD).await.ok()?;
        let config = EtcdConfig::try_new(&format!("etcd://{}", server.address()));
        let config = config
            .expect("a configuration")
            .with_user(USER, Secret::new(secret));
        Some(EtcdSystem::connect(config).await.expect_err("a wrong password"))
    };
    // This thread drives a runtime already.
    thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(asking)
        });
        asked.join().expect("no panic")
    })
}

/// A server, or another process's.
struct Running {
    address: String,
    /// The file of the password.
    password: PathBuf,
    own: Option<Own>,
}

/// What is ours, and ends with us.
struct Own {
    server: EtcdServer,
    folder: Folder,
}

impl Running {
    fn config(&self, connect: &Connect) -> Result<EtcdConfig, DiscoveryError> {
        let (address, password) = (&self.address, self.password.display());
        let url = format!("etcd://{USER}@{address}?password_file={password}");
        Ok(as_told(EtcdConfig::from_url(url.parse()?)?, connect))
    }

    fn own(&self) -> &Own {
        self.own.as_ref().expect("a server of our own")
    }

    fn server(&self) -> &EtcdServer {
        &self.own().server
    }
}

fn as_told(config: EtcdConfig, connect: &Connect) -> EtcdConfig {
    config
        .with_cluster(connect.cluster.clone())
        .with_view(connect.view)
        .with_ttl(connect.ttl)
}

/// A server with a certificate of ours for a host, and how to reach it.
async fn with_certificate(
    folder: &Folder,
    authority: &Authority,
    host: &str,
    valid: Valid,
) -> (EtcdServer, EtcdConfig) {
    let server = encrypted(authority.sign(folder, host, valid)).await;
    let server = server.expect("a server");
    let config = EtcdConfig::try_new(&format!("etcds://{}", server.address()));
    (
        server,
        config.expect("a configuration").with_ca_file(&authority.file),
    )
}

#[async_trait]
impl Backend for Running {
    async fn connect(&self, connect: &Connect) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> {
        Ok(Arc::new(EtcdSystem::connect(self.config(connect)?).await?))
    }

    fn connect_lazy(&self, connect: &Connect) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> {
        Ok(Arc::new(EtcdSystem::connect_lazy(self.config(connect)?)?))
    }

    async fn connect_badly(
        &self,
        connect: &Connect,
        how: BadConnection,
    ) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> {
        let folder = Folder::new();
        let [ours, others] = ["ours", "others"].map(|name| Authority::new(&folder, name));
        let (host, valid) = match how {
            BadConnection::WrongHostName => ("etcd.test", Valid::Now),
            BadConnection::ExpiredCertificate => ("127.0.0.1", Valid::InThePast),
            _ => ("127.0.0.1", Valid::Now),
        };
        let (server, config) = with_certificate(&folder, &ours, host, valid).await;
        if valid == Valid::Now {
            let named = config.clone().with_server_name(host);
            let good = EtcdSystem::connect(as_told(named, connect)).await;
            good.expect("only one thing is wrong");
        }
        let config = match how {
            BadConnection::WrongCredentials => self.config(connect)?.with_user(USER, Secret::new("no")),
            BadConnection::UnknownAuthority => config.with_ca_file(&others.file),
            BadConnection::WrongHostName | BadConnection::ExpiredCertificate => config,
            BadConnection::PlaintextToTls => EtcdConfig::try_new(&format!("etcd://{}", server.address()))?,
            BadConnection::TlsToPlaintext => self.config(connect)?.with_tls().with_ca_file(&ours.file),
        };
        Ok(Arc::new(EtcdSystem::connect(as_told(config, connect)).await?))
    }

    async fn rotate_credentials(&self) {
        change_password(self.server(), NEW_PASSWORD).await;
        self.own().folder.write("password", NEW_PASSWORD);
    }

    fn endpoint(&self) -> Option<String> {
        Some(format!("{} {}", self.address, self.password.display()))
    }

    fn server_address(&self) -> Option<SocketAddr> {
        self.address.parse().ok()
    }

    fn via(&self, address: SocketAddr) -> Option<Arc<dyn Backend>> {
        Some(Arc::new(Self {
            address: address.to_string(),
            password: self.password.clone(),
            own: None,
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
                // Its users are lost as everything else.
                guard(self.server(), PASSWORD).await;
            }
        }
    }

    fn connections(&self) -> Option<usize> {
        self.own.as_ref()?.server.sockets()
    }
}
