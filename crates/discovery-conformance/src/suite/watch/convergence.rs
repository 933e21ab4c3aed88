//! Folding what is told gives the list, whatever breaks: W3.

use std::{slice::from_ref, time::Duration};

use discovery_core::peer::{PeerEvent, PeerEvents};
use fastrand::Rng;
use futures_util::{FutureExt, StreamExt};
use tokio::time::sleep;

use super::{Fleet, Watcher, watcher::Seen};
use crate::{
    Connect, Cut, Fault, Faulty, Mode, Timing,
    trial::{Ctx, eventually, peers_of, trials},
};

trials! { "watch":
    "W3" folding_gives_the_list_whatever_happens [Watch];
    "W3" a_watch_may_break_after_any_item [Watch];
    "W3" a_reader_may_be_dropped_at_every_await [Watch];
    "W3" a_reader_who_falls_behind_misses_nothing [Watch];
    "W3" a_reader_who_is_too_slow_misses_nothing_in_silence [Watch];
    "W3" a_gap_ends_when_everything_that_was_missed_was_told [Watch];
    "W3" a_wiped_store_is_told [Watch];
    "W3" a_watch_that_has_missed_something_is_found_out [Watch];
}

/// How long a watch that broke may take to be back and to have told everything.
fn settling(ctx: &Ctx) -> Duration {
    Duration::from_secs(10) + ctx.propagation() + ctx.ttl()
}

fn without_hold(ctx: &Ctx) -> Connect {
    let mut how = ctx.how();
    how.view.hold_mass_removals = false;
    how
}

async fn folding_gives_the_list_whatever_happens(ctx: Ctx) {
    let (scripts, steps) = match ctx.harness.timing() {
        Timing::Virtual => (100, 60),
        Timing::Real => (4, 40),
    };
    for script in 0..scripts {
        let mut random = Rng::with_seed(script);
        let mut how = ctx.how();
        how.view.hold_mass_removals = script % 2 == 0;
        let (faulty, system) = ctx.faulty_with(&how).await;
        let mut fleet = Fleet::start(&ctx).await;
        fleet.add(random.usize(..30)).await;
        let watcher = Watcher::start(&*peers_of(&*system)).await;
        for _ in 0..steps {
            step(&ctx, &mut random, &faulty, &mut fleet).await;
        }
        faulty.set(Mode::Pass);
        watcher.comes_to(settling(&ctx), &fleet.peers()).await;
        watcher.comes_to_the_list(Duration::ZERO).await;
        for peer in fleet.peers() {
            fleet.remove(&peer).await;
        }
    }
}

async fn step(ctx: &Ctx, random: &mut Rng, faulty: &Faulty, fleet: &mut Fleet) {
    match random.usize(..20) {
        0..5 => drop(fleet.add(1 + random.usize(..3)).await),
        5..8 => {
            if let Some(peer) = fleet.pick(random.usize(..1_000)) {
                let address = format!("tcp://moved:{}", random.usize(..3));
                fleet.modify(&peer, &address).await;
            }
        }
        8..11 => {
            if let Some(peer) = fleet.pick(random.usize(..1_000)) {
                fleet.remove(&peer).await;
                // The same peer again, at once: what is merged must not be turned round.
                if random.usize(..2) == 0 {
                    fleet.write(from_ref(&peer)).await;
                }
            }
        }
        11 => faulty.set(Mode::Cut),
        12 => faulty.set(Mode::Stall),
        13..15 => faulty.set(Mode::Pass),
        15 => faulty.break_watch_after(u32::try_from(random.usize(..4)).expect("few")),
        16 => faulty.cut_call(
            0,
            if random.usize(..2) == 0 {
                Cut::Before
            } else {
                Cut::After
            },
        ),
        17 if random.usize(..3) == 0 => {
            ctx.fault(Fault::Wipe).await;
            fleet.forget().await;
        }
        _ => sleep(Duration::from_millis(random.usize(..300) as u64)).await,
    }
}

async fn a_watch_may_break_after_any_item(ctx: Ctx) {
    let last = match ctx.harness.timing() {
        Timing::Virtual => 14,
        Timing::Real => 7,
    };
    for items in 0..=last {
        let (faulty, system) = ctx.faulty_with(&without_hold(&ctx)).await;
        let mut fleet = Fleet::start(&ctx).await;
        let old = fleet.add(4).await;
        faulty.break_watch_after(items);
        // The very first item may be the one that is cut off.
        let watcher = Watcher::start(&*peers_of(&*system)).await;
        let new = fleet.add(2).await;
        fleet.modify(&old[0], "tcp://moved:1").await;
        fleet.remove(&old[1]).await;
        fleet.remove(&new[0]).await;
        fleet.write(from_ref(&old[1])).await;
        watcher.comes_to(settling(&ctx), &fleet.peers()).await;
        watcher.comes_to_the_list(Duration::ZERO).await;
        for peer in fleet.peers() {
            fleet.remove(&peer).await;
        }
    }
}

/// Every call for the next event is dropped after one poll, whatever it was waiting for.
async fn glance(events: &mut PeerEvents, seen: &mut Seen) {
    for _ in 0..20 {
        if let Some(event) = events.next().now_or_never() {
            seen.fold(event.expect("a watch does not end"));
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn a_reader_may_be_dropped_at_every_await(ctx: Ctx) {
    let (faulty, system) = ctx.faulty_with(&without_hold(&ctx)).await;
    let watch = peers_of(&*system).watch().expect("the system watches");
    let mut fleet = Fleet::start(&ctx).await;
    let mut events = watch.watch_peers().await.expect("a watch");
    let (mut seen, mut random) = (Seen::default(), Rng::with_seed(7));
    for _ in 0..30 {
        step(&ctx, &mut random, &faulty, &mut fleet).await;
        glance(&mut events, &mut seen).await;
    }
    faulty.set(Mode::Pass);
    let mut rounds = 0;
    while seen.peers.values().ne(&fleet.peers()) {
        glance(&mut events, &mut seen).await;
        rounds += 1;
        assert!(rounds < 200, "{:?} instead of {:?}", seen.peers, fleet.peers());
    }
}

async fn a_reader_who_falls_behind_misses_nothing(ctx: Ctx) {
    unread(ctx, 2).await;
}

async fn a_reader_who_is_too_slow_misses_nothing_in_silence(ctx: Ctx) {
    // More than anybody keeps for a reader who does not read.
    unread(ctx, 20).await;
}

/// Nobody reads while 500 peers move so many times, and some leave and come.
async fn unread(ctx: Ctx, rounds: usize) {
    let system = ctx.backend.connect(&without_hold(&ctx)).await.expect("connected");
    let watch = peers_of(&*system).watch().expect("the system watches");
    let mut fleet = Fleet::start(&ctx).await;
    let old = fleet.add(500).await;
    let mut events = watch.watch_peers().await.expect("a watch");
    let first = events.next().await;
    for round in 0..rounds {
        let moved: Vec<_> = old
            .iter()
            .map(|peer| {
                let address = format!("tcp://moved:{round}");
                discovery_core::PeerInfo::new(
                    peer.instance_id(),
                    discovery_core::WorkerAddress::from_bytes(address),
                )
            })
            .collect();
        fleet.write(&moved).await;
    }
    for peer in &old[..100] {
        fleet.remove(peer).await;
    }
    fleet.add(100).await;
    let mut seen = Seen::default();
    seen.fold(first.expect("a snapshot"));
    let watcher = Watcher::resume(watch, events, seen);
    watcher.comes_to(settling(&ctx), &fleet.peers()).await;
    watcher.comes_to_the_list(Duration::ZERO).await;
}

async fn a_gap_ends_when_everything_that_was_missed_was_told(ctx: Ctx) {
    let (faulty, system) = ctx.faulty_with(&without_hold(&ctx)).await;
    let mut fleet = Fleet::start(&ctx).await;
    let old = fleet.add(20).await;
    let watcher = Watcher::start(&*peers_of(&*system)).await;
    eventually(ctx.propagation(), || async { watcher.peers().len() == 20 }).await;
    faulty.set(Mode::Cut);
    eventually(ctx.propagation(), || async { watcher.interruptions() == 1 }).await;
    // More than anybody tells at once.
    fleet.add(600).await;
    for peer in &old[..5] {
        fleet.remove(peer).await;
    }
    sleep(ctx.propagation()).await;
    faulty.set(Mode::Pass);
    eventually(settling(&ctx), || async { watcher.resyncs() == 1 }).await;
    watcher.comes_to(Duration::ZERO, &fleet.peers()).await;
    let events = watcher.events();
    assert!(
        matches!(events.last(), Some(PeerEvent::Resynced { .. })),
        "{events:?}"
    );
}

async fn a_wiped_store_is_told(ctx: Ctx) {
    let system = ctx.backend.connect(&without_hold(&ctx)).await.expect("connected");
    let mut fleet = Fleet::start(&ctx).await;
    fleet.add(20).await;
    let watcher = Watcher::start(&*peers_of(&*system)).await;
    ctx.fault(Fault::Wipe).await;
    fleet.forget().await;
    fleet.add(5).await;
    watcher.comes_to(settling(&ctx), &fleet.peers()).await;
    assert!(watcher.resyncs() >= 1, "{:?}", watcher.events());
}

async fn a_watch_that_has_missed_something_is_found_out(ctx: Ctx) {
    let mut how = without_hold(&ctx);
    how.view.check_every = Duration::from_secs(2);
    let (faulty, system) = ctx.faulty_with(&how).await;
    let mut fleet = Fleet::start(&ctx).await;
    fleet.add(5).await;
    let watcher = Watcher::start(&*peers_of(&*system)).await;
    faulty.leave_out(2);
    let leaver = fleet.pick(0).expect("a peer");
    fleet.add(1).await;
    fleet.remove(&leaver).await;
    eventually(ctx.propagation(), || async { faulty.left_out() }).await;
    watcher.comes_to(Duration::from_secs(30), &fleet.peers()).await;
    let told = watcher.count(|event| matches!(event, PeerEvent::Resynced { .. }));
    assert!(told >= 1, "{:?}", watcher.events());
}
