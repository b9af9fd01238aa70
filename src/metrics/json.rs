//! Prometheus' metric families as JSON. `Metrics::json` calls it.

use prometheus::proto::Metric;
use prometheus::proto::MetricFamily;
use prometheus::proto::MetricType;
use serde_json::Value;
use serde_json::json;

pub(super) fn family(family: &MetricFamily) -> Value {
    let kind = family.get_field_type();
    let values: Vec<Value> =
        family.get_metric().iter().flat_map(|metric| samples(family.name(), kind, metric)).collect();
    let kind = format!("{kind:?}").to_lowercase();
    json!({ "help": family.help(), "name": family.name(), "type": kind, "values": values, "aggregator": "sum" })
}

fn samples(name: &str, kind: MetricType, metric: &Metric) -> Vec<Value> {
    let labels: serde_json::Map<String, Value> =
        metric.get_label().iter().map(|label| (label.name().to_owned(), label.value().into())).collect();
    match kind {
        MetricType::COUNTER => vec![json!({ "value": metric.get_counter().get_value(), "labels": labels })],
        MetricType::HISTOGRAM => {
            let histogram = metric.get_histogram();
            let sample = |suffix: &str, value: f64| json!({ "metricName": format!("{name}_{suffix}"), "value": value, "labels": labels });
            vec![sample("sum", histogram.get_sample_sum()), sample("count", histogram.get_sample_count() as f64)]
        }
        _ => vec![json!({ "value": metric.get_gauge().get_value(), "labels": labels })],
    }
}
