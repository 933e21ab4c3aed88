//! Real servers for tests: processes of their own that can be killed, stopped, wiped and started
//! again on the same ports, and that never outlive the test.
//!
//! The program of a server is, in this order, the file that an environment variable names (such as
//! `DISCOVERY_ETCD`), one on the `PATH`, or one in the folder `DISCOVERY_SERVERS`, which
//! `cargo xtask` prepares. Servers that somebody else started cannot be used: the trials kill them,
//! stop them and delete their data.

mod etcd;
mod process;
mod run;

use std::{
    env,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
};

pub use self::{
    etcd::{EtcdOptions, EtcdServer},
    run::{Test, run},
};

/// Where `cargo xtask` puts the programs of servers.
const FOLDER: &str = "DISCOVERY_SERVERS";

/// Finds the program of a server; an error says where it was looked for.
fn program(name: &str, variable: &str) -> Result<PathBuf, String> {
    if let Some(path) = env::var_os(variable).map(PathBuf::from) {
        return match path.is_file() {
            true => Ok(path),
            false => Err(format!("{variable} names {}, which is no file", path.display())),
        };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(env::var_os(FOLDER).map(PathBuf::from));
    let found = folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    found.ok_or_else(|| {
        format!("there is no `{name}` on the PATH, and neither {variable} nor {FOLDER} leads to one; run `cargo xtask test`")
    })
}

/// A port that nobody listens on now, outside the range that outgoing connections take theirs
/// from: a server that is started again must find it free.
fn free_port() -> Result<u16, String> {
    for _ in 0..1_000 {
        let port = fastrand::u16(20_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err("there is no free port from 20000 to 31999".to_owned())
}
