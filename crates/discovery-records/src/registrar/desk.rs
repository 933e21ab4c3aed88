//! Where callers leave their orders and the keeper picks them up.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use bytes::Bytes;
use discovery_core::{
    DiscoveryError, ErrorKind,
    registration::{Hold, Released, Status},
    store::{RecordKey, Writer},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Intent, OpenStore, Registrar, RegistrarConfig, keeper::Keeper, released, row::Row, thread};

/// What a caller wants of the keeper. At most two for each registration.
pub(super) enum Order {
    Keep(Box<Row>),
    Withdraw(Writer),
}

/// The desired state, shared by callers and keeper. Its lock is never held across an await, nor
/// while the caller's own code runs.
pub(super) struct Desk {
    config: RegistrarConfig,
    open_store: Arc<OpenStore>,
    state: Mutex<State>,
    wake: Notify,
    abort: CancellationToken,
    /// Whether everything has ended for good, and then whether all of it was confirmed.
    ended: watch::Sender<Option<bool>>,
}

#[derive(Default)]
struct State {
    wanted: HashMap<RecordKey, Wanted>,
    /// Withdrawn, and not yet gone from the backend.
    leaving: HashMap<Writer, Leaving>,
    orders: Vec<Order>,
    running: bool,
    thread: Option<JoinHandle<()>>,
    closing: bool,
}

enum Ordered {
    New(Writer, watch::Receiver<Status>),
    Taken(Intent),
}

struct Wanted {
    body: Bytes,
    writer: Writer,
    holds: u64,
    status: watch::Receiver<Status>,
}

struct Leaving {
    key: RecordKey,
    body: Bytes,
    status: watch::Receiver<Status>,
}

impl Desk {
    pub(super) fn new(config: RegistrarConfig, open_store: OpenStore) -> Self {
        Self {
            config,
            open_store: Arc::new(open_store),
            state: Mutex::default(),
            wake: Notify::new(),
            abort: CancellationToken::new(),
            ended: watch::Sender::new(None),
        }
    }

    pub(super) fn config(&self) -> &RegistrarConfig {
        &self.config
    }

    pub(super) fn open_store(&self) -> Arc<OpenStore> {
        self.open_store.clone()
    }

    /// Takes another hold on a registration, or orders a new one.
    pub(super) fn enter(
        self: &Arc<Self>,
        mut intent: Intent,
    ) -> Result<(Writer, watch::Receiver<Status>), DiscoveryError> {
        loop {
            self.ensure_keeper()?;
            let Some(standing) = self.wanted_body(&intent.key) else {
                match self.order(intent)? {
                    Ordered::New(writer, status) => return Ok((writer, status)),
                    Ordered::Taken(back) => intent = back,
                }
                continue;
            };
            (intent.judge)(&standing)?;
            if let Some(joined) = self.join_holders(&intent.key, &standing)? {
                return Ok(joined);
            }
        }
    }

    fn wanted_body(&self, key: &RecordKey) -> Option<Bytes> {
        self.lock().wanted.get(key).map(|wanted| wanted.body.clone())
    }

    /// Another hold on the registration with this body, if it is still there.
    fn join_holders(
        &self,
        key: &RecordKey,
        body: &Bytes,
    ) -> Result<Option<(Writer, watch::Receiver<Status>)>, DiscoveryError> {
        let mut state = self.lock();
        if state.closing {
            return Err(closed());
        }
        Ok(state
            .wanted
            .get_mut(key)
            .filter(|wanted| wanted.body == *body)
            .map(|wanted| {
                wanted.holds += 1;
                (wanted.writer, wanted.status.clone())
            }))
    }

    /// Orders a registration, unless somebody else was faster.
    fn order(&self, intent: Intent) -> Result<Ordered, DiscoveryError> {
        let mut state = self.lock();
        if state.closing {
            return Err(closed());
        }
        // Without a keeper, another one has to be started first.
        if !state.running || state.wanted.contains_key(&intent.key) {
            return Ok(Ordered::Taken(intent));
        }
        let Intent { key, body, judge } = intent;
        let writer = Writer::random();
        let (sender, status) = watch::channel(Status::pending());
        let row = Row::new(&self.config, key.clone(), body.clone(), judge, writer, sender);
        state.wanted.insert(
            key,
            Wanted {
                body,
                writer,
                holds: 1,
                status: status.clone(),
            },
        );
        state.orders.push(Order::Keep(Box::new(row)));
        self.wake.notify_one();
        Ok(Ordered::New(writer, status))
    }

    /// Starts a keeper if none runs: the first one, or one in the place of a keeper that went
    /// with its runtime.
    fn ensure_keeper(self: &Arc<Self>) -> Result<(), DiscoveryError> {
        {
            let mut state = self.lock();
            if state.closing {
                return Err(closed());
            }
            if std::mem::replace(&mut state.running, true) {
                return Ok(());
            }
        }
        // Not under the lock: a keeper that cannot be started says so at the desk.
        let thread = thread::start(self.config.renewing, Keeper::new(self.clone()))?;
        self.lock().thread = thread;
        Ok(())
    }

    /// Ends every hold on a record, or finds the one that is ending.
    pub(super) fn withdraw(
        &self,
        key: &RecordKey,
        is_it: impl Fn(&[u8]) -> bool,
    ) -> Option<watch::Receiver<Status>> {
        let (wanted, leaving) = {
            let state = self.lock();
            let wanted = state
                .wanted
                .get(key)
                .map(|wanted| (wanted.body.clone(), wanted.writer));
            let leaving = state.leaving.values().filter(|leaving| leaving.key == *key);
            let leaving: Vec<_> = leaving
                .map(|leaving| (leaving.body.clone(), leaving.status.clone()))
                .collect();
            (wanted, leaving)
        };
        if let Some((_, writer)) = wanted.filter(|(body, _)| is_it(body)) {
            let mut state = self.lock();
            let ordered = self.order_withdrawal(&mut state, key, writer);
            // Somebody else may have ordered it meanwhile.
            return ordered.or_else(|| state.leaving.get(&writer).map(|leaving| leaving.status.clone()));
        }
        leaving
            .into_iter()
            .find(|(body, _)| is_it(body))
            .map(|(_, status)| status)
    }

    /// Ends one hold; whether it was the last one.
    fn release(&self, key: &RecordKey, writer: Writer) -> bool {
        let mut state = self.lock();
        match state.wanted.get_mut(key).filter(|wanted| wanted.writer == writer) {
            Some(wanted) if wanted.holds > 1 => {
                wanted.holds -= 1;
                false
            }
            Some(_) => {
                self.order_withdrawal(&mut state, key, writer);
                true
            }
            // Withdrawn already, or lost for good.
            None => true,
        }
    }

    fn order_withdrawal(
        &self,
        state: &mut State,
        key: &RecordKey,
        writer: Writer,
    ) -> Option<watch::Receiver<Status>> {
        let Entry::Occupied(entry) = state.wanted.entry(key.clone()) else {
            return None;
        };
        if entry.get().writer != writer {
            return None;
        }
        let Wanted { body, status, .. } = entry.remove();
        let leaving = Leaving {
            key: key.clone(),
            body,
            status: status.clone(),
        };
        state.leaving.insert(writer, leaving);
        state.orders.push(Order::Withdraw(writer));
        self.wake.notify_one();
        Some(status)
    }

    /// The keeper tells that a registration has ended for good.
    pub(super) fn forget(&self, key: &RecordKey, writer: Writer) {
        let mut state = self.lock();
        state.leaving.remove(&writer);
        if state
            .wanted
            .get(key)
            .is_some_and(|wanted| wanted.writer == writer)
        {
            state.wanted.remove(key);
        }
    }

    /// What was ordered since the last time, and whether everything shall end.
    pub(super) fn take_orders(&self) -> (Vec<Order>, bool) {
        let mut state = self.lock();
        (std::mem::take(&mut state.orders), state.closing)
    }

    pub(super) async fn ordered(&self) {
        self.wake.notified().await;
    }

    /// Withdraws everything and refuses what comes after.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        let wanted: Vec<_> = state
            .wanted
            .iter()
            .map(|(key, wanted)| (key.clone(), wanted.writer))
            .collect();
        for (key, writer) in wanted {
            self.order_withdrawal(&mut state, &key, writer);
        }
        if !state.running {
            self.ended
                .send_if_modified(|ended| ended.is_none() && ended.replace(true).is_none());
        }
        self.wake.notify_one();
    }

    pub(super) fn abort(&self) {
        self.abort.cancel();
    }

    pub(super) async fn aborted(&self) {
        self.abort.cancelled().await;
    }

    pub(super) fn ended(&self) -> watch::Receiver<Option<bool>> {
        self.ended.subscribe()
    }

    /// The keeper has ended, and its registrations with it. If nobody asked for that, the next
    /// registration starts another one.
    pub(super) fn tell_ended(&self, clean: bool) {
        let left = {
            let mut state = self.lock();
            state.running = false;
            if state.closing {
                self.ended
                    .send_if_modified(|ended| ended.is_none() && ended.replace(clean).is_none());
            } else {
                state.thread = None;
            }
            state.leaving.clear();
            (
                std::mem::take(&mut state.wanted),
                std::mem::take(&mut state.orders),
            )
        };
        // Dropped without the lock: that ends what others wait for.
        drop(left);
    }

    /// Joins the thread of a keeper that has told that it ended, which is the last thing it does.
    pub(super) fn join(&self) {
        let thread = self.lock().thread.take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Closed, "the system was shut down")
}

/// A caller's hold on a registration. Keeps the registrar alive.
pub(super) struct DeskHold {
    registrar: Registrar,
    key: RecordKey,
    writer: Writer,
    status: watch::Receiver<Status>,
}

impl DeskHold {
    pub(super) fn new(
        registrar: Registrar,
        key: RecordKey,
        writer: Writer,
        status: watch::Receiver<Status>,
    ) -> Self {
        Self {
            registrar,
            key,
            writer,
            status,
        }
    }
}

impl Hold for DeskHold {
    fn release(&mut self) -> Released {
        let last = self.registrar.desk().release(&self.key, self.writer);
        let status = self.status.clone();
        Box::pin(async move { if last { released(status).await } else { Ok(()) } })
    }
}
