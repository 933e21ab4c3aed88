//! Where callers leave their orders and the keeper picks them up.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    Keep(Row),
    Withdraw(Writer),
}

/// The desired state, shared by callers and keeper. Its lock is never held across an await.
pub(super) struct Desk {
    config: RegistrarConfig,
    open_store: Arc<OpenStore>,
    state: Mutex<State>,
    wake: Notify,
    abort: CancellationToken,
    /// Whether the keeper has ended, and then whether everything was confirmed.
    ended: watch::Sender<Option<bool>>,
}

#[derive(Default)]
struct State {
    wanted: HashMap<RecordKey, Wanted>,
    orders: Vec<Order>,
    keeper: Option<thread::Running>,
    closing: bool,
}

struct Wanted {
    body: Bytes,
    writer: Writer,
    holds: u64,
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

    pub(super) fn open_store(&self) -> &OpenStore {
        &self.open_store
    }

    /// Takes another hold on a registration, or orders a new one.
    pub(super) fn enter(
        self: &Arc<Self>,
        intent: Intent,
    ) -> Result<(Writer, watch::Receiver<Status>), DiscoveryError> {
        let mut state = self.lock();
        if state.closing {
            return Err(DiscoveryError::new(ErrorKind::Closed, "the system was shut down"));
        }
        if let Some(wanted) = state.wanted.get_mut(&intent.key) {
            (intent.judge)(&wanted.body)?;
            wanted.holds += 1;
            return Ok((wanted.writer, wanted.status.clone()));
        }
        if state.keeper.as_ref().is_none_or(thread::Running::is_finished) {
            // A keeper that went with its runtime took its registrations along.
            state.wanted.clear();
            state.orders.clear();
            state.keeper = Some(thread::start(self.config.renewing, Keeper::new(self.clone()))?);
        }
        let writer = Writer::random();
        let (sender, status) = watch::channel(Status::pending());
        let wanted = Wanted {
            body: intent.body.clone(),
            writer,
            holds: 1,
            status: status.clone(),
        };
        state.wanted.insert(intent.key.clone(), wanted);
        state.orders.push(Order::Keep(Row::new(
            &self.config,
            intent.key,
            intent.body,
            intent.judge,
            writer,
            sender,
        )));
        drop(state);
        self.wake.notify_one();
        Ok((writer, status))
    }

    /// Ends every hold on a record.
    pub(super) fn withdraw(
        &self,
        key: &RecordKey,
        is_it: impl FnOnce(&[u8]) -> bool,
    ) -> Option<watch::Receiver<Status>> {
        let mut state = self.lock();
        let wanted = state.wanted.get(key).filter(|wanted| is_it(&wanted.body))?;
        let (writer, status) = (wanted.writer, wanted.status.clone());
        self.order_withdrawal(&mut state, key, writer);
        Some(status)
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

    fn order_withdrawal(&self, state: &mut State, key: &RecordKey, writer: Writer) {
        state.wanted.remove(key);
        state.orders.push(Order::Withdraw(writer));
        self.wake.notify_one();
    }

    /// The keeper tells that a registration has ended for good.
    pub(super) fn forget(&self, key: &RecordKey, writer: Writer) {
        let mut state = self.lock();
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
        if state.keeper.is_none() {
            self.ended.send_replace(Some(true));
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

    pub(super) fn tell_ended(&self, clean: bool) {
        self.ended.send_replace(Some(clean));
    }

    /// Joins a keeper that has ended.
    pub(super) fn join(&self) {
        let keeper = self.lock().keeper.take();
        if let Some(keeper) = keeper {
            keeper.join();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted")
            .field("holds", &self.holds)
            .finish_non_exhaustive()
    }
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
