//! `demo`: real processes find each other, and notice a kill, a leave and a newcomer.

mod board;
mod fleet;
mod message;
mod story;
mod worker;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use discovery::{Bounds, Capability, ErrorKind, SystemUrl, peer::InstanceId};
use serde::Serialize;
use tokio::time::{Instant, timeout};

pub(crate) use self::worker::run as work;
use self::{
    fleet::{Fleet, Recruiting},
    story::{Limits, Story},
};
use super::service::OwnService;
use crate::{
    args::DemoArgs,
    failure::Failure,
    output::{BAD, BOLD, FAINT, GOOD, Output},
    signal::Stop,
    system,
};

/// The TTL on the embedded service.
const TTL: Duration = Duration::from_secs(3);
/// How long everything may take on the embedded service.
const BUDGET: Duration = Duration::from_secs(30);
/// What of that is kept for saying goodbye.
const GOODBYE: Duration = Duration::from_secs(4);

/// Where the demonstration takes place.
struct Stage {
    /// With cluster and TTL.
    url: String,
    name: String,
    ttl: Duration,
    bounds: Bounds,
    budget: Duration,
}

#[derive(Serialize)]
struct Introduction<'a> {
    event: &'static str,
    peers: u16,
    system: &'a str,
    embedded: bool,
    ttl_ms: u64,
}

#[derive(Serialize)]
struct Verdict {
    event: &'static str,
    held: bool,
    failed: usize,
    took_ms: u64,
}

/// Runs the demonstration to its end.
pub(crate) async fn run(args: DemoArgs, verbose: u8, output: &Output) -> Result<(), Failure> {
    let began = Instant::now();
    let mut stop = Stop::catch()?;
    let given = args.system.as_deref().map(Stage::given).transpose()?;
    let (stage, service) = match given {
        Some(stage) => {
            let connecting = output.waiting("connecting", discovery::connect(&stage.url));
            tokio::select! {
                connected = connecting => drop(connected?),
                () = stop.asked() => return Err(Failure::interrupted()),
            }
            (stage, None)
        }
        None => {
            let service =
                OwnService::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Duration::ZERO).await?;
            (Stage::embedded(service.server().local_addr())?, Some(service))
        }
    };
    introduce(&stage, service.is_some(), args.peers, output)?;
    let mut story = stage.story(args.peers, verbose, output);
    let told = tokio::select! {
        told = timeout(stage.budget.saturating_sub(GOODBYE), story.tell(args.peers.into())) => {
            told.unwrap_or_else(|_| Err(too_long(&stage)))
        }
        () = stop.asked() => Err(Failure::interrupted()),
    };
    let failed = story.failed;
    story.fleet.disband().await;
    if let Some(service) = service {
        // The workers have gone: nothing is left to answer.
        let _ = service.shutdown(Duration::from_secs(1)).await;
    }
    told?;
    conclude(failed, began.elapsed(), output)
}

impl Stage {
    fn embedded(address: SocketAddr) -> Result<Self, Failure> {
        Self::at(format!("http://{address}?cluster=demo"), Some(TTL), BUDGET)
    }

    /// Another system: in a cluster of its own, with the smallest TTL, unless the URL says
    /// otherwise. Checked without I/O.
    fn given(url: &str) -> Result<Self, Failure> {
        system::check(url)?;
        let mut parsed: SystemUrl = url.parse()?;
        let ttl = parsed.take_ttl()?;
        let mut url = url.to_owned();
        if parsed.take("cluster").is_none() {
            let id = InstanceId::new_v4().to_string();
            add(&mut url, "cluster", &format!("demo-{}", &id[..8]));
        }
        match ttl {
            Some(ttl) => {
                let mut stage = Self::at(url, None, budget(ttl))?;
                stage.ttl = ttl;
                Ok(stage)
            }
            None => {
                let smallest = system::check(&url)?.capabilities().bounds().min_ttl;
                Self::at(url, Some(smallest), budget(smallest))
            }
        }
    }

    fn at(mut url: String, ttl: Option<Duration>, budget: Duration) -> Result<Self, Failure> {
        if let Some(ttl) = ttl {
            add(&mut url, "ttl", &format!("{}ms", ttl.as_millis()));
        }
        let system = system::check(&url)?;
        let capabilities = system.capabilities();
        for needed in [Capability::List, Capability::Expiry, Capability::MultiProcess] {
            if !capabilities.has(needed) {
                let message = format!(
                    "a demo needs `{}`, which {} does not declare",
                    needed.name(),
                    system.name()
                );
                return Err(Failure::new(ErrorKind::Unsupported, message).with_hint("leave --system out"));
            }
        }
        Ok(Self {
            url,
            name: system.name().to_owned(),
            ttl: ttl.unwrap_or_default(),
            bounds: capabilities.bounds(),
            budget,
        })
    }

    fn story<'a>(&self, peers: u16, verbose: u8, output: &'a Output) -> Story<'a> {
        let how = Recruiting {
            system: self.url.clone(),
            // Lists grow with the workers, and so does the number of those who ask for them.
            every: Duration::from_millis(100) * u32::from(peers.div_ceil(16)),
            verbose,
        };
        Story {
            fleet: Fleet::new(how),
            limits: Limits::new(self.ttl, self.bounds),
            output,
            failed: 0,
        }
    }
}

/// How long a demonstration on another system may take.
fn budget(ttl: Duration) -> Duration {
    ttl * 3 + Duration::from_secs(20)
}

fn add(url: &mut String, option: &str, value: &str) {
    url.push(if url.contains('?') { '&' } else { '?' });
    url.push_str(&format!("{option}={value}"));
}

fn too_long(stage: &Stage) -> Failure {
    let message = format!("the demo did not end within {:?}", stage.budget);
    Failure::new(ErrorKind::Timeout, message).with_hint("is the machine very busy? try fewer --peers")
}

fn introduce(stage: &Stage, embedded: bool, peers: u16, output: &Output) -> Result<(), Failure> {
    let (name, ttl) = (&stage.name, stage.ttl);
    let place = if embedded {
        "an embedded service"
    } else {
        "the given system"
    };
    let object = Introduction {
        event: "demo",
        peers,
        system: name,
        embedded,
        ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
    };
    let text =
        format!("{BOLD}{peers} worker processes{BOLD:#} on {place} {FAINT}({name}, TTL {ttl:?}){FAINT:#}\n");
    output.say(text, &object)
}

fn conclude(failed: usize, took: Duration, output: &Output) -> Result<(), Failure> {
    let held = failed == 0;
    let seconds = took.as_secs_f32();
    let object = Verdict {
        event: "verdict",
        held,
        failed,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    };
    let text = match held {
        true => format!("\n{GOOD}Every expectation held{GOOD:#}, in {seconds:.1} s."),
        false => format!("\n{BAD}{failed} of 5 expectations did not hold{BAD:#}, in {seconds:.1} s."),
    };
    output.say(text, &object)?;
    if held {
        return Ok(());
    }
    let message = format!("{failed} of 5 expectations of the demo did not hold");
    Err(Failure::new(ErrorKind::Unexpected, message).with_hint("is the machine very busy? try fewer --peers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_system_gets_a_cluster_of_its_own_and_its_smallest_ttl() {
        let stage = Stage::given("http://h:1").unwrap();
        assert!(stage.url.starts_with("http://h:1?cluster=demo-"), "{}", stage.url);
        assert!(stage.url.ends_with("&ttl=1000ms"), "{}", stage.url);
        assert_eq!(
            (stage.ttl, stage.budget),
            (Duration::from_secs(1), Duration::from_secs(23))
        );
    }

    #[test]
    fn what_the_url_says_is_kept() {
        let stage = Stage::given("http://h:1?cluster=lab&ttl=5s").unwrap();
        assert_eq!(stage.url, "http://h:1?cluster=lab&ttl=5s");
        assert_eq!(
            (stage.ttl, stage.budget),
            (Duration::from_secs(5), Duration::from_secs(35))
        );
    }

    #[test]
    fn a_system_within_one_process_is_refused() {
        assert_eq!(Stage::given("memory://").err().unwrap().exit().code(), 2);
    }
}
