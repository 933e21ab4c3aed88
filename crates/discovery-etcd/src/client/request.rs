//! One request to one server.

use std::{sync::Arc, time::Duration};

use discovery_core::ErrorKind;
use etcd_client::{
    Compare, CompareOp, Error, GetOptions, LeaseTimeToLiveOptions, PutOptions, Txn, TxnOp,
    proto::{PbKeyValue, PbResponseOp, PbTxnOpResponse},
};

use crate::error::{Effect, Fault};

/// The most bytes of one answer: 10,000 records of full size and their keys.
const ANSWER_BYTES: usize = 192 * 1_024 * 1_024;

/// What to read.
///
/// Reads are never transactions: servers before 3.4.23 and 3.5.7 may end with a panic when the caller
/// of a transaction that only reads goes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    /// The first key.
    pub(crate) start: Vec<u8>,
    /// What comes after the last key; nothing to read `start` alone.
    pub(crate) end: Option<Vec<u8>>,
    /// The most keys.
    pub(crate) limit: i64,
    /// As of which revision; 0 is now.
    pub(crate) revision: i64,
}

impl Read {
    /// Reads one key, as of now.
    pub(crate) fn one(key: Vec<u8>) -> Self {
        Self {
            start: key,
            end: None,
            limit: 0,
            revision: 0,
        }
    }
}

/// What was read.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The revision of the store.
    pub(crate) revision: i64,
    pub(crate) entries: Vec<Entry>,
    /// Whether there was more than the limit.
    pub(crate) more: bool,
}

/// One operation of a transaction that writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Reads one key.
    Get(Vec<u8>),
    /// Writes a key; on a lease unless that is 0.
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
        lease: i64,
    },
    /// Removes a key.
    Delete(Vec<u8>),
    /// Does one operation if all conditions hold, else another.
    If {
        when: Vec<Condition>,
        then: Box<Request>,
        otherwise: Box<Request>,
    },
}

/// What must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Nothing stands under the key.
    Absent(Vec<u8>),
    /// What stands under the key was written at this revision.
    Revision(Vec<u8>, i64),
}

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// When it was written.
    pub(crate) revision: i64,
    /// The lease that it hangs on; 0 if it hangs on none.
    pub(crate) lease: i64,
}

/// What came of one operation.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// What was read.
    Read(Option<Entry>),
    /// It was written or removed.
    Changed,
    /// Which branch was taken, and what came of it.
    Branch(bool, Box<Outcome>),
}

impl Outcome {
    /// The entry that was read.
    pub(crate) fn entry(self) -> Option<Entry> {
        match self {
            Self::Read(entry) => entry,
            Self::Branch(_, inner) => inner.entry(),
            Self::Changed => None,
        }
    }
}

/// A connection to one server, for one call.
#[derive(Clone)]
pub(crate) struct Line {
    pub(super) client: etcd_client::Client,
    pub(super) host: Arc<str>,
    effect: Effect,
}

impl Line {
    pub(super) fn new(client: etcd_client::Client, host: Arc<str>, effect: Effect) -> Self {
        Self { client, host, effect }
    }

    /// The server's host and port.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Reads.
    pub(crate) async fn read(&self, read: Read) -> Result<Found, Fault> {
        let mut options = GetOptions::new()
            .with_limit(read.limit)
            .with_revision(read.revision);
        if let Some(end) = read.end {
            options = options.with_range(end);
        }
        let mut client = self.client.kv_client().max_decoding_message_size(ANSWER_BYTES);
        let answer = client.get(read.start, Some(options)).await;
        let answer = answer.map_err(|cause| self.failed(cause))?.0;
        let header = answer
            .header
            .ok_or_else(|| self.strange("an answer without a revision"))?;
        Ok(Found {
            revision: header.revision,
            entries: answer.kvs.into_iter().map(entry).collect(),
            more: answer.more,
        })
    }

    /// Does all of it in one transaction: its revision, and what came of each operation.
    pub(crate) async fn run(&self, requests: Vec<Request>) -> Result<(i64, Vec<Outcome>), Fault> {
        let asked = requests.len();
        let operations: Vec<_> = requests.into_iter().map(operation).collect();
        let mut client = self.client.kv_client().max_decoding_message_size(ANSWER_BYTES);
        let answer = client.txn(Txn::new().and_then(operations)).await;
        let answer = answer.map_err(|cause| self.failed(cause))?;
        let revision = answer.header().map(|header| header.revision());
        let outcomes = outcomes(answer.0.responses);
        match revision {
            Some(revision) if outcomes.len() == asked => Ok((revision, outcomes)),
            _ => Err(self.strange("an answer that is not once per operation")),
        }
    }

    /// Opens a lease: its id and its time to live.
    pub(crate) async fn grant(&self, seconds: i64) -> Result<(i64, Duration), Fault> {
        let granted = self.client.lease_client().grant(seconds, None).await;
        let granted = granted.map_err(|cause| self.failed(cause))?;
        let ttl = u64::try_from(granted.ttl()).map_err(|_| self.strange("a lease without a time to live"))?;
        Ok((granted.id(), Duration::from_secs(ttl)))
    }

    /// Prolongs a lease.
    pub(crate) async fn keep_alive(&self, lease: i64) -> Result<(), Fault> {
        // The call ends when the first answer is there, which has a time to live.
        let kept = self.client.lease_client().keep_alive(lease).await;
        kept.map(drop).map_err(|cause| self.failed(cause))
    }

    /// The keys that hang on a lease.
    pub(crate) async fn attached(&self, lease: i64) -> Result<Vec<Vec<u8>>, Fault> {
        let options = LeaseTimeToLiveOptions::new().with_keys();
        let answer = self
            .client
            .lease_client()
            .time_to_live(lease, Some(options))
            .await;
        let answer = answer.map_err(|cause| self.failed(cause))?;
        // A lease that is not there is no error here.
        if answer.ttl() <= 0 {
            return Err(Fault::lease_lost());
        }
        Ok(answer.keys().to_vec())
    }

    /// Ends a lease.
    pub(crate) async fn revoke(&self, lease: i64) -> Result<(), Fault> {
        let revoked = self.client.lease_client().revoke(lease).await;
        revoked.map(drop).map_err(|cause| self.failed(cause))
    }

    /// The version of the server.
    pub(crate) async fn version(&self) -> Result<String, Fault> {
        let status = self.client.maintenance_client().status().await;
        let status = status.map_err(|cause| self.failed(cause))?;
        Ok(status.version().to_owned())
    }

    pub(super) fn failed(&self, cause: Error) -> Fault {
        Fault::from_vendor(cause, self.effect, &self.host)
    }

    fn strange(&self, what: &str) -> Fault {
        Fault::strange(ErrorKind::Unexpected, format!("{} gave {what}", self.host))
    }
}

fn operation(request: Request) -> TxnOp {
    match request {
        Request::Get(key) => TxnOp::get(key, None),
        Request::Put { key, value, lease } => {
            let options = PutOptions::new().with_lease(lease);
            TxnOp::put(key, value, Some(options))
        }
        Request::Delete(key) => TxnOp::delete(key, None),
        Request::If {
            when,
            then,
            otherwise,
        } => {
            let when: Vec<_> = when.into_iter().map(compare).collect();
            let branches = Txn::new()
                .when(when)
                .and_then([operation(*then)])
                .or_else([operation(*otherwise)]);
            TxnOp::txn(branches)
        }
    }
}

fn compare(condition: Condition) -> Compare {
    match condition {
        Condition::Absent(key) => Compare::create_revision(key, CompareOp::Equal, 0),
        Condition::Revision(key, revision) => Compare::mod_revision(key, CompareOp::Equal, revision),
    }
}

/// One outcome per operation; fewer if the server left one out.
fn outcomes(answers: Vec<PbResponseOp>) -> Vec<Outcome> {
    answers
        .into_iter()
        .filter_map(|answer| answer.response.map(outcome))
        .collect()
}

fn outcome(answer: PbTxnOpResponse) -> Outcome {
    match answer {
        PbTxnOpResponse::ResponsePut(_) | PbTxnOpResponse::ResponseDeleteRange(_) => Outcome::Changed,
        PbTxnOpResponse::ResponseRange(read) => Outcome::Read(read.kvs.into_iter().next().map(entry)),
        PbTxnOpResponse::ResponseTxn(branch) => {
            let inner = outcomes(branch.responses).pop().unwrap_or(Outcome::Changed);
            Outcome::Branch(branch.succeeded, Box::new(inner))
        }
    }
}

pub(super) fn entry(stands: PbKeyValue) -> Entry {
    Entry {
        key: stands.key,
        value: stands.value,
        revision: stands.mod_revision,
        lease: stands.lease,
    }
}
