//! What may stand on the command line. Values are checked by the commands, before any I/O.

use std::{ffi::OsString, time::Duration};

use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand};

use crate::output::Format;

const SYSTEMS: &str = "\
System URLs:
  http://HOST:PORT[?cluster=NAME&ttl=10s]   the service that `discovery serve` runs
  memory://                                 lives within one process: only for the library

Exit codes:
  0  done
  1  unexpected failure: a bug, or something that demo or doctor found to be wrong
  2  wrong usage or configuration
  3  not found: a backend was asked and said so
  4  a backend could not be asked: down, timed out, refused, not permitted
  5  worker-id collision, checksum mismatch, or superseded
  130  interrupted before it was done

On a terminal the output is text; in a pipe, or with `--output json`, one JSON object per line.
Logs go to stderr: -v, -vv, or RUST_LOG.";

const EXAMPLES: &str = "\
Examples:
  discovery demo
  discovery serve
  discovery register --system http://127.0.0.1:7400 --address tcp://10.0.0.7:5555
  discovery list --system http://127.0.0.1:7400
  discovery watch --system http://127.0.0.1:7400
  discovery doctor --system http://127.0.0.1:7400
";

/// Processes that find each other: register one, look it up, list or watch them all, or run the
/// service.
#[derive(Debug, Parser)]
#[command(name = "discovery", version, after_help = format!("{EXAMPLES}\n{SYSTEMS}"), disable_help_subcommand = true)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// What to print on stdout.
    #[arg(long, global = true, value_enum, default_value_t = Format::Auto, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// More logs on stderr; twice for all.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[cfg(feature = "server")]
    Demo(DemoArgs),
    #[cfg(feature = "server")]
    Serve(ServeArgs),
    Register(RegisterArgs),
    Resolve(ResolveArgs),
    List(ListArgs),
    Watch(WatchArgs),
    Doctor(DoctorArgs),
    #[cfg(feature = "server")]
    #[command(hide = true)]
    DemoWorker(DemoWorkerArgs),
}

impl Command {
    /// Whether this is a process of a demonstration, whose parent does the talking.
    pub(crate) fn is_worker(&self) -> bool {
        #[cfg(feature = "server")]
        return matches!(self, Self::DemoWorker(_));
        #[cfg(not(feature = "server"))]
        false
    }
}

/// Show it: real processes find each other, notice a kill, a leave and a newcomer.
///
/// Starts a service of its own on a free loopback port (or uses --system) and N worker processes
/// that register, find each other and keep checking. Then kills one, stops one politely, starts
/// a new one, and shows how fast each change was noticed by all. Ends by itself within 30 s
/// (another system: 3 TTL + 20 s) and leaves no process behind.
#[cfg(feature = "server")]
#[derive(Debug, ClapArgs)]
#[command(after_help = format!("\
Examples:
  discovery demo
  discovery demo --peers 16
  discovery demo --system http://127.0.0.1:7400 --output json

{SYSTEMS}"))]
pub(crate) struct DemoArgs {
    /// The system to use instead of an embedded service; its smallest TTL is asked for.
    #[arg(long, value_name = "URL")]
    pub(crate) system: Option<String>,
    /// How many worker processes, 3 to 64.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(3..=64))]
    pub(crate) peers: u16,
}

/// Run the HTTP discovery service.
///
/// Keeps its records in memory, or in the system behind --system. The first line on stdout
/// tells the bound address, once connections are accepted. SIGINT and SIGTERM stop it.
/// It asks nobody who they are yet: listen on loopback, or on a network that you trust.
#[cfg(feature = "server")]
#[derive(Debug, ClapArgs)]
#[command(after_help = format!("\
Examples:
  discovery serve
  discovery serve --listen 127.0.0.1:0 --warm-up 0s
  discovery serve --listen 127.0.0.1:7401 --system http://127.0.0.1:7400

{SYSTEMS}"))]
pub(crate) struct ServeArgs {
    /// The address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400")]
    pub(crate) listen: String,
    /// The system that keeps the records, instead of this process's memory.
    #[arg(long, value_name = "URL")]
    pub(crate) system: Option<String>,
    /// How long after the start "not found" and lists are answered with "warming up" [default:
    /// 6s, or 0s with --system].
    ///
    /// After a restart clients register again with their next renewal, a third of their TTL
    /// later: a third of the longest TTL in use (10 s by default) plus 2 s is enough. 0s for none.
    #[arg(long, value_name = "DURATION", value_parser = span)]
    pub(crate) warm_up: Option<Duration>,
}

/// Register a peer and hold the registration.
///
/// Prints one line when it is live and one for each change of its state. SIGINT or SIGTERM
/// unregisters. Whatever the backend loses meanwhile is registered again by itself.
#[derive(Debug, ClapArgs)]
#[command(after_help = format!("\
Examples:
  discovery register --system http://127.0.0.1:7400 --address tcp://10.0.0.7:5555
  discovery register --system 'http://127.0.0.1:7400?cluster=lab&ttl=3s' --address tcp://h:1 \\
      --instance-id 5f3c8d1e-8a43-4c1b-9a65-0a6c1a3f9b10

{SYSTEMS}"))]
pub(crate) struct RegisterArgs {
    /// The system to register in.
    #[arg(long, value_name = "URL")]
    pub(crate) system: String,
    /// Where the peer can be reached: any 1 to 4096 bytes.
    #[arg(long, value_name = "ADDR")]
    pub(crate) address: OsString,
    /// The instance to register [default: a fresh random one].
    #[arg(long, value_name = "UUID")]
    pub(crate) instance_id: Option<String>,
}

/// Look one peer up.
///
/// Asks the systems in order until one knows the peer. "Not found" (exit 3) means that every
/// system was asked and said so; if one could not be asked, the exit code is 4.
#[derive(Debug, ClapArgs)]
#[command(after_help = format!("\
Examples:
  discovery resolve --system http://127.0.0.1:7400 --worker-id 00c5a1f2e3d4b596
  discovery resolve --system http://a:7400 --system http://b:7400 --timeout 2s \\
      --instance-id 5f3c8d1e-8a43-4c1b-9a65-0a6c1a3f9b10

{SYSTEMS}"))]
pub(crate) struct ResolveArgs {
    /// A system to ask; several are asked in order.
    #[arg(long = "system", value_name = "URL", required = true)]
    pub(crate) systems: Vec<String>,
    /// The worker to find: 16 hex digits.
    #[arg(
        long,
        value_name = "HEX",
        required_unless_present = "instance_id",
        conflicts_with = "instance_id"
    )]
    pub(crate) worker_id: Option<String>,
    /// The instance to find.
    #[arg(long, value_name = "UUID")]
    pub(crate) instance_id: Option<String>,
    /// How long the whole lookup may take.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = limit)]
    pub(crate) timeout: Duration,
}

/// List every registered peer.
#[derive(Debug, ClapArgs)]
#[command(after_help = format!("\
Examples:
  discovery list --system http://127.0.0.1:7400
  discovery list --system 'http://127.0.0.1:7400?cluster=lab' --output json

{SYSTEMS}"))]
pub(crate) struct ListArgs {
    /// The system to ask.
    #[arg(long, value_name = "URL")]
    pub(crate) system: String,
}

/// Show every registered peer, and every change, until interrupted.
///
/// Prints a snapshot, then one line for each peer that appears, changes its address or leaves,
/// with the reason: unregistered, expired, or unknown. SIGINT or SIGTERM ends it with exit 0.
/// When the system cannot be heard, that is said on stderr, and tried again until it can; what
/// was missed is then told as ordinary changes, followed by "resynced". If more than half of ten
/// or more peers are missing by then, they are named as suspects, and kept for one TTL.
#[derive(Debug, ClapArgs)]
#[command(after_help = format!("\
Examples:
  discovery watch --system http://127.0.0.1:7400
  discovery watch --system 'http://127.0.0.1:7400?cluster=lab' --output json
  discovery watch --system http://127.0.0.1:7400 | jq -c 'select(.reason == \"expired\")'

{SYSTEMS}"))]
pub(crate) struct WatchArgs {
    /// The system to watch.
    #[arg(long, value_name = "URL")]
    pub(crate) system: String,
}

/// Check a system: does it do what peers need, how fast, and what is to be fixed?
///
/// Connects twice, registers a probe (a fresh instance at "doctor://probe") through one connection
/// and looks for it through the other: by worker id, by instance id, in the list, in a watch.
/// Looks up an id that nobody has. Then unregisters the probe and sees it leave everywhere.
/// Compares what it measures with what the system declares; what a system does not declare is
/// "not offered", which is no problem. The probe is taken back whatever happens, Ctrl-C included;
/// whoever watches the same cluster sees it for that moment, so give a cluster of its own if
/// that matters.
///
/// Exits with 0 if everything works; 4 if the backend could not be asked; 1 if it answered wrongly
/// or later than it declares; 5 if the probe was refused its place.
#[derive(Debug, ClapArgs)]
#[command(after_help = format!("\
Examples:
  discovery doctor --system http://127.0.0.1:7400
  discovery doctor --system 'http://127.0.0.1:7400?cluster=doctor&ttl=3s' --output json

{SYSTEMS}"))]
pub(crate) struct DoctorArgs {
    /// The system to check.
    #[arg(long, value_name = "URL")]
    pub(crate) system: String,
}

/// One worker process of a demonstration, started by it.
#[cfg(feature = "server")]
#[derive(Debug, ClapArgs)]
pub(crate) struct DemoWorkerArgs {
    /// The process that started this one; only to be seen in a list of processes.
    #[arg(long, value_name = "PID")]
    pub(crate) parent: u32,
}

/// A duration of up to an hour.
fn span(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).map_err(|_| "not a duration such as 5s".to_owned())?;
    if span > Duration::from_secs(3_600) {
        return Err("at most 1h".to_owned());
    }
    Ok(span)
}

/// A time limit: a duration that is not zero.
fn limit(text: &str) -> Result<Duration, String> {
    match span(text)? {
        Duration::ZERO => Err("must be more than zero".to_owned()),
        limit => Ok(limit),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations_have_units_and_limits() {
        assert_eq!(limit("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(span("0s"), Ok(Duration::ZERO));
        for text in ["", "5", "2h", "-1s", "0s"] {
            assert!(limit(text).is_err(), "{text}");
        }
    }
}
