//! How a peer is printed.

use std::fmt;

use discovery::peer::PeerInfo;
pub(crate) use discovery::records::peer::PeerObject;

use crate::output::{BOLD, FAINT};

/// The width of the column of instance ids.
const INSTANCE: usize = 36;
/// The width of the column of worker ids.
const WORKER: usize = 16;

/// The heading of a table of peers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heading;

impl fmt::Display for Heading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (instance, worker) = ("INSTANCE", "WORKER");
        write!(f, "{BOLD}{instance:INSTANCE$}  {worker:WORKER$}  ADDRESS{BOLD:#}")
    }
}

/// A peer as one row of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a>(pub(crate) &'a PeerInfo);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(peer) = self;
        let (instance, worker) = (peer.instance_id(), peer.worker_id());
        write!(f, "{instance}  {FAINT}{worker}{FAINT:#}  {}", peer.address())
    }
}

#[cfg(test)]
mod tests {
    use discovery::peer::{InstanceId, WorkerAddress};

    use super::*;

    fn object(address: &[u8]) -> serde_json::Value {
        let id: InstanceId = "b93942ea-7b73-8267-d59f-3d805cf975ae".parse().unwrap();
        let peer = PeerInfo::new(id, WorkerAddress::from_bytes(address));
        serde_json::to_value(PeerObject::from(&peer)).unwrap()
    }

    #[test]
    fn ids_and_checksum_are_text() {
        let object = object(b"tcp://h:1");
        assert_eq!(object["instance_id"], "b93942ea-7b73-8267-d59f-3d805cf975ae");
        assert_eq!(object["worker_id"].as_str().unwrap().len(), 16);
        assert_eq!(object["checksum"].as_str().unwrap().len(), 16);
        assert_eq!(object["address"], "tcp://h:1");
        assert_eq!(object["address_base64"], "dGNwOi8vaDox");
    }

    #[test]
    fn an_address_that_is_no_text_stands_in_base64_only() {
        let object = object(&[0xff, 0]);
        assert!(object.get("address").is_none());
        assert_eq!(object["address_base64"], "/wA=");
    }
}
