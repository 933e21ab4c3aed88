//! Requests and their answers, followed until the last byte of the answer has left.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// How many requests have been heard whose answers have not left.
#[derive(Clone, Default)]
pub(super) struct Unanswered(Arc<AtomicUsize>);

impl Unanswered {
    /// Follows what happens on one connection.
    pub(super) fn exchange(&self) -> Arc<Exchange> {
        Arc::new(Exchange {
            stage: AtomicU8::new(IDLE),
            unanswered: self.clone(),
        })
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }
}

/// Nothing was asked, or all of it is answered.
const IDLE: u8 = 0;
/// A request is being worked on.
const WORKING: u8 = 1;
/// The whole answer is in the buffers of the connection.
const WRITING: u8 = 2;

/// What one connection is about; it carries one request at a time.
pub(super) struct Exchange {
    stage: AtomicU8,
    unanswered: Unanswered,
}

impl Exchange {
    /// A request was heard.
    pub(super) fn begun(&self) {
        if self.stage.swap(WORKING, Ordering::SeqCst) == IDLE {
            self.unanswered.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// An answer that is followed.
    pub(super) fn answer(self: Arc<Self>, body: Body) -> Answer {
        Answer { body, exchange: self }
    }

    /// Everything in the buffers of the connection has left.
    pub(super) fn flushed(&self) {
        if self.moved(WRITING, IDLE) {
            self.unanswered.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn moved(&self, from: u8, to: u8) -> bool {
        let moved = self
            .stage
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
        moved.is_ok()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if *self.stage.get_mut() != IDLE {
            self.unanswered.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// The body of an answer; dropped once it is in the buffers of its connection.
pub(super) struct Answer {
    body: Body,
    exchange: Arc<Exchange>,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.exchange.moved(WORKING, WRITING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_until_its_answer_has_left() {
        let unanswered = Unanswered::default();
        let exchange = unanswered.exchange();
        exchange.flushed();
        assert!(unanswered.is_none());
        exchange.begun();
        let answer = exchange.clone().answer(Body::empty());
        exchange.flushed();
        assert!(!unanswered.is_none(), "the head has left, the body has not");
        drop(answer);
        assert!(!unanswered.is_none(), "it is in a buffer");
        exchange.begun();
        drop(exchange.clone().answer(Body::empty()));
        exchange.flushed();
        assert!(unanswered.is_none());
    }

    #[test]
    fn a_connection_that_breaks_leaves_nothing_unanswered() {
        let unanswered = Unanswered::default();
        let exchange = unanswered.exchange();
        exchange.begun();
        let answer = exchange.clone().answer(Body::empty());
        drop(exchange);
        assert!(!unanswered.is_none());
        drop(answer);
        assert!(unanswered.is_none());
    }
}
