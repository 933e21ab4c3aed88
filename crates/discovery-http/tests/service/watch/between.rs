//! Ways and stores that misbehave.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use discovery_core::{
    DiscoveryError, ErrorKind,
    store::{
        Change, Changes, Held, Listing, Position, Record, RecordKey, RecordStore, Removal, Removed, Renewal,
        Session, Write, Written,
    },
};
use discovery_memory::MemoryStore;
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::Instant,
};

use crate::harness::any_port;

/// What happens to what is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Through,
    /// Everything is read, nothing passed on; connections stay open.
    Swallow,
    /// Of a stream of events, only the head comes through.
    Buffer,
    /// Streams of events are answered with 406.
    NoStreams,
    /// What is open is closed; whoever asks is told to come back in a second.
    Refuse,
}

/// A way to a service.
pub(super) struct Between {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    manner: watch::Sender<(Manner, u64)>,
    target: SocketAddr,
    arrivals: Mutex<Vec<(String, Instant)>>,
}

impl Between {
    pub(super) async fn start(target: SocketAddr, manner: Manner) -> Self {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            manner: watch::Sender::new((manner, 0)),
            target,
            arrivals: Mutex::default(),
        });
        let served = shared.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(connection(stream, served.clone()));
            }
        });
        Self { addr, shared, task }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn set(&self, manner: Manner) {
        self.shared.manner.send_modify(|now| now.0 = manner);
    }

    /// Closes what is open.
    pub(super) fn cut(&self) {
        self.shared.manner.send_modify(|now| now.1 += 1);
    }

    /// What was refused, and when.
    pub(super) fn arrivals(&self) -> Vec<(String, Instant)> {
        self.shared.arrivals.lock().unwrap().clone()
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const NOT_ACCEPTABLE: &[u8] = b"HTTP/1.1 406 Not Acceptable\r\ncontent-length: 0\r\n\r\n";

async fn connection(mut here: TcpStream, shared: Arc<Shared>) {
    let mut manner = shared.manner.subscribe();
    let epoch = manner.borrow().1;
    let target = shared.target;
    let mut there = None;
    let (mut asked, mut answered) = (vec![0; 16_384], vec![0; 16_384]);
    // Whether the head of a stream has passed, after which everything is kept back.
    let mut keeps_back = false;
    loop {
        let (now, cut) = *manner.borrow_and_update();
        if cut != epoch || now == Manner::Refuse && there.is_some() {
            return;
        }
        tokio::select! {
            _ = manner.changed() => {}
            read = here.read(&mut asked) => {
                let Ok(length @ 1..) = read else { return };
                let text = String::from_utf8_lossy(&asked[..length]);
                let streams = text.contains("accept: text/event-stream");
                match now {
                    Manner::Swallow => continue,
                    Manner::Refuse => {
                        let what = text.split_whitespace().nth(1).unwrap_or_default().to_owned();
                        shared.arrivals.lock().unwrap().push((what, Instant::now()));
                        let _ = here.write_all(refusal().as_bytes()).await;
                        return;
                    }
                    Manner::NoStreams if streams => {
                        let _ = here.write_all(NOT_ACCEPTABLE).await;
                        continue;
                    }
                    _ => {}
                }
                if there.is_none() {
                    let Ok(stream) = TcpStream::connect(target).await else { return };
                    there = Some(stream);
                }
                if there.as_mut().unwrap().write_all(&asked[..length]).await.is_err() {
                    return;
                }
            }
            read = answer(&mut there, &mut answered) => {
                let Ok(mut length @ 1..) = read else { return };
                if now == Manner::Swallow || keeps_back {
                    continue;
                }
                let text = String::from_utf8_lossy(&answered[..length]).to_ascii_lowercase();
                if now == Manner::Buffer && text.contains("text/event-stream") {
                    keeps_back = true;
                    length = text.find("\r\n\r\n").unwrap() + 4;
                }
                if here.write_all(&answered[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn answer(there: &mut Option<TcpStream>, bytes: &mut [u8]) -> std::io::Result<usize> {
    match there {
        Some(stream) => stream.read(bytes).await,
        None => std::future::pending().await,
    }
}

fn refusal() -> String {
    let body = serde_json::json!({
        "type": "urn:discovery:problem:warming-up", "code": "warming-up", "retryable": true, "retry_after_ms": 1_000,
    });
    let body = body.to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// A store whose watches break when told to, and which may have no positions.
#[derive(Debug)]
pub(super) struct Breaking {
    store: MemoryStore,
    breaks: watch::Sender<u64>,
    refuses: AtomicBool,
    watches: AtomicUsize,
    has_positions: bool,
}

impl Default for Breaking {
    fn default() -> Self {
        Self {
            store: MemoryStore::new(),
            breaks: watch::Sender::new(0),
            refuses: AtomicBool::new(false),
            watches: AtomicUsize::new(0),
            has_positions: true,
        }
    }
}

impl Breaking {
    pub(super) fn without_positions() -> Self {
        Self {
            has_positions: false,
            ..Self::default()
        }
    }

    pub(super) fn break_all(&self) {
        self.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// Breaks what there is, and lets nobody watch again, or lets them.
    pub(super) fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
        self.break_all();
    }

    /// How many watches were ever made.
    pub(super) fn watches(&self) -> usize {
        self.watches.load(Ordering::SeqCst)
    }
}

fn without_position(mut change: Change) -> Change {
    match &mut change {
        Change::Reset { as_of, .. } => *as_of = None,
        Change::Put(record) => record.at = None,
        Change::Gone { at, .. } => *at = None,
        Change::Progress(_) => {}
    }
    change
}

fn broken() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Unavailable, "broken as asked")
}

#[async_trait]
impl RecordStore for Breaking {
    async fn open(&self, ttl: Duration) -> Result<Session, DiscoveryError> {
        self.store.open(ttl).await
    }

    async fn write(&self, session: &Session, items: &[Write]) -> Vec<Result<Written, DiscoveryError>> {
        self.store.write(session, items).await
    }

    async fn renew(&self, session: &Session, held: &[Held]) -> Result<Renewal, DiscoveryError> {
        self.store.renew(session, held).await
    }

    async fn remove(&self, session: &Session, removal: &Removal) -> Result<Removed, DiscoveryError> {
        self.store.remove(session, removal).await
    }

    async fn close(&self, session: &Session) -> Result<(), DiscoveryError> {
        self.store.close(session).await
    }

    async fn get(&self, keys: &[RecordKey]) -> Vec<Result<Option<Record>, DiscoveryError>> {
        self.store.get(keys).await
    }

    async fn list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Result<Listing, DiscoveryError> {
        self.store.list(prefix, page).await
    }

    async fn watch(&self, prefix: &RecordKey, after: Option<Position>) -> Result<Changes, DiscoveryError> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(broken());
        }
        self.watches.fetch_add(1, Ordering::SeqCst);
        let changes = self.store.watch(prefix, after).await?;
        let mut breaks = self.breaks.subscribe();
        let broken: Changes = Box::pin(stream::once(async move {
            let _ = breaks.changed().await;
            Err(broken())
        }));
        // An error is the last item.
        let either = stream::select(changes, broken);
        let has_positions = self.has_positions;
        Ok(Box::pin(either.scan(false, move |ended, change| {
            let change = change.map(|change| match has_positions {
                true => change,
                false => without_position(change),
            });
            let item = (!*ended).then_some(change);
            *ended = item.as_ref().is_none_or(Result::is_err);
            std::future::ready(item)
        })))
    }
}
