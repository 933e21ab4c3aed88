//! The project's own commands: `cargo xtask <command>`.

mod backends;
mod cargo;
mod ci;
mod deny;
mod features;
mod libtest;
mod matrix;
mod report;
mod table;
mod test;
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
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells whether all is well; an error is something that kept the command from finding out.
fn run(command: Command) -> Result<bool> {
    let workspace = Workspace::find()?;
    match command {
        Command::Ci => ci::run(&workspace),
        Command::Deny => deny::run(&workspace).map(|()| true),
        Command::Features => features::run(&workspace).map(|()| true),
        Command::Test(args) => {
            let totals = test::run(&workspace, &args);
            println!("{totals}");
            Ok(totals.good())
        }
    }
}
