#![doc = include_str!("../README.md")]

mod client;
mod config;
mod error;
mod lease;
mod part;
#[cfg(feature = "server")]
pub mod server;
mod store;
mod system;
mod wire;

pub use self::{config::HttpConfig, store::HttpStore, system::HttpSystem};
