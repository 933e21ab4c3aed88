//! A store that counts its calls and can be made to fail.

use std::{
    future::pending,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use discovery_core::{
    DiscoveryError,
    store::{
        Changes, Held, Listing, Position, Record, RecordKey, RecordStore, Removal, Removed, Renewal, Session,
        Write, Written,
    },
};
use discovery_memory::MemoryStore;

/// Counts calls, of which the service makes one per request; reading `hang` hangs, reading or
/// writing `panic` panics.
#[derive(Debug, Default)]
pub(crate) struct Odd {
    store: MemoryStore,
    pub(crate) calls: AtomicUsize,
}

impl Odd {
    fn store(&self) -> &MemoryStore {
        self.calls.fetch_add(1, Ordering::Relaxed);
        &self.store
    }
}

#[async_trait]
impl RecordStore for Odd {
    async fn open(&self, ttl: Duration) -> Result<Session, DiscoveryError> {
        self.store().open(ttl).await
    }

    async fn write(&self, session: &Session, items: &[Write]) -> Vec<Result<Written, DiscoveryError>> {
        assert_ne!(items[0].key.last(), "panic", "as asked");
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
        match keys[0].last() {
            "hang" => pending().await,
            "panic" => panic!("as asked"),
            _ => self.store().get(keys).await,
        }
    }

    async fn list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Result<Listing, DiscoveryError> {
        self.store().list(prefix, page).await
    }

    async fn watch(&self, prefix: &RecordKey, after: Option<Position>) -> Result<Changes, DiscoveryError> {
        self.store().watch(prefix, after).await
    }
}
