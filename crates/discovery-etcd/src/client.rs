//! Connections, and what is asked over them: with `error.rs` the sole user of the vendor's client.
//!
//! The vendor's client spreads calls over all servers and loses those that go to a dead one. So
//! there is one client per server here, and who is asked next is decided in this file.

mod request;
mod stream;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use discovery_core::DiscoveryError;
use etcd_client::ConnectOptions;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

pub(crate) use self::{
    request::{Condition, Entry, Found, Line, Outcome, Read, Request},
    stream::{Event, Message, WatchStream},
};
use crate::{
    config::EtcdConfig,
    error::{Effect, Fault, Reach},
};

/// How long making a connection may take at most; less where several servers share a deadline.
const CONNECT: Duration = Duration::from_secs(2);
/// How often a connection that something is awaited on is asked whether it is alive. etcd closes
/// connections that ask more often than every 5 s (`--grpc-keepalive-min-time`), or while nothing is
/// awaited on them.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// After how long without an answer to that it is given up.
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(3);
/// A request with less time than this left is not sent: it would only leave its outcome open.
const TOO_LATE: Duration = Duration::from_millis(5);
/// A connection that was idle for longer is not used again: whatever is in between may have
/// forgotten it without a word, and a call would wait in vain.
const IDLE: Duration = Duration::from_secs(30);

/// Connections to the servers of one etcd cluster; a clone shares them.
#[derive(Clone)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    endpoints: Box<[Endpoint]>,
    /// The server that answered last.
    current: AtomicUsize,
    timeout: Duration,
    options: ConnectOptions,
}

struct Endpoint {
    host: Arc<str>,
    connection: Mutex<Connection>,
}

/// The connection that calls to a server share; made by the first one that needs it.
#[derive(Default)]
struct Connection {
    /// Counts the connections that were made, so that one is given up once.
    number: u64,
    /// With when it was last taken.
    client: Option<(etcd_client::Client, Instant)>,
}

/// Which connection a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The one that all calls share.
    Shared,
    /// A new one, that nobody else uses.
    Own,
}

impl Client {
    pub(crate) fn try_new(config: &EtcdConfig) -> Result<Self, DiscoveryError> {
        config.validate()?;
        let endpoint = |host: &String| Endpoint {
            host: host.as_str().into(),
            connection: Mutex::default(),
        };
        let endpoints: Box<[_]> = config.endpoints().iter().map(endpoint).collect();
        // A connection that cannot be made must leave time for the next server.
        let share = config.timeout() / u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT.min(share))
            .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE_ANSWER)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true);
        Ok(Self(Arc::new(Inner {
            endpoints,
            current: AtomicUsize::new(0),
            timeout: config.timeout(),
            options,
        })))
    }

    /// When a call that begins now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.0.timeout
    }

    /// Asks the server that answered last, then the others, all before `deadline`.
    ///
    /// What may be repeated goes on with the next server after every failure that another one
    /// might not have; what may not, only if it certainly was not sent.
    pub(crate) async fn call<T, F>(
        &self,
        effect: Effect,
        deadline: Instant,
        ask: impl Fn(Line) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.call_over(Way::Shared, effect, deadline, ask).await
    }

    /// The same, over connections of a kind.
    pub(crate) async fn call_over<T, F>(
        &self,
        way: Way,
        effect: Effect,
        deadline: Instant,
        ask: impl Fn(Line) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        needs_runtime()?;
        let count = self.0.endpoints.len();
        let first = self.0.current.load(Ordering::Relaxed);
        let mut tried = 0;
        loop {
            let index = (first + tried) % count;
            let left = deadline.saturating_duration_since(Instant::now());
            if left < TOO_LATE {
                return Err(Fault::too_late(&self.0.endpoints[index].host));
            }
            // What is not repeated may as well wait to the end.
            let share = match effect {
                Effect::Read => left / u32::try_from(count.saturating_sub(tried).max(1)).unwrap_or(1),
                Effect::Write => left,
            };
            let outcome = self.attempt(index, way, effect, share, &ask).await;
            self.note(index, &outcome);
            tried += 1;
            let fault = match outcome {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left < TOO_LATE || !may_go_on(fault.reach, effect, tried, count) {
                return Err(fault);
            }
            tracing::debug!(error = %fault.error, "asking the next server");
        }
    }

    /// Lets later calls begin with a server that has answered, and not with one that has not.
    fn note<T>(&self, index: usize, outcome: &Result<T, Fault>) {
        let current = &self.0.current;
        match outcome {
            Ok(_) => current.store(index, Ordering::Relaxed),
            Err(fault) if matches!(fault.reach, Reach::Answered | Reach::NoRevision) => {}
            Err(_) => {
                let next = (index + 1) % self.0.endpoints.len();
                // Unless another call has moved on already.
                let _ = current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    async fn attempt<T, F>(
        &self,
        index: usize,
        way: Way,
        effect: Effect,
        limit: Duration,
        ask: impl Fn(Line) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let endpoint = &self.0.endpoints[index];
        let (number, client) = match way {
            Way::Shared => self.shared(endpoint).await?,
            Way::Own => (0, self.connect(endpoint).await?),
        };
        let line = Line::new(client, endpoint.host.clone(), effect);
        let outcome = timeout(limit, ask(line)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(Fault::silent(effect, &endpoint.host, limit)));
        let untrusted = |fault: &Fault| matches!(fault.reach, Reach::Broken | Reach::Silent | Reach::NotSent);
        if way == Way::Shared && outcome.as_ref().is_err_and(untrusted) {
            // Whether it will ever answer again is not known for a long time: the next call
            // makes a new one.
            let mut connection = lock(&endpoint.connection);
            if connection.number == number {
                connection.client = None;
            }
        }
        outcome
    }

    async fn shared(&self, endpoint: &Endpoint) -> Result<(u64, etcd_client::Client), Fault> {
        let found = lock(&endpoint.connection).take_part();
        if let Some(found) = found {
            return Ok(found);
        }
        let made = self.connect(endpoint).await?;
        let mut connection = lock(&endpoint.connection);
        // Another call may have been faster.
        if let Some(found) = connection.take_part() {
            return Ok(found);
        }
        connection.number += 1;
        connection.client = Some((made.clone(), Instant::now()));
        Ok((connection.number, made))
    }

    /// Prepares a connection: no I/O before its first use.
    async fn connect(&self, endpoint: &Endpoint) -> Result<etcd_client::Client, Fault> {
        let url = format!("http://{}", endpoint.host);
        let made = etcd_client::Client::connect([url], Some(self.0.options.clone())).await;
        made.map_err(|cause| Fault::from_vendor(cause, Effect::Read, &endpoint.host))
    }
}

impl Connection {
    /// The connection, for one more call, if it can be trusted.
    fn take_part(&mut self) -> Option<(u64, etcd_client::Client)> {
        let (client, used) = self.client.as_mut()?;
        if used.elapsed() > IDLE {
            self.client = None;
            return None;
        }
        *used = Instant::now();
        Some((self.number, client.clone()))
    }
}

/// Whether to ask again, after so many of so many servers.
fn may_go_on(reach: Reach, effect: Effect, tried: usize, count: usize) -> bool {
    match (effect, reach) {
        (_, Reach::Answered | Reach::NoRevision) => false,
        (_, Reach::NotSent) => tried < count,
        (Effect::Write, _) => false,
        // A connection breaks when its server restarts, which says nothing about the next one.
        (Effect::Read, Reach::Broken) => tried <= count,
        (Effect::Read, Reach::Silent | Reach::Elsewhere) => tried < count,
    }
}

fn needs_runtime() -> Result<(), Fault> {
    match Handle::try_current() {
        Ok(_) => Ok(()),
        Err(cause) => {
            let error = DiscoveryError::invalid_config("etcd needs a tokio runtime").with_source(cause);
            Err(Fault {
                reach: Reach::Answered,
                error,
            })
        }
    }
}

/// A connection is replaced as a whole, so one that a panic left behind is whole.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.0.endpoints.iter().map(|endpoint| &endpoint.host);
        f.debug_list().entries(hosts).finish()
    }
}

#[cfg(test)]
mod tests {
    use discovery_core::{ErrorKind, Retry};

    use super::*;

    #[test]
    fn a_write_goes_on_only_if_it_was_not_sent() {
        for reach in [Reach::Broken, Reach::Silent, Reach::Elsewhere, Reach::Answered] {
            assert!(!may_go_on(reach, Effect::Write, 1, 3), "{reach:?}");
        }
        assert!(may_go_on(Reach::NotSent, Effect::Write, 1, 2));
        assert!(!may_go_on(Reach::NotSent, Effect::Write, 2, 2));
    }

    #[test]
    fn a_read_goes_on_until_all_were_asked_and_once_more_after_a_break() {
        for reach in [Reach::NotSent, Reach::Silent, Reach::Elsewhere] {
            assert!(may_go_on(reach, Effect::Read, 1, 2), "{reach:?}");
            assert!(!may_go_on(reach, Effect::Read, 2, 2), "{reach:?}");
        }
        assert!(may_go_on(Reach::Broken, Effect::Read, 1, 1));
        assert!(!may_go_on(Reach::Broken, Effect::Read, 2, 1));
        assert!(!may_go_on(Reach::Answered, Effect::Read, 1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_shared_while_it_can_be_trusted() {
        let config = EtcdConfig::try_new("etcd://127.0.0.1:1").unwrap();
        let client = Client::try_new(&config).unwrap();
        let number = async || client.shared(&client.0.endpoints[0]).await.unwrap().0;
        assert_eq!((number().await, number().await), (1, 1));
        tokio::time::advance(IDLE).await;
        assert_eq!(number().await, 1, "taken just in time");
        tokio::time::advance(IDLE + Duration::from_millis(1)).await;
        assert_eq!(number().await, 2, "idle for too long");
        let silent = |line: Line| async move { Err::<(), _>(Fault::silent(Effect::Read, line.host(), IDLE)) };
        client
            .call(Effect::Read, client.deadline(), silent)
            .await
            .unwrap_err();
        assert_eq!(number().await, 3, "a call went unanswered");
        let answered = |_: Line| async { Err::<(), _>(Fault::lease_lost()) };
        client
            .call(Effect::Read, client.deadline(), answered)
            .await
            .unwrap_err();
        assert_eq!(number().await, 3, "a refusal is an answer");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_when_there_is_no_time_for_an_answer() {
        let config = EtcdConfig::try_new("etcd://127.0.0.1:1").unwrap();
        let client = Client::try_new(&config).unwrap();
        let sent = |_: Line| async { Ok(()) };
        let late = Instant::now() + TOO_LATE - Duration::from_millis(1);
        let fault = client.call(Effect::Write, late, sent).await.unwrap_err();
        assert_eq!(fault.error.kind(), ErrorKind::Timeout);
        assert_eq!(
            fault.error.retry(),
            Retry::Safe { after: None },
            "it did not happen"
        );
        client.call(Effect::Write, client.deadline(), sent).await.unwrap();
    }

    #[test]
    fn outside_a_runtime_the_message_says_so() {
        let fault = needs_runtime().unwrap_err();
        assert!(
            fault.error.to_string().contains("tokio runtime"),
            "{}",
            fault.error
        );
    }
}
