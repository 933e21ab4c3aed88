//! When renewals are made, and what they tell.

use std::sync::Mutex;

use discovery_core::Moment;
use futures_util::future::join_all;

use super::*;

#[tokio::test(start_paused = true)]
async fn nothing_is_renewed_once_nothing_is_held() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, TTL);
    let held = registrar.register(intent("a", "x")).await.unwrap();
    sleep(TTL).await;
    held.unregister().await.unwrap();
    let before = store.renewals();
    assert!(before > 0, "renewed while held");
    sleep(TTL * 10).await;
    assert_eq!(store.renewals(), before);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_suspended_does_not_read_live() {
    let store = Arc::<Faulty>::default();
    let slept = Arc::<Mutex<Duration>>::default();
    let clock = {
        let slept = slept.clone();
        Clock::from_fn(move || {
            let Moment { steady, wall } = Clock::default().now();
            let wall = wall + *slept.lock().unwrap();
            Moment { steady, wall }
        })
    };
    let registrar = registrar_with(config(TTL).with_clock(clock), &store);
    let held = registrar.register(intent("a", "x")).await.unwrap();
    assert_eq!(held.state(), RegistrationState::Live);
    *slept.lock().unwrap() = TTL;
    assert_eq!(held.state(), RegistrationState::Suspect);
    sleep(TTL / 2).await;
    assert_eq!(held.state(), RegistrationState::Live);
}

#[tokio::test(start_paused = true)]
async fn one_record_that_cannot_be_told_of_unsettles_no_other() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, LONG_TTL);
    let bad = registrar.register(intent("bad", "x")).await.unwrap();
    // Many, so that some are told of before that one and some after it.
    let mut good = Vec::new();
    for number in 0..20 {
        let intent = intent(&format!("good{number}"), "x");
        good.push(registrar.register(intent).await.unwrap());
    }
    store.faults().untold.push(key("bad"));
    let watching = good.iter().map(|good| changes_within(LONG_TTL * 2, good));
    assert_eq!(join_all(watching).await, vec![0; good.len()]);
    assert!(
        good.iter().all(|good| good.state() == RegistrationState::Live),
        "all others"
    );
    assert_eq!(bad.state(), RegistrationState::Suspect);
    // Asked for again after a twelfth of the TTL at the earliest.
    let renewals = store.renewals();
    assert!((6..=24).contains(&renewals), "{renewals} renewals");
}

#[tokio::test(start_paused = true)]
async fn calls_that_take_long_never_hold_up_renewal() {
    let store = Arc::<Faulty>::default();
    // Less than one slow call takes.
    let registrar = registrar(&store, *limit::TTL.start());
    let good = registrar.register(intent("good", "x")).await.unwrap();
    let bye = registrar.register(intent("bye", "x")).await.unwrap();
    store.faults().slow.extend([key("bye"), key("new")]);
    drop(bye);
    let renewing = changes_within(Duration::from_secs(20), &good);
    let (changes, failed) = tokio::join!(renewing, registrar.register(intent("new", "x")));
    assert!(failed.is_err(), "{failed:?}");
    assert_eq!(changes, 0);
    assert_eq!(store.opened(), 1, "the session was lost");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_without_answers_hides_no_loss() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, TTL);
    let held = registrar.register(intent("a", "x")).await.unwrap();
    store.faults().short = true;
    delete(&store.memory, "a").await;
    sleep(TTL * 5).await;
    assert_eq!(held.state(), RegistrationState::Suspect);
    assert_eq!(held.cause().unwrap().kind(), ErrorKind::Unexpected);
    store.faults().short = false;
    sleep(TTL).await;
    assert!(stands(&store.memory, "a").await, "created again");
    assert_eq!(held.state(), RegistrationState::Live);
}
