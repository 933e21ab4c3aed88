//! What goes to stdout and stderr: tables for people, one JSON object per line for scripts.

use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, ErrorKind, IsTerminal, Write},
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use serde::Serialize;
use tokio::time::{Instant, interval_at};

use crate::{exit::Exit, failure::Failure};

/// A good outcome.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Something to look at.
pub(crate) const ODD: Style = AnsiColor::Yellow.on_default();
/// A bad outcome.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// Headings.
pub(crate) const BOLD: Style = Style::new().bold();
/// What matters less.
pub(crate) const FAINT: Style = Style::new().dimmed();

/// What to print on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text on a terminal, JSON in a pipe.
    Auto,
    /// Tables and sentences.
    Text,
    /// One JSON object per line, errors included.
    Json,
}

/// Where results, progress and failures are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    text: bool,
    error_object: bool,
    progress: bool,
}

impl Output {
    /// Decides between text and JSON.
    pub(crate) fn new(format: Format) -> Self {
        let text = match format {
            Format::Auto => io::stdout().is_terminal(),
            Format::Text => true,
            Format::Json => false,
        };
        Self {
            text,
            error_object: format == Format::Json,
            progress: text && io::stderr().is_terminal() && !is_dumb(),
        }
    }

    /// For arguments that could not be read: looks for `--output json` among them.
    pub(crate) fn for_refusal(args: impl Iterator<Item = OsString>) -> Self {
        let args: Vec<_> = args.collect();
        let split = args
            .windows(2)
            .any(|pair| pair[0] == "--output" && pair[1] == "json");
        let json = split || args.iter().any(|arg| arg == "--output=json");
        Self::new(if json { Format::Json } else { Format::Auto })
    }

    /// Whether people read stdout.
    pub(crate) fn is_text(&self) -> bool {
        self.text
    }

    /// Prints one result: the text for people, or the object for scripts.
    pub(crate) fn say(&self, text: impl Display, object: &impl Serialize) -> Result<(), Failure> {
        let printed = if self.text {
            let mut stdout = anstream::stdout().lock();
            writeln!(stdout, "{text}").and_then(|()| stdout.flush())
        } else {
            print_object(object)
        };
        printed.map_err(unwritten)
    }

    /// Tells people something on stderr that is no failure.
    pub(crate) fn warn(&self, text: impl Display) {
        let _ = writeln!(anstream::stderr(), "{ODD}warning:{ODD:#} {text}");
    }

    /// Tells people something on stderr that is good to know.
    pub(crate) fn note(&self, text: impl Display) {
        let _ = writeln!(anstream::stderr(), "{GOOD}note:{GOOD:#} {text}");
    }

    /// Reports a failure; returns how the process ends.
    pub(crate) fn failed(&self, failure: &Failure) -> Exit {
        if !failure.is_silent() {
            if self.error_object {
                let _ = print_object(&failure.object());
            }
            let _ = writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {}", failure.line());
        }
        failure.exit()
    }

    /// Waits for something and, on a terminal, shows that it is being waited for once that
    /// takes more than a second.
    pub(crate) async fn waiting<T>(&self, what: impl Display, future: impl Future<Output = T>) -> T {
        if !self.progress {
            return future.await;
        }
        let began = Instant::now();
        let mut ticks = interval_at(began + Duration::from_secs(1), Duration::from_millis(100));
        let mut shown = Shown(false);
        tokio::pin!(future);
        loop {
            tokio::select! {
                done = &mut future => return done,
                _ = ticks.tick() => shown.update(&what, began.elapsed()),
            }
        }
    }
}

/// A line of progress, which leaves no trace.
struct Shown(bool);

impl Shown {
    fn update(&mut self, what: &impl Display, elapsed: Duration) {
        const TURNS: [char; 4] = ['⠋', '⠙', '⠴', '⠦'];
        let turn = TURNS[(elapsed.as_millis() / 100) as usize % TURNS.len()];
        let seconds = elapsed.as_secs_f32();
        let _ = write!(
            anstream::stderr(),
            "\r\u{1b}[K  {FAINT}{turn} {what} … {seconds:.1} s{FAINT:#}"
        );
        self.0 = true;
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if self.0 {
            clear_line();
        }
    }
}

/// Not through `anstream`, which without colour would leave the old line standing.
fn clear_line() {
    let _ = io::stderr().write_all(b"\r\x1b[K");
}

/// Whether the terminal knows no control sequences.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|name| name == "dumb")
}

fn print_object(object: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(object)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}

fn unwritten(error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::unread(),
        _ => Failure::unexpected("cannot write to stdout", &error),
    }
}
