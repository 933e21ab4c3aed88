//! A store that knows no sessions.

use async_trait::async_trait;
use discovery_core::store::{Changes, Held, Listing, Position, Renewal, Session, Write, Written};

use super::{
    stores::{Answer, kept, write},
    *,
};

/// Renewing writes each record again, by compare-and-replace.
#[derive(Debug)]
pub(super) struct Sessionless {
    pub(super) memory: MemoryStore,
    /// Of the memory, for everybody.
    session: Session,
}

impl Sessionless {
    pub(super) async fn new() -> Self {
        let memory = MemoryStore::new();
        let session = memory.open(*limit::TTL.end()).await.unwrap();
        Self { memory, session }
    }
}

#[async_trait]
impl RecordStore for Sessionless {
    async fn open(&self, ttl: Duration) -> Answer<Session> {
        Ok(Session {
            id: Bytes::new(),
            ttl,
        })
    }

    async fn write(&self, _: &Session, items: &[Write]) -> Vec<Answer<Written>> {
        self.memory.write(&self.session, items).await
    }

    async fn renew(&self, session: &Session, held: &[Held]) -> Answer<Renewal> {
        let items = held
            .iter()
            .map(|held| write(held, Expect::Version(held.version.clone())));
        let items: Vec<_> = items.collect();
        let answers = self.memory.write(&self.session, &items).await;
        Ok(Renewal {
            session: session.clone(),
            kept: answers.into_iter().map(kept).collect(),
            unwanted: Vec::new(),
        })
    }

    async fn remove(&self, _: &Session, removal: &Removal) -> Answer<Removed> {
        self.memory.remove(&self.session, removal).await
    }

    async fn close(&self, _: &Session) -> Answer<()> {
        Ok(())
    }

    async fn get(&self, keys: &[RecordKey]) -> Vec<Answer<Option<Record>>> {
        self.memory.get(keys).await
    }

    async fn list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Answer<Listing> {
        self.memory.list(prefix, page).await
    }

    async fn watch(&self, prefix: &RecordKey, after: Option<Position>) -> Answer<Changes> {
        self.memory.watch(prefix, after).await
    }
}
