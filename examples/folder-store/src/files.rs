//! The folder as files: its lock, the names of keys, and JSON that is read and written whole.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use discovery_core::{Cluster, DiscoveryError, ErrorKind, Retry, store::RecordKey};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;

/// How often a lock that somebody else holds is tried.
const TRY_EVERY: Duration = Duration::from_micros(200);
/// The longest name of a file or folder; file systems have 255 bytes.
const NAME_BYTES: usize = 200;

/// The lock of a folder, held. The operating system releases it when its process ends.
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Waits for the lock. Tried again and again, because a thread that waits within the
    /// operating system cannot give up at its deadline.
    pub(crate) fn take(root: &Path, until: Instant) -> Result<Self, DiscoveryError> {
        let mut lock = Self::open(root)?;
        loop {
            match lock.file.try_lock() {
                // Not on what somebody has removed, where it would keep nobody out.
                Ok(()) if lock.stands().is_ok() => return Ok(lock),
                Ok(()) => lock = Self::open(root)?,
                Err(TryLockError::WouldBlock) => thread::sleep(TRY_EVERY),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            if Instant::now() >= until {
                return Err(
                    DiscoveryError::new(ErrorKind::Timeout, "somebody else holds the lock")
                        .with_retry(Retry::Safe { after: None }),
                );
            }
        }
    }

    fn open(root: &Path) -> Result<Self, DiscoveryError> {
        let path = root.join("lock");
        let open = OpenOptions::new().create(true).append(true).open(&path);
        let file = open.map_err(failed)?;
        Ok(Self { file, path })
    }

    /// Checks that the folder is still where it was: what is missing in a folder that was
    /// moved away meanwhile is no answer.
    pub(crate) fn stands(&self) -> Result<(), DiscoveryError> {
        let (held, there) = (self.file.metadata(), fs::metadata(&self.path));
        let (held, there) = (held.map_err(failed)?, there.map_err(failed)?);
        if (held.dev(), held.ino()) == (there.dev(), there.ino()) {
            return Ok(());
        }
        Err(DiscoveryError::new(
            ErrorKind::Unavailable,
            "the folder was replaced",
        ))
    }
}

/// What a failed call of the file system is for a caller.
pub(crate) fn failed(error: io::Error) -> DiscoveryError {
    let (kind, context) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorKind::Unavailable, "the folder is not there"),
        io::ErrorKind::PermissionDenied => (ErrorKind::PermissionDenied, "the folder may not be used"),
        _ => (ErrorKind::Unavailable, "the folder cannot be used"),
    };
    DiscoveryError::new(kind, context).with_source(error)
}

/// Reads a file of JSON; `None` if there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DiscoveryError> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(failed)?,
    };
    serde_json::from_slice(&text).map(Some).map_err(|cause| {
        let context = format!("{} was not written by this backend", path.display());
        DiscoveryError::new(ErrorKind::Malformed, context).with_source(cause)
    })
}

/// Writes a file of JSON below `root`, whole or not at all.
pub(crate) fn write(root: &Path, path: &Path, value: &impl Serialize) -> Result<(), DiscoveryError> {
    let text = serde_json::to_vec_pretty(value).map_err(|cause| failed(cause.into()))?;
    // One at a time writes: the lock is held. What a process left that was killed is overwritten.
    let new = root.join("new");
    fs::write(&new, text).map_err(failed)?;
    match fs::rename(&new, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folders(root, path).map_err(failed)?;
            fs::rename(&new, path).map_err(failed)
        }
        renamed => renamed.map_err(failed),
    }
}

/// Makes the folders between `root` and a file, but never `root`: a folder that is not there,
/// such as one that is not mounted, must not be made up.
fn make_folders(root: &Path, file: &Path) -> io::Result<()> {
    let mut folders: Vec<_> = file.ancestors().skip(1).take_while(|at| *at != root).collect();
    while let Some(folder) = folders.pop() {
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), DiscoveryError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(failed),
    }
}

/// The path of a key without an ending: a folder per segment. Only what every file system tells apart
/// and sorts by bytes stands for itself; a name that would be too long goes on in a folder below
/// one that ends with `+`.
pub(crate) fn path_of(key: &RecordKey) -> PathBuf {
    let mut path = PathBuf::new();
    for segment in key.segments() {
        let mut name = String::new();
        for byte in segment.bytes() {
            if name.len() > NAME_BYTES {
                path.push(std::mem::take(&mut name) + "+");
            }
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte.into()),
                _ => name += &format!("%{byte:02x}"),
            }
        }
        path.push(name);
    }
    path
}

/// The key whose [`path_of`] this is.
pub(crate) fn key_of(path: &Path) -> Option<RecordKey> {
    let text = path.to_str()?.replace("+/", "");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok()?;
                (u8::from_str_radix(digits, 16).ok()?, after)
            }
            (first, after) => (*first, after),
        };
        bytes.push(byte);
        rest = after;
    }
    let text = String::from_utf8(bytes).ok()?;
    key(&text).filter(|key| path_of(key) == path)
}

/// The key that this is the text of.
pub(crate) fn key(text: &str) -> Option<RecordKey> {
    let (cluster, rest) = text.split_once('/')?;
    let mut segments = rest.split('/');
    let (kind, segments) = (segments.next()?, segments.by_ref().collect::<Vec<_>>());
    RecordKey::try_new(&Cluster::try_new(cluster).ok()?, kind, &segments).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_path_of_its_own_that_leads_back() {
        let long = "Ü".repeat(64);
        let mut paths = std::collections::BTreeSet::new();
        let texts = [
            "a/k",
            "a/k/x",
            "A/k/x",
            "a/k/x.json",
            "a/k/%61",
            "a/k/a+",
            "a/k/gru\u{308}n",
            "a/k/grün",
        ];
        let long = [format!("{long}/k/{long}"), format!("a/k/{}", "x".repeat(128))];
        for text in texts.into_iter().map(str::to_owned).chain(long) {
            let path = path_of(&key(&text).unwrap());
            assert_eq!(key_of(&path).unwrap().as_str(), text);
            for name in path.components() {
                assert!(name.as_os_str().len() < 250, "{name:?}");
            }
            assert!(paths.insert(path), "{text} has the path of another one");
        }
        for foreign in [
            "a",
            "A/k",
            "a/k/x.json",
            "a/k/%",
            "a/k/%zz",
            "a/k/%ff",
            "a+/k/x",
            "a/k/%61",
        ] {
            assert_eq!(key_of(Path::new(foreign)), None, "{foreign}");
        }
    }
}
