#![doc = include_str!("../README.md")]

mod config;
mod lease;
mod named;
mod store;
mod system;

pub use self::{config::MemoryConfig, store::MemoryStore, system::MemorySystem};
