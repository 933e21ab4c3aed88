//! A watch that was cut off, is silent, or is told that nearly everything is gone: W4, W5, W8.

use std::time::Duration;

use discovery_core::peer::{PeerEvent, RemovalReason};
use tokio::time::{Instant, sleep};

use super::{Fleet, Watcher};
use crate::{
    Connect, Fault, Mode,
    faulty::WATCH_SILENCE,
    trial::{Ctx, eventually, peer, peers_of, register, trials},
};

trials! { "watch":
    "W4" an_expiry_while_disconnected_is_told_afterwards [Register, Watch, Expiry];
    "W5" a_watch_that_is_silent_is_noticed_and_resynced [Register, Watch];
    "W8" a_mass_removal_in_a_snapshot_is_held_and_then_believed [Watch];
    "W8" the_systems_of_the_backend_hold_what_is_gone_at_once [Watch];
    "W8" what_comes_back_while_it_is_held_never_left [Watch];
    "W8" a_polite_leave_is_never_held [Register, Watch];
    "W8" holding_can_be_switched_off [Watch];
}

async fn an_expiry_while_disconnected_is_told_afterwards(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    let (peer, stays) = (peer(), self::peer());
    let other = ctx.connect().await;
    let _stays = register(&*other, &stays).await.expect("registered");
    let member = ctx.member(&peer).await;
    let watcher = Watcher::start(&*peers_of(&*system)).await;
    assert_eq!(watcher.peers().len(), 2);
    faulty.set(Mode::Cut);
    eventually(ctx.propagation(), || async { watcher.interruptions() == 1 }).await;
    member.kill();
    ctx.gone_within(ctx.expiry(), &peer).await;
    assert_eq!(watcher.peers().len(), 2, "nobody could tell");
    faulty.set(Mode::Pass);
    watcher.comes_to(ctx.recovery(), &[stays]).await;
    eventually(ctx.propagation(), || async { watcher.resyncs() == 1 }).await;
    let told = watcher.events_after(1);
    let removed = told.iter().find_map(|event| match event {
        PeerEvent::Removed { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_ne!(removed, Some(RemovalReason::Unregistered), "{told:?}");
    assert!(
        matches!(told.last(), Some(PeerEvent::Resynced { .. })),
        "{told:?}"
    );
}

async fn a_watch_that_is_silent_is_noticed_and_resynced(ctx: Ctx) {
    let (system, other) = (ctx.connect().await, ctx.connect().await);
    let watcher = Watcher::start(&*peers_of(&*system)).await;
    let before = peer();
    let _before = register(&*other, &before).await.expect("registered");
    watcher
        .comes_to(ctx.propagation(), std::slice::from_ref(&before))
        .await;
    ctx.fault(Fault::Stall).await;
    // Where a watch cannot be cut off by itself, the fault is one of the trial.
    let bound = match ctx.bounds().watch_silence {
        Duration::ZERO => WATCH_SILENCE,
        bound => bound,
    };
    eventually(bound + Duration::from_secs(1), || async {
        watcher.interruptions() == 1
    })
    .await;
    ctx.fault(Fault::Heal).await;
    let after = peer();
    eventually(ctx.recovery(), || async { ctx.standing(&before).await.is_some() }).await;
    let _after = register(&*other, &after).await.expect("registered");
    let bound = Duration::from_secs(5) + ctx.recovery();
    watcher.comes_to(bound, &[before, after]).await;
    eventually(bound, || async { watcher.resyncs() == 1 }).await;
}

/// A TTL that is long enough to look at what happens within it.
fn how(ctx: &Ctx) -> Connect {
    let mut how = ctx.how();
    how.ttl = ctx.ttl() * 3;
    how
}

async fn a_mass_removal_in_a_snapshot_is_held_and_then_believed(ctx: Ctx) {
    let how = how(&ctx);
    let (faulty, system) = ctx.faulty_with(&how).await;
    let mut fleet = Fleet::start(&ctx).await;
    fleet.add(12).await;
    let watcher = Watcher::start(&*peers_of(&*system)).await;
    let resynced = lose_and_resync(&ctx, &faulty, &mut fleet, &watcher, 0).await;
    let told = watcher.events_after(1);
    let Some(PeerEvent::Resynced { suspects }) = told.last() else {
        panic!("{told:?}");
    };
    assert_eq!(suspects.len(), 12, "{told:?}");
    // Nothing leaves before its time, whatever other snapshots come: one that lacks as much
    // again, and one of a fleet so large that twelve are not many.
    sleep(how.ttl / 2).await;
    lose_and_resync(&ctx, &faulty, &mut fleet, &watcher, 0).await;
    let others = fleet.add(14).await.len();
    eventually(ctx.propagation(), || async {
        watcher.peers().len() == 12 + others
    })
    .await;
    lose_and_resync(&ctx, &faulty, &mut fleet, &watcher, others).await;
    let held = || watcher.peers().len() - others;
    while resynced.elapsed() < how.ttl.saturating_sub(ctx.ttl()) {
        assert_eq!(held(), 12, "after {:?}", resynced.elapsed());
        sleep(Duration::from_millis(25)).await;
    }
    let left = (how.ttl + Duration::from_secs(1)).saturating_sub(resynced.elapsed());
    watcher.comes_to(left, &fleet.peers()).await;
    assert!(
        resynced.elapsed() + Duration::from_millis(100) >= how.ttl,
        "believed after {:?}",
        resynced.elapsed()
    );
    let polite = watcher.count(|event| {
        let polite = RemovalReason::Unregistered;
        matches!(event, PeerEvent::Removed { reason, .. } if *reason == polite)
    });
    assert_eq!(polite, 0, "{:?}", watcher.events());
}

/// The store loses everything while nobody can hear it; `back` of the peers are written again.
async fn lose_and_resync(
    ctx: &Ctx,
    faulty: &crate::Faulty,
    fleet: &mut Fleet,
    watcher: &Watcher,
    back: usize,
) -> Instant {
    let resyncs = watcher.resyncs();
    faulty.set(Mode::Cut);
    eventually(ctx.propagation(), || async { watcher.interruptions() > resyncs }).await;
    let peers = fleet.peers();
    ctx.fault(Fault::Wipe).await;
    fleet.forget().await;
    fleet.write(&peers[..back]).await;
    faulty.set(Mode::Pass);
    eventually(Duration::from_secs(5), || async { watcher.resyncs() > resyncs }).await;
    Instant::now()
}

async fn the_systems_of_the_backend_hold_what_is_gone_at_once(ctx: Ctx) {
    let system = ctx.backend.connect(&ctx.how_for_long()).await.expect("connected");
    let mut fleet = Fleet::start(&ctx).await;
    fleet.add(12).await;
    let watcher = Watcher::start(&*peers_of(&*system)).await;
    ctx.fault(Fault::Wipe).await;
    eventually(Duration::from_secs(10) + ctx.recovery(), || async {
        watcher.resyncs() == 1
    })
    .await;
    assert_eq!(watcher.peers().len(), 12, "{:?}", watcher.events_after(1));
}

async fn what_comes_back_while_it_is_held_never_left(ctx: Ctx) {
    let how = how(&ctx);
    let (faulty, system) = ctx.faulty_with(&how).await;
    let mut fleet = Fleet::start(&ctx).await;
    fleet.add(12).await;
    let peers = fleet.peers();
    let watcher = Watcher::start(&*peers_of(&*system)).await;
    lose_and_resync(&ctx, &faulty, &mut fleet, &watcher, 2).await;
    fleet.write(&peers[2..9]).await;
    let moved = fleet.modify(&peers[9], "tcp://moved:1").await;
    watcher
        .comes_to(how.ttl + Duration::from_secs(2), &fleet.peers())
        .await;
    let (mut removed, mut modified) = (Vec::new(), Vec::new());
    for event in watcher.events_after(1) {
        match event {
            PeerEvent::Removed { peer, .. } => removed.push(peer),
            PeerEvent::Modified { peer, .. } => modified.push(peer),
            PeerEvent::Added(peer) => panic!("{peer:?} had not left"),
            _ => {}
        }
    }
    assert_eq!(removed, peers[10..], "only what did not come back");
    assert_eq!(modified, [moved]);
}

async fn a_polite_leave_is_never_held(ctx: Ctx) {
    let (system, how) = (ctx.connect().await, ctx.how_for_long());
    let members = ctx.backend.connect(&how).await.expect("connected");
    let mut registrations = Vec::new();
    for _ in 0..20 {
        registrations.push(register(&*members, &peer()).await.expect("registered"));
    }
    let watcher = Watcher::start(&*peers_of(&*system)).await;
    eventually(ctx.propagation(), || async { watcher.peers().len() == 20 }).await;
    members.shutdown(Duration::from_secs(5)).await.expect("all leave");
    watcher.comes_to(ctx.propagation(), &[]).await;
}

async fn holding_can_be_switched_off(ctx: Ctx) {
    let mut how = ctx.how_for_long();
    how.view.hold_mass_removals = false;
    let (faulty, system) = ctx.faulty_with(&how).await;
    let mut fleet = Fleet::start(&ctx).await;
    fleet.add(12).await;
    let watcher = Watcher::start(&*peers_of(&*system)).await;
    lose_and_resync(&ctx, &faulty, &mut fleet, &watcher, 1).await;
    watcher.comes_to(ctx.propagation(), &fleet.peers()).await;
    // The backend's own systems have the switch, too.
    let system = ctx.backend.connect(&how).await.expect("connected");
    fleet.add(12).await;
    let watcher = Watcher::start(&*peers_of(&*system)).await;
    ctx.fault(Fault::Wipe).await;
    fleet.forget().await;
    watcher
        .comes_to(Duration::from_secs(10) + ctx.recovery(), &[])
        .await;
}
