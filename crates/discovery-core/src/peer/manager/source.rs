//! One source of peers, with the bounds that the manager puts on it.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{sync::Semaphore, time::timeout};

use super::board::Question;
use crate::{
    DiscoveryError, ErrorKind,
    peer::{PeerDiscovery, PeerInfo},
};

/// Calls that one source gets at once; more wait, within their deadline.
const CONCURRENT_CALLS: usize = 256;

#[derive(Debug)]
pub(super) struct Source {
    name: Arc<str>,
    discovery: Arc<dyn PeerDiscovery>,
    deadline: Duration,
    permits: Semaphore,
    wrong_answers: AtomicU64,
}

impl Source {
    pub(super) fn new(discovery: Arc<dyn PeerDiscovery>, deadline: Duration) -> Self {
        Self {
            name: discovery.name().into(),
            discovery,
            deadline,
            permits: Semaphore::new(CONCURRENT_CALLS),
            wrong_answers: AtomicU64::new(0),
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn discovery(&self) -> &Arc<dyn PeerDiscovery> {
        &self.discovery
    }

    pub(super) fn wrong_answers(&self) -> u64 {
        self.wrong_answers.load(Ordering::Relaxed)
    }

    /// Asks, within the source's deadline; one checked answer per question, in order.
    pub(super) async fn ask(&self, questions: &[Question]) -> Vec<Result<PeerInfo, DiscoveryError>> {
        let call = AssertUnwindSafe(self.call(questions)).catch_unwind();
        let answers = match timeout(self.deadline, call).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(_)) => self.failed(questions, ErrorKind::Unexpected, "the source panicked".to_owned()),
            Err(_) => self.failed(
                questions,
                ErrorKind::Timeout,
                format!("no answer within {:?}", self.deadline),
            ),
        };
        let mut answers = answers.into_iter();
        let before = self.wrong_answers();
        let checked = questions
            .iter()
            .map(|question| self.checked(*question, answers.next()))
            .collect();
        let wrong = self.wrong_answers().saturating_sub(before);
        if wrong > 0 {
            tracing::warn!(target: "discovery::manager", source = &*self.name, wrong, "dropped wrong answers");
        }
        checked
    }

    fn failed(
        &self,
        questions: &[Question],
        kind: ErrorKind,
        context: String,
    ) -> Vec<Result<PeerInfo, DiscoveryError>> {
        let error = DiscoveryError::new(kind, context)
            .with_operation("lookup")
            .with_system(self.name.clone());
        vec![Err(error); questions.len()]
    }

    async fn call(&self, questions: &[Question]) -> Vec<Result<PeerInfo, DiscoveryError>> {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        match questions {
            [Question::Worker(id)] => vec![self.discovery.discover_by_worker_id(*id).await],
            [Question::Instance(id)] => vec![self.discovery.discover_by_instance_id(*id).await],
            many => {
                let ids: Vec<_> = many.iter().map(|question| question.key()).collect();
                self.discovery.discover_many(&ids).await
            }
        }
    }

    /// Does not let an answer pass that does not fit its question.
    fn checked(
        &self,
        question: Question,
        answer: Option<Result<PeerInfo, DiscoveryError>>,
    ) -> Result<PeerInfo, DiscoveryError> {
        match answer {
            Some(Ok(peer)) if question.fits(&peer) => Ok(peer),
            Some(Err(error)) => Err(error),
            _ => {
                self.wrong_answers.fetch_add(1, Ordering::Relaxed);
                let context = format!(
                    "source {} gave an answer that does not fit the question",
                    self.name
                );
                Err(DiscoveryError::new(ErrorKind::Malformed, context).with_system(self.name.clone()))
            }
        }
    }
}
