//! A peer as people and other languages see it.

use base64::{Engine, prelude::BASE64_STANDARD};
use discovery_core::PeerInfo;
use serde::Serialize;

/// A peer in JSON: what the HTTP service and the command line show.
#[derive(Clone, Debug, Serialize)]
pub struct PeerObject {
    /// A UUID.
    pub instance_id: String,
    /// 16 hex digits.
    pub worker_id: String,
    /// The address, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The address, whatever it is.
    pub address_base64: String,
    /// `xxh3_64` of the address, 16 hex digits.
    pub checksum: String,
}

impl From<&PeerInfo> for PeerObject {
    fn from(peer: &PeerInfo) -> Self {
        let address = peer.address();
        Self {
            instance_id: peer.instance_id().to_string(),
            worker_id: peer.worker_id().to_string(),
            address: address.to_str().map(str::to_owned),
            address_base64: BASE64_STANDARD.encode(address.as_bytes()),
            checksum: format!("{:016x}", address.checksum()),
        }
    }
}
