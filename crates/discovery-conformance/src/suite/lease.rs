//! State, sessions and starved processes: R13, R14, R16.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use discovery_core::{ErrorKind, RegistrationState, peer::RegistrationObserver};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Mode, journal,
    trial::{Ctx, colliding, eventually, is_absent, peer, peers_of, register, trials},
};

trials! { "registration":
    "R13" each_change_of_state_is_seen_and_logged_once_with_its_cause [Register];
    "R13" the_loss_of_a_place_is_seen_and_logged_once_with_its_cause [Register];
    "R13" the_state_is_computed_when_it_is_read [Register];
    "R13" the_failure_of_one_registration_is_no_news_of_another [Register];
    "R14" any_number_of_registrations_shares_one_session [Register];
    "R16" a_blocked_application_stays_registered [Register, Expiry] real_time;
    "R16" a_process_past_its_deadline_never_reads_live [Register];
    "R16" an_answer_that_comes_late_prolongs_nothing [Register, Expiry];
}

async fn each_change_of_state_is_seen_and_logged_once_with_its_cause(ctx: Ctx) {
    let ((faulty, system), peer) = (ctx.faulty().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    let observer = registration.observer();
    assert_eq!(observer.state(), RegistrationState::Live);
    let seen = watched(observer.clone());
    faulty.set(Mode::Cut);
    eventually(ctx.ttl(), || async {
        observer.state() == RegistrationState::Renewing
    })
    .await;
    for cause in [observer.cause(), registration.cause()] {
        let cause = cause.expect("a cause");
        assert_eq!(cause.kind(), ErrorKind::Unavailable, "{cause}");
    }
    eventually(ctx.expiry(), || async {
        observer.state() == RegistrationState::Suspect
    })
    .await;
    // The next attempt notices, too.
    let key = ctx.key(&peer).to_string();
    eventually(ctx.recovery(), || async {
        logged(&key).iter().any(|entry| entry["state"] == "suspect")
    })
    .await;
    faulty.set(Mode::Pass);
    eventually(ctx.recovery(), || async {
        observer.state() == RegistrationState::Live
    })
    .await;
    ctx.delete(&peer).await;
    ctx.found_within(ctx.recovery(), &peer).await;
    registration.unregister().await.expect("unregistered");
    eventually(ctx.propagation(), || async {
        seen.lock().expect("not poisoned").last() == Some(&RegistrationState::Gone)
    })
    .await;
    {
        // What is mended at once, such as a loss, may pass unseen.
        use RegistrationState::{Live, Renewing, Suspect};
        let seen = seen.lock().expect("not poisoned");
        for state in [Renewing, Suspect, Live] {
            assert!(seen.contains(&state), "nobody was told of {state}: {seen:?}");
        }
    }
    let logged = logged(&key);
    let states: Vec<_> = logged.iter().map(|entry| entry["state"].as_str()).collect();
    assert!(
        !states.windows(2).any(|pair| pair[0] == pair[1]),
        "logged twice: {states:?}"
    );
    for state in ["live", "renewing", "suspect", "lost", "gone"] {
        assert!(states.contains(&state), "{state} was not logged: {states:?}");
    }
    let mut back = states.iter().skip_while(|state| **state != "suspect");
    assert!(
        back.any(|state| *state == "live") && states.ends_with(&["lost", "live", "gone"]),
        "its return was not logged: {states:?}"
    );
    for entry in logged
        .iter()
        .filter(|entry| ["renewing", "lost", "suspect"].contains(&entry["state"].as_str()))
    {
        assert!(entry.contains_key("cause"), "{entry:?}");
    }
}

/// Every change that an observer is told of, as it is told.
fn watched(mut observer: RegistrationObserver) -> Arc<Mutex<Vec<RegistrationState>>> {
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let noted = seen.clone();
    tokio::spawn(async move {
        loop {
            let state = observer.changed().await;
            noted.lock().expect("not poisoned").push(state);
        }
    });
    seen
}

/// What was logged about a registration, in order.
fn logged(key: &String) -> Vec<journal::Entry> {
    journal::entries(|entry| entry.get("key") == Some(key) && entry.contains_key("state"))
}

async fn the_loss_of_a_place_is_seen_and_logged_once_with_its_cause(ctx: Ctx) {
    let (loser, successor) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let registration = register(&*ctx.connect().await, &loser).await.expect("registered");
    let seen = watched(registration.observer());
    ctx.delete(&loser).await;
    let _planted = ctx.plant_peer(&successor).await;
    eventually(ctx.recovery(), || async {
        seen.lock().expect("not poisoned").last() == Some(&RegistrationState::Superseded)
    })
    .await;
    assert_eq!(registration.state(), RegistrationState::Superseded);
    let cause = registration.cause().expect("a cause");
    assert_eq!(cause.kind(), ErrorKind::Superseded, "{cause}");
    assert!(
        cause.to_string().contains(&successor.instance_id().to_string()),
        "{cause} does not name the successor"
    );
    registration
        .unregister()
        .await
        .expect("nothing of its own is left");
    let logged = logged(&ctx.key(&loser).to_string());
    let last: Vec<_> = logged
        .iter()
        .filter(|entry| entry["state"] == "superseded")
        .collect();
    assert_eq!(last.len(), 1, "{logged:?}");
    assert!(last[0].contains_key("cause"), "{last:?}");
}

async fn the_state_is_computed_when_it_is_read(ctx: Ctx) {
    for failed_before in [false, true] {
        let ((faulty, system), peer) = (ctx.faulty().await, peer());
        let registration = register(&*system, &peer).await.expect("registered");
        let (observer, seen) = (registration.observer(), watched(registration.observer()));
        if failed_before {
            faulty.set(Mode::Cut);
            eventually(ctx.ttl(), || async {
                observer.state() == RegistrationState::Renewing
            })
            .await;
        }
        // Whoever renews stands still and cannot tell.
        faulty.set(Mode::Freeze);
        sleep(ctx.ttl()).await;
        assert_eq!(registration.state(), RegistrationState::Suspect);
        assert_eq!(observer.state(), RegistrationState::Suspect);
        eventually(ctx.propagation(), || async {
            seen.lock().expect("not poisoned").last() == Some(&RegistrationState::Suspect)
        })
        .await;
        faulty.set(Mode::Pass);
    }
}

async fn the_failure_of_one_registration_is_no_news_of_another(ctx: Ctx) {
    let ((faulty, system), bystander) = (ctx.faulty().await, peer());
    let registration = register(&*system, &bystander).await.expect("registered");
    let seen = watched(registration.observer());
    faulty.hold_writes(u32::MAX);
    let outcome = timeout(Duration::from_secs(2), register(&*system, &peer())).await;
    assert!(!outcome.is_ok_and(|outcome| outcome.is_ok()), "nobody answered");
    faulty.hold_writes(0);
    let (holder, challenger) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let _planted = ctx.plant_peer(&holder).await;
    register(&*system, &challenger)
        .await
        .expect_err("the place is taken");
    assert_eq!(registration.state(), RegistrationState::Live);
    let seen = seen.lock().expect("not poisoned").clone();
    assert!(seen.is_empty(), "{seen:?}");
    let logged = logged(&ctx.key(&bystander).to_string());
    assert_eq!(logged.len(), 1, "{logged:?}");
}

async fn any_number_of_registrations_shares_one_session(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    let peers: Vec<_> = (0..50).map(|_| peer()).collect();
    let (at_once, later) = peers.split_at(40);
    let mut registrations = join_all(at_once.iter().map(|peer| register(&*system, peer))).await;
    for peer in later {
        registrations.push(register(&*system, peer).await);
    }
    assert!(registrations.iter().all(Result::is_ok));
    // What goes wrong with one of them is no reason for another session.
    faulty.lose_answers(1);
    registrations.push(register(&*system, &peer()).await);
    faulty.hold_writes(1);
    registrations.push(register(&*system, &peer()).await);
    assert!(registrations.iter().all(Result::is_ok));
    let before = faulty.renewals();
    sleep(ctx.ttl() * 3).await;
    let renewals = faulty.renewals() - before;
    assert_eq!(faulty.opens(), 1, "sessions");
    // Nine intervals of up to a tenth less than a third of the TTL each.
    assert!((5..=12).contains(&renewals), "{renewals} renewals in three TTLs");
    let found = ctx.peers().await;
    for peer in &peers {
        assert!(found.discover_by_worker_id(peer.worker_id()).await.is_ok());
    }
}

async fn a_blocked_application_stays_registered(ctx: Ctx) {
    let ttl = ctx.bounds().min_ttl.max(Duration::from_secs(2));
    let mut how = ctx.how();
    (how.own_thread, how.ttl) = (true, ttl);
    let peer = peer();
    let done = Arc::new(AtomicBool::new(false));
    let (system, application) = {
        let (backend, peer, done) = (ctx.backend.clone(), peer.clone(), done.clone());
        let (registered, when) = tokio::sync::oneshot::channel();
        let application = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                let system = backend.connect(&how).await.expect("connected");
                let registration = register(&*system, &peer).await.expect("registered");
                let _ = registered.send(system);
                let blocked = (0..4).map(|_| tokio::spawn(async move { thread::sleep(ttl * 3) }));
                let blocked: Vec<_> = blocked.collect();
                // The thread that waits is blocked as well.
                thread::sleep(ttl * 3);
                done.store(true, Ordering::Relaxed);
                let state = registration.state();
                for task in blocked {
                    task.await.expect("it only slept");
                }
                state
            })
        });
        (when.await.expect("registered"), application)
    };
    let peers = ctx.peers().await;
    let begun = Instant::now();
    while !done.load(Ordering::Relaxed) {
        assert!(
            peers.discover_by_worker_id(peer.worker_id()).await.is_ok(),
            "lost after {:?}",
            begun.elapsed()
        );
        sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() >= ttl * 2, "it was not blocked");
    let state = tokio::task::spawn_blocking(|| application.join())
        .await
        .expect("joined")
        .expect("no panic");
    assert_eq!(state, RegistrationState::Live);
    system.shutdown(Duration::from_secs(5)).await.expect("shut down");
}

async fn a_process_past_its_deadline_never_reads_live(ctx: Ctx) {
    let ((faulty, system), peer) = (ctx.faulty().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    // Its runtime gets no turn while the time passes: nobody but the reader can notice.
    faulty.set(Mode::Freeze);
    let begun = Instant::now();
    sleep(ctx.ttl()).await;
    assert!(begun.elapsed() >= ctx.ttl());
    assert_ne!(
        registration.state(),
        RegistrationState::Live,
        "read past the deadline"
    );
    sleep(ctx.ttl()).await;
    assert_eq!(registration.state(), RegistrationState::Suspect);
    faulty.set(Mode::Pass);
    eventually(ctx.recovery(), || async {
        registration.state() == RegistrationState::Live
    })
    .await;
    assert!(
        peers_of(&*system)
            .discover_by_worker_id(peer.worker_id())
            .await
            .is_ok()
    );
}

/// What the backend granted runs from when it was asked, not from when it was heard of.
async fn an_answer_that_comes_late_prolongs_nothing(ctx: Ctx) {
    let ((faulty, system), peer) = (ctx.faulty().await, peer());
    faulty.late_answers(ctx.ttl() / 2);
    let registration = register(&*system, &peer).await.expect("registered");
    for renewed in [false, true] {
        if renewed {
            let before = faulty.renewals();
            eventually(ctx.ttl() * 2, || async { faulty.renewals() > before }).await;
            // The answer is under way, and nothing is asked after it.
            sleep(ctx.ttl() / 2 + Duration::from_millis(10)).await;
        }
        faulty.set(Mode::Freeze);
        let peers = ctx.peers().await;
        eventually(ctx.expiry(), || async {
            let live = registration.state() == RegistrationState::Live;
            let gone = is_absent(&*peers, &peer).await;
            assert!(!(gone && live), "reads live, and nobody finds it any more");
            gone
        })
        .await;
        faulty.set(Mode::Pass);
        eventually(ctx.recovery() * 2, || async {
            registration.state() == RegistrationState::Live
        })
        .await;
    }
}
