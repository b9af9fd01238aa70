//! Everything that is slow, in one answer: nodes, problems, apps, settings.
//! The page asks for it when it opens and when it reconnects.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::time::Instant;

use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use crate::dashboard::Dashboard;
use crate::dashboard::answer;
use crate::dashboard::answer::Failure;
use crate::dashboard::apps;
use crate::dashboard::problem::ShownProblem;
use crate::dashboard::request::View;
use crate::dashboard::sampler::Sampled;
use crate::watch::glance::Glance;
use crate::watch::now_ms;
use crate::webhook::EndpointReport;

/// Endpoints of webhooks that one answer shows.
const ENDPOINTS_MAX: usize = 500;
/// Bytes of the problems of one answer. The lists of a state are so small together that it crosses to another node.
const PROBLEMS_BYTES_MAX: usize = 384 * 1024;
/// Bytes of the apps of one answer.
const APPS_BYTES_MAX: usize = 192 * 1024;
/// Bytes of the endpoints of one answer.
const WEBHOOKS_BYTES_MAX: usize = 128 * 1024;
/// Bytes of the flow rules of one answer.
const FLOW_RULES_BYTES_MAX: usize = 96 * 1024;
/// Bytes of the settings of one answer.
const SETTINGS_BYTES_MAX: usize = 96 * 1024;

/// `GET /dashboard/api/state`.
pub(super) async fn state(View { dashboard, role, query, .. }: View<StateQuery>) -> Result<Response, Failure> {
    let mut state = match &*query.node {
        "" => dashboard.merged_state(),
        node if node == dashboard.id() => dashboard.own_state(),
        node => dashboard.ask(node, &json!({ "path": "state" })).await?,
    };
    state["role"] = role.name().into();
    Ok(answer::json(&state))
}

#[derive(Deserialize)]
pub(super) struct StateQuery {
    #[serde(default)]
    node: String,
}

impl Dashboard {
    /// This node's state, with the nodes, figures and problems of all.
    fn merged_state(&self) -> Value {
        let mut state = self.own_state();
        let (others, problems) = {
            let nodes = self.nodes.lock();
            (nodes.shown(Instant::now()), nodes.problems())
        };
        state["now"] = json!(self.sampled().now);
        if let Some(own) = state["nodes"].as_array_mut() {
            own.extend(others);
        }
        let mut problems: Vec<ShownProblem> = self.problems().chain(problems).collect();
        problems.sort_by_key(|problem| Reverse(problem.last_ms));
        state["problems"] = answer::within(problems, PROBLEMS_BYTES_MAX).into();
        state
    }

    /// This node's state.
    pub(super) fn own_state(&self) -> Value {
        let sampled = self.sampled();
        let redis = &sampled.redis;
        json!({
            "now_ms": now_ms(),
            "node": self.id(),
            "version": env!("GEMA_VERSION"),
            "started_ms": self.started_ms,
            "glance": glance(&sampled.glance),
            "nodes": [self.this_node(&sampled)],
            "redis": {
                "used": redis.is_used,
                "linked": redis.is_linked,
                "since_ms": redis.since_ms,
                "outage_buffer": redis.buffer,
            },
            "now": sampled.own,
            "limits": { "connections_max": self.node().sockets_max() },
            "problems": answer::within(self.problems(), PROBLEMS_BYTES_MAX),
            "apps": answer::within(apps::apps(self.node(), &sampled), APPS_BYTES_MAX),
            "webhooks": answer::within(self.webhooks(), WEBHOOKS_BYTES_MAX),
            "flow_rules": answer::within(apps::flow_rules(self.node(), &sampled), FLOW_RULES_BYTES_MAX),
            "settings": answer::within(self.settings(), SETTINGS_BYTES_MAX),
            "snippets": self.snippets(),
            "warnings": self.settings.load().warnings,
            "public": self.public(),
        })
    }

    /// The problems of this node, the newest change first.
    fn problems(&self) -> impl Iterator<Item = ShownProblem> {
        let (problems, id) = (self.watch().problems.lock().since(0), self.id());
        problems.into_iter().map(move |problem| ShownProblem::of(&problem, &id))
    }

    /// The name of this node.
    pub(super) fn name(&self) -> String {
        Some(&self.config.server.name).filter(|name| !name.is_empty()).cloned().unwrap_or_else(host_name)
    }

    /// This node, as the page lists it.
    fn this_node(&self, sampled: &Sampled) -> Value {
        let now = &sampled.own;
        json!({
            "id": self.id(),
            "name": self.name(),
            "address": self.address(),
            "this": true,
            "state": if self.node().is_draining() { "draining" } else { "up" },
            "version": env!("GEMA_VERSION"),
            "started_ms": self.started_ms,
            "seen_ms": now_ms(),
            "connections": now.connections,
            "channels": now.channels,
            "events_per_second": now.events,
            "deliveries_per_second": now.deliveries,
            "cpu": sampled.cpu,
            "memory_bytes": sampled.memory_bytes,
        })
    }

    fn webhooks(&self) -> Vec<Value> {
        let waiting_max = self.config.webhooks.queue_events_max;
        let row = |report: EndpointReport| {
            json!({
                "app": report.app,
                "url": report.url,
                "waiting": report.waiting,
                "waiting_max": waiting_max,
                "last_status": report.last_status,
                "last_ms": report.last_ms,
                "next_try_ms": report.next_try_ms,
                "delivered": report.delivered,
                "failed": report.failed,
                "given_up": report.given_up,
                "error": report.error,
            })
        };
        self.node().webhooks().reports(ENDPOINTS_MAX).into_iter().map(row).collect()
    }

    fn settings(&self) -> Vec<Value> {
        let row =
            |(key, value, origin): &(String, Value, String)| json!({ "key": key, "value": value, "origin": origin });
        self.settings.load().listed.iter().map(row).collect()
    }

    /// The main port, as far as this node can know. A proxy in front of it has another name.
    fn public(&self) -> Value {
        json!({
            "host": public_host(self.config.server.host),
            "port": self.port,
            "tls": self.config.tls.is_enabled(),
            "path": self.config.server.path_prefix,
        })
    }

    /// Settings of applications for this server, ready to paste; the secret stays out.
    fn snippets(&self) -> Value {
        let settings = self.settings.load();
        let (id, key) = settings
            .app
            .as_ref()
            .map_or((String::new(), String::new()), |app| (app.id.clone(), app.keys[0].key.clone()));
        let (host, port, path) = (public_host(self.config.server.host), self.port, &self.config.server.path_prefix);
        let scheme = if self.config.tls.is_enabled() { "https" } else { "http" };
        // The names that this server has its app by.
        let has_reverbs =
            |(key, _, origin): &(String, Value, String)| key == "apps.0.key" && origin.ends_with("REVERB_APP_KEY");
        let (names, broadcaster, path_name) = match settings.listed.iter().any(has_reverbs) {
            true => ("REVERB", "reverb", "REVERB_SERVER_PATH"),
            false => ("PUSHER", "pusher", "PUSHER_PATH"),
        };
        let path_lines = if path.is_empty() { String::new() } else { format!("{path_name}={path}\n") };
        let ws_path = if path.is_empty() { String::new() } else { format!("    wsPath: '{path}',\n") };
        let is_tls = self.config.tls.is_enabled();
        json!({
            "env": format!(
                "BROADCAST_CONNECTION={broadcaster}\n{names}_APP_ID={id}\n{names}_APP_KEY={key}\n{names}_APP_SECRET=…\n\
                 {names}_HOST={host}\n{names}_PORT={port}\n{names}_SCHEME={scheme}\n{path_lines}"
            ),
            "echo": format!(
                "new Echo({{\n    broadcaster: '{broadcaster}',\n    key: '{key}',\n    cluster: 'mt1',\n    wsHost: '{host}',\n    \
                 wsPort: {port},\n    wssPort: {port},\n{ws_path}    forceTLS: {is_tls},\n    \
                 enabledTransports: ['ws', 'wss'],\n}});\n"
            ),
            "nginx": format!(
                "location {path}/app {{\n    proxy_pass {scheme}://{host}:{port};\n    proxy_http_version 1.1;\n    \
                 proxy_set_header Upgrade $http_upgrade;\n    proxy_set_header Connection \"upgrade\";\n    \
                 proxy_set_header Host $host;\n    proxy_set_header X-Forwarded-For $remote_addr;\n    \
                 proxy_set_header X-Forwarded-Proto $scheme;\n    proxy_read_timeout 90s;\n}}\n\
                 location {path}/apps {{\n    proxy_pass {scheme}://{host}:{port};\n    proxy_set_header Host $host;\n}}\n"
            ),
        })
    }
}

/// A host that others may use: an address that stands for all says nothing.
fn public_host(host: IpAddr) -> String {
    if host.is_unspecified() { host_name() } else { host.to_string() }
}

/// The name of the machine, or of the pod.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

/// The sentence for the page.
pub(super) fn glance(glance: &Glance) -> Value {
    json!({ "level": glance.level.name(), "code": glance.code, "values": glance.values, "text": glance.text })
}
