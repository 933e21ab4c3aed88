//! What a watch tells, as people and scripts read it.

use std::{sync::Arc, time::SystemTime};

use discovery::peer::{PeerEvent, PeerInfo, RemovalReason};
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    failure::Failure,
    output::{BAD, BOLD, FAINT, GOOD, ODD},
    peer::{Heading, PeerObject, Row},
};

/// The width of the column of event names.
const EVENT: usize = 8;

/// One event for scripts. What a peer is made of stands beside `event`, as in a list.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Object {
    Snapshot {
        peers: Vec<PeerObject>,
    },
    Added {
        #[serde(flatten)]
        peer: PeerObject,
    },
    Modified {
        #[serde(flatten)]
        peer: PeerObject,
        previous: PeerObject,
    },
    Removed {
        reason: &'static str,
        #[serde(flatten)]
        peer: PeerObject,
    },
    Resynced {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        suspects: Vec<PeerObject>,
    },
}

/// One event, and where it is to be told.
#[derive(Clone, Debug)]
pub(super) enum News {
    /// On stdout, in one of its two forms.
    Event { text: String, object: Object },
    /// On stderr: the backend cannot be heard.
    Trouble(String),
    /// On stderr and then on stdout: it can be heard again.
    Back {
        note: String,
        text: String,
        object: Object,
    },
}

/// Puts events into words.
#[derive(Debug)]
pub(super) struct Teller {
    source: Arc<str>,
    cluster: String,
    silent_since: Option<Instant>,
}

impl Teller {
    /// For the peers of a cluster at a source.
    pub(super) fn new(source: &str, cluster: &str) -> Self {
        Self {
            source: source.into(),
            cluster: cluster.to_owned(),
            silent_since: None,
        }
    }

    /// What to say about an event; nothing about one that says nothing new, or that this
    /// version does not know.
    pub(super) fn tell(&mut self, event: PeerEvent, at: SystemTime) -> Option<News> {
        let text = self.text(&event, &clock(at));
        let object = match event {
            PeerEvent::Snapshot(peers) => Object::Snapshot {
                peers: objects(&peers),
            },
            PeerEvent::Added(peer) => Object::Added { peer: object(&peer) },
            PeerEvent::Modified { previous, peer } => Object::Modified {
                peer: object(&peer),
                previous: object(&previous),
            },
            PeerEvent::Removed { peer, reason } => Object::Removed {
                reason: reason.name(),
                peer: object(&peer),
            },
            PeerEvent::Interrupted(error) => {
                let told = self.silent_since.replace(Instant::now()).is_some();
                let trouble = Failure::from(error)
                    .during(format!("{} cannot be heard", self.source))
                    .with_hint("trying again until it can");
                return (!told).then(|| News::Trouble(trouble.line()));
            }
            PeerEvent::Resynced { suspects } => {
                let object = Object::Resynced {
                    suspects: objects(&suspects),
                };
                return Some(self.back(text, object));
            }
            _ => return None,
        };
        Some(News::Event { text, object })
    }

    fn back(&mut self, text: String, object: Object) -> News {
        match self.silent_since.take() {
            None => News::Event { text, object },
            Some(since) => {
                let silence = since.elapsed().as_secs_f32();
                let note = format!("{} can be heard again, after {silence:.1} s", self.source);
                News::Back { note, text, object }
            }
        }
    }

    fn text(&self, event: &PeerEvent, time: &str) -> String {
        let (style, name) = match event {
            PeerEvent::Snapshot(peers) => return self.snapshot(peers, time),
            PeerEvent::Added(_) => (GOOD, "added"),
            PeerEvent::Modified { .. } => (ODD, "modified"),
            PeerEvent::Removed {
                reason: RemovalReason::Unregistered,
                ..
            } => (ODD, "removed"),
            PeerEvent::Removed { .. } => (BAD, "removed"),
            _ => (FAINT, "resynced"),
        };
        let rest = match event {
            PeerEvent::Added(peer) => Row(peer).to_string(),
            PeerEvent::Modified { previous, peer } => {
                format!("{}  {FAINT}was {}{FAINT:#}", Row(peer), previous.address())
            }
            PeerEvent::Removed { peer, reason } => {
                format!("{}  {FAINT}{}{FAINT:#}", Row(peer), reason.name())
            }
            PeerEvent::Resynced { suspects } if suspects.is_empty() => "nothing was missed".to_owned(),
            PeerEvent::Resynced { suspects } => suspected(suspects),
            _ => String::new(),
        };
        format!("{time}  {style}{name:<EVENT$}{style:#}  {rest}")
    }

    fn snapshot(&self, peers: &[PeerInfo], time: &str) -> String {
        let (utc, event) = ("UTC", "EVENT");
        let mut lines = vec![format!("{BOLD}{utc:<8}  {event:<EVENT$}{BOLD:#}  {Heading}")];
        let rows = peers.iter().map(Row);
        lines.extend(rows.map(|row| format!("{time}  {:<EVENT$}  {row}", "there")));
        let word = if peers.len() == 1 { "peer" } else { "peers" };
        lines.push(format!(
            "{FAINT}{} {word} in cluster {}; watching, Ctrl-C ends it{FAINT:#}",
            peers.len(),
            self.cluster
        ));
        lines.join("\n")
    }
}

/// Peers that are kept although the backend does not know them any more.
fn suspected(suspects: &[PeerInfo]) -> String {
    let rows = suspects.iter().map(|peer| format!("\n{:<20}{}", "", Row(peer)));
    format!(
        "{ODD}{} peers are gone all at once: kept for one TTL, in case they come back{ODD:#}{}",
        suspects.len(),
        rows.collect::<String>()
    )
}

fn object(peer: &PeerInfo) -> PeerObject {
    PeerObject::from(peer)
}

fn objects(peers: &[PeerInfo]) -> Vec<PeerObject> {
    peers.iter().map(object).collect()
}

/// The time of day, in UTC as log lines have it.
fn clock(at: SystemTime) -> String {
    let stamp = humantime::format_rfc3339_seconds(at).to_string();
    stamp.get(11..19).unwrap_or(&stamp).to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use discovery::{
        DiscoveryError, ErrorKind,
        peer::{InstanceId, WorkerAddress},
    };
    use serde_json::{Value, json};

    use super::*;

    fn peer(address: &str) -> PeerInfo {
        let id: InstanceId = "b93942ea-7b73-8267-d59f-3d805cf975ae".parse().unwrap();
        PeerInfo::new(id, WorkerAddress::from_bytes(address))
    }

    fn teller() -> Teller {
        Teller::new("http://h:1", "lab")
    }

    fn at() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(3_661)
    }

    fn event(event: PeerEvent) -> (String, Value) {
        match teller().tell(event, at()) {
            Some(News::Event { text, object }) => (
                anstream::adapter::strip_str(&text).to_string(),
                serde_json::to_value(object).unwrap(),
            ),
            other => panic!("{other:?}"),
        }
    }

    fn interrupted() -> PeerEvent {
        let error = DiscoveryError::new(ErrorKind::Unavailable, "the connection ended");
        PeerEvent::Interrupted(error.with_operation("watch").with_system("http"))
    }

    #[test]
    fn what_a_peer_is_made_of_stands_beside_the_event() {
        let object = serde_json::to_value(PeerObject::from(&peer("tcp://a:1"))).unwrap();
        let with = |more: Value| {
            let mut all = object.clone();
            all.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            all
        };
        let (_, added) = event(PeerEvent::Added(peer("tcp://a:1")));
        assert_eq!(added, with(json!({"event": "added"})));
        let (_, removed) = event(PeerEvent::Removed {
            peer: peer("tcp://a:1"),
            reason: RemovalReason::Expired,
        });
        assert_eq!(removed, with(json!({"event": "removed", "reason": "expired"})));
        let (_, modified) = event(PeerEvent::Modified {
            previous: peer("tcp://b:1"),
            peer: peer("tcp://a:1"),
        });
        let previous = serde_json::to_value(PeerObject::from(&peer("tcp://b:1"))).unwrap();
        assert_eq!(modified, with(json!({"event": "modified", "previous": previous})));
        let (_, snapshot) = event(PeerEvent::Snapshot(vec![peer("tcp://a:1")]));
        assert_eq!(snapshot, json!({"event": "snapshot", "peers": [object]}));
        let (_, snapshot) = event(PeerEvent::Snapshot(Vec::new()));
        assert_eq!(snapshot, json!({"event": "snapshot", "peers": []}));
    }

    #[test]
    fn suspects_are_named_only_if_there_are_any() {
        let (text, resynced) = event(PeerEvent::Resynced { suspects: Vec::new() });
        assert_eq!(resynced, json!({"event": "resynced"}));
        assert_eq!(text, "01:01:01  resynced  nothing was missed");
        let suspects = vec![peer("tcp://a:1")];
        let (text, resynced) = event(PeerEvent::Resynced { suspects });
        assert_eq!(resynced["suspects"][0]["address"], "tcp://a:1");
        assert!(
            text.contains("kept for one TTL") && text.contains("tcp://a:1"),
            "{text}"
        );
    }

    #[test]
    fn columns_stand_below_their_headings() {
        let (table, _) = event(PeerEvent::Snapshot(vec![peer("tcp://a:1")]));
        let (added, _) = event(PeerEvent::Added(peer("tcp://b:1")));
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert_eq!(lines[0].find("ADDRESS"), lines[1].find("tcp://"));
        assert_eq!(lines[0].find("ADDRESS"), added.find("tcp://"));
        assert_eq!(lines[0].find("EVENT"), added.find("added"));
        assert!(added.starts_with("01:01:01  "), "{added}");
        assert!(lines[2].starts_with("1 peer in cluster lab"), "{table}");
    }

    #[test]
    fn an_interruption_is_told_once_and_so_is_its_end() {
        let mut teller = teller();
        let Some(News::Trouble(line)) = teller.tell(interrupted(), at()) else {
            panic!("not told");
        };
        for part in [
            "http://h:1 cannot be heard",
            "the connection ended",
            "trying again",
        ] {
            assert!(line.contains(part), "{line}");
        }
        assert!(teller.tell(interrupted(), at()).is_none());
        let resynced = || PeerEvent::Resynced { suspects: Vec::new() };
        let Some(News::Back { note, .. }) = teller.tell(resynced(), at()) else {
            panic!("not told");
        };
        assert!(note.contains("http://h:1 can be heard again"), "{note}");
        assert!(matches!(teller.tell(resynced(), at()), Some(News::Event { .. })));
    }
}
