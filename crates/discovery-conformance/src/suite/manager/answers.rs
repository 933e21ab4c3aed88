//! What is answered and kept: M4 to M8.

use std::{slice::from_ref, thread, time::Duration};

use discovery_core::{ErrorKind, peer::manager::PeerDiscoveryManager};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::{FRESH, SOURCE_DEADLINE, manager, sources};
use crate::suite::scripted::Act;
use crate::trial::{Ctx, colliding, peer, trials};

trials! { "manager":
    "M4" errors_are_not_kept_and_not_found_only_briefly [];
    "M4" what_only_some_sources_could_say_is_not_kept [];
    "M5" a_source_that_does_not_answer_hides_no_other [];
    "M6" not_found_means_that_every_source_said_so [];
    "M7" a_wrong_answer_is_dropped_counted_and_a_failure [];
    "M7" a_wrong_answer_in_a_batch_is_dropped_counted_and_a_failure [];
    "M8" entries_expire [];
    "M8" entries_expire_although_nothing_ran_meanwhile [] real_time;
    "M8" a_reported_peer_leaves_at_once [];
    "M8" a_full_manager_admits_newcomers [];
}

async fn errors_are_not_kept_and_not_found_only_briefly(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    let manager = manager(None, from_ref(&source)).await;
    let asked = peer();
    let id = asked.worker_id();
    let kinds = [
        ErrorKind::Unavailable,
        ErrorKind::Timeout,
        ErrorKind::RateLimited,
        ErrorKind::PermissionDenied,
        ErrorKind::Malformed,
        ErrorKind::Unexpected,
    ];
    for kind in kinds {
        source.act(Act::Fail(kind));
        for _ in 0..2 {
            let before = source.calls();
            let error = manager.discover_by_worker_id(id).await.expect_err("as scripted");
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(source.calls(), before + 1, "an error was kept");
        }
    }
    let before = source.calls();
    source.act(Act::NotFound);
    for _ in 0..3 {
        assert_eq!(
            manager
                .discover_by_worker_id(id)
                .await
                .expect_err("scripted")
                .kind(),
            ErrorKind::NotFound
        );
    }
    assert_eq!(source.calls(), before + 1, "not found is kept for a moment");
    source.act(Act::Give(asked.clone()));
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!(
        manager
            .discover_by_worker_id(id)
            .await
            .expect("no longer than a second"),
        asked
    );
}

async fn what_only_some_sources_could_say_is_not_kept(ctx: Ctx) {
    let sources: [_; 2] = sources(&ctx).await;
    let manager = manager(None, &sources).await;
    let asked = peer();
    sources[0].act(Act::NotFound);
    sources[1].act(Act::Fail(ErrorKind::Unavailable));
    for call in 1..=3 {
        let error = manager
            .discover_by_worker_id(asked.worker_id())
            .await
            .expect_err("as scripted");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(sources[1].calls(), call, "an error was kept");
    }
    sources[1].act(Act::Give(asked.clone()));
    let found = manager.discover_by_worker_id(asked.worker_id()).await;
    assert_eq!(found.expect("now that it answers"), asked);
}

async fn a_source_that_does_not_answer_hides_no_other(ctx: Ctx) {
    let acts = [
        Act::NotFound,
        Act::Fail(ErrorKind::Unavailable),
        Act::Give(peer()),
        Act::Hang,
        Act::Panic,
    ];
    for act in acts {
        let sources: [_; 2] = sources(&ctx).await;
        let manager = manager(None, &sources).await;
        sources[0].act(act.clone());
        let asked = [peer(), peer(), peer()];
        for (how, asked) in asked.iter().enumerate() {
            sources[1].act(Act::Give(asked.clone()));
            let begun = Instant::now();
            let found = match how {
                0 => manager.discover_by_worker_id(asked.worker_id()).await,
                1 => manager.discover_by_instance_id(asked.instance_id()).await,
                _ => manager.discover_many(&[asked.worker_id()]).await.remove(0),
            };
            assert_eq!(found.expect("the other source knows it"), *asked, "{act:?}");
            assert!(
                begun.elapsed() < SOURCE_DEADLINE + Duration::from_millis(500),
                "{act:?}: {:?}",
                begun.elapsed()
            );
        }
    }
}

async fn not_found_means_that_every_source_said_so(ctx: Ctx) {
    let acts = [
        Act::NotFound,
        Act::Fail(ErrorKind::Unavailable),
        Act::Fail(ErrorKind::RateLimited),
        Act::Hang,
    ];
    for first in &acts {
        for second in &acts {
            let sources: [_; 2] = sources(&ctx).await;
            sources[0].act(first.clone());
            sources[1].act(second.clone());
            let manager = manager(None, &sources).await;
            let begun = Instant::now();
            let error = manager
                .discover_by_worker_id(peer().worker_id())
                .await
                .expect_err("nobody finds it");
            assert!(
                begun.elapsed() < SOURCE_DEADLINE * 2 + Duration::from_millis(500),
                "{:?}",
                begun.elapsed()
            );
            let kinds: Vec<_> = [first, second].into_iter().filter_map(failure).collect();
            let expected = match kinds.as_slice() {
                [] => ErrorKind::NotFound,
                [kind, rest @ ..] if rest.iter().all(|other| other == kind) => *kind,
                _ => ErrorKind::Unavailable,
            };
            assert_eq!(error.kind(), expected, "{first:?}, {second:?}: {error}");
            for (at, act) in [first, second].into_iter().enumerate() {
                let named = error.to_string().contains(&format!("source-{at}"));
                assert_eq!(named, failure(act).is_some(), "{first:?}, {second:?}: {error}");
            }
        }
    }
}

fn failure(act: &Act) -> Option<ErrorKind> {
    match act {
        Act::Fail(kind) => Some(*kind),
        Act::Hang => Some(ErrorKind::Timeout),
        _ => None,
    }
}

async fn a_wrong_answer_is_dropped_counted_and_a_failure(ctx: Ctx) {
    let sources: [_; 2] = sources(&ctx).await;
    let manager = manager(None, &sources).await;
    let (asked, wrong) = (peer(), peer());
    sources[0].act(Act::Give(wrong.clone()));
    sources[1].act(Act::NotFound);
    let error = manager
        .discover_by_worker_id(asked.worker_id())
        .await
        .expect_err("nobody knows it");
    assert_ne!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("source-0"), "{error}");
    assert_eq!(manager.wrong_answers()[0].1, 1);
    sources[1].act(Act::Give(asked.clone()));
    assert_eq!(
        manager
            .discover_by_instance_id(asked.instance_id())
            .await
            .expect("the other knows it"),
        asked
    );
    // The wrong answer was not kept for the peer that it names, either.
    sources[0].act(Act::NotFound);
    sources[1].act(Act::NotFound);
    let error = manager
        .discover_by_worker_id(wrong.worker_id())
        .await
        .expect_err("nobody knows it");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    // Another instance under the same worker id does not answer for this one.
    let (one, two) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    sources[0].act(Act::Give(one.clone()));
    sources[1].act(Act::Give(two.clone()));
    assert_eq!(
        manager
            .discover_by_worker_id(one.worker_id())
            .await
            .expect("the first one"),
        one
    );
    assert_eq!(
        manager
            .discover_by_instance_id(two.instance_id())
            .await
            .expect("the second one"),
        two
    );
    sources[0].act(Act::Hang);
    sources[1].act(Act::Hang);
    for peer in [&one, &two] {
        let located = manager.locate_by_instance_id(peer.instance_id()).await;
        assert!(
            located.as_ref().is_ok_and(|found| found.peer == *peer) || located.is_err(),
            "{located:?} for {peer:?}"
        );
    }
}

async fn a_wrong_answer_in_a_batch_is_dropped_counted_and_a_failure(ctx: Ctx) {
    let sources: [_; 2] = sources(&ctx).await;
    let manager = manager(None, &sources).await;
    let (known, wrong) = (peer(), peer());
    let ids = [peer().worker_id(), known.worker_id()];
    sources[0].act(Act::Give(known.clone()));
    sources[1].act(Act::NotFound);
    let mut answers = manager.discover_many(&ids).await;
    assert_eq!(answers.pop().expect("two answers").expect("it fits"), known);
    let error = answers.pop().expect("two answers").expect_err("nobody knows it");
    assert_ne!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("source-0"), "{error}");
    let wrong_answers: Vec<_> = manager
        .wrong_answers()
        .into_iter()
        .map(|(_, count)| count)
        .collect();
    assert_eq!(wrong_answers, [1, 0]);
    // Of the second source, too.
    sources[0].act(Act::NotFound);
    sources[1].act(Act::Give(wrong));
    let error = manager
        .discover_by_worker_id(peer().worker_id())
        .await
        .expect_err("nobody knows it");
    assert_ne!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("source-1"), "{error}");
    let wrong_answers: Vec<_> = manager
        .wrong_answers()
        .into_iter()
        .map(|(_, count)| count)
        .collect();
    assert_eq!(wrong_answers, [1, 1]);
}

async fn entries_expire(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    let manager = manager(None, from_ref(&source)).await;
    let (old, new) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let id = old.worker_id();
    source.act(Act::Give(old.clone()));
    assert_eq!(manager.discover_by_worker_id(id).await.expect("found"), old);
    source.act(Act::Give(new.clone()));
    sleep(FRESH / 2).await;
    assert_eq!(manager.discover_by_worker_id(id).await.expect("still fresh"), old);
    assert_eq!(source.calls(), 1);
    sleep(FRESH / 2 + Duration::from_millis(200)).await;
    let located = manager.locate_by_worker_id(id).await.expect("asked again");
    assert_eq!(located.peer, new);
    assert_eq!(manager.discover_by_worker_id(id).await.expect("asked again"), new);
}

/// The manager's runtime runs only while a lookup is under way.
async fn entries_expire_although_nothing_ran_meanwhile(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    let looking = thread::Builder::new().name("trial M8".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let manager = runtime.block_on(manager(None, from_ref(&source)));
        let (old, new) = (
            colliding(0, "tcp://127.0.0.1:1"),
            colliding(1, "tcp://127.0.0.1:2"),
        );
        for peer in [old, new] {
            source.act(Act::Give(peer.clone()));
            let found = runtime.block_on(manager.discover_by_worker_id(peer.worker_id()));
            assert_eq!(found.expect("found"), peer);
            thread::sleep(FRESH + Duration::from_millis(200));
        }
    });
    tokio::task::spawn_blocking(|| looking.expect("a thread").join())
        .await
        .expect("joined")
        .expect("an entry outlived its time");
}

async fn a_reported_peer_leaves_at_once(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    let manager = manager(None, from_ref(&source)).await;
    let (asked, other) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    source.act(Act::Give(asked.clone()));
    assert_eq!(
        manager
            .discover_by_worker_id(asked.worker_id())
            .await
            .expect("found"),
        asked
    );
    source.act(Act::NotFound);
    manager.report_unreachable(other.instance_id());
    assert_eq!(
        manager
            .discover_by_worker_id(asked.worker_id())
            .await
            .expect("another was reported"),
        asked
    );
    manager.report_unreachable(asked.instance_id());
    let error = manager
        .discover_by_worker_id(asked.worker_id())
        .await
        .expect_err("it left");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    source.act(Act::Give(asked.clone()));
    manager.report_unreachable(asked.instance_id());
    let found = manager.discover_by_worker_id(asked.worker_id()).await;
    assert_eq!(found.expect("a report also ends a kept \"not found\""), asked);
}

async fn a_full_manager_admits_newcomers(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    let builder = PeerDiscoveryManager::builder()
        .source(source.clone())
        .capacity(10);
    let manager = builder
        .fresh_for(Duration::from_secs(3_600))
        .build()
        .await
        .expect("a manager");
    let mut all = Vec::new();
    for _ in 0..200 {
        let newcomer = peer();
        all.push(newcomer.worker_id());
        source.act(Act::Give(newcomer.clone()));
        assert_eq!(
            manager
                .discover_by_worker_id(newcomer.worker_id())
                .await
                .expect("found"),
            newcomer
        );
        source.act(Act::Fail(ErrorKind::Unavailable));
        assert_eq!(
            manager
                .discover_by_worker_id(newcomer.worker_id())
                .await
                .expect("admitted"),
            newcomer
        );
    }
    assert_eq!(source.calls(), 200);
    source.act(Act::NotFound);
    let answers = join_all(all.iter().map(|id| manager.discover_by_worker_id(*id))).await;
    let kept = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!((1..=10).contains(&kept), "{kept} of 200 are kept, 10 fit");
}
