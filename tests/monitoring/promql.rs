//! The names in a PromQL expression. Prometheus itself checks the syntax.

use std::collections::BTreeSet;

/// What an expression asks for.
#[derive(Debug, Default)]
pub struct Asked {
    pub selectors: Vec<Selector>,
    /// The labels of `by`, `on` and the like.
    pub grouping: BTreeSet<String>,
    /// Whether an aggregation takes labels away.
    pub aggregates: bool,
}

/// A metric with its matchers: label and value.
#[derive(Debug)]
pub struct Selector {
    pub metric: String,
    pub matchers: Vec<(String, String)>,
}

impl Selector {
    /// The values that a matcher names: `a|b.*` are two.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.matchers.iter().flat_map(|(label, value)| value.split('|').map(move |value| (label.as_str(), value)))
    }
}

const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const AGGREGATIONS: [&str; 7] = ["sum", "min", "max", "count", "topk", "avg", "bottomk"];

/// Reads an expression.
pub fn asked(expression: &str) -> Asked {
    let mut asked = Asked::default();
    let mut rest = expression;
    while let Some(letter) = rest.chars().next() {
        if !is_name(letter) || letter.is_ascii_digit() {
            rest = &rest[letter.len_utf8()..];
            if letter.is_ascii_digit() || letter == '[' {
                // A number with its unit, such as 10m, or a range.
                rest = rest.trim_start_matches(|letter: char| is_name(letter) || letter == '$' || letter == '.');
            }
            continue;
        }
        let end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after.trim_start();
        if GROUPING.contains(&name) {
            let inner = rest.strip_prefix('(').unwrap().split(')').next().unwrap();
            asked.grouping.extend(inner.split(',').map(|label| label.trim().to_owned()).filter(|it| !it.is_empty()));
            rest = &rest[inner.len() + 2..];
        } else if let Some(inner) = rest.strip_prefix('{') {
            let matchers = matchers(inner);
            rest = &inner[inner.find('}').unwrap() + 1..];
            asked.selectors.push(Selector { metric: name.to_owned(), matchers });
        } else if name.contains('_') && !rest.starts_with('(') || name == "up" {
            asked.selectors.push(Selector { metric: name.to_owned(), matchers: Vec::new() });
        } else {
            asked.aggregates |= AGGREGATIONS.contains(&name);
        }
    }
    asked
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'
}

/// `label="value", …`; no value has a comma or a brace.
fn matchers(inner: &str) -> Vec<(String, String)> {
    let matcher = |text: &str| {
        let (label, value) = text.split_once(['=', '!'])?;
        Some((label.trim().to_owned(), value.split('"').nth(1)?.to_owned()))
    };
    inner.split('}').next().unwrap().split(',').filter_map(matcher).collect()
}

/// The labels in a template: `{{label}}` of Grafana, `{{ $labels.label }}` of Prometheus.
pub fn labels_of(template: &str) -> Vec<&str> {
    let inner = template.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap().trim());
    inner
        .filter_map(|inner| match inner.split_once("$labels.") {
            Some((_, rest)) => rest.split(|letter| !is_name(letter)).next(),
            None => (inner != "end" && inner.chars().all(is_name)).then_some(inner),
        })
        .collect()
}

#[test]
fn an_expression_falls_into_its_names() {
    let asked =
        asked(r#"sum by (le, job) (rate(a_b_total{x="1|2.*",y!~"3"}[$__rate_interval])) > 0.5 and up offset 10m"#);
    let metrics: Vec<&str> = asked.selectors.iter().map(|selector| &*selector.metric).collect();
    assert_eq!(metrics, ["a_b_total", "up"]);
    assert_eq!(asked.selectors[0].values().collect::<Vec<_>>(), [("x", "1"), ("x", "2.*"), ("y", "3")]);
    assert_eq!(asked.grouping.iter().collect::<Vec<_>>(), ["job", "le"]);
    assert!(asked.aggregates);
    assert_eq!(
        labels_of("{{ $labels.a }} {{ $value | humanize }} {{b}} {{ with $labels.c }}x{{ end }}"),
        ["a", "b", "c"]
    );
}
