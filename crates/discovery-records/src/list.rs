//! Whole lists, page by page.

use bytes::Bytes;
use discovery_core::{
    DiscoveryError, ErrorKind,
    store::{Position, Record, RecordKey, RecordStore},
};

/// Everything under a prefix.
pub(crate) struct Listed {
    /// The records, as the pages had them.
    pub(crate) records: Vec<Record>,
    /// What else lies there.
    pub(crate) skipped: u64,
    /// The position of the first page: all that happened until then is in the list.
    pub(crate) began: Option<Position>,
    /// The position of the last page.
    pub(crate) ended: Option<Position>,
}

/// Lists everything under a prefix.
pub(crate) async fn list_all(store: &dyn RecordStore, prefix: &RecordKey) -> Result<Listed, DiscoveryError> {
    let first = store.list(prefix, None).await?;
    let mut listed = Listed {
        records: first.records,
        skipped: first.skipped,
        began: first.as_of,
        ended: first.as_of,
    };
    let mut page: Option<Bytes> = first.next;
    while page.is_some() {
        let listing = store.list(prefix, page.clone()).await?;
        if listing.next == page {
            let context = "the store gave the same page twice";
            return Err(DiscoveryError::new(ErrorKind::Unexpected, context));
        }
        listed.records.extend(listing.records);
        listed.skipped += listing.skipped;
        listed.ended = listing.as_of;
        page = listing.next;
    }
    Ok(listed)
}
