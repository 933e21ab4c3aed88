//! The contract, tried on a folder.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use discovery_conformance::{Backend, Connect, Fault, Harness, Timing};
use discovery_core::{Capabilities, DiscoveryError, DiscoverySystem, InstanceId, SystemUrl};
use discovery_folder::{FolderConfig, FolderSystem};

fn main() -> ExitCode {
    discovery_conformance::run(Folders)
}

struct Folders;

#[async_trait]
impl Harness for Folders {
    fn name(&self) -> &str {
        "folder"
    }

    fn timing(&self) -> Timing {
        Timing::Real
    }

    fn capabilities(&self) -> Capabilities {
        FolderSystem::declared()
    }

    async fn start(&self) -> Result<Box<dyn Backend>, String> {
        let path = parent().join(format!("discovery-folder-{}", InstanceId::new_v4()));
        fs::create_dir(&path).map_err(|error| error.to_string())?;
        Ok(Box::new(Folder {
            path,
            stalled: Mutex::new(None),
            made: true,
        }))
    }

    fn attach(&self, endpoint: &str) -> Result<Box<dyn Backend>, String> {
        Ok(Box::new(Folder {
            path: endpoint.into(),
            stalled: Mutex::new(None),
            made: false,
        }))
    }

    fn texts_with_secret(&self, secret: &str) -> Vec<String> {
        let url: SystemUrl = format!("folder://me:{secret}@/var/lib/fleet")
            .parse()
            .expect("a URL");
        let shown = format!("{url:?}");
        let error = FolderConfig::from_url(url).expect_err("folders have no users");
        vec![shown, error.to_string(), format!("{error:?}")]
    }
}

/// Where folders are made: in memory if there is a place for that, because some file systems
/// write to the disk whenever a file is replaced.
fn parent() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// A folder that was made for one trial.
struct Folder {
    path: PathBuf,
    /// The lock of the folder, while nobody else shall have it.
    stalled: Mutex<Option<File>>,
    /// Whether this process made it, and removes it.
    made: bool,
}

impl Folder {
    fn config(&self, connect: &Connect) -> FolderConfig {
        FolderConfig::new(&self.path)
            .with_cluster(connect.cluster.clone())
            .with_ttl(connect.ttl)
            .with_view(connect.view)
    }

    fn away(&self) -> PathBuf {
        self.path.with_extension("away")
    }

    /// Waits until nobody else holds the lock, and keeps it.
    async fn lock(&self) -> File {
        let path = self.path.join("lock");
        let locking = tokio::task::spawn_blocking(move || {
            let file = File::options().create(true).append(true).open(path)?;
            file.lock().map(|()| file)
        });
        locking.await.expect("no panic").expect("a lock")
    }

    fn heal(&self) {
        if self.away().exists() {
            fs::rename(self.away(), &self.path).expect("moved back");
        }
        *self.stalled.lock().expect("not poisoned") = None;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.made {
            // Moved first: whoever still says goodbye there would make a lock in it again.
            let _ = fs::rename(&self.path, self.away());
            let _ = fs::remove_dir_all(self.away());
        }
    }
}

#[async_trait]
impl Backend for Folder {
    async fn connect(&self, connect: &Connect) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> {
        Ok(Arc::new(FolderSystem::connect(self.config(connect)).await?))
    }

    fn connect_lazy(&self, connect: &Connect) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> {
        Ok(Arc::new(FolderSystem::connect_lazy(&self.config(connect))?))
    }

    fn endpoint(&self) -> Option<String> {
        Some(self.path.display().to_string())
    }

    async fn fault(&self, fault: Fault) {
        match fault {
            // As when a share is unmounted.
            Fault::Cut => fs::rename(&self.path, self.away()).expect("moved away"),
            Fault::Stall => {
                let lock = self.lock().await;
                *self.stalled.lock().expect("not poisoned") = Some(lock);
            }
            Fault::Heal => self.heal(),
            Fault::Wipe => {
                self.heal();
                let _lock = self.lock().await;
                wipe(&self.path);
            }
        }
    }
}

/// Removes everything but the lock that is held.
fn wipe(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            fs::remove_dir_all(path).expect("removed");
        } else if !path.ends_with("lock") {
            fs::remove_file(path).expect("removed");
        }
    }
}
