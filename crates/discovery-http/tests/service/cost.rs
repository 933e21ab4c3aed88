//! What an idle client costs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use discovery_core::{
    DiscoveryError, DiscoverySystem, InstanceId, WorkerAddress,
    store::{
        Held, Listing, Record, RecordKey, RecordStore, Removal, Removed, Renewal, Session, Write, Written,
    },
};
use discovery_http::HttpSystem;
use discovery_memory::MemoryStore;
use tokio::time::sleep;

use crate::harness::{SECOND, any_port, config, serve};

/// Counts calls: the service makes one per request.
#[derive(Debug, Default)]
struct Counted {
    store: MemoryStore,
    calls: AtomicUsize,
}

impl Counted {
    fn store(&self) -> &MemoryStore {
        self.calls.fetch_add(1, Ordering::Relaxed);
        &self.store
    }
}

#[async_trait]
impl RecordStore for Counted {
    async fn open(&self, ttl: Duration) -> Result<Session, DiscoveryError> {
        self.store().open(ttl).await
    }

    async fn write(&self, session: &Session, items: &[Write]) -> Vec<Result<Written, DiscoveryError>> {
        self.store().write(session, items).await
    }

    async fn renew(&self, session: &Session, held: &[Held]) -> Result<Renewal, DiscoveryError> {
        self.store().renew(session, held).await
    }

    async fn remove(&self, session: &Session, removal: &Removal) -> Result<Removed, DiscoveryError> {
        self.store().remove(session, removal).await
    }

    async fn close(&self, session: &Session) -> Result<(), DiscoveryError> {
        self.store().close(session).await
    }

    async fn get(&self, keys: &[RecordKey]) -> Vec<Result<Option<Record>, DiscoveryError>> {
        self.store().get(keys).await
    }

    async fn list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Result<Listing, DiscoveryError> {
        self.store().list(prefix, page).await
    }
}

#[tokio::test]
async fn an_idle_client_sends_one_renewal_for_all_it_registered() {
    let store = Arc::new(Counted::default());
    let server = serve(any_port(), Duration::ZERO, store.clone()).await;
    let config = config(server.local_addr()).with_ttl(3 * SECOND);
    let _without_registration = HttpSystem::connect(config.clone()).await.unwrap();
    assert_eq!(store.calls.load(Ordering::Relaxed), 0);

    let system = HttpSystem::connect(config).await.unwrap();
    let peers = system.peer_discovery().unwrap();
    let mut registrations = Vec::new();
    for number in 0..20 {
        let address = WorkerAddress::from_bytes(format!("tcp://{number}"));
        registrations.push(
            peers
                .register_instance(InstanceId::new_v4(), address)
                .await
                .unwrap(),
        );
    }
    let before = store.calls.load(Ordering::Relaxed);
    sleep(3 * SECOND).await;
    let calls = store.calls.load(Ordering::Relaxed) - before;
    // Every third of the TTL, a little earlier or later.
    assert!((2..=5).contains(&calls), "{calls} requests within one TTL");
    system.shutdown(SECOND).await.unwrap();
}
