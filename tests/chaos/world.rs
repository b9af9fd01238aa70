//! Three nodes behind nginx with their Redis, and whatever may befall them.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::http::Api;
use support::nginx::Nginx;
use support::proxy::Proxy;
use support::receiver::ALL;
use support::receiver::Answer;
use support::receiver::Received;
use support::receiver::Receiver;
use support::redis_server::cluster_name;
use support::redis_server::free_port;
use tokio::sync::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::history::Kind;
use crate::history::Name;
use crate::history::Recorder;
use crate::history::SECOND;
use crate::history::Time;
use crate::history::Window;
use crate::node::Node;
use crate::node::Places;
use crate::redis::Redis;
use crate::schedule::Action;
use crate::schedule::Log;
use crate::schedule::NODES;
use crate::schedule::WITH_A_CLOCK;

/// An application; all have channels of the same names.
pub struct App {
    pub id: &'static str,
    pub key: &'static str,
    pub secret: &'static str,
}

pub const APPS: [App; 2] = [
    App { id: "shop", key: "shop-key", secret: "shop-secret" },
    App { id: "clinic", key: "clinic-key", secret: "clinic-secret" },
];

impl App {
    /// Its requests, to whatever address.
    pub fn api(&self) -> Api {
        Api::new(([127, 0, 0, 1], 0).into(), self.id, self.key, self.secret)
    }
}

/// Of each app.
const CHANNELS: [&str; 7] =
    ["orders", "stock", "private-desk", "presence-room", "presence-ward", "private-log", "cache-last"];
/// Before the names of channels in Redis, for the first app.
pub const LARAVELS: &str = "shop_";

pub struct World {
    pub seed: u64,
    pub recorder: Recorder,
    pub places: Places,
    pub nginx: Nginx,
    pub channels: Vec<Name>,
    /// Of this run: configurations, logs, the history.
    pub folder: PathBuf,
    pub nodes: [Mutex<Node>; NODES],
    /// From each node to Redis.
    ways: [Proxy; NODES],
    redis: Mutex<Redis>,
    /// Where Laravel publishes, if there is one Redis.
    pub redis_port: Option<u16>,
    /// The applications' other side.
    hooks: Receiver,
}

impl World {
    /// With the requests that webhooks make.
    pub async fn start(seed: u64, redis: &str, recorder: Recorder) -> (Self, UnboundedReceiver<Received>) {
        let mut hooks = Receiver::start().await;
        let requests = hooks.divert();
        let folder = folder(seed);
        let redis = Redis::start(redis).await;
        let places = Places::new(free_port);
        let mut ways = Vec::new();
        for _ in 0..NODES {
            // Nobody uses it where Redis is not alone.
            ways.push(Proxy::start(redis.port().unwrap_or(1)).await);
        }
        let cluster = cluster_name();
        let nodes = std::array::from_fn(|index| {
            let way = redis.port().map(|_| ways[index].port());
            let text = configuration(&places, index, &redis.settings(way), &cluster, &hooks);
            let mut node = Node::new(index, folder.join(format!("node-{index}")), &text);
            node.start(&places);
            Mutex::new(node)
        });
        let nginx = nginx(&places).await;
        let channels = CHANNELS.map(Name::from).to_vec();
        let redis_port = redis.port();
        let ways = ways.try_into().ok().expect("one for each node");
        let redis = Mutex::new(redis);
        let world = Self { seed, recorder, places, nginx, channels, folder, nodes, ways, redis, redis_port, hooks };
        (world, requests)
    }

    /// Does it, and waits until it is over.
    pub async fn suffer(&self, action: &Action) {
        self.recorder.note(format!("begins: {action:?}"));
        match action {
            Action::Kill { node, away } => self.kill(*node, *away).await,
            Action::Restart { node, log } => self.restart(*node, *log).await,
            Action::Stop { node, time } => {
                let process = self.nodes[*node].lock().await;
                let from = self.recorder.now();
                process.signal("STOP");
                tokio::time::sleep(*time).await;
                process.signal("CONT");
                self.window(Some(*node), from, &format!("{action:?}"), Kind::Link);
            }
            Action::Cut { node } => {
                let from = self.recorder.now();
                self.ways[*node].cut();
                self.window(Some(*node), from, &format!("{action:?}"), Kind::Link);
            }
            Action::Partition { node, time } => {
                let from = self.recorder.now();
                self.ways[*node].freeze();
                tokio::time::sleep(*time).await;
                self.ways[*node].thaw();
                self.window(Some(*node), from, &format!("{action:?}"), Kind::Link);
            }
            Action::Slow { node, delay, time } => {
                self.ways[*node].delay(*delay);
                tokio::time::sleep(*time).await;
                self.ways[*node].delay(Duration::ZERO);
            }
            Action::RedisKill { .. } | Action::RedisStop { .. } | Action::RedisFull { .. } => {
                self.redis_suffers(action).await;
            }
            Action::Reload { node, good } => self.reload(*node, *good).await,
            Action::Clock { seconds, time } => {
                let from = self.recorder.now();
                self.nodes[WITH_A_CLOCK].lock().await.set_clock(*seconds);
                tokio::time::sleep(*time).await;
                self.nodes[WITH_A_CLOCK].lock().await.set_clock(0);
                // It notices a little later.
                let (node, until, why) = (Some(WITH_A_CLOCK), self.recorder.now() + 3 * SECOND, format!("{action:?}"));
                self.recorder.window(Window { node, from, until, why, kind: Kind::Clock });
            }
            Action::Files { node, time } => {
                let process = self.nodes[*node].lock().await;
                process.limit_files(process.level().map(|(files, _)| files));
                tokio::time::sleep(*time).await;
                process.limit_files(None);
            }
            Action::Hooks { answer, time } => {
                self.hooks.answer(*answer);
                tokio::time::sleep(*time).await;
                self.hooks.answer(Answer::Status(200));
            }
            Action::NginxReload => self.nginx.reload().await,
            Action::NginxKill { away } => {
                self.nginx.kill();
                tokio::time::sleep(*away).await;
                self.nginx.restart().await;
            }
        }
        self.recorder.note(format!("ends: {action:?}"));
    }

    async fn redis_suffers(&self, action: &Action) {
        let mut redis = self.redis.lock().await;
        let from = self.recorder.now();
        let kind = redis.suffer(action).await;
        self.window(None, from, &format!("{action:?}"), kind);
    }

    async fn restart(&self, node: usize, log: Log) {
        let mut process = self.nodes[node].lock().await;
        self.recorder.stop(self.places.now(node));
        if let Err(how) = process.stop().await {
            self.recorder.fault(how);
        }
        process.start_with(&self.places, log);
    }

    async fn reload(&self, node: usize, good: bool) {
        let process = self.nodes[node].lock().await;
        let before = process.configure("");
        let changed = if good {
            before.replace("max_presence_members_per_channel = 1000", "max_presence_members_per_channel = 999")
        } else {
            before.replace("[limits]", "[limits]\nmax_event_batch_size = \"many\"")
        };
        assert_ne!(changed, before);
        process.configure(&changed);
        process.signal("HUP");
        // A process that starts later must find a file that it can use.
        tokio::time::sleep(Duration::from_secs(1)).await;
        process.configure(&before);
    }

    async fn kill(&self, node: usize, away: Duration) {
        let mut process = self.nodes[node].lock().await;
        let place = self.places.now(node);
        self.recorder.death(place);
        process.kill().await;
        self.recorder.note(format!("killed: {place:?}"));
        tokio::time::sleep(away).await;
        process.start(&self.places);
    }

    /// From then until now, and for a moment after it.
    fn window(&self, node: Option<usize>, from: Time, why: &str, kind: Kind) {
        let (until, why) = (self.recorder.now() + 2 * SECOND, why.to_owned());
        let from = from.saturating_sub(SECOND / 10);
        self.recorder.window(Window { node, from, until, why, kind });
    }

    /// Looks whether a process has ended by itself; another one takes its place.
    pub fn look_after(&self) {
        for node in &self.nodes {
            let Ok(mut node) = node.try_lock() else { continue };
            if let Some(how) = node.ended() {
                self.recorder.fault(how);
                node.start(&self.places);
            }
        }
    }
}

/// Below the folder that the tests are built in.
fn folder(seed: u64) -> PathBuf {
    let built = support::process::program();
    static RUNS: AtomicUsize = AtomicUsize::new(1);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let folder = built.parent().unwrap().join(format!("chaos/{seed}-{}-{run}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn configuration(places: &Places, node: usize, redis: &str, cluster: &str, hooks: &Receiver) -> String {
    let (port, metrics) = (places.addresses[node].port(), places.metrics[node].port());
    let mut text = format!(
        r#"
        [server]
        host = "127.0.0.1"
        port = {port}
        workers = 2
        drain_seconds = 1
        [metrics]
        enabled = true
        host = "127.0.0.1"
        port = {metrics}
        [log]
        level = "debug"
        format = "json"
        [cluster]
        driver = "redis"
        name = "{cluster}"
        buffer_seconds = 3
        [redis]
        {redis}
        [limits]
        enable_client_messages = true
        max_presence_members_per_channel = 1000
        history_rules = [{{ match = "log*", seconds = 60 }}]
        [webhooks]
        driver = "redis"
        leave_delay_seconds = 1
        "#
    );
    for App { id, key, secret } in &APPS {
        let url = format!("http://{}/{id}", hooks.address);
        text += &format!("\n[[apps]]\nid = \"{id}\"\nkey = \"{key}\"\nsecret = \"{secret}\"\n");
        text += &format!("webhooks = [{{ url = \"{url}\", event_types = {ALL:?} }}]\n");
    }
    text
}

/// nginx with the shipped configuration, which says of each answer whose it is.
async fn nginx(places: &Places) -> Nginx {
    let [first, second, third] = places.addresses;
    Nginx::shipped(1, |address| {
        let others = |rest: &str| format!("server {second} {rest};\n    server {third} {rest};");
        vec![
            ("listen 80;", format!("listen {address};")),
            ("gema-1:6001", first.to_string()),
            ("server gema-2:6001 max_fails=0;", others("max_fails=0")),
            ("server gema-2:6001 backup max_fails=0 weight=10000;", others("backup max_fails=0 weight=10000")),
            (
                "proxy_connect_timeout 1s;",
                "proxy_connect_timeout 1s;\n    add_header X-Upstream $upstream_addr always;".to_owned(),
            ),
        ]
    })
    .await
}
