//! The life of a registration: R9 to R14, R16.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use discovery_core::{ErrorKind, PeerInfo, RegistrationState, peer::RegistrationObserver};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::{
    Fault, Mode, journal,
    trial::{Ctx, colliding, eventually, is_absent, peer, peers_of, register, trials},
};

trials! { "registration":
    "R9" a_killed_owner_is_gone_after_its_ttl [Register, Expiry];
    "R10" a_deleted_record_comes_back [Register];
    "R10" a_revoked_session_comes_back [Register, Expiry];
    "R10" a_wiped_store_is_filled_again [Register];
    "R10" an_outage_longer_than_the_ttl_is_survived [Register];
    "R11" a_paused_owner_whose_place_was_taken_learns_it [Register, Expiry];
    "R12" a_late_create_of_an_ended_registration_does_not_happen [Register];
    "R12" a_late_create_on_a_session_that_lives_on_does_not_happen [Register];
    "R12" a_late_renewal_of_an_ended_registration_brings_nothing_back [Register];
    "R13" each_change_of_state_is_seen_and_logged_once_with_its_cause [Register];
    "R14" any_number_of_registrations_shares_one_session [Register];
    "R16" a_blocked_application_stays_registered [Register, Expiry] real_time;
    "R16" a_process_past_its_deadline_never_reads_live [Register];
}

async fn a_killed_owner_is_gone_after_its_ttl(ctx: Ctx) {
    let peer = peer();
    let member = ctx.member(&peer).await;
    ctx.found_within(ctx.propagation(), &peer).await;
    sleep(ctx.ttl() * 2).await;
    ctx.found_within(Duration::ZERO, &peer).await;
    member.kill();
    ctx.gone_within(ctx.expiry(), &peer).await;
    let peers = ctx.peers().await;
    ctx.stays(ctx.ttl(), "it came back", || is_absent(&*peers, &peer))
        .await;
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
        sleep(ctx.ttl() * 2).await;
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

async fn nothing_arrives_late(ctx: &Ctx, faulty: &crate::Faulty, peer: &PeerInfo) {
    ctx.gone_within(ctx.propagation(), peer).await;
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
    faulty.set(Mode::Cut);
    eventually(ctx.ttl(), || async {
        observer.state() == RegistrationState::Renewing
    })
    .await;
    let cause = observer.cause().expect("a cause");
    assert_eq!(cause.kind(), ErrorKind::Unavailable, "{cause}");
    eventually(ctx.expiry(), || async {
        observer.state() == RegistrationState::Suspect
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
    let key = ctx.key(&peer).to_string();
    let logged = journal::entries(|entry| entry.get("key") == Some(&key) && entry.contains_key("state"));
    let states: Vec<_> = logged.iter().map(|entry| entry["state"].as_str()).collect();
    assert!(
        !states.windows(2).any(|pair| pair[0] == pair[1]),
        "logged twice: {states:?}"
    );
    for state in ["live", "renewing", "lost", "gone"] {
        assert!(states.contains(&state), "{state} was not logged: {states:?}");
    }
    for entry in logged
        .iter()
        .filter(|entry| ["renewing", "lost", "suspect"].contains(&entry["state"].as_str()))
    {
        assert!(entry.contains_key("cause"), "{entry:?}");
    }
}

async fn any_number_of_registrations_shares_one_session(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    let peers: Vec<_> = (0..50).map(|_| peer()).collect();
    let registrations = join_all(peers.iter().map(|peer| register(&*system, peer))).await;
    assert!(registrations.iter().all(Result::is_ok));
    let before = faulty.renewals();
    sleep(ctx.ttl() * 3).await;
    let renewals = faulty.renewals() - before;
    assert_eq!(faulty.opens(), 1, "sessions");
    // Nine intervals of up to a tenth less than a third of the TTL each.
    assert!((1..=12).contains(&renewals), "{renewals} renewals in three TTLs");
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
