//! How connections are made.

use std::{
    error, fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use etcd_client::{Channel, Error, TlsOptions};
use hyper_util::client::legacy::connect::HttpConnector;
use tonic::transport::{Endpoint, Uri};
use tower_service::Service;

/// How often a connection that something is awaited on is asked whether it is alive. etcd closes
/// connections that ask more often than every 5 s (`--grpc-keepalive-min-time`), or while nothing is
/// awaited on them.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// After how long without an answer to that it is given up.
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(3);

/// A connection to a server that is made with its first use, and again after it broke.
pub(super) fn lasting(host: &str, tls: Option<TlsOptions>, limit: Duration) -> Result<Channel, Error> {
    channel(host, tls, limit, false)
}

/// A connection to a server that is made with its first use, and not again after it broke.
///
/// A server that has restarted does not know those any more who logged in before. One that has lost
/// its data is worse: it does not answer them before it has come to the revision of their login.
pub(super) fn for_once(host: &str, tls: Option<TlsOptions>, limit: Duration) -> Result<Channel, Error> {
    channel(host, tls, limit, true)
}

fn channel(host: &str, tls: Option<TlsOptions>, limit: Duration, once: bool) -> Result<Channel, Error> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{host}"))?
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_ANSWER)
        .keep_alive_while_idle(false);
    if let Some(tls) = tls {
        // Else a server that accepts connections and says nothing costs all of a call.
        endpoint = endpoint.tls_config(tls.timeout(limit))?;
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(limit));
    let connector = Connector {
        tcp,
        once,
        used: false,
    };
    Ok(Channel::Tonic(endpoint.connect_with_connector_lazy(connector)))
}

struct Connector {
    tcp: HttpConnector,
    once: bool,
    used: bool,
}

type Stream = <HttpConnector as Service<Uri>>::Response;
type BoxError = Box<dyn error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(BoxError::from)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if self.used && self.once {
            return Box::pin(async { Err(BoxError::from(Gone)) });
        }
        self.used = true;
        let connecting = self.tcp.call(uri);
        Box::pin(async { connecting.await.map_err(BoxError::from) })
    }
}

/// A connection that is made once is not there any more.
#[derive(Debug)]
pub(crate) struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection of the login is not there any more")
    }
}

impl error::Error for Gone {}
