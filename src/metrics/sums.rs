//! The sums of all apps, for the page of figures.
//! `dashboard` reads them once a second; nothing is added to what is counted.

use std::collections::HashMap;

use prometheus::core::Collector;
use prometheus::proto::Metric;

use crate::metrics::Metrics;

/// The present values of the counters, all apps together. All but the gauges only grow, unless an app is removed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sums {
    /// Events accepted from publishers and clients.
    pub events: f64,
    /// Events of clients.
    pub client_events: f64,
    /// Events handed to sockets.
    pub deliveries: f64,
    /// Bytes to clients.
    pub bytes_out: f64,
    /// Events that did not reach their reader.
    pub drops: f64,
    /// Refusals by app and cause.
    pub refusals: HashMap<(String, String), u64>,
    /// Events under flow rules by app, rule and outcome.
    pub flow: HashMap<(String, String, String), f64>,
    /// Publishes by app, without those of clients.
    pub publishes: HashMap<String, f64>,
    /// From accepting an event to writing it: the upper bounds in seconds, and how many events are within.
    pub latency: Vec<(f64, u64)>,
}

fn each(family: &impl Collector, mut f: impl FnMut(&Metric)) {
    for family in family.collect() {
        family.get_metric().iter().for_each(&mut f);
    }
}

fn label(metric: &Metric, name: &str) -> String {
    let found = metric.get_label().iter().find(|label| label.name() == name);
    found.map(|label| label.value().to_owned()).unwrap_or_default()
}

fn sum(family: &impl Collector) -> f64 {
    let mut sum = 0.0;
    each(family, |metric| sum += metric.get_counter().get_value());
    sum
}

impl Metrics {
    /// The present values of the counters.
    pub fn sums(&self) -> Sums {
        let by = &self.by_app;
        let mut sums = Sums {
            deliveries: sum(&by.deliveries),
            bytes_out: sum(&by.transmitted_bytes),
            drops: sum(&by.drops),
            ..Sums::default()
        };
        each(&by.events, |metric| {
            let count = metric.get_counter().get_value();
            sums.events += count;
            match &*label(metric, "event") {
                "client-*" => sums.client_events += count,
                _ => *sums.publishes.entry(label(metric, "app_id")).or_default() += count,
            }
        });
        each(&by.refusals, |metric| {
            let count = metric.get_counter().get_value() as u64;
            *sums.refusals.entry((label(metric, "app_id"), label(metric, "cause"))).or_default() += count;
        });
        each(&by.flow, |metric| {
            let key = (label(metric, "app_id"), label(metric, "rule"), label(metric, "outcome"));
            *sums.flow.entry(key).or_default() += metric.get_counter().get_value();
        });
        each(&self.publish_to_socket, |metric| {
            let buckets = metric.get_histogram().get_bucket().iter();
            sums.latency = buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect();
            sums.latency.push((f64::INFINITY, metric.get_histogram().get_sample_count()));
        });
        sums
    }
}
