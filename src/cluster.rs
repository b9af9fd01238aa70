//! Several nodes as one server. What happens here is told to the other nodes by way of Redis, and what they
//! tell is handed to the registry. Nobody here decides who hears what: the registry does, under its locks.
//!
//! One operation keeps a link to Redis: a connection that tells and asks, and one that hears. Everything that this
//! node has to say goes through one queue ([`Outgoing`]) and one pipeline, so others hear it in that order.

pub mod answers;
mod gone;
mod lease;
mod link;
mod listener;
mod orders;
mod query;
mod views;

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cluster::gone::Gone;
use crate::config;
use crate::metrics::ClusterMeters;
use crate::metrics::PeerDropCause;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::NODES_MAX;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Termination;
use crate::redis::connection::Connection;
use crate::redis::names::Names;
use crate::registry::AppState;
use crate::registry::inbox::Inboxes;
use crate::registry::remote::outgoing::BufferLimits;
use crate::registry::remote::outgoing::Outgoing;

/// How long the other nodes have to answer a question.
const ANSWERS_WAIT: Duration = Duration::from_secs(1);

/// This node's part in its cluster.
pub struct Cluster {
    names: Names,
    options: config::Redis,
    strict: bool,
    /// Cancelled by the outcome of the first try to make a link.
    tried: CancellationToken,
    outgoing: Arc<Outgoing>,
    inboxes: Arc<Inboxes>,
    meters: ClusterMeters,
    apps: RwLock<HashMap<Arc<str>, Arc<AppState>>>,
    /// Apps that have come so far.
    added: AtomicU64,
    /// The other nodes that live, as far as this one knows.
    peers: Mutex<BTreeSet<NodeId>>,
    /// Those of them that are about to close their connections.
    leaving: Mutex<BTreeSet<NodeId>>,
    /// Whether this node itself is.
    leaves: AtomicBool,
    /// Other nodes may be fewer now.
    fewer: tokio::sync::Notify,
    /// Those that were there when the last link was lost: Redis may have forgotten them, but they may be about
    /// to come back.
    missed: Mutex<BTreeSet<NodeId>>,
    /// Those of them that have said since the last link that they listen.
    here: Mutex<BTreeSet<NodeId>>,
    heard_here: tokio::sync::Notify,
    /// Whether this node listens to all that matters to it.
    listening: AtomicBool,
    /// When Redis has last refused something because it was full, if that has not been told anew since.
    refused: Mutex<Option<Instant>>,
    /// For questions, while there is a link.
    asking: Mutex<Option<Connection>>,
    /// For what this node has to say to the others at once, while there is a link.
    telling: Mutex<Option<mpsc::Sender<Envelope>>>,
    questions: Questions,
    gone: Mutex<Gone>,
}

/// Who waits for the answers of other nodes, by the number of the question.
type Questions = Mutex<HashMap<u64, mpsc::Sender<u64>>>;

/// A question to the other nodes; whoever asks may go before it is answered.
struct Question<'a> {
    all: &'a Questions,
    number: u64,
}

impl<'a> Question<'a> {
    fn new(all: &'a Questions, answers: mpsc::Sender<u64>) -> Self {
        // Everybody hears all answers, so no two nodes may ask under the same number.
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

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("node", &self.outgoing.node()).finish_non_exhaustive()
    }
}

impl Cluster {
    /// A node of the configured cluster, without a link yet.
    pub fn new(cluster: &config::Cluster, redis: &config::Redis, inboxes: Arc<Inboxes>, meters: ClusterMeters) -> Self {
        let patience = BufferLimits { bytes_max: cluster.buffer_bytes_max, time: cluster.buffer_seconds.duration() };
        Self {
            names: Names::new(&cluster.name, &redis.key_prefix),
            options: redis.clone(),
            strict: cluster.strict,
            tried: CancellationToken::new(),
            outgoing: Arc::new(Outgoing::new(NodeId::random(), patience)),
            inboxes,
            meters,
            apps: RwLock::default(),
            added: AtomicU64::new(0),
            peers: Mutex::default(),
            leaving: Mutex::default(),
            leaves: AtomicBool::new(false),
            fewer: tokio::sync::Notify::new(),
            missed: Mutex::default(),
            here: Mutex::default(),
            heard_here: tokio::sync::Notify::new(),
            listening: AtomicBool::new(false),
            refused: Mutex::new(None),
            asking: Mutex::new(None),
            telling: Mutex::new(None),
            questions: Questions::default(),
            gone: Mutex::new(Gone::new()),
        }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.outgoing.node()
    }

    /// What this node has to tell.
    pub fn outgoing(&self) -> &Arc<Outgoing> {
        &self.outgoing
    }

    /// An app whose nodes are to be one.
    pub fn add(&self, app: Arc<AppState>) {
        self.apps.write().insert(Arc::clone(app.id()), app);
        self.added.fetch_add(1, Ordering::Release);
    }

    /// An app is gone, and nobody is connected to it.
    pub fn remove(&self, app_id: &str) {
        self.apps.write().remove(app_id);
    }

    /// Keeps the link to the other nodes until `stop` is cancelled, then leaves the cluster. What they publish is received
    /// on the `receiver` runtime, whose thread may block.
    pub async fn run(self: Arc<Self>, stop: CancellationToken, receiver: Handle) {
        link::keep(self, stop, receiver).await;
    }

    /// Ends when the first link is made, or when the first try has failed: the node can serve then.
    pub async fn tried(&self) {
        self.tried.cancelled().await;
    }

    /// Whether there is a link to the other nodes.
    pub fn is_linked(&self) -> bool {
        self.outgoing.is_linked()
    }

    /// Whether other nodes live and stay, as far as this one knows.
    pub fn has_others(&self) -> bool {
        self.is_linked() && !self.peers.lock().is_subset(&self.leaving.lock())
    }

    /// Ends when no other node stays.
    pub async fn others_leave(&self) {
        while self.has_others() {
            self.fewer.notified().await;
        }
    }

    /// From now on the others are told that this node is about to close its connections.
    pub fn announce_leave(&self) {
        self.leaves.store(true, Ordering::Release);
        self.tell_leave();
    }

    /// Tells so, if it is.
    fn tell_leave(&self) {
        if self.leaves.load(Ordering::Acquire) {
            self.tell(Envelope::Draining(self.node(), self.node()));
        }
    }

    /// Whether the operator wants no traffic here without a link.
    pub fn is_strict(&self) -> bool {
        self.strict
    }

    /// Whether topics can be listened to by patterns, which a Redis Cluster cannot.
    pub fn hears_patterns(&self) -> bool {
        self.options.cluster_nodes.is_empty()
    }

    /// Sets the gauges to what is so now.
    pub fn measure(&self) {
        let (orders, bytes) = self.outgoing.waiting();
        self.meters.waiting.set(i64::try_from(orders).unwrap_or(i64::MAX));
        self.meters.waiting_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.meters.up.set(self.is_linked().into());
        self.meters.nodes.set(i64::try_from(self.peers.lock().len() + 1).unwrap_or(i64::MAX));
        self.meters.dropped(PeerDropCause::BeforeLink, self.outgoing.take_dropped());
    }

    /// Closes the connections of a user on all nodes, or on none when the others cannot be asked. Returns how many
    /// there were, as far as the nodes have answered in time.
    pub async fn terminate(&self, app: &AppState, user_id: &str) -> Option<u64> {
        let awaited = self.peers.lock().len();
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
        if !self.tell(Envelope::Terminate(termination)) {
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

    fn on_terminated(&self, what: &Termination) {
        if let Some(answers) = self.questions.lock().get(&what.request).filter(|_| what.node != self.node()) {
            self.meters.answer_received(&what.app);
            // Whoever asked may have gone.
            let _ = answers.try_send(what.closed);
        }
    }

    /// Another node has said something.
    fn meet(&self, node: NodeId) {
        self.is_back(node);
        let mut peers = self.peers.lock();
        if peers.len() < NODES_MAX {
            peers.insert(node);
        }
    }

    fn on_leaving(&self, node: NodeId) {
        if self.peers.lock().contains(&node) {
            self.leaving.lock().insert(node);
            self.fewer.notify_one();
        }
    }

    fn on_here(&self, node: NodeId) {
        if self.peers.lock().contains(&node) {
            self.here.lock().insert(node);
            self.heard_here.notify_one();
        }
    }

    /// Whether every other node listens that there is, or that was there before this one came back.
    fn all_listen(&self) -> bool {
        let here = self.here.lock();
        self.peers.lock().is_subset(&here) && self.missed.lock().is_subset(&here)
    }

    fn listens(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    /// Says something to the other nodes. False when there is no link, or one that takes no more.
    fn tell(&self, envelope: Envelope) -> bool {
        self.telling.lock().as_ref().is_some_and(|telling| telling.try_send(envelope).is_ok())
    }

    fn app(&self, id: &str) -> Option<Arc<AppState>> {
        self.apps.read().get(id).cloned()
    }

    fn apps(&self) -> Vec<Arc<AppState>> {
        self.apps.read().values().cloned().collect()
    }

    fn peers(&self) -> Vec<NodeId> {
        self.peers.lock().iter().copied().collect()
    }
}
