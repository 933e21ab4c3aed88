//! `cargo xtask test`: runs the tests and tells what ran.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;
use serde::Deserialize;

use crate::{
    backends::{self, BACKENDS},
    cargo,
    libtest::Reader,
    matrix::{Matrix, Totals},
    report::Report,
    workspace::{Target, Workspace},
};

/// The suites of the conformance tests.
const SUITES: [&str; 4] = ["registration", "lookup", "system", "manager"];

/// What to run.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Runs only the conformance tests of this backend; may be repeated.
    #[arg(long = "backend", value_name = "NAME", value_parser = names())]
    pub(crate) backends: Vec<String>,
    /// Runs only this suite of the conformance tests, such as `registration`; may be repeated.
    #[arg(long = "suite", value_name = "NAME", value_parser = SUITES)]
    pub(crate) suites: Vec<String>,
    /// Takes a backend whose server cannot be had for a failure, not for ignored.
    #[arg(long)]
    pub(crate) require: bool,
}

fn names() -> PossibleValuesParser {
    BACKENDS
        .iter()
        .map(|backend| backend.name)
        .collect::<Vec<_>>()
        .into()
}

/// Runs the tests and prints everything but the closing line. What keeps them from running
/// counts as a failure.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Totals {
    try_run(workspace, args).unwrap_or_else(|error| {
        println!("error: {error:#}\n");
        Totals {
            failed: 1,
            ..Totals::default()
        }
    })
}

fn try_run(workspace: &Workspace, args: &Args) -> Result<Totals> {
    let folder = fresh_folder(workspace.target_directory())?;
    let choice = choose(workspace, args)?;
    let report = match build(workspace, &choice) {
        Ok(programs) => test(workspace, args, &choice, &folder, programs)?,
        Err(error) => Report::broken(format!("the tests do not build: {error:#}")),
    };
    let path = folder.join("matrix.json");
    fs::write(&path, report.json()?).with_context(|| path.display().to_string())?;
    print!("\n{report}");
    Ok(report.totals())
}

fn fresh_folder(target: &Path) -> Result<PathBuf> {
    let folder = target.join("test-report");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// The options that tell cargo which tests to run.
fn choose(workspace: &Workspace, args: &Args) -> Result<Vec<String>> {
    if args.backends.is_empty() && args.suites.is_empty() {
        return Ok(vec!["--workspace".into()]);
    }
    let mut choice = vec!["--test".into(), "conformance".into()];
    for backend in chosen(args) {
        let package = backends::package(backend);
        if !workspace.package(&package)?.has_conformance_test() {
            bail!("`{package}` has no test target `conformance`");
        }
        choice.extend(["-p".into(), package]);
    }
    Ok(choice)
}

fn chosen(args: &Args) -> Vec<&str> {
    if args.backends.is_empty() {
        return BACKENDS.iter().map(|backend| backend.name).collect();
    }
    args.backends.iter().map(String::as_str).collect()
}

/// A message of cargo's, as far as we want to know.
#[derive(Deserialize)]
struct Message {
    package_id: Option<String>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds the tests and tells for each program, by its file name, the options that choose it.
fn build(workspace: &Workspace, choice: &[String]) -> Result<BTreeMap<String, String>> {
    let mut command = cargo::cargo(["test", "--all-features", "--no-run"]);
    command
        .arg("--message-format=json-render-diagnostics")
        .args(choice);
    let mut programs = BTreeMap::new();
    for line in cargo::output(&mut command)?.lines() {
        let message: Message = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let Message {
            package_id: Some(id),
            target: Some(target),
            profile: Some(Profile { test: true }),
            executable: Some(path),
        } = message
        else {
            continue;
        };
        let package = workspace.packages().iter().find(|package| package.id == id);
        let package = package.with_context(|| format!("no package `{id}`"))?;
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        programs.insert(file.into_owned(), target.options(&package.name));
    }
    Ok(programs)
}

fn test(
    workspace: &Workspace,
    args: &Args,
    choice: &[String],
    folder: &Path,
    programs: BTreeMap<String, String>,
) -> Result<Report> {
    let mut names = programs.clone();
    for package in workspace.packages() {
        if let Some(library) = package.library() {
            names.insert(library, format!("-p {} --doc", package.name));
        }
    }
    let mut reader = Reader::new(names);
    let status = cargo::stream(command(args, choice, folder), |line| {
        println!("{line}");
        reader.line(line);
    })?;
    let everything = args.backends.is_empty() && args.suites.is_empty();
    let mut report = Report::new(reader.targets().to_vec(), Matrix::read(folder)?);
    report.expect_programs(programs.values());
    if everything {
        report.expect_backends(workspace);
    }
    report.expect_success(status);
    Ok(report)
}

fn command(args: &Args, choice: &[String], folder: &Path) -> Command {
    let mut command = cargo::cargo(["test", "--all-features", "--no-fail-fast"]);
    command.args(choice);
    command.env("DISCOVERY_REPORT_DIR", folder);
    // The lines are read, so they come without colour.
    command.env("CARGO_TERM_COLOR", "never");
    command.env_remove("DISCOVERY_SUITES");
    if !args.suites.is_empty() {
        command.env("DISCOVERY_SUITES", args.suites.join(","));
    }
    if args.require {
        command.env("DISCOVERY_REQUIRE", chosen(args).join(","));
    }
    command
}
