//! Takes records up again after the store lost its memory: the renewal is the registration.

use std::time::Duration;

use discovery_core::{
    DiscoveryError,
    store::{Expect, Held, Kept, Record, RecordStore, Renewal, Session, Write, Written},
};

/// Writes every held record that does not stand, in a new session or in the one that an
/// earlier part of the same renewal was given.
///
/// A record that the same writer wrote with the same body is the asker's own, written by a
/// renewal whose answer was lost: it moves to the session that the asker will learn of.
/// Whatever else stands there stays.
pub(super) async fn take_up(
    store: &dyn RecordStore,
    into: Option<Session>,
    ttl: Duration,
    held: &[Held],
) -> Result<Renewal, DiscoveryError> {
    let session = match into {
        Some(session) => session,
        None => store.open(ttl).await?,
    };
    let absent = held
        .iter()
        .map(|held| write(held, Expect::Absent))
        .collect::<Vec<_>>();
    let mut kept = kept(store.write(&session, &absent).await);
    let own = kept
        .iter()
        .zip(held)
        .enumerate()
        .filter_map(|(index, (kept, held))| match kept {
            Kept::Other(record) if is_own(record, held) => {
                Some((index, write(held, Expect::Version(record.version.clone()))))
            }
            _ => None,
        });
    let (indices, moves): (Vec<_>, Vec<_>) = own.unzip();
    if !moves.is_empty() {
        let moved = self::kept(store.write(&session, &moves).await);
        for (index, moved) in indices.into_iter().zip(moved) {
            kept[index] = moved;
        }
    }
    kept.resize_with(held.len(), || Kept::Unknown(super::call::broken_contract()));
    Ok(Renewal {
        session,
        kept,
        unwanted: Vec::new(),
    })
}

fn write(held: &Held, expect: Expect) -> Write {
    Write {
        key: held.key.clone(),
        body: held.body.clone(),
        writer: held.writer,
        expect,
    }
}

fn is_own(record: &Record, held: &Held) -> bool {
    record.writer == held.writer && record.body == held.body
}

fn kept(answers: Vec<Result<Written, DiscoveryError>>) -> Vec<Kept> {
    let kept = |answer| match answer {
        Ok(Written::Done(record)) => Kept::Mine(record.version),
        Ok(Written::Conflict(Some(record))) => Kept::Other(record),
        Ok(Written::Conflict(None)) => Kept::Gone,
        Err(error) => Kept::Unknown(error),
    };
    answers.into_iter().map(kept).collect()
}
