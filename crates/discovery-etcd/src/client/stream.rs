//! A watch of one server.

use std::sync::Arc;

use etcd_client::{WatchOptions, proto::PbEvent};

use super::request::{Entry, Line, entry};
use crate::error::{Effect, Fault};

/// The most bytes of one message. The server splits what is larger, between events.
const MESSAGE_BYTES: usize = 64 * 1_024 * 1_024;

/// What the server says on a watch.
#[derive(Debug)]
pub(crate) struct Message {
    /// The revision that the server has come to.
    pub(crate) revision: i64,
    /// The watch has begun.
    pub(crate) created: bool,
    /// The watch has ended, and why as far as the server says.
    pub(crate) canceled: Option<String>,
    /// It has ended because what it is to tell is not there any more.
    pub(crate) compacted: bool,
    /// The last revision in here goes on in the next message.
    pub(crate) goes_on: bool,
    pub(crate) events: Vec<Event>,
}

/// What happened to a key.
#[derive(Debug)]
pub(crate) enum Event {
    Put(Entry),
    Delete { key: Vec<u8>, revision: i64 },
}

impl Event {
    pub(crate) fn revision(&self) -> i64 {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// A watch on a connection of its own. Dropping it closes that.
#[derive(Debug)]
pub(crate) struct WatchStream {
    stream: etcd_client::WatchStream,
    host: Arc<str>,
}

impl Line {
    /// Watches keys from `start` to before `end`, from a revision on.
    pub(crate) async fn watch(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
        revision: i64,
    ) -> Result<WatchStream, Fault> {
        let options = WatchOptions::new()
            .with_range(end)
            .with_start_revision(revision)
            .with_fragment();
        let mut client = self
            .client
            .watch_client()
            .max_decoding_message_size(MESSAGE_BYTES);
        let stream = client.watch(start, Some(options)).await;
        Ok(WatchStream {
            stream: stream.map_err(|cause| self.failed(cause))?,
            host: self.host.clone(),
        })
    }
}

impl WatchStream {
    /// The next message. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Message, Fault> {
        let message = self.stream.message().await;
        let message = message.map_err(|cause| Fault::from_vendor(cause, Effect::Read, &self.host))?;
        let mut message = message.ok_or_else(|| Fault::ended(format!("{} ended the watch", self.host)))?;
        let events = std::mem::take(&mut message.0.events);
        Ok(Message {
            revision: message.header().map_or(0, |header| header.revision()),
            created: message.created(),
            canceled: message.canceled().then(|| message.cancel_reason().to_owned()),
            compacted: message.compact_revision() > 0,
            goes_on: message.0.fragment,
            events: events.into_iter().filter_map(event).collect(),
        })
    }

    /// Asks the server to say how far it has come.
    pub(crate) async fn ask(&mut self) -> Result<(), Fault> {
        let asked = self.stream.request_progress().await;
        asked.map_err(|cause| Fault::from_vendor(cause, Effect::Read, &self.host))
    }

    /// The server's host and port.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

/// What a newer server may tell beyond writing and removing is nothing for us.
fn event(event: PbEvent) -> Option<Event> {
    let stands = event.kv?;
    match event.r#type {
        0 => Some(Event::Put(entry(stands))),
        1 => Some(Event::Delete {
            revision: stands.mod_revision,
            key: stands.key,
        }),
        _ => None,
    }
}
