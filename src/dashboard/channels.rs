//! The channels: the largest ones, and one with its members.
//! The page's panel *Channels* asks.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use crate::dashboard::Dashboard;
use crate::dashboard::answer;
use crate::dashboard::answer::Failure;
use crate::dashboard::now::round;
use crate::dashboard::request::View;
use crate::node::App;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NodeId;
use crate::registry::Activity;
use crate::registry::ChannelInfo;
use crate::watch::filter;
use crate::watch::now_ms;

/// Channels of one answer.
const CHANNELS_MAX: usize = 1000;
/// Members of one answer.
const MEMBERS_MAX: usize = 1000;
/// Apps whose channels are asked for in one round trip to Redis.
const APPS_AT_ONCE: usize = 100;
/// Bytes of the channels or members of one answer.
const ANSWER_BYTES_MAX: usize = 768 * 1024;

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

/// The channels of the other nodes, with the connections there.
type OtherChannels = Vec<(NodeId, Vec<(ChannelName, usize)>)>;

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
        self.nodes.iter().map(|(_, subscribers)| *subscribers).fold(0, usize::saturating_add)
    }
}

/// `GET /dashboard/api/channels`.
pub(super) async fn list(View { dashboard, query, .. }: View<ListQuery>) -> Result<Response, Failure> {
    let pattern = filter::one_star_each(&answer::short_pattern("match", query.pattern)?);
    let limit = query.limit.unwrap_or(100).clamp(1, CHANNELS_MAX);
    let mut apps = dashboard.node().all_apps();
    apps.retain(|app| query.app.is_empty() || app.id == query.app);
    // Never closed.
    let _turn = dashboard.searches.acquire().await;
    let (mut found, mut total): (Vec<Found>, usize) = (Vec::new(), 0);
    for apps in apps.chunks(APPS_AT_ONCE) {
        let more = dashboard.channels_of(apps, &pattern).await;
        total += more.len();
        found.extend(more);
        // Of many channels, only those are kept that may be shown.
        sort(&mut found, &query.sort);
        found.truncate(limit);
        // A server with many apps answers others meanwhile.
        tokio::task::yield_now().await;
    }
    let shown = answer::within(found.iter().map(channel), ANSWER_BYTES_MAX);
    Ok(answer::json(&json!({ "channels": shown, "total": total })))
}

/// `GET /dashboard/api/channel`.
pub(super) async fn one(View { dashboard, query, .. }: View<OneQuery>) -> Result<Response, Failure> {
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
        shown["members"] = answer::within(all.iter().take(MEMBERS_MAX).map(member), ANSWER_BYTES_MAX).into();
    }
    Ok(answer::json(&shown))
}

pub(super) fn parse(name: &str) -> Result<ChannelName, Failure> {
    ChannelName::parse(name, usize::MAX).map_err(|error| Failure::bad(format!("{error}.")))
}

/// Puts the largest or busiest channels first.
fn sort(found: &mut [Found], by: &str) {
    let now = Instant::now();
    let events = |found: &Found| found.here.activity.map_or(0.0, |activity| activity.per_second(now));
    match by {
        "events" => found.sort_by(|one, other| events(other).total_cmp(&events(one)).then(one.name.cmp(&other.name))),
        _ => found.sort_by_cached_key(|found| (Reverse(found.subscribers()), found.name.clone())),
    }
}

impl Dashboard {
    /// The occupied channels of these apps on all nodes whose names match.
    async fn channels_of(&self, apps: &[Arc<App>], pattern: &str) -> Vec<Found> {
        let ids: Vec<&str> = apps.iter().map(|app| &*app.id).collect();
        let mut others = match self.node().cluster() {
            Some(cluster) => cluster.channels_by_node(&ids).await,
            None => Vec::new(),
        };
        others.resize_with(apps.len(), Vec::new);
        let each = apps.iter().zip(others);
        each.flat_map(|(app, others)| self.channels_of_app(app, others, pattern)).collect()
    }

    /// Those of one app; `others` are the channels of the other nodes.
    fn channels_of_app(&self, app: &Arc<App>, others: OtherChannels, pattern: &str) -> Vec<Found> {
        let is_wanted = |name: &ChannelName| pattern.is_empty() || filter::matches(pattern, name.as_str());
        let (id, mut found) = (self.id(), HashMap::new());
        for (name, here) in app.channels().into_iter().filter(|(name, _)| is_wanted(name)) {
            let nodes = vec![(id.clone(), here.subscriptions)];
            found.insert(name.clone(), Found { app: Arc::clone(app), name, here, nodes });
        }
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
