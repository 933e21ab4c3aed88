//! Accepts connections, serves them, and sees them off.

use std::{io, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    app::{self, App},
    exchange::{Exchange, Unanswered},
    socket::Socket,
};

/// The most connections at a time, watches included; further ones wait to be accepted.
const CONNECTIONS: usize = 16_384;
/// How long a client may take for the head of a request, and keep an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes of a request's head.
const HEAD_BYTES: usize = 64 * 1_024;
/// How long to wait when the system has no more sockets.
const NO_SOCKETS: Duration = Duration::from_millis(100);
/// At shutdown, the last answer must have left this long ago before connections are cut.
const QUIET: Duration = Duration::from_millis(150);

/// Serves until told to stop, and then until what is being worked on is answered.
pub(super) async fn serve(listener: TcpListener, app: Arc<App>, stop: CancellationToken) {
    // Also if this is not run to its end.
    let _ended = app.watches.ended_with();
    let router = app::router(app.clone());
    let unanswered = Unanswered::default();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let exchange = unanswered.exchange();
                    connections.spawn(connection(stream, exchange, router.clone(), stop.clone()));
                }
                Err(cause) if is_exhausted(&cause) => {
                    tracing::warn!(%cause, "cannot accept a connection");
                    sleep(NO_SOCKETS).await;
                }
                // It broke before it was accepted: nobody else has to wait.
                Err(cause) => tracing::debug!(%cause, "a connection was not accepted"),
            },
        }
    }
    drop(listener);
    app.watches.end().await;
    let all_closed = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        () = all_closed => {}
        // A connection on which nothing was ever sent would be waited for in vain.
        () = quiet(&unanswered) => {}
    }
    connections.shutdown().await;
}

/// Whether the system has nothing left for one more connection.
fn is_exhausted(cause: &io::Error) -> bool {
    const EXHAUSTED: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(cause).is_some_and(|errno| EXHAUSTED.contains(&errno))
}

async fn connection(stream: TcpStream, exchange: Arc<Exchange>, router: Router, stop: CancellationToken) {
    let socket = Socket::new(stream, exchange.clone());
    let router = TowerToHyperService::new(router);
    let answered = service_fn(move |request: Request<Incoming>| {
        let exchange = exchange.clone();
        exchange.begun();
        let answer = router.call(request.map(Body::new));
        async move {
            answer
                .await
                .map(|answer| answer.map(|body| exchange.answer(body)))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(socket), answered);
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

/// Waits until every answer has left, and nothing more was asked for a while.
async fn quiet(unanswered: &Unanswered) {
    loop {
        sleep(QUIET).await;
        if unanswered.is_none() {
            sleep(QUIET).await;
            if unanswered.is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_exhausted_system_is_waited_for() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(is_exhausted(&errno.into()), "{errno}");
        }
        for errno in [Errno::CONNABORTED, Errno::CONNRESET, Errno::PERM] {
            assert!(!is_exhausted(&errno.into()), "{errno}");
        }
    }
}
