//! Server-sent events, read from pieces of text of any size (WHATWG HTML, section 9.2.6).

use std::mem;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its type; empty if it has none.
    pub(crate) name: String,
    /// Its own id; that of an earlier event is not repeated here.
    pub(crate) id: Option<String>,
    pub(crate) data: String,
}

/// Why a text is no stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    NotText,
    TooLarge,
}

/// Reads a stream of events. Holds at most one event of bounded size beside those that are ready.
#[derive(Debug)]
pub(crate) struct Parser {
    /// The most bytes of one event.
    most: usize,
    line: Vec<u8>,
    event: Event,
    has_data: bool,
    /// Whether the last line ended with a carriage return, so that a line feed belongs to it.
    returned: bool,
    first: bool,
}

impl Parser {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            line: Vec::new(),
            event: Event::default(),
            has_data: false,
            returned: false,
            first: true,
        }
    }

    /// Reads a piece; the events that are complete with it.
    pub(crate) fn read(&mut self, mut piece: &[u8]) -> Result<Vec<Event>, Fault> {
        let mut events = Vec::new();
        if mem::take(&mut self.returned) && piece.first() == Some(&b'\n') {
            piece = &piece[1..];
        }
        while let Some(end) = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.extend(&piece[..end])?;
            events.extend(self.end_line()?);
            let crlf = piece[end..].starts_with(b"\r\n");
            self.returned = piece[end..] == *b"\r";
            piece = &piece[end + 1 + usize::from(crlf)..];
        }
        self.extend(piece)?;
        Ok(events)
    }

    fn extend(&mut self, piece: &[u8]) -> Result<(), Fault> {
        if self.line.len() + self.event.data.len() + piece.len() > self.most {
            return Err(Fault::TooLarge);
        }
        self.line.extend_from_slice(piece);
        Ok(())
    }

    fn end_line(&mut self) -> Result<Option<Event>, Fault> {
        let line = mem::take(&mut self.line);
        let text = std::str::from_utf8(&line).map_err(|_| Fault::NotText)?;
        let text = match mem::take(&mut self.first) {
            true => text.trim_start_matches('\u{feff}'),
            false => text,
        };
        if text.is_empty() {
            return Ok(self.dispatch());
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        self.field(field, value.strip_prefix(' ').unwrap_or(value));
        Ok(None)
    }

    fn field(&mut self, field: &str, value: &str) {
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "id" if !value.contains('\0') => self.event.id = Some(value.to_owned()),
            "data" => {
                if mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // Comments, `retry`, and what nobody knows yet.
            _ => {}
        }
    }

    /// An event without data is none.
    fn dispatch(&mut self) -> Option<Event> {
        let event = mem::take(&mut self.event);
        mem::take(&mut self.has_data).then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, id: Option<&str>, data: &str) -> Event {
        Event {
            name: name.to_owned(),
            id: id.map(str::to_owned),
            data: data.to_owned(),
        }
    }

    const TEXT: &str = "\u{feff}: hello\nid: 1\nevent: put\ndata: {\"a\":\"gr\u{fc}n\"}\n\n\
        data\ndata:  two\r\ndata:lines\r\n\r\nretry: 10\nid: 2\n\n\rid: x\0\revent:e\rdata: d\r\r:\n";

    fn expected() -> [Event; 3] {
        [
            event("put", Some("1"), "{\"a\":\"gr\u{fc}n\"}"),
            event("", None, "\n two\nlines"),
            event("e", None, "d"),
        ]
    }

    #[test]
    fn events_are_the_same_wherever_the_text_is_cut() {
        for size in 1..=TEXT.len() {
            let mut parser = Parser::new(1_000);
            let pieces = TEXT.as_bytes().chunks(size);
            let events: Vec<_> = pieces.flat_map(|piece| parser.read(piece).unwrap()).collect();
            assert_eq!(events, expected(), "{size}");
        }
    }

    #[test]
    fn no_event_is_larger_than_allowed_however_it_comes() {
        for text in [
            "x".repeat(101),
            format!("data: {}\n", "x".repeat(100)),
            "data: xxxxxxxxxx\n".repeat(12),
            format!(":{}", "x".repeat(101)),
        ] {
            for size in [1, 7, 1_000] {
                let mut parser = Parser::new(100);
                let fault = text
                    .as_bytes()
                    .chunks(size)
                    .find_map(|piece| parser.read(piece).err());
                assert_eq!(fault, Some(Fault::TooLarge), "{size} {text}");
            }
        }
        let mut parser = Parser::new(100);
        for _ in 0..100 {
            assert_eq!(parser.read(b"data: xxxxxxxxxxxxxxxxxxxx\n\n").unwrap().len(), 1);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_told() {
        assert_eq!(Parser::new(100).read(b"data: \xff\n\n"), Err(Fault::NotText));
    }
}
