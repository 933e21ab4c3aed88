#![doc = include_str!("../README.md")]

mod client;
mod config;
mod error;
mod key;
mod lease;
mod scan;
mod store;
mod system;
mod value;
mod watch;

pub use self::{config::EtcdConfig, store::EtcdStore, system::EtcdSystem};
