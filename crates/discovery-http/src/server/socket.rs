//! The socket of a connection: it gives up on a reader that does not read.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::exchange::Exchange;

/// How long a reader may take nothing of an answer that waits for it.
const STALLED: Duration = Duration::from_secs(30);

pub(super) struct Socket {
    stream: TcpStream,
    exchange: Arc<Exchange>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, exchange: Arc<Exchange>) -> Self {
        // An answer is small and waited for.
        let _ = stream.set_nodelay(true);
        // A reader that vanished takes what fits into the buffers of the system, which for a quiet
        // watch is a lot: it is given up when nothing is acknowledged.
        #[cfg(target_os = "linux")]
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, STALLED.as_millis() as u32);
        Self {
            stream,
            exchange,
            stalled: None,
        }
    }

    /// Fails once nothing could be written for too long.
    fn watched<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALLED)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the answer is not read",
        )))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.watched(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.watched(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever flushes has written everything that there was before.
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        if polled.is_ready() {
            this.exchange.flushed();
        }
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::AsyncWriteExt,
        net::TcpListener,
        time::{Instant, timeout},
    };

    use super::{super::exchange::Unanswered, *};

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (here, there) = tokio::join!(TcpStream::connect(addr), listener.accept());
        let exchange = Unanswered::default().exchange();
        (Socket::new(here.unwrap(), exchange), there.unwrap().0)
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_given_up() {
        let (mut socket, _silent) = pair().await;
        let start = Instant::now();
        let written = socket.write_all(&vec![0; 64 * 1_024 * 1_024]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= STALLED, "{:?}", start.elapsed());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_reader_that_vanished_is_given_up_by_the_system() {
        let (socket, _gone) = pair().await;
        let limit = rustix::net::sockopt::tcp_user_timeout(&socket.stream).unwrap();
        assert_eq!(u128::from(limit), STALLED.as_millis());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_a_little_now_and_then_is_not() {
        let (mut socket, _slow) = pair().await;
        for _ in 0..3 {
            let waiting = poll_fn(|cx| socket.watched::<usize>(cx, Poll::Pending));
            assert!(
                timeout(STALLED - Duration::from_millis(1), waiting)
                    .await
                    .is_err()
            );
            let taken = poll_fn(|cx| socket.watched(cx, Poll::Ready(Ok(1)))).await;
            assert_eq!(taken.unwrap(), 1);
        }
    }
}
