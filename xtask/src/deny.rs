//! `cargo xtask deny`: licences, banned crates and sources of all dependencies.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{backends::EXAMPLES, cargo, workspace::Workspace};

/// The cargo-deny that the configuration is written for.
const VERSION: &str = "0.20.2";

/// Checks the dependencies, also those of the examples.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let program = find_or_install(&workspace.target_directory().join("tools"))?;
    check(&program, "Cargo.toml")?;
    EXAMPLES
        .iter()
        .try_for_each(|example| check(&program, example.manifest))
}

fn check(program: &Path, manifest: &str) -> Result<()> {
    let manifest = ["--manifest-path", manifest];
    // The check reads the dependencies of every platform, a build fetches those of one.
    cargo::run(cargo::cargo(["fetch", "--locked"]).args(manifest))?;
    let mut command = cargo::program(&program.to_string_lossy());
    // One configuration for all; else it is looked for beside the manifest.
    command.args(manifest).args(["--config", "deny.toml"]);
    cargo::run(command.args(["--offline", "check", "bans", "licenses", "sources"]))
}

fn find_or_install(tools: &Path) -> Result<PathBuf> {
    let installed = tools.join("bin").join("cargo-deny");
    for program in [Path::new("cargo-deny"), &installed] {
        if is_pinned(program) {
            return Ok(program.to_owned());
        }
    }
    println!("cargo-deny {VERSION} is not there: building it, once; this takes about five minutes");
    let version = format!("={VERSION}");
    let mut command = cargo::cargo(["install", "--locked", "cargo-deny", "--version", &version]);
    cargo::run(command.arg("--root").arg(tools))?;
    Ok(installed)
}

fn is_pinned(program: &Path) -> bool {
    let output = cargo::program(&program.to_string_lossy())
        .arg("--version")
        .output();
    output.is_ok_and(|output| {
        output.status.success()
            && String::from_utf8_lossy(&output.stdout).split_whitespace().last() == Some(VERSION)
    })
}
