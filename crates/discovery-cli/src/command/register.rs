//! `register`: registers and holds the registration.

use std::{os::unix::ffi::OsStrExt, time::Duration};

use discovery::{
    DiscoveryError, ErrorKind,
    peer::{InstanceId, PeerDiscovery, PeerInfo, Registration, RegistrationState, WorkerAddress},
};
use serde::Serialize;

use crate::{
    args::RegisterArgs,
    failure::Failure,
    output::{BAD, FAINT, GOOD, ODD, Output},
    peer::PeerObject,
    signal::Stop,
    system,
};

/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(4);
/// How long ending what is left may take after that.
const SHUTDOWN: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Event<'a> {
    event: &'static str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    system: &'a str,
    #[serde(flatten)]
    peer: PeerObject,
}

/// Registers, and stays until told to go or superseded. Told to go before it was registered, it
/// was interrupted.
pub(crate) async fn run(args: RegisterArgs, output: &Output) -> Result<(), Failure> {
    let peer = peer(&args)?;
    system::check(&args.system)?;
    let mut stop = Stop::catch()?;
    let connecting = async { Ok::<_, Failure>(discovery::connect(&args.system).await?) };
    let system = tokio::select! {
        connected = output.waiting("connecting", connecting) => connected?,
        () = stop.asked() => return Err(Failure::interrupted()),
    };
    let held = Holder {
        peers: system::peers(&*system)?,
        peer,
        output,
    };
    let outcome = held.hold(&mut stop).await;
    let ended = system.shutdown(SHUTDOWN).await;
    outcome?;
    Ok(ended?)
}

/// The peer to register, checked before anything is sent.
fn peer(args: &RegisterArgs) -> Result<PeerInfo, DiscoveryError> {
    let address = WorkerAddress::from_bytes(args.address.as_bytes());
    address.validate()?;
    let id = match &args.instance_id {
        Some(text) => text.parse()?,
        None => InstanceId::new_v4(),
    };
    Ok(PeerInfo::new(id, address))
}

struct Holder<'a> {
    peers: std::sync::Arc<dyn PeerDiscovery>,
    peer: PeerInfo,
    output: &'a Output,
}

impl Holder<'_> {
    async fn hold(&self, stop: &mut Stop) -> Result<(), Failure> {
        let (id, address) = (self.peer.instance_id(), self.peer.address().clone());
        let what = format!("registering on {}", self.peers.name());
        let registering = self
            .output
            .waiting(what, self.peers.register_instance(id, address));
        let registration = tokio::select! {
            registered = registering => registered?,
            // What may have been written is taken back by the system's shutdown.
            () = stop.asked() => return Err(Failure::interrupted()),
        };
        match self.follow(&registration, stop).await {
            Ok(()) => self.leave(registration).await,
            Err(failure) => Err(failure),
        }
    }

    /// Tells every change of the state until asked to stop.
    async fn follow(&self, registration: &Registration, stop: &mut Stop) -> Result<(), Failure> {
        let mut observer = registration.observer();
        let mut state = observer.state();
        loop {
            let cause = observer.cause().filter(|_| state != RegistrationState::Live);
            self.tell(state, cause.as_ref())?;
            if state.is_final() {
                let error = ended(state, cause)
                    .with_system(self.peers.name())
                    .with_operation("hold");
                return Err(error.into());
            }
            state = tokio::select! {
                state = observer.changed() => state,
                () = stop.asked() => return Ok(()),
            };
        }
    }

    async fn leave(&self, registration: Registration) -> Result<(), Failure> {
        let unregistering = tokio::time::timeout(GOODBYE, registration.unregister());
        let outcome = self.output.waiting("unregistering", unregistering).await;
        let silence =
            || DiscoveryError::new(ErrorKind::Timeout, format!("no confirmation within {GOODBYE:?}"));
        match outcome.unwrap_or_else(|_| Err(silence().with_system(self.peers.name()))) {
            Ok(()) => self.tell(RegistrationState::Gone, None),
            Err(error) => Err(Failure::from(error)
                .during("leaving without confirmation")
                .with_hint("it is not renewed any more and expires within its TTL")),
        }
    }

    fn tell(&self, state: RegistrationState, cause: Option<&DiscoveryError>) -> Result<(), Failure> {
        let style = match state {
            RegistrationState::Live => GOOD,
            RegistrationState::Gone => FAINT,
            RegistrationState::Superseded => BAD,
            _ => ODD,
        };
        let because = cause
            .map(|cause| format!("  {FAINT}{cause}{FAINT:#}"))
            .unwrap_or_default();
        let (id, address, name) = (self.peer.instance_id(), self.peer.address(), self.peers.name());
        let text = format!(
            "{style}{:<10}{style:#}  {id}  {address}  on {name}{because}",
            state.name()
        );
        let event = Event {
            event: "registration",
            state: state.name(),
            cause: cause.map(ToString::to_string),
            system: name,
            peer: PeerObject::from(&self.peer),
        };
        self.output.say(text, &event)
    }
}

/// A registration that has ended although nobody here asked for it.
fn ended(state: RegistrationState, cause: Option<DiscoveryError>) -> DiscoveryError {
    let kind = match state {
        RegistrationState::Superseded => ErrorKind::Superseded,
        _ => ErrorKind::Unexpected,
    };
    cause.unwrap_or_else(|| DiscoveryError::new(kind, format!("the registration is {state}")))
}
