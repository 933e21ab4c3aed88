//! Asking the sources, in a task of its own: no caller can cancel or freeze it.

use std::{sync::Arc, time::Duration};

use super::{
    Shared,
    board::{Landing, Question, Ticket},
    table::Hit,
};
use crate::{DiscoveryError, ErrorKind};

/// Tickets under way. Those that were not landed when it is dropped are given up.
pub(super) struct Flight {
    shared: Arc<Shared>,
    open: Vec<Open>,
}

struct Open {
    ticket: Ticket,
    failures: Vec<(Arc<str>, DiscoveryError)>,
    hung: bool,
}

impl Flight {
    pub(super) fn new(shared: Arc<Shared>, tickets: Vec<Ticket>) -> Self {
        let open = tickets
            .into_iter()
            .map(|ticket| Open {
                ticket,
                failures: Vec::new(),
                hung: false,
            })
            .collect();
        Self { shared, open }
    }

    /// Asks one source after the other until everything is answered.
    pub(super) async fn fly(mut self) {
        let shared = self.shared.clone();
        for (index, source) in shared.sources.iter().enumerate() {
            let questions: Vec<Question> = self.open.iter().map(|open| open.ticket.question).collect();
            if questions.is_empty() {
                return;
            }
            let answers = source.ask(&questions).await;
            for (mut open, answer) in std::mem::take(&mut self.open).into_iter().zip(answers) {
                match answer {
                    Ok(peer) => {
                        let source = u16::try_from(index).unwrap_or(u16::MAX);
                        let hit = Hit {
                            peer,
                            source,
                            age: Duration::ZERO,
                        };
                        shared.board.land(
                            open.ticket,
                            Landing {
                                answer: Ok(hit),
                                hung: false,
                            },
                        );
                    }
                    Err(error) => {
                        open.hung |= error.kind() == ErrorKind::Timeout;
                        if error.kind() != ErrorKind::NotFound {
                            open.failures.push((source.name().clone(), error));
                        }
                        self.open.push(open);
                    }
                }
            }
        }
        for Open {
            ticket,
            failures,
            hung,
        } in std::mem::take(&mut self.open)
        {
            let answer = Err(unanswered(ticket.question, shared.sources.len(), &failures));
            shared.board.land(ticket, Landing { answer, hung });
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        for open in std::mem::take(&mut self.open) {
            self.shared.board.give_up(open.ticket);
        }
    }
}

/// Nobody found it. That is "not found" only if everybody said so.
pub(super) fn unanswered(
    question: Question,
    asked: usize,
    failures: &[(Arc<str>, DiscoveryError)],
) -> DiscoveryError {
    let what = match question {
        Question::Worker(id) => format!("worker {id}"),
        Question::Instance(id) => format!("instance {id}"),
    };
    if asked == 0 {
        let context = format!("{what} is not known, and the manager has no source to ask");
        return DiscoveryError::new(ErrorKind::Unavailable, context).with_operation("lookup");
    }
    let Some((_, first)) = failures.first() else {
        return not_found(question);
    };
    let common = failures.iter().all(|(_, error)| error.kind() == first.kind());
    let kind = if common {
        first.kind()
    } else {
        ErrorKind::Unavailable
    };
    let named: Vec<_> = failures
        .iter()
        .map(|(source, error)| format!("[{source}] {error}"))
        .collect();
    let context = format!(
        "{what} was not found, and {} of {asked} sources could not answer: {}",
        failures.len(),
        named.join("; ")
    );
    DiscoveryError::new(kind, context)
        .with_operation("lookup")
        .with_source(first.clone())
}

pub(super) fn not_found(question: Question) -> DiscoveryError {
    let context = match question {
        Question::Worker(id) => format!("no source knows worker {id}"),
        Question::Instance(id) => format!("no source knows instance {id}"),
    };
    DiscoveryError::new(ErrorKind::NotFound, context).with_operation("lookup")
}
