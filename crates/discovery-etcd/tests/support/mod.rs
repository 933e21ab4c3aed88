//! Certificates and users, for tests of who is let in.

use std::{fs, path::PathBuf, time::Duration};

use discovery_conformance::servers::{EtcdOptions, EtcdServer};
use etcd_client::{Client, ConnectOptions, Permission};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};

/// The user that the tests are, who may do what the README says that is needed, and no more.
pub(crate) const USER: &str = "member";
/// The user who may do everything.
const ADMIN: (&str, &str) = ("root", "the root of all");

/// A folder that is removed in the end.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let name = format!("discovery-secrets-{:016x}", rand());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    /// Writes a file, whole or not at all, as operators should.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let (path, half) = (self.0.join(name), self.0.join(format!("{name}.half")));
        fs::write(&half, text).expect("written");
        fs::rename(&half, &path).expect("in its place");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn rand() -> u64 {
    discovery_core::InstanceId::new_v4().worker_id().as_u64()
}

/// Who signs certificates.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) file: PathBuf,
}

impl Authority {
    pub(crate) fn new(folder: &Folder, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let file = folder.write(&format!("{name}.pem"), &issuer.pem());
        Self { issuer, file }
    }

    /// The files of a certificate for a host, or a client of that name, and of its key.
    pub(crate) fn sign(&self, folder: &Folder, name: &str, valid: Valid) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if valid == Valid::InThePast {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        let stem = format!("{name}-{:08x}", rand());
        (
            folder.write(&format!("{stem}.pem"), &signed.pem()),
            folder.write(&format!("{stem}.key"), &key.serialize_pem()),
        )
    }
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Valid {
    Now,
    InThePast,
}

/// A server that speaks TLS only.
pub(crate) async fn encrypted(certificate: (PathBuf, PathBuf)) -> Result<EtcdServer, String> {
    let mut options = EtcdOptions::default();
    options.certificate = Some(certificate);
    EtcdServer::start_with(options).await
}

/// A server that wants to know who asks, and forgets it soon.
pub(crate) async fn guarded(token_ttl: Duration, password: &str) -> Result<EtcdServer, String> {
    let mut options = EtcdOptions::default();
    options.token_ttl = Some(token_ttl);
    let server = EtcdServer::start_with(options).await?;
    guard(&server, password).await;
    Ok(server)
}

/// Makes a server without users ask who calls.
pub(crate) async fn guard(server: &EtcdServer, password: &str) {
    let address = server.address().to_string();
    guard_over(
        Client::connect([address], None).await.expect("a client"),
        password,
    )
    .await;
}

/// The same, by a client that may connect.
pub(crate) async fn guard_over(client: Client, password: &str) {
    let mut auth = client.auth_client();
    auth.user_add(ADMIN.0, ADMIN.1, None).await.expect("the admin");
    auth.role_add("root").await.expect("the role of the admin");
    auth.user_grant_role(ADMIN.0, "root")
        .await
        .expect("the admin's role");
    auth.user_add(USER, password, None).await.expect("the user");
    auth.role_add("members").await.expect("a role");
    for range in ["/discovery/", "/discovery.fence/", "/discovery.generation/"] {
        let permission = Permission::read_write(range).with_prefix();
        auth.role_grant_permission("members", permission)
            .await
            .expect("a right");
    }
    auth.user_grant_role(USER, "members").await.expect("a role");
    auth.auth_enable().await.expect("guarded");
}

/// A client that may do everything.
pub(crate) async fn admin(server: &EtcdServer) -> Client {
    let options = ConnectOptions::new()
        .with_user(ADMIN.0, ADMIN.1)
        .with_auto_token_refresh(true);
    let address = server.address().to_string();
    Client::connect([address], Some(options)).await.expect("a client")
}

/// Gives the user another password.
pub(crate) async fn change_password(server: &EtcdServer, password: &str) {
    let mut auth = admin(server).await.auth_client();
    auth.user_change_password(USER, password).await.expect("changed");
}
