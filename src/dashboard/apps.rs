//! The apps with their limits, and the rates of flow rules.
//! `state` shows them, with the rates that `sampler` has found.

use std::cmp::Reverse;
use std::sync::Arc;

use serde_json::Value;
use serde_json::json;

use crate::dashboard::sampler::Sampled;
use crate::flow::rule::FlowRule;
use crate::node::App;
use crate::node::Node;

/// Apps that one answer shows: the busiest.
const APPS_MAX: usize = 500;
/// Flow rules that one answer shows.
const RULES_MAX: usize = 200;

/// The apps of this node, those with most connections first.
pub(super) fn apps(node: &Node, sampled: &Sampled) -> Vec<Value> {
    // Connections come and go meanwhile, so each number is read once.
    let mut apps: Vec<_> = node.all_apps().into_iter().map(|app| (Reverse(app.open_connections()), app)).collect();
    let order = |(open, app): &(Reverse<usize>, Arc<App>), (other_open, other): &(Reverse<usize>, Arc<App>)| {
        open.cmp(other_open).then_with(|| app.id.cmp(&other.id))
    };
    if apps.len() > APPS_MAX {
        apps.select_nth_unstable_by(APPS_MAX, order);
        apps.truncate(APPS_MAX);
    }
    apps.sort_unstable_by(order);
    apps.iter().map(|(_, app)| one(app, sampled)).collect()
}

fn one(app: &Arc<App>, sampled: &Sampled) -> Value {
    let rules = app.rules();
    let limits = rules.limits();
    // Negative: without a limit.
    let limit = |max: i64| u64::try_from(max).ok();
    json!({
        "id": app.id,
        "key": rules.settings.keys.first().map(|pair| &pair.key),
        "name": null,
        "enabled": rules.settings.enabled,
        "connections": app.open_connections(),
        "connections_max": limit(limits.max_connections).filter(|max| *max > 0),
        "channels": app.channel_count(),
        "publishes_per_second": sampled.publishes.get(&*app.id).copied().unwrap_or_default(),
        "publishes_max": limit(limits.max_backend_events_per_second),
        "client_events_max": limit(limits.max_client_events_per_second),
        "reads_max": limit(limits.max_read_requests_per_second),
    })
}

fn kind(rule: &FlowRule) -> &'static str {
    match rule {
        FlowRule { conflate: Some(_), .. } => "conflate",
        FlowRule { aggregate: Some(_), .. } => "aggregate",
        FlowRule { rate: Some(_), .. } => "rate",
        FlowRule { sample: Some(_), .. } => "sample",
        _ => "snapshot",
    }
}

/// The flow rules of all apps with their rates.
pub(super) fn flow_rules(node: &Node, sampled: &Sampled) -> Vec<Value> {
    let mut shown = Vec::new();
    for app in node.all_apps() {
        for rule in &app.rules().limits().flow_rules {
            let named = (Arc::from(&*app.id), Arc::from(rule.pattern.as_str()));
            let (in_per_second, out_per_second) = sampled.rules.get(&named).copied().unwrap_or_default();
            shown.push(json!({
                "app": app.id,
                "rule": rule.pattern.as_str(),
                "kind": kind(rule),
                "text": rule.explain(),
                "in_per_second": in_per_second,
                "out_per_second": out_per_second,
            }));
            if shown.len() >= RULES_MAX {
                return shown;
            }
        }
    }
    shown
}
