//! Health, memory and metrics, for operators, orchestrators and Prometheus.
//! `http` routes to it on both ports.

use axum::extract::Query;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use crate::http::Api;
use crate::http::response;
use crate::store::StoreState;

/// `GET /`: the process runs.
pub(super) async fn alive() -> Response {
    response::text(StatusCode::OK, "OK")
}

/// `GET /ready`: the node accepts connections.
pub(super) async fn ready(State(api): State<Api>) -> Response {
    if api.0.node.is_draining() {
        return response::text(StatusCode::SERVICE_UNAVAILABLE, "The server is closing. Choose another server.");
    }
    let store = api.0.node.store().map(|store| store.state());
    if store == Some(StoreState::NeverAnswered) {
        let message = "The database with the apps has not answered yet. Choose another server.";
        return response::text(StatusCode::SERVICE_UNAVAILABLE, message);
    }
    let meets_in = api.0.node.meets_in().unwrap_or_default();
    match api.0.node.cluster() {
        Some(cluster) if !cluster.is_linked() && cluster.is_strict() => {
            response::text(StatusCode::SERVICE_UNAVAILABLE, format!("{meets_in} is away. Choose another server."))
        }
        Some(cluster) if !cluster.is_linked() => {
            response::text(StatusCode::OK, format!("OK, degraded: {meets_in} is away"))
        }
        _ if store == Some(StoreState::Away) => {
            response::text(StatusCode::OK, "OK, degraded: the database with the apps is away")
        }
        _ => response::text(StatusCode::OK, "OK"),
    }
}

/// `GET /accept-traffic`: the node accepts connections and has memory for more.
pub(super) async fn accept_traffic(State(api): State<Api>) -> Response {
    if api.0.node.is_draining() {
        return response::text(StatusCode::SERVICE_UNAVAILABLE, "The server is closing. Choose another server.");
    }
    let Some(memory) = Memory::read() else {
        return response::text(StatusCode::OK, "OK");
    };
    if memory.percent() > api.0.accept_traffic_memory_percent {
        return response::text(StatusCode::SERVICE_UNAVAILABLE, "Low on memory here. Choose another server.");
    }
    let memory = json!({ "usedSize": memory.used, "totalSize": memory.total, "percentUsage": memory.percent() });
    response::json(&json!({ "memory": memory })).0
}

/// `GET /usage` on the metrics port.
pub(super) async fn usage() -> Response {
    let Some(memory) = Memory::read() else {
        return response::text(StatusCode::NOT_IMPLEMENTED, "This system does not tell how much memory is used");
    };
    let free = memory.total.saturating_sub(memory.used);
    let memory = json!({ "free": free, "used": memory.used, "total": memory.total, "percent": memory.percent() });
    response::json(&json!({ "memory": memory })).0
}

#[derive(Debug, Deserialize)]
pub(super) struct MetricsQuery {
    #[serde(default)]
    json: String,
}

/// `GET /metrics` on the metrics port: Prometheus' text, or JSON with `?json=1`.
pub(super) async fn metrics(State(api): State<Api>, Query(query): Query<MetricsQuery>) -> Response {
    api.0.node.update_gauges();
    let metrics = api.0.node.metrics();
    if query.json.is_empty() {
        return response::respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics.text().into());
    }
    response::json(&metrics.json()).0
}

/// Memory in bytes.
struct Memory {
    used: u64,
    total: u64,
}

impl Memory {
    /// The memory of the process, and its limit: the container's, or all of the machine's.
    #[cfg(target_os = "linux")]
    fn read() -> Option<Self> {
        use procfs::Current;
        let used = procfs::process::Process::myself().ok()?.statm().ok()?.resident * procfs::page_size();
        let machine = procfs::Meminfo::current().ok()?.mem_total;
        let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
        let container = container.and_then(|limit| limit.trim().parse().ok()).unwrap_or(u64::MAX);
        Some(Self { used, total: machine.min(container) })
    }

    #[cfg(not(target_os = "linux"))]
    fn read() -> Option<Self> {
        None
    }

    fn percent(&self) -> f64 {
        self.used as f64 / self.total.max(1) as f64 * 100.0
    }
}
