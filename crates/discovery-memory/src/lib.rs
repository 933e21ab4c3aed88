#![doc = include_str!("../README.md")]

mod config;
mod lease;
mod log;
mod named;
mod state;
mod store;
mod system;
mod watch;

pub use self::{config::MemoryConfig, store::MemoryStore, system::MemorySystem};
