//! What is under way in one direction of a connection.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use tokio::time::Instant;

/// How many bytes may be under way.
const BYTES: usize = 64 * 1024;
/// How many chunks may be under way: small ones cost more than their bytes.
const CHUNKS: usize = 1024;

/// Chunks in their order, each with the moment when it came; an empty one is the end of the stream.
#[derive(Default)]
pub(super) struct Queue {
    chunks: VecDeque<(Instant, Bytes)>,
    bytes: usize,
}

impl Queue {
    /// How many bytes may be taken in.
    pub(super) fn room(&self) -> usize {
        if self.chunks.len() < CHUNKS {
            BYTES.saturating_sub(self.bytes)
        } else {
            0
        }
    }

    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len();
        let chunk = Bytes::copy_from_slice(chunk);
        self.chunks.push_back((Instant::now(), chunk));
    }

    pub(super) fn push_end(&mut self) {
        self.push(&[]);
    }

    pub(super) fn first(&self) -> Option<&(Instant, Bytes)> {
        self.chunks.front()
    }

    /// The first chunk went on as far as this, or altogether.
    pub(super) fn went(&mut self, bytes: usize) {
        let Some((_, first)) = self.chunks.front_mut() else {
            return;
        };
        first.advance(bytes);
        self.bytes -= bytes;
        if first.is_empty() {
            self.chunks.pop_front();
        }
    }

    /// Throws all bytes away, but not the end; how many they were.
    pub(super) fn lose(&mut self) -> usize {
        self.chunks.retain(|(_, chunk)| chunk.is_empty());
        std::mem::take(&mut self.bytes)
    }
}
