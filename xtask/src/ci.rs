//! `cargo xtask ci`: everything that must hold before a change is merged.

use std::{
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Result, bail};

use crate::{
    backends::EXAMPLES, cargo, deny, features, matrix::Totals, table::table, test, workspace::Workspace,
};

/// A step that is over.
struct Done {
    name: &'static str,
    took: Duration,
    error: Option<anyhow::Error>,
}

/// Runs all steps, also after one that failed, and tells whether all went well. The last line
/// is that of the tests.
pub(crate) fn run(workspace: &Workspace) -> Result<bool> {
    let mut totals = Totals::default();
    let steps = [
        step("fmt", fmt),
        step("clippy", || clippy(workspace)),
        step("doc", || doc(workspace)),
        step("features", || features::run(workspace)),
        step("deny", || deny::run(workspace)),
        step("test", || {
            let args = test::Args {
                require: true,
                locked: true,
                ..Default::default()
            };
            totals = test::run(workspace, &args);
            if !totals.good() {
                bail!("{totals}");
            }
            Ok(())
        }),
    ];
    summarize(&steps);
    println!("{totals}");
    Ok(steps.iter().all(|step| step.error.is_none()))
}

fn step(name: &'static str, work: impl FnOnce() -> Result<()>) -> Done {
    println!("\n=== {name}");
    let started = SystemTime::now();
    let error = work().err();
    let took = started.elapsed().unwrap_or_default();
    if let Some(error) = &error {
        println!("error: {error:#}");
    }
    println!(
        "=== {name}: {}, {:.1} s",
        outcome(error.as_ref()),
        took.as_secs_f64()
    );
    Done { name, took, error }
}

fn outcome(error: Option<&anyhow::Error>) -> &'static str {
    if error.is_some() { "FAILED" } else { "ok" }
}

fn summarize(steps: &[Done]) {
    let row = |step: &Done| {
        vec![
            step.name.to_owned(),
            outcome(step.error.as_ref()).to_owned(),
            format!("{:.1}", step.took.as_secs_f64()),
        ]
    };
    let rows: Vec<Vec<String>> = steps.iter().map(row).collect();
    println!("\n{}", table(&["step", "outcome", "seconds"], 2, &rows));
    for step in steps {
        if let Some(error) = &step.error {
            println!("{} failed: {error:#}", step.name);
        }
    }
}

fn fmt() -> Result<()> {
    cargo::run(&mut cargo::cargo(["fmt", "--all", "--check"]))?;
    for example in EXAMPLES {
        let manifest = ["--manifest-path", example.manifest];
        cargo::run(cargo::cargo(["fmt", "--check"]).args(manifest))?;
    }
    Ok(())
}

fn clippy(workspace: &Workspace) -> Result<()> {
    let lint = |mut command: Command| {
        command.args(["--all-targets", "--all-features", "--", "-D", "warnings"]);
        cargo::run(&mut command)
    };
    lint(cargo::cargo(["clippy", "--workspace"]))?;
    each_example(workspace, "clippy", lint)
}

fn doc(workspace: &Workspace) -> Result<()> {
    let document = |mut command: Command| {
        command.args(["--no-deps", "--all-features"]);
        cargo::run(command.env("RUSTDOCFLAGS", "-D warnings"))
    };
    document(cargo::cargo(["doc", "--workspace"]))?;
    each_example(workspace, "doc", document)
}

/// Does something with every example, whose `Cargo.lock` must fit.
fn each_example(workspace: &Workspace, subcommand: &str, work: impl Fn(Command) -> Result<()>) -> Result<()> {
    for example in EXAMPLES {
        let mut command = cargo::cargo([subcommand]);
        command.args(cargo::options(example, workspace.target_directory(), true));
        work(command)?;
    }
    Ok(())
}
