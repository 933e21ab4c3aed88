//! Where the service is, and how long to wait for it.

use std::{net::Ipv6Addr, time::Duration};

use discovery_core::{Cluster, DiscoveryError, SystemUrl, limit};
use discovery_records::view::ViewConfig;

use crate::wire;

/// The time to live asked for unless told otherwise.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(10);

/// Configuration of an [`HttpSystem`](crate::HttpSystem).
///
/// ```
/// use discovery_http::HttpConfig;
///
/// let config = HttpConfig::from_url("http://127.0.0.1:7400?cluster=demo&ttl=3s".parse()?)?;
/// assert_eq!(config.base_url(), "http://127.0.0.1:7400");
/// assert_eq!(config.ttl().as_secs(), 3);
/// # Ok::<(), discovery_core::DiscoveryError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    base_url: String,
    cluster: Cluster,
    ttl: Duration,
    connect_timeout: Duration,
    timeout: Duration,
    keep_alive: Duration,
    view: ViewConfig,
}

impl HttpConfig {
    /// The service at `http://host[:port]`, everything else by default.
    ///
    /// # Errors
    /// `InvalidConfig` for anything but `http://host[:port]`.
    pub fn try_new(base_url: &str) -> Result<Self, DiscoveryError> {
        let url: SystemUrl = base_url.parse()?;
        Self::at(&url).and_then(|config| url.finish().map(|()| config))
    }

    /// Reads `http://host[:port]` with the options `cluster`, `ttl`, `connect_timeout`, `timeout`,
    /// `keep_alive` and those of [`ViewConfig::from_url`].
    ///
    /// # Errors
    /// `InvalidConfig` naming the part or option that cannot work.
    pub fn from_url(mut url: SystemUrl) -> Result<Self, DiscoveryError> {
        let mut config = Self::at(&url)?.with_cluster(url.take_cluster()?);
        config.ttl = url.take_ttl()?.unwrap_or(config.ttl);
        let connect_timeout = url.take_duration("connect_timeout")?;
        config.connect_timeout = connect_timeout.unwrap_or(config.connect_timeout);
        config.timeout = url.take_duration("timeout")?.unwrap_or(config.timeout);
        config.keep_alive = url.take_duration("keep_alive")?.unwrap_or(config.keep_alive);
        config.view = ViewConfig::from_url(&mut url)?;
        url.finish()?;
        config.validate()?;
        Ok(config)
    }

    fn at(url: &SystemUrl) -> Result<Self, DiscoveryError> {
        check_parts(url)?;
        check_host(url.hosts())?;
        Ok(Self {
            base_url: format!("http://{}", url.hosts()),
            cluster: Cluster::default(),
            ttl: DEFAULT_TTL,
            connect_timeout: limit::CONNECT_DEADLINE,
            timeout: limit::CALL_DEADLINE,
            keep_alive: wire::DEFAULT_KEEP_ALIVE,
            view: ViewConfig::default(),
        })
    }

    /// Sets the cluster; `default` unless set.
    #[must_use]
    pub fn with_cluster(mut self, cluster: Cluster) -> Self {
        self.cluster = cluster;
        self
    }

    /// Sets the time to live of what is registered: 1 s to 1 h, 10 s unless set.
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

    /// Sets how long one call may take, everything included; 2 s unless set.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how often a watch is to be heard of at least: 1 s to 60 s, 5 s unless set. One that
    /// is silent for twice as long has ended.
    #[must_use]
    pub fn with_keep_alive(mut self, keep_alive: Duration) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// Sets how watches distrust what they are told.
    #[must_use]
    pub fn with_view(mut self, view: ViewConfig) -> Self {
        self.view = view;
        self
    }

    /// Scheme, host and port, without a trailing slash.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
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

    /// How often a watch is heard of at least.
    #[must_use]
    pub fn keep_alive(&self) -> Duration {
        self.keep_alive
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
        check_wait("connect_timeout", self.connect_timeout)?;
        check_wait("timeout", self.timeout)?;
        if !wire::KEEP_ALIVE.contains(&self.keep_alive) {
            return refuse(format!(
                "keep_alive {:?} is outside its limits of 1s to 1min",
                self.keep_alive
            ));
        }
        self.view.validate()
    }

    /// Host and port, for messages.
    pub(crate) fn host(&self) -> &str {
        self.base_url.trim_start_matches("http://")
    }
}

fn check_wait(name: &str, wait: Duration) -> Result<(), DiscoveryError> {
    const LIMITS: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(300);
    if LIMITS.contains(&wait) {
        return Ok(());
    }
    refuse(format!("{name} {wait:?} is outside its limits of 10ms to 5min"))
}

/// Checks everything around the host; never repeats the user part or the path, which may hold
/// a secret.
fn check_parts(url: &SystemUrl) -> Result<(), DiscoveryError> {
    match url.scheme() {
        "http" => {}
        "https" => {
            return refuse("https:// is not supported yet: use http:// on a network that you trust");
        }
        other => {
            return refuse(format!(
                "{other}:// is not a URL of the HTTP service: use http://"
            ));
        }
    }
    if url.user().is_some() {
        return refuse("http:// takes no user or password: the service does not ask for any yet");
    }
    if !matches!(url.path(), "" | "/") {
        return refuse("http:// takes no path: give host and port only, such as http://127.0.0.1:7400");
    }
    Ok(())
}

fn check_host(hosts: &str) -> Result<(), DiscoveryError> {
    let (host, port) = split_port(hosts);
    if host.is_empty() {
        return refuse("http:// needs a host, such as http://127.0.0.1:7400");
    }
    if hosts.contains(',') {
        return refuse("http:// takes one host, not several");
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
        None => Ok(()),
        Some(Ok(port)) if port != 0 => Ok(()),
        Some(_) => refuse(format!("the port in {hosts:?} is not a number from 1 to 65535")),
    }
}

/// Host, and what follows its last colon; the colons of an IPv6 address stand in brackets.
fn split_port(hosts: &str) -> (&str, Option<&str>) {
    match hosts.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (hosts, None),
    }
}

fn refuse<T>(context: impl Into<String>) -> Result<T, DiscoveryError> {
    Err(DiscoveryError::invalid_config(context))
}

#[cfg(test)]
mod tests {
    use discovery_core::ErrorKind;

    use super::*;

    fn from_url(text: &str) -> Result<HttpConfig, DiscoveryError> {
        HttpConfig::from_url(text.parse()?)
    }

    #[test]
    fn a_host_is_enough() {
        let config = from_url("http://localhost").unwrap();
        assert_eq!(
            (config.base_url(), config.host()),
            ("http://localhost", "localhost")
        );
        assert_eq!(config.cluster().as_str(), "default");
        assert_eq!(config.ttl(), Duration::from_secs(10));
        assert_eq!(config.connect_timeout(), Duration::from_secs(5));
        assert_eq!(config.timeout(), Duration::from_secs(2));
        assert_eq!(config.keep_alive(), Duration::from_secs(5));
        assert_eq!(config.view(), ViewConfig::default());
    }

    #[test]
    fn every_option_is_read() {
        let config = from_url(
            "HTTP://[::1]:7400/?cluster=a%252Fb&ttl=1s&connect_timeout=1m&timeout=50ms&keep_alive=2s\
             &hold_mass_removals=off&check_every=7s",
        )
        .unwrap();
        assert_eq!(config.base_url(), "http://[::1]:7400");
        assert_eq!(config.cluster().as_str(), "a%2Fb");
        assert_eq!(config.ttl(), Duration::from_secs(1));
        assert_eq!(config.connect_timeout(), Duration::from_secs(60));
        assert_eq!(config.timeout(), Duration::from_millis(50));
        assert_eq!(config.keep_alive(), Duration::from_secs(2));
        assert!(!config.view().hold_mass_removals);
        assert_eq!(config.view().check_every, Duration::from_secs(7));
    }

    #[test]
    fn what_cannot_work_is_named() {
        for (text, named) in [
            ("https://h", "https"),
            ("ftp://h", "ftp"),
            ("http://", "host"),
            ("http://:80", "host"),
            ("http://h:0", "port"),
            ("http://h:99999", "port"),
            ("http://h:", "port"),
            ("http://h:x", "port"),
            ("http://a:1,b:2", "one host"),
            ("http://::1:80", "host name"),
            ("http://[::g]:80", "host name"),
            ("http://a b", "host name"),
            ("http://h/v1", "path"),
            ("http://h?ttl=500ms", "ttl"),
            ("http://h?timeout=0s", "timeout"),
            ("http://h?connect_timeout=1h", "connect_timeout"),
            ("http://h?keep_alive=500ms", "keep_alive"),
            ("http://h?keep_alive=61s", "keep_alive"),
            ("http://h?check_every=1ms", "check_every"),
            ("http://h?colour=red", "colour"),
            ("http://h?cluster=a/b", "cluster"),
        ] {
            let error = from_url(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{text}");
            assert!(error.to_string().contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_is_refused_without_being_repeated() {
        let error = HttpConfig::try_new("http://me:hunter2@h:80").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }

    #[test]
    fn setters_are_checked_as_the_options_are() {
        let config = HttpConfig::try_new("http://h").unwrap();
        assert!(config.validate().is_ok());
        assert!(config.clone().with_ttl(Duration::ZERO).validate().is_err());
        assert!(config.clone().with_keep_alive(Duration::ZERO).validate().is_err());
        let view = ViewConfig {
            check_every: Duration::ZERO,
            ..ViewConfig::default()
        };
        assert!(config.clone().with_view(view).validate().is_err());
        assert!(config.with_timeout(Duration::ZERO).validate().is_err());
    }
}
