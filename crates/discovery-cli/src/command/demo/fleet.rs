//! The worker processes of a demonstration.

use std::{collections::HashMap, process::Stdio, time::Duration};

use discovery::{ErrorKind, peer::InstanceId};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

use super::{
    board::{Board, Number},
    message::{News, Order},
};
use crate::failure::Failure;

/// News that wait to be read; workers are held up beyond that.
const NEWS: usize = 1_024;
/// How long workers may take to say goodbye before they are killed.
const GOODBYE: Duration = Duration::from_secs(2);

/// How workers are started.
#[derive(Clone, Debug)]
pub(super) struct Recruiting {
    pub(super) system: String,
    pub(super) every: Duration,
    pub(super) verbose: u8,
}

/// Every worker process, and what they have told. Dropping it kills them.
#[derive(Debug)]
pub(super) struct Fleet {
    how: Recruiting,
    workers: HashMap<Number, Worker>,
    numbers: HashMap<String, Number>,
    heard: mpsc::Receiver<(Number, Option<News>, Instant)>,
    sender: mpsc::Sender<(Number, Option<News>, Instant)>,
    pub(super) board: Board,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    /// Closing it tells the worker that its parent is gone.
    _stdin: ChildStdin,
    leaving: bool,
}

impl Fleet {
    /// Nobody yet.
    pub(super) fn new(how: Recruiting) -> Self {
        let (sender, heard) = mpsc::channel(NEWS);
        Self {
            how,
            workers: HashMap::new(),
            numbers: HashMap::new(),
            heard,
            sender,
            board: Board::default(),
        }
    }

    /// Starts one more worker process; returns its number.
    pub(super) async fn recruit(&mut self) -> Result<Number, Failure> {
        let number = self.workers.len() + 1;
        let instance_id = InstanceId::new_v4().to_string();
        let mut child = self
            .spawn()
            .map_err(|cause| Failure::unexpected("cannot start a worker", &cause))?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::new(ErrorKind::Unexpected, "a worker has no pipes"));
        };
        let order = Order {
            system: self.how.system.clone(),
            instance_id: instance_id.clone(),
            address: format!("demo://worker-{number}/pid-{}", child.id().unwrap_or_default()),
            every: self.how.every,
        };
        let mut line =
            serde_json::to_vec(&order).map_err(|cause| Failure::unexpected("cannot write", &cause))?;
        line.push(b'\n');
        let written = stdin.write_all(&line).await;
        written.map_err(|cause| Failure::unexpected("cannot tell a worker what to do", &cause))?;
        tokio::spawn(listen(number, stdout, self.sender.clone()));
        let worker = Worker {
            child,
            _stdin: stdin,
            leaving: false,
        };
        self.workers.insert(number, worker);
        self.numbers.insert(instance_id, number);
        Ok(number)
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["demo-worker", "--output=json"]);
        command.arg(format!("--parent={}", std::process::id()));
        command.args(std::iter::repeat_n("-v", usize::from(self.how.verbose)));
        // In a group of its own: Ctrl-C is for the parent, which then ends its workers.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
    }

    /// The process of a worker.
    pub(super) fn pid(&self, number: Number) -> Option<u32> {
        self.workers.get(&number).and_then(|worker| worker.child.id())
    }

    /// Ends a worker with a signal; returns when.
    pub(super) fn end(&mut self, number: Number, signal: Signal) -> Result<Instant, Failure> {
        let gone = || {
            Failure::new(
                ErrorKind::Unexpected,
                format!("worker {number} has ended by itself"),
            )
        };
        let worker = self.workers.get_mut(&number).ok_or_else(gone)?;
        let pid = worker
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        worker.leaving = true;
        self.board.goes(number);
        let at = Instant::now();
        kill_process(pid.ok_or_else(gone)?, signal)
            .map_err(|cause| Failure::unexpected("cannot signal a worker", &cause))?;
        Ok(at)
    }

    /// Listens until the board shows what is expected, or `limit` has passed.
    pub(super) async fn until<T>(
        &mut self,
        limit: Instant,
        shown: impl Fn(&Board) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        loop {
            if let Some(shown) = shown(&self.board) {
                return Ok(Some(shown));
            }
            match timeout_at(limit, self.heard.recv()).await {
                Ok(Some((number, news, at))) => self.note(number, news, at)?,
                Ok(None) | Err(_) => return Ok(None),
            }
        }
    }

    fn note(&mut self, number: Number, news: Option<News>, at: Instant) -> Result<(), Failure> {
        let leaving = self.workers.get(&number).is_none_or(|worker| worker.leaving);
        match news {
            Some(News::Live) => self.board.is_live(number, at),
            Some(News::Found { instance_id }) => self.see(number, &instance_id, true, at),
            Some(News::Lost { instance_id }) => self.see(number, &instance_id, false, at),
            Some(News::Trouble { message }) => self.board.troubled(number, message),
            Some(News::Failed { code, message }) => {
                let kind = ErrorKind::from_code(&code).unwrap_or(ErrorKind::Unexpected);
                return Err(Failure::new(kind, format!("worker {number}: {message}")));
            }
            None if leaving => {}
            None => {
                let message = format!("worker {number} ended by itself");
                return Err(Failure::new(ErrorKind::Unexpected, message));
            }
        }
        Ok(())
    }

    /// Peers that are none of ours may be in the cluster too.
    fn see(&mut self, observer: Number, instance_id: &str, found: bool, at: Instant) {
        if let Some(worker) = self.numbers.get(instance_id) {
            self.board.sees(observer, *worker, found, at);
        }
    }

    /// Ends every worker, politely if they let it, and waits for them.
    pub(super) async fn disband(mut self) {
        self.heard.close();
        let ends: Vec<_> = self
            .workers
            .drain()
            .map(|(_, worker)| tokio::spawn(dismiss(worker)))
            .collect();
        for end in ends {
            let _ = end.await;
        }
    }
}

async fn dismiss(worker: Worker) {
    let Worker { mut child, .. } = worker;
    if let Some(pid) = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw)
    {
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(GOODBYE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

async fn listen(number: Number, stdout: ChildStdout, news: mpsc::Sender<(Number, Option<News>, Instant)>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(said) = serde_json::from_str(&line) else {
            continue;
        };
        if news.send((number, Some(said), Instant::now())).await.is_err() {
            return;
        }
    }
    let _ = news.send((number, None, Instant::now())).await;
}
