//! An answer that is a stream of events.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use discovery_core::{DiscoveryError, ErrorKind, Retry};
use tokio::time::{Instant, timeout_at};

use crate::{
    error::{self, Effect},
    sse::{Event, Fault, Parser},
    wire,
};

/// Dropping it closes its connection.
pub(crate) struct EventStream {
    response: reqwest::Response,
    parser: Parser,
    ready: VecDeque<Event>,
    host: Arc<str>,
    /// Since when somebody waits for the next event.
    waits_since: Option<Instant>,
}

impl EventStream {
    pub(crate) fn new(response: reqwest::Response, host: Arc<str>) -> Self {
        Self {
            response,
            parser: Parser::new(wire::EVENT_BYTES),
            ready: VecDeque::new(),
            host,
            waits_since: None,
        }
    }

    /// The next event. No whole one for longer than `silence` is an error, and so is the end: a
    /// service says something all the time, and bytes that merely trickle are no sign of life.
    ///
    /// Cancel safe: the time that was waited counts on.
    pub(crate) async fn next(&mut self, silence: Duration) -> Result<Event, DiscoveryError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.waits_since = None;
                return Ok(event);
            }
            let until = *self.waits_since.get_or_insert_with(Instant::now) + silence;
            // What has arrived already is read first, however late.
            let Ok(read) = timeout_at(until, self.response.chunk()).await else {
                let context = format!("{} was silent for {silence:?}", self.host);
                let error = error::error(ErrorKind::Timeout, context);
                return Err(error.with_retry(Retry::Safe { after: None }));
            };
            let read = read.map_err(|cause| error::from_reqwest(cause, Effect::Read, &self.host))?;
            let Some(piece) = read else {
                let error = error::error(ErrorKind::Unavailable, format!("{} ended the watch", self.host));
                return Err(error.with_retry(Retry::Safe { after: None }));
            };
            let events = self.parser.read(&piece).map_err(|fault| self.unreadable(fault))?;
            self.ready.extend(events);
        }
    }

    fn unreadable(&self, fault: Fault) -> DiscoveryError {
        let why = match fault {
            Fault::NotText => "with events that are no text".to_owned(),
            Fault::TooLarge => format!("with an event of more than {} bytes", wire::EVENT_BYTES),
        };
        error::unreadable(Effect::Read, &self.host, &why)
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventStream({})", self.host)
    }
}
