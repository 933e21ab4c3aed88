//! Which servers are believed, and what they are shown.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use discovery_core::{DiscoveryError, SystemUrl};
use etcd_client::{Identity, TlsOptions};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use crate::file;

/// How connections are encrypted; the files are read for every connection, so that new ones
/// take effect where they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) cert_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) server_name: Option<String>,
}

impl Tls {
    pub(crate) fn from_url(url: &mut SystemUrl) -> Self {
        let mut path = |name| url.take(name).map(PathBuf::from);
        Self {
            ca_file: path("ca_file"),
            cert_file: path("cert_file"),
            key_file: path("key_file"),
            server_name: url.take("server_name"),
        }
    }

    /// Checks it for connections that are encrypted, or not.
    pub(crate) fn validate(&self, encrypted: bool) -> Result<(), DiscoveryError> {
        let (cert, key) = (&self.cert_file, &self.key_file);
        let options = [
            ("ca_file", self.ca_file.is_some()),
            ("cert_file", cert.is_some()),
            ("key_file", key.is_some()),
            ("server_name", self.server_name.is_some()),
        ];
        if let Some((name, _)) = options.iter().find(|(_, given)| *given && !encrypted) {
            return refuse(format!("{name} is for TLS: use etcds://"));
        }
        if cert.is_some() != key.is_some() {
            return refuse("cert_file and key_file go together");
        }
        let name = self.server_name.as_deref().map(ServerName::try_from);
        match name {
            Some(Err(_)) => refuse("server_name is not a host name or address"),
            _ => Ok(()),
        }
    }

    /// Reads the files.
    pub(crate) async fn load(&self) -> Result<TlsOptions, DiscoveryError> {
        let tls = self.clone();
        file::off_the_runtime(move || tls.load_now()).await
    }

    /// The same for a look at a server beside all connections, with the name that it must show.
    pub(crate) async fn look(&self, host: &str) -> Option<(ClientConfig, ServerName<'static>)> {
        let (tls, name) = (self.clone(), self.name_of(host));
        let look = file::off_the_runtime(move || tls.look_now());
        look.await.ok().zip(name)
    }

    fn look_now(&self) -> Result<ClientConfig, DiscoveryError> {
        let cannot = |cause| DiscoveryError::invalid_config("no TLS from these files").with_source(cause);
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(cannot)?
            .with_root_certificates(self.roots()?);
        let mut config = match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => {
                let shown = certificates("cert_file", cert, &file::read("cert_file", cert)?)?;
                let key = private_key(key, &file::read("key_file", key)?)?;
                config.with_client_auth_cert(shown, key).map_err(cannot)?
            }
            _ => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    fn name_of(&self, endpoint: &str) -> Option<ServerName<'static>> {
        let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = self.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).ok()
    }

    fn load_now(&self) -> Result<TlsOptions, DiscoveryError> {
        let mut options = TlsOptions::new().trust_anchors(self.roots()?.roots);
        if let Some(name) = &self.server_name {
            options = options.domain_name(name);
        }
        if let (Some(cert), Some(key)) = (&self.cert_file, &self.key_file) {
            options = options.identity(identity(cert, key)?);
        }
        Ok(options)
    }

    /// The authorities in the file, or those that this system trusts.
    fn roots(&self) -> Result<RootCertStore, DiscoveryError> {
        let mut roots = RootCertStore::empty();
        let Some(path) = &self.ca_file else {
            // What cannot be read of them may not be needed; who is missing is told by the refusal.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return refuse("this system trusts no authority: give ca_file=");
            }
            return Ok(roots);
        };
        for certificate in certificates("ca_file", path, &file::read("ca_file", path)?)? {
            roots.add(certificate).map_err(|cause| {
                let context = format!("{} is no certificate", file::named("ca_file", path));
                DiscoveryError::invalid_config(context).with_source(cause)
            })?;
        }
        Ok(roots)
    }
}

/// What a client shows: its certificate, with those between it and its authority, and its key.
fn identity(cert: &Path, key: &Path) -> Result<Identity, DiscoveryError> {
    let pem = file::read("cert_file", cert)?;
    certificates("cert_file", cert, &pem)?;
    let key_pem = file::read("key_file", key)?;
    private_key(key, &key_pem)?;
    Ok(Identity::from_pem(pem, key_pem))
}

fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, DiscoveryError> {
    // The cause might repeat some of it.
    PrivateKeyDer::from_pem_slice(pem).or_else(|_| {
        refuse(format!(
            "{} has no private key in PEM",
            file::named("key_file", path)
        ))
    })
}

fn certificates(
    option: &str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, DiscoveryError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => refuse(format!("{} has no certificate in PEM", file::named(option, path))),
    }
}

fn refuse<T>(context: impl Into<String>) -> Result<T, DiscoveryError> {
    Err(DiscoveryError::invalid_config(context))
}
