//! The manager: what a runtime holds to find its peers.
//!
//! ```text
//! lookup ─► local peer ─► read table ──hit──► answer            (no lock, no task switch)
//!                            └─miss─► flight, one per question ─► source 1 ─► source 2 ─► …
//!                                      └─ runs in its own task; its answer is checked,
//!                                         published if no event came in between, shared
//! watch of a source ─► event: the table is put right, flights under way are not published
//! ```

mod board;
mod builder;
mod flight;
mod follow;
mod lifecycle;
mod source;
mod table;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::builder::PeerDiscoveryManagerBuilder;
use self::{
    board::{Board, Joined, Question, Ticket},
    flight::{Flight, not_found},
    lifecycle::Registered,
    source::Source,
    table::{Hit, Table},
};
use super::{InstanceId, PeerDiscovery, PeerInfo, RegistrationObserver, RegistrationState, WorkerId};
use crate::{DiscoveryError, ErrorKind, task::OwnedTask};

/// How often the table's clock moves, and expired entries are looked for.
const TICK: Duration = Duration::from_millis(50);
/// Entries looked at by one tick.
const SWEEP: usize = 1_024;
/// Answers "not found" that are kept.
const NEGATIVE_CAPACITY: u64 = 10_000;
/// Longer than anybody waits for a shutdown.
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(24 * 3_600);
/// Ids asked of a source in one batch.
const BATCH: usize = 1_024;

/// Finds peers in one or several sources, and keeps the local peer registered in all of them.
///
/// * A peer that is known and fresh (for 2 s, unless told otherwise) is answered at once.
///   Otherwise the sources are asked in order; concurrent lookups of one peer share one call per
///   source, and no caller that goes away disturbs the others.
/// * The watches of the sources are followed: what is known of a peer that leaves or changes is
///   forgotten or replaced as soon as its source tells. Where a source has no watch, or it is
///   interrupted, a peer that has left may be returned for as long as an answer is fresh; also
///   one that left so soon that its source did not tell of it at all.
/// * "Not found" means that every source was asked and said so. If nobody found the peer and a
///   source could not answer, that is an error naming it.
/// * Errors are never kept. "Not found" is kept for a moment.
///
/// Dropping the manager unregisters in the background; [`shutdown`](Self::shutdown) also waits.
#[derive(Debug)]
#[must_use = "dropping a manager unregisters the local peer"]
pub struct PeerDiscoveryManager {
    shared: Arc<Shared>,
    local: Option<Local>,
    registered: Mutex<Vec<Registered>>,
    tasks: Mutex<Vec<OwnedTask>>,
    leaving: Mutex<Option<Leaving>>,
}

/// How unregistering ended, once it has.
type Leaving = watch::Receiver<Option<Result<(), DiscoveryError>>>;

#[derive(Debug)]
struct Local {
    peer: PeerInfo,
    registrations: Vec<RegistrationObserver>,
}

/// What flights share with the manager.
#[derive(Debug)]
struct Shared {
    sources: Vec<Source>,
    board: Board,
    source_deadline: Duration,
    runtime: Handle,
    flights: TaskTracker,
    closed: AtomicBool,
    cancel: CancellationToken,
}

/// A peer, where the answer came from and how old it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The peer.
    pub peer: PeerInfo,
    /// The source that knew it; `local` for the local peer.
    pub source: Arc<str>,
    /// How long ago the source said so.
    pub age: Duration,
}

impl PeerDiscoveryManager {
    /// Registers the local peer, if there is one, in every source, and keeps it registered.
    ///
    /// # Errors
    /// The first failure of a source, which it names; the peer is then unregistered wherever
    /// it had been registered. `InvalidConfig` outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropping the future gives up what was registered.
    ///
    /// # Example
    /// ```
    /// # use std::sync::Arc;
    /// use discovery_core::peer::{PeerDiscovery, manager::PeerDiscoveryManager};
    ///
    /// # async fn example(source: Arc<dyn PeerDiscovery>) -> Result<(), discovery_core::DiscoveryError> {
    /// let manager = PeerDiscoveryManager::new(None, [source]).await?;
    /// let peer = manager.discover_by_worker_id("00000000000000ff".parse()?).await?;
    /// println!("worker {} is at {}", peer.worker_id(), peer.address());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn new(
        local: impl Into<Option<PeerInfo>>,
        sources: impl IntoIterator<Item = Arc<dyn PeerDiscovery>>,
    ) -> Result<Self, DiscoveryError> {
        Self::builder().local_peer(local).sources(sources).build().await
    }

    /// A manager with other values than the default ones.
    pub fn builder() -> PeerDiscoveryManagerBuilder {
        PeerDiscoveryManagerBuilder::default()
    }

    async fn build(builder: PeerDiscoveryManagerBuilder) -> Result<Self, DiscoveryError> {
        let runtime = Handle::try_current().map_err(|cause| {
            DiscoveryError::invalid_config("a manager needs a tokio runtime").with_source(cause)
        })?;
        let PeerDiscoveryManagerBuilder {
            local,
            sources,
            fresh_for,
            negative_for,
            capacity,
            source_deadline,
            watch,
        } = builder;
        let sources: Vec<_> = sources
            .into_iter()
            .map(|source| Source::new(source, source_deadline))
            .collect();
        let registered = match &local {
            Some(peer) => lifecycle::register(&sources, peer).await?,
            None => Vec::new(),
        };
        let local = local.map(|peer| {
            let registrations = registered
                .iter()
                .map(|(_, registration)| registration.observer())
                .collect();
            Local { peer, registrations }
        });
        let shared = Arc::new(Shared {
            sources,
            board: Board::new(Table::new(capacity, fresh_for), NEGATIVE_CAPACITY, negative_for),
            source_deadline,
            runtime: runtime.clone(),
            flights: TaskTracker::new(),
            closed: AtomicBool::new(false),
            cancel: CancellationToken::new(),
        });
        let ticking = shared.clone();
        let ticker = OwnedTask::spawn(&runtime, |cancel| async move {
            tokio::select! { () = cancel.cancelled() => {}, () = tick(&ticking.board) => {} }
        });
        let mut tasks = vec![ticker];
        if watch {
            tasks.extend(follow_all(&shared));
        }
        Ok(Self {
            shared,
            local,
            registered: Mutex::new(registered),
            tasks: Mutex::new(tasks),
            leaving: Mutex::default(),
        })
    }

    /// Finds the peer with this worker id.
    ///
    /// # Errors
    /// * `NotFound`: every source was asked and said so.
    /// * `Unavailable`, or the kind that all failures share: nobody found it and some source
    ///   could not answer; the message names each one.
    /// * `Closed` after [`shutdown`](Self::shutdown).
    ///
    /// # Cancel safety
    /// Dropping the future disturbs nobody else who waits for the same peer.
    pub async fn discover_by_worker_id(&self, id: WorkerId) -> Result<PeerInfo, DiscoveryError> {
        self.find(Question::Worker(id)).await
    }

    /// Finds this very instance; another one under the same worker id does not count.
    ///
    /// # Errors
    /// As [`discover_by_worker_id`](Self::discover_by_worker_id).
    pub async fn discover_by_instance_id(&self, id: InstanceId) -> Result<PeerInfo, DiscoveryError> {
        self.find(Question::Instance(id)).await
    }

    /// Finds the peer with this worker id, and says where the answer came from.
    ///
    /// # Errors
    /// As [`discover_by_worker_id`](Self::discover_by_worker_id).
    pub async fn locate_by_worker_id(&self, id: WorkerId) -> Result<Located, DiscoveryError> {
        self.locate(Question::Worker(id)).await
    }

    /// Finds this very instance, and says where the answer came from.
    ///
    /// # Errors
    /// As [`discover_by_worker_id`](Self::discover_by_worker_id).
    pub async fn locate_by_instance_id(&self, id: InstanceId) -> Result<Located, DiscoveryError> {
        self.locate(Question::Instance(id)).await
    }

    /// Finds many peers: one answer per id, in order, with as few calls as the sources allow.
    ///
    /// # Errors
    /// Each answer as [`discover_by_worker_id`](Self::discover_by_worker_id).
    pub async fn discover_many(&self, ids: &[WorkerId]) -> Vec<Result<PeerInfo, DiscoveryError>> {
        let mut tickets = Vec::new();
        let mut answers = Vec::with_capacity(ids.len());
        for id in ids {
            let question = Question::Worker(*id);
            answers.push(match self.known(question) {
                Some(known) => Ok(known),
                None => Err(match self.shared.board.join(question) {
                    Joined::Lead(ticket, waiting) => {
                        tickets.push(ticket);
                        Joined::Wait(waiting)
                    }
                    joined => joined,
                }),
            });
            if tickets.len() == BATCH {
                self.fly(std::mem::take(&mut tickets));
                tokio::task::yield_now().await;
            }
        }
        if !tickets.is_empty() {
            self.fly(tickets);
        }
        // Handing out many answers takes its time, too.
        let handing_out = Duration::from_millis(u64::try_from(ids.len() / 50).unwrap_or(u64::MAX));
        let until = self.budget_from_now() + handing_out;
        let mut found = Vec::with_capacity(ids.len());
        for (id, answer) in ids.iter().zip(answers) {
            found.push(match answer {
                Ok(known) => known,
                Err(joined) => self
                    .wait(Question::Worker(*id), joined, until)
                    .await
                    .map(|hit| hit.peer),
            });
        }
        found
    }

    /// Tells that an instance did not answer at its address: what is known about it is
    /// forgotten at once, and the next lookup asks the sources again.
    ///
    /// The local peer is never forgotten.
    pub fn report_unreachable(&self, instance: InstanceId) {
        self.shared.board.report(instance);
    }

    /// How many answers of each source were dropped because they did not fit the question.
    #[must_use]
    pub fn wrong_answers(&self) -> Vec<(Arc<str>, u64)> {
        self.shared
            .sources
            .iter()
            .map(|source| (source.name().clone(), source.wrong_answers()))
            .collect()
    }

    /// Where the local peer stands in each source, in their order; empty without a local peer.
    #[must_use]
    pub fn registrations(&self) -> Vec<RegistrationObserver> {
        self.local
            .as_ref()
            .map(|local| local.registrations.clone())
            .unwrap_or_default()
    }

    /// Unregisters from every source at once and ends every task. Lookups answer `Closed`
    /// from the first poll on. May be called again, also at the same time: every caller waits
    /// for the same end.
    ///
    /// # Errors
    /// `Timeout` or `Unavailable` naming the source that did not confirm within `deadline`:
    /// the registration there is not renewed any more and expires.
    ///
    /// # Cancel safety
    /// Begun with the first poll; goes on in the background when the future is dropped.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), DiscoveryError> {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.shared.cancel.cancel();
        self.shared.flights.close();
        let until = Instant::now() + deadline.min(LONGEST_SHUTDOWN);
        let mut leaving = lock(&self.leaving)
            .get_or_insert_with(|| self.leave(deadline))
            .clone();
        let left = match timeout_at(until, leaving.wait_for(Option::is_some)).await {
            Ok(Ok(left)) => left.clone().unwrap_or(Ok(())),
            Ok(Err(_)) if self.local.is_some() => {
                let context = "the runtime that the manager was made in has ended, so nobody confirmed; what is left expires";
                Err(DiscoveryError::new(ErrorKind::Closed, context).with_operation("shutdown"))
            }
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(unconfirmed(deadline)),
        };
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        let left_for_tasks = until.saturating_duration_since(Instant::now());
        join_all(tasks.into_iter().map(|task| task.shutdown(left_for_tasks))).await;
        let flights = timeout_at(until, self.shared.flights.wait()).await;
        left.and(flights.map_err(|_| unconfirmed(deadline)))
    }

    /// Gives every registration up, in a task that whoever shuts down waits for.
    fn leave(&self, deadline: Duration) -> Leaving {
        let (told, leaving) = watch::channel(None);
        let registered = std::mem::take(&mut *lock(&self.registered));
        // A little less than the caller waits, so that who did not confirm can still be named.
        let deadline = deadline.saturating_sub((deadline / 10).min(TICK));
        let task = async move { drop(told.send(Some(lifecycle::unregister(registered, deadline).await))) };
        self.shared.flights.spawn_on(task, &self.shared.runtime);
        leaving
    }

    async fn find(&self, question: Question) -> Result<PeerInfo, DiscoveryError> {
        match self.known(question) {
            Some(answer) => answer,
            // Boxed, so that a hit carries no room for what it does not need.
            None => Box::pin(self.miss(question)).await.map(|hit| hit.peer),
        }
    }

    /// What can be answered without asking anybody.
    fn known(&self, question: Question) -> Option<Result<PeerInfo, DiscoveryError>> {
        if self.shared.closed.load(Ordering::Relaxed) {
            return Some(Err(closed()));
        }
        if let Some(local) = self.local_answer(question) {
            return Some(Ok(local.clone()));
        }
        self.shared
            .board
            .table()
            .get(question.key())
            .filter(|peer| question.fits(peer))
            .map(Ok)
    }

    fn local_answer(&self, question: Question) -> Option<&PeerInfo> {
        let local = self.local.as_ref()?;
        if !question.fits(&local.peer) {
            return None;
        }
        let lost =
            |registration: &RegistrationObserver| registration.state() == RegistrationState::Superseded;
        (!local.registrations.iter().any(lost)).then_some(&local.peer)
    }

    async fn locate(&self, question: Question) -> Result<Located, DiscoveryError> {
        if self.shared.closed.load(Ordering::Relaxed) {
            return Err(closed());
        }
        if let Some(local) = self.local_answer(question) {
            return Ok(Located {
                peer: local.clone(),
                source: "local".into(),
                age: Duration::ZERO,
            });
        }
        let hit = self
            .shared
            .board
            .table()
            .hit(question.key())
            .filter(|hit| question.fits(&hit.peer));
        let Hit { peer, source, age } = match hit {
            Some(hit) => hit,
            None => self.miss(question).await?,
        };
        let source = self
            .shared
            .sources
            .get(usize::from(source))
            .map_or("?".into(), |source| source.name().clone());
        Ok(Located { peer, source, age })
    }

    async fn miss(&self, question: Question) -> Result<Hit, DiscoveryError> {
        let until = self.budget_from_now();
        self.wait(question, self.shared.board.join(question), until).await
    }

    /// Waits for a flight. If it hung, a caller that joined it late and has time of its own
    /// left asks again: an old deadline is not inherited.
    async fn wait(
        &self,
        question: Question,
        mut joined: Joined,
        until: Instant,
    ) -> Result<Hit, DiscoveryError> {
        loop {
            let (mut waiting, late) = match joined {
                Joined::Hit(hit) => return Ok(hit),
                Joined::NotFound => return Err(not_found(question)),
                Joined::Wait(waiting) => (waiting, true),
                Joined::Lead(ticket, waiting) => {
                    self.fly(vec![ticket]);
                    (waiting, false)
                }
            };
            let landing = match timeout_at(until, waiting.wait_for(Option::is_some)).await {
                Ok(Ok(landing)) => landing.clone(),
                Ok(Err(_)) => None,
                Err(_) => {
                    let context = format!("no source answered about {question:?} in time");
                    return Err(DiscoveryError::new(ErrorKind::Timeout, context).with_operation("lookup"));
                }
            };
            let Some(landing) = landing else {
                return Err(self.abandoned());
            };
            let ask_again = late && landing.hung && landing.answer.is_err() && until > Instant::now();
            if !ask_again {
                return landing.answer;
            }
            joined = self.shared.board.join(question);
        }
    }

    /// Why a flight ended without landing.
    fn abandoned(&self) -> DiscoveryError {
        if self.shared.closed.load(Ordering::Relaxed) {
            return closed();
        }
        let context = "the lookup ended without an answer: a source crashed, or the runtime that the manager was made in has ended";
        DiscoveryError::new(ErrorKind::Unexpected, context).with_operation("lookup")
    }

    /// Long enough for every source to use its deadline up, and to say so.
    fn budget_from_now(&self) -> Instant {
        let sources = u32::try_from(self.shared.sources.len())
            .unwrap_or(u32::MAX)
            .max(1);
        Instant::now() + self.shared.source_deadline.saturating_mul(sources) + TICK
    }

    fn fly(&self, tickets: Vec<Ticket>) {
        let flight = Flight::new(self.shared.clone(), tickets);
        let cancel = self.shared.cancel.clone();
        let task = async move {
            tokio::select! { biased; () = cancel.cancelled() => {}, () = flight.fly() => {} }
        };
        self.shared.flights.spawn_on(task, &self.shared.runtime);
    }
}

impl Drop for PeerDiscoveryManager {
    fn drop(&mut self) {
        self.shared.cancel.cancel();
    }
}

/// A task for each source that can be watched.
fn follow_all(shared: &Arc<Shared>) -> Vec<OwnedTask> {
    let watched = shared.sources.iter().enumerate().filter_map(|(index, source)| {
        let watch = source.discovery().watch()?;
        Some((u16::try_from(index).ok()?, watch))
    });
    watched
        .map(|(index, watch)| {
            let following = shared.clone();
            OwnedTask::spawn(&shared.runtime, |cancel| async move {
                cancel
                    .run_until_cancelled(follow::follow(following, index, watch))
                    .await;
            })
        })
        .collect()
}

async fn tick(board: &Board) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        board.table().tick();
        board.sweep(SWEEP);
    }
}

fn unconfirmed(deadline: Duration) -> DiscoveryError {
    let context = format!("not everything has ended within {deadline:?}; what is left expires");
    DiscoveryError::new(ErrorKind::Timeout, context).with_operation("shutdown")
}

fn closed() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Closed, "the manager was shut down").with_operation("lookup")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
