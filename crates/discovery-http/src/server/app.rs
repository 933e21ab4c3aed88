//! The routes, and what holds for every request.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use discovery_core::{
    DiscoveryError, ErrorKind,
    store::{RecordStore, Session},
};
use futures_util::FutureExt;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    ServerConfig,
    call::receive,
    earlier::{Earlier, ended},
    health, instances, list,
    problem::Refusal,
    records, sessions,
    token::Token,
    warm_up::WarmUp,
    watch::{self, Watches},
};

/// The most requests worked on at a time; further ones are told to come back.
const CONCURRENT: usize = 1_024;
/// The most bytes of requests that are kept at a time.
const REQUESTS_BYTES: usize = 256 * 1_024 * 1_024;
/// The most time for one request once it was read.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What every request needs.
pub(super) struct App {
    pub(super) store: Arc<dyn RecordStore>,
    /// Which start of the service this is: Unix time in milliseconds.
    pub(super) epoch: u64,
    pub(super) warm_up: WarmUp,
    pub(super) watches: Watches,
    /// Where the store forgets everything when the service stops.
    earlier: Option<Earlier>,
    permits: Semaphore,
    /// For the bytes of requests.
    room: Semaphore,
}

impl App {
    pub(super) fn new(store: Arc<dyn RecordStore>, config: &ServerConfig) -> Self {
        Self {
            store,
            epoch: next_epoch(),
            warm_up: WarmUp::new(config.warm_up),
            watches: Watches::new(config.max_watches),
            earlier: config.forgetful.then(Earlier::new),
            permits: Semaphore::new(CONCURRENT),
            room: Semaphore::new(REQUESTS_BYTES),
        }
    }

    /// Where to look for a session that the store forgot; `None` if it knows it, if anybody does.
    pub(super) fn earlier(&self, token: &Token) -> Option<&Earlier> {
        let earlier = self.earlier.as_ref()?;
        earlier.sweep();
        (token.epoch != self.epoch).then_some(earlier)
    }

    /// The session of the store that a name stands for.
    ///
    /// # Errors
    /// `LeaseLost`: it was forgotten, and nobody took it up. From now on nobody can.
    pub(super) fn session(&self, token: Token) -> Result<Session, DiscoveryError> {
        match self.earlier(&token) {
            None => Ok(token.session),
            Some(earlier) => earlier.taken(&token).ok_or_else(ended),
        }
    }

    /// Ends the session that a name stands for; it cannot be taken up afterwards.
    pub(super) async fn close(&self, token: &Token) -> Result<(), DiscoveryError> {
        let Some(earlier) = self.earlier(token) else {
            return self.store.close(&token.session).await;
        };
        if let Some(session) = earlier.taken(token) {
            self.store.close(&session).await?;
            earlier.end(token);
        }
        Ok(())
    }
}

/// Now, but never twice in one process.
pub(super) fn next_epoch() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = since.map_or(0, crate::wire::millis);
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
        Some(now.max(last + 1))
    });
    now.max(last.unwrap_or_default() + 1)
}

pub(super) fn router(app: Arc<App>) -> Router {
    let health = Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready));
    in_clusters()
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .merge(health)
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(no_such_route)
        .with_state(app)
}

fn in_clusters() -> Router<Arc<App>> {
    // Not nested: handlers read the path as it was sent.
    let at = |path: &str| format!("/v1/clusters/{{cluster}}{path}");
    let record = get(records::read).put(records::write).delete(records::delete);
    let instance = get(instances::by_instance_id)
        .put(instances::register)
        .delete(instances::unregister);
    Router::new()
        .route(&at("/sessions"), post(sessions::open))
        .route(&at("/sessions/{session}"), delete(sessions::close))
        .route(&at("/sessions/{session}/renew"), post(sessions::renew))
        .route(&at("/records:batchGet"), post(records::batch_get))
        .route(&at("/records:batchWrite"), post(records::batch_write))
        .route(&at("/records:remove"), post(records::remove))
        .route(&at("/records/{kind}"), get(list::records))
        .route(&at("/records/{kind}/{*key}"), record)
        .route(&at("/watch/{kind}"), get(watch::watch))
        .route(&at("/instances"), get(instances::list))
        .route(&at("/instances/{id}"), instance)
        .route(&at("/instances/{id}/lease"), put(instances::renew))
        .route(&at("/workers/{id}"), get(instances::by_worker_id))
}

/// Bounds the number of requests and the time of each, of a watch until it is established, and answers for a handler that panics.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let answer = answer(&app, request, next).await;
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn answer(app: &App, request: Request, next: Next) -> Result<Response, Refusal> {
    let changes = changes(&request);
    let (parts, body) = request.into_parts();
    // Whoever sends slowly takes nobody else's turn.
    let (body, _room) = receive(body, &app.room).await?;
    let Ok(_permit) = app.permits.try_acquire() else {
        return Err(Refusal::overloaded("too many requests at once"));
    };
    let request = Request::from_parts(parts, body.into());
    let work = AssertUnwindSafe(next.run(request)).catch_unwind();
    let refusal = match timeout(REQUEST_TIMEOUT, work).await {
        Ok(Ok(response)) => return Ok(response),
        Ok(Err(_panic)) => {
            tracing::error!("a request handler panicked");
            Refusal::of_kind(ErrorKind::Unexpected, "the service failed; its log may tell why")
        }
        Err(_) => Refusal::of_kind(ErrorKind::Timeout, "the request took too long"),
    };
    Err(refusal.with_outcome_unknown(changes))
}

/// Whether a request may change something.
fn changes(request: &Request) -> bool {
    let reads = matches!(request.method().as_str(), "GET" | "HEAD");
    !reads && !request.uri().path().ends_with("/records:batchGet")
}

async fn no_such_route() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "no-such-route",
        "the service has no such path",
    )
}

async fn method_not_allowed() -> Refusal {
    let detail = "this path exists, but not with this method";
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}
