//! R6 and R10, over a bad network.

use std::time::Duration;

use discovery_core::RegistrationState;
use futures_util::future::join_all;
use tokio::time::sleep;

use super::{MUTE, Network, ROUGH, cut};
use crate::{
    Direction, Toxic,
    trial::{Ctx, eventually, peer, register, trials},
};

trials! { "registration":
    "R6" an_answer_that_is_cut_in_the_middle_is_recognised [Register, ServerRestart];
    "R10" a_bad_network_is_survived [Register, ServerRestart];
}

async fn an_answer_that_is_cut_in_the_middle_is_recognised(ctx: Ctx) {
    // The head of an answer, its body, a request, the answer after the next one.
    let places = [0, 1, 20, 60, 150, 250, 400, 700];
    let cuts = places
        .into_iter()
        .flat_map(|bytes| [Direction::ToClient, Direction::ToServer].map(|direction| cut(direction, bytes)));
    join_all(cuts.map(|cut| register_across(&ctx, cut))).await;
}

/// Registers while every connection is cut at the same place, until the network is sound again.
async fn register_across(ctx: &Ctx, cut: Toxic) {
    let (network, peer) = (Network::start(ctx).await, peer());
    let system = network.connect(&ctx.how()).await;
    network.apply(cut).await;
    let healing = async {
        sleep(Duration::from_secs(1)).await;
        network.heal().await;
    };
    let (registered, ()) = tokio::join!(register(&*system, &peer), healing);
    let registration = registered.unwrap_or_else(|error| panic!("{cut:?}: {error}"));
    ctx.found_within(ctx.propagation(), &peer).await;
    registration.unregister().await.expect("unregistered");
    ctx.gone_within(ctx.propagation(), &peer).await;
}

async fn a_bad_network_is_survived(ctx: Ctx) {
    let toxics = MUTE.into_iter().chain(ROUGH);
    join_all(toxics.map(|toxic| live_through(&ctx, toxic))).await;
}

async fn live_through(ctx: &Ctx, toxic: Toxic) {
    let (network, peer) = (Network::start(ctx).await, peer());
    let system = network.connect(&ctx.how()).await;
    let registration = register(&*system, &peer).await.expect("registered");
    network.apply(toxic).await;
    sleep(ctx.expiry() + ctx.ttl()).await;
    if MUTE.contains(&toxic) {
        assert_ne!(registration.state(), RegistrationState::Live, "{toxic:?}");
    }
    network.heal().await;
    ctx.found_within(ctx.recovery(), &peer).await;
    eventually(ctx.recovery(), || async {
        registration.state() == RegistrationState::Live
    })
    .await;
    registration.unregister().await.expect("unregistered");
    ctx.gone_within(ctx.propagation(), &peer).await;
}
