//! Accepts connections, serves them, and sees them off.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::app::{self, App};

/// The most connections at a time; further ones wait to be accepted.
const CONNECTIONS: usize = 10_000;
/// How long a client may take for the head of a request, and keep an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes of a request's head.
const HEAD_BYTES: usize = 64 * 1_024;
/// How long to wait when the system has no more sockets.
const NO_SOCKETS: Duration = Duration::from_millis(100);
/// At shutdown, the last request must be this long ago before connections are cut.
const QUIET: Duration = Duration::from_millis(150);

/// Serves until told to stop, and then until what is being worked on is answered.
pub(super) async fn serve(listener: TcpListener, app: Arc<App>, stop: CancellationToken) {
    let router = app::router(app.clone());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, router.clone(), stop.clone()));
                }
                Err(cause) => {
                    tracing::warn!(%cause, "cannot accept a connection");
                    sleep(NO_SOCKETS).await;
                }
            },
        }
    }
    drop(listener);
    let all_closed = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        () = all_closed => {}
        // A connection on which nothing was ever sent would be waited for in vain.
        () = quiet(&app) => {}
    }
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    // An answer is small and waited for.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(cause) = ended {
        tracing::debug!(%cause, "a connection ended");
    }
}

/// Waits until no request has been worked on for a while.
async fn quiet(app: &App) {
    loop {
        sleep(QUIET).await;
        if app.is_idle() {
            sleep(QUIET).await;
            if app.is_idle() {
                return;
            }
        }
    }
}
