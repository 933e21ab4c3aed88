//! etcd.

use std::{
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    time::{Instant, sleep, timeout},
};

use super::{free_port, process::ServerProcess, program};

/// How long a server may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How many ports are tried: another process may take one before the server does.
const ATTEMPTS: u32 = 5;

/// How a server differs from what it is by default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct EtcdOptions {
    /// The files of its certificate and key, in PEM: it speaks TLS, and nothing else.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The file of the authority, in PEM, that must have signed what clients show; they need show
    /// nothing by default.
    pub client_authority: Option<PathBuf>,
    /// After how long without a call a login is forgotten, in whole seconds; 5 min by default.
    pub token_ttl: Option<Duration>,
}

/// A server of etcd that is a cluster of its own, on loopback.
///
/// It does not wait for its disk, and its ticks are short, so that it is there in about 0.2 s and
/// grants leases of one second. Ends when dropped, with its data.
pub struct EtcdServer {
    program: PathBuf,
    process: ServerProcess,
    options: EtcdOptions,
    /// For clients, for other servers, and for those who ask how it is.
    ports: [u16; 3],
}

impl EtcdServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// Why there is none on this machine: no program was found, or it does not run.
    pub async fn start() -> Result<Self, String> {
        Self::start_with(EtcdOptions::default()).await
    }

    /// Starts a server that is not as by default.
    ///
    /// # Errors
    /// Why there is none on this machine.
    pub async fn start_with(options: EtcdOptions) -> Result<Self, String> {
        let program = program("etcd", "DISCOVERY_ETCD")?;
        let mut server = Self {
            program,
            process: ServerProcess::new("etcd")?,
            options,
            ports: [0; 3],
        };
        for attempt in 1.. {
            server.ports = [free_port()?, free_port()?, free_port()?];
            match server.run().await {
                Err(_) if attempt < ATTEMPTS => server.wipe().await,
                outcome => return outcome.map(|()| server),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Where clients reach it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[0]).into()
    }

    /// Kills it, without a chance to say goodbye.
    pub async fn kill(&self) {
        self.process.kill().await;
    }

    /// Makes it stand still: connections stay, and nothing is answered.
    pub async fn stop(&self) {
        self.process.stop().await;
    }

    /// Makes it go on: it is started again on its ports and data if it was killed.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn resume(&self) {
        if self.process.runs() {
            return self.process.resume();
        }
        self.run().await.expect("it has run before");
    }

    /// Kills it and deletes its data.
    pub async fn wipe(&self) {
        self.kill().await;
        let data = self.data();
        if data.exists() {
            fs::remove_dir_all(&data).expect("data of our own");
        }
    }

    /// Sockets that it has open; `None` if it does not run.
    #[must_use]
    pub fn sockets(&self) -> Option<usize> {
        self.process.sockets()
    }

    fn data(&self) -> PathBuf {
        self.process.folder().join("data")
    }

    async fn run(&self) -> Result<(), String> {
        self.process.start(self.command())?;
        let late = Instant::now() + READY_WITHIN;
        while !self.is_ready().await {
            if self.process.has_ended() || Instant::now() > late {
                let printed = self.process.printed();
                let words: Vec<_> = printed.lines().rev().take(5).collect();
                return Err(format!(
                    "etcd is not ready; its last words, backwards:\n{}",
                    words.join("\n")
                ));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn command(&self) -> Command {
        let scheme = self.options.certificate.as_ref().map_or("http", |_| "https");
        let [clients, peers, health] = [(scheme, 0), ("http", 1), ("http", 2)]
            .map(|(scheme, port)| format!("{scheme}://127.0.0.1:{}", self.ports[port]));
        let mut command = Command::new(&self.program);
        // Its options may come from variables, too.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(variable);
            }
        }
        command
            .args(["--name", "t0", "--unsafe-no-fsync"])
            .args(["--heartbeat-interval", "10", "--election-timeout", "100"])
            // How hard it is to guess passwords does not matter here.
            .args(["--bcrypt-cost", "4"])
            .args(["--listen-metrics-urls", &health])
            .arg("--data-dir")
            .arg(self.data())
            .args([
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &clients,
            ])
            .args([
                "--listen-peer-urls",
                &peers,
                "--initial-advertise-peer-urls",
                &peers,
            ])
            .arg("--initial-cluster")
            .arg(format!("t0={peers}"));
        self.add_options(&mut command);
        command
    }

    fn add_options(&self, command: &mut Command) {
        if let Some((certificate, key)) = &self.options.certificate {
            command
                .arg("--cert-file")
                .arg(certificate)
                .arg("--key-file")
                .arg(key);
        }
        if let Some(authority) = &self.options.client_authority {
            command
                .args(["--client-cert-auth", "--trusted-ca-file"])
                .arg(authority);
        }
        if let Some(ttl) = self.options.token_ttl {
            command.args(["--auth-token-ttl", &ttl.as_secs().to_string()]);
        }
    }

    /// Whether it says that it is healthy, which it is once it has a leader.
    async fn is_ready(&self) -> bool {
        self.serves()
            && timeout(Duration::from_secs(1), self.health())
                .await
                .is_ok_and(|answer| answer.is_ok_and(|answer| answer.contains(r#""health":"true""#)))
    }

    /// Whether it is this server that listens: another one may have taken the port before it, and
    /// would answer just as well. Versions say it in different words.
    fn serves(&self) -> bool {
        let address = self.address().to_string();
        let told = |line: &str| {
            ["serving", "client", &address]
                .iter()
                .all(|word| line.contains(word))
        };
        self.process.printed().lines().any(told)
    }

    async fn health(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports[2])).await?;
        let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

impl fmt::Debug for EtcdServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcdServer({})", self.address())
    }
}
