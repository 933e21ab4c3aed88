//! What can be wrong with a network, and what of it is in force.

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

/// Which way bytes go through a [`FaultProxy`](crate::FaultProxy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// What a [`FaultProxy`](crate::FaultProxy) does to connections.
///
/// Faults last until [`heal`](crate::FaultProxy::heal), for open and for new connections, except for
/// [`Reset`](Self::Reset) and [`HalfClose`](Self::HalfClose), which happen once, to those that are open.
/// They may be combined: each is applied on top of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toxic {
    /// Whatever comes, in either direction, goes on this much later, in its order. Ends of stream are
    /// late, too; errors are not. Chunks are under way side by side, so that delay does not divide
    /// throughput until 64 KiB (or 1024 chunks) are under way in one direction of one connection.
    Delay(Duration),
    /// At most so many bytes per second, for each connection and direction.
    Rate(NonZeroU32),
    /// A black hole: bytes are read and thrown away in both directions, what is held back as well, and
    /// the end of one side is kept from the other. New connections are accepted, without a connection to
    /// the target. Connections that lost bytes are reset when healed; others then go on.
    Swallow,
    /// The same for one direction; the other goes on. If it is the one to the server, new connections
    /// do not reach the target.
    SwallowOnly(Direction),
    /// Nothing is read or delivered, so that whoever sends is held up sooner or later. Nothing is lost
    /// either: it goes on when healed. New connections are accepted, and reach the target when healed.
    /// `Swallow` is stronger.
    Stall,
    /// Open connections are closed as if their process had been killed: with an end of stream, or a reset
    /// if bytes were left unread. New ones are closed right after they were accepted. To a client that is
    /// not the same as `Refuse`: its `connect` succeeds, and only its first read or write tells.
    HangUp,
    /// Open connections are closed as by `HangUp`, and nobody listens, so that `connect` fails with `ECONNREFUSED`. The
    /// port is kept for when the proxy is healed.
    Refuse,
    /// Connections that are open or wait to be accepted end with RST on both sides; once.
    Reset,
    /// The receiver of this direction gets an end of stream (FIN) after what is on its way, in every
    /// connection that is open; once, and for good. What is sent in this direction later is read and
    /// thrown away. The other direction goes on.
    HalfClose(Direction),
    /// So many more bytes are passed on in this direction of each connection, counted from now or from its
    /// beginning; then it is reset, on both sides. Bytes that the receiver's operating system has not
    /// taken when that happens may be lost: to be sure, let it read.
    CutAfter {
        /// The direction that is counted.
        direction: Direction,
        /// How many bytes pass. None is a reset at once.
        bytes: u64,
    },
}

/// Everything that is in force, as connections see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) target: SocketAddr,
    /// Counts changes.
    pub(super) epoch: u64,
    /// Counts healings, so that one that is over before a connection looks is still noticed.
    pub(super) heals: u64,
    pub(super) resets: u64,
    pub(super) hang_ups: u64,
    half_closes: [u64; 2],
    lasting: Lasting,
}

/// What is over once healed.
#[derive(Clone, Copy, Debug, Default)]
struct Lasting {
    delay: Duration,
    rate: Option<NonZeroU32>,
    swallowed: [bool; 2],
    stalled: bool,
    entry: Entry,
    cuts: [Option<Cut>; 2],
}

/// What becomes of new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Entry {
    #[default]
    Free,
    HungUp,
    Refused,
}

/// A cut that is due; of two with as many bytes, the later one counts anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    epoch: u64,
    pub(super) bytes: u64,
}

impl Faults {
    pub(super) fn none(target: SocketAddr) -> Self {
        Self {
            target,
            epoch: 0,
            heals: 0,
            resets: 0,
            hang_ups: 0,
            half_closes: [0; 2],
            lasting: Lasting::default(),
        }
    }

    pub(super) fn add(&mut self, toxic: Toxic) {
        let lasting = &mut self.lasting;
        match toxic {
            Toxic::Delay(by) => lasting.delay = by,
            Toxic::Rate(rate) => lasting.rate = Some(rate),
            Toxic::Swallow => lasting.swallowed = [true; 2],
            Toxic::SwallowOnly(direction) => lasting.swallowed[direction as usize] = true,
            Toxic::Stall => lasting.stalled = true,
            Toxic::HangUp => self.hang_up(Entry::HungUp),
            Toxic::Refuse => self.hang_up(Entry::Refused),
            Toxic::Reset => self.resets += 1,
            Toxic::HalfClose(direction) => self.half_closes[direction as usize] += 1,
            Toxic::CutAfter { direction, bytes } => self.cut(direction, bytes),
        }
    }

    pub(super) fn heal(&mut self) {
        self.lasting = Lasting::default();
        self.heals += 1;
    }

    fn hang_up(&mut self, entry: Entry) {
        self.lasting.entry = entry;
        self.hang_ups += 1;
    }

    fn cut(&mut self, direction: Direction, bytes: u64) {
        let epoch = self.epoch;
        self.lasting.cuts[direction as usize] = Some(Cut { epoch, bytes });
        if bytes == 0 {
            self.resets += 1;
        }
    }

    pub(super) fn delay(&self) -> Duration {
        self.lasting.delay
    }

    pub(super) fn rate(&self) -> Option<NonZeroU32> {
        self.lasting.rate
    }

    pub(super) fn entry(&self) -> Entry {
        self.lasting.entry
    }

    pub(super) fn swallows(&self, direction: Direction) -> bool {
        self.lasting.swallowed[direction as usize]
    }

    /// Whether nothing gets through in this direction, be it lost or kept.
    pub(super) fn holds(&self, direction: Direction) -> bool {
        self.lasting.stalled || self.swallows(direction)
    }

    pub(super) fn half_closes(&self, direction: Direction) -> u64 {
        self.half_closes[direction as usize]
    }

    pub(super) fn cut_in(&self, direction: Direction) -> Option<Cut> {
        self.lasting.cuts[direction as usize]
    }
}
