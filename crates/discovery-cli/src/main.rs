//! The command line of the discovery workspace: a thin shell over the library `discovery`.

#![cfg_attr(
    not(feature = "server"),
    allow(dead_code, unused_variables, reason = "only `serve` and `demo` use all of it")
)]

mod args;
mod command;
mod exit;
mod failure;
mod output;
mod peer;
mod signal;
mod system;

use std::process::ExitCode;

use clap::Parser;

use self::{args::Args, exit::Exit, failure::Failure, output::Output};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return refused(&error).into(),
    };
    let output = Output::new(args.output);
    start_logs(args.verbose, args.command.is_worker());
    let ended = match run(args, &output) {
        Ok(()) => Exit::Done,
        Err(failure) => output.failed(&failure),
    };
    ended.into()
}

fn run(args: Args, output: &Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|cause| Failure::unexpected("cannot start the runtime", &cause))?;
    let ended = runtime.block_on(command::run(args.command, args.verbose, output));
    // A name lookup or a read that hangs must not hold the process up.
    runtime.shutdown_background();
    ended
}

/// Help and version go to stdout; everything else that clap refuses is one line.
fn refused(error: &clap::Error) -> Exit {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            Exit::Done
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Exit::Usage
        }
        _ => Output::for_refusal(std::env::args_os()).failed(&Failure::refused(error)),
    }
}

/// Logs go to stderr. Changes of a registration are printed as events by those who hold one, an
/// interruption by those who watch, and a lookup that fails is told in its error: by default none
/// of these is logged as well.
fn start_logs(verbose: u8, worker: bool) {
    use tracing_subscriber::EnvFilter;
    let default = match verbose {
        0 if worker => "off",
        0 => "warn,discovery::registration=off,discovery::watch=error,discovery::manager=error",
        1 => "info",
        _ => "debug",
    };
    let chosen = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let filter = match chosen.as_str() {
        "" => EnvFilter::new(default),
        chosen => EnvFilter::builder().parse_lossy(chosen),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(
            std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none(),
        )
        .with_writer(std::io::stderr)
        .init();
}
