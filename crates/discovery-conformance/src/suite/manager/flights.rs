//! Lookups that share, and what a report does to them: M2, M3, M13.

use std::{slice::from_ref, sync::Arc, time::Duration};

use discovery_core::{ErrorKind, PeerInfo, peer::manager::PeerDiscoveryManager};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::{SOURCE_DEADLINE, manager, sources};
use crate::suite::scripted::Act;
use crate::trial::{Ctx, colliding, eventually, peer, trials};

trials! { "manager":
    "M2" ten_thousand_lookups_of_a_missing_key_are_one_call [];
    "M2" lookups_of_distinct_keys_reach_a_source_a_bounded_number_at_once [];
    "M3" cancelling_the_first_caller_affects_no_other [];
    "M3" a_late_caller_inherits_no_old_deadline [];
    "M13" no_answer_begun_before_a_report_is_given_or_kept_after_it [];
    "M13" what_was_kept_before_a_report_is_asked_for_again [];
    "M13" an_answer_asked_for_earlier_replaces_no_later_one [];
}

async fn ten_thousand_lookups_of_a_missing_key_are_one_call(ctx: Ctx) {
    let sources: [_; 2] = sources(&ctx).await;
    let manager = Arc::new(manager(None, &sources).await);
    for source in &sources {
        source.delay(Duration::from_millis(100));
    }
    let unknown = peer().worker_id();
    let lookups = (0..10_000).map(|_| {
        let manager = manager.clone();
        tokio::spawn(async move { manager.discover_by_worker_id(unknown).await })
    });
    let lookups: Vec<_> = lookups.collect();
    for outcome in join_all(lookups).await {
        let error = outcome.expect("no panic").expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    assert_eq!((sources[0].calls(), sources[1].calls()), (1, 1));
}

async fn lookups_of_distinct_keys_reach_a_source_a_bounded_number_at_once(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    source.act(Act::NotFound);
    source.delay(Duration::from_millis(5));
    let builder = PeerDiscoveryManager::builder().source(source.clone());
    let manager = builder.source_deadline(Duration::from_secs(60)).build().await;
    let manager = Arc::new(manager.expect("a manager"));
    let lookups = (0..10_000).map(|_| {
        let manager = manager.clone();
        tokio::spawn(async move { manager.discover_by_worker_id(peer().worker_id()).await })
    });
    let lookups: Vec<_> = lookups.collect();
    for outcome in join_all(lookups).await {
        let error = outcome.expect("no panic").expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    assert_eq!(source.calls(), 10_000);
    let most = source.most_at_once();
    assert!((2..=1_000).contains(&most), "{most} calls at once");
}

async fn cancelling_the_first_caller_affects_no_other(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    let manager = Arc::new(manager(None, from_ref(&source)).await);
    let asked = peer();
    let gate = source.gate();
    let lookup = || {
        let (manager, id) = (manager.clone(), asked.worker_id());
        tokio::spawn(async move { manager.discover_by_worker_id(id).await })
    };
    let first = lookup();
    eventually(SOURCE_DEADLINE / 2, || async { source.calls() == 1 }).await;
    let second = lookup();
    tokio::task::yield_now().await;
    first.abort();
    assert!(first.await.is_err_and(|error| error.is_cancelled()));
    let third = lookup();
    tokio::task::yield_now().await;
    gate.send(Act::Give(asked.clone())).expect("the call still waits");
    for waiting in [second, third] {
        let found = timeout(SOURCE_DEADLINE, waiting)
            .await
            .expect("in time")
            .expect("no panic");
        assert_eq!(found.expect("found"), asked);
    }
    assert_eq!(source.calls(), 1);
}

async fn a_late_caller_inherits_no_old_deadline(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    let manager = Arc::new(manager(None, from_ref(&source)).await);
    let asked = peer();
    let _hangs = source.gate();
    let early = {
        let (manager, id) = (manager.clone(), asked.worker_id());
        tokio::spawn(async move { manager.discover_by_worker_id(id).await })
    };
    eventually(SOURCE_DEADLINE / 2, || async { source.calls() == 1 }).await;
    sleep(SOURCE_DEADLINE * 7 / 10).await;
    source.act(Act::Give(asked.clone()));
    let begun = Instant::now();
    let late = manager.discover_by_worker_id(asked.worker_id()).await;
    assert_eq!(late.expect("its own time was not up"), asked);
    assert!(
        begun.elapsed() < SOURCE_DEADLINE + Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    let error = early.await.expect("no panic").expect_err("its time was up");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(source.calls(), 2);
}

/// Every order of two answers and a report, with every pair of answers, for either question.
async fn no_answer_begun_before_a_report_is_given_or_kept_after_it(ctx: Ctx) {
    let (old, new) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let firsts = [Act::Give(old.clone()), Act::NotFound];
    let seconds = [
        Act::Give(new.clone()),
        Act::NotFound,
        Act::Fail(ErrorKind::Unavailable),
    ];
    for first in &firsts {
        for second in &seconds {
            for old_lands_first in [true, false] {
                for by_instance in [false, true] {
                    answers_around_a_report(&ctx, &old, first, second, old_lands_first, by_instance).await;
                }
            }
        }
    }
}

async fn what_was_kept_before_a_report_is_asked_for_again(ctx: Ctx) {
    let asked = peer();
    for first in [Act::Give(asked.clone()), Act::NotFound] {
        for by_instance in [false, true] {
            let [source] = sources(&ctx).await;
            let manager = manager(None, from_ref(&source)).await;
            let lookup = || async {
                match by_instance {
                    true => manager.discover_by_instance_id(asked.instance_id()).await,
                    false => manager.discover_by_worker_id(asked.worker_id()).await,
                }
            };
            let found = matches!(first, Act::Give(_));
            source.act(first.clone());
            assert_eq!(lookup().await.is_ok(), found);
            assert_eq!(lookup().await.is_ok(), found);
            assert_eq!(source.calls(), 1, "{first:?} is kept");
            source.act(match found {
                true => Act::NotFound,
                false => Act::Give(asked.clone()),
            });
            manager.report_unreachable(asked.instance_id());
            assert_eq!(lookup().await.is_ok(), !found, "{first:?} outlived a report");
            assert_eq!(source.calls(), 2);
        }
    }
}

async fn answers_around_a_report(
    ctx: &Ctx,
    old: &PeerInfo,
    first: &Act,
    second: &Act,
    old_lands_first: bool,
    by_instance: bool,
) {
    // The successor does not answer for the instance that was reported.
    let second = match second {
        Act::Give(_) if by_instance => &Act::Give(old.clone()),
        second => second,
    };
    let [source] = sources(ctx).await;
    let manager = Arc::new(manager(None, from_ref(&source)).await);
    let lookup = || {
        let (manager, old) = (manager.clone(), old.clone());
        tokio::spawn(async move {
            match by_instance {
                true => manager.discover_by_instance_id(old.instance_id()).await,
                false => manager.discover_by_worker_id(old.worker_id()).await,
            }
        })
    };
    let (first_gate, second_gate) = (source.gate(), source.gate());
    let before = lookup();
    eventually(SOURCE_DEADLINE / 2, || async { source.calls() == 1 }).await;
    manager.report_unreachable(old.instance_id());
    let after = lookup();
    eventually(SOURCE_DEADLINE / 2, || async { source.calls() == 2 }).await;
    let mut gates = [(first_gate, first.clone()), (second_gate, second.clone())];
    if !old_lands_first {
        gates.reverse();
    }
    let mut joined = None;
    for (gate, act) in gates {
        gate.send(act).expect("the call waits");
        sleep(Duration::from_millis(20)).await;
        // Who comes in between waits for what was asked after the report.
        if old_lands_first && joined.is_none() {
            joined = Some(lookup());
            tokio::task::yield_now().await;
        }
    }
    let case = format!("{first:?}, {second:?}, {old_lands_first}, {by_instance}");
    let answer = |act: &Act| match act {
        Act::Give(peer) => Ok(peer.clone()),
        Act::Fail(kind) => Err(*kind),
        _ => Err(ErrorKind::NotFound),
    };
    let given = before.await.expect("no panic").map_err(|error| error.kind());
    assert_eq!(given, answer(first), "not its own answer: {case}");
    let given = after.await.expect("no panic").map_err(|error| error.kind());
    assert_eq!(
        given,
        answer(second),
        "an old answer was given after the report: {case}"
    );
    if let Some(joined) = joined {
        let given = joined.await.expect("no panic").map_err(|error| error.kind());
        assert_eq!(given, answer(second), "{case}");
        assert_eq!(source.calls(), 2, "a third call: {case}");
    }
    source.act(second.clone());
    let kept = lookup().await.expect("no panic").map_err(|error| error.kind());
    assert_eq!(
        kept,
        answer(second),
        "an old answer was kept after the report: {case}"
    );
}

/// Two questions about one key: whoever was asked last knows best.
async fn an_answer_asked_for_earlier_replaces_no_later_one(ctx: Ctx) {
    let (old, new) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let [source] = sources(&ctx).await;
    let manager = Arc::new(manager(None, from_ref(&source)).await);
    let (earlier_gate, later_gate) = (source.gate(), source.gate());
    let earlier = {
        let (manager, id) = (manager.clone(), old.worker_id());
        tokio::spawn(async move { manager.discover_by_worker_id(id).await })
    };
    eventually(SOURCE_DEADLINE / 2, || async { source.calls() == 1 }).await;
    let later = {
        let (manager, id) = (manager.clone(), new.instance_id());
        tokio::spawn(async move { manager.discover_by_instance_id(id).await })
    };
    eventually(SOURCE_DEADLINE / 2, || async { source.calls() == 2 }).await;
    for (gate, peer, lookup) in [(later_gate, &new, later), (earlier_gate, &old, earlier)] {
        gate.send(Act::Give(peer.clone())).expect("the call waits");
        assert_eq!(lookup.await.expect("no panic").expect("found"), *peer);
    }
    source.act(Act::Fail(ErrorKind::Unavailable));
    let kept = manager.discover_by_worker_id(new.worker_id()).await;
    assert_eq!(
        kept.expect("it is known"),
        new,
        "replaced by what was asked before"
    );
}
