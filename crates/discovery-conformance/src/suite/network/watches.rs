//! W3 and W5, over a bad network.

use std::{num::NonZeroU32, time::Duration};

use discovery_core::peer::PeerEvent;
use fastrand::Rng;
use futures_util::future::join_all;
use tokio::time::sleep;

use super::{MUTE, Network, ROUGH};
use crate::{
    Direction, Toxic,
    suite::watch::{Fleet, watcher::Watcher},
    trial::{Ctx, eventually, peers_of, trials},
};

trials! { "watch":
    "W3" folding_gives_the_list_over_a_bad_network [Watch, ServerRestart];
    "W5" a_watch_whose_bytes_are_swallowed_is_noticed_and_resynced [Watch, ServerRestart];
}

/// How long a watch may take to be back once the network is sound: what was tried before may
/// first have to be given up.
fn settling(ctx: &Ctx) -> Duration {
    ctx.bounds().watch_silence + Duration::from_secs(10) + ctx.propagation()
}

async fn folding_gives_the_list_over_a_bad_network(ctx: Ctx) {
    join_all((0..4).map(|seed| fold_through(&ctx, seed))).await;
}

async fn fold_through(ctx: &Ctx, seed: u64) {
    let (mut random, network) = (Rng::with_seed(seed), Network::start(ctx).await);
    let mut how = ctx.how();
    how.cluster = discovery_core::Cluster::try_new(format!("{}-{seed}", ctx.cluster)).expect("a name");
    how.view.hold_mass_removals = false;
    let ours = Ctx {
        cluster: how.cluster.clone(),
        ..ctx.clone()
    };
    let mut fleet = Fleet::start(&ours).await;
    fleet.add(20).await;
    let watcher = Watcher::start(&*peers_of(&*network.connect(&how).await)).await;
    for _ in 0..60 {
        match random.usize(..12) {
            0..4 => drop(fleet.add(1 + random.usize(..3)).await),
            4..6 => {
                if let Some(peer) = fleet.pick(random.usize(..1_000)) {
                    fleet
                        .modify(&peer, &format!("tcp://moved:{}", random.usize(..3)))
                        .await;
                }
            }
            6..8 => {
                if let Some(peer) = fleet.pick(random.usize(..1_000)) {
                    fleet.remove(&peer).await;
                }
            }
            8 => network.apply(ROUGH[random.usize(..ROUGH.len())]).await,
            9 => network.apply(MUTE[random.usize(..MUTE.len())]).await,
            _ => {
                network.heal().await;
                sleep(Duration::from_millis(random.u64(..400))).await;
            }
        }
    }
    network.heal().await;
    watcher.comes_to(settling(ctx), &fleet.peers()).await;
}

async fn a_watch_whose_bytes_are_swallowed_is_noticed_and_resynced(ctx: Ctx) {
    let swallowing = [
        Toxic::Swallow,
        Toxic::SwallowOnly(Direction::ToClient),
        Toxic::Stall,
        Toxic::Rate(NonZeroU32::MIN),
    ];
    join_all(swallowing.map(|toxic| notice(&ctx, toxic))).await;
}

async fn notice(ctx: &Ctx, toxic: Toxic) {
    let mut fleet = Fleet::start(ctx).await;
    let network = Network::start(ctx).await;
    let watcher = Watcher::start(&*peers_of(&*network.connect(&ctx.how()).await)).await;
    network.apply(toxic).await;
    fleet.add(3).await;
    eventually(ctx.bounds().watch_silence + Duration::from_secs(1), || async {
        watcher.interruptions() == 1
    })
    .await;
    fleet.add(3).await;
    network.heal().await;
    eventually(settling(ctx), || async { watcher.resyncs() == 1 }).await;
    watcher.comes_to_the_list(ctx.propagation()).await;
    let told = watcher.count(|event| matches!(event, PeerEvent::Added(_)));
    assert!(told >= 6, "{:?}", watcher.events());
}
