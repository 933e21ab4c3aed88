//! Calls of the store: futures that own what they need, so that the keeper can go on meanwhile.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use discovery_core::{
    DiscoveryError, ErrorKind, Moment, Retry,
    limit::CONNECT_DEADLINE,
    store::{
        Expect, Held, Kept, Record, RecordKey, RecordStore, Removal, Removed, Renewal, Session, Version,
        Write, Writer, Written,
    },
};
use futures_util::{FutureExt, future::BoxFuture, future::join_all};
use tokio::time::timeout;

use super::{OpenStore, Opening};

pub(super) type Answer<T> = Result<T, DiscoveryError>;

/// What a call led to.
pub(super) enum Outcome {
    Store(Answer<Arc<dyn RecordStore>>),
    Session(Moment, Answer<Session>),
    /// What stands under the keys of rows that are unsure.
    Looked(Vec<(Writer, Answer<Option<Record>>)>),
    Written(Session, Vec<(Writer, Answer<Written>)>),
    /// Whether the last thing that happened was the fence.
    Removed(Vec<(Writer, Answer<bool>)>),
    Closed(Answer<()>),
}

/// What a renewal led to.
pub(super) struct Renewed {
    pub(super) asked: Moment,
    pub(super) session: Session,
    /// Rows of our own writing.
    pub(super) held: Vec<Writer>,
    pub(super) renewal: Answer<Renewal>,
    /// Rows that another living holder keeps, and what stands there.
    pub(super) shared: Vec<(Writer, Answer<Option<Record>>)>,
}

pub(super) type Work = BoxFuture<'static, Outcome>;
pub(super) type Renewing = BoxFuture<'static, Renewed>;

/// Opens a store where renewal runs.
pub(super) fn open_store(open: Arc<OpenStore>) -> Work {
    Box::pin(async move {
        let opening: Opening = Box::pin(async move { open().await });
        let opened = timeout(CONNECT_DEADLINE, caught(opening))
            .await
            .unwrap_or_else(|_| {
                let context = format!("not connected within {CONNECT_DEADLINE:?}");
                Ok(Err(DiscoveryError::new(ErrorKind::Unavailable, context)))
            });
        Outcome::Store(opened.and_then(|store| store))
    })
}

pub(super) fn open_session(store: Arc<dyn RecordStore>, ttl: Duration, now: Moment) -> Work {
    Box::pin(async move { Outcome::Session(now, flat(caught(store.open(ttl)).await)) })
}

pub(super) fn look(store: Arc<dyn RecordStore>, rows: Vec<(Writer, RecordKey)>) -> Work {
    Box::pin(async move { Outcome::Looked(read(&*store, rows).await) })
}

pub(super) fn write(store: Arc<dyn RecordStore>, session: Session, items: Vec<Write>) -> Work {
    Box::pin(async move {
        let answers = caught(store.write(&session, &items)).await;
        let writers = items.iter().map(|item| item.writer);
        let answers = paired(
            writers,
            answers.map_err(|error| error.with_retry(Retry::OutcomeUnknown)),
        );
        Outcome::Written(session, answers)
    })
}

/// Removes records, all at once.
pub(super) fn remove(store: Arc<dyn RecordStore>, session: Session, removals: Vec<Removal>) -> Work {
    Box::pin(async move {
        let removing = removals.into_iter().map(|removal| {
            let (store, session) = (store.clone(), session.clone());
            async move {
                let removed = caught(remove_own(&*store, &session, removal.clone())).await;
                (removal.writer, flat(removed))
            }
        });
        Outcome::Removed(join_all(removing).await)
    })
}

pub(super) fn close(store: Arc<dyn RecordStore>, session: Session) -> Work {
    Box::pin(async move { Outcome::Closed(flat(caught(store.close(&session)).await)) })
}

/// Renews what is ours, and looks at what others keep for us.
pub(super) fn renew(
    store: Arc<dyn RecordStore>,
    asked: Moment,
    session: Session,
    items: Vec<Held>,
    shared: Vec<(Writer, RecordKey)>,
) -> Renewing {
    Box::pin(async move {
        let held = items.iter().map(|held| held.writer).collect();
        let renewal = flat(caught(store.renew(&session, &items)).await).map(|mut renewal| {
            renewal
                .kept
                .resize_with(items.len(), || Kept::Unknown(unanswered()));
            renewal
        });
        let shared = if shared.is_empty() {
            Vec::new()
        } else {
            read(&*store, shared).await
        };
        Renewed {
            asked,
            session,
            held,
            renewal,
            shared,
        }
    })
}

/// Removes the record of one writer, whatever version it has by now, or fences the writer;
/// whether it is fenced now.
async fn remove_own(store: &dyn RecordStore, session: &Session, mut removal: Removal) -> Answer<bool> {
    // Each turn reacts to a change by somebody else in between; there is no need to race for ever.
    for _ in 0..8 {
        match store.remove(session, &removal).await? {
            Removed::Conflict(Some(record)) if record.writer == removal.writer => {
                removal.expect = Expect::Version(record.version);
            }
            // Somebody else's record, or none: ours is gone.
            Removed::Done | Removed::Conflict(_) => return Ok(removal.expect == Expect::Absent),
        }
    }
    Err(DiscoveryError::new(
        ErrorKind::Unavailable,
        "the record kept changing while it was removed",
    ))
}

/// How a row of this writer is removed: its record, or else by a fence.
pub(super) fn removal(key: RecordKey, writer: Writer, version: Option<Version>) -> Removal {
    let expect = version.map_or(Expect::Absent, Expect::Version);
    Removal { key, writer, expect }
}

async fn read(
    store: &dyn RecordStore,
    rows: Vec<(Writer, RecordKey)>,
) -> Vec<(Writer, Answer<Option<Record>>)> {
    let (writers, keys): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    paired(writers.into_iter(), caught(store.get(&keys)).await)
}

/// One answer for each writer, whatever the store gave.
fn paired<T>(
    writers: impl Iterator<Item = Writer>,
    answers: Answer<Vec<Answer<T>>>,
) -> Vec<(Writer, Answer<T>)> {
    match answers {
        Ok(answers) => {
            let mut answers = answers.into_iter();
            writers
                .map(|writer| (writer, answers.next().unwrap_or_else(|| Err(unanswered()))))
                .collect()
        }
        Err(error) => writers.map(|writer| (writer, Err(error.clone()))).collect(),
    }
}

fn unanswered() -> DiscoveryError {
    DiscoveryError::new(
        ErrorKind::Unexpected,
        "the store gave fewer answers than it was asked for",
    )
    .with_retry(Retry::OutcomeUnknown)
}

/// A store that panics must not take every registration along.
async fn caught<T>(call: impl Future<Output = T>) -> Answer<T> {
    AssertUnwindSafe(call).catch_unwind().await.map_err(|_| {
        DiscoveryError::new(ErrorKind::Unexpected, "the store panicked").with_retry(Retry::OutcomeUnknown)
    })
}

fn flat<T>(answer: Answer<Answer<T>>) -> Answer<T> {
    answer.and_then(|answer| answer)
}
