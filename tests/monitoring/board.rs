//! The board: what it asks for is served, and Grafana can import and draw it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::promql::Asked;
use crate::promql::asked;
use crate::promql::labels_of;
use crate::served::Families;
use crate::served::Nodes;
use crate::shipped;

/// `config/grafana.json`.
pub struct Board(Value);

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

impl Board {
    pub fn shipped() -> Self {
        Self(serde_json::from_str(&shipped("config/grafana.json")).unwrap())
    }

    /// Rows and panels; those of collapsed rows, too.
    fn all(&self) -> impl Iterator<Item = &Value> {
        list(&self.0["panels"]).iter().flat_map(|panel| std::iter::once(panel).chain(list(&panel["panels"])))
    }

    fn panels(&self) -> impl Iterator<Item = &Value> {
        self.all().filter(|panel| panel["type"] != "row")
    }

    fn variables(&self) -> &[Value] {
        list(&self.0["templating"]["list"])
    }

    /// The expressions of panels and annotations, with values for Grafana's variables.
    pub fn queries(&self) -> impl Iterator<Item = String> {
        let targets = self.panels().flat_map(|panel| list(&panel["targets"]));
        let annotations = list(&self.0["annotations"]["list"]).iter().filter(|own| own.get("expr").is_some());
        // An annotation is there when a node starts.
        let annotations = annotations.map(|own| text(own, "expr").replace(" > 0", ""));
        targets.map(|target| text(target, "expr").to_owned()).chain(annotations).map(|text| filled(&text))
    }
}

/// As Grafana fills in its variables, with all of them chosen.
fn filled(expression: &str) -> String {
    let mut filled = expression.to_owned();
    for (variable, value) in
        [("$__rate_interval", "1m"), ("$__range", "10m"), ("$job", ".*"), ("$instance", ".*"), ("$app", ".*")]
    {
        filled = filled.replace(variable, value);
    }
    assert!(!filled.contains('$'), "{filled}");
    filled
}

/// Whether each counter is in `rate` or the like, and no gauge is.
fn rates(families: &Families, expression: &str, asked: &Asked) -> Vec<String> {
    let mut faults = Vec::new();
    for selector in &asked.selectors {
        let rated = ["rate(", "increase(", "changes("]
            .iter()
            .any(|call| expression.contains(&format!("{call}{}{{", selector.metric)));
        let is_changes = expression.starts_with("changes(");
        if rated != families.counts(&selector.metric) && !is_changes {
            faults.push(format!("{expression}: rate or not of {}", selector.metric));
        }
    }
    faults
}

#[tokio::test]
async fn the_board_asks_for_what_is_served() {
    let nodes = Nodes::start().await;
    nodes.traffic().await;
    let families = Families::of(&nodes).await;
    let board = Board::shipped();
    let mut faults = Vec::new();
    for query in board.queries() {
        let asked = asked(&query);
        assert!(!asked.selectors.is_empty(), "{query}");
        faults.extend(asked.selectors.iter().flat_map(|selector| families.faults(selector)));
        faults.extend(rates(&families, &query, &asked));
    }
    for target in board.panels().flat_map(|panel| list(&panel["targets"])) {
        let asked = asked(&filled(text(target, "expr")));
        let mut labels = asked.grouping.clone();
        for selector in asked.selectors.iter().filter(|_| !asked.aggregates) {
            labels.extend(families.labels(&selector.metric).unwrap_or_default());
        }
        let legend = target["legendFormat"].as_str().unwrap_or_default();
        let unknown = labels_of(legend).into_iter().filter(|&label| !labels.contains(label));
        faults.extend(unknown.map(|label| format!("{legend}: no label {label} in {}", target["expr"])));
    }
    for variable in board.variables().iter().filter(|variable| variable["type"] == "query") {
        // label_values(metric{…}, label)
        let inner = text(variable, "definition").strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
        let (metric, label) = inner.rsplit_once(", ").unwrap();
        let asked = asked(&filled(metric));
        faults.extend(asked.selectors.iter().flat_map(|selector| families.faults(selector)));
        let labels = families.labels(&asked.selectors[0].metric).unwrap_or_default();
        assert!(labels.contains(label), "{inner}");
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Grafana 10 and 11 take this schema; a newer one only newer versions do.
#[test]
fn the_board_can_be_imported() {
    let board = Board::shipped();
    assert_eq!((&board.0["schemaVersion"], &board.0["id"]), (&38.into(), &Value::Null));
    assert_eq!(text(&board.0, "title"), "gema");
    let required: BTreeSet<&str> = list(&board.0["__requires"]).iter().map(|own| text(own, "id")).collect();
    let kinds = board.panels().map(|panel| text(panel, "type"));
    assert_eq!(required, kinds.chain(["grafana", "prometheus"]).collect());
    let variables: Vec<&str> = board.variables().iter().map(|variable| text(variable, "name")).collect();
    assert_eq!(variables, ["datasource", "job", "instance", "app"]);
    let source = "${datasource}";
    for own in board.variables().iter().filter(|own| own["type"] == "query") {
        assert_eq!(own["datasource"]["uid"], source);
        // Refusals that concern no app have an empty one.
        assert_eq!((&own["allValue"], text(own, "definition")), (&".*".into(), text(&own["query"], "query")));
    }
    let annotations = list(&board.0["annotations"]["list"]).iter().filter(|own| own.get("expr").is_some());
    assert_eq!(annotations.map(|own| text(&own["datasource"], "uid")).collect::<Vec<_>>(), [source]);
    let mut ids = BTreeSet::new();
    for panel in board.all() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
    }
    for panel in board.panels() {
        assert_eq!(panel["datasource"]["uid"], source, "{panel}");
        let letters: BTreeSet<&str> = list(&panel["targets"]).iter().map(|target| text(target, "refId")).collect();
        assert_eq!(letters.len(), list(&panel["targets"]).len(), "{panel}");
        assert!(list(&panel["targets"]).iter().all(|target| target["datasource"]["uid"] == source), "{panel}");
    }
}

#[test]
fn each_panel_has_a_title_a_description_a_unit_and_a_place_of_its_own() {
    let board = Board::shipped();
    let mut titles = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in board.all() {
        let title = text(panel, "title");
        assert!(titles.insert(title), "{title} is there twice");
        let [x, w, h] = ["x", "w", "h"].map(|name| panel["gridPos"][name].as_u64().expect(title));
        assert!(w > 0 && h > 0 && x + w <= 24, "{title}");
        if panel["type"] != "row" {
            assert!(text(panel, "description").ends_with('.'), "{title}");
            assert!(!text(&panel["fieldConfig"]["defaults"], "unit").is_empty(), "{title}");
        }
    }
    // Rows that are collapsed have no place yet.
    for panel in list(&board.0["panels"]) {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64().unwrap());
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{} lies on another panel", panel["title"]);
        }
    }
    let rows: Vec<&str> = board.all().filter(|own| own["type"] == "row").map(|own| text(own, "title")).collect();
    assert!(rows.len() >= 8, "{rows:?}");
}
