//! The latest changes as text, in the order in which they happened: what everybody who watches
//! reads, each at his own pace.

use std::{collections::VecDeque, mem};

use bytes::{Bytes, BytesMut};
use discovery_core::store::Position;

use super::frame;

/// Changes that are kept.
const CHANGES: usize = 8_192;
/// Bytes of text that are kept.
const BYTES: usize = 2 * 1_024 * 1_024;

/// Changes that were told together.
#[derive(Default)]
struct Batch {
    text: BytesMut,
    /// Where each change ends, and which position that is, where the store tells.
    ends: Vec<(usize, Option<Position>)>,
}

impl Batch {
    fn size(&self) -> (usize, usize) {
        (self.ends.len(), self.text.len())
    }

    fn last(&self) -> Option<Position> {
        self.ends.iter().rev().find_map(|(_, at)| *at)
    }

    /// Where the text after a position begins, if it is in here.
    fn after(&self, position: Position) -> Option<usize> {
        let reached = |(_, at): &&(usize, Option<Position>)| at.is_some_and(|at| at <= position);
        self.ends.iter().rev().find(reached).map(|(end, _)| *end)
    }
}

/// A batch that is complete.
struct Told {
    batch: Batch,
    text: Bytes,
}

/// What there is to read at a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Changes, and the place after them.
    Text(Bytes, u64),
    /// Nothing yet.
    End,
    /// What stood there was given up.
    Lost,
}

/// Bounded by number and bytes of changes; the oldest leave first. A *place* is the number of a batch.
#[derive(Default)]
pub(super) struct Ring {
    told: VecDeque<Told>,
    /// The place of the oldest batch.
    first: u64,
    changes: usize,
    bytes: usize,
    /// Every change after this position is in the ring.
    floor: Option<Position>,
    /// Where the ring ends.
    position: Option<Position>,
    /// Not told yet.
    waiting: Batch,
}

impl Ring {
    /// Forgets everything: what stands as of `position` is told in another way.
    pub(super) fn start_over(&mut self, position: Option<Position>) {
        *self = Self {
            // Nobody who read before finds his place again.
            first: self.end() + 1,
            floor: position,
            position,
            ..Self::default()
        };
    }

    /// Adds a change; it is told with the next [`tell`](Self::tell).
    pub(super) fn push(&mut self, name: &str, at: Option<Position>, data: &[u8]) {
        frame::write(&mut self.waiting.text, name, at, data);
        self.waiting.ends.push((self.waiting.text.len(), at));
    }

    /// Bytes that wait to be told.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.text.len()
    }

    /// Nothing else happened up to a position.
    pub(super) fn progress(&mut self, at: Position) {
        match self.waiting.ends.last_mut() {
            Some((_, end)) => *end = end.or(Some(at)),
            None => self.position = Some(at),
        }
    }

    /// Tells what waits, as one batch.
    pub(super) fn tell(&mut self) {
        let mut batch = mem::take(&mut self.waiting);
        if batch.ends.is_empty() {
            return;
        }
        let text = mem::take(&mut batch.text).freeze();
        self.changes += batch.ends.len();
        self.bytes += text.len();
        self.position = batch.last().or(self.position);
        self.told.push_back(Told { batch, text });
        while self.changes > CHANGES || self.bytes > BYTES {
            let Some(Told { batch, text }) = self.told.pop_front() else {
                return;
            };
            self.first += 1;
            self.changes -= batch.size().0;
            self.bytes -= text.len();
            self.floor = batch.last().or(self.floor);
        }
    }

    /// The place after everything that was told.
    pub(super) fn end(&self) -> u64 {
        self.first + self.told.len() as u64
    }

    /// The position at the end.
    pub(super) fn position(&self) -> Option<Position> {
        self.position
    }

    pub(super) fn next(&self, place: u64) -> Next {
        let Some(index) = place.checked_sub(self.first) else {
            return Next::Lost;
        };
        let told = usize::try_from(index).ok().and_then(|index| self.told.get(index));
        told.map_or(Next::End, |told| Next::Text(told.text.clone(), place + 1))
    }

    /// Where to go on after a position: the rest of a batch, and the place after it. `None` if
    /// not everything that happened since is known.
    pub(super) fn resume(&self, after: Position) -> Option<(Bytes, u64)> {
        let (floor, now) = (self.floor?, self.position?);
        if after.generation != now.generation || after < floor || after > now {
            return None;
        }
        let found = self.told.iter().enumerate().rev().find_map(|(index, told)| {
            let end = told.batch.after(after)?;
            Some((told.text.slice(end..), self.first + index as u64 + 1))
        });
        Some(found.unwrap_or_else(|| (Bytes::new(), self.first)))
    }

    #[cfg(test)]
    fn held(&self) -> (usize, usize) {
        (self.changes, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64) -> Position {
        Position { generation: 1, seq }
    }

    /// Batches of `size` changes each, with the positions 1 to `count`.
    fn ring(count: u64, size: u64) -> Ring {
        let mut ring = Ring::default();
        ring.start_over(Some(at(0)));
        for seq in 1..=count {
            ring.push("put", Some(at(seq)), seq.to_string().as_bytes());
            if seq % size == 0 {
                ring.tell();
            }
        }
        ring.tell();
        ring
    }

    fn read(ring: &Ring, (first, mut place): (Bytes, u64)) -> Vec<u64> {
        let mut text = first.to_vec();
        while let Next::Text(more, after) = ring.next(place) {
            text.extend_from_slice(&more);
            place = after;
        }
        assert_eq!(ring.next(place), Next::End);
        let seq = |data: &[u8]| std::str::from_utf8(data).unwrap().parse().unwrap();
        frame::read(&text).map(|(_, _, data)| seq(data)).collect()
    }

    #[test]
    fn reading_goes_on_right_after_any_position() {
        for size in [1, 3, 7, 100] {
            let ring = ring(20, size);
            for after in 0..=20 {
                let expected: Vec<_> = (after + 1..=20).collect();
                assert_eq!(
                    read(&ring, ring.resume(at(after)).unwrap()),
                    expected,
                    "{size} {after}"
                );
            }
        }
    }

    #[test]
    fn nobody_goes_on_from_what_is_not_known() {
        let ring = ring(20_000, 10);
        assert!(ring.resume(at(20_001)).is_none(), "from the future");
        assert!(
            ring.resume(Position {
                generation: 2,
                seq: 1
            })
            .is_none()
        );
        let oldest = 20_000 - CHANGES as u64;
        assert!(ring.resume(at(oldest - 1)).is_none(), "given up");
        assert!(ring.resume(at(oldest + 10)).is_some());
        assert_eq!(ring.next(0), Next::Lost);
    }

    #[test]
    fn a_ring_is_bounded_by_number_and_bytes() {
        let (changes, bytes) = ring(100_000, 3).held();
        assert!(changes <= CHANGES && bytes <= BYTES, "{changes} {bytes}");
        let mut large = Ring::default();
        large.start_over(Some(at(0)));
        for seq in 1..=100 {
            large.push("put", Some(at(seq)), &vec![b'x'; 100_000]);
            large.tell();
        }
        let (changes, bytes) = large.held();
        assert!(
            (15..=20).contains(&changes) && bytes <= BYTES,
            "{changes} {bytes}"
        );
    }

    #[test]
    fn whoever_read_before_a_new_start_has_lost_his_place() {
        let mut ring = ring(10, 2);
        let end = ring.end();
        ring.push("put", Some(at(11)), b"11");
        ring.start_over(Some(at(11)));
        assert_eq!(ring.next(end), Next::Lost);
        assert_eq!(ring.next(ring.end()), Next::End);
        assert!(ring.resume(at(10)).is_none());
        assert_eq!(read(&ring, ring.resume(at(11)).unwrap()), [0_u64; 0]);
    }

    #[test]
    fn progress_never_overtakes_what_waits_to_be_told() {
        let mut ring = ring(1, 1);
        ring.push("put", Some(at(2)), b"2");
        ring.progress(at(5));
        assert_eq!(ring.position(), Some(at(1)));
        ring.tell();
        assert_eq!(ring.position(), Some(at(2)));
        ring.progress(at(5));
        assert_eq!(ring.position(), Some(at(5)));
        assert_eq!(read(&ring, ring.resume(at(3)).unwrap()), [0_u64; 0]);
    }

    #[test]
    fn a_change_without_a_position_is_told_again_rather_than_left_out() {
        let mut ring = ring(1, 1);
        ring.push("put", None, b"2");
        ring.tell();
        assert_eq!(read(&ring, ring.resume(at(1)).unwrap()), [2]);
    }
}
