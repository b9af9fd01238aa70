//! Finds the series of removed apps whose other labels are not known beforehand.
//! `node` searches without a lock, and removes the series under one.

use std::collections::HashMap;
use std::collections::HashSet;

use prometheus::IntCounterVec;
use prometheus::core::Collector;

/// Series by their app.
#[derive(Debug, Default)]
pub struct Found(HashMap<String, Vec<Series>>);

#[derive(Debug)]
struct Series {
    family: IntCounterVec,
    labels: Vec<(String, String)>,
}

impl Found {
    /// Adds the series of these apps in a family. It reads the whole family: call it without a lock.
    pub(super) fn add(&mut self, family: &IntCounterVec, apps: &HashSet<&str>) {
        for metrics in family.collect() {
            for metric in metrics.get_metric() {
                let labels = metric.get_label().iter().map(|label| (label.name(), label.value()));
                let Some((_, app)) = labels.clone().find(|(name, app)| *name == "app_id" && apps.contains(app)) else {
                    continue;
                };
                let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                self.0.entry(app.to_owned()).or_default().push(Series { family: family.clone(), labels });
            }
        }
    }

    /// Removes the series of an app.
    pub(super) fn remove(&self, app: &str) {
        for Series { family, labels } in self.0.get(app).into_iter().flatten() {
            let labels: HashMap<&str, &str> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
            // If it is gone meanwhile, nothing is left to do.
            let _ = family.remove(&labels);
        }
    }
}
