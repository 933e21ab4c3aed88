//! Who asks, and how the servers come to believe it.

use std::{
    env, fmt,
    net::IpAddr,
    path::PathBuf,
    sync::{Mutex, Once, PoisonError},
    time::Duration,
};

use discovery_core::{DiscoveryError, ErrorKind, Secret, SystemUrl};
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use crate::{error::Fault, file};

/// The longest password.
const PASSWORD_BYTES: usize = 4_096;
/// For how long a password that the servers refused is not shown to them again: each try costs
/// them the work that makes guessing slow.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// Where a password comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Password {
    /// It is this one.
    Given(Secret),
    /// It is what stands in a file, without the end of its last line. Read at every login, so
    /// that a new password takes effect where it is written.
    File(PathBuf),
    /// It is the value of an environment variable.
    Env(String),
}

impl From<Secret> for Password {
    fn from(secret: Secret) -> Self {
        Self::Given(secret)
    }
}

impl Password {
    /// The password now.
    async fn read(&self) -> Result<Secret, DiscoveryError> {
        match self {
            Self::Given(secret) => Ok(secret.clone()),
            Self::Env(name) => checked(env::var(name).ok(), &format!("password_env: the variable {name}")),
            Self::File(path) => {
                let path = path.clone();
                file::off_the_runtime(move || {
                    let text = String::from_utf8(file::read("password_file", &path)?).ok();
                    checked(text.map(without_line_end), &file::named("password_file", &path))
                })
                .await
            }
        }
    }
}

fn checked(text: Option<String>, named: &str) -> Result<Secret, DiscoveryError> {
    let refuse = |what: &str| Err(DiscoveryError::invalid_config(format!("{named} {what}")));
    match text {
        None => refuse("is not there, or is no UTF-8"),
        Some(text) if text.is_empty() => refuse("is empty"),
        Some(text) if text.len() > PASSWORD_BYTES => refuse("is longer than any password"),
        Some(text) => Ok(Secret::new(text)),
    }
}

/// Editors end the last line, too.
fn without_line_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

/// A user of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    user: String,
    password: Password,
}

impl Credentials {
    pub(crate) fn new(user: String, password: Password) -> Self {
        Self { user, password }
    }

    /// Takes the user out of a URL, with where the password comes from.
    pub(crate) fn from_url(url: &mut SystemUrl) -> Result<Option<Self>, DiscoveryError> {
        let (in_url, secret) = user_part(url)?.map_or((None, None), |(user, secret)| (Some(user), secret));
        let user = one_of([("the user part", in_url), ("user", url.take("user"))])?;
        let password = one_of([
            ("the user part", secret.map(Password::Given)),
            (
                "password_file",
                url.take("password_file").map(|path| Password::File(path.into())),
            ),
            ("password_env", url.take("password_env").map(Password::Env)),
        ])?;
        match (user, password) {
            (None, None) => Ok(None),
            (Some(user), Some(password)) => Ok(Some(Self { user, password })),
            (Some(_), None) => refuse("a user needs a password: give password_file= or password_env="),
            (None, Some(_)) => refuse("a password needs a user: give user="),
        }
    }

    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    pub(crate) fn validate(&self) -> Result<(), DiscoveryError> {
        if self.user.is_empty() {
            return refuse("user is empty");
        }
        match &self.password {
            Password::Given(secret) => checked(Some(secret.expose().to_owned()), "password").map(drop),
            Password::File(path) if path.as_os_str().is_empty() => refuse("password_file is empty"),
            // What else no variable can be called.
            Password::Env(name) if name.is_empty() || name.contains(['=', '\0']) => {
                refuse("password_env is not the name of a variable")
            }
            Password::File(_) | Password::Env(_) => Ok(()),
        }
    }
}

/// The user in front of the hosts, decoded, with the password if that stands there, too.
fn user_part(url: &SystemUrl) -> Result<Option<(String, Option<Secret>)>, DiscoveryError> {
    let Some(part) = url.user() else { return Ok(None) };
    let (user, password) = match part.expose().split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (part.expose(), None),
    };
    // The cause would repeat some of it.
    let decode = |text: &str| match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => refuse("the user part is not UTF-8"),
    };
    let password = password.map(decode).transpose()?.map(Secret::new);
    Ok(Some((decode(user)?, password)))
}

/// The one that is given; more than one is a mistake.
fn one_of<T, const N: usize>(given: [(&str, Option<T>); N]) -> Result<Option<T>, DiscoveryError> {
    let mut found: Option<(&str, T)> = None;
    for (name, value) in given {
        match (&found, value) {
            (Some((first, _)), Some(_)) => return refuse(format!("{first} and {name} say the same twice")),
            (None, Some(value)) => found = Some((name, value)),
            (_, None) => {}
        }
    }
    Ok(found.map(|(_, value)| value))
}

fn refuse<T>(context: impl Into<String>) -> Result<T, DiscoveryError> {
    Err(DiscoveryError::invalid_config(context))
}

/// Shows the servers who asks.
pub(crate) struct Login {
    credentials: Credentials,
    refused: Mutex<Option<Refused>>,
}

/// A password that the servers refused.
struct Refused {
    password: Secret,
    at: Instant,
    error: DiscoveryError,
}

impl Login {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            refused: Mutex::default(),
        }
    }

    /// The user and the password as they are now, unless the servers have just refused them.
    pub(crate) async fn read(&self) -> Result<(&str, Secret), Fault> {
        let password = self.credentials.password.read().await;
        let password = password.map_err(Fault::own)?;
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match &*refused {
            Some(refused) if refused.password == password && refused.at.elapsed() < REFUSED_FOR => {
                Err(Fault::own(refused.error.clone()))
            }
            _ => Ok((self.credentials.user(), password)),
        }
    }

    /// Remembers what was refused.
    pub(crate) fn failed(&self, password: Secret, error: &DiscoveryError) {
        if error.kind() != ErrorKind::PermissionDenied {
            return;
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = Some(Refused {
            password,
            at: Instant::now(),
            error: error.clone(),
        });
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.credentials.fmt(f)
    }
}

/// Says once that a password goes over a network for everybody to read.
pub(crate) fn warn_of_plaintext(endpoints: &[String]) {
    static SAID: Once = Once::new();
    if let Some(host) = endpoints.iter().find(|endpoint| !is_loopback(endpoint)) {
        SAID.call_once(|| {
            tracing::warn!(%host, "the password and all records go there unencrypted: use etcds://");
        });
    }
}

fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    match literal.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn from_url(text: &str) -> Result<Option<Credentials>, DiscoveryError> {
        let mut url: SystemUrl = text.parse()?;
        let credentials = Credentials::from_url(&mut url)?;
        url.finish()?;
        credentials.as_ref().map_or(Ok(()), Credentials::validate)?;
        Ok(credentials)
    }

    fn given(user: &str, password: Password) -> Credentials {
        Credentials::new(user.to_owned(), password)
    }

    #[test]
    fn a_user_may_be_named_in_several_ways() {
        assert_eq!(from_url("etcd://h").unwrap(), None);
        let secret = || Password::Given(Secret::new("p@s:s"));
        let file = || Password::File("/run/secret".into());
        for (text, expected) in [
            ("etcd://m%65:p%40s:s@h", given("me", secret())),
            ("etcd://me@h?password_file=/run/secret", given("me", file())),
            (
                "etcd://h?user=m:e&password_file=/run/secret",
                given("m:e", file()),
            ),
            (
                "etcd://h?user=me&password_env=PW",
                given("me", Password::Env("PW".to_owned())),
            ),
        ] {
            assert_eq!(from_url(text).unwrap().unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_missing_or_said_twice_is_named_without_the_secret() {
        for (text, named) in [
            ("etcd://me@h", "password_file"),
            ("etcd://h?user=me", "password_env"),
            ("etcd://h?password_env=PW", "user="),
            ("etcd://me:hunter2@h?user=me", "user"),
            ("etcd://me:hunter2@h?password_env=PW", "password_env"),
            (
                "etcd://me@h?password_file=a&password_env=b",
                "password_file and password_env",
            ),
            ("etcd://:hunter2@h", "user is empty"),
            ("etcd://me:@h", "password is empty"),
            ("etcd://me:hunter2%ff@h", "UTF-8"),
            ("etcd://me@h?password_env=a%3Db", "password_env"),
        ] {
            let error = from_url(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{text}");
            assert!(error.to_string().contains(named), "{text}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_password_file_is_read_without_the_end_of_its_line() {
        let path = env::temp_dir().join(format!("discovery-password-{}", std::process::id()));
        let password = Password::File(path.clone());
        for (text, expected) in [("a b", "a b"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n")] {
            fs::write(&path, text).unwrap();
            assert_eq!(password.read().await.unwrap().expose(), expected);
        }
        let long = "hunter2".repeat(1_000);
        for bad in [&b""[..], b"\n", b"hunter2\xff", long.as_bytes()] {
            fs::write(&path, bad).unwrap();
            let error = password.read().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            let told = format!("{error} {error:?}");
            assert!(
                told.contains("password_file") && told.contains(path.to_str().unwrap()),
                "{told}"
            );
            assert!(!told.contains("hunter2"), "{told}");
        }
        fs::remove_file(&path).unwrap();
        let error = password.read().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }

    #[tokio::test]
    async fn a_password_may_stand_in_a_variable() {
        let path = Password::Env("PATH".to_owned()).read().await.unwrap();
        assert_eq!(path.expose(), env::var("PATH").unwrap());
        let missing = Password::Env("NO_SUCH_VARIABLE_HERE".to_owned()).read().await;
        assert!(missing.unwrap_err().to_string().contains("NO_SUCH_VARIABLE_HERE"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_password_is_not_shown_again_at_once() {
        let login = |password: &str| Credentials::new("me".to_owned(), Secret::new(password).into());
        let login = Login::new(login("hunter2"));
        let unavailable = DiscoveryError::new(ErrorKind::Unavailable, "down");
        login.failed(Secret::new("hunter2"), &unavailable);
        assert!(login.read().await.is_ok(), "nobody has refused it");
        let denied = DiscoveryError::new(ErrorKind::PermissionDenied, "no");
        login.failed(Secret::new("other"), &denied);
        assert!(login.read().await.is_ok(), "another one was refused");
        login.failed(Secret::new("hunter2"), &denied);
        let fault = login.read().await.unwrap_err();
        assert_eq!(fault.error.kind(), ErrorKind::PermissionDenied);
        tokio::time::advance(REFUSED_FOR).await;
        assert!(login.read().await.is_ok(), "it may have become right");
        assert!(!format!("{login:?}").contains("hunter2"));
    }

    #[test]
    fn only_this_machine_is_told_a_password_without_a_warning() {
        for (endpoint, loopback) in [
            ("127.0.0.1:2379", true),
            ("127.1.2.3:2379", true),
            ("[::1]:2379", true),
            ("localhost:2379", true),
            ("10.0.0.1:2379", false),
            ("[fe80::1]:2379", false),
            ("etcd:2379", false),
        ] {
            assert_eq!(is_loopback(endpoint), loopback, "{endpoint}");
        }
    }
}
