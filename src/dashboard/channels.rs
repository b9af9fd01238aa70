//! The channels: the largest ones, and one with its members.
//! The page's panel *Channels* asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use crate::dashboard::Dashboard;
use crate::dashboard::answer;
use crate::dashboard::answer::Failure;
use crate::dashboard::now::round;
use crate::http::Client;
use crate::node::App;
use crate::protocol::channel::ChannelName;
use crate::registry::Activity;
use crate::registry::ChannelInfo;
use crate::watch::filter;
use crate::watch::now_ms;

/// Channels of one answer.
const CHANNELS_MAX: usize = 1000;
/// Members of one answer.
const MEMBERS_MAX: usize = 1000;

#[derive(Deserialize)]
pub(super) struct ListQuery {
    #[serde(default)]
    app: String,
    #[serde(default, rename = "match")]
    pattern: String,
    #[serde(default)]
    sort: String,
    #[serde(default)]
    limit: Option<usize>,
}

#[derive(Deserialize)]
pub(super) struct OneQuery {
    app: String,
    name: String,
}

/// A channel with its connections on each node.
struct Found {
    app: Arc<App>,
    name: ChannelName,
    /// As this node knows it.
    here: ChannelInfo,
    nodes: Vec<(String, usize)>,
}

impl Found {
    fn subscribers(&self) -> usize {
        self.nodes.iter().map(|(_, subscribers)| subscribers).sum()
    }
}

/// `GET /dashboard/api/channels`.
pub(super) async fn list(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Result<Response, Failure> {
    dashboard.authorize(&client, &request)?;
    let query: ListQuery = answer::parameters(&request)?;
    let pattern = filter::one_star_each(&answer::short_pattern("match", query.pattern)?);
    let mut found: Vec<Found> = Vec::new();
    let apps = dashboard.node().all_apps();
    for app in apps.iter().filter(|app| query.app.is_empty() || app.id == query.app) {
        found.extend(dashboard.channels_of(app, &pattern).await);
        // A server with many apps answers others meanwhile.
        tokio::task::yield_now().await;
    }
    let (total, limit) = (found.len(), query.limit.unwrap_or(100).clamp(1, CHANNELS_MAX));
    let now = Instant::now();
    let events = |found: &Found| found.here.activity.map_or(0.0, |activity| activity.per_second(now));
    match &*query.sort {
        "events" => found.sort_by(|one, other| events(other).total_cmp(&events(one)).then(one.name.cmp(&other.name))),
        _ => found.sort_by_cached_key(|found| (std::cmp::Reverse(found.subscribers()), found.name.clone())),
    }
    found.truncate(limit);
    let shown: Vec<Value> = found.iter().map(channel).collect();
    Ok(answer::json(&json!({ "channels": shown, "total": total })))
}

/// `GET /dashboard/api/channel`.
pub(super) async fn one(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Result<Response, Failure> {
    dashboard.authorize(&client, &request)?;
    let query: OneQuery = answer::parameters(&request)?;
    let app = dashboard.app(&query.app)?;
    let name = parse(&query.name)?;
    let here = app.channel_here(&name);
    let mut nodes = vec![(dashboard.id(), here.subscriptions)];
    if let Some(cluster) = dashboard.node().cluster() {
        let others = cluster.subscriptions_by_node(&app.id, &name).await;
        nodes.extend(others.into_iter().map(|(node, subscribers)| (node.to_string(), subscribers)));
    }
    let mut shown = channel(&Found { app: Arc::clone(&app), name: name.clone(), here, nodes });
    if name.kind().presence {
        let all = app.members_with_info(&name);
        let shows_info = dashboard.config.dashboard.payloads;
        let member = |(id, info): &(Arc<str>, Arc<str>)| {
            let info = shows_info.then(|| serde_json::from_str::<Value>(info).unwrap_or_default());
            json!({ "id": id, "info": info })
        };
        shown["members_total"] = all.len().into();
        shown["members"] = all.iter().take(MEMBERS_MAX).map(member).collect();
    }
    Ok(answer::json(&shown))
}

pub(super) fn parse(name: &str) -> Result<ChannelName, Failure> {
    ChannelName::parse(name, usize::MAX).map_err(|error| Failure::bad(format!("{error}.")))
}

impl Dashboard {
    /// The occupied channels of an app on all nodes whose names match.
    async fn channels_of(&self, app: &Arc<App>, pattern: &str) -> Vec<Found> {
        let is_wanted = |name: &ChannelName| pattern.is_empty() || filter::matches(pattern, name.as_str());
        let (id, mut found) = (self.id(), HashMap::new());
        for (name, here) in app.channels().into_iter().filter(|(name, _)| is_wanted(name)) {
            let nodes = vec![(id.clone(), here.subscriptions)];
            found.insert(name.clone(), Found { app: Arc::clone(app), name, here, nodes });
        }
        let others = match self.node().cluster() {
            Some(cluster) => cluster.channels_by_node(&app.id).await,
            None => Vec::new(),
        };
        for (node, channels) in others {
            for (name, subscribers) in channels.into_iter().filter(|(name, _)| name.user().is_none() && is_wanted(name))
            {
                let new = || {
                    let (here, nodes) = (ChannelInfo::default(), Vec::new());
                    Found { app: Arc::clone(app), name: name.clone(), here, nodes }
                };
                found.entry(name.clone()).or_insert_with(new).nodes.push((node.to_string(), subscribers));
            }
        }
        found.into_values().collect()
    }

    /// The app with this id.
    pub(super) fn app(&self, id: &str) -> Result<Arc<App>, Failure> {
        self.node().app_by_id(id).ok_or_else(|| {
            Failure::not_found("There is no app with this id on this node. State lists the apps that are in use.")
        })
    }
}

fn channel(found: &Found) -> Value {
    let Found { app, name, here, nodes } = found;
    let (now, now_ms) = (Instant::now(), now_ms());
    let last_ms = |activity: &Activity| {
        let ago = now.saturating_duration_since(activity.last).as_millis();
        now_ms.saturating_sub(u64::try_from(ago).unwrap_or(u64::MAX))
    };
    let per_second = here.activity.map_or(0.0, |activity| f64::from(activity.per_second(now)));
    let rules = app.rules();
    let flow = rules.explain_flow(name);
    let nodes = nodes.iter().map(|(node, subscribers)| json!({ "node": node, "subscribers": subscribers }));
    json!({
        "app": app.id,
        "name": name.as_str(),
        "subscribers": found.subscribers(),
        "members": name.kind().presence.then_some(here.users),
        "events_per_second": round(per_second),
        "last_event_ms": here.activity.as_ref().map(last_ms),
        "rule": rules.limits().policy().rule_of(&rules.ruled(name)),
        "flow": (!flow.is_empty()).then(|| flow.join("; ")),
        "nodes": nodes.collect::<Value>(),
    })
}
