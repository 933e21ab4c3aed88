//! `resolve`: one lookup through the manager, over one system or several.

use std::{sync::Arc, time::Duration};

use discovery::{
    DiscoveryError, ErrorKind,
    peer::{
        InstanceId, WorkerId,
        manager::{Located, PeerDiscoveryManager},
    },
    systems::DiscoverySystem,
};
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    args::ResolveArgs,
    failure::Failure,
    output::{BOLD, Output},
    peer::PeerObject,
    system,
};

/// How long one system may take unless the time limit allows less.
const PER_SYSTEM: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    peer: PeerObject,
    source: String,
    age_ms: u64,
}

#[derive(Clone, Copy)]
enum Asked {
    Worker(WorkerId),
    Instance(InstanceId),
}

/// Looks a peer up in the systems, in order.
pub(crate) async fn run(args: ResolveArgs, output: &Output) -> Result<(), Failure> {
    let asked = asked(&args)?;
    let systems = args.systems.iter().map(|url| system::check(url));
    let systems = systems.collect::<Result<Vec<_>, _>>()?;
    let lookup = timeout(args.timeout, look_up(asked, &systems, args.timeout));
    let found = output.waiting("looking", lookup).await;
    let found = found.unwrap_or_else(|_| Err(silence(&systems, args.timeout).into()))?;
    print(&found, output)
}

fn asked(args: &ResolveArgs) -> Result<Asked, DiscoveryError> {
    match (&args.worker_id, &args.instance_id) {
        (Some(text), None) => Ok(Asked::Worker(text.parse()?)),
        (None, Some(text)) => Ok(Asked::Instance(text.parse()?)),
        _ => Err(DiscoveryError::invalid_argument(
            "give --worker-id or --instance-id",
        )),
    }
}

async fn look_up(
    asked: Asked,
    systems: &[Arc<dyn DiscoverySystem>],
    limit: Duration,
) -> Result<Located, Failure> {
    let mut builder = PeerDiscoveryManager::builder();
    // The last system, too, is to be heard before the time is up.
    let share = limit.mul_f64(0.95 / systems.len() as f64);
    builder = builder.source_deadline(share.min(PER_SYSTEM));
    for system in systems {
        builder = builder.source(system::peers(&**system)?);
    }
    let manager = builder.build().await?;
    let located = match asked {
        Asked::Worker(id) => manager.locate_by_worker_id(id).await,
        Asked::Instance(id) => manager.locate_by_instance_id(id).await,
    };
    Ok(located?)
}

fn silence(systems: &[Arc<dyn DiscoverySystem>], limit: Duration) -> DiscoveryError {
    let names: Vec<_> = systems.iter().map(|system| system.name()).collect();
    DiscoveryError::new(ErrorKind::Timeout, format!("no answer within {limit:?}"))
        .with_system(names.join(", "))
        .with_operation("lookup")
}

fn print(found: &Located, output: &Output) -> Result<(), Failure> {
    let Located {
        peer, source, age, ..
    } = found;
    let rows = [
        ("instance", peer.instance_id().to_string()),
        ("worker", peer.worker_id().to_string()),
        ("address", peer.address().to_string()),
        ("checksum", format!("{:016x}", peer.address().checksum())),
        ("source", source.to_string()),
        ("age", format!("{} ms", age.as_millis())),
    ];
    let rows = rows.map(|(name, value)| format!("{BOLD}{name:<8}{BOLD:#}  {value}"));
    let answer = Answer {
        peer: PeerObject::from(peer),
        source: source.to_string(),
        age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
    };
    output.say(rows.join("\n"), &answer)
}
