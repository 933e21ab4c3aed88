//! What stands under a key: the body as it is, and behind it the writer on a line of its own.

use bytes::Bytes;
use discovery_core::store::Writer;

/// A line break and 32 hex digits.
const SUFFIX: usize = 33;

pub(crate) fn encode(body: &[u8], writer: Writer) -> Vec<u8> {
    let mut value = Vec::with_capacity(body.len() + SUFFIX);
    value.extend_from_slice(body);
    value.push(b'\n');
    value.extend_from_slice(hex(writer).as_bytes());
    value
}

/// Body and writer. What does not end in a writer was put there by somebody else: all of it is
/// body, written by nobody, so that it is read as malformed and never taken for absent.
pub(crate) fn decode(value: Vec<u8>) -> (Bytes, Writer) {
    match writer(&value) {
        Some(writer) => {
            let mut body = Bytes::from(value);
            body.truncate(body.len() - SUFFIX);
            (body, writer)
        }
        None => (Bytes::from(value), Writer::from_u128(0)),
    }
}

fn writer(value: &[u8]) -> Option<Writer> {
    let at = value.len().checked_sub(SUFFIX)?;
    let (line, digits) = value.get(at..)?.split_first()?;
    let own = *line == b'\n' && digits.iter().all(|digit| b"0123456789abcdef".contains(digit));
    let digits = str::from_utf8(digits).ok().filter(|_| own)?;
    u128::from_str_radix(digits, 16).ok().map(Writer::from_u128)
}

/// A writer as 32 lower-case hex digits.
pub(crate) fn hex(writer: Writer) -> String {
    format!("{:032x}", writer.as_u128())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        for body in [&b""[..], b"{}", b"a\nb\n", b"\xff\n", &[b'x'; 16 * 1_024]] {
            let writer = Writer::random();
            let (read, by) = decode(encode(body, writer));
            assert_eq!((&read[..], by), (body, writer));
        }
        assert_eq!(
            encode(b"{}", Writer::from_u128(0xab)),
            b"{}\n000000000000000000000000000000ab"
        );
    }

    #[test]
    fn what_somebody_else_put_there_is_all_body() {
        let digits = "0".repeat(32);
        for foreign in [
            String::new(),
            "\n".to_owned(),
            "no record".to_owned(),
            digits.clone(),
            format!(" {digits}"),
            format!("\n{}A", "0".repeat(31)),
            format!("\n+{}", "0".repeat(31)),
            format!("\n{digits}\n"),
        ] {
            let (body, writer) = decode(foreign.clone().into_bytes());
            assert_eq!(
                (&body[..], writer.as_u128()),
                (foreign.as_bytes(), 0),
                "{foreign:?}"
            );
        }
    }
}
