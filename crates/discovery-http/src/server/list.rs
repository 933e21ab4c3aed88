//! Lists, cut into pages of bounded size.

use std::sync::Arc;

use axum::{Json, extract::State};
use bytes::Bytes;
use discovery_core::store::{Listing, Record, RecordKey, RecordStore};

use super::{app::App, call::Call, problem::Refusal};
use crate::wire::{self, Page, WirePosition, WireRecord};

pub(super) async fn records(State(app): State<Arc<App>>, call: Call) -> Result<Json<Page>, Refusal> {
    const OPTIONS: &[&str] = &["limit", "page", "under"];
    app.warm_up.check()?;
    let prefix = prefix(&call, OPTIONS)?;
    let limit = limit(call.option("limit", OPTIONS)?)?;
    let listing = page(&*app.store, &prefix, limit, call.option("page", OPTIONS)?).await?;
    Ok(Json(Page {
        records: listing.records.iter().map(WireRecord::new).collect(),
        skipped: listing.skipped,
        as_of: listing.as_of.map(WirePosition::new),
        next: listing.next.and_then(|next| String::from_utf8(next.into()).ok()),
    }))
}

/// What the path and the option `under` name: `…/{kind}?under=segment/segment`.
pub(super) fn prefix(call: &Call, options: &[&str]) -> Result<RecordKey, Refusal> {
    let under = call
        .option("under", options)?
        .map(|under| under.split('/').collect());
    let under: Vec<&str> = under.unwrap_or_default();
    Ok(RecordKey::try_new(&call.cluster, call.segment(1), &under)?)
}

/// How many records the asker wants at most.
pub(super) fn limit(text: Option<&str>) -> Result<usize, Refusal> {
    let Some(text) = text else {
        return Ok(wire::PAGE_RECORDS);
    };
    let limit = text
        .parse()
        .ok()
        .filter(|limit| (1..=wire::PAGE_RECORDS).contains(limit));
    limit.ok_or_else(|| Refusal::invalid(format!("limit is a number from 1 to {}", wire::PAGE_RECORDS)))
}

/// One page of at most `limit` records and a bounded number of bytes; `next` is text.
pub(super) async fn page(
    store: &dyn RecordStore,
    prefix: &RecordKey,
    limit: usize,
    token: Option<&str>,
) -> Result<Listing, Refusal> {
    let from = token.map(Place::parse).transpose()?.unwrap_or_default();
    let mut listing = store
        .list(prefix, from.page.clone())
        .await
        .map_err(Refusal::of_read)?;
    if let Some(after) = &from.after {
        // What the store calls one page was begun by an earlier answer.
        listing
            .records
            .retain(|record| after.as_str() < wire::relative(&record.key));
        listing.skipped = 0;
    }
    let fitting = fitting(&listing.records, limit);
    let next = match fitting < listing.records.len() {
        true => {
            listing.records.truncate(fitting);
            let last = listing.records.last();
            Some(Place {
                page: from.page,
                after: last.map(|record| wire::relative(&record.key).to_owned()),
            })
        }
        false => listing.next.take().map(|page| Place {
            page: Some(page),
            after: None,
        }),
    };
    listing.next = next.map(|place| Bytes::from(place.write()));
    Ok(listing)
}

/// How many records go on a page, at least one.
pub(super) fn fitting(records: &[Record], limit: usize) -> usize {
    let mut bytes = 0;
    let mut fits = |record: &&Record| {
        bytes += record.key.as_str().len() + record.body.len();
        bytes <= wire::PAGE_BYTES
    };
    let fitting = records.iter().take(limit).take_while(&mut fits).count();
    fitting.max(1).min(records.len())
}

/// Where a page begins: a page of the store, and the record in it that was told last.
#[derive(Debug, Default, PartialEq, Eq)]
struct Place {
    page: Option<Bytes>,
    after: Option<String>,
}

impl Place {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let parts = text.split_once('.').and_then(|(page, after)| {
            let after = String::from_utf8(wire::unhex(after)?.into()).ok()?;
            Some((wire::unhex(page)?, after))
        });
        let (page, after) = parts.ok_or_else(|| Refusal::invalid("this is not the token of a page"))?;
        Ok(Self {
            page: Some(page).filter(|page| !page.is_empty()),
            after: Some(after).filter(|after| !after.is_empty()),
        })
    }

    fn write(&self) -> String {
        let page = self.page.as_deref().unwrap_or_default();
        let after = self.after.as_deref().unwrap_or_default();
        format!("{}.{}", wire::hex(page), wire::hex(after.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use discovery_core::{
        Cluster,
        store::{Version, Writer},
    };

    use super::*;

    fn record(body: usize) -> Record {
        let long = "x".repeat(120);
        let key = RecordKey::try_new(&Cluster::default(), "things", &[&long[..]; 8]).unwrap();
        Record {
            key,
            body: vec![b'x'; body].into(),
            writer: Writer::random(),
            version: Version("1".into()),
            at: None,
        }
    }

    #[test]
    fn a_page_is_full_by_number_or_by_the_bytes_of_keys_and_bodies() {
        assert_eq!(fitting(&[], 10), 0);
        assert_eq!(fitting(&vec![record(0); 20], 10), 10);
        assert_eq!(fitting(&[record(wire::PAGE_BYTES)], 10), 1, "at least one");
        let empty = vec![record(0); 10_000];
        let bytes = fitting(&empty, 10_000) * empty[0].key.as_str().len();
        assert!(
            bytes <= wire::PAGE_BYTES && bytes > wire::PAGE_BYTES / 2,
            "{bytes}"
        );
    }

    #[test]
    fn places_read_back_and_rubbish_does_not() {
        for (page, after) in [
            (None, None),
            (Some("p"), None),
            (None, Some("k/1")),
            (Some("p"), Some("k/é")),
        ] {
            let place = Place {
                page: page.map(Bytes::from),
                after: after.map(str::to_owned),
            };
            assert_eq!(Place::parse(&place.write()).unwrap(), place);
        }
        for bad in ["", "x.", "00", "0.0", ".ff"] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }
}
