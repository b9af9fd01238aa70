//! Settings that nodes cannot serve together when they meet in NATS.
//! `config` refuses them, `warnings` warns of them, and the store takes them out of its rows.

use crate::flow::rule::FlowRule;

use crate::config::App;
use crate::config::ClusterDriver;
use crate::config::Config;
use crate::config::StoreDriver;
use crate::config::WebhooksDriver;
use crate::config::fault::{Fault, FaultList};

const HISTORY: &str = "cannot be served over NATS, which keeps no history";

/// Adds a fault for each list of history rules.
pub(super) fn validate(config: &Config, faults: &mut FaultList) {
    if config.cluster.driver != ClusterDriver::Nats {
        return;
    }
    let text =
        format!("{HISTORY}; remove them, or set cluster.driver to \"redis\", or to \"local\" where there is one node");
    faults.add_if(!config.limits.history_rules.is_empty(), "limits.history_rules", &*text);
    for (index, app) in config.apps.iter().enumerate() {
        let has_rules = app.history_rules.as_ref().is_some_and(|rules| !rules.is_empty());
        faults.add_if(has_rules, format!("apps.{index}.history_rules"), &*text);
    }
}

/// About what each node does for itself.
pub(super) fn warnings(config: &Config) -> Vec<Fault> {
    let mut warnings = FaultList::default();
    if config.cluster.driver != ClusterDriver::Nats {
        return warnings.0;
    }
    let may_have_webhooks =
        config.app_store.driver != StoreDriver::Config || config.apps().iter().any(|app| !app.webhooks.is_empty());
    let text = "is \"local\", and nodes that meet in NATS announce webhook events each for itself: an endpoint gets \
                channel_occupied, channel_vacated, member_added and member_removed from every node where it happens; \
                set it to \"redis\"";
    let is_alone = config.webhooks.driver == WebhooksDriver::Local && may_have_webhooks;
    warnings.add_if(is_alone, "webhooks.driver", text);
    warn_of_snapshots("limits.flow_rules", &config.limits.flow_rules, &mut warnings);
    for (index, app) in config.apps.iter().enumerate() {
        let rules = app.flow_rules.as_deref().unwrap_or_default();
        warn_of_snapshots(&format!("apps.{index}.flow_rules"), rules, &mut warnings);
    }
    warnings.0
}

fn warn_of_snapshots(place: &str, rules: &[FlowRule], warnings: &mut FaultList) {
    for (index, _) in rules.iter().enumerate().filter(|(_, rule)| rule.snapshot.is_some()) {
        let text = "is of each node alone, because cluster.driver is \"nats\": a page that joins gets what its node \
                    has heard; with \"redis\" nodes share it";
        warnings.add(format!("{place}.{index}.snapshot"), text);
    }
}

impl App {
    /// Makes the app of a row of `table` one that nodes can serve over NATS, without history. Warns of all that differs.
    pub fn leave_out_history(&mut self, table: &str) -> Vec<Fault> {
        let (limits, mut warnings) = (&mut self.limits, FaultList::default());
        let had_history = !std::mem::take(&mut limits.history_rules).is_empty();
        let text = format!("{HISTORY}; meanwhile the app has none");
        warnings.add_if(had_history, format!("{table}.history_rules"), text);
        warn_of_snapshots(&format!("{table}.flow_rules"), &limits.flow_rules, &mut warnings);
        warnings.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::config::Limits;
    use crate::config::fault::sentences;
    use crate::config::load;

    use super::*;

    const HISTORY_RULES: &str = r#"[{"match":"orders.*","seconds":60,"events_max":10,"bytes_max":4096}]"#;
    const FLOW_RULES: &str = r#"[{"match":"scada-*","snapshot":{"max_age_seconds":600}}]"#;
    const WEBHOOKS: &str = r#"[{"url":"https://x.example","event_types":["channel_occupied"]}]"#;

    /// The faults, or else the warnings.
    fn complaints(variables: &[(&str, &str)]) -> Vec<String> {
        let always = [("SOKETI_HOST", "127.0.0.1"), ("GEMA_CLUSTER_DRIVER", "nats")];
        let all = [&always, variables].concat();
        match load(&[], all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()))) {
            Ok(loaded) => sentences(&loaded.warnings),
            Err(faults) => sentences(&faults.faults),
        }
    }

    #[test]
    fn history_rules_are_refused() {
        let found = complaints(&[("GEMA_LIMITS_HISTORY_RULES", HISTORY_RULES)]);
        assert_eq!(found.len(), 1, "{found:#?}");
        let begins = "limits.history_rules (from GEMA_LIMITS_HISTORY_RULES) cannot be served over NATS";
        assert!(found[0].starts_with(begins) && found[0].contains("\"redis\""), "{found:#?}");
        let local = [("GEMA_LIMITS_HISTORY_RULES", HISTORY_RULES), ("GEMA_CLUSTER_DRIVER", "local")];
        assert_eq!(complaints(&local), [""; 0]);
    }

    #[test]
    fn a_snapshot_is_warned_of() {
        let found = complaints(&[("GEMA_LIMITS_FLOW_RULES", FLOW_RULES)]);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with("limits.flow_rules.0.snapshot (from "), "{found:#?}");
    }

    #[test]
    fn webhooks_without_redis_are_warned_of() {
        let found = complaints(&[("SOKETI_DEFAULT_APP_WEBHOOKS", WEBHOOKS)]);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with("webhooks.driver is \"local\"") && found[0].ends_with("set it to \"redis\""));
        let in_redis = [("SOKETI_DEFAULT_APP_WEBHOOKS", WEBHOOKS), ("SOKETI_QUEUE_DRIVER", "redis")];
        assert_eq!(complaints(&in_redis), [""; 0]);
        assert_eq!(complaints(&[]), [""; 0], "without webhooks there is nothing to announce");
    }

    #[test]
    fn a_row_is_served_without_its_history() {
        let rules = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let row = json!({
            "id": "a", "key": "k", "secret": "s", "history_rules": rules(HISTORY_RULES), "flow_rules": rules(FLOW_RULES),
        });
        let mut row = App::from_row("apps", row.as_object().unwrap(), &Limits::default()).unwrap();
        assert!(!row.app.limits.history_rules.is_empty() && row.warnings.is_empty());
        let warnings = row.app.leave_out_history("apps");
        assert!(row.app.limits.history_rules.is_empty() && row.app.limits.flow_rules.len() == 1);
        let keys: Vec<&str> = warnings.iter().map(|warning| warning.subject.key.as_str()).collect();
        assert_eq!(keys, ["apps.history_rules", "apps.flow_rules.0.snapshot"]);
    }
}
