//! One worker process: registers, finds its peers, and keeps checking.

use std::{
    collections::BTreeMap,
    io::{BufRead, stdin},
    sync::Arc,
    thread,
    time::Duration,
};

use discovery::{
    DiscoveryError, ErrorKind,
    peer::{InstanceId, PeerInfo, PeerWatch, WorkerAddress, manager::PeerDiscoveryManager},
};
use tokio::{
    sync::{oneshot, watch},
    time::{MissedTickBehavior, interval},
};

use super::message::{News, Order};
use crate::{failure::Failure, output::Output, signal::Stop, system};

/// How long an answer may be given again: shorter than looking twice.
const FRESH: Duration = Duration::from_millis(20);
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long after its parent a worker lives at most.
const ORPHANED: Duration = Duration::from_secs(2);

/// Does what the parent orders until it is told to stop, or the parent is gone.
pub(crate) async fn run(output: &Output) -> Result<(), Failure> {
    let mut stop = Stop::catch()?;
    let (order, mut orphaned) = listen_to_parent()?;
    let order = order
        .await
        .map_err(|_| Failure::usage("this command is for `discovery demo` only"))?;
    let asked = async {
        tokio::select! {
            () = stop.asked() => {}
            _ = orphaned.wait_for(|gone| *gone) => {}
        }
    };
    tokio::pin!(asked);
    let started = tokio::select! {
        started = Worker::start(&order, output) => started,
        () = &mut asked => return Ok(()),
    };
    match started {
        Ok(worker) => worker.work(asked).await,
        Err(failure) => {
            let (code, message) = (failure.code().to_owned(), failure.line());
            say(output, &News::Failed { code, message })
        }
    }
}

/// Reads the order; at the end of stdin the parent has gone, and so does this process, whatever
/// its runtime is busy with.
fn listen_to_parent() -> Result<(oneshot::Receiver<Order>, watch::Receiver<bool>), Failure> {
    let (order, ordered) = oneshot::channel();
    let (gone, orphaned) = watch::channel(false);
    let listen = move || {
        let mut lines = stdin().lock().lines().map_while(Result::ok);
        if let Some(parsed) = lines.next().and_then(|line| serde_json::from_str(&line).ok()) {
            let _ = order.send(parsed);
        }
        lines.for_each(drop);
        gone.send_replace(true);
        thread::sleep(ORPHANED);
        std::process::exit(0);
    };
    thread::Builder::new()
        .name("parent".to_owned())
        .spawn(listen)
        .map_err(|cause| Failure::unexpected("cannot start a thread", &cause))?;
    Ok((ordered, orphaned))
}

struct Worker<'a> {
    manager: PeerDiscoveryManager,
    listing: Arc<dyn PeerWatch>,
    own: InstanceId,
    every: Duration,
    known: BTreeMap<InstanceId, PeerInfo>,
    troubled: bool,
    output: &'a Output,
}

impl<'a> Worker<'a> {
    async fn start(order: &Order, output: &'a Output) -> Result<Self, Failure> {
        let own: InstanceId = order.instance_id.parse()?;
        let system = discovery::connect(&order.system).await?;
        let listing = system::listing(&*system)?;
        let manager = PeerDiscoveryManager::builder()
            .local_peer(PeerInfo::new(own, WorkerAddress::from_bytes(&order.address)))
            .source(system::peers(&*system)?)
            .fresh_for(FRESH)
            .negative_for(FRESH)
            .build()
            .await?;
        say(output, &News::Live)?;
        Ok(Self {
            manager,
            listing,
            own,
            every: order.every,
            known: BTreeMap::new(),
            troubled: false,
            output,
        })
    }

    async fn work(mut self, asked: impl Future<Output = ()>) -> Result<(), Failure> {
        let ended = tokio::select! {
            ended = self.keep_looking() => ended,
            () = asked => Ok(()),
        };
        // The parent knows what it expects; a system that does not confirm is not for here.
        let _ = self.manager.shutdown(GOODBYE).await;
        ended
    }

    async fn keep_looking(&mut self) -> Result<(), Failure> {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.listing.list_peers().await {
                Ok(listed) => {
                    self.troubled = false;
                    self.compare(listed).await?;
                }
                // Told once; the next look may succeed.
                Err(error) if !self.troubled => {
                    self.troubled = true;
                    let message = Failure::from(error).line();
                    say(self.output, &News::Trouble { message })?;
                }
                Err(_) => {}
            }
        }
    }

    async fn compare(&mut self, listed: Vec<PeerInfo>) -> Result<(), Failure> {
        let listed: BTreeMap<_, _> = listed
            .into_iter()
            .map(|peer| (peer.instance_id(), peer))
            .filter(|(id, _)| *id != self.own)
            .collect();
        let missing: Vec<_> = self
            .known
            .keys()
            .filter(|id| !listed.contains_key(id))
            .copied()
            .collect();
        for id in missing {
            if self.is_gone(id).await {
                self.known.remove(&id);
                let instance_id = id.to_string();
                say(self.output, &News::Lost { instance_id })?;
            }
        }
        for (id, peer) in listed {
            if self.known.get(&id) != Some(&peer) && self.is_found(&peer).await {
                self.known.insert(id, peer);
                let instance_id = id.to_string();
                say(self.output, &News::Found { instance_id })?;
            }
        }
        Ok(())
    }

    async fn is_found(&self, peer: &PeerInfo) -> bool {
        let by_worker = self.manager.discover_by_worker_id(peer.worker_id()).await;
        let by_instance = self.manager.discover_by_instance_id(peer.instance_id()).await;
        [by_worker, by_instance]
            .into_iter()
            .all(|found| found.is_ok_and(|found| found == *peer))
    }

    async fn is_gone(&self, id: InstanceId) -> bool {
        let by_worker = self.manager.discover_by_worker_id(id.worker_id()).await;
        let by_instance = self.manager.discover_by_instance_id(id).await;
        let not_found = |error: DiscoveryError| error.kind() == ErrorKind::NotFound;
        [by_worker, by_instance]
            .into_iter()
            .all(|found| found.is_err_and(not_found))
    }
}

fn say(output: &Output, news: &News) -> Result<(), Failure> {
    output.say("", news)
}
