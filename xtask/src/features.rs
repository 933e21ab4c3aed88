//! `cargo xtask features`: what each feature of the facade brings, and that it stands alone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use crate::{
    backends::{self, BACKENDS, SERVER},
    cargo,
    table::table,
    workspace::Workspace,
};

/// The facade.
const FACADE: &str = "discovery";

/// The most crates that the default features may bring, the facade included.
const DEFAULT_LIMIT: usize = 60;

/// Crates of which there may be one version only: two would be two HTTP or TLS stacks.
const SINGLE: &[&str] = &["http", "hyper", "reqwest", "rustls"];

/// Crates with their versions.
type Crates = BTreeSet<(String, String)>;

/// Checks each feature alone, none, and the default ones; prints what each brings.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut names: Vec<&str> = workspace
        .package(FACADE)?
        .features
        .keys()
        .map(String::as_str)
        .collect();
    names.retain(|name| *name != "default");
    let mut rows = Vec::new();
    let mut problems = Vec::new();
    for name in [&["", "default"], names.as_slice()].concat() {
        if let Err(error) = check(name) {
            problems.push(format!("{error:#}"));
        }
        let choice = ["-p", FACADE, "--no-default-features", "--features", name];
        let crates = parse(&tree("normal,build", &choice)?);
        problems.extend(strangers(name, &crates));
        if name == "default" && crates.len() > DEFAULT_LIMIT {
            let count = crates.len();
            problems.push(format!(
                "default brings {count} crates, more than {DEFAULT_LIMIT}"
            ));
        }
        rows.push(row(name, &crates));
    }
    let all = parse(&tree("normal,build,dev", &["--workspace", "--all-features"])?);
    problems.extend(doubles(&all));
    println!("\n{}", table(&["feature", "backends", "crates"], 2, &rows));
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{}", problems.join("\n"))
}

/// Clippy checks what `cargo check` does, and can be told to fail on a warning without
/// building all dependencies anew.
fn check(feature: &str) -> Result<()> {
    let mut command = cargo::cargo(["clippy", "-p", FACADE, "--no-default-features"]);
    if !feature.is_empty() {
        command.args(["--features", feature]);
    }
    cargo::run(command.args(["--", "-D", "warnings"]))
}

fn tree(edges: &str, choice: &[&str]) -> Result<String> {
    let mut command = cargo::cargo(["tree", "--prefix", "none", "--edges", edges]);
    cargo::output(command.args(choice))
}

/// Reads lines such as `hyper v1.8.1 (*)`.
fn parse(tree: &str) -> Crates {
    let lines = tree.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    });
    lines.collect()
}

fn row(feature: &str, crates: &Crates) -> Vec<String> {
    let names = crates.iter().filter_map(|(name, _)| backends::of_package(name));
    let shown = if feature.is_empty() { "(none)" } else { feature };
    vec![
        shown.to_owned(),
        names.collect::<Vec<_>>().join(" "),
        crates.len().to_string(),
    ]
}

/// What a feature brings that belongs to another one. A feature that is neither a backend's
/// nor among the basic ones may bring anything.
fn strangers(feature: &str, crates: &Crates) -> Vec<String> {
    let own = match feature {
        "" => None,
        "default" => Some("memory"),
        name if BACKENDS.iter().any(|backend| backend.name == name) => Some(name),
        _ => return Vec::new(),
    };
    let is_own = |name: &str| Some(name) == own;
    let allowed: Vec<&str> = BACKENDS
        .iter()
        .filter(|backend| is_own(backend.name))
        .flat_map(|backend| backend.brings)
        .copied()
        .collect();
    let mut banned = SERVER.to_vec();
    for backend in BACKENDS.iter().filter(|backend| !is_own(backend.name)) {
        banned.extend(backend.brings);
    }
    let is_stranger = |name: &str| {
        backends::of_package(name).is_some_and(|backend| !is_own(backend))
            || (banned.contains(&name) && !allowed.contains(&name))
    };
    let found = crates.iter().filter(|(name, _)| is_stranger(name));
    found
        .map(|(name, version)| format!("feature `{feature}` brings {name} {version}"))
        .collect()
}

/// Crates that are there in several versions though they may not.
fn doubles(crates: &Crates) -> Vec<String> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, version) in crates {
        versions.entry(name).or_default().push(version);
    }
    let doubles = versions
        .iter()
        .filter(|(name, versions)| SINGLE.contains(name) && versions.len() > 1);
    doubles
        .map(|(name, versions)| format!("{name} is there more than once: {}", versions.join(", ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_counted_once_per_version() {
        let crates = parse(
            "discovery v0.1.0 (/a/b)\nhyper v1.8.1\nhyper v0.14.0\nhyper v1.8.1 (*)\n\
             serde_derive v1.0.1 (proc-macro)\n\n",
        );
        assert_eq!(crates.len(), 4);
        assert_eq!(
            doubles(&crates),
            ["hyper is there more than once: v0.14.0, v1.8.1"]
        );
    }

    #[test]
    fn a_feature_may_bring_its_own_backend_only() {
        let http = parse("discovery-http v0.1.0 (/a)\nreqwest v0.13.5\ntokio v1.48.0");
        assert_eq!(strangers("http", &http), [""; 0]);
        assert_eq!(strangers("memory", &http).len(), 2);
        assert_eq!(strangers("default", &http).len(), 2);
        assert_eq!(strangers("", &http).len(), 2);
        let memory = parse("discovery-memory v0.1.0 (/a)\ntokio v1.48.0");
        assert_eq!(strangers("default", &memory), [""; 0]);
        assert_eq!(
            strangers("http", &memory),
            ["feature `http` brings discovery-memory v0.1.0"]
        );
    }

    #[test]
    fn no_backend_brings_a_server() {
        let crates = parse("discovery-http v0.1.0 (/a)\naxum v0.8.9");
        assert_eq!(strangers("http", &crates), ["feature `http` brings axum v0.8.9"]);
        assert_eq!(strangers("server", &crates), [""; 0]);
    }
}
