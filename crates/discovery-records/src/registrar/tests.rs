use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering},
};

use discovery_core::{
    Cluster, Moment, Retry, limit,
    store::{Held, Listing, Record, Removal, Removed, Renewal, Session, Write, Written},
};
use discovery_memory::MemoryStore;

use super::*;

const TTL: Duration = Duration::from_secs(9);

/// A memory store whose writes and renewals fail while told to.
#[derive(Debug, Default)]
struct Flaky {
    store: MemoryStore,
    refuse_key: Mutex<Option<RecordKey>>,
    lose_answers: AtomicU32,
    renewals: AtomicU32,
    opened: AtomicU32,
}

fn unavailable() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Unavailable, "as told")
}

#[async_trait::async_trait]
impl RecordStore for Flaky {
    async fn open(&self, ttl: Duration) -> Result<Session, DiscoveryError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.store.open(ttl).await
    }

    async fn write(&self, session: &Session, items: &[Write]) -> Vec<Result<Written, DiscoveryError>> {
        let refused = self.refuse_key.lock().unwrap().clone();
        let mut answers = Vec::new();
        for item in items {
            if refused.as_ref() == Some(&item.key) {
                answers.push(Err(unavailable()));
                continue;
            }
            let answer = self
                .store
                .write(session, std::slice::from_ref(item))
                .await
                .remove(0);
            let lost = self
                .lose_answers
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            answers.push(match lost {
                Ok(_) => Err(unavailable().with_retry(Retry::OutcomeUnknown)),
                Err(_) => answer,
            });
        }
        answers
    }

    async fn renew(&self, session: &Session, held: &[Held]) -> Result<Renewal, DiscoveryError> {
        self.renewals.fetch_add(1, Ordering::Relaxed);
        self.store.renew(session, held).await
    }

    async fn remove(&self, session: &Session, removal: &Removal) -> Result<Removed, DiscoveryError> {
        self.store.remove(session, removal).await
    }

    async fn close(&self, session: &Session) -> Result<(), DiscoveryError> {
        self.store.close(session).await
    }

    async fn get(&self, keys: &[RecordKey]) -> Vec<Result<Option<Record>, DiscoveryError>> {
        self.store.get(keys).await
    }

    async fn list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Result<Listing, DiscoveryError> {
        self.store.list(prefix, page).await
    }
}

fn registrar(store: &Arc<Flaky>, clock: Clock) -> Registrar {
    let store = store.clone();
    let open: OpenStore = Box::new(move || {
        let store = store.clone();
        Box::pin(async move { Ok(store as Arc<dyn RecordStore>) })
    });
    Registrar::new(RegistrarConfig::new("test", TTL).with_clock(clock), open)
}

fn key(name: &str) -> RecordKey {
    RecordKey::try_new(&Cluster::default(), "things", &[name]).unwrap()
}

fn intent(name: &str, body: &'static str) -> Intent {
    let judge = move |standing: &[u8]| match standing == body.as_bytes() {
        true => Ok(()),
        false => Err(DiscoveryError::new(ErrorKind::ChecksumMismatch, "another body")),
    };
    Intent {
        key: key(name),
        body: Bytes::from_static(body.as_bytes()),
        judge: Box::new(judge),
    }
}

async fn standing(store: &Flaky, name: &str) -> Option<Record> {
    store.get(&[key(name)]).await.remove(0).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_registration_ends_with_its_last_hold() {
    let store = Arc::new(Flaky::default());
    let registrar = registrar(&store, Clock::default());
    let first = registrar.register(intent("a", "x")).await.unwrap();
    let second = registrar.register(intent("a", "x")).await.unwrap();
    first.unregister().await.unwrap();
    assert!(standing(&store, "a").await.is_some());
    second.unregister().await.unwrap();
    assert!(standing(&store, "a").await.is_none());
    assert_eq!(store.opened.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn another_body_in_the_same_process_is_judged_like_one_elsewhere() {
    let store = Arc::new(Flaky::default());
    let registrar = registrar(&store, Clock::default());
    let _held = registrar.register(intent("a", "x")).await.unwrap();
    let error = registrar.register(intent("a", "y")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ChecksumMismatch);
}

#[tokio::test(start_paused = true)]
async fn one_record_that_cannot_be_written_stops_the_renewal_of_no_other() {
    let store = Arc::new(Flaky::default());
    let registrar = registrar(&store, Clock::default());
    let good = registrar.register(intent("good", "x")).await.unwrap();
    let bad = registrar.register(intent("bad", "x")).await.unwrap();
    *store.refuse_key.lock().unwrap() = Some(key("bad"));
    let stood = standing(&store, "bad").await.unwrap();
    // Somebody deletes the record, and writing it again is refused from now on.
    let thief = store.open(limit::TTL.start().to_owned()).await.unwrap();
    let removal = Removal {
        key: key("bad"),
        writer: stood.writer,
        expect: discovery_core::store::Expect::Version(stood.version),
    };
    assert!(matches!(
        store.remove(&thief, &removal).await.unwrap(),
        Removed::Done
    ));
    for _ in 0..40 {
        tokio::time::sleep(TTL / 4).await;
        assert_eq!(good.state(), RegistrationState::Live);
        assert!(standing(&store, "good").await.is_some());
    }
    assert_eq!(bad.state(), RegistrationState::Lost);
    *store.refuse_key.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(bad.state(), RegistrationState::Live);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_recognised_and_later_removed() {
    let store = Arc::new(Flaky::default());
    store.lose_answers.store(1, Ordering::Relaxed);
    let registrar = registrar(&store, Clock::default());
    let held = registrar.register(intent("a", "x")).await.unwrap();
    assert_eq!(held.state(), RegistrationState::Live);
    held.unregister().await.unwrap();
    assert!(standing(&store, "a").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_failed_leaves_nothing_behind() {
    let store = Arc::new(Flaky::default());
    store.lose_answers.store(u32::MAX, Ordering::Relaxed);
    let registrar = registrar(&store, Clock::default());
    // Two registrations on one session, so that ending the session is not what cleans up.
    let outcome = tokio::time::timeout(Duration::from_millis(10), registrar.register(intent("a", "x"))).await;
    assert!(outcome.is_err());
    store.lose_answers.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(standing(&store, "a").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_renewed_once_nothing_is_held() {
    let store = Arc::new(Flaky::default());
    let registrar = registrar(&store, Clock::default());
    registrar
        .register(intent("a", "x"))
        .await
        .unwrap()
        .unregister()
        .await
        .unwrap();
    let before = store.renewals.load(Ordering::Relaxed);
    tokio::time::sleep(TTL * 10).await;
    assert_eq!(store.renewals.load(Ordering::Relaxed), before);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_suspended_does_not_read_live() {
    let store = Arc::new(Flaky::default());
    let slept = Arc::new(Mutex::new(Duration::ZERO));
    let clock = {
        let slept = slept.clone();
        Clock::from_fn(move || {
            let Moment { steady, wall } = Clock::default().now();
            Moment {
                steady,
                wall: wall + *slept.lock().unwrap(),
            }
        })
    };
    let registrar = registrar(&store, clock);
    let held = registrar.register(intent("a", "x")).await.unwrap();
    assert_eq!(held.state(), RegistrationState::Live);
    *slept.lock().unwrap() = TTL;
    assert_eq!(held.state(), RegistrationState::Suspect);
    tokio::time::sleep(TTL / 2).await;
    assert_eq!(held.state(), RegistrationState::Live);
}

#[tokio::test(start_paused = true)]
async fn dropping_every_handle_removes_what_was_registered() {
    let store = Arc::new(Flaky::default());
    let registrar = registrar(&store, Clock::default());
    let held = registrar.register(intent("a", "x")).await.unwrap();
    drop(registrar);
    tokio::time::sleep(TTL * 2).await;
    assert!(
        standing(&store, "a").await.is_some(),
        "a registration keeps its registrar alive"
    );
    drop(held);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(standing(&store, "a").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn shutdown_may_be_called_again_and_closes() {
    let store = Arc::new(Flaky::default());
    let registrar = registrar(&store, Clock::default());
    let _held = registrar.register(intent("a", "x")).await.unwrap();
    for _ in 0..2 {
        registrar.shutdown(Duration::from_secs(1)).await.unwrap();
        assert!(standing(&store, "a").await.is_none());
    }
    assert_eq!(
        registrar.register(intent("a", "x")).await.unwrap_err().kind(),
        ErrorKind::Closed
    );
}
