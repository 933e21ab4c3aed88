//! `cargo xtask twins`: which trials catch which broken twin.

use std::process::ExitCode;

use anyhow::Result;

use crate::cargo;

/// Prints the table of the suite's own test, and ends as that does.
pub(crate) fn run() -> Result<ExitCode> {
    let mut command = cargo::cargo(["test", "--quiet", "-p", "discovery-conformance"]);
    let status = command.args(["--test", "broken", "--", "--table"]).status()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    // Whoever was killed has no code, and has not ended well.
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
