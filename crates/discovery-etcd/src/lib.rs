#![doc = include_str!("../README.md")]

mod client;
mod config;
mod credentials;
mod error;
mod file;
mod key;
mod lease;
mod scan;
mod store;
mod system;
mod tls;
mod value;
mod watch;

pub use self::{config::EtcdConfig, credentials::Password, store::EtcdStore, system::EtcdSystem};
