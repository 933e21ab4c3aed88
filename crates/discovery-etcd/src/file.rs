//! Files that the configuration names.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use discovery_core::DiscoveryError;
use tokio::task;

/// The most bytes of one file: more than all authorities of a system need.
const MOST_BYTES: u64 = 1_024 * 1_024;

/// How an option and its file are named in messages.
pub(crate) fn named(option: &str, path: &Path) -> String {
    format!("{option}: {}", path.display())
}

/// Reads the file that an option names. Blocks.
pub(crate) fn read(option: &str, path: &Path) -> Result<Vec<u8>, DiscoveryError> {
    bounded(path).map_err(|cause| {
        let context = format!("{} cannot be read", named(option, path));
        DiscoveryError::invalid_config(context).with_source(cause)
    })
}

fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(bytes)
}

/// Does what blocks where it keeps no connection from being driven.
pub(crate) async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DiscoveryError> + Send + 'static,
) -> Result<T, DiscoveryError> {
    let done = task::spawn_blocking(work).await;
    // It panicked, or the runtime is ending.
    done.unwrap_or_else(|cause| {
        Err(DiscoveryError::invalid_config("a file cannot be read now").with_source(cause))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_refused() {
        let error = read("ca_file", Path::new("/dev/zero")).unwrap_err();
        assert!(error.to_string().contains("ca_file: /dev/zero"), "{error}");
    }
}
