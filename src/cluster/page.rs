//! The operator's pages of the nodes among each other: a status of each node, and questions to one node.
//! `dashboard` writes, asks and answers; without a page on any node nothing is sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::cluster::Cluster;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::PageMessage;

/// A longer status is not one of gema's.
const STATUS_BYTES_MAX: usize = 256 * 1024;
/// A longer question is not one of gema's.
const QUESTION_BYTES_MAX: usize = 64 * 1024;
/// A longer answer is not one of gema's, which bounds each list in it.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How long another node has to answer a question.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Questions of other nodes that wait for the page; further ones get no answer.
const QUESTIONS_MAX: usize = 64;

/// The questions between pages.
#[derive(Debug, Default)]
pub(super) struct PageQuestions {
    /// Those that this node has asked, by number.
    asked: Mutex<HashMap<u64, oneshot::Sender<Arc<str>>>>,
    /// Where those of other nodes go, if there is a page here.
    received: Mutex<Option<mpsc::Sender<PageMessage>>>,
}

/// Another node as all nodes know it.
#[derive(Debug)]
pub struct NodeStatus {
    /// Its id.
    pub node: NodeId,
    /// Its lease is there.
    pub is_live: bool,
    /// The last status, for some seconds.
    pub status: Option<String>,
}

/// A question that waits for its answer. The caller may drop it at any time.
struct Asked<'a> {
    all: &'a PageQuestions,
    number: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.all.asked.lock().remove(&self.number);
    }
}

impl Cluster {
    /// The questions of other nodes' pages, from now on.
    pub fn page_questions(&self) -> mpsc::Receiver<PageMessage> {
        let (sender, receiver) = mpsc::channel(QUESTIONS_MAX);
        *self.page.received.lock() = Some(sender);
        receiver
    }

    /// Asks the page of another node. `None` if it does not answer in time.
    pub async fn ask_page(&self, to: NodeId, question: &str) -> Option<Arc<str>> {
        if question.len() > QUESTION_BYTES_MAX {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        // An answer to an earlier process, or of one that makes it up, fits none.
        let asked = Asked { all: &self.page, number: rand::random() };
        self.page.asked.lock().insert(asked.number, answer);
        let message = PageMessage { node: self.node(), to, request: asked.number, text: question.into() };
        if !self.send_to(to, Envelope::Ask(message)) {
            return None;
        }
        tokio::time::timeout(ANSWER_TIME, answered).await.ok()?.ok()
    }

    /// Answers a question of another node's page, which takes no longer an answer than gema's own.
    pub fn answer_page(&self, question: &PageMessage, answer: &str) {
        if answer.len() > ANSWER_BYTES_MAX {
            return;
        }
        let message =
            PageMessage { node: self.node(), to: question.node, request: question.request, text: answer.into() };
        self.send_to(question.node, Envelope::Answer(message));
    }

    /// A page of another node asks.
    pub(super) fn on_ask(&self, question: PageMessage) {
        let is_asked = question.to == self.node() && question.text.len() <= QUESTION_BYTES_MAX;
        if let Some(received) = self.page.received.lock().as_ref().filter(|_| is_asked) {
            // A page that does not keep up does not answer.
            let _ = received.try_send(question);
        }
    }

    /// A page of another node answers.
    pub(super) fn on_answer(&self, answer: PageMessage) {
        if answer.to != self.node() {
            return;
        }
        let asked = self.page.asked.lock().remove(&answer.request);
        // Without an answer the question ends at once.
        if let Some(asked) = asked.filter(|_| answer.text.len() <= ANSWER_BYTES_MAX) {
            let _ = asked.send(answer.text);
        }
    }

    /// Writes this node's status for the pages of the others.
    pub async fn write_status(&self, status: &str) {
        if let Some(directory) = self.directory() {
            directory.write_status(self.node(), status).await;
        }
    }

    /// The other nodes that live, and these that may be gone, with their status if they have a page. A node that has ended
    /// as it should has left one behind. `None` without a link.
    pub async fn statuses(&self, known: &[NodeId]) -> Option<Vec<NodeStatus>> {
        let (directory, mut nodes) = (self.directory()?, self.peers());
        let live = nodes.len();
        let gone: Vec<NodeId> = known.iter().filter(|node| !nodes.contains(node)).copied().collect();
        nodes.extend(gone);
        let statuses = directory.statuses(&nodes).await?;
        let status = |(place, (node, status)): (usize, (NodeId, Option<String>))| {
            let status = status.filter(|status| status.len() <= STATUS_BYTES_MAX);
            NodeStatus { node, is_live: place < live, status }
        };
        Some(nodes.into_iter().zip(statuses).enumerate().map(status).collect())
    }

    /// The connections of each other node on a channel.
    pub async fn subscriptions_by_node(&self, app: &str, channel: &ChannelName) -> Vec<(NodeId, usize)> {
        let (Some(directory), peers) = (self.directory(), self.peers()) else { return Vec::new() };
        let connections = directory.connections(app, channel, &peers).await.unwrap_or_default();
        peers.into_iter().zip(connections).collect()
    }

    /// The channels of each other node, with the connections there, for each of these apps.
    pub async fn channels_by_node(&self, apps: &[&str]) -> Vec<Vec<(NodeId, Vec<(ChannelName, usize)>)>> {
        let peers = self.peers();
        let channels = match self.directory() {
            Some(directory) => directory.channels(apps, &peers).await.unwrap_or_default(),
            None => Vec::new(),
        };
        let mut channels = channels.into_iter();
        let of_app = |_| peers.iter().copied().zip(channels.next().unwrap_or_default()).collect();
        apps.iter().map(of_app).collect()
    }
}
