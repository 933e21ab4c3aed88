//! Each fault does what it says, on real sockets.

mod basic;
mod bytes;
mod ends;
mod holes;

use std::{io, net::SocketAddr, num::NonZeroU32, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{Direction, FaultProxy, Toxic};
use crate::trial::eventually;

/// By when anything that is to happen has happened, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A server, and a proxy in front of it.
struct Net {
    server: TcpListener,
    proxy: FaultProxy,
}

impl Net {
    async fn new() -> Self {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = FaultProxy::start(server.local_addr().unwrap()).await.unwrap();
        Self { server, proxy }
    }

    async fn client(&self) -> TcpStream {
        connect(self.proxy.local_addr()).await.unwrap()
    }

    async fn served(&self) -> TcpStream {
        timeout(LIMIT, self.server.accept()).await.unwrap().unwrap().0
    }

    /// Both ends of a connection through the proxy.
    async fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.client().await;
        (client, self.served().await)
    }

    async fn apply(&self, toxic: Toxic) {
        timeout(LIMIT, self.proxy.apply(toxic)).await.unwrap().unwrap();
    }

    async fn heal(&self) {
        timeout(LIMIT, self.proxy.heal()).await.unwrap().unwrap();
    }

    async fn count_becomes(&self, connections: usize) {
        eventually(LIMIT, || async { self.proxy.connections() == connections }).await;
    }

    async fn swallowed_becomes(&self, direction: Direction, bytes: u64) {
        eventually(LIMIT, || async { self.proxy.swallowed(direction) == bytes }).await;
    }

    /// Whether nobody has come to the server so far.
    fn nobody_came(&self) -> bool {
        let server: &TcpListener = &self.server;
        let accepted = std::pin::pin!(server.accept());
        futures_util::FutureExt::now_or_never(accepted).is_none()
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    timeout(LIMIT, TcpStream::connect(address)).await.unwrap()
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    timeout(LIMIT, stream.write_all(bytes)).await.unwrap().unwrap();
}

async fn hear(stream: &mut TcpStream, bytes: &[u8]) {
    let mut heard = vec![0; bytes.len()];
    timeout(LIMIT, stream.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(heard, bytes);
}

/// Everything until the end, and how that was.
async fn hear_out(stream: &mut TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut heard = Vec::new();
    let ended = timeout(LIMIT, stream.read_to_end(&mut heard)).await.unwrap();
    (heard, ended.map(drop))
}

/// Something goes through in both directions.
async fn talk(client: &mut TcpStream, served: &mut TcpStream) {
    send(client, b"ping").await;
    hear(served, b"ping").await;
    send(served, b"pong").await;
    hear(client, b"pong").await;
}

async fn is_reset(stream: &mut TcpStream) {
    let (heard, ended) = hear_out(stream).await;
    assert_eq!(heard, b"");
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

async fn is_closed(stream: &mut TcpStream) {
    let (heard, ended) = hear_out(stream).await;
    assert_eq!(heard, b"");
    ended.unwrap();
}

fn is_silent(stream: &TcpStream) -> bool {
    let nothing = stream.try_read(&mut [0; 1]);
    nothing.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Bytes none of which looks like its neighbours.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

fn rate(bytes_per_second: u32) -> Toxic {
    Toxic::Rate(NonZeroU32::new(bytes_per_second).unwrap())
}
