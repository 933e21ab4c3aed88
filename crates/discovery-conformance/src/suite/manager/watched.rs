//! What the manager makes of the watches of its sources: M4, M8, M10, M13.

use std::{slice::from_ref, sync::Arc, time::Duration};

use discovery_core::{
    DiscoveryError, ErrorKind, PeerInfo, WorkerAddress, WorkerId,
    peer::{PeerEvent, RemovalReason, manager::PeerDiscoveryManager},
};
use tokio::{runtime::Handle, time::sleep};

use super::{FRESH, SOURCE_DEADLINE, manager, manager_that_keeps, sources};
use crate::{
    Fault,
    suite::scripted::{Act, Scripted, Teller},
    trial::{Ctx, colliding, eventually, peer, register, trials},
};

trials! { "manager":
    "M4" an_event_clears_a_remembered_not_found [Register, Watch];
    "M8" who_leaves_is_forgotten_at_once [Register, Watch];
    "M8" who_expires_is_forgotten_at_once [Register, Watch, Expiry];
    "M8" an_interruption_takes_nothing_away [];
    "M8" the_local_peer_stays_whatever_a_watch_tells [Register, Watch];
    "M10" who_was_replaced_is_learned_as_soon_as_a_source_knows [Register, Watch];
    "M10" who_was_replaced_during_an_outage_is_learned_after_it [Register, Watch];
    "M13" no_answer_begun_before_an_event_is_given_or_kept_after_it [];
    "M13" an_event_puts_right_what_its_own_source_or_a_later_one_said [];
    "M13" what_came_and_went_in_a_gap_is_not_kept_after_it [];
    "M13" without_watches_answers_are_kept_for_as_long_as_they_are_fresh [Register, Watch];
    "M11" shutdown_ends_what_follows_the_watches [Register, Watch];
}

/// Longer than any trial: what leaves, leaves by an event.
const LONG: Duration = Duration::from_secs(3_600);

/// A manager over one real source whose watch it follows already.
async fn watching(ctx: &Ctx) -> (Arc<Scripted>, PeerDiscoveryManager) {
    let [source] = sources(ctx).await;
    source.watch_for_real();
    let manager = manager_that_keeps(None, from_ref(&source), LONG).await;
    follows(ctx, &manager).await;
    (source, manager)
}

/// Waits until the manager hears of what happens.
async fn follows(ctx: &Ctx, manager: &PeerDiscoveryManager) {
    let probe = peer();
    ctx.plant_peer(&probe).await;
    let id = probe.worker_id();
    eventually(ctx.recovery(), || async {
        manager.discover_by_worker_id(id).await.is_ok()
    })
    .await;
    was_told(ctx).await;
    ctx.delete(&probe).await;
    eventually(ctx.recovery(), || async { is_unknown(manager, id).await }).await;
}

/// Waits until the watch must have told of what was written before: what comes and leaves
/// sooner than that it need not tell at all.
async fn was_told(ctx: &Ctx) {
    sleep(ctx.bounds().propagation).await;
}

async fn is_unknown(manager: &PeerDiscoveryManager, id: WorkerId) -> bool {
    let found = manager.discover_by_worker_id(id).await;
    found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

async fn an_event_clears_a_remembered_not_found(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    source.watch_for_real();
    let builder = PeerDiscoveryManager::builder()
        .source(source.clone())
        .negative_for(LONG);
    let manager = builder.build().await.expect("a manager");
    follows(&ctx, &manager).await;
    let (system, peer) = (ctx.connect().await, peer());
    assert!(is_unknown(&manager, peer.worker_id()).await);
    let calls = source.calls();
    assert!(is_unknown(&manager, peer.worker_id()).await);
    assert_eq!(source.calls(), calls, "it is remembered");
    let _registration = register(&*system, &peer).await.expect("registered");
    eventually(ctx.propagation(), || async {
        let found = manager.discover_by_worker_id(peer.worker_id()).await;
        found.is_ok_and(|found| found == peer)
    })
    .await;
}

async fn who_leaves_is_forgotten_at_once(ctx: Ctx) {
    let (source, manager) = watching(&ctx).await;
    let (system, peer) = (ctx.connect().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    let id = peer.worker_id();
    eventually(ctx.propagation(), || async {
        manager.discover_by_worker_id(id).await.is_ok()
    })
    .await;
    eventually(ctx.propagation(), || async {
        let before = source.calls();
        manager.discover_by_worker_id(id).await.is_ok() && source.calls() == before
    })
    .await;
    was_told(&ctx).await;
    registration.unregister().await.expect("unregistered");
    eventually(ctx.propagation(), || async { is_unknown(&manager, id).await }).await;
}

async fn who_expires_is_forgotten_at_once(ctx: Ctx) {
    let (_, manager) = watching(&ctx).await;
    let peer = peer();
    let member = ctx.member(&peer).await;
    let id = peer.worker_id();
    eventually(ctx.propagation(), || async {
        manager.discover_by_worker_id(id).await.is_ok()
    })
    .await;
    was_told(&ctx).await;
    member.kill();
    eventually(ctx.expiry() + ctx.propagation(), || async {
        is_unknown(&manager, id).await
    })
    .await;
}

async fn an_interruption_takes_nothing_away(ctx: Ctx) {
    let ([source], known) = (sources(&ctx).await, peer());
    let teller = source.watch_as_told();
    let manager = manager_that_keeps(None, from_ref(&source), LONG).await;
    tell(&teller, PeerEvent::Snapshot(Vec::new())).await;
    source.act(Act::Give(known.clone()));
    let lookup = || manager.discover_by_worker_id(known.worker_id());
    assert_eq!(lookup().await.expect("found"), known);
    source.act(Act::Fail(ErrorKind::Unavailable));
    let lost = DiscoveryError::new(ErrorKind::Unavailable, "the watch was lost");
    let suspects = vec![known.clone()];
    for event in [PeerEvent::Interrupted(lost), PeerEvent::Resynced { suspects }] {
        tell(&teller, event.clone()).await;
        assert_eq!(lookup().await.expect("it is known"), known, "after {event:?}");
    }
    // It is still followed.
    tell(&teller, removed(&known)).await;
    assert!(lookup().await.is_err(), "it has left");
}

async fn the_local_peer_stays_whatever_a_watch_tells(ctx: Ctx) {
    let ([source], local) = (sources(&ctx).await, peer());
    let teller = source.watch_as_told();
    let manager = manager(local.clone(), from_ref(&source)).await;
    let moved = PeerInfo::new(
        local.instance_id(),
        WorkerAddress::from_bytes("tcp://elsewhere:1"),
    );
    for event in [
        PeerEvent::Snapshot(Vec::new()),
        PeerEvent::Added(moved),
        removed(&local),
    ] {
        tell(&teller, event).await;
        let found = manager.discover_by_worker_id(local.worker_id()).await;
        assert_eq!(found.expect("the local peer"), local);
    }
}

async fn who_was_replaced_is_learned_as_soon_as_a_source_knows(ctx: Ctx) {
    let (_, manager) = watching(&ctx).await;
    let system = ctx.connect().await;
    let first = colliding(0, "tcp://one:1");
    let moved = colliding(0, "tcp://two:2");
    let other = colliding(1, "tcp://three:3");
    for peer in [first, moved, other] {
        let registration = register(&*system, &peer).await.expect("registered");
        eventually(ctx.propagation(), || async {
            let found = manager.discover_by_worker_id(peer.worker_id()).await;
            found.is_ok_and(|found| found == peer)
        })
        .await;
        registration.unregister().await.expect("unregistered");
    }
}

async fn who_was_replaced_during_an_outage_is_learned_after_it(ctx: Ctx) {
    let ([source], first) = (sources(&ctx).await, colliding(0, "tcp://one:1"));
    source.watch_for_real();
    let manager = manager_that_keeps(None, from_ref(&source), LONG).await;
    follows(&ctx, &manager).await;
    ctx.plant_peer(&first).await;
    let id = first.worker_id();
    eventually(ctx.propagation(), || async {
        manager.discover_by_worker_id(id).await.is_ok()
    })
    .await;
    // Everything is lost; another instance takes the place.
    ctx.fault(Fault::Wipe).await;
    let second = colliding(1, "tcp://two:2");
    ctx.plant_peer(&second).await;
    eventually(Duration::from_secs(10) + ctx.recovery(), || async {
        let found = manager.discover_by_worker_id(id).await;
        found.is_ok_and(|found| found == second)
    })
    .await;
}

fn removed(peer: &PeerInfo) -> PeerEvent {
    PeerEvent::Removed {
        peer: peer.clone(),
        reason: RemovalReason::Unregistered,
    }
}

/// Tells, and waits until it was heard.
async fn tell(teller: &Teller, event: PeerEvent) {
    teller.send(event).await.expect("somebody follows");
    eventually(SOURCE_DEADLINE, || async {
        teller.capacity() == teller.max_capacity()
    })
    .await;
    // It was taken out of the channel; applying it takes no wait.
    sleep(Duration::from_millis(5)).await;
}

async fn no_answer_begun_before_an_event_is_given_or_kept_after_it(ctx: Ctx) {
    let old = colliding(0, "tcp://old:1");
    let new = colliding(1, "tcp://new:2");
    let events = [
        removed(&old),
        PeerEvent::Added(new.clone()),
        PeerEvent::Snapshot(vec![new.clone()]),
    ];
    for event in events {
        for first in [Act::Give(old.clone()), Act::NotFound] {
            let [source] = sources(&ctx).await;
            let teller = source.watch_as_told();
            let manager = Arc::new(manager_that_keeps(None, from_ref(&source), FRESH).await);
            if !matches!(event, PeerEvent::Snapshot(_)) {
                tell(&teller, PeerEvent::Snapshot(Vec::new())).await;
            }
            let lookup = || {
                let (manager, id) = (manager.clone(), old.worker_id());
                tokio::spawn(async move { manager.discover_by_worker_id(id).await })
            };
            let (early, late) = (source.gate(), source.gate());
            let before = lookup();
            eventually(SOURCE_DEADLINE / 2, || async { source.calls() == 1 }).await;
            tell(&teller, event.clone()).await;
            let after = lookup();
            eventually(SOURCE_DEADLINE / 2, || async { source.calls() == 2 }).await;
            early.send(first.clone()).expect("the call waits");
            let given = before.await.expect("no panic");
            assert_eq!(given.is_ok(), matches!(first, Act::Give(_)), "its own answer");
            late.send(Act::Give(new.clone())).expect("the call waits");
            let given = after.await.expect("no panic").expect("found");
            assert_eq!(given, new, "an old answer was given after {event:?}");
            source.act(Act::Fail(ErrorKind::Unavailable));
            let kept = lookup().await.expect("no panic").expect("it is known");
            assert_eq!(kept, new, "an old answer was kept after {event:?}");
        }
    }
}

async fn an_event_puts_right_what_its_own_source_or_a_later_one_said(ctx: Ctx) {
    let known = peer();
    let moved = PeerInfo::new(known.instance_id(), WorkerAddress::from_bytes("tcp://moved:1"));
    for (teller_at, knower_at) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let sources: [_; 2] = sources(&ctx).await;
        let teller = sources[teller_at].watch_as_told();
        let manager = manager_that_keeps(None, &sources, LONG).await;
        tell(&teller, PeerEvent::Snapshot(Vec::new())).await;
        sources[0].act(Act::NotFound);
        sources[knower_at].act(Act::Give(known.clone()));
        let lookup = || manager.discover_by_worker_id(known.worker_id());
        assert_eq!(lookup().await.expect("found"), known);
        for source in &sources {
            source.act(Act::NotFound);
        }
        tell(
            &teller,
            PeerEvent::Modified {
                previous: known.clone(),
                peer: moved.clone(),
            },
        )
        .await;
        let expected = if teller_at <= knower_at { &moved } else { &known };
        assert_eq!(
            lookup().await.expect("it is known"),
            *expected,
            "{teller_at}, {knower_at}"
        );
        tell(&teller, removed(&moved)).await;
        assert_eq!(
            lookup().await.is_ok(),
            teller_at > knower_at,
            "{teller_at}, {knower_at}"
        );
    }
}

async fn what_came_and_went_in_a_gap_is_not_kept_after_it(ctx: Ctx) {
    let ([source], visitor) = (sources(&ctx).await, peer());
    let (suspect, under_way) = (peer(), peer());
    let teller = source.watch_as_told();
    let manager = Arc::new(manager_that_keeps(None, from_ref(&source), LONG).await);
    tell(&teller, PeerEvent::Snapshot(vec![suspect.clone()])).await;
    let lost = DiscoveryError::new(ErrorKind::Unavailable, "lost");
    tell(&teller, PeerEvent::Interrupted(lost)).await;
    for known in [&suspect, &visitor] {
        source.act(Act::Give(known.clone()));
        let found = manager.discover_by_worker_id(known.worker_id()).await;
        assert_eq!(found.expect("found"), *known);
    }
    let (gate, calls) = (source.gate(), source.calls());
    let lookup = {
        let (manager, id) = (manager.clone(), under_way.worker_id());
        tokio::spawn(async move { manager.discover_by_worker_id(id).await })
    };
    eventually(SOURCE_DEADLINE / 2, || async { source.calls() > calls }).await;
    let suspects = vec![suspect.clone()];
    tell(&teller, PeerEvent::Resynced { suspects }).await;
    gate.send(Act::Give(under_way.clone())).expect("the call waits");
    lookup.await.expect("no panic").expect("its own answer");
    source.act(Act::NotFound);
    for gone in [visitor, under_way] {
        assert!(is_unknown(&manager, gone.worker_id()).await, "it is in no event");
    }
    let held = manager.discover_by_worker_id(suspect.worker_id()).await;
    assert_eq!(held.expect("it is kept for now"), suspect);
}

async fn without_watches_answers_are_kept_for_as_long_as_they_are_fresh(ctx: Ctx) {
    let ([source], peer) = (sources(&ctx).await, peer());
    source.watch_for_real();
    let builder = PeerDiscoveryManager::builder().source(source.clone());
    let manager = builder
        .fresh_for(LONG)
        .watch(false)
        .build()
        .await
        .expect("a manager");
    ctx.plant_peer(&peer).await;
    let id = peer.worker_id();
    eventually(ctx.propagation(), || async {
        manager.discover_by_worker_id(id).await.is_ok()
    })
    .await;
    ctx.delete(&peer).await;
    sleep(ctx.propagation()).await;
    assert_eq!(
        manager.discover_by_worker_id(id).await.expect("it is fresh"),
        peer
    );
}

async fn shutdown_ends_what_follows_the_watches(ctx: Ctx) {
    let watches = ctx.backend.watches();
    let tasks = Handle::current().metrics().num_alive_tasks();
    for polite in [true, false] {
        let (source, manager) = watching(&ctx).await;
        if polite {
            manager.shutdown(Duration::from_secs(5)).await.expect("shut down");
        }
        drop((source, manager));
        eventually(Duration::from_secs(5), || async {
            ctx.backend.watches() <= watches && Handle::current().metrics().num_alive_tasks() <= tasks
        })
        .await;
    }
}
