//! One module per command.

#[cfg(feature = "server")]
mod demo;
mod doctor;
mod list;
mod register;
mod resolve;
#[cfg(feature = "server")]
mod serve;
#[cfg(feature = "server")]
mod service;
mod watch;

use crate::{args::Command, failure::Failure, output::Output};

/// Runs a command to its end.
pub(crate) async fn run(command: Command, verbose: u8, output: &Output) -> Result<(), Failure> {
    match command {
        Command::Register(args) => register::run(args, output).await,
        Command::Resolve(args) => resolve::run(args, output).await,
        Command::List(args) => list::run(args, output).await,
        Command::Doctor(args) => doctor::run(args, output).await,
        Command::Watch(args) => watch::run(args, output).await,
        #[cfg(feature = "server")]
        Command::Serve(args) => serve::run(args, output).await,
        #[cfg(feature = "server")]
        Command::Demo(args) => demo::run(args, verbose, output).await,
        #[cfg(feature = "server")]
        Command::DemoWorker(_) => demo::work(output).await,
    }
}
