//! Removes the series of apps that are gone, whatever their other labels are.

use std::collections::HashMap;
use std::collections::HashSet;

use prometheus::core::Collector;
use prometheus::core::MetricVec;
use prometheus::core::MetricVecBuilder;

/// Removes all series of these apps.
pub(super) fn forget<B: MetricVecBuilder>(series: &MetricVec<B>, apps: &HashSet<&str>)
where
    MetricVec<B>: Collector,
{
    if apps.is_empty() {
        return;
    }
    for family in series.collect() {
        for metric in family.get_metric() {
            let labels = metric.get_label().iter().map(|label| (label.name(), label.value()));
            let labels: HashMap<&str, &str> = labels.collect();
            if labels.get("app_id").is_some_and(|app| apps.contains(app)) {
                // It was there a moment ago; if it is not, so much the better.
                let _ = series.remove(&labels);
            }
        }
    }
}
