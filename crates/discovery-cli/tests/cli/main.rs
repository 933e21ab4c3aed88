//! The command line as its users meet it: real processes, real signals.

#[cfg(test)]
mod commands;
#[cfg(test)]
mod crowd;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod input;
#[cfg(test)]
mod process;
#[cfg(test)]
mod swallow;
#[cfg(test)]
mod watch;
#[cfg(test)]
mod watch_faults;
#[cfg(test)]
mod watching;
