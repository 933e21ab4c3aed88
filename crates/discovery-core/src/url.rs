//! System URLs: which backend, where it is, and its options.

use std::{fmt, str::FromStr, time::Duration};

use percent_encoding::percent_decode_str;

use crate::{Cluster, DiscoveryError, ErrorKind, Secret, id::quoted, limit};

/// A parsed system URL: `scheme://[user@]host[,host…][/path][?option=value&…]`.
///
/// Backends take the options they know out of it one by one; [`finish`](Self::finish) then
/// refuses whatever is left, so that no option is silently ignored.
///
/// ```
/// use discovery_core::SystemUrl;
///
/// let mut url: SystemUrl = "http://127.0.0.1:7400?cluster=demo&ttl=3s".parse()?;
/// assert_eq!((url.scheme(), url.hosts()), ("http", "127.0.0.1:7400"));
/// assert_eq!(url.take_cluster()?.as_str(), "demo");
/// assert_eq!(url.take_ttl()?.unwrap().as_secs(), 3);
/// url.finish()?;
/// # Ok::<(), discovery_core::DiscoveryError>(())
/// ```
#[derive(Clone)]
pub struct SystemUrl {
    scheme: String,
    user: Option<Secret>,
    hosts: String,
    path: String,
    options: Vec<(String, String)>,
    asked: Vec<&'static str>,
}

impl SystemUrl {
    /// What stands before `://`, in lower case.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The user part, which may hold a password.
    #[must_use]
    pub fn user(&self) -> Option<&Secret> {
        self.user.as_ref()
    }

    /// Hosts with their ports, as written; empty if there are none.
    #[must_use]
    pub fn hosts(&self) -> &str {
        &self.hosts
    }

    /// The path with its leading slash; empty if there is none.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Takes an option out, decoded.
    pub fn take(&mut self, name: &'static str) -> Option<String> {
        self.asked.push(name);
        let index = self.options.iter().position(|(key, _)| key == name)?;
        Some(self.options.remove(index).1)
    }

    /// Takes the option `cluster` out.
    ///
    /// # Errors
    /// `InvalidConfig` naming the option and its limits.
    pub fn take_cluster(&mut self) -> Result<Cluster, DiscoveryError> {
        self.take("cluster")
            .map_or_else(|| Ok(Cluster::default()), Cluster::try_new)
            .map_err(into_config)
    }

    /// Takes the option `ttl` out, checked against the limits.
    ///
    /// # Errors
    /// `InvalidConfig` naming the option and its limits.
    pub fn take_ttl(&mut self) -> Result<Option<Duration>, DiscoveryError> {
        self.take_duration("ttl")?.map(limit::ttl).transpose()
    }

    /// Takes an option that is a duration with its unit, such as `1500ms` or `10s`.
    ///
    /// # Errors
    /// `InvalidConfig` naming the option.
    pub fn take_duration(&mut self, name: &'static str) -> Result<Option<Duration>, DiscoveryError> {
        let parse = |text: String| {
            humantime::parse_duration(&text).map_err(|cause| {
                let context = format!("option `{name}`: {} is not a duration such as 10s", quoted(&text));
                DiscoveryError::invalid_config(context).with_source(cause)
            })
        };
        self.take(name).map(parse).transpose()
    }

    /// Refuses options that nobody took.
    ///
    /// # Errors
    /// `InvalidConfig` naming the first option left and those that exist.
    pub fn finish(self) -> Result<(), DiscoveryError> {
        let Some((name, _)) = self.options.first() else {
            return Ok(());
        };
        let context = format!(
            "{}:// has no option {}{}; its options are: {}",
            self.scheme,
            quoted(name),
            if self.asked.contains(&name.as_str()) {
                " twice"
            } else {
                ""
            },
            self.asked.join(", "),
        );
        Err(DiscoveryError::invalid_config(context))
    }
}

/// A limit that was broken in a configuration is a matter of configuration.
fn into_config(error: DiscoveryError) -> DiscoveryError {
    match error.kind() {
        ErrorKind::InvalidArgument => DiscoveryError::invalid_config(error.context()),
        _ => error,
    }
}

impl FromStr for SystemUrl {
    type Err = DiscoveryError;

    fn from_str(text: &str) -> Result<Self, DiscoveryError> {
        // The text may hold a password: no message repeats more of it than the scheme.
        let (scheme, rest) = text
            .split_once("://")
            .filter(|(scheme, _)| is_scheme(scheme))
            .ok_or_else(|| {
                DiscoveryError::invalid_config(
                    "not a system URL: expected something like http://127.0.0.1:7400",
                )
            })?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(Secret::new(user)), hosts),
            None => (None, authority),
        };
        if query.contains('#') || path.contains('#') || hosts.contains('#') {
            return Err(DiscoveryError::invalid_config(format!(
                "{scheme}:// takes no fragment (`#…`)"
            )));
        }
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            user,
            hosts: hosts.to_owned(),
            path: path.to_owned(),
            options: options(query)?,
            asked: Vec::new(),
        })
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn options(query: &str) -> Result<Vec<(String, String)>, DiscoveryError> {
    let decode = |text: &str| {
        let decoded = percent_decode_str(text)
            .decode_utf8()
            .map(|text| text.into_owned());
        decoded.map_err(|cause| DiscoveryError::invalid_config("an option is not UTF-8").with_source(cause))
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if value.is_empty() {
                let context = format!("option {} has no value", quoted(&name));
                return Err(DiscoveryError::invalid_config(context));
            }
            Ok((name, value))
        })
        .collect()
}

impl fmt::Debug for SystemUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Options may hold secrets that only their backend knows as such.
        write!(f, "SystemUrl({}://{}{})", self.scheme, self.hosts, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> SystemUrl {
        text.parse().unwrap()
    }

    #[test]
    fn parts_are_told_apart() {
        let url = parse("etcd://me:p%40ss@a:1,b:2/pre/fix?x=1%262");
        assert_eq!(
            (url.scheme(), url.hosts(), url.path()),
            ("etcd", "a:1,b:2", "/pre/fix")
        );
        assert_eq!(url.user().unwrap().expose(), "me:p%40ss");
        assert_eq!(url.clone().take("x").unwrap(), "1&2");
        assert!(!format!("{url:?}").contains("p%40ss"));
    }

    #[test]
    fn an_option_that_nobody_takes_is_named_with_those_that_exist() {
        let mut url = parse("http://h?colour=red");
        url.take_cluster().unwrap();
        let error = url.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(
            error.to_string().contains("colour") && error.to_string().contains("cluster"),
            "{error}"
        );
    }

    #[test]
    fn an_option_given_twice_is_refused() {
        let mut url = parse("http://h?cluster=a&cluster=b");
        url.take_cluster().unwrap();
        assert!(url.finish().unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn values_outside_their_limits_are_configuration_errors() {
        for text in [
            "http://h?ttl=0s",
            "http://h?ttl=2h",
            "http://h?ttl=10",
            "http://h?ttl=soon",
        ] {
            let error = parse(text).take_ttl().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains("ttl"), "{error}");
        }
        assert!(
            parse("http://h?cluster=a/b")
                .take_cluster()
                .unwrap_err()
                .to_string()
                .contains("cluster")
        );
    }

    #[test]
    fn text_that_is_no_url_is_refused_without_being_repeated() {
        for text in [
            "",
            "hunter2",
            "://hunter2",
            "1x://hunter2",
            "http//hunter2",
            "http://h?hunter2#x",
            "http://h?=",
        ] {
            let error = text.parse::<SystemUrl>().unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
