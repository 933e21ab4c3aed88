//! The record store over the service: translation only.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use discovery_core::{
    Cluster, DiscoveryError,
    store::{
        Changes, Held, Listing, Position, Record, RecordKey, RecordStore, Removal, Removed, Renewal, Session,
        Write, Written,
    },
};
use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::Instant;

use crate::{
    client::{self, Client, Request},
    config::HttpConfig,
    error::Effect,
    lease,
    part::{self, REQUEST_BYTES},
    watch,
    wire::{
        self, BatchGet, BatchWrite, Body, Got, Page, Remove, RemoveAnswer, Results, WireExpect, WriteAnswer,
        WriteItem,
    },
};

/// Parts of one large read that are asked for at the same time.
const CONCURRENT_PARTS: usize = 8;

/// The records that an HTTP service keeps.
///
/// Holds a pool of connections, driven by the runtime that makes the calls; a clone shares it.
#[derive(Clone)]
pub struct HttpStore {
    client: Client,
    cluster: Cluster,
}

impl HttpStore {
    /// A store with a pool of its own; connects with the first call.
    ///
    /// # Errors
    /// `InvalidConfig` naming what cannot work.
    pub fn try_new(config: &HttpConfig) -> Result<Self, DiscoveryError> {
        let client = Client::try_new(config)?;
        Ok(Self {
            client,
            cluster: config.cluster().clone(),
        })
    }

    /// Checks that a discovery service answers, within `limit`.
    pub(crate) async fn check(&self, limit: Duration) -> Result<(), DiscoveryError> {
        self.client.check(limit).await.map_err(during("connect"))
    }

    async fn get_part(
        &self,
        keys: &[RecordKey],
        deadline: Instant,
    ) -> Result<Vec<Result<Option<Record>, DiscoveryError>>, DiscoveryError> {
        let cluster = part::cluster(&keys[0])?;
        let keys = keys
            .iter()
            .map(|key| wire::relative(key).to_owned())
            .collect::<Vec<_>>();
        let asked = keys.len();
        let path = client::path(&cluster, "records:batchGet");
        let request = Request::post(path, &BatchGet { keys }, Effect::Read)?;
        let answer: Results<Option<Got>> = self.client.json(&request, deadline).await?;
        let answers = self.one_each(answer, asked, Effect::Read)?;
        let read = |got| match got {
            None => Ok(None),
            Some(Got::Record(record)) => self.record(record, &cluster, Effect::Read).map(Some),
            Some(Got::Problem(problem)) => Err(self.client.problem(&problem, Effect::Read)),
        };
        Ok(answers.into_iter().map(read).collect())
    }

    async fn write_part(
        &self,
        session: &Session,
        items: &[Write],
        deadline: Instant,
    ) -> Result<Vec<Result<Written, DiscoveryError>>, DiscoveryError> {
        let cluster = part::cluster(&items[0].key)?;
        let body = BatchWrite {
            session: lease::token(session)?.to_owned(),
            items: items.iter().map(write_item).collect(),
        };
        let path = client::path(&cluster, "records:batchWrite");
        let request = Request::post(path, &body, Effect::Write)?;
        let answer: Results<WriteAnswer> = self.client.json(&request, deadline).await?;
        let answers = self.one_each(answer, items.len(), Effect::Write)?;
        let pairs = items.iter().zip(answers);
        Ok(pairs
            .map(|(item, answer)| self.written(item, answer, &cluster))
            .collect())
    }

    fn written(
        &self,
        item: &Write,
        answer: WriteAnswer,
        cluster: &Cluster,
    ) -> Result<Written, DiscoveryError> {
        match answer {
            WriteAnswer::Done { version, at } => {
                let unreadable = |_| {
                    self.client
                        .unreadable(Effect::Write, "with a version that is none")
                };
                Ok(Written::Done(Record {
                    key: item.key.clone(),
                    body: item.body.clone(),
                    writer: item.writer,
                    version: wire::version(&version).map_err(unreadable)?,
                    at: at.map(wire::WirePosition::into_position).transpose()?,
                }))
            }
            WriteAnswer::Conflict(None) => Ok(Written::Conflict(None)),
            WriteAnswer::Conflict(Some(record)) => {
                let record = self.record(record, cluster, Effect::Write)?;
                Ok(Written::Conflict(Some(record)))
            }
            WriteAnswer::Problem(problem) => Err(self.client.problem(&problem, Effect::Write)),
        }
    }

    async fn try_remove(&self, session: &Session, removal: &Removal) -> Result<Removed, DiscoveryError> {
        let cluster = part::cluster(&removal.key)?;
        let body = Remove {
            session: lease::token(session)?.to_owned(),
            key: wire::relative(&removal.key).to_owned(),
            writer: wire::writer_text(removal.writer),
            expect: WireExpect::new(&removal.expect),
        };
        let path = client::path(&cluster, "records:remove");
        let request = Request::post(path, &body, Effect::Write)?;
        match self.client.json(&request, self.client.deadline()).await? {
            RemoveAnswer::Done => Ok(Removed::Done),
            RemoveAnswer::Conflict(None) => Ok(Removed::Conflict(None)),
            RemoveAnswer::Conflict(Some(record)) => {
                let record = self.record(record, &cluster, Effect::Write)?;
                Ok(Removed::Conflict(Some(record)))
            }
        }
    }

    async fn try_list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Result<Listing, DiscoveryError> {
        let cluster = part::cluster(prefix)?;
        let request = Request::get(list_path(&cluster, prefix, page)?);
        let page: Page = self.client.json(&request, self.client.deadline()).await?;
        let records = page.records.into_iter();
        Ok(Listing {
            records: records
                .map(|record| self.record(record, &cluster, Effect::Read))
                .collect::<Result<_, _>>()?,
            skipped: page.skipped,
            as_of: page.as_of.map(wire::WirePosition::into_position).transpose()?,
            next: page.next.map(Bytes::from),
        })
    }

    fn record(
        &self,
        record: wire::WireRecord,
        cluster: &Cluster,
        effect: Effect,
    ) -> Result<Record, DiscoveryError> {
        let unreadable = |cause: DiscoveryError| {
            let error = self.client.unreadable(effect, "with a record that is none");
            error.with_source(cause)
        };
        record.into_record(cluster).map_err(unreadable)
    }

    fn one_each<T>(
        &self,
        answer: Results<T>,
        asked: usize,
        effect: Effect,
    ) -> Result<Vec<T>, DiscoveryError> {
        if answer.results.len() == asked {
            return Ok(answer.results);
        }
        Err(self.client.unreadable(effect, "not once per item"))
    }
}

#[async_trait]
impl RecordStore for HttpStore {
    async fn open(&self, ttl: Duration) -> Result<Session, DiscoveryError> {
        let opened = lease::open(&self.client, &self.cluster, ttl).await;
        opened.map_err(during("open"))
    }

    async fn write(&self, session: &Session, items: &[Write]) -> Vec<Result<Written, DiscoveryError>> {
        let deadline = self.client.deadline();
        let mut answers = Vec::with_capacity(items.len());
        let size = |item: &Write| part::size(&item.key, &item.body);
        for part in part::split(items, |item| &item.key, size, REQUEST_BYTES) {
            let outcome = self.write_part(session, part, deadline).await;
            answers.extend(per_item(outcome, part.len(), "write"));
        }
        answers
    }

    async fn renew(&self, session: &Session, held: &[Held]) -> Result<Renewal, DiscoveryError> {
        let renewed = lease::renew(&self.client, &self.cluster, session, held).await;
        renewed.map_err(during("renew"))
    }

    async fn remove(&self, session: &Session, removal: &Removal) -> Result<Removed, DiscoveryError> {
        self.try_remove(session, removal).await.map_err(during("remove"))
    }

    async fn close(&self, session: &Session) -> Result<(), DiscoveryError> {
        let closed = lease::close(&self.client, &self.cluster, session).await;
        closed.map_err(during("close"))
    }

    async fn get(&self, keys: &[RecordKey]) -> Vec<Result<Option<Record>, DiscoveryError>> {
        let deadline = self.client.deadline();
        let parts = part::split(keys, |key| key, |_| 1, wire::KEYS_PER_GET);
        let mut calls = Vec::with_capacity(parts.len());
        for part in parts {
            let call = async move { per_item(self.get_part(part, deadline).await, part.len(), "get") };
            calls.push(call.boxed());
        }
        let answers: Vec<_> = stream::iter(calls).buffered(CONCURRENT_PARTS).collect().await;
        answers.into_iter().flatten().collect()
    }

    async fn list(&self, prefix: &RecordKey, page: Option<Bytes>) -> Result<Listing, DiscoveryError> {
        self.try_list(prefix, page).await.map_err(during("list"))
    }

    async fn watch(&self, prefix: &RecordKey, after: Option<Position>) -> Result<Changes, DiscoveryError> {
        let changes = watch::changes(&self.client, prefix, after).await;
        let changes = changes.map_err(during("watch"))?;
        Ok(changes.map(|change| change.map_err(during("watch"))).boxed())
    }
}

impl fmt::Debug for HttpStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpStore")
            .field("client", &self.client)
            .field("cluster", &self.cluster)
            .finish()
    }
}

fn write_item(item: &Write) -> WriteItem {
    WriteItem {
        key: wire::relative(&item.key).to_owned(),
        body: Body::new(&item.body),
        writer: wire::writer_text(item.writer),
        expect: WireExpect::new(&item.expect),
    }
}

fn list_path(cluster: &Cluster, prefix: &RecordKey, page: Option<Bytes>) -> Result<String, DiscoveryError> {
    let mut options = Vec::new();
    if let Some(page) = &page {
        let page = std::str::from_utf8(page)
            .map_err(|_| DiscoveryError::invalid_argument("the page token is none of this store"))?;
        options.push(("page", page));
    }
    Ok(client::prefix_path(cluster, "records", prefix, &options))
}

/// Spreads one answer for many items over the items.
fn per_item<T>(
    outcome: Result<Vec<Result<T, DiscoveryError>>, DiscoveryError>,
    items: usize,
    operation: &'static str,
) -> Vec<Result<T, DiscoveryError>> {
    let named = during(operation);
    match outcome {
        Ok(answers) => answers.into_iter().map(|answer| answer.map_err(&named)).collect(),
        Err(error) => {
            let error = named(error);
            (0..items).map(|_| Err(error.clone())).collect()
        }
    }
}

fn during(operation: &'static str) -> impl Fn(DiscoveryError) -> DiscoveryError {
    move |error| error.with_system(crate::error::SYSTEM).with_operation(operation)
}
