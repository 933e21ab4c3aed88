//! Reads a watch as another language would, from a plain socket.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// One event.
#[derive(Clone, Debug, Default)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    pub(crate) data: Value,
}

/// An open watch.
pub(crate) struct Events {
    stream: TcpStream,
    /// Head included, chunks as they came.
    bytes: Vec<u8>,
    pub(crate) head: String,
    ended: bool,
    text: String,
}

impl Events {
    /// Sends the request and waits for the head of the answer.
    pub(crate) async fn open(addr: SocketAddr, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut events = Self {
            stream,
            bytes: Vec::new(),
            head: String::new(),
            ended: false,
            text: String::new(),
        };
        loop {
            assert!(events.fill().await, "the head is cut off");
            if let Some(end) = events.bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let rest = events.bytes.split_off(end + 4);
                events.head = String::from_utf8(std::mem::replace(&mut events.bytes, rest)).unwrap();
                return events;
            }
        }
    }

    async fn fill(&mut self) -> bool {
        let mut piece = vec![0; 64 * 1_024];
        let read = timeout(Duration::from_secs(30), self.stream.read(&mut piece)).await;
        let length = read.expect("something within 30 s").unwrap_or(0);
        self.bytes.extend_from_slice(&piece[..length]);
        length > 0
    }

    /// Takes the next chunk off what was read.
    fn chunk(&mut self) -> Option<()> {
        let line = self.bytes.windows(2).position(|bytes| bytes == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&self.bytes[..line]).unwrap(), 16).unwrap();
        if self.bytes.len() < line + 2 + size + 2 {
            return None;
        }
        self.ended = size == 0;
        self.text
            .push_str(std::str::from_utf8(&self.bytes[line + 2..line + 2 + size]).unwrap());
        self.bytes.drain(..line + 2 + size + 2);
        Some(())
    }

    /// The next event, or `None` at the end of the watch.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((text, rest)) = self.text.split_once("\n\n") {
                let event = parse(text);
                self.text = rest.to_owned();
                return Some(event);
            }
            if self.ended {
                return None;
            }
            if self.chunk().is_none() && !self.fill().await {
                return None;
            }
        }
    }

    /// The next event that is not there to show life only.
    pub(crate) async fn change(&mut self) -> Event {
        loop {
            let event = self.next().await.expect("the watch goes on");
            if event.name != "progress" {
                return event;
            }
        }
    }
}

fn parse(text: &str) -> Event {
    let mut event = Event::default();
    for line in text.lines() {
        let (field, value) = line.split_once(": ").unwrap();
        match field {
            "id" => event.id = Some(value.to_owned()),
            "event" => event.name = value.to_owned(),
            "data" => event.data = serde_json::from_str(value).unwrap(),
            other => panic!("a field {other}"),
        }
    }
    event
}
