//! `doctor`: what it finds, and that it leaves nothing behind.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use discovery::{store::RecordStore, systems::memory::MemoryStore};
use discovery_conformance::{
    Faulty, Mode,
    broken::{Broken, Flaw},
};
use discovery_http::server::{Server, ServerConfig};
use rustix::process::Signal;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::{
    process::{Ended, Service, run, start, start_overheard},
    watching::Watching,
};

const CHECKS: [&str; 13] = [
    "connect",
    "ttl",
    "unknown",
    "watch",
    "register",
    "find_worker",
    "find_instance",
    "list",
    "appear",
    "unregister",
    "forget",
    "unlist",
    "leave",
];

fn examine(system: &str) -> Ended {
    run(["doctor", "--system", system, "--output", "json"])
}

/// How the checks ended, in order.
fn statuses(ended: &Ended) -> Vec<(String, String)> {
    let objects = ended.objects().into_iter();
    let checks = objects.filter(|object| object["event"] == "check");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    checks
        .map(|check| (text(&check["check"]), text(&check["status"])))
        .collect()
}

fn status(ended: &Ended, check: &str) -> String {
    let statuses = statuses(ended);
    let found = statuses.into_iter().find(|(name, _)| name == check);
    found.expect(check).1
}

/// A service within this process, in front of a store that is not as it should be.
pub(crate) struct Ill {
    pub(crate) runtime: Runtime,
    server: Option<Server>,
    pub(crate) url: String,
}

impl Ill {
    fn with(spoil: impl FnOnce(Arc<dyn RecordStore>) -> Arc<dyn RecordStore>) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let config = ServerConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ..ServerConfig::default()
        };
        let store = spoil(Arc::new(MemoryStore::new()));
        let server = runtime.block_on(Server::start(config, store)).unwrap();
        let url = format!("http://{}", server.local_addr());
        Self {
            runtime,
            server: Some(server),
            url,
        }
    }

    pub(crate) fn broken(flaw: Flaw) -> Self {
        Self::with(|store| Arc::new(Broken::new(store, flaw)))
    }
}

impl Drop for Ill {
    fn drop(&mut self) {
        let ended = self
            .server
            .take()
            .map(|server| self.runtime.block_on(server.shutdown(Duration::from_secs(2))));
        drop(ended);
    }
}

#[test]
fn a_healthy_service_passes_and_nothing_is_left_behind() {
    let service = Service::start();
    let mut watching = Watching::start(&service.url);
    let ended = examine(&service.url);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let statuses = statuses(&ended);
    let checks: Vec<_> = statuses.iter().map(|(check, _)| check.as_str()).collect();
    assert_eq!(checks, CHECKS);
    assert!(statuses.iter().all(|(_, status)| status == "ok"), "{ended:?}");
    let objects = ended.objects();
    let system = &objects[0];
    assert_eq!(
        (&system["event"], &system["name"]),
        (&"system".into(), &"http".into())
    );
    assert_eq!(system["bounds"]["propagation_ms"], 500);
    assert_eq!(system["ttl_ms"], 10_000);
    let can = system["capabilities"].as_array().unwrap();
    assert!(can.contains(&"watch".into()), "{system}");
    for check in objects.iter().filter(|object| object["event"] == "check") {
        assert!(check["took_ms"].as_f64().unwrap() > 0.0, "{check}");
    }
    let verdict = objects.last().unwrap();
    assert_eq!(
        (&verdict["event"], &verdict["healthy"]),
        (&"verdict".into(), &true.into())
    );

    let added = watching.next();
    assert_eq!(
        (&added["event"], &added["address"]),
        (&"added".into(), &"doctor://probe".into())
    );
    let removed = watching.next();
    assert_eq!(
        (&removed["event"], &removed["reason"]),
        (&"removed".into(), &"unregistered".into())
    );
    assert_eq!(run(["list", "--system", &service.url]).stdout, "");
}

#[test]
fn text_has_one_row_per_check() {
    let service = Service::start();
    let ended = run([
        "doctor",
        "--system",
        &service.with_options("ttl=3s"),
        "--output",
        "text",
    ]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    for check in CHECKS {
        let row = format!("  ✔ {check:<13}  ");
        assert!(ended.stdout.contains(&row), "{check}: {ended:?}");
    }
    for part in [
        "can       register, ",
        "cannot    ",
        "asked for 3s",
        "\nEverything works",
    ] {
        assert!(ended.stdout.contains(part), "{part}: {ended:?}");
    }
}

#[test]
fn two_at_once_do_not_disturb_each_other() {
    let service = Service::start();
    let mut first = start(["doctor", "--system", &service.url]);
    let second = examine(&service.url);
    assert_eq!(second.code, Some(0), "{second:?}");
    assert_eq!(first.wait(), Some(0));
}

#[test]
fn a_service_that_is_down_could_not_be_asked() {
    let ended = examine("http://127.0.0.1:1");
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert_eq!(statuses(&ended), [("connect".to_owned(), "failed".to_owned())]);
    let objects = ended.objects();
    let check = &objects[1];
    assert_eq!(check["code"], "unavailable");
    assert!(
        check["fix"].as_str().unwrap().contains("check that it runs"),
        "{check}"
    );
    assert_eq!(objects.last().unwrap()["event"], "error");
    assert!(ended.complaint().contains("127.0.0.1:1"), "{ended:?}");
}

#[test]
fn a_store_that_lets_nobody_in_is_examined_as_far_as_possible() {
    let ill = Ill::with(|store| {
        let faulty = Faulty::new(store);
        faulty.set(Mode::Deny);
        Arc::new(faulty)
    });
    let ended = examine(&ill.url);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert_eq!(statuses(&ended).len(), CHECKS.len());
    assert_eq!(status(&ended, "connect"), "ok");
    for check in ["ttl", "unknown", "watch", "register", "list"] {
        assert_eq!(status(&ended, check), "failed", "{check}");
    }
    for check in ["find_worker", "leave"] {
        assert_eq!(status(&ended, check), "skipped", "{check}");
    }
}

#[test]
fn what_was_acknowledged_and_is_not_there_is_wrong() {
    let ill = Ill::broken(Flaw::AcksWithoutWriting);
    let ended = examine(&ill.url);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for check in ["find_worker", "find_instance", "list", "appear"] {
        assert_eq!(status(&ended, check), "failed", "{check}");
    }
    for check in ["unknown", "watch", "register"] {
        assert_eq!(status(&ended, check), "ok", "{check}");
    }
    assert!(ended.complaint().contains("several services"), "{ended:?}");
}

#[test]
fn what_was_removed_and_is_still_there_is_wrong() {
    let ill = Ill::broken(Flaw::KeepsWhatWasRemoved);
    let ended = examine(&ill.url);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for check in ["forget", "unlist", "leave"] {
        assert_eq!(status(&ended, check), "failed", "{check}");
    }
    assert_eq!(status(&ended, "appear"), "ok");
}

#[test]
fn what_is_seen_later_than_declared_is_late() {
    let ill = Ill::broken(Flaw::VisibleLate);
    let ended = examine(&ill.url);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for (check, expected) in [("find_worker", "late"), ("list", "ok"), ("forget", "ok")] {
        assert_eq!(status(&ended, check), expected, "{check}");
    }
    assert!(
        ended.complaint().contains("later than the limit of 500ms"),
        "{ended:?}"
    );
}

#[test]
fn interrupted_it_takes_its_probe_back() {
    // The probe is there, but not to be found: for a second, the examination goes on.
    for signal in [Signal::INT, Signal::TERM] {
        let ill = Ill::broken(Flaw::VisibleLate);
        let mut doctor = start_overheard(["doctor", "--system", &ill.url]);
        let registered = |object: Value| object["check"] == "register";
        while !registered(doctor.object()) {}
        // It has to wait until this process has looked.
        doctor.signal(Signal::STOP);
        let listed = run(["list", "--system", &ill.url]).object();
        assert_eq!(listed["address"], "doctor://probe");
        doctor.signal(signal);
        doctor.signal(Signal::CONT);
        assert_eq!(doctor.wait(), Some(130));
        assert_eq!(doctor.complaints().len(), 1, "{:?}", doctor.complaints());
        assert_eq!(run(["list", "--system", &ill.url]).stdout, "");
    }
}
