//! The names of sessions: which start of the service gave it out, what the store calls it, and
//! its time to live, so that the service need not remember any of it.

use std::time::Duration;

use discovery_core::{limit, store::Session};

use super::problem::Refusal;
use crate::wire;

/// A parsed session name, `<epoch>.<store's id>.<ttl in ms>`, all hex.
pub(super) struct Token {
    pub(super) epoch: u64,
    pub(super) session: Session,
}

impl Token {
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        parse(text).ok_or_else(|| Refusal::invalid("this is not the name of a session"))
    }

    pub(super) fn write(epoch: u64, session: &Session) -> String {
        format!(
            "{epoch:x}.{}.{:x}",
            wire::hex(&session.id),
            wire::millis(session.ttl)
        )
    }
}

fn parse(text: &str) -> Option<Token> {
    let mut parts = text.split('.');
    let (epoch, id, ttl) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let ttl = Duration::from_millis(number(ttl)?);
    Some(Token {
        epoch: number(epoch)?,
        session: Session {
            id: wire::unhex(id)?,
            ttl: limit::ttl(ttl).ok()?,
        },
    })
}

fn number(text: &str) -> Option<u64> {
    // `from_str_radix` takes a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn names_read_back_and_rubbish_does_not() {
        for id in [&b""[..], b"\0\xff"] {
            let session = Session {
                id: Bytes::from(id),
                ttl: Duration::from_secs(10),
            };
            let token = parse(&Token::write(77, &session)).unwrap();
            assert_eq!((token.epoch, token.session), (77, session));
        }
        for bad in [
            "",
            ".",
            "..",
            "1.00",
            "1.0.2710",
            "1.00.0",
            "1.00.2710.",
            "+1.00.2710",
            "x.00.2710",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
