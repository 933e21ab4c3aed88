//! The contract, tried on the HTTP backend: real servers, each a process of its own.

use std::{
    fs,
    net::SocketAddr,
    process::{ExitCode, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use discovery_conformance::{Backend, Connect, Fault, Harness, Timing};
use discovery_core::{Capabilities, DiscoveryError, DiscoverySystem};
use discovery_http::{
    HttpConfig, HttpSystem,
    server::{Server, ServerConfig},
};
use discovery_memory::MemoryStore;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    runtime::{Builder, Handle},
    time::timeout,
};

/// Tells this binary that it is a server, and where to listen.
const SERVE: &str = "DISCOVERY_HTTP_TEST_SERVER";

fn main() -> ExitCode {
    match std::env::var(SERVE) {
        Ok(listen) => serve(listen.parse().expect("an address")),
        Err(_) => discovery_conformance::run(Http),
    }
}

/// Serves from memory until killed, or until whoever started it is gone.
fn serve(listen: SocketAddr) -> ExitCode {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (store, _task) = MemoryStore::forgiving_pauses(&Handle::current());
        let config = ServerConfig {
            listen,
            warm_up: Duration::ZERO,
            forgetful: true,
            ..ServerConfig::default()
        };
        let server = Server::start(config, Arc::new(store)).await.expect("a server");
        println!("{}", server.local_addr());
        let mut input = BufReader::new(tokio::io::stdin()).lines();
        while let Ok(Some(_)) = input.next_line().await {}
    });
    ExitCode::SUCCESS
}

struct Http;

#[async_trait]
impl Harness for Http {
    fn name(&self) -> &str {
        "http"
    }

    fn timing(&self) -> Timing {
        Timing::Real
    }

    fn capabilities(&self) -> Capabilities {
        HttpSystem::declared()
    }

    async fn start(&self) -> Result<Box<dyn Backend>, String> {
        let (child, address) = start_server("127.0.0.1:0").await;
        Ok(Box::new(Service {
            address: address.clone(),
            child: Mutex::new(Some(child)),
        }))
    }

    fn attach(&self, endpoint: &str) -> Result<Box<dyn Backend>, String> {
        Ok(Box::new(Service {
            address: endpoint.to_owned(),
            child: Mutex::new(None),
        }))
    }

    fn texts_with_secret(&self, secret: &str) -> Vec<String> {
        let text = format!("http://me:{secret}@127.0.0.1:7400?cluster=x");
        let url: discovery_core::SystemUrl = text.parse().expect("a URL");
        let shown = format!("{url:?}");
        let error = HttpConfig::from_url(url).expect_err("users are not supported yet");
        let again = HttpConfig::try_new(&text).expect_err("users are not supported yet");
        vec![
            shown,
            error.to_string(),
            format!("{error:?}"),
            again.to_string(),
            format!("{again:?}"),
        ]
    }
}

/// Starts a server process and waits for the address that it accepts on.
async fn start_server(listen: &str) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .env(SERVE, listen)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a server process");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let first = timeout(Duration::from_secs(20), lines.next_line())
        .await
        .expect("it starts in time");
    let address = first.expect("readable").expect("it says where it listens");
    (child, address)
}

struct Service {
    address: String,
    child: Mutex<Option<Child>>,
}

impl Service {
    fn config(&self, connect: &Connect) -> Result<HttpConfig, DiscoveryError> {
        let config = HttpConfig::try_new(&format!("http://{}", self.address))?;
        Ok(config
            .with_cluster(connect.cluster.clone())
            .with_view(connect.view)
            .with_ttl(connect.ttl))
    }

    fn pid(&self) -> Option<Pid> {
        let child = self.child.lock().expect("not poisoned");
        child
            .as_ref()
            .and_then(Child::id)
            .and_then(|id| Pid::from_raw(id.cast_signed()))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            kill_process(pid, signal).expect("a server that lives");
        }
    }

    /// Whether every thread of the server has stopped, which takes a moment after the signal.
    fn stands_still(&self) -> bool {
        let Some(pid) = self.pid() else { return true };
        let threads =
            fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).expect("a server that lives");
        threads.flatten().all(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with('T'))
        })
    }

    async fn kill(&self) {
        let child = self.child.lock().expect("not poisoned").take();
        if let Some(mut child) = child {
            child.kill().await.expect("killed");
        }
    }

    /// A new server in the place of the one that was killed, or the stopped one goes on.
    async fn heal(&self) {
        if self.pid().is_some() {
            return self.signal(Signal::CONT);
        }
        let (child, _) = start_server(&self.address).await;
        *self.child.lock().expect("not poisoned") = Some(child);
    }
}

#[async_trait]
impl Backend for Service {
    async fn connect(&self, connect: &Connect) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> {
        Ok(Arc::new(HttpSystem::connect(self.config(connect)?).await?))
    }

    fn connect_lazy(&self, connect: &Connect) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> {
        Ok(Arc::new(HttpSystem::connect_lazy(self.config(connect)?)?))
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
            child: Mutex::new(None),
        }))
    }

    async fn fault(&self, fault: Fault) {
        match fault {
            Fault::Cut => self.kill().await,
            Fault::Stall => {
                self.signal(Signal::STOP);
                while !self.stands_still() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            Fault::Heal => self.heal().await,
            Fault::Wipe => {
                self.kill().await;
                self.heal().await;
            }
        }
    }

    /// Sockets that the server has open.
    fn connections(&self) -> Option<usize> {
        let pid = self.pid()?.as_raw_nonzero();
        let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        Some(
            targets
                .filter(|target| target.to_string_lossy().starts_with("socket:"))
                .count(),
        )
    }
}
