#![doc = include_str!("../README.md")]

mod config;
mod files;
mod folder;
mod store;
mod system;

pub use self::{config::FolderConfig, store::FolderStore, system::FolderSystem};
