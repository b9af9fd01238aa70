//! Closes the connections of a user on all nodes. `node` asks for it; `listener` carries out the requests of other
//! nodes and collects their answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::cluster::Cluster;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::Termination;
use crate::registry::AppState;

/// How long the other nodes have to answer.
const ANSWERS_WAIT: Duration = Duration::from_secs(1);

/// The requests that wait for answers, by number.
pub(super) type Questions = Mutex<HashMap<u64, mpsc::Sender<u64>>>;

/// A request that waits for answers. The caller may drop it at any time.
struct Question<'a> {
    all: &'a Questions,
    number: u64,
}

impl<'a> Question<'a> {
    fn new(all: &'a Questions, answers: mpsc::Sender<u64>) -> Self {
        // An answer to an earlier process, or of one that makes it up, fits none.
        let number = rand::random();
        all.lock().insert(number, answers);
        Self { all, number }
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.number);
    }
}

impl Cluster {
    /// Closes the connections of a user on all nodes, or on none when the others cannot be asked. Returns how many
    /// there were, as far as the nodes have answered in time.
    pub async fn terminate(&self, app: &AppState, user_id: &str) -> Option<u64> {
        let awaited = self.peers().len();
        let (answers, mut answered) = mpsc::channel(awaited.max(1));
        let question = Question::new(&self.questions, answers);
        let termination = Termination {
            node: self.node(),
            request: question.number,
            closed: 0,
            app: Arc::clone(app.id()),
            user_id: user_id.into(),
        };
        let began = Instant::now();
        if !self.announce(Envelope::Terminate(termination)) {
            return None;
        }
        let mut closed = app.terminate(user_id) as u64;
        let all = async {
            for _ in 0..awaited {
                closed = closed.saturating_add(answered.recv().await.unwrap_or_default());
            }
        };
        let complete = tokio::time::timeout(ANSWERS_WAIT, all).await.is_ok();
        self.meters.query_finished(app.id(), complete.then(|| began.elapsed()));
        if !complete {
            tracing::warn!("not every node has told how many connections of a user it has closed");
        }
        Some(closed)
    }

    /// Another node asks this one to close the connections of a user.
    pub(super) fn on_terminate(&self, request: Termination) {
        let Some(app) = self.app(&request.app) else { return };
        self.meters.query_received(&request.app);
        let closed = app.terminate(&request.user_id) as u64;
        self.send_to(request.node, Envelope::Terminated(Termination { node: self.node(), closed, ..request }));
    }

    /// Another node answers.
    pub(super) fn on_terminated(&self, answer: &Termination) {
        if let Some(answers) = self.questions.lock().get(&answer.request) {
            self.meters.answer_received(&answer.app);
            // The caller may have given up.
            let _ = answers.try_send(answer.closed);
        }
    }
}
