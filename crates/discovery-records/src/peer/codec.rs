//! A peer as the body of a record.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use discovery_core::{DiscoveryError, ErrorKind, InstanceId, PeerInfo, WorkerAddress, store::RecordKey};
use serde::{Deserialize, Serialize};

use crate::record;

const KIND: &str = "peer";

#[derive(Serialize, Deserialize)]
struct PeerBody {
    instance_id: String,
    /// The address when it is text, else `address_base64`: exactly one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address_base64: Option<String>,
    checksum: String,
}

/// Writes a peer.
///
/// # Errors
/// `InvalidArgument` for an address outside its limits.
pub fn encode(peer: &PeerInfo) -> Result<Bytes, DiscoveryError> {
    let address = peer.address();
    address.validate()?;
    // Control characters would grow sixfold as JSON.
    let text = address
        .to_str()
        .filter(|text| !text.chars().any(char::is_control))
        .map(str::to_owned);
    let address_base64 = text.is_none().then(|| BASE64_STANDARD.encode(address.as_bytes()));
    record::encode(
        KIND,
        PeerBody {
            instance_id: peer.instance_id().to_string(),
            address: text,
            address_base64,
            checksum: format!("{:016x}", address.checksum()),
        },
    )
}

/// Reads the peer that stands under `key`.
///
/// # Errors
/// `Malformed` for anything that is not a peer of this version, is damaged, or whose instance
/// id does not belong under the key.
pub fn decode(key: &RecordKey, body: &[u8]) -> Result<PeerInfo, DiscoveryError> {
    read(key, body).map_err(|error| match error.kind() {
        ErrorKind::Malformed => error,
        _ => malformed(key, "is not a valid peer").with_source(error),
    })
}

fn read(key: &RecordKey, body: &[u8]) -> Result<PeerInfo, DiscoveryError> {
    let body: PeerBody = record::decode(KIND, body)?;
    let id: InstanceId = body.instance_id.parse()?;
    let address = match (body.address, body.address_base64) {
        (Some(text), None) => WorkerAddress::from_bytes(text),
        (None, Some(text)) => {
            let bytes = BASE64_STANDARD.decode(text);
            WorkerAddress::from_bytes(
                bytes.map_err(|cause| malformed(key, "has a broken address").with_source(cause))?,
            )
        }
        _ => return Err(malformed(key, "must have exactly one address")),
    };
    address.validate()?;
    if body.checksum != format!("{:016x}", address.checksum()) {
        return Err(malformed(key, "has an address that does not fit its checksum"));
    }
    if key.last() != id.worker_id().to_string() {
        return Err(malformed(key, "holds an instance that does not belong there"));
    }
    Ok(PeerInfo::new(id, address))
}

fn malformed(key: &RecordKey, what: &str) -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Malformed, format!("the record {key} {what}"))
}

#[cfg(test)]
mod tests {
    use discovery_core::Cluster;

    use super::*;
    use crate::peer::peer_key;

    fn peer(address: &[u8]) -> (RecordKey, PeerInfo) {
        let peer = PeerInfo::new(InstanceId::new_v4(), WorkerAddress::from_bytes(address));
        (peer_key(&Cluster::default(), peer.worker_id()), peer)
    }

    #[test]
    fn addresses_of_all_sorts_survive() {
        for address in [
            &b"tcp://10.0.0.1:5"[..],
            b"\xff\x00\x01",
            b"a\nb",
            "grün".as_bytes(),
            &[1; 4_096],
            &[b'"'; 4_096],
        ] {
            let (key, peer) = peer(address);
            assert_eq!(decode(&key, &encode(&peer).unwrap()).unwrap(), peer);
        }
    }

    #[test]
    fn a_text_address_is_readable() {
        let (_, peer) = peer(b"tcp://10.0.0.1:5");
        let body = String::from_utf8(encode(&peer).unwrap().to_vec()).unwrap();
        assert!(
            body.contains(r#""address":"tcp://10.0.0.1:5""#) && !body.contains("base64"),
            "{body}"
        );
    }

    #[test]
    fn damage_is_noticed() {
        let (key, peer) = peer(b"tcp://10.0.0.1:5");
        let body = String::from_utf8(encode(&peer).unwrap().to_vec()).unwrap();
        let (elsewhere, _) = self::peer(b"x");
        assert_eq!(
            decode(&elsewhere, body.as_bytes()).unwrap_err().kind(),
            ErrorKind::Malformed
        );
        for (from, to) in [
            ("10.0", "10.1"),
            ("\"address\"", "\"adress\""),
            (&peer.instance_id().to_string(), "x"),
        ] {
            let error = decode(&key, body.replace(from, to).as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{from} -> {to}");
        }
    }
}
