//! `watch`: the snapshot, then every change, until asked to stop.

mod news;

use std::time::SystemTime;

use discovery::{ErrorKind, peer::PeerEvents};
use futures_util::StreamExt;
use tokio::task::spawn_blocking;

use self::news::{News, Teller};
use crate::{
    args::WatchArgs,
    failure::Failure,
    output::Output,
    signal::{Stop, unread},
    system,
};

/// Tells of every change until told to stop, or until nobody reads any more.
pub(crate) async fn run(args: WatchArgs, output: &Output) -> Result<(), Failure> {
    system::check(&args.system)?;
    let mut stop = Stop::catch()?;
    let starting = async {
        let system = output
            .waiting("connecting", discovery::connect(&args.system))
            .await?;
        let (peers, watch) = (system::peers(&*system)?, system::listing(&*system)?);
        let what = format!("starting to watch {}", peers.name());
        let events = output.waiting(what, watch.watch_peers()).await?;
        let teller = Teller::new(peers.name(), system.cluster().as_str());
        Ok::<_, Failure>((events, teller))
    };
    let (events, teller) = tokio::select! {
        started = starting => started?,
        () = stop.asked() => return Err(Failure::interrupted()),
    };
    tokio::select! {
        ended = follow(events, teller, *output) => ended,
        () = stop.asked() => Ok(()),
        () = unread() => Err(Failure::unread()),
    }
}

async fn follow(mut events: PeerEvents, mut teller: Teller, output: Output) -> Result<(), Failure> {
    while let Some(event) = events.next().await {
        let Some(news) = teller.tell(event, SystemTime::now()) else {
            continue;
        };
        // A reader who takes nothing must not keep a signal from ending this.
        let told = spawn_blocking(move || say(&news, output)).await;
        told.map_err(|cause| Failure::unexpected("cannot print", &cause))??;
    }
    let message = "the watch has ended by itself";
    Err(Failure::new(ErrorKind::Unexpected, message).with_hint("this is a bug: please report it"))
}

fn say(news: &News, output: Output) -> Result<(), Failure> {
    match news {
        News::Event { text, object } => output.say(text, object),
        News::Trouble(line) => {
            output.warn(line);
            Ok(())
        }
        News::Back { note, text, object } => {
            output.note(note);
            output.say(text, object)
        }
    }
}
