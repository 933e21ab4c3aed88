//! Changes as text, written once for everybody who watches.

use bytes::{BufMut, Bytes, BytesMut};
use discovery_core::{
    DiscoveryError,
    store::{Departure, Position, Record, RecordKey},
};

use crate::{
    server::problem::Refusal,
    wire::{self, GoneRecord, WireRecord},
};

/// A record as JSON.
pub(super) fn record(record: &Record) -> Bytes {
    json(&WireRecord::new(record))
}

/// What tells that a record left, as JSON.
pub(super) fn gone(key: &RecordKey, why: Departure) -> Bytes {
    json(&GoneRecord::new(key, why))
}

/// Says that nothing else happened up to a position; only that the service lives, if there is none.
pub(super) fn progress(at: Option<Position>) -> Bytes {
    let mut text = BytesMut::new();
    write(&mut text, wire::PROGRESS, at, b"{}");
    text.freeze()
}

/// The last event of a watch that cannot go on.
pub(super) fn error(error: &DiscoveryError) -> Bytes {
    let problem = Refusal::of_read(error.clone()).into_problem();
    let mut text = BytesMut::new();
    write(&mut text, wire::ERROR, None, &json(&problem));
    text.freeze()
}

/// Writes one event. JSON has no line breaks, so its data is one line.
pub(super) fn write(text: &mut BytesMut, name: &str, at: Option<Position>, data: &[u8]) {
    if let Some(at) = at {
        text.put_slice(b"id: ");
        text.put_slice(wire::cursor_text(at).as_bytes());
        text.put_u8(b'\n');
    }
    text.put_slice(b"event: ");
    text.put_slice(name.as_bytes());
    text.put_slice(b"\ndata: ");
    text.put_slice(data);
    text.put_slice(b"\n\n");
}

/// Takes events that [`write`] wrote apart again: id, name and data of each.
pub(super) fn read(text: &[u8]) -> impl Iterator<Item = (Option<&[u8]>, &[u8], &[u8])> {
    let mut lines = text.split(|byte| *byte == b'\n');
    std::iter::from_fn(move || {
        let mut line = lines.next()?;
        let id = line.strip_prefix(b"id: ");
        if id.is_some() {
            line = lines.next()?;
        }
        let name = line.strip_prefix(b"event: ")?;
        let data = lines.next()?.strip_prefix(b"data: ")?;
        lines.next()?;
        Some((id, name, data))
    })
}

fn json(value: &impl serde::Serialize) -> Bytes {
    // Nothing here can fail to be written: keys are strings, and nothing is a foreign type.
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_reads_back_one_by_one() {
        let at = Position {
            generation: 7,
            seq: 9,
        };
        let mut text = BytesMut::new();
        write(&mut text, "put", Some(at), br#"{"key":"a b"}"#);
        write(&mut text, "gone", None, b"{}");
        assert_eq!(
            &text[..],
            b"id: 7-9\nevent: put\ndata: {\"key\":\"a b\"}\n\nevent: gone\ndata: {}\n\n"
        );
        let read: Vec<_> = read(&text).collect();
        assert_eq!(
            read,
            [
                (Some(&b"7-9"[..]), &b"put"[..], &br#"{"key":"a b"}"#[..]),
                (None, &b"gone"[..], &b"{}"[..])
            ]
        );
    }
}
