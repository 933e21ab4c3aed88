//! Several holds on one registration, and giving them up.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_registration_ends_with_its_last_hold() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, TTL);
    let first = registrar.register(intent("a", "x")).await.unwrap();
    let second = registrar.register(intent("a", "x")).await.unwrap();
    first.unregister().await.unwrap();
    assert!(stands(&store.memory, "a").await, "still held");
    second.unregister().await.unwrap();
    assert!(!stands(&store.memory, "a").await, "held no more");
    assert_eq!(store.opened(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_body_in_the_same_process_is_judged_like_one_elsewhere() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, TTL);
    let _held = registrar.register(intent("a", "x")).await.unwrap();
    let error = registrar.register(intent("a", "y")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ChecksumMismatch);
}

#[tokio::test(start_paused = true)]
async fn dropping_every_handle_removes_what_was_registered() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, TTL);
    let held = registrar.register(intent("a", "x")).await.unwrap();
    drop(registrar);
    sleep(TTL * 2).await;
    let kept = stands(&store.memory, "a").await;
    assert!(kept, "a registration keeps its registrar alive");
    drop(held);
    sleep(Duration::from_secs(1)).await;
    assert!(!stands(&store.memory, "a").await, "nobody holds it");
}

#[tokio::test(start_paused = true)]
async fn another_hold_on_a_lost_registration_is_not_granted_until_it_stands() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, TTL);
    let held = registrar.register(intent("a", "x")).await.unwrap();
    store.faults().refused.insert(key("a"), unavailable());
    store.memory.wipe();
    sleep(Duration::from_secs(4)).await;
    assert_eq!(held.state(), RegistrationState::Lost);
    let error = registrar.register(intent("a", "x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    store.faults().refused.clear();
    let again = registrar.register(intent("a", "x")).await.unwrap();
    assert_eq!(again.state(), RegistrationState::Live);
    assert_eq!(held.state(), RegistrationState::Live, "the first hold goes on");
}

#[tokio::test(start_paused = true)]
async fn unregistering_again_fails_for_as_long_as_the_record_stands() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, LONG_TTL);
    let _held = registrar.register(intent("a", "x")).await.unwrap();
    store.faults().trouble = Some(Trouble::Down);
    for attempt in 0..2 {
        let outcome = registrar.unregister(&key("a"), |_| true).await;
        assert!(outcome.is_err(), "attempt {attempt} although it stands");
    }
    store.faults().trouble = None;
    registrar.unregister(&key("a"), |_| true).await.unwrap();
    assert!(!stands(&store.memory, "a").await, "unregistered");
}
