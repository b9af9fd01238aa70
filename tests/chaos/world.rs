//! Three nodes behind nginx with their Redis, and whatever may befall them.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use support::http::Api;
use support::nginx::MAIN;
use support::nginx::Nginx;
use support::nginx::temporary_paths;
use support::proxy::Proxy;
use support::redis_server::TestRedis;
use support::redis_server::cluster_name;
use support::redis_server::free_port;
use tokio::sync::Mutex;

use crate::history::Name;
use crate::history::Recorder;
use crate::history::SECOND;
use crate::history::Time;
use crate::history::Window;
use crate::node::Node;
use crate::node::Places;
use crate::schedule::Action;
use crate::schedule::NODES;

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
    redis: Mutex<TestRedis>,
}

impl World {
    pub async fn start(seed: u64, recorder: Recorder) -> Self {
        let folder = folder(seed);
        let redis = TestRedis::start().await;
        let places = Places::new(free_port);
        let mut ways = Vec::new();
        for _ in 0..NODES {
            ways.push(Proxy::start(redis.port()).await);
        }
        let cluster = cluster_name();
        let nodes = std::array::from_fn(|index| {
            let text = configuration(&places, index, ways[index].port(), &cluster);
            let mut node = Node::new(index, folder.join(format!("node-{index}")), &text);
            node.start(&places);
            Mutex::new(node)
        });
        let nginx = nginx(&places).await;
        let channels = ["orders", "stock", "private-desk", "presence-room", "presence-ward"].map(Name::from).to_vec();
        let ways = ways.try_into().ok().expect("one for each node");
        Self { seed, recorder, places, nginx, channels, folder, nodes, ways, redis: Mutex::new(redis) }
    }

    /// Does it, and waits until it is over.
    pub async fn suffer(&self, action: &Action) {
        self.recorder.note(format!("begins: {action:?}"));
        match action {
            Action::Kill { node, away } => self.kill(*node, *away).await,
            Action::Restart { node } => {
                let mut process = self.nodes[*node].lock().await;
                if let Err(how) = process.stop().await {
                    self.recorder.fault(how);
                }
                process.start(&self.places);
            }
            Action::Stop { node, time } => {
                let process = self.nodes[*node].lock().await;
                let from = self.recorder.now();
                process.signal("STOP");
                tokio::time::sleep(*time).await;
                process.signal("CONT");
                self.window(Some(*node), from, &format!("{action:?}"));
            }
            Action::Cut { node } => {
                let from = self.recorder.now();
                self.ways[*node].cut();
                self.window(Some(*node), from, &format!("{action:?}"));
            }
            Action::Partition { node, time } => {
                let from = self.recorder.now();
                self.ways[*node].freeze();
                tokio::time::sleep(*time).await;
                self.ways[*node].thaw();
                self.window(Some(*node), from, &format!("{action:?}"));
            }
            Action::Slow { node, delay, time } => {
                self.ways[*node].delay(*delay);
                tokio::time::sleep(*time).await;
                self.ways[*node].delay(Duration::ZERO);
            }
            Action::RedisKill { away } => {
                let mut redis = self.redis.lock().await;
                let from = self.recorder.now();
                // It waits for the end of Redis.
                tokio::task::block_in_place(|| redis.kill());
                tokio::time::sleep(*away).await;
                redis.restart().await;
                self.window(None, from, &format!("{action:?}"));
            }
            Action::RedisStop { time } => {
                let redis = self.redis.lock().await;
                let from = self.recorder.now();
                redis.pause();
                tokio::time::sleep(*time).await;
                redis.resume();
                self.window(None, from, &format!("{action:?}"));
            }
        }
        self.recorder.note(format!("ends: {action:?}"));
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
    fn window(&self, node: Option<usize>, from: Time, why: &str) {
        let (until, why) = (self.recorder.now() + SECOND, why.to_owned());
        let from = from.saturating_sub(SECOND / 10);
        self.recorder.window(Window { node, from, until, why, events: true });
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
    let folder = built.parent().unwrap().join(format!("chaos/{seed}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn configuration(places: &Places, node: usize, redis: u16, cluster: &str) -> String {
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
        [redis]
        host = "127.0.0.1"
        port = {redis}
        [limits]
        enable_client_messages = true
        "#
    );
    for App { id, key, secret } in &APPS {
        text += &format!("\n[[apps]]\nid = \"{id}\"\nkey = \"{key}\"\nsecret = \"{secret}\"\n");
    }
    text
}

/// nginx with the shipped configuration, which says of each answer whose it is.
async fn nginx(places: &Places) -> Nginx {
    let [first, second, third] = places.addresses;
    let exchange = |text: String, words: &[(&str, String)]| {
        words.iter().fold(text, |text, (word, own)| {
            assert!(text.contains(word), "the configuration of nginx has no {word}");
            text.replace(word, own)
        })
    };
    let shipped =
        |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap();
    Nginx::start(|folder, address| {
        fs::create_dir_all(folder.join("conf.d")).unwrap();
        let others = |rest: &str| format!("server {second} {rest};\n    server {third} {rest};");
        let words = [
            ("listen 80;", format!("listen {address};")),
            ("gema-1:6001", first.to_string()),
            ("server gema-2:6001 max_fails=0;", others("max_fails=0")),
            ("server gema-2:6001 backup max_fails=0 weight=10000;", others("backup max_fails=0 weight=10000")),
            (
                "proxy_connect_timeout 1s;",
                "proxy_connect_timeout 1s;\n    add_header X-Upstream $upstream_addr always;".to_owned(),
            ),
        ];
        fs::write(folder.join("conf.d/gema.conf"), exchange(shipped("nginx.conf"), &words)).unwrap();
        let words = [
            ("worker_processes auto;", format!("worker_processes 1;\n{MAIN}")),
            ("http {", format!("http {{\n{}", temporary_paths(folder))),
            ("/etc/nginx/", format!("{}/", folder.display())),
        ];
        exchange(shipped("nginx-main.conf"), &words)
    })
    .await
}
