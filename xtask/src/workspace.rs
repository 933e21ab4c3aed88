//! The workspace, as cargo describes it.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{backends::Example, cargo};

/// The workspace's packages and folders.
#[derive(Deserialize)]
pub(crate) struct Workspace {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

/// A package of the workspace.
#[derive(Deserialize)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its name for cargo, in what cargo writes for programs.
    pub(crate) id: String,
    /// Its features and what each one turns on.
    pub(crate) features: BTreeMap<String, Vec<String>>,
    targets: Vec<Target>,
}

/// What is built from a package.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Target {
    name: String,
    kind: Vec<String>,
}

impl Workspace {
    /// Asks cargo, and makes the workspace's root the current folder.
    pub(crate) fn find() -> Result<Self> {
        let text = cargo::output(&mut cargo::cargo(["metadata", "--no-deps", "--format-version=1"]))?;
        let workspace: Self = serde_json::from_str(&text).context("cargo metadata")?;
        env::set_current_dir(&workspace.workspace_root)?;
        Ok(workspace)
    }

    /// Asks cargo about an example, which is a workspace of its own and is built where this one is.
    pub(crate) fn example(&self, example: &Example) -> Result<Self> {
        let mut command = cargo::cargo(["metadata", "--no-deps", "--format-version=1"]);
        let text = cargo::output(command.args(["--manifest-path", example.manifest]))?;
        let found: Self = serde_json::from_str(&text).context("cargo metadata")?;
        Ok(Self {
            target_directory: self.target_directory.clone(),
            ..found
        })
    }

    /// Its packages.
    pub(crate) fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// A package by its name.
    pub(crate) fn package(&self, name: &str) -> Result<&Package> {
        self.packages
            .iter()
            .find(|package| package.name == name)
            .with_context(|| format!("the workspace has no package `{name}`"))
    }

    /// Where cargo builds.
    pub(crate) fn target_directory(&self) -> &Path {
        &self.target_directory
    }
}

impl Package {
    /// Tells whether the package has the test target `conformance`.
    pub(crate) fn has_conformance_test(&self) -> bool {
        self.targets
            .iter()
            .any(|target| target.is("test") && target.name == "conformance")
    }

    /// The name of its library in Rust code, if it has one.
    pub(crate) fn library(&self) -> Option<String> {
        let library = self.targets.iter().find(|target| target.is_library())?;
        Some(library.name.replace('-', "_"))
    }
}

impl Target {
    /// The options that choose this target of `package`, as cargo writes them.
    pub(crate) fn options(&self, package: &str) -> String {
        let name = &self.name;
        for kind in ["bin", "test", "example", "bench"] {
            if self.is(kind) {
                return format!("-p {package} --{kind} {name}");
            }
        }
        format!("-p {package} --lib")
    }

    fn is(&self, kind: &str) -> bool {
        self.kind.iter().any(|known| known == kind)
    }

    fn is_library(&self) -> bool {
        self.kind
            .iter()
            .any(|kind| kind.ends_with("lib") || kind == "proc-macro")
    }
}
