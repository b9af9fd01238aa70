//! The operator's pages of the nodes among each other: a status of each node in Redis, and questions over the control
//! topic.
//! `dashboard` writes, asks and answers; without a page on any node nothing is sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::Cmd;
use redis::RedisResult;
use redis::Value;
use redis::cmd;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::cluster::Cluster;
use crate::cluster::answers::number;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::PageMessage;
use crate::protocol::envelope::Topic;
use crate::redis::names;
use crate::redis::value::text;

/// How long a status stays in Redis. A node writes it more often.
const STATUS_TIME: Duration = Duration::from_secs(15);
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

/// Another node as Redis knows it.
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
        // All nodes receive all answers, so no two nodes may use the same number.
        let asked = Asked { all: &self.page, number: rand::random() };
        self.page.asked.lock().insert(asked.number, answer);
        let message = PageMessage { node: self.node(), to, request: asked.number, text: question.into() };
        if !self.announce(Envelope::Ask(message)) {
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
        self.announce(Envelope::Answer(message));
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
        let key = self.names.status(self.node());
        let command = cmd("SET").arg(key).arg(status).arg("PX").arg(STATUS_TIME.as_millis() as u64).take();
        self.ask_redis(vec![command]).await;
    }

    /// The other nodes that live, and these that may be gone, with their status if they have a page. A node that has ended
    /// as it should has left one behind. `None` without Redis.
    pub async fn statuses(&self, known: &[NodeId]) -> Option<Vec<NodeStatus>> {
        let live = self.peers();
        let gone = known.iter().filter(|node| !live.contains(node)).map(|node| (*node, false));
        let nodes: Vec<(NodeId, bool)> = live.iter().map(|node| (*node, true)).chain(gone).collect();
        let ask = |(node, _): &(NodeId, bool)| cmd("GET").arg(self.names.status(*node)).take();
        let answers = self.ask_redis(nodes.iter().map(ask).collect()).await?;
        let status = |((node, is_live), answer)| {
            let status = text(answer).filter(|text| text.len() <= STATUS_BYTES_MAX).map(str::to_owned);
            NodeStatus { node, is_live, status }
        };
        Some(nodes.into_iter().zip(&answers).map(status).collect())
    }

    /// The connections of each other node on a channel.
    pub async fn subscriptions_by_node(&self, app: &str, channel: &ChannelName) -> Vec<(NodeId, usize)> {
        let (peers, field) = (self.peers(), names::field(&Topic::Channel(channel.clone())));
        let ask = |peer: &NodeId| cmd("HGET").arg(self.names.topics(*peer, app)).arg(&field).take();
        let answers = self.ask_redis(peers.iter().map(ask).collect()).await.unwrap_or_default();
        peers.into_iter().zip(answers.iter().map(|answer| number(answer).unwrap_or_default())).collect()
    }

    /// The channels of each other node, with the connections there, for each of these apps.
    pub async fn channels_by_node(&self, apps: &[&str]) -> Vec<Vec<(NodeId, Vec<(ChannelName, usize)>)>> {
        let peers = self.peers();
        let pairs = apps.iter().flat_map(|app| peers.iter().map(move |peer| (*peer, *app)));
        let ask = |(peer, app)| cmd("HGETALL").arg(self.names.topics(peer, app)).take();
        let answers = self.ask_redis(pairs.map(ask).collect()).await.unwrap_or_default();
        let mut channels = answers.iter().map(crate::cluster::answers::channels);
        apps.iter().map(|_| peers.iter().copied().zip(channels.by_ref()).collect()).collect()
    }

    async fn ask_redis(&self, commands: Vec<Cmd>) -> Option<Vec<Value>> {
        let mut connection = self.link.lock().as_ref()?.connection.clone();
        if commands.is_empty() {
            return Some(Vec::new());
        }
        let answers = connection.ask(commands).await.ok()?;
        answers.into_iter().collect::<RedisResult<_>>().ok()
    }
}
