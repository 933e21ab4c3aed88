//! Connections, and what is asked over them: with `error.rs` the sole user of the vendor's client.
//!
//! The vendor's client spreads calls over all servers and loses those that go to a dead one. So
//! there is one client per server here, and who is asked next is decided in this file.

mod channel;
mod probe;
mod request;
mod stream;

use std::{
    error::Error as _,
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use discovery_core::DiscoveryError;
use etcd_client::{ConnectOptions, Error};
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{Instant, timeout},
};

pub(crate) use self::{
    channel::Gone,
    request::{Condition, Entry, Found, Line, Outcome, Read, Request},
    stream::{Event, Message, WatchStream},
};
use crate::{
    config::EtcdConfig,
    credentials::{self, Login},
    error::{Effect, Fault, Reach},
    tls::Tls,
};

/// How long making a connection may take at most; less where several servers share a deadline.
const CONNECT: Duration = Duration::from_secs(2);
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
    /// How long making a connection may take.
    connect: Duration,
    /// How connections are encrypted, if they are.
    tls: Option<Tls>,
    /// Who asks, if servers want to know.
    login: Option<Login>,
}

struct Endpoint {
    host: Arc<str>,
    connection: Mutex<Connection>,
    /// Whose turn it is to log in, which costs the server so much that it is done once for all
    /// calls that wait for it.
    turn: Semaphore,
}

/// The connection that calls to a server share; made by the first one that needs it.
#[derive(Default)]
struct Connection {
    /// Counts the connections that were made, so that one is given up once.
    number: u64,
    /// With when it was last taken.
    client: Option<(etcd_client::Client, Instant)>,
    /// Whether any connection to this server has ever brought an answer.
    answered: bool,
}

/// One attempt of a call, at one server.
#[derive(Clone, Copy)]
struct Attempt {
    index: usize,
    way: Way,
    effect: Effect,
    /// How long it may take.
    limit: Duration,
    /// How long all that comes before the request may take.
    share: Duration,
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
            turn: Semaphore::new(1),
        };
        let endpoints: Box<[_]> = config.endpoints().iter().map(endpoint).collect();
        // A connection that cannot be made must leave time for the next server.
        let share = config.timeout() / u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let connect = CONNECT.min(share);
        let (tls, login) = (config.tls().cloned(), config.credentials().cloned());
        if tls.is_none() && login.is_some() {
            credentials::warn_of_plaintext(config.endpoints());
        }
        Ok(Self(Arc::new(Inner {
            endpoints,
            current: AtomicUsize::new(0),
            timeout: config.timeout(),
            connect,
            tls,
            login: login.map(Login::new),
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
            let share = left / u32::try_from(count.saturating_sub(tried).max(1)).unwrap_or(1);
            let attempt = Attempt {
                index,
                way,
                effect,
                // What is not repeated may as well wait to the end.
                limit: match effect {
                    Effect::Read => share,
                    Effect::Write => left,
                },
                share,
            };
            let outcome = self.attempt(attempt, &ask).await;
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
            Err(fault) if fault.reach.is_answer() => {}
            Err(_) => {
                let next = (index + 1) % self.0.endpoints.len();
                // Unless another call has moved on already.
                let _ = current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Asks one server; a second time if it has forgotten who asks, about which it says so
    /// before it does anything.
    async fn attempt<T, F>(&self, attempt: Attempt, ask: impl Fn(Line) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let late = Instant::now() + attempt.limit;
        let outcome = self.attempt_once(attempt, &ask).await;
        let forgotten = outcome
            .as_ref()
            .is_err_and(|fault| fault.reach == Reach::Forgotten);
        if !forgotten || self.0.login.is_none() {
            return outcome;
        }
        let left = late.saturating_duration_since(Instant::now());
        let again = Attempt {
            limit: left,
            share: left.min(attempt.share),
            ..attempt
        };
        self.attempt_once(again, &ask).await
    }

    async fn attempt_once<T, F>(&self, attempt: Attempt, ask: impl Fn(Line) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let endpoint = &self.0.endpoints[attempt.index];
        let late = Instant::now() + attempt.limit;
        let connected = timeout(attempt.share, self.connected(endpoint, attempt.way)).await;
        let connected = connected
            .unwrap_or_else(|_| Err(Fault::silent(Effect::Read, &endpoint.host, attempt.share)))
            .map_err(Fault::before_sending);
        let (number, client) = connected?;
        let line = Line::new(client, endpoint.host.clone(), attempt.effect);
        let left = late.saturating_duration_since(Instant::now());
        let outcome = timeout(left, ask(line)).await;
        let outcome =
            outcome.unwrap_or_else(|_| Err(Fault::silent(attempt.effect, &endpoint.host, attempt.limit)));
        endpoint.note(number, &outcome);
        match outcome {
            Err(fault) => Err(self.explained(endpoint, fault).await),
            answer => answer,
        }
    }

    /// A connection, and its number if others share it.
    async fn connected(&self, endpoint: &Endpoint, way: Way) -> Result<(u64, etcd_client::Client), Fault> {
        let connected = match way {
            Way::Shared => self.shared(endpoint).await,
            Way::Own => self.connect(endpoint).await.map(|client| (0, client)),
        };
        match connected {
            Err(fault) => Err(self.explained(endpoint, fault).await),
            connected => connected,
        }
    }

    async fn shared(&self, endpoint: &Endpoint) -> Result<(u64, etcd_client::Client), Fault> {
        let found = lock(&endpoint.connection).take_part();
        if let Some(found) = found {
            return Ok(found);
        }
        let _turn = match self.0.login {
            Some(_) => endpoint.turn.acquire().await.ok(),
            None => None,
        };
        // Another call may have been faster.
        let found = lock(&endpoint.connection).take_part();
        if let Some(found) = found {
            return Ok(found);
        }
        let made = self.connect(endpoint).await?;
        let mut connection = lock(&endpoint.connection);
        if let Some(found) = connection.take_part() {
            return Ok(found);
        }
        connection.number += 1;
        connection.client = Some((made.clone(), Instant::now()));
        Ok((connection.number, made))
    }

    /// Prepares a connection: nothing is sent before its first use, unless that is a login.
    async fn connect(&self, endpoint: &Endpoint) -> Result<etcd_client::Client, Fault> {
        let tls = match &self.0.tls {
            Some(tls) => Some(tls.load().await.map_err(Fault::own)?),
            None => None,
        };
        let options = ConnectOptions::new().with_require_leader(true);
        let (limit, host) = (self.0.connect, &endpoint.host);
        let Some(login) = &self.0.login else {
            let channel = channel::lasting(host, tls, limit).map_err(|cause| not_made(cause, host))?;
            let made = etcd_client::Client::from_channel(channel, Some(options)).await;
            return made.map_err(|cause| not_made(cause, host));
        };
        let (user, password) = login.read().await?;
        let options = options.with_user(user, password.expose());
        let channel = channel::for_once(host, tls, limit).map_err(|cause| not_made(cause, host))?;
        let made = etcd_client::Client::from_channel(channel, Some(options)).await;
        made.map_err(|cause| {
            let fault = not_made(cause, host);
            login.failed(password, &fault.error);
            fault
        })
    }

    /// The fault, or what is behind it if that can be found out: servers that speak TLS only hang
    /// up on who does not, and the other way round.
    async fn explained(&self, endpoint: &Endpoint, fault: Fault) -> Fault {
        let host = &endpoint.host;
        match fault.reach {
            Reach::HungUp if probe::speaks_plaintext(host).await => Fault::speaks_no_tls(host),
            Reach::Broken if self.is_plaintext_to(endpoint) && probe::speaks_tls(host).await => {
                Fault::speaks_tls(host)
            }
            Reach::Broken if !endpoint.has_answered() => {
                let refusal = self.refusal(host).await;
                refusal
                    .and_then(|cause| Fault::refused(&cause, host))
                    .unwrap_or(fault)
            }
            _ => fault,
        }
    }

    /// What stands against a connection in TLS, which not every connection gets to know.
    async fn refusal(&self, host: &str) -> Option<io::Error> {
        let (tls, name) = self.0.tls.as_ref()?.look(host).await?;
        probe::refusal(host, tls, name).await
    }

    /// Whether a server has never answered what was said to it without TLS.
    fn is_plaintext_to(&self, endpoint: &Endpoint) -> bool {
        self.0.tls.is_none() && !endpoint.has_answered()
    }
}

impl Endpoint {
    /// Whether anything was ever answered by this server.
    fn has_answered(&self) -> bool {
        lock(&self.connection).answered
    }

    /// Learns from what came of a call over the connection of this number; 0 is none of those
    /// that are shared.
    fn note<T>(&self, number: u64, outcome: &Result<T, Fault>) {
        let reach = outcome.as_ref().err().map(|fault| fault.reach);
        let mut connection = lock(&self.connection);
        match reach {
            // Whether it will ever answer again is not known for a long time, and who has been
            // forgotten logs in over another one: the next call makes it.
            Some(Reach::Broken | Reach::Silent | Reach::NotSent | Reach::HungUp | Reach::Forgotten) => {
                if connection.number == number {
                    connection.client = None;
                }
            }
            None | Some(Reach::Elsewhere | Reach::Answered | Reach::NoRevision) => connection.answered = true,
        }
    }
}

/// Why a connection could not even be prepared, or its login failed.
fn not_made(cause: Error, host: &str) -> Fault {
    let fits = match &cause {
        Error::TransportError(cause) => !cause.source().is_some_and(|cause| cause.is::<rustls::Error>()),
        _ => true,
    };
    if fits {
        return Fault::from_vendor(cause, Effect::Read, host);
    }
    let context = "cert_file and key_file do not fit: it is the key of another certificate";
    Fault::own(DiscoveryError::invalid_config(context))
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
        (_, reach) if reach.is_answer() => false,
        (_, Reach::NotSent | Reach::HungUp) => tried < count,
        (Effect::Write, _) => false,
        // A connection breaks when its server restarts, which says nothing about the next one.
        (Effect::Read, Reach::Broken) => tried <= count,
        (Effect::Read, _) => tried < count,
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
        for reach in [
            Reach::Broken,
            Reach::Silent,
            Reach::Elsewhere,
            Reach::Answered,
            Reach::Forgotten,
        ] {
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
