//! The record store: every call is a turn with the folder, on a thread that may block.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use discovery_core::{
    DiscoveryError, ErrorKind, Retry,
    limit::CALL_DEADLINE,
    store::{
        Changes, Held, Listing, Position, Record, RecordKey, RecordStore, Removal, Removed, Renewal, Session,
        Write, Written,
    },
};
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};
use uuid::Uuid;

use crate::{files, folder::Folder};

/// How often a folder that is watched is listed.
pub(crate) const POLL_EVERY: Duration = Duration::from_millis(500);
/// Threads that calls of one store may block at once. More would only wait for the same lock.
const TURNS: usize = 4;
/// What is left of a call's deadline when it gives up waiting for the lock.
const LEFT: Duration = Duration::from_millis(100);

/// A store of leased records in a folder, shared by all processes that can lock files there.
///
/// A clone is another handle to the same store.
#[derive(Clone, Debug)]
pub struct FolderStore {
    root: PathBuf,
    turns: Arc<Semaphore>,
}

/// What messages call the folder.
pub(crate) fn source(root: &Path) -> String {
    format!("folder://{}", root.display())
}

impl FolderStore {
    /// The store in this folder. Nothing is touched before the first call, and the folder itself
    /// is never made.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            turns: Arc::new(Semaphore::new(TURNS)),
        }
    }

    pub(crate) async fn check(&self) -> Result<(), DiscoveryError> {
        self.call("connect", |_| Ok(())).await
    }

    /// Does something with the folder, within the deadline of one call.
    async fn call<T, W>(&self, operation: &'static str, work: W) -> Result<T, DiscoveryError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Folder) -> Result<T, DiscoveryError> + Send + 'static,
    {
        let done = self.try_call(work).await;
        done.map_err(|error| error.with_operation(operation).with_system(source(&self.root)))
    }

    async fn try_call<T, W>(&self, work: W) -> Result<T, DiscoveryError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Folder) -> Result<T, DiscoveryError> + Send + 'static,
    {
        let until = Instant::now() + CALL_DEADLINE;
        let turn = timeout_at(until, self.turns.clone().acquire_owned()).await;
        let busy = |_| timed_out().with_retry(Retry::Safe { after: None });
        let (turn, root) = (turn.map_err(busy)?, self.root.clone());
        let working = spawn_blocking(move || {
            // For as long as the thread works, also if nobody waits for it any more.
            let _turn = turn;
            at_work(&root, until, work)
        });
        match timeout_at(until, working).await {
            Ok(Ok(done)) => done,
            Ok(Err(stopped)) => Err(
                DiscoveryError::new(ErrorKind::Unavailable, "the call was stopped")
                    .with_retry(Retry::OutcomeUnknown)
                    .with_source(stopped),
            ),
            Err(_) => Err(timed_out()),
        }
    }
}

fn at_work<T>(
    root: &Path,
    until: Instant,
    work: impl FnOnce(&mut Folder) -> Result<T, DiscoveryError>,
) -> Result<T, DiscoveryError> {
    let mut folder = Folder::lock(root, until - LEFT)?;
    let done = work(&mut folder).and_then(|done| folder.stands().map(|()| done));
    done.map_err(|error| match error.retry() {
        Retry::Safe { .. } if folder.changed() => error.with_retry(Retry::OutcomeUnknown),
        _ => error,
    })
}

fn timed_out() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Timeout, format!("no answer within {CALL_DEADLINE:?}"))
}

fn id(session: &Session) -> String {
    String::from_utf8_lossy(&session.id).into_owned()
}

#[async_trait]
impl RecordStore for FolderStore {
    async fn open(&self, ttl: Duration) -> Result<Session, DiscoveryError> {
        let id = Uuid::new_v4().simple().to_string();
        self.call("open", move |folder| {
            folder.open(&id, ttl)?;
            let id = id.into();
            Ok(Session { id, ttl })
        })
        .await
    }

    async fn write(&self, session: &Session, items: &[Write]) -> Vec<Result<Written, DiscoveryError>> {
        let (id, all, count) = (id(session), items.to_vec(), items.len());
        let written = self.call("write", move |folder| folder.write(&id, &all)).await;
        written.unwrap_or_else(|error| vec![Err(error); count])
    }

    async fn renew(&self, session: &Session, held: &[Held]) -> Result<Renewal, DiscoveryError> {
        let (id, held) = (id(session), held.to_vec());
        self.call("renew", move |folder| folder.renew(&id, &held)).await
    }

    async fn remove(&self, session: &Session, removal: &Removal) -> Result<Removed, DiscoveryError> {
        let (id, removal) = (id(session), removal.clone());
        self.call("remove", move |folder| folder.remove(&id, &removal))
            .await
    }

    async fn close(&self, session: &Session) -> Result<(), DiscoveryError> {
        let id = id(session);
        self.call("close", move |folder| folder.close(&id)).await
    }

    async fn get(&self, keys: &[RecordKey]) -> Vec<Result<Option<Record>, DiscoveryError>> {
        let (all, count) = (keys.to_vec(), keys.len());
        let answers = self.call("get", move |folder| {
            Ok(all.iter().map(|key| folder.get(key)).collect::<Vec<_>>())
        });
        answers.await.unwrap_or_else(|error| vec![Err(error); count])
    }

    async fn list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Result<Listing, DiscoveryError> {
        let prefix = prefix.clone();
        let after = page.map(|page| {
            let key = std::str::from_utf8(&page).ok().and_then(files::key);
            key.filter(|key| key.starts_with(&prefix))
                .ok_or_else(|| DiscoveryError::invalid_argument("that is no page of this list"))
        });
        let after = after.transpose()?;
        self.call("list", move |folder| folder.list(&prefix, after.as_ref()))
            .await
    }

    async fn watch(&self, prefix: &RecordKey, _: Option<Position>) -> Result<Changes, DiscoveryError> {
        discovery_records::poll(Arc::new(self.clone()), prefix.clone(), POLL_EVERY).await
    }
}
