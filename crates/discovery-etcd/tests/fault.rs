//! What only etcd does, or what is done to it behind our back: leases, keys, revisions, servers.

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use discovery_conformance::servers::{self, EtcdServer};
use discovery_core::{
    Cluster, DiscoverySystem, InstanceId, PeerInfo, RegistrationState, WorkerAddress,
    peer::{PeerDiscovery, Registration},
    store::{
        Change, Changes, Expect, Held, Kept, Position, Record, RecordKey, RecordStore, Removal, Removed,
        Session, Write, Writer, Written,
    },
};
use discovery_etcd::{EtcdConfig, EtcdStore, EtcdSystem};
use discovery_records::peer::peer_key;
use etcd_client::{Client, CompactionOptions, GetOptions, PutOptions};
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep, timeout};

/// The time to live of what the tests register.
const TTL: Duration = Duration::from_secs(2);
/// By when what was lost must be back: a renewal interval, 2 s, and time for a busy machine.
const RECOVERY: Duration = Duration::from_secs(4);

/// Names tests as they are called.
macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), |server| Box::pin($name(server)))),*] };
}

fn main() -> ExitCode {
    servers::run(
        "etcd",
        EtcdServer::start,
        tests![
            a_record_is_readable_with_the_tools_of_etcd,
            a_lease_that_was_revoked_is_replaced,
            a_key_that_was_deleted_comes_back,
            garbage_in_our_place_is_noticed_and_left_alone,
            garbage_on_our_lease_is_noticed_too,
            what_was_put_there_by_hand_is_malformed_and_in_the_way,
            a_renewal_tells_what_hangs_on_the_lease_unwanted_but_no_fences,
            many_records_are_written_renewed_and_read_in_few_requests,
            a_watch_goes_on_where_nothing_has_happened,
            a_watch_after_a_compaction_tells_everything,
            a_watch_after_a_wipe_tells_everything_of_a_later_generation,
            changes_of_one_revision_come_together,
            a_list_goes_on_after_a_compaction,
            a_page_token_of_another_list_is_refused,
            an_idle_connection_is_left_alone,
            callers_who_go_away_do_not_bring_the_server_down,
            a_dead_server_costs_no_call,
            a_silent_server_costs_no_lookup,
        ],
    )
}

fn url(addresses: &[SocketAddr]) -> String {
    let hosts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    format!("etcd://{}", hosts.join(","))
}

fn config(addresses: &[SocketAddr]) -> EtcdConfig {
    EtcdConfig::try_new(&url(addresses))
        .expect("a configuration")
        .with_ttl(TTL)
}

fn store(server: &EtcdServer) -> EtcdStore {
    EtcdStore::try_new(&config(&[server.address()])).expect("a store")
}

async fn raw(server: &EtcdServer) -> Client {
    let address = server.address().to_string();
    Client::connect([address], None).await.expect("a client")
}

async fn peers(addresses: &[SocketAddr]) -> Arc<dyn PeerDiscovery> {
    let system = EtcdSystem::connect(config(addresses)).await.expect("connected");
    system.peer_discovery().expect("it discovers peers")
}

fn peer() -> PeerInfo {
    PeerInfo::new(
        InstanceId::new_v4(),
        WorkerAddress::from_bytes("tcp://127.0.0.1:5555"),
    )
}

async fn register(peers: &dyn PeerDiscovery, peer: &PeerInfo) -> Registration {
    let registered = peers.register_instance(peer.instance_id(), peer.address().clone());
    registered.await.expect("registered")
}

fn key_of(peer: &PeerInfo) -> String {
    format!("/discovery/{}", peer_key(&Cluster::default(), peer.worker_id()))
}

fn key(name: &str) -> RecordKey {
    RecordKey::try_new(&Cluster::default(), "things", &[name]).expect("a key")
}

fn prefix() -> RecordKey {
    RecordKey::try_new(&Cluster::default(), "things", &[]).expect("a key")
}

fn item(name: &str) -> Write {
    Write {
        key: key(name),
        body: format!("body of {name}").into(),
        writer: Writer::random(),
        expect: Expect::Absent,
    }
}

async fn write(store: &EtcdStore, session: &Session, items: &[Write]) -> Vec<Record> {
    let written = store.write(session, items).await;
    let done = |written| match written {
        Ok(Written::Done(record)) => record,
        other => panic!("not written: {other:?}"),
    };
    written.into_iter().map(done).collect()
}

async fn remove(store: &EtcdStore, session: &Session, record: &Record) {
    let removal = Removal {
        key: record.key.clone(),
        writer: record.writer,
        expect: Expect::Version(record.version.clone()),
    };
    let removed = store.remove(session, &removal).await;
    assert!(matches!(removed, Ok(Removed::Done)), "{removed:?}");
}

async fn session(store: &EtcdStore) -> Session {
    store.open(Duration::from_secs(60)).await.expect("a session")
}

fn held(record: &Record) -> Held {
    Held {
        key: record.key.clone(),
        body: record.body.clone(),
        writer: record.writer,
        version: record.version.clone(),
    }
}

async fn eventually(limit: Duration, what: &str, check: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !check().await {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn next(changes: &mut Changes) -> Change {
    let change = timeout(Duration::from_secs(2), changes.next()).await;
    change.expect("in time").expect("a change").expect("no error")
}

fn reset(change: Change) -> (Vec<String>, Position) {
    let Change::Reset { records, as_of } = change else {
        panic!("no reset: {change:?}");
    };
    let names = records.iter().map(|record| record.key.last().to_owned());
    (names.collect(), as_of.expect("a position"))
}

async fn a_record_is_readable_with_the_tools_of_etcd(server: EtcdServer) {
    let (peers, peer) = (peers(&[server.address()]).await, peer());
    let _registration = register(&*peers, &peer).await;
    let mut raw = raw(&server).await;
    let all = raw
        .get("", Some(GetOptions::new().with_prefix()))
        .await
        .expect("read");
    let keys: Vec<_> = all
        .kvs()
        .iter()
        .map(|stands| stands.key_str().expect("text"))
        .collect();
    assert_eq!(keys, [key_of(&peer)], "one key per peer, and none beside it");
    let value = all.kvs()[0].value_str().expect("text");
    let (body, writer) = value.rsplit_once('\n').expect("a writer on a line of its own");
    assert!(body.starts_with(r#"{"v":1,"kind":"peer","#) && body.contains(&peer.instance_id().to_string()));
    assert_eq!(writer.len(), 32, "{value}");
}

async fn a_lease_that_was_revoked_is_replaced(server: EtcdServer) {
    let (peers, peer) = (peers(&[server.address()]).await, peer());
    let registration = register(&*peers, &peer).await;
    let mut raw = raw(&server).await;
    let stands = raw.get(key_of(&peer), None).await.expect("read");
    let lease = stands.kvs()[0].lease();
    raw.lease_revoke(lease).await.expect("revoked");
    assert_eq!(raw.get(key_of(&peer), None).await.expect("read").count(), 0);
    eventually(RECOVERY, "back, on another lease", async || {
        let stands = raw.clone().get(key_of(&peer), None).await.expect("read");
        let back = stands
            .kvs()
            .first()
            .is_some_and(|stands| stands.lease() != lease && stands.lease() != 0);
        back && registration.state() == RegistrationState::Live
    })
    .await;
}

async fn a_key_that_was_deleted_comes_back(server: EtcdServer) {
    let (peers, peer) = (peers(&[server.address()]).await, peer());
    let registration = register(&*peers, &peer).await;
    let mut raw = raw(&server).await;
    for _ in 0..2 {
        raw.delete(key_of(&peer), None).await.expect("deleted");
        eventually(RECOVERY, "back", async || {
            let stands = raw.clone().get(key_of(&peer), None).await.expect("read");
            stands.count() == 1 && registration.state() == RegistrationState::Live
        })
        .await;
    }
}

async fn garbage_in_our_place_is_noticed_and_left_alone(server: EtcdServer) {
    let (peers, peer) = (peers(&[server.address()]).await, peer());
    let registration = register(&*peers, &peer).await;
    let mut raw = raw(&server).await;
    raw.put(key_of(&peer), "garbage", None).await.expect("put");
    superseded(&registration).await;
    registration
        .unregister()
        .await
        .expect("nothing of its own is left");
    let stands = raw.get(key_of(&peer), None).await.expect("read");
    assert_eq!(stands.kvs()[0].value(), b"garbage", "it was not ours to remove");
}

async fn garbage_on_our_lease_is_noticed_too(server: EtcdServer) {
    let (peers, peer) = (peers(&[server.address()]).await, peer());
    let registration = register(&*peers, &peer).await;
    let options = PutOptions::new().with_ignore_lease();
    let put = raw(&server)
        .await
        .put(key_of(&peer), "garbage", Some(options))
        .await;
    put.expect("put");
    superseded(&registration).await;
}

async fn superseded(registration: &Registration) {
    eventually(RECOVERY, "superseded", async || {
        registration.state() == RegistrationState::Superseded
    })
    .await;
}

async fn what_was_put_there_by_hand_is_malformed_and_in_the_way(server: EtcdServer) {
    let (store, mut raw) = (store(&server), raw(&server).await);
    raw.put("/discovery/default/things/1", "garbage", None)
        .await
        .expect("put");
    raw.put("/discovery/default/things//2", "no key", None)
        .await
        .expect("put");
    let found = store
        .get(&[key("1")])
        .await
        .remove(0)
        .expect("read")
        .expect("it stands");
    assert_eq!((&found.body[..], found.writer.as_u128()), (&b"garbage"[..], 0));
    let listed = store.list(&prefix(), None).await.expect("listed");
    assert_eq!((listed.records.len(), listed.skipped), (1, 1));
    let session = session(&store).await;
    let refused = store.write(&session, &[item("1")]).await.remove(0);
    assert!(
        matches!(&refused, Ok(Written::Conflict(Some(record))) if record.body == found.body),
        "{refused:?}"
    );
    // Who knows its version may replace it.
    let over = Write {
        expect: Expect::Version(found.version),
        ..item("1")
    };
    write(&store, &session, &[over]).await;
}

async fn a_renewal_tells_what_hangs_on_the_lease_unwanted_but_no_fences(server: EtcdServer) {
    let store = store(&server);
    let session = session(&store).await;
    let records = write(&store, &session, &[item("1"), item("2"), item("3")]).await;
    let late = item("4");
    let fence = Removal {
        key: late.key.clone(),
        writer: late.writer,
        expect: Expect::Absent,
    };
    let fenced = store.remove(&session, &fence).await;
    assert!(matches!(fenced, Ok(Removed::Done)), "{fenced:?}");
    let refused = store.write(&session, std::slice::from_ref(&late)).await.remove(0);
    assert!(matches!(refused, Ok(Written::Conflict(None))), "{refused:?}");
    remove(&store, &session, &records[1]).await;
    let asked = [held(&records[0]), held(&records[1])];
    let mut unwanted = Vec::new();
    for _ in 0..2 {
        let renewal = store.renew(&session, &asked).await.expect("renewed");
        assert!(
            matches!(&renewal.kept[..], [Kept::Mine(version), Kept::Gone] if *version == records[0].version),
            "{:?}",
            renewal.kept
        );
        unwanted.extend(renewal.unwanted.into_iter().map(|record| record.key));
    }
    assert_eq!(unwanted, [key("3"), key("3")], "told by every renewal");
    store.close(&session).await.expect("closed");
    store.close(&session).await.expect("closed again");
    let lost = store.renew(&session, &asked).await.expect_err("it has ended");
    assert_eq!(lost.kind(), discovery_core::ErrorKind::LeaseLost, "{lost}");
    let lost = store
        .write(&session, &[late])
        .await
        .remove(0)
        .expect_err("it has ended");
    assert_eq!(lost.kind(), discovery_core::ErrorKind::LeaseLost, "{lost}");
}

async fn many_records_are_written_renewed_and_read_in_few_requests(server: EtcdServer) {
    let store = store(&server);
    let session = session(&store).await;
    let items: Vec<_> = (0..1_000).map(|number| item(&number.to_string())).collect();
    let records = write(&store, &session, &items).await;
    let all: Vec<_> = records.iter().map(held).collect();
    for _ in 0..2 {
        let renewal = store.renew(&session, &all).await.expect("renewed");
        assert!(renewal.kept.iter().all(|kept| matches!(kept, Kept::Mine(_))));
        assert!(renewal.unwanted.is_empty());
    }
    let keys: Vec<_> = items.iter().map(|item| item.key.clone()).collect();
    let found = store.get(&keys).await;
    for (item, found) in items.iter().zip(found) {
        let found = found.expect("read").expect("it stands");
        assert_eq!(
            (&found.key, &found.body, found.writer),
            (&item.key, &item.body, item.writer)
        );
    }
}

async fn a_watch_goes_on_where_nothing_has_happened(server: EtcdServer) {
    let store = store(&server);
    let session = session(&store).await;
    write(&store, &session, &[item("1")]).await;
    let (names, at) = reset(next(&mut store.watch(&prefix(), None).await.expect("a watch")).await);
    assert_eq!(names, ["1"]);
    let mut changes = store.watch(&prefix(), Some(at)).await.expect("a watch");
    let first = next(&mut changes).await;
    assert!(matches!(first, Change::Progress(now) if now == at), "{first:?}");
    let second = write(&store, &session, &[item("2")]).await.remove(0);
    let put = next(&mut changes).await;
    assert!(put.position() > Some(at), "{put:?}");
    assert!(matches!(put, Change::Put(record) if record.version == second.version));
}

async fn a_watch_after_a_compaction_tells_everything(server: EtcdServer) {
    let (store, mut raw) = (store(&server), raw(&server).await);
    let session = session(&store).await;
    let gone = write(&store, &session, &[item("1")]).await.remove(0);
    let (_, at) = reset(next(&mut store.watch(&prefix(), None).await.expect("a watch")).await);
    remove(&store, &session, &gone).await;
    write(&store, &session, &[item("2")]).await;
    let now = raw
        .get("x", None)
        .await
        .expect("read")
        .header()
        .expect("a header")
        .revision();
    let options = CompactionOptions::new().with_physical();
    raw.compact(now, Some(options)).await.expect("compacted");
    let mut changes = store.watch(&prefix(), Some(at)).await.expect("a watch");
    let (names, later) = reset(next(&mut changes).await);
    assert_eq!(names, ["2"], "what was removed meanwhile is not there");
    assert!(later > at);
    write(&store, &session, &[item("3")]).await;
    assert!(matches!(next(&mut changes).await, Change::Put(record) if record.key == key("3")));
}

async fn a_watch_after_a_wipe_tells_everything_of_a_later_generation(server: EtcdServer) {
    let store = store(&server);
    let session = session(&store).await;
    write(&store, &session, &[item("1"), item("2")]).await;
    let mut changes = store.watch(&prefix(), None).await.expect("a watch");
    let (_, at) = reset(next(&mut changes).await);
    server.wipe().await;
    let broken = timeout(Duration::from_secs(2), changes.next())
        .await
        .expect("noticed in time");
    assert!(broken.expect("an item").is_err());
    assert!(changes.next().await.is_none(), "an error is the last item");
    server.resume().await;
    let again = self::session(&store).await;
    // The server comes to the revision of before and beyond it.
    for number in 0..at.seq + 5 {
        write(&store, &again, &[item(&format!("new-{number:02}"))]).await;
    }
    let mut changes = store.watch(&prefix(), Some(at)).await.expect("a watch");
    let (names, now) = reset(next(&mut changes).await);
    assert!(names.iter().all(|name| name.starts_with("new-")), "{names:?}");
    assert!(now.generation > at.generation, "{at:?} {now:?}");
}

async fn changes_of_one_revision_come_together(server: EtcdServer) {
    let store = store(&server);
    let session = session(&store).await;
    let mut changes = store.watch(&prefix(), None).await.expect("a watch");
    next(&mut changes).await;
    let names = ["1", "2", "3"];
    write(&store, &session, &names.map(item)).await;
    store.close(&session).await.expect("closed");
    for gone in [false, true] {
        let first = next(&mut changes).await;
        let mut told = vec![first];
        for _ in 1..names.len() {
            // Nothing is waited for in between.
            let change = changes.next().now_or_never().expect("it is there");
            told.push(change.expect("a change").expect("no error"));
        }
        // Whoever goes on from a position has all of that revision.
        let positioned: Vec<_> = told.iter().map(|change| change.position().is_some()).collect();
        assert_eq!(positioned, [false, false, true], "{told:?}");
        assert!(
            told.iter()
                .all(|change| matches!(change, Change::Gone { .. }) == gone),
            "{told:?}"
        );
    }
}

async fn a_list_goes_on_after_a_compaction(server: EtcdServer) {
    let (store, mut raw) = (store(&server), raw(&server).await);
    let session = session(&store).await;
    let items: Vec<_> = (0..10_050).map(|number| item(&format!("{number:05}"))).collect();
    write(&store, &session, &items).await;
    let first = store.list(&prefix(), None).await.expect("a page");
    let token = first.next.expect("there is more");
    assert_eq!(first.records.len(), 10_000);
    write(&store, &session, &[item("99999")]).await;
    let pinned = store.list(&prefix(), Some(token.clone())).await.expect("a page");
    assert_eq!(
        (pinned.records.len(), pinned.as_of),
        (50, first.as_of),
        "as of the first page"
    );
    let now = raw
        .get("x", None)
        .await
        .expect("read")
        .header()
        .expect("a header")
        .revision();
    let options = CompactionOptions::new().with_physical();
    raw.compact(now, Some(options)).await.expect("compacted");
    let second = store.list(&prefix(), Some(token)).await.expect("a page");
    assert!(second.as_of > first.as_of && second.next.is_none());
    assert_eq!(
        second.as_of.map(|at| at.generation),
        first.as_of.map(|at| at.generation)
    );
    let names: Vec<_> = first
        .records
        .iter()
        .chain(&second.records)
        .map(|record| record.key.last())
        .collect();
    assert!(
        names.is_sorted_by(|one, next| one < next),
        "something appears twice"
    );
    assert_eq!(names.len(), 10_051);
}

async fn a_page_token_of_another_list_is_refused(server: EtcdServer) {
    let store = store(&server);
    let error = store.list(&prefix(), Some("1.1./discovery/other/x".into())).await;
    let error = error.expect_err("none of this list");
    assert_eq!(
        error.kind(),
        discovery_core::ErrorKind::InvalidArgument,
        "{error}"
    );
}

async fn an_idle_connection_is_left_alone(server: EtcdServer) {
    let store = store(&server);
    store.get(&[key("1")]).await.remove(0).expect("read");
    let connected = server.sockets();
    // etcd closes a connection on which it is asked for signs of life for no reason, the third time.
    sleep(Duration::from_secs(25)).await;
    assert_eq!(server.sockets(), connected);
}

async fn callers_who_go_away_do_not_bring_the_server_down(server: EtcdServer) {
    let store = store(&server);
    let keys = ["1", "2", "3"].map(key);
    let connected = async || store.get(&keys).await.iter().all(Result::is_ok);
    assert!(connected().await);
    for patience in 0..600 {
        let patience = Duration::from_micros(5 * patience);
        let _ = timeout(patience, store.get(&keys)).await;
        let _ = timeout(patience, store.list(&prefix(), None)).await;
        let _ = timeout(patience, store.watch(&prefix(), None)).await;
    }
    assert!(connected().await, "the server has ended, or its connection");
}

/// An address that refuses connections.
fn dead() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

async fn a_dead_server_costs_no_call(server: EtcdServer) {
    for addresses in [[dead(), server.address()], [server.address(), dead()]] {
        let (peers, peer) = (peers(&addresses).await, peer());
        let registration = register(&*peers, &peer).await;
        for _ in 0..200 {
            let found = peers.discover_by_worker_id(peer.worker_id()).await;
            assert_eq!(found.expect("found"), peer);
        }
        sleep(TTL * 2).await;
        assert_eq!(registration.state(), RegistrationState::Live);
        registration.unregister().await.expect("unregistered");
    }
}

async fn a_silent_server_costs_no_lookup(server: EtcdServer) {
    let there = peer();
    let _registration = register(&*peers(&[server.address()]).await, &there).await;
    // Connections are made, since nobody refuses them, and nothing is ever answered.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = listener.local_addr().expect("an address");
    for addresses in [[silent, server.address()], [server.address(), silent]] {
        let peers = peers(&addresses).await;
        let begun = Instant::now();
        for _ in 0..200 {
            let found = peers.discover_by_worker_id(there.worker_id()).await;
            assert_eq!(found.expect("found"), there);
        }
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "after {:?}",
            begun.elapsed()
        );
        // A write that meets it has an unknown outcome; the registrar looks, and goes on.
        let newcomer = peer();
        let registration = register(&*peers, &newcomer).await;
        assert_eq!(registration.state(), RegistrationState::Live);
        registration.unregister().await.expect("unregistered");
    }
}
