//! The connections: found by user, socket id, address, channel or app.
//! The shards answer in slices; nothing waits for a long list.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;
use tokio::sync::oneshot;

use crate::dashboard::Dashboard;
use crate::dashboard::answer;
use crate::dashboard::answer::Failure;
use crate::dashboard::request::View;
use crate::node::Node;
use crate::registry::connections::ConnectionInfo;
use crate::registry::connections::ConnectionQuery;
use crate::registry::connections::Wanted;
use crate::registry::inbox::ShardMessage;

/// Connections of one answer.
pub(super) const CONNECTIONS_MAX: usize = 1000;
/// Bytes of the connections of one answer, each of which may have long names. So an answer crosses to another node.
const CONNECTIONS_BYTES_MAX: usize = 768 * 1024;
/// How long a shard may take for one slice, which is long only if it is overloaded.
const ANSWER_TIME: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
pub(super) struct ConnectionsQuery {
    app: Option<String>,
    user: Option<String>,
    socket: Option<String>,
    address: Option<String>,
    channel: Option<String>,
    limit: Option<usize>,
}

/// `GET /dashboard/api/connections`.
pub(super) async fn list(View { dashboard, query, .. }: View<ConnectionsQuery>) -> Result<Response, Failure> {
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let wanted = Wanted {
        app: some(query.app),
        user: some(query.user),
        socket: some(query.socket),
        address: some(query.address),
        channel: some(query.channel),
    };
    if wanted == Wanted::default() {
        return Err(Failure::bad("Name at least one of user, socket, address, channel and app."));
    }
    let limit = query.limit.unwrap_or(100).clamp(1, CONNECTIONS_MAX);
    let question = json!({ "path": "connections", "wanted": wanted, "limit": limit });
    let (own, (others, failed)) = tokio::join!(dashboard.own_connections(wanted, limit), dashboard.ask_all(&question));
    let answers = || std::iter::once(&own).chain(&others);
    let totals = answers().filter_map(|answer| answer["total"].as_u64());
    let found = answers().filter_map(|answer| answer["connections"].as_array()).flatten().take(limit);
    let silent: Vec<String> = failed.into_iter().map(|(node, _)| node).collect();
    Ok(answer::json(&json!({
        "connections": answer::within(found, CONNECTIONS_BYTES_MAX),
        "total": totals.fold(0, u64::saturating_add),
        "silent_nodes": silent,
    })))
}

impl Dashboard {
    /// The connections of this node that are wanted.
    pub(super) async fn own_connections(&self, wanted: Wanted, limit: usize) -> Value {
        // Never closed.
        let _turn = self.searches.acquire().await;
        let (found, total) = find(self.node(), wanted, limit).await;
        let id = self.id();
        let found = answer::within(found.iter().map(|info| connection(info, &id)), CONNECTIONS_BYTES_MAX);
        json!({ "connections": found, "total": total })
    }
}

/// The connections of this node that are wanted, at most `limit`, and how many there are.
pub(super) async fn find(node: &Node, wanted: Wanted, limit: usize) -> (Vec<ConnectionInfo>, usize) {
    let (wanted, mut found, mut total) = (Arc::new(wanted), Vec::new(), 0);
    for shard in 0..node.inboxes().shards() {
        let mut from = Some(0);
        while let Some(first) = from {
            let (reply, answer) = oneshot::channel();
            let limit = limit - found.len();
            let query = ConnectionQuery { wanted: Arc::clone(&wanted), from: first, limit, reply };
            node.inboxes().send(shard, ShardMessage::List(Box::new(query)));
            // A shard that has ended answers nothing.
            let Ok(Ok(slice)) = tokio::time::timeout(ANSWER_TIME, answer).await else { break };
            found.extend(slice.found);
            total += slice.total;
            from = slice.next;
        }
    }
    (found, total)
}

fn connection(info: &ConnectionInfo, node: &str) -> Value {
    json!({
        "node": node,
        "app": info.app,
        "socket": info.socket_id.to_string(),
        "user": info.user,
        "address": info.address,
        "library": info.library,
        "protocol": info.protocol,
        "origin": info.origin,
        "age_seconds": info.age_seconds,
        "channels": info.channels.0,
        "channels_total": info.channels.1,
        "waiting_bytes": info.waiting_bytes,
    })
}
