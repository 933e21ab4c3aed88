//! Takes records up again after the store lost its memory: the renewal is the registration.

use std::{iter, time::Duration};

use discovery_core::{
    DiscoveryError, ErrorKind,
    store::{Expect, Held, Record, RecordKey, RecordStore, Renewal, Write, Written},
};

use super::{
    earlier::{Earlier, Taken},
    token::Token,
};

/// A renewal of a session of an earlier start.
pub(super) struct Ask<'a> {
    pub(super) token: &'a Token,
    pub(super) ttl: Duration,
    pub(super) held: &'a [Held],
    pub(super) complete: bool,
}

/// Renews what the session was taken up as, and takes it up first if nobody did.
///
/// The first renewal that tells all it holds writes what does not stand. Later ones, as after a
/// lost answer, write nothing: what is missing then was removed. No record is ever moved.
pub(super) async fn take_up(
    store: &dyn RecordStore,
    earlier: &Earlier,
    ask: &Ask<'_>,
) -> Result<Renewal, DiscoveryError> {
    let taken = taken(store, earlier, ask).await?;
    let standing = match taken.complete {
        true => found(store, ask.held).await,
        false => written(store, &taken, ask.held).await,
    };
    let standing = standing.into_iter().chain(iter::repeat(None));
    let held: Vec<_> = ask.held.iter().zip(standing).map(as_it_stands).collect();
    let renewed = store.renew(&taken.session, &held).await;
    match &renewed {
        Ok(_) => earlier.renewed(ask.token, ask.complete),
        Err(error) if error.kind() == ErrorKind::LeaseLost => earlier.end(ask.token),
        Err(_) => {}
    }
    renewed
}

/// What the session was taken up as, which is now if nobody did.
async fn taken(store: &dyn RecordStore, earlier: &Earlier, ask: &Ask<'_>) -> Result<Taken, DiscoveryError> {
    if let Some(taken) = earlier.find(ask.token)? {
        return Ok(taken);
    }
    let opened = store.open(ask.ttl).await?;
    let taken = earlier.take_up(ask.token, &opened);
    if !matches!(&taken, Ok(taken) if taken.session == opened) {
        // It was ended or taken up in the meantime. If this fails, it expires.
        let _ = store.close(&opened).await;
    }
    taken
}

/// Writes what does not stand; what stands then, as far as it could be told.
async fn written(store: &dyn RecordStore, taken: &Taken, held: &[Held]) -> Vec<Option<Record>> {
    let items: Vec<_> = held.iter().map(write).collect();
    let answers = store.write(&taken.session, &items).await.into_iter();
    let standing = answers.map(|answer| match answer {
        Ok(Written::Done(record)) => Some(record),
        Ok(Written::Conflict(record)) => record,
        Err(_) => None,
    });
    standing.collect()
}

async fn found(store: &dyn RecordStore, held: &[Held]) -> Vec<Option<Record>> {
    let keys: Vec<RecordKey> = held.iter().map(|held| held.key.clone()).collect();
    let answers = store.get(&keys).await.into_iter();
    answers.map(Result::unwrap_or_default).collect()
}

/// The asker knows the version of before; if it is his record that stands, this is the present one.
fn as_it_stands((held, standing): (&Held, Option<Record>)) -> Held {
    let own = standing.filter(|record| record.writer == held.writer && record.body == held.body);
    let version = own.map_or_else(|| held.version.clone(), |record| record.version);
    Held {
        version,
        ..held.clone()
    }
}

fn write(held: &Held) -> Write {
    Write {
        key: held.key.clone(),
        body: held.body.clone(),
        writer: held.writer,
        expect: Expect::Absent,
    }
}
