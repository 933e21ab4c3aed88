//! Who watches what: counts the watches, and owns the hubs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use discovery_core::store::{RecordKey, RecordStore};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{super::problem::Refusal, hub::Hub};

/// The most prefixes that are watched at a time.
const PREFIXES: usize = 1_024;
/// A hub that nobody uses when this is over twice ends.
const UNUSED: Duration = Duration::from_secs(15);
/// When to come back if there are too many watches.
const COME_BACK: Duration = Duration::from_secs(5);

pub(in crate::server) struct Watches {
    hubs: Arc<Hubs>,
    tasks: TaskTracker,
    stop: CancellationToken,
    permits: Arc<Semaphore>,
    most: usize,
}

type Hubs = Mutex<HashMap<RecordKey, Arc<Hub>>>;

impl Watches {
    pub(in crate::server) fn new(most: usize) -> Self {
        Self {
            hubs: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            permits: Arc::new(Semaphore::new(most)),
            most,
        }
    }

    /// How many watches there are.
    pub(in crate::server) fn count(&self) -> usize {
        self.most - self.permits.available_permits()
    }

    /// Ends all watches once the guard is dropped.
    pub(in crate::server) fn ended_with(&self) -> DropGuard {
        self.stop.clone().drop_guard()
    }

    /// Ends all watches, and waits for the tasks behind them.
    pub(in crate::server) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Counts a watch.
    pub(super) fn permit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let permit = self.permits.clone().try_acquire_owned();
        permit.map_err(|_| too_many("watches"))
    }

    /// What is told to everybody who watches this prefix.
    pub(super) fn hub(&self, store: &Arc<dyn RecordStore>, prefix: RecordKey) -> Result<Arc<Hub>, Refusal> {
        let mut hubs = lock(&self.hubs);
        if let Some(hub) = hubs.get(&prefix) {
            return Ok(hub.clone());
        }
        if hubs.len() >= PREFIXES {
            return Err(too_many("watched prefixes"));
        }
        let hub = Arc::new(Hub::new());
        hubs.insert(prefix.clone(), hub.clone());
        let task = run(
            self.hubs.clone(),
            hub.clone(),
            store.clone(),
            prefix,
            self.stop.clone(),
        );
        self.tasks.spawn(task);
        Ok(hub)
    }
}

async fn run(
    hubs: Arc<Hubs>,
    hub: Arc<Hub>,
    store: Arc<dyn RecordStore>,
    prefix: RecordKey,
    stop: CancellationToken,
) {
    // Also if the store panics: a hub that nobody drives must not be found.
    let _leaving = Leaving {
        hubs: &hubs,
        hub: &hub,
        prefix: &prefix,
    };
    hub.run(store, prefix.clone(), stop, unused(&hubs, &hub, &prefix))
        .await;
}

/// Waits until nobody has used a hub for a while; then it is not found any more.
async fn unused(hubs: &Hubs, hub: &Arc<Hub>, prefix: &RecordKey) {
    let mut before = false;
    loop {
        sleep(UNUSED).await;
        let mut hubs = lock(hubs);
        // The map's, and the task's own; a new reader would take his under this lock.
        let unused = Arc::strong_count(hub) <= 2;
        if unused && before {
            hubs.remove(prefix);
            return;
        }
        before = unused;
    }
}

struct Leaving<'a> {
    hubs: &'a Hubs,
    hub: &'a Arc<Hub>,
    prefix: &'a RecordKey,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut hubs = lock(self.hubs);
        if hubs
            .get(self.prefix)
            .is_some_and(|found| Arc::ptr_eq(found, self.hub))
        {
            hubs.remove(self.prefix);
        }
        drop(hubs);
        self.hub.end(None);
    }
}

fn lock(hubs: &Hubs) -> MutexGuard<'_, HashMap<RecordKey, Arc<Hub>>> {
    hubs.lock().unwrap_or_else(PoisonError::into_inner)
}

fn too_many(what: &str) -> Refusal {
    Refusal::unavailable("overloaded", &format!("too many {what} at once"), COME_BACK)
}
