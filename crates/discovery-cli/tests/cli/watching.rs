//! A `watch` process, and what somebody who reads it knows.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use crate::process::{PATIENCE, Running, eventually, run, start_overheard};

/// What stands, by instance id.
pub(crate) type Peers = BTreeMap<String, Value>;

/// A watch whose events are folded as they come.
pub(crate) struct Watching {
    pub(crate) process: Running,
    pub(crate) peers: Peers,
    /// Every event so far.
    pub(crate) events: Vec<Value>,
}

impl Watching {
    /// Starts one; returns once it has told its snapshot.
    pub(crate) fn start(system: &str) -> Self {
        let process = start_overheard(["watch", "--system", system]);
        let snapshot = process.object();
        assert_eq!(snapshot["event"], "snapshot", "{snapshot}");
        let listed = snapshot["peers"].as_array().unwrap().iter().cloned();
        Self {
            process,
            peers: listed.map(|peer| (instance(&peer), peer)).collect(),
            events: Vec::new(),
        }
    }

    /// The next event.
    pub(crate) fn next(&mut self) -> Value {
        self.next_within(PATIENCE).expect("no event in time")
    }

    /// The next event of this kind; others may come before it.
    pub(crate) fn next_called(&mut self, name: &str) -> Value {
        eventually(PATIENCE, || {
            let event = self.next_within(Duration::from_millis(50))?;
            (event["event"] == name).then_some(event)
        })
    }

    fn next_within(&mut self, limit: Duration) -> Option<Value> {
        let event = self.process.object_within(limit)?;
        self.fold(&event);
        self.events.push(event.clone());
        Some(event)
    }

    /// What an event says must fit what was said before.
    fn fold(&mut self, event: &Value) {
        let mut peer = event.clone();
        let parts = peer.as_object_mut().unwrap();
        let name = parts.remove("event").unwrap();
        parts.remove("reason");
        let previous = parts.remove("previous");
        match name.as_str().unwrap() {
            "added" => {
                let before = self.peers.insert(instance(&peer), peer);
                assert_eq!(before, None, "added twice: {event}");
            }
            "modified" => {
                let before = self.peers.insert(instance(&peer), peer);
                assert_eq!(before, previous, "{event}");
            }
            "removed" => {
                let before = self.peers.remove(&instance(&peer));
                assert_eq!(before, Some(peer), "{event}");
            }
            "resynced" => {
                for suspect in event["suspects"].as_array().into_iter().flatten() {
                    assert!(self.peers.contains_key(&instance(suspect)), "{event}");
                }
            }
            other => panic!("a second {other}"),
        }
    }

    /// Reads on until `done` is satisfied with what stands.
    pub(crate) fn until(&mut self, limit: Duration, mut done: impl FnMut(&Peers) -> bool) {
        let began = Instant::now();
        while !done(&self.peers) {
            assert!(
                began.elapsed() < limit,
                "not within {limit:?}: {:?}",
                self.peers.keys()
            );
            self.next_within(Duration::from_millis(50));
        }
    }

    /// Reads on until what stands is what `list` shows, and stays so; returns that.
    pub(crate) fn agrees_with_list(&mut self, system: &str, limit: Duration) -> Peers {
        eventually(limit, || {
            while self.next_within(Duration::from_millis(100)).is_some() {}
            let listed = list(system)?;
            (listed == self.peers).then_some(listed)
        })
    }

    /// The line on stderr that says this, once it is there.
    pub(crate) fn says(&self, limit: Duration, part: &str) -> String {
        eventually(limit, || {
            let mut lines = self.process.complaints().into_iter();
            lines.find(|line| line.contains(part))
        })
    }
}

/// What is listed; `None` if that cannot be asked now.
pub(crate) fn list(system: &str) -> Option<Peers> {
    let listed = run(["list", "--system", system]);
    let peers = listed.objects().into_iter();
    (listed.code == Some(0)).then(|| peers.map(|peer| (instance(&peer), peer)).collect())
}

fn instance(peer: &Value) -> String {
    peer["instance_id"].as_str().unwrap().to_owned()
}
