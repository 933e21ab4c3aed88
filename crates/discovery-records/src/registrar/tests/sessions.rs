//! Sessions that end late, come back, or do not exist.

use super::{sessionless::Sessionless, *};

#[tokio::test(start_paused = true)]
async fn a_close_that_arrives_late_takes_nothing_new_along() {
    let store = Arc::<Faulty>::default();
    store.faults().late_close = true;
    let registrar = registrar(&store, LONG_TTL);
    drop(registrar.register(intent("a", "x")).await.unwrap());
    // Just before the close fails; it takes effect half a second after that.
    sleep(Duration::from_millis(1_990)).await;
    let held = registrar.register(intent("a", "x")).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    assert!(stands(&store.memory, "a").await, "but is {}", held.state());
    assert_eq!(held.state(), RegistrationState::Live);
    assert_eq!(store.opened(), 2, "not on the session that is leaving");
}

#[tokio::test(start_paused = true)]
async fn two_holders_without_sessions_leave_the_record_where_it_is() {
    let store = Arc::new(Sessionless::new().await);
    let (first, second) = (registrar(&store, TTL), registrar(&store, TTL));
    let a = first.register(intent("a", "x")).await.unwrap();
    let b = second.register(intent("a", "x")).await.unwrap();
    let taken_over = standing(&store.memory, "a").await.unwrap();
    for _ in 0..6_000 {
        sleep(Duration::from_millis(100)).await;
        let record = standing(&store.memory, "a").await.unwrap();
        assert_eq!(record.writer, taken_over.writer, "renewing moves nothing");
    }
    let record = standing(&store.memory, "a").await.unwrap();
    assert_ne!(record.version, taken_over.version, "renewed");
    a.unregister().await.unwrap();
    assert!(stands(&store.memory, "a").await, "still held");
    b.unregister().await.unwrap();
    assert!(!stands(&store.memory, "a").await, "held no more");
}

#[tokio::test(start_paused = true)]
async fn what_a_store_took_up_is_removed_for_good() {
    let store = Arc::<Faulty>::default();
    store.faults().takes_up = true;
    let (first, second) = (registrar(&store, LONG_TTL), registrar(&store, LONG_TTL));
    let a = first.register(intent("a", "x")).await.unwrap();
    let _other = first.register(intent("other", "x")).await.unwrap();
    let b = second.register(intent("a", "x")).await.unwrap();
    // Until the first has noticed that the second keeps the record.
    sleep(LONG_TTL / 2).await;
    b.unregister().await.unwrap();
    // Before the next renewal, which comes to an empty store.
    store.memory.wipe();
    sleep(Duration::from_secs(25)).await;
    assert_eq!(a.state(), RegistrationState::Live);
    assert!(stands(&store.memory, "a").await, "made again");
    assert!(stands(&store.memory, "other").await, "taken up");
    assert_eq!(store.opened(), 2, "no session had to be asked for");
    a.unregister().await.unwrap();
    for _ in 0..300 {
        assert!(!stands(&store.memory, "a").await, "came back");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_ends_after_its_session_was_handed_over_is_still_removed() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, TTL);
    let _other = registrar.register(intent("other", "x")).await.unwrap();
    store.faults().hands_over = true;
    store.faults().late_answer = Some((key("a"), TTL / 2));
    let registering = {
        let registrar = registrar.clone();
        tokio::spawn(async move { registrar.register(intent("a", "x")).await })
    };
    sleep(Duration::from_secs(1)).await;
    assert!(stands(&store.memory, "a").await, "written, and not yet answered");
    // Given up before the renewal, which comes before the answer.
    registrar.unregister(&key("a"), |_| true).await.unwrap();
    assert!(!stands(&store.memory, "a").await, "gone once unregistered");
    assert!(registering.await.unwrap().is_err());
    sleep(TTL).await;
    assert!(!stands(&store.memory, "a").await && stands(&store.memory, "other").await);
}
