//! One watch: where it has come to, and what it is told next.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use discovery_core::store::Position;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};

use super::{
    frame,
    hub::{Hub, Start},
    ring::Next,
    snapshot::Snapshot,
};

/// Nothing is kept for a reader but where he is: who falls behind what the ring holds starts
/// over with a reset.
pub(super) struct Reader {
    hub: Arc<Hub>,
    place: Place,
    /// Whether it still has to be said that everything since the cursor was told.
    resumes: bool,
    ended: bool,
    /// Counts the watch as long as it lives.
    _permit: OwnedSemaphorePermit,
}

enum Place {
    /// The next part of a snapshot.
    Snapshot(Arc<Snapshot>, usize),
    /// The rest of a batch, and the place after it.
    Rest(Bytes, u64),
    Ring(u64),
}

/// What there is for a reader without waiting.
pub(super) enum Ready {
    Text(Bytes),
    /// Nothing, as of this position.
    Nothing(Option<Position>),
    /// Nothing any more; perhaps with a last word.
    Ended(Option<Bytes>),
}

impl Reader {
    pub(super) fn new(hub: Arc<Hub>, after: Option<Position>, permit: OwnedSemaphorePermit) -> Self {
        let (place, resumes) = match hub.start(after) {
            Start::Snapshot(snapshot) => (Place::Snapshot(snapshot, 0), false),
            Start::Resume(rest, place) => (Place::Rest(rest, place), true),
        };
        Self {
            hub,
            place,
            resumes,
            ended: false,
            _permit: permit,
        }
    }

    /// Does not say that everything since the cursor was told, for answers that show it.
    #[must_use]
    pub(super) fn without_progress(mut self) -> Self {
        self.resumes = false;
        self
    }

    /// What there is to be told. The end comes before what else there may be: a watch that ended
    /// is made again, and misses nothing.
    pub(super) fn ready(&mut self) -> Ready {
        if self.ended {
            return Ready::Ended(None);
        }
        if let Some(error) = self.hub.ended() {
            self.ended = true;
            return Ready::Ended(error.as_ref().map(frame::error));
        }
        loop {
            let place = match &mut self.place {
                Place::Snapshot(snapshot, number) => match snapshot.part(*number) {
                    Some(part) => {
                        *number += 1;
                        return Ready::Text(part);
                    }
                    None => snapshot.place,
                },
                Place::Rest(rest, place) => {
                    let (rest, place) = (rest.clone(), *place);
                    self.place = Place::Ring(place);
                    if !rest.is_empty() {
                        return Ready::Text(rest);
                    }
                    place
                }
                Place::Ring(place) => *place,
            };
            self.place = match self.hub.next(place) {
                (Next::Text(text, place), _) => {
                    self.place = Place::Ring(place);
                    return Ready::Text(text);
                }
                (Next::End, at) => {
                    self.place = Place::Ring(place);
                    return self.at_the_end(at);
                }
                (Next::Lost, _) => {
                    self.resumes = false;
                    match self.hub.start(None) {
                        Start::Snapshot(snapshot) => Place::Snapshot(snapshot, 0),
                        Start::Resume(rest, place) => Place::Rest(rest, place),
                    }
                }
            };
        }
    }

    fn at_the_end(&mut self, at: Option<Position>) -> Ready {
        if self.resumes {
            self.resumes = false;
            return Ready::Text(frame::progress(at));
        }
        Ready::Nothing(at)
    }

    /// Waits until there is something to be told, until `end` at most.
    pub(super) async fn next(&mut self, end: Instant) -> Ready {
        let hub = self.hub.clone();
        loop {
            let changed = hub.changed();
            tokio::pin!(changed);
            // Before the look, so that nothing falls between.
            changed.as_mut().enable();
            let ready = self.ready();
            if !matches!(ready, Ready::Nothing(_)) {
                return ready;
            }
            tokio::select! {
                () = changed => {}
                () = sleep_until(end) => return ready,
            }
        }
    }

    /// The next piece of a stream that is never silent for longer than `keep_alive`; `None` at
    /// its end.
    pub(super) async fn text(&mut self, keep_alive: Duration) -> Option<Bytes> {
        match self.next(Instant::now() + keep_alive).await {
            Ready::Text(text) => Some(text),
            Ready::Nothing(at) => Some(frame::progress(at)),
            Ready::Ended(last) => last,
        }
    }
}
