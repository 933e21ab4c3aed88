//! Who is let in, and whom we believe: users, passwords that change, logins that are forgotten,
//! certificates.

mod support;

use std::{
    error::Error,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use discovery_conformance::servers::{self, EtcdOptions, EtcdServer};
use discovery_core::{
    Cluster, DiscoveryError, DiscoverySystem, ErrorKind, InstanceId, PeerInfo, RegistrationState, Secret,
    WorkerAddress,
    peer::{PeerDiscovery, PeerEvent, Registration},
    store::{Change, Changes, Expect, RecordKey, RecordStore, Session, Write, Writer, Written},
};
use discovery_etcd::{EtcdConfig, EtcdStore, EtcdSystem, Password};
use discovery_records::peer::peer_key;
use etcd_client::{Certificate, Client, ConnectOptions, GetOptions, Identity, TlsOptions};
use futures_util::{StreamExt, future::join_all};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use support::{Authority, Folder, USER, Valid, admin, change_password, encrypted, guard_over, guarded};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// The time to live of what the tests register.
const TTL: Duration = Duration::from_secs(2);
/// By when what was lost must be back: a renewal interval, 2 s, and time for a busy machine.
const RECOVERY: Duration = Duration::from_secs(4);
/// After how long without a call the servers of the tests forget a login.
const TOKEN_TTL: Duration = Duration::from_secs(3);
/// Longer than that, and than the server takes to notice.
const FORGOTTEN: Duration = Duration::from_secs(7);
/// By when a refusal must be there.
const PROMPT: Duration = Duration::from_secs(2);
const PASSWORD: &str = "correct horse: b@ttery/staple";

/// Names tests as they are called.
macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), |server| Box::pin($name(server)))),*] };
}

fn main() -> ExitCode {
    servers::run(
        "etcd",
        || guarded(TOKEN_TTL, PASSWORD),
        tests![
            wrong_credentials_are_refused_promptly,
            a_user_is_refused_where_there_are_none,
            a_user_who_may_not_is_told_so,
            a_forgotten_login_is_made_again,
            many_calls_share_one_login,
            a_registration_outlives_every_login,
            a_restart_forgets_all_logins,
            a_new_password_is_taken_from_its_file,
            a_dead_server_keeps_nobody_from_logging_in,
            certificates_are_checked_on_both_sides,
            a_certificate_may_name_the_user,
            a_refusal_after_the_connection_was_made_is_named,
            what_is_wrong_with_a_connection_is_named,
            files_that_cannot_be_used_are_named,
        ],
    )
}

/// A configuration for a server that asks who calls.
fn config(server: &EtcdServer) -> EtcdConfig {
    at(&[server.address()]).with_user(USER, Secret::new(PASSWORD))
}

fn at(addresses: &[SocketAddr]) -> EtcdConfig {
    let hosts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let config = EtcdConfig::try_new(&format!("etcd://{}", hosts.join(",")));
    config.expect("a configuration").with_ttl(TTL)
}

async fn peers(config: EtcdConfig) -> Arc<dyn PeerDiscovery> {
    let system = EtcdSystem::connect(config).await.expect("connected");
    system.peer_discovery().expect("it discovers peers")
}

async fn refused(config: &EtcdConfig) -> DiscoveryError {
    let begun = Instant::now();
    let error = EtcdSystem::connect(config.clone()).await.expect_err("refused");
    assert!(begun.elapsed() < PROMPT, "after {:?}: {error}", begun.elapsed());
    error
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

async fn assert_found(peers: &dyn PeerDiscovery, peer: &PeerInfo) {
    let found = peers.discover_by_worker_id(peer.worker_id()).await;
    assert_eq!(&found.expect("found"), peer);
}

fn prefix() -> RecordKey {
    RecordKey::try_new(&Cluster::default(), "things", &[]).expect("a key")
}

async fn write(store: &EtcdStore, session: &Session, name: &str) {
    let item = Write {
        key: RecordKey::try_new(&Cluster::default(), "things", &[name]).expect("a key"),
        body: "{}".into(),
        writer: Writer::random(),
        expect: Expect::Absent,
    };
    let written = store.write(session, &[item]).await.remove(0);
    assert!(matches!(written, Ok(Written::Done(_))), "{written:?}");
}

/// The next change that is more than progress, as its kind and the last part of its key.
async fn next(changes: &mut Changes) -> String {
    let change = async {
        loop {
            match changes.next().await.expect("it goes on").expect("no error") {
                Change::Reset { records, .. } => return format!("reset {}", records.len()),
                Change::Put(record) => return format!("put {}", record.key.last()),
                Change::Gone { key, .. } => return format!("gone {}", key.last()),
                Change::Progress(_) => {}
            }
        }
    };
    timeout(Duration::from_secs(2), change).await.expect("in time")
}

async fn eventually(limit: Duration, what: &str, check: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !check().await {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The error and all that is behind it.
fn told(error: &DiscoveryError) -> String {
    let (mut told, mut next) = (String::new(), Some(error as &dyn Error));
    while let Some(error) = next {
        told.push_str(&format!("{error}; "));
        next = error.source();
    }
    told
}

/// An address that refuses connections.
fn dead() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

async fn wrong_credentials_are_refused_promptly(server: EtcdServer) {
    let anybody = at(&[server.address()]);
    let as_user = |user: &str, password: &str| anybody.clone().with_user(user, Secret::new(password));
    for (config, named) in [
        (as_user(USER, "hunter2"), "authentication failed"),
        (as_user("nobody", PASSWORD), "authentication failed"),
        (anybody.clone(), "user name is empty"),
    ] {
        let error = refused(&config).await;
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        let text = format!("{} {error:?}", told(&error));
        assert!(text.contains(named), "{text}");
        assert!(!text.contains("hunter2") && !text.contains(PASSWORD), "{text}");
        // Who connects with the first call is told by that, and by those that come at once.
        let user = config.user().map(str::to_owned);
        let system = EtcdSystem::connect_lazy(config).expect("no I/O");
        let peers = system.peer_discovery().expect("it discovers peers");
        for _ in 0..3 {
            let error = peers.discover_by_worker_id(peer().worker_id()).await;
            let error = error.expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        }
        // Servers before 3.4.42, 3.5.28 and 3.6.9 do not check who writes (CVE-2026-33343).
        if user.is_none() {
            continue;
        }
        let peer = peer();
        let registered = peers.register_instance(peer.instance_id(), peer.address().clone());
        let error = timeout(PROMPT, registered)
            .await
            .expect("in time")
            .expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
    EtcdSystem::connect(config(&server))
        .await
        .expect("the right ones work");
}

async fn a_user_is_refused_where_there_are_none(_: EtcdServer) {
    let open = EtcdServer::start().await.expect("a server");
    let error = refused(&config(&open)).await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(
        error.to_string().contains("authentication is not enabled"),
        "{error}"
    );
}

async fn a_user_who_may_not_is_told_so(server: EtcdServer) {
    let error = refused(&config(&server).with_root("elsewhere")).await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}

async fn a_forgotten_login_is_made_again(server: EtcdServer) {
    let store = EtcdStore::try_new(&config(&server)).expect("a store");
    let session = store.open(Duration::from_secs(60)).await.expect("a session");
    let mut live = store.watch(&prefix(), None).await.expect("a watch");
    assert_eq!(next(&mut live).await, "reset 0");
    for name in ["1", "2"] {
        sleep(FORGOTTEN).await;
        // A write is repeated, too: it was refused before anything was done.
        write(&store, &session, name).await;
        assert_eq!(
            next(&mut live).await,
            format!("put {name}"),
            "a live watch goes on"
        );
    }
    sleep(FORGOTTEN).await;
    let mut again = store.watch(&prefix(), None).await.expect("a watch");
    assert_eq!(next(&mut again).await, "reset 2");
    sleep(FORGOTTEN).await;
    store.renew(&session, &[]).await.expect("renewed");
    write(&store, &session, "3").await;
    assert_eq!(next(&mut again).await, "put 3");
    assert_eq!(next(&mut live).await, "put 3");
    sleep(FORGOTTEN).await;
    store.close(&session).await.expect("closed");
    assert!(next(&mut again).await.starts_with("gone"));
}

async fn many_calls_share_one_login(server: EtcdServer) {
    let there = peer();
    let registrar = peers(config(&server)).await;
    let _registration = register(&*registrar, &there).await;
    let peers = peers(config(&server)).await;
    assert_found(&*peers, &there).await;
    let connected = server.sockets();
    sleep(FORGOTTEN).await;
    let lookups = (0..200).map(|_| assert_found(&*peers, &there));
    join_all(lookups).await;
    // The connection of before goes as soon as nobody uses it.
    eventually(PROMPT, "the connections of before", async || {
        server.sockets() == connected
    })
    .await;
}

async fn a_registration_outlives_every_login(server: EtcdServer) {
    let (peers, peer) = (peers(config(&server)).await, peer());
    let registration = register(&*peers, &peer).await;
    // Whoever calls often is not forgotten, unless the password is set.
    for _ in 0..6 {
        change_password(&server, PASSWORD).await;
        let begun = Instant::now();
        while begun.elapsed() < TTL {
            assert_found(&*peers, &peer).await;
            assert!(!registration.state().is_final());
            sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(registration.state(), RegistrationState::Live);
    }
    registration.unregister().await.expect("unregistered");
}

async fn a_restart_forgets_all_logins(server: EtcdServer) {
    let (peers, peer) = (peers(config(&server)).await, peer());
    let registration = register(&*peers, &peer).await;
    let store = EtcdStore::try_new(&config(&server)).expect("a store");
    let mut changes = store.watch(&prefix(), None).await.expect("a watch");
    assert_eq!(next(&mut changes).await, "reset 0");
    server.kill().await;
    assert!(changes.next().await.expect("an item").is_err(), "noticed");
    server.resume().await;
    let mut changes = store.watch(&prefix(), None).await.expect("a watch");
    assert_eq!(next(&mut changes).await, "reset 0");
    let session = store.open(Duration::from_secs(60)).await.expect("a session");
    write(&store, &session, "1").await;
    assert_eq!(next(&mut changes).await, "put 1");
    eventually(RECOVERY, "live", async || {
        registration.state() == RegistrationState::Live
    })
    .await;
    assert_found(&*peers, &peer).await;
}

async fn a_new_password_is_taken_from_its_file(server: EtcdServer) {
    let folder = Folder::new();
    let file = folder.write("password", &format!("{PASSWORD}\n"));
    let config = config(&server).with_user(USER, Password::File(file));
    let (peers, peer) = (peers(config).await, peer());
    let registration = register(&*peers, &peer).await;
    for number in 0..2 {
        let password = format!("new-{number}");
        change_password(&server, &password).await;
        let begun = Instant::now();
        let error = peers
            .discover_by_worker_id(peer.worker_id())
            .await
            .expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(begun.elapsed() < PROMPT, "after {:?}", begun.elapsed());
        // Longer than the record lives.
        sleep(TTL * 2).await;
        assert!(!registration.state().is_final(), "{}", registration.state());
        assert_ne!(registration.state(), RegistrationState::Live);
        folder.write("password", &password);
        eventually(RECOVERY, "live", async || {
            registration.state() == RegistrationState::Live
        })
        .await;
        assert_found(&*peers, &peer).await;
    }
    let key = format!("/discovery/{}", peer_key(&Cluster::default(), peer.worker_id()));
    let prefix = GetOptions::new().with_prefix().with_count_only();
    let standing = admin(&server).await.get(key, Some(prefix)).await.expect("read");
    assert_eq!(standing.count(), 1, "one record");
}

async fn a_dead_server_keeps_nobody_from_logging_in(server: EtcdServer) {
    for addresses in [[dead(), server.address()], [server.address(), dead()]] {
        let config = at(&addresses).with_user(USER, Secret::new(PASSWORD));
        let (peers, peer) = (self::peers(config).await, self::peer());
        let registration = register(&*peers, &peer).await;
        for _ in 0..20 {
            assert_found(&*peers, &peer).await;
        }
        registration.unregister().await.expect("unregistered");
    }
    // Connections are made, since nobody refuses them, and nothing is ever answered.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = listener.local_addr().expect("an address");
    let config = at(&[silent, server.address()]).with_user(USER, Secret::new(PASSWORD));
    let (peers, peer) = (self::peers(config).await, self::peer());
    let begun = Instant::now();
    let registration = register(&*peers, &peer).await;
    for _ in 0..20 {
        assert_found(&*peers, &peer).await;
    }
    assert!(begun.elapsed() < RECOVERY, "after {:?}", begun.elapsed());
    registration.unregister().await.expect("unregistered");
    // Nobody can be asked now, which is no reason not to begin.
    server.kill().await;
    let system = EtcdSystem::connect_lazy(self::config(&server)).expect("no I/O");
    let peers = system.peer_discovery().expect("it discovers peers");
    let unknown = self::peer().worker_id();
    let error = peers.discover_by_worker_id(unknown).await.expect_err("down");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    server.resume().await;
    let error = peers.discover_by_worker_id(unknown).await.expect_err("not there");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

/// A server that shows a certificate and wants to see one, and what all who connect have in common.
async fn mutual(folder: &Folder, authority: &Authority) -> (EtcdServer, EtcdConfig) {
    let mut options = EtcdOptions::default();
    options.certificate = Some(authority.sign(folder, "127.0.0.1", Valid::Now));
    options.client_authority = Some(authority.file.clone());
    let server = EtcdServer::start_with(options).await.expect("a server");
    let config = at(&[server.address()]).with_tls().with_ca_file(&authority.file);
    (server, config)
}

async fn a_certificate_may_name_the_user(_: EtcdServer) {
    let folder = Folder::new();
    let ours = Authority::new(&folder, "ours");
    let (server, config) = mutual(&folder, &ours).await;
    let read = |path: &Path| std::fs::read_to_string(path).expect("read");
    let (cert, key) = ours.sign(&folder, "guard", Valid::Now);
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read(&ours.file)))
        .identity(Identity::from_pem(read(&cert), read(&key)));
    let options = ConnectOptions::new().with_tls(tls);
    let raw = Client::connect([server.address().to_string()], Some(options)).await;
    guard_over(raw.expect("a client"), PASSWORD).await;
    let showing = |name| {
        let (cert, key) = ours.sign(&folder, name, Valid::Now);
        config.clone().with_client_certificate(cert, key)
    };
    let error = refused(&showing("stranger")).await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    let with_password = showing("stranger").with_user(USER, Secret::new(PASSWORD));
    for config in [showing(USER), with_password] {
        let (peers, peer) = (peers(config).await, peer());
        let registration = register(&*peers, &peer).await;
        assert_found(&*peers, &peer).await;
        registration.unregister().await.expect("unregistered");
    }
}

/// More than once: which end of a connection that is refused notices it first is chance.
async fn assert_wants_a_certificate(config: &EtcdConfig) {
    for _ in 0..10 {
        let error = refused(config).await;
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", told(&error));
        assert!(error.to_string().contains("cert_file"), "{error}");
    }
}

/// Speaks TLS 1.3 only, in which a client has made its connection before the server has seen its
/// certificate, as newer versions of etcd do.
async fn refuse_after_connecting(listener: TcpListener, folder: &Folder, ours: &Authority) {
    let (cert, key) = ours.sign(folder, "127.0.0.1", Valid::Now);
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(&ours.file).expect("an authority");
    roots.add(authority).expect("an authority");
    let provider = Arc::new(ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("a version")
        .with_client_cert_verifier(clients.build().expect("a verifier"))
        .with_single_cert(
            vec![CertificateDer::from_pem_file(cert).expect("a certificate")],
            PrivateKeyDer::from_pem_file(key).expect("a key"),
        )
        .expect("a configuration");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    listener.set_nonblocking(true).expect("a listener");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        acceptor.accept(stream).await.expect_err("no certificate");
    }
}

async fn a_refusal_after_the_connection_was_made_is_named(_: EtcdServer) {
    let folder = Folder::new();
    let ours = Authority::new(&folder, "ours");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let config = at(&[address]).with_tls().with_ca_file(&ours.file);
    tokio::select! {
        () = refuse_after_connecting(listener, &folder, &ours) => {}
        () = assert_wants_a_certificate(&config) => {}
    }
}

async fn certificates_are_checked_on_both_sides(_: EtcdServer) {
    let folder = Folder::new();
    let [ours, others] = ["ours", "others"].map(|name| Authority::new(&folder, name));
    let (_server, anybody) = mutual(&folder, &ours).await;
    let showing = |(cert, key)| anybody.clone().with_client_certificate(cert, key);
    let stranger = showing(others.sign(&folder, "client", Valid::Now));
    let late = showing(ours.sign(&folder, "client", Valid::InThePast));
    for config in [&anybody, &stranger, &late] {
        assert_wants_a_certificate(config).await;
    }
    let (peers, peer) = (
        peers(showing(ours.sign(&folder, "client", Valid::Now))).await,
        peer(),
    );
    let mut events = peers
        .watch()
        .expect("it watches")
        .watch_peers()
        .await
        .expect("a watch");
    let first = events.next().await;
    assert!(matches!(first, Some(PeerEvent::Snapshot(_))), "{first:?}");
    let registration = register(&*peers, &peer).await;
    assert_found(&*peers, &peer).await;
    let event = timeout(PROMPT, events.next()).await.expect("in time");
    assert!(
        matches!(&event, Some(PeerEvent::Added(added)) if *added == peer),
        "{event:?}"
    );
    sleep(TTL * 2).await;
    assert_eq!(registration.state(), RegistrationState::Live);
    registration.unregister().await.expect("unregistered");
}

async fn what_is_wrong_with_a_connection_is_named(plain: EtcdServer) {
    let folder = Folder::new();
    let [ours, others] = ["ours", "others"].map(|name| Authority::new(&folder, name));
    let server = async |name, valid| {
        let server = encrypted(ours.sign(&folder, name, valid))
            .await
            .expect("a server");
        let config = at(&[server.address()]).with_tls().with_ca_file(&ours.file);
        (server, config)
    };
    let (good, config) = server("127.0.0.1", Valid::Now).await;
    let (_named, named) = server("etcd.test", Valid::Now).await;
    let (_late, late) = server("127.0.0.1", Valid::InThePast).await;
    EtcdSystem::connect(config.clone())
        .await
        .expect("as it should be");
    let by_name = named.clone().with_server_name("etcd.test");
    EtcdSystem::connect(by_name).await.expect("by its name");
    let unknown = config.clone().with_ca_file(&others.file);
    // None of the system's authorities has signed it, if there are any.
    let untrusted = EtcdConfig::try_new(&format!("etcds://{}", config.endpoints()[0]));
    let untrusted = untrusted.expect("a configuration");
    let plaintext = at(&[good.address()]);
    let to_plain = at(&[plain.address()]).with_tls().with_ca_file(&ours.file);
    use ErrorKind::{InvalidConfig, Unavailable};
    for (what, config, kinds, words) in [
        (
            "unknown authority",
            unknown,
            &[Unavailable][..],
            ["certificate", "ca_file"],
        ),
        (
            "no authority of ours",
            untrusted,
            &[Unavailable, InvalidConfig],
            ["", "ca_file"],
        ),
        (
            "another host",
            named,
            &[Unavailable],
            ["certificate", "server_name"],
        ),
        ("expired", late, &[Unavailable], ["certificate", "expired"]),
        (
            "plaintext to TLS",
            plaintext,
            &[InvalidConfig],
            ["TLS", "etcds://"],
        ),
        ("TLS to plaintext", to_plain, &[InvalidConfig], ["TLS", "etcd://"]),
    ] {
        let with_user = config.clone().with_user(USER, Secret::new("hunter2"));
        for config in [config, with_user] {
            // Which of the two sides notices first that they do not understand each other is chance.
            for _ in 0..5 {
                let error = refused(&config).await;
                let text = told(&error);
                assert!(kinds.contains(&error.kind()), "{what}: {text}");
                assert!(words.iter().all(|word| text.contains(word)), "{what}: {text}");
                assert!(!format!("{text} {error:?}").contains("hunter2"), "{what}: {text}");
            }
        }
    }
}

async fn files_that_cannot_be_used_are_named(_: EtcdServer) {
    let folder = Folder::new();
    let ours = Authority::new(&folder, "ours");
    let (cert, key) = ours.sign(&folder, "127.0.0.1", Valid::Now);
    let (_, other_key) = ours.sign(&folder, "127.0.0.1", Valid::Now);
    let server = encrypted((cert.clone(), key.clone())).await.expect("a server");
    let config = at(&[server.address()]).with_tls().with_ca_file(&ours.file);
    let missing = folder.write("missing", "").with_extension("not");
    let garbage = folder.write("garbage", "hunter2");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let broken = folder.write("broken", broken);
    let showing = |cert, key| config.clone().with_client_certificate(cert, key);
    for (config, option, path) in [
        (config.clone().with_ca_file(&missing), "ca_file", &missing),
        (config.clone().with_ca_file(&garbage), "ca_file", &garbage),
        (config.clone().with_ca_file(&broken), "ca_file", &broken),
        (showing(&missing, &key), "cert_file", &missing),
        (showing(&garbage, &key), "cert_file", &garbage),
        (showing(&cert, &missing), "key_file", &missing),
        (showing(&cert, &garbage), "key_file", &garbage),
        (showing(&cert, &cert), "key_file", &cert),
        (
            config.clone().with_user(USER, Password::File(missing.clone())),
            "password_file",
            &missing,
        ),
    ] {
        let error = refused(&config).await;
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        let text = format!("{} {error:?}", told(&error));
        let path = path.display().to_string();
        assert!(
            text.contains(option) && text.contains(&path),
            "{option} {path}: {text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }
    let error = refused(&showing(&cert, &other_key)).await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(error.to_string().contains("key_file"), "{error}");
    // Files are read for every connection: what is repaired is taken.
    let late = folder.write("late", "").with_extension("pem");
    let system = EtcdSystem::connect_lazy(config.with_ca_file(&late)).expect("no I/O");
    let peers = system.peer_discovery().expect("it discovers peers");
    let asked = async || {
        peers
            .discover_by_worker_id(peer().worker_id())
            .await
            .expect_err("nobody")
    };
    assert_eq!(asked().await.kind(), ErrorKind::InvalidConfig);
    std::fs::copy(&ours.file, &late).expect("copied");
    assert_eq!(asked().await.kind(), ErrorKind::NotFound);
}
