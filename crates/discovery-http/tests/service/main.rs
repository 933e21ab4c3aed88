//! The client against the service, over real sockets.

#[cfg(test)]
mod api;
#[cfg(test)]
mod bad_request;
#[cfg(test)]
mod cost;
#[cfg(test)]
mod fault;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod odd;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod store;
#[cfg(test)]
mod system;
#[cfg(test)]
mod watch;
#[cfg(test)]
mod watching;
