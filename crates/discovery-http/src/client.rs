//! Requests and answers: the sole user of the HTTP client library.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use discovery_core::{Cluster, DiscoveryError, ErrorKind, Retry, store::RecordKey};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode, header, redirect};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use crate::{
    config::HttpConfig,
    error::{self, Effect},
    stream::EventStream,
    wire::{self, Problem},
};

/// The most requests in flight, and so the most connections.
const IN_FLIGHT: usize = 64;
/// A request with less time than this left is not sent: it would only leave its outcome open.
const TOO_LATE: Duration = Duration::from_millis(5);
/// Idle connections are closed well before the server would: a request that meets a closing
/// connection has an unknown outcome.
const IDLE: Duration = Duration::from_secs(15);
/// What stands in a URL as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A pool of connections to one service.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base_url: Arc<str>,
    host: Arc<str>,
    timeout: Duration,
    keep_alive: Duration,
    permits: Arc<Semaphore>,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: Method,
    path: String,
    body: Option<Bytes>,
    effect: Effect,
    /// The status of a success; anything else comes from something in between.
    success: StatusCode,
    accept: Option<&'static str>,
    /// The most bytes of the answer.
    most: usize,
}

/// An answer, read to its end.
struct Answer {
    status: StatusCode,
    /// Without its parameters.
    media_type: String,
    body: Bytes,
}

/// Why there is no answer.
enum Failure {
    /// An established connection broke: a read may be repeated.
    Broken(reqwest::Error),
    Final(DiscoveryError),
}

impl Request {
    /// Reads; may be repeated once when a connection breaks.
    pub(crate) fn get(path: String) -> Self {
        Self {
            method: Method::GET,
            path,
            body: None,
            effect: Effect::Read,
            success: StatusCode::OK,
            accept: None,
            most: wire::ANSWER_BYTES,
        }
    }

    /// Reads what comes in this media type.
    pub(crate) fn accepting(mut self, media_type: &'static str) -> Self {
        self.accept = Some(media_type);
        self
    }

    /// Reads an answer of at most this many bytes.
    pub(crate) fn at_most(mut self, bytes: usize) -> Self {
        self.most = bytes;
        self
    }

    /// Changes nothing or something, as `effect` says.
    pub(crate) fn post(path: String, body: &impl Serialize, effect: Effect) -> Result<Self, DiscoveryError> {
        let body = serde_json::to_vec(body).map_err(|cause| {
            let context = "a request cannot be written as JSON".to_owned();
            error::error(ErrorKind::Unexpected, context).with_source(cause)
        })?;
        Ok(Self {
            method: Method::POST,
            path,
            body: Some(body.into()),
            effect,
            success: StatusCode::OK,
            accept: None,
            most: wire::ANSWER_BYTES,
        })
    }

    /// Makes something new.
    pub(crate) fn creating(mut self) -> Self {
        self.success = StatusCode::CREATED;
        self
    }

    /// Removes.
    pub(crate) fn delete(path: String) -> Self {
        Self {
            method: Method::DELETE,
            path,
            body: None,
            effect: Effect::Write,
            success: StatusCode::NO_CONTENT,
            accept: None,
            most: wire::ANSWER_BYTES,
        }
    }
}

impl Client {
    pub(crate) fn try_new(config: &HttpConfig) -> Result<Self, DiscoveryError> {
        config.validate()?;
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .pool_max_idle_per_host(IN_FLIGHT)
            .pool_idle_timeout(IDLE)
            .user_agent(concat!("discovery/", env!("CARGO_PKG_VERSION")));
        let http = builder.build().map_err(|cause| {
            let context = "the HTTP client cannot be built".to_owned();
            error::error(ErrorKind::InvalidConfig, context).with_source(cause)
        })?;
        Ok(Self {
            http,
            base_url: config.base_url().into(),
            host: config.host().into(),
            timeout: config.timeout(),
            keep_alive: config.keep_alive(),
            permits: Arc::new(Semaphore::new(IN_FLIGHT)),
        })
    }

    /// When a call that begins now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// How long a call may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How often a watch is to be heard of at least.
    pub(crate) fn keep_alive(&self) -> Duration {
        self.keep_alive
    }

    /// Sends a request and reads a JSON answer.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> Result<T, DiscoveryError> {
        let answer = self.call(request, deadline).await?;
        self.read_json(&answer, request)
    }

    /// Sends a read that the service answers when there is something to tell, so that it takes
    /// nobody's turn.
    pub(crate) async fn poll<T: DeserializeOwned>(
        &self,
        request: &Request,
        limit: Duration,
    ) -> Result<T, DiscoveryError> {
        let answer = timeout_at(Instant::now() + limit, self.attempt(request)).await;
        let answer = answer.map_err(|_| error::timed_out(request.effect, true, &self.host, limit))??;
        self.read_json(&self.success(answer, request)?, request)
    }

    /// Sends a read whose answer is a stream of events; on success, its head is there. Takes
    /// nobody's turn: a stream lasts.
    pub(crate) async fn events(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> Result<EventStream, DiscoveryError> {
        self.needs_runtime()?;
        let head = timeout_at(deadline, self.begin(request)).await;
        let response =
            head.map_err(|_| error::timed_out(request.effect, true, &self.host, self.timeout))??;
        Ok(EventStream::new(response, self.host.clone()))
    }

    /// The head of a stream of events, or the error that was answered instead.
    async fn begin(&self, request: &Request) -> Result<reqwest::Response, DiscoveryError> {
        let response = self
            .head(request)
            .await
            .map_err(|failure| self.failed(failure, request))?;
        if response.status() == request.success {
            if media_type(&response) == wire::EVENT_STREAM {
                return Ok(response);
            }
            return Err(self.unreadable(request.effect, "not with a stream of events"));
        }
        let answer = self.read(response, request).await;
        let answer = answer.map_err(|failure| self.failed(failure, request))?;
        let strange = self.unreadable(request.effect, "not with a stream of events");
        self.success(answer, request).and(Err(strange))
    }

    fn read_json<T: DeserializeOwned>(
        &self,
        answer: &Answer,
        request: &Request,
    ) -> Result<T, DiscoveryError> {
        if answer.media_type != wire::JSON {
            return Err(self.unreadable(request.effect, "not with JSON"));
        }
        serde_json::from_slice(&answer.body).map_err(|cause| {
            error::unreadable(request.effect, &self.host, "not as this version understands it")
                .with_source(cause)
        })
    }

    /// Sends a request whose success says nothing else.
    pub(crate) async fn done(&self, request: &Request, deadline: Instant) -> Result<(), DiscoveryError> {
        self.call(request, deadline).await.map(drop)
    }

    /// Sends a request and reads its answer, all before `deadline`, waiting for its turn
    /// included. An answer that is not the expected success is an error.
    async fn call(&self, request: &Request, deadline: Instant) -> Result<Answer, DiscoveryError> {
        self.needs_runtime()?;
        let sent = AtomicBool::new(false);
        let work = async {
            let _permit = self.permits.acquire().await;
            if Instant::now() + TOO_LATE >= deadline {
                // Those in front gave up just now, and so does this one: it has not left.
                return Err(error::timed_out(request.effect, false, &self.host, self.timeout));
            }
            sent.store(true, Ordering::Relaxed);
            self.attempt(request).await
        };
        let answer = timeout_at(deadline, work).await.unwrap_or_else(|_| {
            let sent = sent.load(Ordering::Relaxed);
            Err(error::timed_out(request.effect, sent, &self.host, self.timeout))
        })?;
        self.success(answer, request)
    }

    fn needs_runtime(&self) -> Result<(), DiscoveryError> {
        Handle::try_current().map(drop).map_err(|cause| {
            let context = "the HTTP client needs a tokio runtime with its timer and I/O enabled";
            DiscoveryError::invalid_config(context).with_source(cause)
        })
    }

    /// Sends a request; a read once more if its connection breaks, as one left over from
    /// before a restart of the server does.
    async fn attempt(&self, request: &Request) -> Result<Answer, DiscoveryError> {
        let mut outcome = self.send(request).await;
        if request.effect == Effect::Read && matches!(outcome, Err(Failure::Broken(_))) {
            outcome = self.send(request).await;
        }
        outcome.map_err(|failure| self.failed(failure, request))
    }

    async fn send(&self, request: &Request) -> Result<Answer, Failure> {
        let response = self.respond(request).await?;
        self.read(response, request).await
    }

    /// Sends a read, as [`attempt`](Self::attempt) does, but reads no more than its head.
    async fn head(&self, request: &Request) -> Result<reqwest::Response, Failure> {
        match self.respond(request).await {
            Err(Failure::Broken(_)) => self.respond(request).await,
            outcome => outcome,
        }
    }

    async fn respond(&self, request: &Request) -> Result<reqwest::Response, Failure> {
        let url = format!("{}{}", self.base_url, request.path);
        let mut builder = self.http.request(request.method.clone(), url);
        if let Some(body) = &request.body {
            builder = builder
                .header(header::CONTENT_TYPE, wire::JSON)
                .body(body.clone());
        }
        if let Some(media_type) = request.accept {
            builder = builder.header(header::ACCEPT, media_type);
        }
        builder.send().await.map_err(|cause| self.failure(cause, request))
    }

    /// Reads an answer up to the limit.
    async fn read(&self, mut response: reqwest::Response, request: &Request) -> Result<Answer, Failure> {
        let media_type = media_type(&response);
        let mut body = BytesMut::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|cause| self.failure(cause, request))?
        {
            if body.len() + chunk.len() > request.most {
                let why = format!("with more than {} bytes", request.most);
                return Err(Failure::Final(error::unreadable(
                    request.effect,
                    &self.host,
                    &why,
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status: response.status(),
            media_type,
            body: body.freeze(),
        })
    }

    fn failure(&self, cause: reqwest::Error, request: &Request) -> Failure {
        if cause.is_connect() || cause.is_builder() || cause.is_timeout() {
            return Failure::Final(error::from_reqwest(cause, request.effect, &self.host));
        }
        Failure::Broken(cause)
    }

    fn failed(&self, failure: Failure, request: &Request) -> DiscoveryError {
        match failure {
            Failure::Broken(cause) => error::from_reqwest(cause, request.effect, &self.host),
            Failure::Final(error) => error,
        }
    }

    fn success(&self, answer: Answer, request: &Request) -> Result<Answer, DiscoveryError> {
        let (status, effect) = (answer.status.as_u16(), request.effect);
        if answer.status == request.success {
            return Ok(answer);
        }
        if answer.status.is_success() {
            let why = format!("with status {status} instead of {}", request.success.as_u16());
            return Err(self.unreadable(effect, &why));
        }
        let problem = (answer.media_type == wire::PROBLEM_JSON)
            .then(|| serde_json::from_slice::<Problem>(&answer.body));
        Err(match problem {
            Some(Ok(problem)) => error::from_problem(&problem, status, effect, &self.host),
            _ => error::from_status(status, effect, &self.host),
        })
    }

    /// An answer that does not fit its question.
    pub(crate) fn unreadable(&self, effect: Effect, why: &str) -> DiscoveryError {
        error::unreadable(effect, &self.host, why)
    }

    /// A problem inside a success, about one of many items.
    pub(crate) fn problem(&self, problem: &Problem, effect: Effect) -> DiscoveryError {
        error::from_problem(problem, problem.status, effect, &self.host)
    }

    /// Checks that a discovery service answers, within `limit`.
    pub(crate) async fn check(&self, limit: Duration) -> Result<(), DiscoveryError> {
        let request = Request::get("/healthz".to_owned());
        let stranger = |why: &str| {
            let context = format!(
                "what answers at {} is not a discovery service: {why}",
                self.base_url
            );
            error::error(ErrorKind::InvalidConfig, context)
        };
        let health = self.json::<wire::Health>(&request, Instant::now() + limit).await;
        match health {
            Ok(health) if health.service != wire::SERVICE => Err(stranger("it calls itself something else")),
            Ok(health) if health.api != wire::API => {
                let context = format!(
                    "{} speaks another version of the API than {}",
                    self.base_url,
                    wire::API
                );
                Err(error::error(ErrorKind::Unsupported, context))
            }
            Ok(_) => Ok(()),
            Err(cause) if matches!(cause.kind(), ErrorKind::Malformed | ErrorKind::Unexpected) => {
                Err(stranger("its answer to GET /healthz is something else").with_source(cause))
            }
            Err(cause) if cause.kind() == ErrorKind::Timeout => {
                let context = format!("no answer from {} within {limit:?}", self.host);
                let error = error::error(ErrorKind::Timeout, context);
                Err(error.with_retry(Retry::Safe { after: None }).with_source(cause))
            }
            Err(cause) => Err(cause),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.base_url)
    }
}

/// The media type of an answer, without its parameters.
fn media_type(response: &reqwest::Response) -> String {
    let media_type = response.headers().get(header::CONTENT_TYPE);
    let media_type = media_type
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// The path of something in a cluster. A valid name is one segment, and never a dot segment.
pub(crate) fn path(cluster: &Cluster, rest: &str) -> String {
    format!("/{}/clusters/{}/{rest}", wire::API, encoded(cluster.as_str()))
}

/// The path of everything under a prefix: `{what}/{kind}?under=…`, and further options.
pub(crate) fn prefix_path(
    cluster: &Cluster,
    what: &str,
    prefix: &RecordKey,
    options: &[(&str, &str)],
) -> String {
    let relative = wire::relative(prefix);
    let (kind, under) = relative.split_once('/').unwrap_or((relative, ""));
    let mut path = path(cluster, &format!("{what}/{}", encoded(kind)));
    let under = Some(("under", under)).filter(|(_, under)| !under.is_empty());
    for (index, (name, value)) in under.iter().chain(options).enumerate() {
        path.push(if index == 0 { '?' } else { '&' });
        path.push_str(&format!("{name}={}", encoded(value)));
    }
    path
}

/// A text as one segment of a path, or as a value in a query.
pub(crate) fn encoded(value: &str) -> String {
    utf8_percent_encode(value, PLAIN).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_one_segment_whatever_its_name() {
        for (name, expected) in [
            ("a.b", "/v1/clusters/a.b/x"),
            ("a%2Fb", "/v1/clusters/a%252Fb/x"),
            ("grün", "/v1/clusters/gr%C3%BCn/x"),
            ("a b?#", "/v1/clusters/a%20b%3F%23/x"),
        ] {
            assert_eq!(path(&Cluster::try_new(name).unwrap(), "x"), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_never_had_its_turn_may_be_repeated() {
        let client = Client::try_new(&HttpConfig::try_new("http://127.0.0.1:9").unwrap()).unwrap();
        let _turns = client.permits.acquire_many(IN_FLIGHT as u32).await.unwrap();
        let request = Request::delete("/x".to_owned());
        let error = client.done(&request, client.deadline()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(error.retry(), Retry::Safe { after: None });
        assert!(error.to_string().contains("127.0.0.1:9"), "{error}");
    }

    #[test]
    fn a_call_outside_a_runtime_is_refused_by_name() {
        use futures_util::FutureExt;
        let client = Client::try_new(&HttpConfig::try_new("http://127.0.0.1:9").unwrap()).unwrap();
        let request = Request::get("/healthz".to_owned());
        let deadline = Instant::now() + std::time::Duration::from_secs(1);
        let outcome = client.call(&request, deadline).now_or_never();
        let error = outcome.expect("answered at once").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }
}
