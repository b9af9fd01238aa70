//! The log lines about rules for events: what each does, and for which apps.
//! `cli` logs them at the start and at a reload.

use tracing::info;

use crate::config::Config;
use crate::config::Limits;
use crate::config::StoreDriver;
use crate::flow::rule::FlowRule;
use crate::history::rule::HistoryRule;

/// Lines about one kind of rules; `gema check` has all of them.
const LINES_MAX: usize = 20;
/// Apps that a line names.
const APPS_MAX: usize = 5;

/// Logs a line for each rule that holds.
pub(super) fn log(config: &Config) {
    log_lines("flow", &lines::<FlowRule>(config));
    log_lines("history", &lines::<HistoryRule>(config));
}

fn log_lines(kind: &str, lines: &[(String, String)]) {
    for (apps, rule) in lines.iter().take(LINES_MAX) {
        info!(apps, "{rule}");
    }
    if let Some(more) = lines.len().checked_sub(LINES_MAX).filter(|&more| more > 0) {
        info!(more, "further {kind} rules hold; gema check --channel NAME explains those of a channel");
    }
}

/// A kind of rules for events.
trait Rule: PartialEq + Sized + 'static {
    /// The end of the name of those apps of a database that have none.
    const WITHOUT: &str;

    fn of(limits: &Limits) -> &[Self];
    fn sentence(&self) -> String;
}

impl Rule for FlowRule {
    const WITHOUT: &str = "those of the database without flow rules of their own";

    fn of(limits: &Limits) -> &[Self] {
        &limits.flow_rules
    }

    fn sentence(&self) -> String {
        self.explain()
    }
}

impl Rule for HistoryRule {
    const WITHOUT: &str = "those of the database without history rules of their own";

    fn of(limits: &Limits) -> &[Self] {
        &limits.history_rules
    }

    fn sentence(&self) -> String {
        self.explain()
    }
}

/// The apps and the sentence of each rule. Apps with the same rules share their lines.
fn lines<R: Rule>(config: &Config) -> Vec<(String, String)> {
    let apps = config.apps();
    let mut groups: Vec<(&[R], Vec<&str>)> = Vec::new();
    for app in apps.iter().filter(|app| app.enabled && !R::of(&app.limits).is_empty()) {
        let rules = R::of(&app.limits);
        match groups.iter_mut().find(|(others, _)| *others == rules) {
            Some((_, ids)) => ids.push(&app.id),
            None => groups.push((rules, vec![&app.id])),
        }
    }
    if config.app_store.driver != StoreDriver::Config {
        groups.push((R::of(&config.limits), vec![R::WITHOUT]));
    }
    let of_group = |(rules, ids): (&[R], Vec<&str>)| {
        let more = ids.len().saturating_sub(APPS_MAX);
        let mut apps = ids[..ids.len() - more].join(", ");
        if more > 0 {
            apps += &format!(" and {more} more");
        }
        rules.iter().map(|rule| (apps.clone(), rule.sentence())).collect::<Vec<_>>()
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
        assert_eq!(lines::<FlowRule>(&config), []);
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
            lines::<FlowRule>(&config),
            [(inherited.clone(), explained("a")), (inherited, explained("b")), ("b".to_owned(), explained("c"))]
        );
        config.apps.extend(["x", "y"].map(app));
        assert_eq!(lines::<FlowRule>(&config)[0].0, "a, d, e, f, g and 2 more");
    }

    #[test]
    fn history_rules_have_lines_as_well() {
        let mut config = Config::default();
        assert_eq!(lines::<HistoryRule>(&config), []);
        config.limits.history_rules = serde_json::from_str(r#"[{"match":"a","seconds":7}]"#).unwrap();
        config.apps = vec![app("one")];
        config.app_store.driver = StoreDriver::Mysql;
        let names: Vec<String> = lines::<HistoryRule>(&config).into_iter().map(|(apps, _)| apps).collect();
        assert!(names.contains(&"those of the database without history rules of their own".to_owned()), "{names:?}");
        let sentences = lines::<HistoryRule>(&config);
        assert!(
            sentences
                .iter()
                .all(|(_, rule)| rule.starts_with("history rule a keeps the events of each channel for 7 s"))
        );
        assert_eq!(lines::<FlowRule>(&config), []);
    }
}
