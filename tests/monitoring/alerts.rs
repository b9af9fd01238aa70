//! The alerts: what they ask for is served, each has a case, and the document has them all.

use std::collections::BTreeMap;

use yaml_rust2::Yaml;
use yaml_rust2::YamlLoader;

use crate::promql::asked;
use crate::promql::labels_of;
use crate::served::Families;
use crate::served::Nodes;
use crate::shipped;

/// `config/alerts.yaml`.
pub struct Rules {
    /// The number of rules.
    pub all: usize,
    /// What is recorded, by name.
    records: BTreeMap<String, String>,
    alerts: Vec<Alert>,
}

struct Alert {
    name: String,
    expression: String,
    severity: String,
    annotations: BTreeMap<String, String>,
}

fn yaml(file: &str) -> Yaml {
    YamlLoader::load_from_str(&shipped(file)).unwrap().remove(0)
}

fn text(value: &Yaml) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value:?} is no text")).to_owned()
}

impl Rules {
    pub fn shipped() -> Self {
        let file = yaml("config/alerts.yaml");
        let groups = file["groups"].as_vec().unwrap().iter();
        let mut rules = Self { all: 0, records: BTreeMap::new(), alerts: Vec::new() };
        for rule in groups.flat_map(|group| group["rules"].as_vec().unwrap()) {
            rules.all += 1;
            let expression = text(&rule["expr"]);
            if let Some(record) = rule["record"].as_str() {
                rules.records.insert(record.to_owned(), expression);
                continue;
            }
            let annotations = rule["annotations"].as_hash().unwrap().iter();
            rules.alerts.push(Alert {
                name: text(&rule["alert"]),
                expression,
                severity: text(&rule["labels"]["severity"]),
                annotations: annotations.map(|(name, value)| (text(name), text(value))).collect(),
            });
        }
        assert!(rules.alerts.len() > 30);
        rules
    }
}

#[tokio::test]
async fn the_alerts_ask_for_what_is_served() {
    let nodes = Nodes::start().await;
    nodes.traffic().await;
    let families = Families::of(&nodes).await;
    let rules = Rules::shipped();
    let mut faults = Vec::new();
    for expression in rules.records.values() {
        faults.extend(asked(expression).selectors.iter().flat_map(|selector| families.faults(selector)));
    }
    for alert in &rules.alerts {
        let mut asked = asked(&alert.expression);
        for selector in &mut asked.selectors {
            if let Some(record) = rules.records.get(&selector.metric) {
                selector.metric.clone_from(&crate::promql::asked(record).selectors[0].metric);
            }
        }
        let mut labels = asked.grouping.clone();
        for selector in &asked.selectors {
            let found = families.faults(selector);
            if found.is_empty() && (!asked.aggregates || alert.expression.contains("group_left")) {
                labels.extend(families.labels(&selector.metric).unwrap());
            }
            faults.extend(found);
        }
        let unknown =
            alert.annotations.values().flat_map(|text| labels_of(text)).filter(|&label| !labels.contains(label));
        faults.extend(unknown.map(|label| format!("{} has no label {label}", alert.name)));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn an_alert_says_how_bad_it_is_and_what_to_do() {
    for Alert { name, severity, annotations, .. } in Rules::shipped().alerts {
        assert!(["critical", "warning"].contains(&&*severity), "{name}: {severity}");
        assert_eq!(annotations.keys().collect::<Vec<_>>(), ["description", "remedy", "summary"], "{name}");
        // Both stand in the document as they are.
        for annotation in ["summary", "remedy"] {
            assert!(!annotations[annotation].contains("{{"), "{name}");
        }
        assert!(annotations["description"].contains("{{ $"), "{name}");
        assert!(annotations["remedy"].ends_with('.'), "{name}");
    }
}

/// `promtool test rules` then shows that the cases hold.
#[test]
fn each_alert_has_a_case_where_it_fires_and_one_where_it_is_silent() {
    let cases = yaml("tests/monitoring/alerts.yaml");
    let cases = cases["tests"].as_vec().unwrap();
    for Alert { name, .. } in Rules::shipped().alerts {
        let own = cases.iter().filter(|case| case["name"].as_str() == Some(&name));
        let query = format!("(ALERTS{{alertname=\"{name}\", alertstate=\"firing\"}})");
        let checks = own.flat_map(|case| case["promql_expr_test"].as_vec().unwrap());
        let checks: Vec<&Yaml> = checks.filter(|check| text(&check["expr"]).ends_with(&query)).collect();
        let fires = |check: &&&Yaml| !check["exp_samples"].as_vec().unwrap().is_empty();
        let count = checks.iter().filter(fires).count();
        assert!(0 < count && count < checks.len(), "{name}: {count} of {}", checks.len());
    }
}

#[test]
fn the_document_has_each_alert_with_its_remedy() {
    let document = shipped("docs/monitoring.md");
    let rules = Rules::shipped();
    let rows: Vec<String> = rules
        .alerts
        .iter()
        .map(|alert| {
            let [summary, remedy] = ["summary", "remedy"].map(|name| &alert.annotations[name]);
            format!("| `{}` | {} | {summary} | {remedy} |\n", alert.name, alert.severity)
        })
        .collect();
    for row in &rows {
        assert!(document.contains(row), "docs/monitoring.md lacks this row: {row}");
    }
    let count = document.lines().filter(|line| line.starts_with("| `Gema")).count();
    assert_eq!(count, rows.len(), "docs/monitoring.md has an alert that is not there");
}
