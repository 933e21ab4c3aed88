//! A store that tells as little as it may.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use discovery_core::{
    DiscoveryError,
    store::{
        Change, Changes, Departure, Held, Listing, Position, Record, RecordKey, RecordStore, Removal,
        Removed, Renewal, Session, Write, Written,
    },
};
use futures_util::{StreamExt, future::ready};

/// Has no positions, so that each watch begins anew, and does not know why a record left.
#[derive(Debug)]
pub(crate) struct Least(pub(crate) Arc<dyn RecordStore>);

#[async_trait]
impl RecordStore for Least {
    async fn open(&self, ttl: Duration) -> Result<Session, DiscoveryError> {
        self.0.open(ttl).await
    }

    async fn write(&self, session: &Session, items: &[Write]) -> Vec<Result<Written, DiscoveryError>> {
        self.0.write(session, items).await
    }

    async fn renew(&self, session: &Session, held: &[Held]) -> Result<Renewal, DiscoveryError> {
        self.0.renew(session, held).await
    }

    async fn remove(&self, session: &Session, removal: &Removal) -> Result<Removed, DiscoveryError> {
        self.0.remove(session, removal).await
    }

    async fn close(&self, session: &Session) -> Result<(), DiscoveryError> {
        self.0.close(session).await
    }

    async fn get(&self, keys: &[RecordKey]) -> Vec<Result<Option<Record>, DiscoveryError>> {
        self.0.get(keys).await
    }

    async fn list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Result<Listing, DiscoveryError> {
        let listing = self.0.list(prefix, page).await?;
        Ok(Listing {
            as_of: None,
            ..listing
        })
    }

    async fn watch(&self, prefix: &RecordKey, _: Option<Position>) -> Result<Changes, DiscoveryError> {
        let changes = self.0.watch(prefix, None).await?;
        Ok(Box::pin(
            changes.filter_map(|change| ready(change.map(least).transpose())),
        ))
    }
}

fn least(change: Change) -> Option<Change> {
    Some(match change {
        Change::Reset { records, .. } => Change::Reset { records, as_of: None },
        Change::Put(record) => Change::Put(Record { at: None, ..record }),
        Change::Gone { key, .. } => Change::Gone {
            key,
            at: None,
            why: Departure::Unknown,
        },
        Change::Progress(_) => return None,
    })
}
