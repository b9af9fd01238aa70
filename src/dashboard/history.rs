//! The figures of the last 15 minutes or 24 hours, of all nodes or of one.
//! The page draws its plots from them, and adds what the stream brings.

use axum::response::Response;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::dashboard::Dashboard;
use crate::dashboard::answer;
use crate::dashboard::answer::Failure;
use crate::dashboard::request::View;
use crate::watch::history::History;
use crate::watch::history::SERIES;
use crate::watch::history::Sample;

/// A day with a value for each minute.
const BY_MINUTE: &str = "24h";
/// The ranges; a quarter of an hour with a value for each second is the usual one.
const RANGES: [&str; 3] = ["", "15m", BY_MINUTE];

#[derive(Deserialize)]
pub(super) struct HistoryQuery {
    #[serde(default)]
    range: String,
    #[serde(default)]
    node: String,
}

/// `GET /dashboard/api/history`.
pub(super) async fn history(View { dashboard, query, .. }: View<HistoryQuery>) -> Result<Response, Failure> {
    if !RANGES.contains(&&*query.range) {
        return Err(Failure::bad("range is 15m or 24h."));
    }
    Ok(answer::json(&match &*query.node {
        "" => of(&dashboard.watch().history_of_all, &query.range),
        node if node == dashboard.id() => dashboard.own_history(&query.range),
        node => dashboard.ask(node, &json!({ "path": "history", "range": query.range })).await?,
    }))
}

impl Dashboard {
    /// The series of this node.
    pub(super) fn own_history(&self, range: &str) -> Value {
        of(&self.watch().history, range)
    }
}

/// The series of a range.
fn of(history: &Mutex<History>, range: &str) -> Value {
    let (step_seconds, end, samples) = match range {
        BY_MINUTE => history.lock().minutes(),
        _ => history.lock().seconds(),
    };
    json!({ "step_seconds": step_seconds, "end_ms": end * 1000, "series": series(&samples) })
}

fn series(samples: &[Sample]) -> Map<String, Value> {
    // Three digits after the point are enough for a plot, and make a third of the bytes.
    let number = |value: f32| match value {
        value if value.is_nan() => Value::Null,
        value if value.fract() == 0.0 => json!(value as i64),
        value => json!((f64::from(value) * 1000.0).round() / 1000.0),
    };
    let values = |index: usize| samples.iter().map(|sample| number(sample[index])).collect::<Value>();
    SERIES.iter().enumerate().map(|(index, name)| ((*name).to_owned(), values(index))).collect()
}
