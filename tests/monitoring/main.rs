//! The board for Grafana and the alerts for Prometheus ask for what `/metrics` serves, and Prometheus' own tools accept
//! all of it: the rules, their cases in `alerts.yaml` beside this file, and the text of `/metrics`.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod alerts;
mod board;
mod prometheus;
mod promql;
mod served;

use std::fs;
use std::path::Path;

fn shipped(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}
