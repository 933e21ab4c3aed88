//! A server's process.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Mutex,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::sleep,
};

/// Waits for the end of the test process, however that comes, and leaves nothing of the server
/// behind. Nothing is ever written to its input: it ends when nobody holds that any more.
const GUARD: &str = r#"read -r _; kill -9 "$1" 2>/dev/null; rm -rf "$2""#;

/// A process, its folder, and who sees to it that neither outlives the test.
pub(super) struct ServerProcess {
    folder: PathBuf,
    running: Mutex<Option<Running>>,
}

struct Running {
    // Dropped first, so that it never kills a process that has taken this one's number.
    guard: Child,
    child: Child,
}

impl ServerProcess {
    /// Prepares a folder; nothing runs yet.
    pub(super) fn new(name: &str) -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("discovery-{name}-{:016x}", fastrand::u64(..)));
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self {
            folder,
            running: Mutex::default(),
        })
    }

    /// Where the server may write; removed in the end.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts the server; what it prints goes to a file.
    pub(super) fn start(&self, mut command: Command) -> Result<(), String> {
        let mut start = || {
            let log = fs::File::create(self.log())?;
            let child = command
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .kill_on_drop(true)
                .spawn()?;
            let guard = Command::new("sh")
                .args(["-c", GUARD, "sh", &child.id().unwrap_or_default().to_string()])
                .arg(&self.folder)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // An interrupt from the keyboard must not end it before its time.
                .process_group(0)
                .kill_on_drop(true)
                .spawn()?;
            Ok(Running { guard, child })
        };
        let running =
            start().map_err(|error: std::io::Error| format!("the server does not start: {error}"))?;
        *self.lock() = Some(running);
        Ok(())
    }

    /// Kills the server, if it runs, and waits until it has ended.
    pub(super) async fn kill(&self) {
        let running = self.lock().take();
        if let Some(Running { mut guard, mut child }) = running {
            guard.kill().await.expect("a guard that lives");
            child.kill().await.expect("a server that can be killed");
        }
    }

    /// Stops the server: it keeps its connections and says nothing. Returns when all of it stands
    /// still, which takes a moment after the signal.
    pub(super) async fn stop(&self) {
        self.signal(Signal::STOP);
        while !self.stands_still() {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets a stopped server go on.
    pub(super) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&self) -> bool {
        let mut running = self.lock();
        running
            .as_mut()
            .is_none_or(|running| !matches!(running.child.try_wait(), Ok(None)))
    }

    /// Sockets that it has open; `None` if it does not run.
    pub(super) fn sockets(&self) -> Option<usize> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.pid()?.as_raw_nonzero())).ok()?;
        let targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        Some(
            targets
                .filter(|target| target.to_string_lossy().starts_with("socket:"))
                .count(),
        )
    }

    /// What it has printed since it was started.
    pub(super) fn printed(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Whether it runs, stopped or not.
    pub(super) fn runs(&self) -> bool {
        self.pid().is_some()
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn pid(&self) -> Option<Pid> {
        let running = self.lock();
        let id = running.as_ref().and_then(|running| running.child.id());
        id.and_then(|id| Pid::from_raw(id.cast_signed()))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            kill_process(pid, signal).expect("a server that lives");
        }
    }

    fn stands_still(&self) -> bool {
        let Some(pid) = self.pid() else { return true };
        let Ok(mut threads) = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())) else {
            // Not Linux; or it has ended, which is as still as can be.
            return true;
        };
        threads.all(|thread| {
            let Ok(thread) = thread else { return true };
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
            // A thread that has just ended has no state any more.
            state.is_empty() || state.starts_with('T')
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().expect("not poisoned")
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Killed when dropped, before its folder goes.
        drop(self.running.get_mut().map(Option::take));
        let _ = fs::remove_dir_all(&self.folder);
    }
}
