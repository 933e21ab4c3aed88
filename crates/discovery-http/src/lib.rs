#![doc = include_str!("../README.md")]

mod client;
mod config;
mod error;
mod lease;
mod part;
#[cfg(feature = "server")]
pub mod server;
mod sse;
mod store;
mod stream;
mod system;
mod watch;
mod wire;

pub use self::{config::HttpConfig, store::HttpStore, system::HttpSystem};
