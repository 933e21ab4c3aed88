//! `serve`: the HTTP discovery service.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use discovery::{DiscoveryError, ErrorKind, SystemUrl, systems::DiscoverySystem};
use discovery_http::server::{Server, ServerConfig};
use serde::Serialize;

use super::service::OwnService;
use crate::{
    args::ServeArgs,
    failure::Failure,
    output::{BOLD, FAINT, Output},
    signal::Stop,
    system,
};

/// How long requests in flight may take once asked to stop.
const GOODBYE: Duration = Duration::from_secs(5);
/// A third of the default TTL, and 2 s for the renewal that brings everything back.
const WARM_UP: Duration = Duration::from_secs(6);

#[derive(Serialize)]
struct Listening {
    event: &'static str,
    address: String,
    url: String,
}

/// Serves until told to stop.
pub(crate) async fn run(args: ServeArgs, output: &Output) -> Result<(), Failure> {
    let listen = address(&args.listen)?;
    let behind = args.system.as_deref().map(behind).transpose()?.flatten();
    let mut stop = Stop::catch()?;
    if !listen.ip().is_loopback() {
        output.warn(format!(
            "{} can be reached from other machines, and nobody is asked who they are yet: only on a network that you trust",
            listen.ip()
        ));
    }
    match behind {
        None => in_memory(listen, args.warm_up.unwrap_or(WARM_UP), &mut stop, output).await,
        Some(url) => {
            let connecting = async { Ok::<_, Failure>(discovery::connect(url).await?) };
            let system = tokio::select! {
                connected = output.waiting("connecting", connecting) => connected?,
                () = stop.asked() => return Ok(()),
            };
            let config = ServerConfig {
                listen,
                warm_up: args.warm_up.unwrap_or_default(),
                forgetful: false,
                ..ServerConfig::default()
            };
            let served = in_front_of(&*system, config, &mut stop, output).await;
            let ended = system.shutdown(GOODBYE).await;
            served?;
            Ok(ended?)
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, DiscoveryError> {
    text.parse().map_err(|_| {
        let context = format!("--listen {text:?} is not an IP address with a port, such as 127.0.0.1:7400");
        DiscoveryError::invalid_config(context)
    })
}

/// The system to serve in front of; `None` for a memory of our own. Checked without I/O.
fn behind(url: &str) -> Result<Option<&str>, Failure> {
    let mut parsed: SystemUrl = url.parse()?;
    if parsed.scheme() == "memory" {
        let named = !parsed.hosts().is_empty() || !parsed.path().is_empty();
        parsed.finish()?;
        if named {
            let message = "memory://NAME is shared within one process only";
            return Err(Failure::new(ErrorKind::InvalidConfig, message)
                .with_hint("leave --system out: the service keeps a memory of its own"));
        }
        return Ok(None);
    }
    for option in ["cluster", "ttl"] {
        if parsed.take(option).is_some() {
            let message = format!("option `{option}` is each client's own choice, also behind a service");
            return Err(Failure::new(ErrorKind::InvalidConfig, message)
                .with_hint("leave it out here, and give it in the URL of the clients"));
        }
    }
    system::check(url)?;
    Ok(Some(url))
}

async fn in_memory(
    listen: SocketAddr,
    warm_up: Duration,
    stop: &mut Stop,
    output: &Output,
) -> Result<(), Failure> {
    let service = OwnService::start(listen, warm_up).await.map_err(not_listening)?;
    let served = serve(service.server(), stop, output).await;
    let ended = service.shutdown(GOODBYE).await;
    served?;
    Ok(ended?)
}

async fn in_front_of(
    system: &dyn DiscoverySystem,
    config: ServerConfig,
    stop: &mut Stop,
    output: &Output,
) -> Result<(), Failure> {
    let no_records = || {
        DiscoveryError::new(
            ErrorKind::Unsupported,
            "keeps no records that a service could stand in front of",
        )
        .with_system(system.name())
    };
    let store = system.records().ok_or_else(no_records)?;
    let server = Server::start(config, store).await.map_err(not_listening)?;
    let served = serve(&server, stop, output).await;
    let ended = server.shutdown(GOODBYE).await;
    served?;
    Ok(ended?)
}

fn not_listening(error: DiscoveryError) -> Failure {
    Failure::from(error).with_hint("choose another --listen address; port 0 takes a free one")
}

async fn serve(server: &Server, stop: &mut Stop, output: &Output) -> Result<(), Failure> {
    let bound = server.local_addr();
    let listening = Listening {
        event: "listening",
        address: bound.to_string(),
        url: format!("http://{}", reachable(bound)),
    };
    let text = format!(
        "listening on {BOLD}{}{BOLD:#}  {FAINT}Ctrl-C stops it{FAINT:#}",
        listening.url
    );
    output.say(text, &listening)?;
    tokio::select! {
        () = stop.asked() => Ok(()),
        failed = server.failed() => Err(failed.into()),
    }
}

/// An address that a client on this machine can connect to.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_stands_in_front_of_is_checked_without_io() {
        assert!(matches!(behind("memory://"), Ok(None)));
        assert!(matches!(behind("http://127.0.0.1:1"), Ok(Some(_))));
        for url in [
            "memory://lab",
            "memory://?ttl=3s",
            "http://h?cluster=c",
            "http://h?ttl=3s",
            "http://h?x=1",
            "nowhere://",
        ] {
            assert!(behind(url).is_err(), "{url}");
        }
    }

    #[test]
    fn an_address_that_stands_for_all_is_reached_by_loopback() {
        assert_eq!(reachable("0.0.0.0:1".parse().unwrap()).to_string(), "127.0.0.1:1");
        assert_eq!(reachable("[::]:1".parse().unwrap()).to_string(), "[::1]:1");
    }
}
