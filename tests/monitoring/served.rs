//! What `/metrics` serves: of two nodes with everything switched on, and of an app store.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use gema::config::Config;
use gema::config::Seconds;
use gema::metrics::AnswerFrom;
use gema::metrics::DropCause;
use gema::metrics::Metrics;
use serde_json::json;
use support::client::Client;
use support::http;
use support::receiver::ALL;
use support::receiver::Receiver;
use support::server::TestServer;
use support::server::authority;

use crate::promql::Selector;
use crate::shipped;

/// Two nodes over Redis, and the endpoint of their webhooks.
pub struct Nodes {
    pub server: TestServer,
    _receiver: Receiver,
}

impl Nodes {
    pub async fn start() -> Self {
        let receiver = Receiver::start().await;
        let webhook = receiver.webhook("/hooks", &ALL);
        let server = TestServer::start_cluster_with(2, |config| {
            switch_on(config);
            config.apps[0].webhooks = vec![webhook];
        })
        .await;
        Self { server, _receiver: receiver }
    }

    /// One of everything that a page, an application and their mistakes do.
    pub async fn traffic(&self) {
        let server = &self.server;
        let mut pages: Vec<Client> = Vec::new();
        for node in [0, 1] {
            let mut page = server.connect_at(node).await;
            for channel in ["news", "private-a", "scada-realtime"] {
                page.subscribe(channel).await;
            }
            page.join("presence-room", &format!("user-{node}")).await;
            page.sign_in(&json!({ "id": format!("user-{node}") })).await;
            page.send(r#"{"event":"client-a","channel":"private-a","data":1}"#).await;
            page.send_subscribe("permintaan.K001", None).await;
            page.settle().await;
            pages.push(page);
        }
        let mut raw = server.open("/app/app-key").await;
        raw.send("nothing that anybody reads").await;
        for (node, page) in pages.iter_mut().enumerate() {
            let api = server.api_at(node);
            api.publish("news", "e", "1").await;
            for value in [r#"{"key":"t1"}"#, r#"{"key":"t1"}"#, "{}"] {
                api.publish("scada-realtime", "reading", value).await;
            }
            api.get("/channels", &[]).await.ok();
            api.post("/users/nobody/terminate_connections", "{}").await.ok();
            page.settle().await;
        }
        // To one node after the other.
        for _ in 0..2 {
            assert_eq!(server.api_of("app-id", "app-key", "wrong").get("/channels", &[]).await.status, 401);
        }
        server.quiet().await;
    }

    /// The text of each node.
    pub async fn texts(&self) -> Vec<String> {
        let mut texts = Vec::new();
        for address in self.server.metrics_addresses() {
            texts.push(http::request(address, "GET", "/metrics", &[], b"").await.body);
        }
        texts
    }
}

fn switch_on(config: &mut Config) {
    config.tls = authority().issue();
    config.ingest.prefixes = vec!["laravel_=app-id".to_owned()];
    config.webhooks.leave_delay_seconds = Seconds(0.0);
    config.connections.compression = true;
    config.limits.raw_clients.channels = vec!["news".to_owned()];
    config.limits.channel_rules =
        serde_json::from_value(json!([{ "match": "permintaan.*", "require": "private" }])).unwrap();
    config.limits.flow_rules =
        serde_json::from_value(json!([{ "match": "scada-*", "conflate": { "key": "key", "window_ms": 100 } }]))
            .unwrap();
}

/// What a server without a database has not, and what no page does at will, counted by the same code.
pub fn with_a_database() -> String {
    let metrics = Metrics::new("soketi_", 6001, true);
    let store = metrics.store();
    for source in [AnswerFrom::Cache, AnswerFrom::Database, AnswerFrom::Stale] {
        store.answered(source);
    }
    store.unavailable();
    metrics.app("app-id").dropped(DropCause::SlowReader, 1);
    String::from_utf8(metrics.text()).unwrap()
}

/// The families of these texts.
#[derive(Debug)]
pub struct Families(BTreeMap<String, Family>);

#[derive(Debug, Default)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
}

impl Families {
    pub async fn of(nodes: &Nodes) -> Self {
        let mut families = Self(BTreeMap::new());
        for text in nodes.texts().await.into_iter().chain([with_a_database()]) {
            families.read(&text);
        }
        families
    }

    fn read(&mut self, text: &str) {
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                kind.clone_into(&mut self.0.entry(name.to_owned()).or_default().kind);
            } else if !line.starts_with('#') {
                let series = line.split(['{', ' ']).next().unwrap();
                // a="1",b="2"} 3 is cut into a, 1",b and 2"} 3.
                let parts = line[series.len()..].split("=\"").map(|part| part.rsplit([',', '"', '{']).next().unwrap());
                let labels = parts.filter(|label| !label.contains(' ') && *label != "le").map(str::to_owned);
                let name = self.family(series).unwrap().to_owned();
                self.0.get_mut(&name).unwrap().labels.extend(labels);
            }
        }
    }

    /// The family of a series: that of its name, or the histogram that it is a part of.
    fn family<'a>(&self, series: &'a str) -> Option<&'a str> {
        let histogram = || {
            let name = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| series.strip_suffix(end))?;
            (self.0.get(name)?.kind == "histogram").then_some(name)
        };
        self.0.get(series).filter(|family| family.kind != "histogram").map(|_| series).or_else(histogram)
    }

    /// The labels of a series that Prometheus has scraped; `None` if nobody serves it.
    pub fn labels(&self, series: &str) -> Option<BTreeSet<String>> {
        let scraped = ["job", "instance"].map(str::to_owned);
        if series == "up" {
            return Some(scraped.into());
        }
        let family = &self.0[self.family(series)?];
        let bucket = series.ends_with("_bucket").then(|| "le".to_owned());
        Some(family.labels.iter().cloned().chain(scraped).chain(bucket).collect())
    }

    /// Whether `rate` makes sense of it.
    pub fn counts(&self, series: &str) -> bool {
        self.family(series).is_some_and(|family| self.0[family].kind != "gauge")
    }

    /// The faults of a selector.
    pub fn faults(&self, selector: &Selector) -> Vec<String> {
        let metric = &selector.metric;
        let Some(labels) = self.labels(metric) else { return vec![format!("nobody serves {metric}")] };
        let unknown = selector.matchers.iter().filter(|(label, _)| !labels.contains(label));
        let mut faults: Vec<String> = unknown.map(|(label, _)| format!("{metric} has no label {label}")).collect();
        let document = shipped("docs/operation.md");
        for (label, value) in selector.values().filter(|(label, _)| ["cause", "outcome", "result"].contains(label)) {
            let is_known = match value.strip_suffix(".*") {
                Some(start) => document.contains(&format!("`{start}")),
                None => document.contains(&format!("`{value}`")),
            };
            if !is_known {
                faults.push(format!("docs/operation.md has no {label} {value}"));
            }
        }
        faults
    }
}
