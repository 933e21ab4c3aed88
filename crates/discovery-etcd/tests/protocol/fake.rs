//! A server that says on a watch what a test wants it to say: what real ones say rarely, or in
//! other versions only.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use etcd_client::proto::{
    PbAlarmRequest, PbAlarmResponse, PbCompactionRequest, PbCompactionResponse, PbDefragmentRequest,
    PbDefragmentResponse, PbDeleteRequest, PbDeleteResponse, PbDowngradeRequest, PbDowngradeResponse,
    PbHashKvRequest, PbHashKvResponse, PbHashRequest, PbHashResponse, PbKeyValue, PbKvServer, PbKvService,
    PbMaintenanceServer, PbMaintenanceService, PbMoveLeaderRequest, PbMoveLeaderResponse, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbResponseHeader,
    PbSnapshotRequest, PbSnapshotResponse, PbStatusRequest, PbStatusResponse, PbTxnRequest, PbTxnResponse,
    PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchServer, PbWatchService,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// The generation that every fake says it is of.
pub(crate) const GENERATION: u64 = 7;

/// What it does next on a watch.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Say(PbWatchResponse),
    /// Says it once it is asked how far it has come.
    WhenAsked(PbWatchResponse),
    /// Breaks the stream off.
    Break,
}

/// What it does on a watch that begins at a revision; after that it is silent.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) from: i64,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct State {
    version: &'static str,
    /// The revision that reads are true as of, and the names of the records that stand.
    stands: (i64, Vec<&'static str>),
    scripts: Mutex<VecDeque<Script>>,
}

impl Fake {
    /// A server of this version, at this revision, with these records and watches.
    pub(crate) async fn start(
        version: &'static str,
        stands: (i64, &[&'static str]),
        scripts: Vec<Script>,
    ) -> Self {
        let state = Arc::new(State {
            version,
            stands: (stands.0, stands.1.to_vec()),
            scripts: Mutex::new(scripts.into()),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let incoming = stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.map(|(connection, _)| connection);
            Some((accepted, listener))
        });
        let services = Service(state.clone());
        let server = Server::builder()
            .add_service(PbKvServer::new(services.clone()))
            .add_service(PbMaintenanceServer::new(services.clone()))
            .add_service(PbWatchServer::new(services));
        let task = tokio::spawn(async move {
            server.serve_with_incoming(incoming).await.expect("it serves");
        });
        Self {
            address,
            state,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Whether every watch that was expected has begun.
    pub(crate) fn is_done(&self) -> bool {
        self.state.scripts.lock().expect("not poisoned").is_empty()
    }
}

pub(crate) fn header(revision: i64) -> Option<PbResponseHeader> {
    Some(PbResponseHeader {
        revision,
        ..PbResponseHeader::default()
    })
}

/// What stands under a name, written at a revision.
pub(crate) fn record(name: &str, revision: i64) -> PbKeyValue {
    PbKeyValue {
        key: format!("/discovery/default/things/{name}").into_bytes(),
        value: format!("{name}\n{:032x}", 1).into_bytes(),
        mod_revision: revision,
        ..PbKeyValue::default()
    }
}

#[derive(Clone)]
struct Service(Arc<State>);

impl Service {
    fn read(&self, asked: &PbRangeRequest) -> PbRangeResponse {
        let (revision, names) = &self.0.stands;
        let kvs = match asked.range_end.is_empty() {
            true => vec![PbKeyValue {
                key: asked.key.clone(),
                value: GENERATION.to_string().into_bytes(),
                mod_revision: 1,
                ..PbKeyValue::default()
            }],
            false => names.iter().map(|name| record(name, *revision)).collect(),
        };
        PbRangeResponse {
            header: header(*revision),
            kvs,
            ..PbRangeResponse::default()
        }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl PbWatchService for Service {
    type WatchStream = Answers<PbWatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut asked = request.into_inner();
        let create = asked.message().await?.and_then(|request| request.request_union);
        let Some(PbWatchRequestUnion::CreateRequest(create)) = create else {
            return Err(Status::invalid_argument("no watch"));
        };
        let script = self.0.scripts.lock().expect("not poisoned").pop_front();
        let script = script.filter(|script| script.from == create.start_revision);
        let Some(script) = script else {
            let context = format!("nobody expected a watch from {}", create.start_revision);
            return Err(Status::failed_precondition(context));
        };
        let (say, said) = mpsc::channel(16);
        tokio::spawn(async move {
            for step in script.steps {
                let answer = match step {
                    Step::Say(answer) => Ok(answer),
                    Step::WhenAsked(answer) => match asked.message().await {
                        Ok(Some(_)) => Ok(answer),
                        _ => return,
                    },
                    Step::Break => Err(Status::unavailable("as asked")),
                };
                if say.send(answer).await.is_err() {
                    return;
                }
            }
            // Silent, until nobody listens any more.
            say.closed().await;
        });
        let answers = stream::unfold(said, |mut said| async move { Some((said.recv().await?, said)) });
        Ok(Response::new(answers.boxed()))
    }
}

/// What nobody asks for, as the attribute would write it: it does not see into a macro.
macro_rules! unasked {
    ($($name:ident($request:ty) -> $answer:ty;)*) => {
        $(fn $name<'a, 'b>(
            &'a self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<$answer>, Status>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        })*
    };
}

#[tonic::async_trait]
impl PbKvService for Service {
    type RangeStreamStream = Answers<PbRangeStreamResponse>;

    async fn range(&self, request: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        Ok(Response::new(self.read(request.get_ref())))
    }

    unasked! {
        txn(PbTxnRequest) -> PbTxnResponse;
        range_stream(PbRangeRequest) -> Self::RangeStreamStream;
        put(PbPutRequest) -> PbPutResponse;
        delete_range(PbDeleteRequest) -> PbDeleteResponse;
        compact(PbCompactionRequest) -> PbCompactionResponse;
    }
}

#[tonic::async_trait]
impl PbMaintenanceService for Service {
    type SnapshotStream = Answers<PbSnapshotResponse>;

    async fn status(&self, _: Request<PbStatusRequest>) -> Result<Response<PbStatusResponse>, Status> {
        Ok(Response::new(PbStatusResponse {
            version: self.0.version.to_owned(),
            ..PbStatusResponse::default()
        }))
    }

    unasked! {
        alarm(PbAlarmRequest) -> PbAlarmResponse;
        defragment(PbDefragmentRequest) -> PbDefragmentResponse;
        hash(PbHashRequest) -> PbHashResponse;
        hash_kv(PbHashKvRequest) -> PbHashKvResponse;
        snapshot(PbSnapshotRequest) -> Self::SnapshotStream;
        move_leader(PbMoveLeaderRequest) -> PbMoveLeaderResponse;
        downgrade(PbDowngradeRequest) -> PbDowngradeResponse;
    }
}
