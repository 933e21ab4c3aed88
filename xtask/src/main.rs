//! The project's own commands: `cargo xtask <command>`.

mod backends;
mod cargo;
mod ci;
mod deny;
mod features;
mod libtest;
mod matrix;
mod report;
mod services;
mod table;
mod test;
mod twins;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything that must hold before a change is merged.
    ///
    /// Formatting, lints, documentation, features, dependencies and all tests. Every step
    /// runs, also after one that failed.
    Ci,
    /// Checks dependencies: licences, banned crates, sources.
    ///
    /// Installs the pinned cargo-deny into the target folder if it is not there.
    Deny,
    /// Checks the features of the facade, each one alone, and what each one costs.
    Features,
    /// Runs the tests and prints what ran, per backend and suite.
    ///
    /// Without options: all there is, documentation included. The last line on stdout is
    /// `N passed, N failed, N skipped`. Fails also if nothing ran.
    Test(test::Args),
    /// Lists every line of the contract with its broken twins and the trials that catch each.
    ///
    /// A twin is a backend that breaks just this line. Fails if one goes unnoticed.
    Twins,
}

fn main() -> ExitCode {
    let args = Args::parse();
    run(args.command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Tells how all went; an error is something that kept the command from finding out.
fn run(command: Command) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    let good = match command {
        Command::Ci => ci::run(&workspace)?,
        Command::Deny => deny::run(&workspace).map(|()| true)?,
        Command::Features => features::run(&workspace).map(|()| true)?,
        Command::Test(args) => {
            let totals = test::run(&workspace, &args);
            println!("{totals}");
            totals.good()
        }
        Command::Twins => return twins::run(),
    };
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
