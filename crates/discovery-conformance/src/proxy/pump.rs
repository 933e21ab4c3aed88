//! One direction of one connection.

use std::{io, num::NonZeroU32, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::tcp::{ReadHalf, WriteHalf},
    select,
    sync::watch,
    task::consume_budget,
    time::{Instant, sleep_until},
};

use super::{
    connection::{Broken, Shared},
    faults::{Cut, Direction, Faults},
    queue::Queue,
};

/// How much is read at once.
const CHUNK: usize = 16 * 1024;

/// Carries bytes from `source` to `sink` under the faults in force.
pub(super) struct Pump<'a> {
    direction: Direction,
    shared: &'a Shared,
    faults: watch::Receiver<Faults>,
    source: ReadHalf<'a>,
    sink: WriteHalf<'a>,
    queue: Queue,
    pacer: Pacer,
    cut: Option<Cut>,
    /// How much may still pass until the cut.
    left: Option<u64>,
    half_closes: u64,
    /// The count of healings when bytes were lost: at the next one, the stream is torn.
    lost: Option<u64>,
    /// The source has sent its end.
    ended: bool,
    /// The source has failed.
    failed: bool,
    /// The end is queued or sent: what comes after it is thrown away.
    closing: bool,
    /// The end was sent.
    closed: bool,
}

impl<'a> Pump<'a> {
    /// Between two sockets; one-shot faults that `since` knows of are over.
    pub(super) fn new(
        direction: Direction,
        shared: &'a Shared,
        since: &Faults,
        source: ReadHalf<'a>,
        sink: WriteHalf<'a>,
    ) -> Self {
        Self {
            direction,
            shared,
            faults: shared.faults.subscribe(),
            source,
            sink,
            queue: Queue::default(),
            pacer: Pacer::default(),
            cut: None,
            left: None,
            half_closes: since.half_closes(direction),
            lost: None,
            ended: false,
            failed: false,
            closing: false,
            closed: false,
        }
    }

    /// Runs until both the source's end was seen and an end was sent to the sink.
    pub(super) async fn run(mut self) -> Result<(), Broken> {
        while !(self.ended && self.closed) {
            let now = self.look()?;
            self.step(&now).await?;
            // Sockets that are always ready would keep the other direction from running.
            consume_budget().await;
        }
        Ok(())
    }

    /// Takes note of the faults in force.
    fn look(&mut self) -> Result<Faults, Broken> {
        let now = *self.faults.borrow_and_update();
        let torn = self.lost.is_some_and(|heals| heals != now.heals);
        if torn || self.failed && !now.holds(self.direction) {
            return Err(Broken);
        }
        if now.swallows(self.direction) {
            let bytes = self.queue.lose();
            self.lose(bytes, &now);
        }
        if self.half_closes != now.half_closes(self.direction) {
            self.half_closes = now.half_closes(self.direction);
            self.close();
        }
        if self.cut != now.cut_in(self.direction) {
            self.cut = now.cut_in(self.direction);
            self.left = self.cut.map(|cut| cut.bytes);
        }
        if self.left == Some(0) {
            return Err(Broken);
        }
        Ok(now)
    }

    async fn step(&mut self, now: &Faults) -> Result<(), Broken> {
        let due = self.due(now);
        let ripe = due.is_some_and(|due| due <= Instant::now());
        select! {
            biased;
            changed = self.faults.changed() => changed.map_err(|_| Broken),
            ready = self.sink.writable(), if ripe => {
                ready?;
                self.put_out(now).await
            }
            ready = self.source.readable(), if self.may_read(now) => {
                ready?;
                self.take_in()
            }
            () = until(due), if !ripe => Ok(()),
        }
    }

    /// When the first chunk may go on; `None` if nothing will without a change.
    fn due(&self, now: &Faults) -> Option<Instant> {
        if now.holds(self.direction) {
            return None;
        }
        let (came, _) = self.queue.first()?;
        let due = came.checked_add(now.delay())?;
        Some(self.pacer.next.map_or(due, |next| next.max(due)))
    }

    fn may_read(&self, now: &Faults) -> bool {
        let held_up = now.holds(self.direction) && !now.swallows(self.direction);
        !self.ended && !self.failed && !held_up && self.queue.room() > 0
    }

    fn take_in(&mut self) -> Result<(), Broken> {
        let mut buffer = [0; CHUNK];
        let room = CHUNK.min(self.queue.room());
        match self.source.try_read(&mut buffer[..room]) {
            Ok(0) => {
                self.ended = true;
                self.close();
            }
            Ok(read) => self.took(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Told to the other side as soon as anything may be.
            Err(_) => self.failed = true,
        }
        Ok(())
    }

    fn took(&mut self, chunk: &[u8]) -> Result<(), Broken> {
        // What was sent after a fault began must not slip through because it began only now.
        let now = self.look()?;
        if self.closing {
            return Ok(());
        }
        if now.swallows(self.direction) {
            self.lose(chunk.len(), &now);
        } else {
            self.queue.push(chunk);
        }
        Ok(())
    }

    async fn put_out(&mut self, now: &Faults) -> Result<(), Broken> {
        let Some((_, chunk)) = self.queue.first() else {
            return Ok(());
        };
        if chunk.is_empty() {
            self.queue.went(0);
            self.closed = true;
            return Ok(self.sink.shutdown().await?);
        }
        let most = chunk.len().min(Pacer::burst(now.rate())).min(self.before_cut());
        // Counted first: nobody has read what is not counted yet.
        self.shared.pass(self.direction, most);
        let written = self.sink.try_write(&chunk[..most]);
        self.shared
            .take_back(self.direction, most - *written.as_ref().unwrap_or(&0));
        match written {
            Ok(written) => self.wrote(written, now),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Broken),
        }
        Ok(())
    }

    fn before_cut(&self) -> usize {
        let left = self.left.unwrap_or(u64::MAX);
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    fn wrote(&mut self, bytes: usize, now: &Faults) {
        self.queue.went(bytes);
        self.pacer.spend(bytes, now.rate());
        self.left = self.left.map(|left| left.saturating_sub(bytes as u64));
    }

    fn lose(&mut self, bytes: usize, now: &Faults) {
        if bytes > 0 {
            self.lost.get_or_insert(now.heals);
            self.shared.swallow(self.direction, bytes);
        }
    }

    fn close(&mut self) {
        if !self.closing {
            self.closing = true;
            self.queue.push_end();
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Keeps a rate.
#[derive(Default)]
struct Pacer {
    next: Option<Instant>,
}

impl Pacer {
    /// How much time is made up for if timers ring late.
    const CREDIT: Duration = Duration::from_millis(10);

    /// How much goes out at once: what is due in 20 ms.
    fn burst(rate: Option<NonZeroU32>) -> usize {
        rate.map_or(usize::MAX, |rate| (rate.get() / 50).max(1) as usize)
    }

    fn spend(&mut self, bytes: usize, rate: Option<NonZeroU32>) {
        let now = Instant::now();
        self.next = rate.map(|rate| {
            let earliest = now.checked_sub(Self::CREDIT).unwrap_or(now);
            let begun = self.next.map_or(now, |next| next.max(earliest));
            begun + Duration::from_secs_f64(bytes as f64 / f64::from(rate.get()))
        });
    }
}
