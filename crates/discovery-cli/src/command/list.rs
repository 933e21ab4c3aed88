//! `list`: every registered peer.

use crate::{
    args::ListArgs,
    failure::Failure,
    output::{FAINT, Output},
    peer::{Heading, PeerObject, Row},
    system,
};

/// Prints every peer of the cluster.
pub(crate) async fn run(args: ListArgs, output: &Output) -> Result<(), Failure> {
    let system = system::check(&args.system)?;
    let listing = system::listing(&*system)?;
    let what = format!("listing the peers on {}", system.name());
    let peers = output.waiting(what, listing.list_peers()).await?;
    if output.is_text() && !peers.is_empty() {
        output.say(Heading, &())?;
    }
    for peer in &peers {
        output.say(Row(peer), &PeerObject::from(peer))?;
    }
    if output.is_text() {
        let (count, cluster) = (peers.len(), system.cluster());
        let word = if count == 1 { "peer" } else { "peers" };
        output.say(
            format!("{FAINT}{count} {word} in cluster {cluster}{FAINT:#}"),
            &(),
        )?;
    }
    Ok(())
}
