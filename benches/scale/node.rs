//! A simulated node: all of a server but its ports, its shard and its clients' sockets. Its link to Redis is real.
//!
//! The program calls the session of a connection as a shard would, and empties the inbox in the shard's place.

use std::net::Ipv4Addr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use gema::cluster::Cluster;
use gema::config::Config;
use gema::metrics::Metrics;
use gema::node::App;
use gema::node::Node;
use gema::node::Publication;
use gema::protocol::channel::ChannelName;
use gema::protocol::connect::ConnectRequest;
use gema::registry::address::Address;
use gema::registry::address::Slot;
use gema::registry::inbox::Inboxes;
use gema::registry::inbox::ShardMessage;
use gema::session::Session;
use serde_json::json;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::channel_auth;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The data of each event: as long as a usual one.
const DATA: &str = r#""{\"order\":17,\"status\":\"shipped\",\"at\":\"2026-12-01T12:00:00Z\",\"by\":\"warehouse\"}""#;

/// A node in this process.
pub(crate) struct SimulatedNode {
    node: Arc<Node>,
    received: Arc<Received>,
    stop: CancellationToken,
    link: JoinHandle<()>,
    clients: Vec<JoinHandle<()>>,
    slots: slotmap::SlotMap<Slot, ()>,
}

/// The messages that the node's shard would have received.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) events: AtomicUsize,
    pub(crate) joins: AtomicUsize,
}

/// A client's connection.
pub(crate) struct Client {
    session: Session,
}

impl SimulatedNode {
    /// Starts it. It receives on a runtime of its own, as in a server, which all simulated nodes share.
    pub(crate) fn start(config: &Config, receiver: &Handle) -> Self {
        let inboxes = Arc::new(Inboxes::new(1));
        let metrics = Arc::new(Metrics::new("", 0, true));
        let node = Arc::new(Node::new(config, Arc::clone(&inboxes), metrics, None, usize::MAX));
        let (stop, received) = (CancellationToken::new(), Arc::new(Received::default()));
        let cluster = Arc::clone(node.cluster().expect("the node is in a cluster"));
        let link = Handle::current().spawn(cluster.run(stop.clone(), receiver.clone()));
        let clients = vec![
            Handle::current().spawn(empty_inbox(inboxes, Arc::clone(&received))),
            Handle::current().spawn(tick(Arc::clone(&node))),
        ];
        Self { node, received, stop, link, clients, slots: slotmap::SlotMap::with_key() }
    }

    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        self.node.cluster().expect("the node is in a cluster")
    }

    /// The nodes that it knows, itself included.
    pub(crate) fn known_nodes(&self) -> usize {
        self.cluster().update_gauges();
        let meters = self.node.metrics().cluster.as_ref().expect("the node is in a cluster");
        usize::try_from(meters.nodes.get()).unwrap_or_default()
    }

    /// The app that everything happens in.
    pub(crate) fn app(&self) -> Arc<App> {
        self.node.app_by_id(APP_ID).expect("the app is configured")
    }

    pub(crate) fn received(&self) -> &Received {
        &self.received
    }

    /// Its channels, those included that it still listens to.
    pub(crate) fn channels(&self) -> usize {
        self.node.channels()
    }

    /// Whether something waits for Redis.
    pub(crate) fn is_busy(&self) -> bool {
        self.cluster().outgoing().waiting().0 > 0
    }

    pub(crate) fn connect(&mut self) -> Client {
        let address = Address { shard: 0, slot: self.slots.insert(()) };
        let (session, _) = Session::open(&self.node, &request(), address).expect("the node accepts the connection");
        Client { session }
    }

    /// Joins a channel; a presence channel as this user. The answer comes later.
    pub(crate) fn subscribe(&self, client: &mut Client, channel: &str, user_id: &str) {
        let mut data = json!({ "channel": channel });
        if channel.starts_with("presence-") {
            let channel_data = json!({ "user_id": user_id, "user_info": { "name": user_id } }).to_string();
            let socket_id = client.session.socket_id().to_string();
            data["auth"] = channel_auth(&socket_id, channel, Some(&channel_data)).into();
            data["channel_data"] = channel_data.into();
        }
        self.say(client, &json!({ "event": "pusher:subscribe", "data": data }));
        // The program waits for the answers of all joins together.
        client.session.on_joined();
    }

    pub(crate) fn unsubscribe(&self, client: &mut Client, channel: &str) {
        self.say(client, &json!({ "event": "pusher:unsubscribe", "data": { "channel": channel } }));
    }

    fn say(&self, client: &mut Client, message: &serde_json::Value) {
        let outcome = client.session.on_text(&self.node, &message.to_string(), Instant::now(), &mut Vec::new());
        assert!(matches!(outcome, ControlFlow::Continue(())), "{message} is refused: {outcome:?}");
    }

    pub(crate) fn publish(&self, channel: &ChannelName) {
        let (app, publication) = (self.app(), Publication { name: "order.shipped", data: DATA, except: None });
        app.publish(&app.rules(), channel, &publication, Instant::now());
    }

    /// Leaves the cluster, as a node does that stops.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.link.await.expect("the link ends");
        self.clients.iter().for_each(JoinHandle::abort);
    }

    /// Ends at once, as a process that is killed.
    pub(crate) async fn crash(self) {
        self.link.abort();
        self.clients.iter().for_each(JoinHandle::abort);
        let _ = self.link.await;
    }
}

/// Takes the place of a shard.
async fn empty_inbox(inboxes: Arc<Inboxes>, received: Arc<Received>) {
    loop {
        inboxes.filled(0).await;
        for message in inboxes.take(0, Vec::new()) {
            match message {
                ShardMessage::Event(..) => received.events.fetch_add(1, Ordering::Relaxed),
                ShardMessage::Joined(..) => received.joins.fetch_add(1, Ordering::Relaxed),
                _ => 0,
            };
        }
    }
}

async fn tick(node: Arc<Node>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        node.tick();
    }
}

fn request() -> ConnectRequest {
    ConnectRequest {
        key: Some(APP_KEY.to_owned()),
        app_unavailable: false,
        address_full: false,
        protocol: Some("7".to_owned()),
        version: None,
        library: None,
        channels: None,
        origin: None,
        address: Ipv4Addr::LOCALHOST.into(),
        secure: false,
        untrusted_proxy: None,
        has_proxy_header: false,
        claims_tls: false,
    }
}
