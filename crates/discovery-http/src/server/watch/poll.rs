//! The long poll: a watch in single answers, for ways on which a stream does not get through.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use discovery_core::store::Position;
use futures_util::{Stream, stream};
use tokio::time::Instant;

use super::{
    frame,
    reader::{Reader, Ready},
};
use crate::wire;

/// Bytes of changes after which an answer is complete; a reset is told whole.
const ENOUGH: usize = 1_024 * 1_024;

/// An answer in pieces: everything there is, or else the first that comes before `wait` is over.
pub(super) fn answer(reader: Reader, wait: Duration) -> impl Stream<Item = Bytes> + Send + 'static {
    let poll = Poll {
        reader,
        end: Instant::now() + wait,
        told: 0,
        cursor: None,
        done: false,
    };
    stream::unfold(Some(poll), |poll| async move {
        let mut poll = poll?;
        let text = poll.next().await;
        Some((text, (!poll.done).then_some(poll)))
    })
}

struct Poll {
    reader: Reader,
    end: Instant,
    /// Bytes of events.
    told: usize,
    /// The id of the last event, or of none.
    cursor: Option<Cursor>,
    done: bool,
}

enum Cursor {
    Text(String),
    /// Inside of a reset, from which nobody can go on.
    Nowhere,
}

impl Poll {
    async fn next(&mut self) -> Bytes {
        let mut text = BytesMut::new();
        if self.cursor.is_none() && self.told == 0 {
            text.put_slice(br#"{"events":["#);
        }
        let ready = match self.told {
            0 => self.reader.next(self.end).await,
            _ => self.reader.ready(),
        };
        match ready {
            Ready::Text(events) => self.write(&events, &mut text),
            Ready::Nothing(at) => self.close(at, &mut text),
            Ready::Ended(last) => {
                if let Some(last) = last {
                    self.write(&last, &mut text);
                }
                self.close(None, &mut text);
            }
        }
        if !self.done && self.told >= ENOUGH && matches!(self.cursor, Some(Cursor::Text(_))) {
            self.close(None, &mut text);
        }
        text.freeze()
    }

    fn write(&mut self, events: &[u8], text: &mut BytesMut) {
        for (id, name, data) in frame::read(events) {
            if self.told > 0 {
                text.put_u8(b',');
            }
            self.told += data.len();
            text.put_slice(br#"{"event":""#);
            text.put_slice(name);
            text.put_u8(b'"');
            if let Some(id) = id {
                // Digits and a dash, as [`wire::cursor_text`] writes them.
                text.put_slice(br#","id":""#);
                text.put_slice(id);
                text.put_u8(b'"');
            }
            self.cursor = Some(match id {
                Some(id) => Cursor::Text(String::from_utf8_lossy(id).into_owned()),
                None => Cursor::Nowhere,
            });
            text.put_slice(br#","data":"#);
            text.put_slice(data);
            text.put_u8(b'}');
        }
    }

    fn close(&mut self, at: Option<Position>, text: &mut BytesMut) {
        self.done = true;
        let cursor = match (at, &self.cursor) {
            (Some(at), _) => format!(r#""{}""#, wire::cursor_text(at)),
            (None, Some(Cursor::Text(cursor))) => format!(r#""{cursor}""#),
            (None, _) => "null".to_owned(),
        };
        text.put_slice(format!(r#"],"cursor":{cursor}}}"#).as_bytes());
    }
}
