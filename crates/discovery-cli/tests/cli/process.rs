//! Processes under test, and waiting for them.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::Instant;

/// How long anything may take that has no limit of its own.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A process that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    complaints: Arc<Mutex<Vec<String>>>,
    overhearing: Option<JoinHandle<()>>,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

/// `discovery` with these arguments.
pub(crate) fn command<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_discovery"));
    command.args(args).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Runs `discovery` to its end.
pub(crate) fn run<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Ended {
    let began = Instant::now();
    let spawned = command(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = thread::spawn(move || {
        let mut stdout = String::new();
        out.read_to_string(&mut stdout).unwrap();
        stdout
    });
    let mut stderr = String::new();
    err.read_to_string(&mut stderr).unwrap();
    let stdout = read.join().unwrap();
    let code = child.wait().unwrap().code();
    let took = began.elapsed();
    assert!(took < PATIENCE, "took {took:?}");
    Ended {
        code,
        stdout,
        stderr,
        took,
    }
}

/// Starts `discovery`; its stderr is that of the test.
pub(crate) fn start<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Running {
    started(command(args))
}

/// Starts `discovery` without its stderr, where failing is what is expected.
pub(crate) fn start_quietly<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Running {
    let mut command = command(args);
    command.stderr(Stdio::null());
    started(command)
}

/// Starts `discovery`; what it says on stderr can be looked at.
pub(crate) fn start_overheard<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Running {
    let mut command = command(args);
    command.stderr(Stdio::piped());
    started(command)
}

fn started(mut command: Command) -> Running {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let complaints = Arc::default();
    let stderr = child.stderr.take();
    let overhearing = stderr.map(|stderr| overhear(stderr, &complaints));
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = sync_channel(1_024);
    thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    Running {
        child,
        lines,
        complaints,
        overhearing,
    }
}

fn overhear(stderr: ChildStderr, complaints: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let complaints = complaints.clone();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            complaints.lock().unwrap().push(line);
        }
    })
}

impl Ended {
    /// The objects on stdout.
    pub(crate) fn objects(&self) -> Vec<Value> {
        let lines = self.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).expect(line))
            .collect()
    }

    /// The only object on stdout.
    pub(crate) fn object(&self) -> Value {
        let mut objects = self.objects();
        assert_eq!(objects.len(), 1, "{self:?}");
        objects.remove(0)
    }

    /// The only line on stderr.
    pub(crate) fn complaint(&self) -> &str {
        let lines: Vec<_> = self.stderr.lines().collect();
        assert!(lines.len() == 1 && lines[0].starts_with("error: "), "{self:?}");
        lines[0]
    }
}

impl Running {
    /// The next object on stdout.
    pub(crate) fn object(&self) -> Value {
        self.object_within(PATIENCE).expect("no line in time")
    }

    /// The next object on stdout, if it comes in time.
    pub(crate) fn object_within(&self, limit: Duration) -> Option<Value> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Some(serde_json::from_str(&line).expect(&line)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("ended instead of printing"),
        }
    }

    /// What it has said on stderr, if that is overheard.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap().clone()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit code, if it has ended.
    pub(crate) fn exited(&mut self) -> Option<Option<i32>> {
        self.child.try_wait().unwrap().map(|status| status.code())
    }

    /// The exit code, once it has ended and everything that it said was overheard.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let code = eventually(PATIENCE, || self.exited());
        if let Some(overhearing) = self.overhearing.take() {
            overhearing.join().unwrap();
        }
        code
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `check` has a result.
pub(crate) fn eventually<T>(limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(done) = check() {
            return done;
        }
        assert!(began.elapsed() < limit, "not within {limit:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A running service.
pub(crate) struct Service {
    pub(crate) process: Running,
    pub(crate) address: String,
    pub(crate) url: String,
}

impl Service {
    /// On a free port, without a warm-up.
    pub(crate) fn start() -> Self {
        Self::with(["--listen", "127.0.0.1:0", "--warm-up", "0s"])
    }

    pub(crate) fn with<const N: usize>(args: [&str; N]) -> Self {
        let process = start(["serve"].into_iter().chain(args));
        let first = process.object();
        assert_eq!(first["event"], "listening");
        Self {
            process,
            address: first["address"].as_str().unwrap().to_owned(),
            url: first["url"].as_str().unwrap().to_owned(),
        }
    }

    /// Its URL with options.
    pub(crate) fn with_options(&self, options: &str) -> String {
        format!("{}?{options}", self.url)
    }
}

/// A peer that is registered.
pub(crate) struct Peer {
    pub(crate) process: Running,
    pub(crate) instance: String,
    pub(crate) worker: String,
}

impl Peer {
    pub(crate) fn register(system: &str, address: &str) -> Self {
        let process = start(["register", "--system", system, "--address", address]);
        let live = process.object();
        assert_eq!(
            (&live["event"], &live["state"]),
            (&"registration".into(), &"live".into())
        );
        Self {
            process,
            instance: live["instance_id"].as_str().unwrap().to_owned(),
            worker: live["worker_id"].as_str().unwrap().to_owned(),
        }
    }
}

/// Looks an instance up.
pub(crate) fn resolve(system: &str, instance: &str) -> Ended {
    run([
        "resolve",
        "--system",
        system,
        "--instance-id",
        instance,
        "--timeout",
        "1s",
    ])
}
