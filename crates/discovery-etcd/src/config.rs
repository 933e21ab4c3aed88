//! Where the servers are, and how long to wait for them.

use std::{net::Ipv6Addr, path::PathBuf, time::Duration};

use discovery_core::{Cluster, DiscoveryError, SystemUrl, limit};
use discovery_records::view::ViewConfig;

use crate::{
    credentials::{Credentials, Password},
    key::Keys,
    tls::Tls,
};

/// The time to live asked for unless told otherwise.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(10);
/// The port of etcd's client URL unless told otherwise.
const DEFAULT_PORT: u16 = 2379;
/// The most servers: etcd's own advice is seven at most.
const MOST_ENDPOINTS: usize = 16;

/// Configuration of an [`EtcdSystem`](crate::EtcdSystem).
///
/// ```
/// use discovery_etcd::EtcdConfig;
///
/// let config = EtcdConfig::from_url("etcd://127.0.0.1:2379,127.0.0.1:2381?cluster=demo&ttl=5s".parse()?)?;
/// assert_eq!(config.endpoints(), ["127.0.0.1:2379", "127.0.0.1:2381"]);
/// assert_eq!(config.ttl().as_secs(), 5);
/// # Ok::<(), discovery_core::DiscoveryError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    endpoints: Vec<String>,
    cluster: Cluster,
    root: String,
    ttl: Duration,
    connect_timeout: Duration,
    timeout: Duration,
    view: ViewConfig,
    credentials: Option<Credentials>,
    encrypted: bool,
    tls: Tls,
}

impl EtcdConfig {
    /// The servers of one etcd cluster at `etcd://[user:password@]host[:port][,host[:port]…]`,
    /// or `etcds://` with TLS; everything else by default. The port is 2379 unless given.
    ///
    /// # Errors
    /// `InvalidConfig` for anything else.
    pub fn try_new(url: &str) -> Result<Self, DiscoveryError> {
        let mut url: SystemUrl = url.parse()?;
        let mut config = Self::at(&url)?;
        config.credentials = Credentials::from_url(&mut url)?;
        url.finish()?;
        config.validate()?;
        Ok(config)
    }

    /// Reads `etcd://[user[:password]@]host[:port][,host[:port]…]`, or `etcds://` with TLS, with the
    /// options `cluster`, `ttl`, `root`, `connect_timeout`, `timeout`, `user`, `password_file`,
    /// `password_env`, `ca_file`, `cert_file`, `key_file`, `server_name` and those of
    /// [`ViewConfig::from_url`]. No file is read yet.
    ///
    /// # Errors
    /// `InvalidConfig` naming the part or option that cannot work, without repeating what may
    /// be a secret.
    pub fn from_url(mut url: SystemUrl) -> Result<Self, DiscoveryError> {
        let mut config = Self::at(&url)?.with_cluster(url.take_cluster()?);
        config.ttl = url.take_ttl()?.unwrap_or(config.ttl);
        config.root = url.take("root").unwrap_or(config.root);
        let connect_timeout = url.take_duration("connect_timeout")?;
        config.connect_timeout = connect_timeout.unwrap_or(config.connect_timeout);
        config.timeout = url.take_duration("timeout")?.unwrap_or(config.timeout);
        config.credentials = Credentials::from_url(&mut url)?;
        config.tls = Tls::from_url(&mut url);
        config.view = ViewConfig::from_url(&mut url)?;
        url.finish()?;
        config.validate()?;
        Ok(config)
    }

    fn at(url: &SystemUrl) -> Result<Self, DiscoveryError> {
        check_parts(url)?;
        Ok(Self {
            endpoints: endpoints(url.hosts())?,
            cluster: Cluster::default(),
            root: "discovery".to_owned(),
            ttl: DEFAULT_TTL,
            connect_timeout: limit::CONNECT_DEADLINE,
            timeout: limit::CALL_DEADLINE,
            view: ViewConfig::default(),
            credentials: None,
            encrypted: url.scheme() == "etcds",
            tls: Tls::default(),
        })
    }

    /// Sets the cluster of this workspace's records, which has nothing to do with the cluster
    /// that etcd's servers form; `default` unless set.
    #[must_use]
    pub fn with_cluster(mut self, cluster: Cluster) -> Self {
        self.cluster = cluster;
        self
    }

    /// Sets the first segment of every key in etcd; `discovery` unless set. Systems with
    /// different roots never meet.
    #[must_use]
    pub fn with_root(mut self, root: impl Into<String>) -> Self {
        self.root = root.into();
        self
    }

    /// Sets the time to live of what is registered: 1 s to 1 h, 10 s unless set. etcd counts
    /// in whole seconds, and grants 2 s at least unless its election timeout is shorter than
    /// by default; what it grants, rounded up, is what counts.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how long connecting may take; 5 s unless set.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long one call may take, all servers that it tries included; 2 s unless set.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how watches distrust what they are told.
    #[must_use]
    pub fn with_view(mut self, view: ViewConfig) -> Self {
        self.view = view;
        self
    }

    /// Sets who asks; nobody in particular unless set. Without TLS, whoever is on the way
    /// reads the password.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>, password: impl Into<Password>) -> Self {
        self.credentials = Some(Credentials::new(user.into(), password.into()));
        self
    }

    /// Encrypts connections, as `etcds://` does.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.encrypted = true;
        self
    }

    /// Sets the file of the authorities, in PEM, of which one must have signed the certificates
    /// of the servers; those that this system trusts unless set.
    #[must_use]
    pub fn with_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.ca_file = Some(path.into());
        self
    }

    /// Sets the files, in PEM, of the certificate that servers are shown and of its key; none
    /// unless set.
    #[must_use]
    pub fn with_client_certificate(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        (self.tls.cert_file, self.tls.key_file) = (Some(cert.into()), Some(key.into()));
        self
    }

    /// Sets the name that the certificates of the servers must be for; the host of each unless
    /// set.
    #[must_use]
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.tls.server_name = Some(name.into());
        self
    }

    /// The servers, as `host:port`.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The first segment of every key in etcd.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The time to live of what is registered.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How long connecting may take.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// How long one call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How watches distrust what they are told.
    #[must_use]
    pub fn view(&self) -> ViewConfig {
        self.view
    }

    /// Checks what the setters were given.
    ///
    /// # Errors
    /// `InvalidConfig` naming the value that is outside its limits.
    pub fn validate(&self) -> Result<(), DiscoveryError> {
        limit::ttl(self.ttl)?;
        Keys::check_root(&self.root)?;
        check_wait("connect_timeout", self.connect_timeout)?;
        check_wait("timeout", self.timeout)?;
        self.tls.validate(self.encrypted)?;
        self.credentials.as_ref().map_or(Ok(()), Credentials::validate)?;
        self.view.validate()
    }

    /// The user that servers are asked as.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.credentials.as_ref().map(Credentials::user)
    }

    pub(crate) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// How connections are encrypted; nothing if they are not.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.encrypted.then_some(&self.tls)
    }

    /// The scheme of the URL that this would be.
    fn scheme(&self) -> &'static str {
        if self.encrypted { "etcds" } else { "etcd" }
    }

    /// Where this leads to, for messages.
    pub(crate) fn source(&self) -> String {
        format!("{}://{}", self.scheme(), self.endpoints.join(","))
    }
}

fn check_wait(name: &str, wait: Duration) -> Result<(), DiscoveryError> {
    const LIMITS: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(300);
    if LIMITS.contains(&wait) {
        return Ok(());
    }
    refuse(format!("{name} {wait:?} is outside its limits of 10ms to 5min"))
}

/// Checks everything around the hosts; never repeats the user part or the path, which may hold
/// a secret.
fn check_parts(url: &SystemUrl) -> Result<(), DiscoveryError> {
    if !matches!(url.scheme(), "etcd" | "etcds") {
        let other = url.scheme();
        return refuse(format!(
            "{other}:// is not a URL of etcd: use etcd:// or etcds://"
        ));
    }
    if !matches!(url.path(), "" | "/") {
        return refuse("etcd:// takes no path: choose the first segment of all keys with ?root=");
    }
    Ok(())
}

fn endpoints(hosts: &str) -> Result<Vec<String>, DiscoveryError> {
    let endpoints: Vec<_> = hosts.split(',').map(endpoint).collect::<Result<_, _>>()?;
    if endpoints.len() > MOST_ENDPOINTS {
        return refuse(format!("etcd:// takes {MOST_ENDPOINTS} hosts at most"));
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        if endpoints[..at].contains(endpoint) {
            return refuse(format!("{endpoint} is named twice"));
        }
    }
    Ok(endpoints)
}

fn endpoint(text: &str) -> Result<String, DiscoveryError> {
    let (host, port) = match text.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    if host.is_empty() {
        return refuse("etcd:// needs a host, such as etcd://127.0.0.1:2379");
    }
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let valid = match literal {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    };
    if !valid {
        return refuse(format!("{host:?} is not a host name or address"));
    }
    match port.map(str::parse::<u16>) {
        None => Ok(format!("{host}:{DEFAULT_PORT}")),
        Some(Ok(port)) if port != 0 => Ok(format!("{host}:{port}")),
        Some(_) => refuse(format!("the port in {text:?} is not a number from 1 to 65535")),
    }
}

fn refuse<T>(context: impl Into<String>) -> Result<T, DiscoveryError> {
    Err(DiscoveryError::invalid_config(context))
}

#[cfg(test)]
mod tests {
    use discovery_core::ErrorKind;

    use super::*;

    fn from_url(text: &str) -> Result<EtcdConfig, DiscoveryError> {
        EtcdConfig::from_url(text.parse()?)
    }

    #[test]
    fn a_host_is_enough() {
        let config = from_url("etcd://localhost").unwrap();
        assert_eq!(config.endpoints(), ["localhost:2379"]);
        assert_eq!(config.source(), "etcd://localhost:2379");
        assert_eq!(config.cluster().as_str(), "default");
        assert_eq!(config.root(), "discovery");
        assert_eq!(config.ttl(), Duration::from_secs(10));
        assert_eq!(config.connect_timeout(), Duration::from_secs(5));
        assert_eq!(config.timeout(), Duration::from_secs(2));
        assert_eq!(config.view(), ViewConfig::default());
    }

    #[test]
    fn every_option_is_read() {
        let config = from_url(
            "ETCD://a,[::1]:2381,10.0.0.1:80/?cluster=a%252Fb&root=lab&ttl=3s&connect_timeout=1m&timeout=50ms\
             &hold_mass_removals=off&check_every=7s",
        )
        .unwrap();
        assert_eq!(config.endpoints(), ["a:2379", "[::1]:2381", "10.0.0.1:80"]);
        assert_eq!(config.cluster().as_str(), "a%2Fb");
        assert_eq!(config.root(), "lab");
        assert_eq!(config.ttl(), Duration::from_secs(3));
        assert_eq!(config.connect_timeout(), Duration::from_secs(60));
        assert_eq!(config.timeout(), Duration::from_millis(50));
        assert!(!config.view().hold_mass_removals);
        assert_eq!(config.view().check_every, Duration::from_secs(7));
    }

    #[test]
    fn what_cannot_work_is_named() {
        for (text, named) in [
            ("http://h", "http"),
            ("etcd://", "host"),
            ("etcd://a,,b", "host"),
            ("etcd://a,a:2379", "twice"),
            ("etcd://:80", "host"),
            ("etcd://h:0", "port"),
            ("etcd://h:99999", "port"),
            ("etcd://h:", "port"),
            ("etcd://[::g]:80", "host name"),
            ("etcd://a b", "host name"),
            ("etcd://h/prefix", "root"),
            ("etcd://h?root=a/b", "root"),
            ("etcd://h?root=x.fence", "root"),
            ("etcd://h?ttl=500ms", "ttl"),
            ("etcd://h?timeout=0s", "timeout"),
            ("etcd://h?connect_timeout=1h", "connect_timeout"),
            ("etcd://h?check_every=1ms", "check_every"),
            ("etcd://h?colour=red", "colour"),
            ("etcd://h?cluster=a/b", "cluster"),
            ("etcd://h?ca_file=ca.pem", "etcds"),
            ("etcd://h?server_name=h", "etcds"),
            ("etcds://h?cert_file=c.pem", "key_file"),
            ("etcds://h?key_file=k.pem", "cert_file"),
            ("etcds://h?server_name=a%20b", "server_name"),
            ("etcd://me@h", "password"),
        ] {
            let error = from_url(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{text}");
            assert!(error.to_string().contains(named), "{text}: {error}");
        }
        let many: Vec<_> = (0..17).map(|number| format!("h{number}")).collect();
        let error = from_url(&format!("etcd://{}", many.join(","))).unwrap_err();
        assert!(error.to_string().contains("16"), "{error}");
    }

    #[test]
    fn a_password_is_taken_and_never_shown() {
        let config = EtcdConfig::try_new("etcd://me:hunter2@h:80").unwrap();
        assert_eq!(config.user(), Some("me"));
        assert!(!format!("{config:?} {}", config.source()).contains("hunter2"));
        let error = EtcdConfig::try_new("etcd://me:hunter2@h:x").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }

    #[test]
    fn a_url_says_the_same_as_the_setters() {
        let url = "etcds://h?user=me&password_env=PW&ca_file=ca&cert_file=c&key_file=k&server_name=n";
        let config = EtcdConfig::try_new("etcd://h")
            .unwrap()
            .with_tls()
            .with_user("me", Password::Env("PW".to_owned()))
            .with_ca_file("ca")
            .with_client_certificate("c", "k")
            .with_server_name("n");
        config.validate().unwrap();
        assert_eq!(from_url(url).unwrap(), config);
        assert_eq!(config.source(), "etcds://h:2379");
    }

    #[test]
    fn setters_are_checked_as_the_options_are() {
        let config = EtcdConfig::try_new("etcd://h").unwrap();
        assert!(config.validate().is_ok());
        assert!(config.clone().with_ttl(Duration::ZERO).validate().is_err());
        assert!(config.clone().with_root("").validate().is_err());
        let view = ViewConfig {
            check_every: Duration::ZERO,
            ..ViewConfig::default()
        };
        assert!(config.clone().with_view(view).validate().is_err());
        assert!(config.with_timeout(Duration::ZERO).validate().is_err());
    }
}
