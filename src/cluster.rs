//! Several nodes as one server: carries messages between the registries of the nodes, by way of Redis or NATS.
//! `node` owns the [`Cluster`] and asks it; `server::background` runs the link.
//!
//! The registry decides who gets what, under its locks. Everything that this node publishes goes through one queue
//! ([`Outgoing`]) and one pipeline, so that the other nodes get it in that order.

mod bus;
mod cleanup;
mod directory;
pub mod idempotency;
mod lease;
mod link;
mod listener;
mod member_changes;
mod over_nats;
pub mod over_redis;
mod pace;
mod page;
mod peers;
mod query;
mod terminate;
mod views;
mod way;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::Mutex;
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use page::NodeStatus;

use crate::cluster::directory::Directory;
use crate::cluster::page::PageQuestions;
use crate::cluster::peers::Peers;
use crate::cluster::terminate::Questions;
use crate::cluster::way::Way;
use crate::config;
use crate::metrics::ClusterMeters;
use crate::metrics::PeerDropCause;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::NodeId;
use crate::registry::AppState;
use crate::registry::inbox::Inboxes;
use crate::registry::remote::outgoing::BufferLimits;
use crate::registry::remote::outgoing::Outgoing;

/// This node's part in its cluster.
pub struct Cluster {
    way: Way,
    strict: bool,
    /// Cancelled after the first attempt to open a link.
    tried: CancellationToken,
    outgoing: Arc<Outgoing>,
    inboxes: Arc<Inboxes>,
    meters: ClusterMeters,
    apps: RwLock<HashMap<Arc<str>, Arc<AppState>>>,
    /// How many apps have been added.
    apps_added: AtomicU64,
    peers: Mutex<Peers>,
    /// Notified when the peers have changed, and when this node listens or loses its link.
    peers_changed: Notify,
    /// This node is about to close its connections.
    is_draining: AtomicBool,
    /// This node listens to all that matters to it.
    is_listening: AtomicBool,
    /// When something was last refused for lack of memory, until it has been published again.
    refused_at: Mutex<Option<Instant>>,
    /// The way to the other nodes, while there is a link.
    link: Mutex<Option<LinkHandle>>,
    questions: Questions,
    /// The questions between operators' pages.
    page: PageQuestions,
}

/// The part of the link that the rest of the process uses.
struct LinkHandle {
    /// For questions.
    directory: Directory,
    /// Takes messages for all nodes, or for one, which do not wait for the queue.
    control: mpsc::Sender<(Envelope, Option<NodeId>)>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("node", &self.outgoing.node()).finish_non_exhaustive()
    }
}

impl Cluster {
    /// A node of the configured cluster, without a link yet.
    pub fn new(
        cluster: &config::Cluster,
        (redis, nats): (&config::Redis, &config::Nats),
        inboxes: Arc<Inboxes>,
        meters: ClusterMeters,
    ) -> Self {
        let limits = BufferLimits { bytes_max: cluster.buffer_bytes_max, time: cluster.buffer_seconds.duration() };
        let mut outgoing = Outgoing::new(NodeId::random(), limits);
        if cluster.outage == config::Outage::Local {
            outgoing = outgoing.never_full();
        }
        Self {
            way: Way::new(cluster, redis, nats),
            strict: cluster.strict,
            tried: CancellationToken::new(),
            outgoing: Arc::new(outgoing),
            inboxes,
            meters,
            apps: RwLock::default(),
            apps_added: AtomicU64::new(0),
            peers: Mutex::new(Peers::new(Instant::now())),
            peers_changed: Notify::new(),
            is_draining: AtomicBool::new(false),
            is_listening: AtomicBool::new(false),
            refused_at: Mutex::new(None),
            link: Mutex::new(None),
            questions: Questions::default(),
            page: PageQuestions::default(),
        }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.outgoing.node()
    }

    /// The queue of commands that the registry fills.
    pub fn outgoing(&self) -> &Arc<Outgoing> {
        &self.outgoing
    }

    /// Adds an app, which the nodes serve together.
    pub fn add(&self, app: Arc<AppState>) {
        self.apps.write().insert(Arc::clone(app.id()), app);
        self.apps_added.fetch_add(1, Ordering::Release);
    }

    /// Removes an app to which nobody is connected.
    pub fn remove(&self, app_id: &str) {
        self.apps.write().remove(app_id);
    }

    /// Keeps the link to the other nodes until `stop` is cancelled, then leaves the cluster. The `receiver` runtime
    /// receives what they publish; its thread may block.
    pub async fn run(self: Arc<Self>, stop: CancellationToken, receiver: Handle) {
        link::run(self, stop, receiver).await;
    }

    /// Waits until the first link is open, or the first attempt has failed: the node can serve then.
    pub async fn tried(&self) {
        self.tried.cancelled().await;
    }

    /// Whether there is a link to the other nodes.
    pub fn is_linked(&self) -> bool {
        self.outgoing.is_linked()
    }

    /// Whether other nodes live and do not drain, as far as this one knows.
    pub fn has_others(&self) -> bool {
        self.is_linked() && self.peers.lock().has_staying()
    }

    /// Waits until no other node stays.
    pub async fn others_gone(&self) {
        self.peers_become(|cluster| !cluster.has_others()).await;
    }

    /// Announces to the other nodes, from now on, that this node is about to close its connections.
    pub fn announce_draining(&self) {
        self.is_draining.store(true, Ordering::Release);
        self.announce_if_draining();
    }

    fn announce_if_draining(&self) {
        if self.is_draining.load(Ordering::Acquire) {
            self.announce(Envelope::Draining(self.node(), self.node()));
        }
    }

    /// Another node has joined, or is back: this one answers.
    fn on_hello(&self, node: NodeId) {
        let me = self.node();
        self.update_peers(|peers| peers.joined(node));
        if self.is_listening.load(Ordering::Acquire) {
            self.send_to(node, Envelope::Here(me, node));
        }
        if self.is_draining.load(Ordering::Acquire) {
            self.send_to(node, Envelope::Draining(me, me));
        }
    }

    /// Whether the operator wants no traffic here without a link.
    pub fn is_strict(&self) -> bool {
        self.strict
    }

    /// Whether nodes can subscribe to patterns of topics. A Redis Cluster has none.
    pub fn has_patterns(&self) -> bool {
        self.way.has_patterns()
    }

    /// Sets the gauges to the present values.
    pub fn update_gauges(&self) {
        let (commands, bytes) = self.outgoing.waiting();
        self.meters.waiting.set(i64::try_from(commands).unwrap_or(i64::MAX));
        self.meters.waiting_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.meters.up.set(self.is_linked().into());
        self.meters.nodes.set(i64::try_from(self.peers().len() + 1).unwrap_or(i64::MAX));
        self.meters.dropped(PeerDropCause::BeforeLink, self.outgoing.take_dropped());
        if let Some(events) = self.outgoing.take_missed() {
            self.meters.dropped(PeerDropCause::Outage, events);
        }
    }

    /// Announces something to the other nodes, past the queue. False without a link, or when too much waits already.
    fn announce(&self, envelope: Envelope) -> bool {
        self.send((envelope, None))
    }

    /// Like [`Self::announce`], for one other node.
    fn send_to(&self, node: NodeId, envelope: Envelope) -> bool {
        self.send((envelope, Some(node)))
    }

    fn send(&self, message: (Envelope, Option<NodeId>)) -> bool {
        self.link.lock().as_ref().is_some_and(|link| link.control.try_send(message).is_ok())
    }

    /// How many apps have been added.
    fn apps_added(&self) -> u64 {
        self.apps_added.load(Ordering::Acquire)
    }

    fn app(&self, id: &str) -> Option<Arc<AppState>> {
        self.apps.read().get(id).cloned()
    }

    fn apps(&self) -> Vec<Arc<AppState>> {
        self.apps.read().values().cloned().collect()
    }

    /// The other nodes that live.
    fn peers(&self) -> Vec<NodeId> {
        self.peers.lock().live().collect()
    }
}
