//! Cut anywhere: a call that is lost, a caller who goes away.

use std::time::Duration;

use discovery_core::{DiscoverySystem, PeerInfo, RegistrationState};
use tokio::time::{sleep, timeout};

use crate::{
    Cut, Faulty, Timing,
    trial::{Ctx, eventually, is_absent, peer, peers_of, register, trials},
};

trials! { "registration":
    "R6" a_cut_at_any_call_of_a_registration_is_survived [Register];
    "R8" a_registration_may_be_dropped_at_every_await [Register];
    "R8" unregistering_may_be_dropped_at_every_await [Register];
}

/// How long a call takes where it shall be caught under way, one way.
const TRAVEL: Duration = Duration::from_millis(5);

/// How many places to cut at; on a real clock as many as is bearable.
fn places(ctx: &Ctx) -> u32 {
    match ctx.harness.timing() {
        Timing::Virtual => 30,
        Timing::Real => 12,
    }
}

async fn a_cut_at_any_call_of_a_registration_is_survived(ctx: Ctx) {
    let mut places = 0;
    for cut in [Cut::Before, Cut::After] {
        for call in 0.. {
            let (faulty, system) = ctx.faulty().await;
            faulty.cut_call(call, cut);
            live_and_leave(&ctx, &*system).await;
            if faulty.cut_is_pending() {
                break;
            }
            places += 1;
        }
    }
    assert!(places >= 4, "only {places} calls were cut");
}

/// A whole life: registered, renewed, unregistered.
async fn live_and_leave(ctx: &Ctx, system: &dyn DiscoverySystem) {
    let peer = peer();
    let registration = register(system, &peer).await.expect("registered");
    ctx.found_within(ctx.propagation(), &peer).await;
    sleep(ctx.ttl() / 2).await;
    eventually(ctx.recovery(), || async {
        registration.state() == RegistrationState::Live
    })
    .await;
    ctx.found_within(ctx.recovery(), &peer).await;
    registration.unregister().await.expect("unregistered");
    ctx.gone_within(ctx.propagation(), &peer).await;
}

async fn a_registration_may_be_dropped_at_every_await(ctx: Ctx) {
    let (faulty, system) = ctx.faulty_with(&ctx.how_for_long()).await;
    faulty.slow_calls(TRAVEL);
    let mut dropped = Vec::new();
    for at in 0..places(&ctx) {
        let peer = peer();
        let patience = TRAVEL * at / 2;
        // What was done in time is dropped here, too.
        drop(timeout(patience, register(&*system, &peer)).await);
        dropped.push(peer);
    }
    all_gone(&ctx, &dropped).await;
    anew(&ctx, &faulty, &*system, &dropped).await;
}

async fn unregistering_may_be_dropped_at_every_await(ctx: Ctx) {
    let (faulty, system) = ctx.faulty_with(&ctx.how_for_long()).await;
    let mut dropped = Vec::new();
    for at in 0..places(&ctx) {
        let peer = peer();
        let registration = register(&*system, &peer).await.expect("registered");
        faulty.slow_calls(TRAVEL);
        let _ = timeout(TRAVEL * at / 2, registration.unregister()).await;
        faulty.slow_calls(Duration::ZERO);
        dropped.push(peer);
    }
    all_gone(&ctx, &dropped).await;
    anew(&ctx, &faulty, &*system, &dropped).await;
}

/// Nothing of them is left, and nothing comes back.
async fn all_gone(ctx: &Ctx, peers: &[PeerInfo]) {
    let lookups = ctx.peers().await;
    let all_absent = || async {
        let ids: Vec<_> = peers.iter().map(PeerInfo::worker_id).collect();
        lookups.discover_many(&ids).await.iter().all(Result::is_err)
    };
    eventually(ctx.recovery(), all_absent).await;
    for peer in peers {
        assert!(is_absent(&*lookups, peer).await, "{peer:?}");
    }
    ctx.stays(ctx.ttl(), "something came back", all_absent).await;
}

/// Everything still works.
async fn anew(ctx: &Ctx, faulty: &Faulty, system: &dyn DiscoverySystem, peers: &[PeerInfo]) {
    faulty.slow_calls(Duration::ZERO);
    let again = register(system, &peers[0]).await.expect("registered");
    assert!(
        peers_of(system)
            .discover_by_instance_id(peers[0].instance_id())
            .await
            .is_ok()
    );
    again.unregister().await.expect("unregistered");
    ctx.gone_within(ctx.propagation(), &peers[0]).await;
}
