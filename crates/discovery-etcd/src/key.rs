//! Keys: records, fences and generations under one root.
//!
//! ```text
//! /discovery/<cluster>/<kind>/<segments…>                  a record
//! /discovery.fence/<cluster>/<kind>/<segments…>/<writer>   a fence: this writer may not write there
//! /discovery.generation/<cluster>                          when the cluster was first used, in ms
//! ```

use std::sync::Arc;

use discovery_core::{
    Cluster, DiscoveryError,
    store::{RecordKey, Writer},
};

use crate::value;

/// What stands behind the root of what is no record.
const RESERVED: [&str; 2] = [".fence", ".generation"];

/// The keys under one root.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    root: Arc<str>,
}

impl Keys {
    pub(crate) fn new(root: &str) -> Self {
        Self { root: root.into() }
    }

    /// Checks that a root is one segment and cannot be taken for what another root holds.
    pub(crate) fn check_root(root: &str) -> Result<(), DiscoveryError> {
        // A root has the limits of a cluster's name.
        if Cluster::try_new(root).is_ok() && !RESERVED.iter().any(|reserved| root.ends_with(reserved)) {
            return Ok(());
        }
        Err(DiscoveryError::invalid_config(format!(
            "root {root:?} must have 1 to 128 bytes, no `/` or control characters, and not end in {}",
            RESERVED.join(" or ")
        )))
    }

    pub(crate) fn record(&self, key: &RecordKey) -> Vec<u8> {
        format!("/{}/{key}", self.root).into_bytes()
    }

    pub(crate) fn fence(&self, key: &RecordKey, writer: Writer) -> Vec<u8> {
        format!("/{}.fence/{key}/{}", self.root, value::hex(writer)).into_bytes()
    }

    /// Where a cluster's generation stands; the cluster is the first segment of a key.
    pub(crate) fn generation(&self, key: &RecordKey) -> Vec<u8> {
        let cluster = key.segments().next().unwrap_or_default();
        self.generation_of(cluster)
    }

    pub(crate) fn generation_of(&self, cluster: &str) -> Vec<u8> {
        format!("/{}.generation/{cluster}", self.root).into_bytes()
    }

    /// The smallest range that has everything under a prefix. It has more than that, such as
    /// `a-b` for `a`: what is read must be asked whether it [starts with](RecordKey::starts_with)
    /// the prefix.
    pub(crate) fn range(&self, prefix: &RecordKey) -> (Vec<u8>, Vec<u8>) {
        let start = self.record(prefix);
        let mut end = start.clone();
        // The first byte after `/`.
        end.push(b'0');
        (start, end)
    }

    /// The record that a key names; `None` for anything that is no record's key.
    pub(crate) fn read(&self, key: &[u8]) -> Option<RecordKey> {
        let text = str::from_utf8(key).ok()?;
        let rest = text
            .strip_prefix('/')?
            .strip_prefix(&*self.root)?
            .strip_prefix('/')?;
        let mut segments = rest.split('/');
        let cluster = Cluster::try_new(segments.next()?).ok()?;
        let kind = segments.next()?;
        let segments: Vec<_> = segments.collect();
        RecordKey::try_new(&cluster, kind, &segments).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(cluster: &str, segments: &[&str]) -> RecordKey {
        RecordKey::try_new(&Cluster::try_new(cluster).unwrap(), "peers", segments).unwrap()
    }

    #[test]
    fn keys_lead_back_to_their_records() {
        let keys = Keys::new("discovery");
        for key in [
            key("a", &[]),
            key("a%2Fb", &["1"]),
            key("größe", &["x", "y z", "discovery"]),
        ] {
            assert_eq!(keys.read(&keys.record(&key)), Some(key));
        }
        assert_eq!(keys.record(&key("c", &["1"])), b"/discovery/c/peers/1");
    }

    #[test]
    fn what_is_no_record_is_not_read_as_one() {
        let keys = Keys::new("discovery");
        let record = key("c", &["1"]);
        assert_eq!(keys.read(&keys.fence(&record, Writer::random())), None);
        assert_eq!(keys.read(&keys.generation(&record)), None);
        for foreign in [
            "",
            "/",
            "discovery/c/peers/1",
            "/discovery",
            "/discovery/c",
            "/discovery/c/",
            "/discovery//peers/1",
            "/discovery/c/peers//1",
            "/discovery/c/peers/1/",
            "/discoveryx/c/peers/1",
            "/other/c/peers/1",
        ] {
            assert_eq!(keys.read(foreign.as_bytes()), None, "{foreign}");
        }
        assert_eq!(keys.read(b"/discovery/c/peers/\xff"), None);
    }

    #[test]
    fn a_range_has_the_prefix_itself_and_all_below() {
        let keys = Keys::new("r");
        let (start, end) = keys.range(&key("a", &["1"]));
        let within = |key: &RecordKey| (&start..&end).contains(&&keys.record(key));
        for inside in [
            key("a", &["1"]),
            key("a", &["1", "0"]),
            key("a", &["1", "\u{10ffff}"]),
        ] {
            assert!(within(&inside), "{inside}");
        }
        for outside in [
            key("a", &["0"]),
            key("a", &["10"]),
            key("a", &["1a"]),
            key("b", &["1"]),
        ] {
            assert!(!within(&outside), "{outside}");
        }
    }

    #[test]
    fn roots_do_not_meet() {
        for root in ["discovery", "a.b", "größe", "fence"] {
            assert!(Keys::check_root(root).is_ok(), "{root}");
        }
        for root in ["", "a/b", "a\n", "discovery.fence", "x.generation", ".."] {
            let error = Keys::check_root(root).unwrap_err();
            assert!(error.to_string().contains("root"), "{error}");
        }
    }
}
