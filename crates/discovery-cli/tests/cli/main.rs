//! The command line as its users meet it: real processes, real signals.

mod commands;
mod demo;
mod faults;
mod input;
mod process;
