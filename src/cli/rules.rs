//! The log lines about flow rules: what each does, and for which apps.
//! `cli` logs them at the start and at a reload.

use tracing::info;

use crate::config::Config;
use crate::config::StoreDriver;
use crate::flow::rule::FlowRule;

/// Lines; `gema check` has all of them.
const LINES_MAX: usize = 20;
/// Apps that a line names.
const APPS_MAX: usize = 5;

/// Logs a line for each rule that holds.
pub(super) fn log(config: &Config) {
    let lines = lines(config);
    for (apps, rule) in lines.iter().take(LINES_MAX) {
        info!(apps, "{rule}");
    }
    if let Some(more) = lines.len().checked_sub(LINES_MAX).filter(|&more| more > 0) {
        info!(more, "further flow rules hold; gema check --channel NAME explains those of a channel");
    }
}

/// The apps and the sentence of each rule. Apps with the same rules share their lines.
fn lines(config: &Config) -> Vec<(String, String)> {
    let apps = config.apps();
    let mut groups: Vec<(&[FlowRule], Vec<&str>)> = Vec::new();
    for app in apps.iter().filter(|app| app.enabled && !app.limits.flow_rules.is_empty()) {
        let rules = &app.limits.flow_rules[..];
        match groups.iter_mut().find(|(others, _)| *others == rules) {
            Some((_, ids)) => ids.push(&app.id),
            None => groups.push((rules, vec![&app.id])),
        }
    }
    if config.app_store.driver != StoreDriver::Config {
        groups.push((&config.limits.flow_rules, vec!["those of the database without flow rules of their own"]));
    }
    let of_group = |(rules, ids): (&[FlowRule], Vec<&str>)| {
        let more = ids.len().saturating_sub(APPS_MAX);
        let mut apps = ids[..ids.len() - more].join(", ");
        if more > 0 {
            apps += &format!(" and {more} more");
        }
        rules.iter().map(|rule| (apps.clone(), rule.explain())).collect::<Vec<_>>()
    };
    groups.into_iter().flat_map(of_group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AppEntry;

    fn rules(json: &str) -> Vec<FlowRule> {
        serde_json::from_str(json).unwrap()
    }

    fn app(id: &str) -> AppEntry {
        AppEntry::new(id, id, "secret")
    }

    #[test]
    fn apps_with_the_same_rules_share_lines() {
        let mut config = Config::default();
        assert_eq!(lines(&config), []);
        config.limits.flow_rules = rules(r#"[{"match":"a","sample":{"every":2}},{"match":"b","sample":{"every":2}}]"#);
        config.apps = ["a", "b", "c", "d", "e", "f", "g"].map(app).to_vec();
        config.apps[1].flow_rules = Some(rules(r#"[{"match":"c","sample":{"every":2}}]"#));
        config.apps[2].flow_rules = Some(Vec::new());
        config.apps.push(AppEntry { enabled: false, ..app("off") });
        let explained = |pattern: &str| {
            format!("flow rule {pattern} samples all events: of 2 events of each name the first passes")
        };
        let inherited = "a, d, e, f, g".to_owned();
        assert_eq!(
            lines(&config),
            [(inherited.clone(), explained("a")), (inherited, explained("b")), ("b".to_owned(), explained("c"))]
        );
        config.apps.extend(["x", "y"].map(app));
        assert_eq!(lines(&config)[0].0, "a, d, e, f, g and 2 more");
    }
}
