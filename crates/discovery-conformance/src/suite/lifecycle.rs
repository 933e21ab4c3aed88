//! The life of a registration: R9 to R14, R16.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use discovery_core::{
    ErrorKind, PeerInfo, RegistrationState,
    peer::RegistrationObserver,
    store::{Expect, Write, Writer, Written},
};
use discovery_records::peer::encode;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::{
    Fault, Mode, journal,
    trial::{Ctx, colliding, eventually, is_absent, peer, peers_of, register, trials},
};

trials! { "registration":
    "R9" a_killed_owner_is_gone_after_its_ttl [Register, Expiry];
    "R10" a_deleted_record_comes_back [Register];
    "R10" what_is_lost_is_back_after_a_third_of_a_long_ttl [Register, Expiry];
    "R10" a_revoked_session_comes_back [Register, Expiry];
    "R10" what_is_lost_and_cannot_be_written_for_long_comes_back [Register, Expiry];
    "R10" a_wiped_store_is_filled_again [Register];
    "R10" an_outage_longer_than_the_ttl_is_survived [Register];
    "R10" a_backend_that_refuses_for_a_while_is_survived [Register];
    "R11" a_paused_owner_whose_place_was_taken_learns_it [Register, Expiry];
    "R11" one_of_many_whose_place_was_taken_learns_it [Register];
    "R12" a_late_create_of_an_ended_registration_does_not_happen [Register];
    "R12" a_late_create_on_a_session_that_lives_on_does_not_happen [Register];
    "R12" a_late_create_of_a_failed_registration_does_not_happen [Register];
    "R12" a_late_create_of_a_superseded_registration_does_not_happen [Register];
    "R12" what_hangs_on_the_session_unwanted_is_removed [Register, Expiry];
    "R12" a_late_renewal_of_an_ended_registration_brings_nothing_back [Register];
    "R13" each_change_of_state_is_seen_and_logged_once_with_its_cause [Register];
    "R13" the_loss_of_a_place_is_seen_and_logged_once_with_its_cause [Register];
    "R13" the_state_is_computed_when_it_is_read [Register];
    "R14" any_number_of_registrations_shares_one_session [Register];
    "R16" a_blocked_application_stays_registered [Register, Expiry] real_time;
    "R16" a_process_past_its_deadline_never_reads_live [Register];
    "R16" an_answer_that_comes_late_prolongs_nothing [Register, Expiry];
}

async fn a_killed_owner_is_gone_after_its_ttl(ctx: Ctx) {
    // Before the first renewal, and after some.
    for age in [Duration::ZERO, ctx.ttl() * 2] {
        let peer = peer();
        let member = ctx.member(&peer).await;
        ctx.found_within(ctx.propagation(), &peer).await;
        sleep(age).await;
        ctx.found_within(Duration::ZERO, &peer).await;
        member.kill();
        ctx.gone_within(ctx.expiry(), &peer).await;
        let peers = ctx.peers().await;
        ctx.stays(ctx.ttl(), "it came back", || is_absent(&*peers, &peer))
            .await;
    }
}

/// After whatever happened: back within the bound, as exactly one record, without a call.
async fn is_back(ctx: &Ctx, peer: &PeerInfo, observer: &RegistrationObserver) {
    ctx.found_within(ctx.recovery(), peer).await;
    eventually(ctx.recovery(), || async {
        observer.state() == RegistrationState::Live
    })
    .await;
    let listed = ctx
        .peers()
        .await
        .watch()
        .expect("a list")
        .list_peers()
        .await
        .expect("listed");
    assert_eq!(listed, std::slice::from_ref(peer), "exactly one record");
    let peers = ctx.peers().await;
    ctx.stays(ctx.ttl() * 2, "lost again", || async {
        peers.discover_by_instance_id(peer.instance_id()).await.is_ok()
    })
    .await;
}

async fn a_deleted_record_comes_back(ctx: Ctx) {
    let (system, peer) = (ctx.connect().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    ctx.delete(&peer).await;
    is_back(&ctx, &peer, &registration.observer()).await;
}

async fn what_is_lost_is_back_after_a_third_of_a_long_ttl(ctx: Ctx) {
    let (mut how, peers) = (ctx.how(), [peer(), peer(), peer()]);
    how.ttl = ctx.long_ttl();
    let (faulty, system) = ctx.faulty_with(&how).await;
    let registrations = join_all(peers.iter().map(|peer| register(&*system, peer))).await;
    assert!(registrations.iter().all(Result::is_ok));
    let recovery = how.ttl / 3 + Duration::from_secs(2) + ctx.propagation();
    for _ in 0..3 {
        ctx.delete(&peers[0]).await;
        ctx.found_within(recovery, &peers[0]).await;
        // All of them at once.
        let session = faulty.sessions().pop().expect("a session");
        ctx.store().await.close(&session).await.expect("revoked");
        let back = peers.iter().map(|peer| ctx.found_within(recovery, peer));
        join_all(back).await;
    }
}

async fn a_revoked_session_comes_back(ctx: Ctx) {
    let ((faulty, system), peer) = (ctx.faulty().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    let session = faulty.sessions().pop().expect("a session");
    ctx.store().await.close(&session).await.expect("revoked");
    assert!(
        is_absent(&*ctx.peers().await, &peer).await,
        "its session kept it alive"
    );
    is_back(&ctx, &peer, &registration.observer()).await;
}

async fn what_is_lost_and_cannot_be_written_for_long_comes_back(ctx: Ctx) {
    let ((faulty, system), peer) = (ctx.faulty().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    let session = faulty.sessions().pop().expect("a session");
    // Nothing else fails: it learns of the loss, and no write is answered.
    faulty.hold_writes(u32::MAX);
    ctx.store().await.close(&session).await.expect("revoked");
    sleep(ctx.long_outage()).await;
    assert_eq!(registration.state(), RegistrationState::Lost);
    faulty.hold_writes(0);
    is_back(&ctx, &peer, &registration.observer()).await;
}

async fn a_wiped_store_is_filled_again(ctx: Ctx) {
    let (system, peer) = (ctx.connect().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    ctx.fault(Fault::Wipe).await;
    is_back(&ctx, &peer, &registration.observer()).await;
}

async fn an_outage_longer_than_the_ttl_is_survived(ctx: Ctx) {
    for fault in [Fault::Cut, Fault::Stall] {
        let (system, peer) = (ctx.connect().await, peer());
        let registration = register(&*system, &peer).await.expect("registered");
        ctx.fault(fault).await;
        sleep(ctx.long_outage()).await;
        assert_ne!(
            registration.state(),
            RegistrationState::Live,
            "nobody could renew"
        );
        ctx.fault(Fault::Heal).await;
        is_back(&ctx, &peer, &registration.observer()).await;
        registration.unregister().await.expect("unregistered");
        ctx.gone_within(ctx.propagation(), &peer).await;
    }
}

async fn a_backend_that_refuses_for_a_while_is_survived(ctx: Ctx) {
    let ((faulty, system), peer) = (ctx.faulty().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    for outage in [ctx.ttl() / 2, ctx.long_outage()] {
        // As while credentials are rotated.
        faulty.set(Mode::Deny);
        sleep(outage).await;
        faulty.set(Mode::Pass);
        is_back(&ctx, &peer, &registration.observer()).await;
    }
}

async fn a_paused_owner_whose_place_was_taken_learns_it(ctx: Ctx) {
    let (zombie, successor) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let member = ctx.member(&zombie).await;
    assert!(member.state().is_live(), "{:?}", member.state());
    member.pause();
    ctx.gone_within(ctx.expiry(), &zombie).await;
    let (_session, planted) = ctx.plant_peer(&successor).await;
    member.resume();
    let superseded = crate::MemberState::State("superseded".to_owned());
    eventually(ctx.recovery(), || async { member.state() == superseded }).await;
    ctx.stays(ctx.ttl() * 2, "the zombie wrote after its successor", || async {
        ctx.standing(&successor)
            .await
            .is_some_and(|record| record.version == planted.version)
    })
    .await;
    ctx.delete(&successor).await;
    let peers = ctx.peers().await;
    ctx.stays(
        ctx.ttl() * 2,
        "the zombie wrote after its successor had left",
        || is_absent(&*peers, &zombie),
    )
    .await;
    assert_eq!(member.state(), superseded, "superseded is final");
}

async fn one_of_many_whose_place_was_taken_learns_it(ctx: Ctx) {
    let ((faulty, system), bystander) = (ctx.faulty().await, peer());
    let (zombie, successor) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let other = register(&*system, &bystander).await.expect("registered");
    let registration = register(&*system, &zombie).await.expect("registered");
    faulty.set(Mode::Freeze);
    ctx.delete(&zombie).await;
    let (_session, planted) = ctx.plant_peer(&successor).await;
    faulty.set(Mode::Pass);
    eventually(ctx.recovery(), || async {
        registration.state() == RegistrationState::Superseded
    })
    .await;
    ctx.stays(ctx.ttl() * 2, "the zombie wrote after its successor", || async {
        ctx.standing(&successor)
            .await
            .is_some_and(|record| record.version == planted.version)
    })
    .await;
    assert_eq!(other.state(), RegistrationState::Live);
    ctx.delete(&successor).await;
    let _again = register(&*system, &zombie)
        .await
        .expect("the place is free, whoever still holds what was lost");
    ctx.found_within(ctx.propagation(), &zombie).await;
    assert_eq!(registration.state(), RegistrationState::Superseded, "final");
}

async fn a_late_create_of_an_ended_registration_does_not_happen(ctx: Ctx) {
    let ((faulty, system), peer) = (ctx.faulty().await, peer());
    faulty.hold_writes(1);
    let registration = register(&*system, &peer)
        .await
        .expect("registered by the second write");
    registration.unregister().await.expect("unregistered");
    nothing_arrives_late(&ctx, &faulty, &peer).await;
}

async fn a_late_create_on_a_session_that_lives_on_does_not_happen(ctx: Ctx) {
    let ((faulty, system), peer, bystander) = (ctx.faulty().await, peer(), self::peer());
    let _other = register(&*system, &bystander).await.expect("registered");
    faulty.hold_writes(1);
    let registration = register(&*system, &peer)
        .await
        .expect("registered by the second write");
    registration.unregister().await.expect("unregistered");
    nothing_arrives_late(&ctx, &faulty, &peer).await;
    ctx.found_within(ctx.propagation(), &bystander).await;
    let again = register(&*system, &peer)
        .await
        .expect("a new registration is not fenced");
    ctx.found_within(ctx.propagation(), &peer).await;
    drop(again);
}

async fn a_late_create_of_a_failed_registration_does_not_happen(ctx: Ctx) {
    let ((faulty, system), peer, bystander) = (ctx.faulty().await, peer(), self::peer());
    let _other = register(&*system, &bystander).await.expect("registered");
    faulty.hold_writes(u32::MAX);
    let error = register(&*system, &peer).await.expect_err("nobody answered");
    assert!(
        matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout),
        "{error}"
    );
    faulty.hold_writes(0);
    sleep(ctx.recovery()).await;
    nothing_arrives_late(&ctx, &faulty, &peer).await;
    ctx.found_within(ctx.propagation(), &bystander).await;
}

async fn a_late_create_of_a_superseded_registration_does_not_happen(ctx: Ctx) {
    let ((faulty, system), bystander) = (ctx.faulty().await, peer());
    let (loser, winner) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let _other = register(&*system, &bystander).await.expect("registered");
    let _planted = ctx.plant_peer(&winner).await;
    faulty.hold_writes(1);
    let error = register(&*system, &loser).await.expect_err("the place is taken");
    assert_eq!(error.kind(), ErrorKind::WorkerIdCollision, "{error}");
    sleep(ctx.propagation()).await;
    ctx.delete(&winner).await;
    nothing_arrives_late(&ctx, &faulty, &loser).await;
    ctx.found_within(ctx.propagation(), &bystander).await;
}

async fn what_hangs_on_the_session_unwanted_is_removed(ctx: Ctx) {
    let ((faulty, system), peer, late) = (ctx.faulty().await, peer(), self::peer());
    let registration = register(&*system, &peer).await.expect("registered");
    let session = faulty.sessions().pop().expect("a session");
    // What a client library had queued: nobody holds it, and the session would keep it alive.
    let item = Write {
        key: ctx.key(&late),
        body: encode(&late).expect("a valid peer"),
        writer: Writer::random(),
        expect: Expect::Absent,
    };
    let written = ctx.store().await.write(&session, &[item]).await.remove(0);
    assert!(matches!(written, Ok(Written::Done(_))), "{written:?}");
    let peers = ctx.peers().await;
    eventually(ctx.ttl() + ctx.propagation(), || is_absent(&*peers, &late)).await;
    ctx.stays(ctx.ttl(), "it came back", || is_absent(&*peers, &late))
        .await;
    ctx.found_within(ctx.propagation(), &peer).await;
    assert_eq!(registration.state(), RegistrationState::Live);
}

async fn nothing_arrives_late(ctx: &Ctx, faulty: &crate::Faulty, peer: &PeerInfo) {
    ctx.gone_within(ctx.propagation(), peer).await;
    assert!(faulty.held_back() > 0, "nothing is on its way");
    faulty.deliver_late().await;
    let peers = ctx.peers().await;
    ctx.stays(ctx.ttl() * 2, "an ended registration can be found again", || {
        is_absent(&*peers, peer)
    })
    .await;
}

async fn a_late_renewal_of_an_ended_registration_brings_nothing_back(ctx: Ctx) {
    let ((faulty, system), peer) = (ctx.faulty().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    eventually(ctx.ttl() * 2, || async { faulty.renewals() > 0 }).await;
    registration.unregister().await.expect("unregistered");
    let late = faulty.renew_late().await.expect("there was a renewal");
    if let Err(error) = late {
        assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error}");
    }
    let peers = ctx.peers().await;
    ctx.stays(ctx.ttl() * 2, "an ended registration can be found again", || {
        is_absent(&*peers, &peer)
    })
    .await;
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
    let ((faulty, system), peer) = (ctx.faulty().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    let (observer, seen) = (registration.observer(), watched(registration.observer()));
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

async fn any_number_of_registrations_shares_one_session(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    let peers: Vec<_> = (0..50).map(|_| peer()).collect();
    let (at_once, later) = peers.split_at(40);
    let mut registrations = join_all(at_once.iter().map(|peer| register(&*system, peer))).await;
    for peer in later {
        registrations.push(register(&*system, peer).await);
    }
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
    let ttl = ctx.bounds().min_ttl.max(Duration::from_secs(1));
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
