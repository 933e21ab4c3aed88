//! Child processes, above all cargo called from a program that cargo started.
//!
//! Children stay in our process group, so that an interrupt ends them too.

use std::{
    env,
    io::{BufRead, BufReader, PipeReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::backends::Example;

/// What cargo tells the program that it runs. A child cargo that inherits it takes it for a
/// change of the environment and builds anew what depends on it.
const INHERITED: &[&str] = &["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];

/// How long to go on reading after the child has ended: a process that it left behind may
/// hold its output open for ever.
const LINGER: Duration = Duration::from_secs(2);

/// A program with a clean environment and nothing on its stdin.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.stdin(Stdio::null());
    for (variable, _) in env::vars_os() {
        let text = variable.to_string_lossy();
        if INHERITED.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&variable);
        }
    }
    command
}

/// The cargo that started us, with these arguments.
pub(crate) fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let name = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = program(&name);
    command.args(args);
    if let Some(protoc) = protoc() {
        command.env("PROTOC", protoc);
    }
    command
}

/// The compiler that the client of etcd is built with, where the machine has none.
fn protoc() -> Option<PathBuf> {
    if env::var_os("PROTOC").is_some() || on_path("protoc").is_some() {
        return None;
    }
    protoc_bin_vendored::protoc_bin_path().ok()
}

/// Finds a program on the `PATH`.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The options that make cargo work on an example, and build it where the workspace is built.
pub(crate) fn options(example: &Example, target: &Path, locked: bool) -> Vec<String> {
    let target = target.to_string_lossy().into_owned();
    let mut options = vec!["--manifest-path".into(), example.manifest.into()];
    options.extend(["--target-dir".into(), target]);
    options.extend(locked.then(|| "--locked".into()));
    options
}

/// Runs a command and shows it first.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    println!("$ {shown}");
    let status = command.status().with_context(|| shown.clone())?;
    if !status.success() {
        bail!("`{shown}`: {status}");
    }
    Ok(())
}

/// Runs a command and returns what it writes to stdout; its stderr stays visible.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| shown.clone())?;
    if !output.status.success() {
        bail!("`{shown}`: {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| shown)
}

/// Runs a command and hands over each line of its stdout and stderr, in the order written.
pub(crate) fn stream(mut command: Command, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    let shown = show(&command);
    println!("$ {shown}");
    let (reader, writer) = std::io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| shown.clone())?;
    // It holds our copies of the writing end, which would keep the reader waiting.
    drop(command);
    let (sender, receiver) = sync_channel(1024);
    thread::spawn(move || read_lines(reader, &sender));
    drain(&mut child, &receiver, &mut each)?;
    child.wait().with_context(|| shown)
}

fn read_lines(reader: PipeReader, sender: &SyncSender<String>) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if sender.send(text).is_err() {
            break;
        }
    }
}

fn drain(child: &mut Child, lines: &Receiver<String>, each: &mut impl FnMut(&str)) -> Result<()> {
    loop {
        match lines.recv_timeout(LINGER) {
            Ok(line) => each(&line),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => {
                println!("note: a process that was left behind still holds the output open");
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn show(command: &Command) -> String {
    let name = command.get_program().to_string_lossy();
    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
    let args = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
    [name].into_iter().chain(args).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = program("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_arrive_in_the_order_written() {
        let mut lines = Vec::new();
        let script = "echo a; echo b >&2; echo c; printf d; exit 3";
        let status = stream(shell(script), |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["a", "b", "c", "d"]);
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn a_process_left_behind_does_not_keep_us_waiting() {
        let mut lines = Vec::new();
        stream(shell("sleep 5 & echo a"), |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["a"]);
    }

    #[test]
    fn a_failure_names_the_command() {
        let error = run(&mut shell("exit 3")).unwrap_err().to_string();
        assert!(error.contains("sh -c exit 3") && error.contains('3'), "{error}");
    }
}
