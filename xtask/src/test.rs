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
    backends::{self, BACKENDS, EXAMPLES, Example},
    cargo,
    libtest::Reader,
    matrix::{Matrix, Totals},
    report::Report,
    services::Services,
    workspace::{Target, Workspace},
};

/// The suites of the conformance tests.
const SUITES: [&str; 5] = ["registration", "lookup", "system", "watch", "manager"];

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
    /// Refuses to change the `Cargo.lock` of an example; cargo itself refuses for the workspace.
    #[arg(skip)]
    pub(crate) locked: bool,
}

fn names() -> PossibleValuesParser {
    all_names().collect::<Vec<_>>().into()
}

/// The names of all backends, those of examples last.
fn all_names() -> impl Iterator<Item = &'static str> {
    let examples = EXAMPLES.iter().map(|example| example.name);
    BACKENDS.iter().map(|backend| backend.name).chain(examples)
}

/// What one `cargo test` is about.
struct Run<'a> {
    workspace: &'a Workspace,
    /// The options that tell cargo which tests to run.
    choice: Vec<String>,
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
    let chosen = chosen(args);
    let examples = EXAMPLES.iter().filter(|example| chosen.contains(&example.name));
    let found = examples.map(|example| Ok((example, workspace.example(example)?)));
    let found = found.collect::<Result<Vec<_>>>()?;
    let mut runs: Vec<Run<'_>> = choose(workspace, args)?.into_iter().collect();
    for (example, workspace) in &found {
        runs.push(choose_example(workspace, example, args)?);
    }
    let services = Services::prepare(workspace.target_directory(), &chosen);
    let report = match build(&runs) {
        Ok(programs) => test(workspace, args, &runs, &folder, &services, programs)?,
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

/// What to run of the workspace itself, if anything.
fn choose<'a>(workspace: &'a Workspace, args: &Args) -> Result<Option<Run<'a>>> {
    if everything(args) {
        let choice = vec!["--workspace".into()];
        return Ok(Some(Run { workspace, choice }));
    }
    let chosen = chosen(args);
    let backends = BACKENDS.iter().filter(|backend| chosen.contains(&backend.name));
    let mut packages = Vec::new();
    for backend in backends {
        packages.extend(["-p".into(), tested(workspace, backend.name)?]);
    }
    if packages.is_empty() {
        return Ok(None);
    }
    let choice = [vec!["--test".into(), "conformance".into()], packages].concat();
    Ok(Some(Run { workspace, choice }))
}

/// What to run of an example.
fn choose_example<'a>(workspace: &'a Workspace, example: &Example, args: &Args) -> Result<Run<'a>> {
    // Cargo names a package in what it prints only if it was told one.
    let mut choice = vec!["-p".into(), tested(workspace, example.name)?];
    choice.extend(cargo::options(example, workspace.target_directory(), args.locked));
    if !everything(args) {
        choice.extend(["--test".into(), "conformance".into()]);
    }
    Ok(Run { workspace, choice })
}

/// The package of a backend, which has a conformance test.
fn tested(workspace: &Workspace, backend: &str) -> Result<String> {
    let package = backends::package(backend);
    if !workspace.package(&package)?.has_conformance_test() {
        bail!("`{package}` has no test target `conformance`");
    }
    Ok(package)
}

fn everything(args: &Args) -> bool {
    args.backends.is_empty() && args.suites.is_empty()
}

fn chosen(args: &Args) -> Vec<&str> {
    if args.backends.is_empty() {
        return all_names().collect();
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
fn build(runs: &[Run<'_>]) -> Result<BTreeMap<String, String>> {
    let mut programs = BTreeMap::new();
    for run in runs {
        let mut command = cargo::cargo(["test", "--all-features", "--no-run"]);
        command
            .arg("--message-format=json-render-diagnostics")
            .args(&run.choice);
        for line in cargo::output(&mut command)?.lines() {
            let message: Message = serde_json::from_str(line).with_context(|| line.to_owned())?;
            programs.extend(program(run.workspace, message)?);
        }
    }
    Ok(programs)
}

/// The test program that a message is about, and the options that choose it.
fn program(workspace: &Workspace, message: Message) -> Result<Option<(String, String)>> {
    let Message {
        package_id: Some(id),
        target: Some(target),
        profile: Some(Profile { test: true }),
        executable: Some(path),
    } = message
    else {
        return Ok(None);
    };
    let package = workspace.packages().iter().find(|package| package.id == id);
    let package = package.with_context(|| format!("no package `{id}`"))?;
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(Some((file.into_owned(), target.options(&package.name))))
}

fn test(
    workspace: &Workspace,
    args: &Args,
    runs: &[Run<'_>],
    folder: &Path,
    services: &Services,
    programs: BTreeMap<String, String>,
) -> Result<Report> {
    let mut names = programs.clone();
    for package in runs.iter().flat_map(|run| run.workspace.packages()) {
        if let Some(library) = package.library() {
            names.insert(library, format!("-p {} --doc", package.name));
        }
    }
    let mut reader = Reader::new(names);
    let mut statuses = Vec::new();
    for run in runs {
        let status = cargo::stream(command(args, &run.choice, folder, services), |line| {
            println!("{line}");
            reader.line(line);
        });
        statuses.push(status?);
    }
    let mut report = Report::new(reader.targets().to_vec(), Matrix::read(folder)?);
    report.expect_programs(programs.values());
    if everything(args) {
        report.expect_backends(workspace);
    }
    for status in statuses {
        report.expect_success(status);
    }
    Ok(report)
}

fn command(args: &Args, choice: &[String], folder: &Path, services: &Services) -> Command {
    let mut command = cargo::cargo(["test", "--all-features", "--no-fail-fast"]);
    command.args(choice);
    command.env("DISCOVERY_REPORT_DIR", folder);
    services.tell(&mut command);
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
