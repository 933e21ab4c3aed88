//! Everything that stands, to be told in parts.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::{BufMut, Bytes, BytesMut};
use discovery_core::store::Position;

use super::frame;
use crate::wire;

/// What stood at one place of the ring.
///
/// Holds the texts of records that the hub has anyway. A part is put together when somebody is to
/// send it, shared by all who send it at the same time, and not kept: a slow reader holds one part
/// and no more.
pub(super) struct Snapshot {
    /// Where to read on afterwards.
    pub(super) place: u64,
    position: Option<Position>,
    records: Vec<Bytes>,
    /// Where each part ends.
    ends: Vec<usize>,
    parts: Vec<Mutex<Weak<Vec<u8>>>>,
}

/// A part that somebody is sending.
struct Sent(Arc<Vec<u8>>);

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Snapshot {
    pub(super) fn new(place: u64, position: Option<Position>, records: Vec<Bytes>) -> Self {
        let mut ends = Vec::new();
        let mut bytes = 0;
        for (index, record) in records.iter().enumerate() {
            bytes += record.len() + 1;
            if bytes >= wire::PART_BYTES {
                ends.push(index + 1);
                bytes = 0;
            }
        }
        if ends.last() != Some(&records.len()) {
            ends.push(records.len());
        }
        Self {
            place,
            position,
            records,
            parts: ends.iter().map(|_| Mutex::default()).collect(),
            ends,
        }
    }

    /// A part as an event; `None` after the last one.
    pub(super) fn part(&self, number: usize) -> Option<Bytes> {
        let slot = self.parts.get(number)?;
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let part = slot.upgrade().unwrap_or_else(|| {
            let part = Arc::new(self.write(number));
            *slot = Arc::downgrade(&part);
            part
        });
        Some(Bytes::from_owner(Sent(part)))
    }

    fn write(&self, number: usize) -> Vec<u8> {
        let from = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        let last = number + 1 == self.ends.len();
        let mut data = BytesMut::with_capacity(wire::PART_BYTES);
        data.put_slice(format!(r#"{{"part":{number},"last":{last},"records":["#).as_bytes());
        for (index, record) in self.records[from..self.ends[number]].iter().enumerate() {
            if index > 0 {
                data.put_u8(b',');
            }
            data.put_slice(record);
        }
        data.put_slice(b"]}");
        let mut text = BytesMut::with_capacity(data.len() + 128);
        frame::write(&mut text, wire::RESET, self.position.filter(|_| last), &data);
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(records: Vec<Bytes>) -> Vec<Bytes> {
        let at = Position {
            generation: 1,
            seq: 2,
        };
        let snapshot = Snapshot::new(0, Some(at), records);
        (0..).map_while(|number| snapshot.part(number)).collect()
    }

    #[test]
    fn nothing_is_one_part_too() {
        let parts = parts(Vec::new());
        assert_eq!(
            parts,
            ["id: 1-2\nevent: reset\ndata: {\"part\":0,\"last\":true,\"records\":[]}\n\n"]
        );
    }

    #[test]
    fn parts_are_bounded_and_only_the_last_one_has_the_position() {
        let record = Bytes::from(format!("\"{}\"", "x".repeat(10_000)));
        for count in [6, 7, 8, 13, 14, 15, 100] {
            let parts = parts(vec![record.clone(); count]);
            let mut told = 0;
            for (number, text) in parts.iter().enumerate() {
                assert!(text.len() < wire::PART_BYTES + record.len() + 100);
                let (id, _, data) = frame::read(text).next().unwrap();
                let last = number + 1 == parts.len();
                let part: serde_json::Value = serde_json::from_slice(data).unwrap();
                assert_eq!((id.is_some(), &part["last"]), (last, &last.into()), "{count}");
                assert_eq!(part["part"], number);
                told += part["records"].as_array().unwrap().len();
            }
            assert_eq!(told, count);
        }
    }

    #[test]
    fn those_who_send_a_part_at_the_same_time_share_it() {
        let snapshot = Snapshot::new(0, None, vec!["1".into()]);
        let (one, two) = (snapshot.part(0).unwrap(), snapshot.part(0).unwrap());
        assert_eq!(one.as_ptr(), two.as_ptr());
        drop((one, two));
        let kept = snapshot.parts[0].lock().unwrap().upgrade();
        assert!(kept.is_none());
    }
}
