//! Finds out what a server speaks that does not understand us.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// How long finding out may take.
const LIMIT: Duration = Duration::from_millis(500);
/// The kinds of record that a server begins with (RFC 8446, section 5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// What a client of HTTP/2 begins with, and settings of which none is set (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The type of the frame that a server begins with, which stands behind its length.
const SETTINGS: u8 = 4;

/// Whether a server answers a greeting of TLS in kind. What it answers is not looked at further.
pub(super) async fn speaks_tls(host: &str) -> bool {
    let Ok(greeting) = greeting() else { return false };
    let answer = timeout(LIMIT, answer(host, &greeting)).await;
    matches!(answer, Ok(Ok([ALERT | HANDSHAKE, 3, ..])))
}

/// Whether a server answers who speaks HTTP/2 without TLS.
pub(super) async fn speaks_plaintext(host: &str) -> bool {
    let answer = timeout(LIMIT, answer(host, PREFACE)).await;
    matches!(answer, Ok(Ok([.., SETTINGS])))
}

/// What a server has against a connection in TLS, or TLS against the server.
///
/// In TLS 1.3 a server says that it wants a certificate only after the client has begun to speak, and
/// what speaks HTTP/2 keeps no more of that than its text, if that.
pub(super) async fn refusal(host: &str, tls: ClientConfig, name: ServerName<'static>) -> Option<io::Error> {
    let speaking = async {
        let stream = TcpStream::connect(host).await?;
        let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
        stream.read_u8().await
    };
    timeout(LIMIT, speaking).await.ok()?.err()
}

/// The first bytes that come back.
async fn answer(host: &str, greeting: &[u8]) -> io::Result<[u8; 4]> {
    let mut stream = TcpStream::connect(host).await?;
    stream.write_all(greeting).await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// What a client begins with.
fn greeting() -> io::Result<Vec<u8>> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("etcd").map_err(|_| ErrorKind::InvalidInput)?;
    let mut client = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut greeting = Vec::new();
    client.write_tls(&mut greeting)?;
    Ok(greeting)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What somebody who answers like this is taken for, and what was said to it first.
    async fn taken(answer: &'static [u8], asked: impl AsyncFn(&str) -> bool) -> (bool, [u8; 3]) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut first = [0; 3];
            stream.read_exact(&mut first).await.unwrap();
            stream.write_all(answer).await.unwrap();
            first
        };
        tokio::join!(asked(&host), server)
    }

    #[tokio::test]
    async fn only_who_answers_in_kind_speaks_it() {
        for (answer, tls, plaintext) in [
            (&[HANDSHAKE, 3, 3, 0, 1][..], true, false),
            (&[ALERT, 3, 1, 0, 2], true, false),
            (&[0, 0, 6, SETTINGS, 0], false, true),
            (b"HTTP/1.1 400 Bad Request", false, false),
            (b"", false, false),
        ] {
            let hello = [HANDSHAKE, 3, 1];
            assert_eq!(
                taken(answer, async |host| speaks_tls(host).await).await,
                (tls, hello)
            );
            let asked = taken(answer, async |host| speaks_plaintext(host).await).await;
            assert_eq!(asked, (plaintext, *b"PRI"));
        }
    }

    #[tokio::test]
    async fn who_cannot_be_asked_is_said_to_speak_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        assert!(!speaks_tls(&host).await, "accepts, and says nothing");
        assert!(!speaks_plaintext(&host).await);
        drop(listener);
        assert!(!speaks_tls(&host).await);
        assert!(!speaks_plaintext(&host).await);
    }
}
