//! The stream of what moves, as server-sent events: figures, problems, the sentence, and live rows.
//! Each viewer pulls: what he does not read waits in bounded queues, and the rest is counted.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use axum::body::Body;
use axum::body::Bytes;
use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::Response;
use futures_util::stream::unfold;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::dashboard::Dashboard;
use crate::dashboard::answer;
use crate::dashboard::answer::Failure;
use crate::dashboard::problem::ShownProblem;
use crate::dashboard::request::View;
use crate::dashboard::state;
use crate::dashboard::tokens;
use crate::watch::filter::Filter;
use crate::watch::live::Row;
use crate::watch::live::Watching;

/// Streams at once of one address, so that it leaves some to others.
const STREAMS_OF_ADDRESS_MAX: usize = 20;
/// How often a stream looks for something new.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often something is sent at least, so that proxies keep the connection.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
pub(super) struct StreamQuery {
    #[serde(default)]
    filter: String,
    #[serde(default)]
    live: String,
}

/// `GET /dashboard/api/stream`.
pub(super) async fn stream(View { dashboard, address, query, .. }: View<StreamQuery>) -> Result<Response, Failure> {
    let too_many = || {
        let text = format!(
            "As many pages are open as may be: {STREAMS_OF_ADDRESS_MAX} of one address, {} of all. Close one, or try again \
             later.",
            dashboard.streams.most
        );
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(5)
    };
    let filter = answer::short_pattern("filter", query.filter)?;
    let place = Place::take(&dashboard, address).ok_or_else(too_many)?;
    let watching = match &*query.live {
        "" | "0" => None,
        _ => Some(dashboard.watch().view(Filter::parse(&filter)).ok_or_else(too_many)?),
    };
    let mut response = Response::new(Body::from_stream(unfold(Stream::new(place, watching), Stream::next)));
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    // nginx would keep the events back.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The open streams, with and without rows, by the network of their viewer.
#[derive(Debug)]
pub(super) struct Streams {
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl Streams {
    /// None are open, and so many may be.
    pub(super) fn new(most: usize) -> Self {
        Self { most, open: Mutex::default() }
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.open.lock().values().sum()
    }

    /// Counts one more, if it may be opened.
    fn add(&self, network: IpAddr) -> bool {
        let mut open = self.open.lock();
        let (all, own) = (open.values().sum::<usize>(), open.get(&network).copied().unwrap_or_default());
        let may = all < self.most && own < STREAMS_OF_ADDRESS_MAX;
        if may {
            open.insert(network, own + 1);
        }
        may
    }

    fn remove(&self, network: IpAddr) {
        let mut open = self.open.lock();
        if let Some(own) = open.get_mut(&network) {
            *own -= 1;
            if *own == 0 {
                open.remove(&network);
            }
        }
    }
}

/// Counts a stream until it is dropped.
struct Place(Arc<Dashboard>, IpAddr);

impl Place {
    fn take(dashboard: &Arc<Dashboard>, address: IpAddr) -> Option<Self> {
        let network = tokens::network_of(address);
        dashboard.streams.add(network).then(|| Self(Arc::clone(dashboard), network))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.remove(self.1);
    }
}

/// One stream: what its page knows already.
struct Stream {
    place: Place,
    watching: Option<Watching>,
    sample: u64,
    problems: u64,
    problems_at: u64,
    /// The problems of other nodes, as of this look at them.
    others: HashMap<String, ShownProblem>,
    nodes: u64,
    glance: String,
    is_bye_sent: bool,
    sent: Instant,
    is_over: bool,
}

impl Stream {
    fn new(place: Place, watching: Option<Watching>) -> Self {
        // One who comes while the node drains has been told already.
        let is_bye_sent = place.0.node().is_draining();
        Self {
            place,
            watching,
            sample: 0,
            problems: 0,
            problems_at: 0,
            others: HashMap::new(),
            nodes: 0,
            glance: String::new(),
            is_bye_sent,
            sent: Instant::now(),
            is_over: false,
        }
    }

    /// The next piece, once there is something new.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.is_over {
            return None;
        }
        let stop = self.place.0.stop.clone();
        loop {
            let mut text = self.changes();
            if stop.is_cancelled() && !self.is_over {
                self.is_over = true;
                if !self.is_bye_sent {
                    text.push_str("event: bye\ndata: {}\n\n");
                }
            }
            if text.is_empty() && self.sent.elapsed() >= COMMENT_EVERY {
                text.push_str(": still here\n\n");
            }
            if !text.is_empty() {
                self.sent = Instant::now();
                return Some((Ok(text.into()), self));
            }
            if self.is_over {
                return None;
            }
            stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await;
        }
    }

    /// The changes since the last call.
    fn changes(&mut self) -> String {
        let dashboard = Arc::clone(&self.place.0);
        let mut text = String::new();
        let sampled = dashboard.sampled();
        if sampled.number != self.sample {
            self.sample = sampled.number;
            add(&mut text, "now", &json!(sampled.now));
            let glance = state::glance(&sampled.glance);
            let line = glance.to_string();
            if line != self.glance {
                add(&mut text, "glance", &glance);
                self.glance = line;
            }
        }
        self.add_problems(&dashboard, &mut text);
        if let Some(watching) = &self.watching {
            let (rows, left_out) = watching.take();
            if !rows.is_empty() || left_out > 0 {
                let rows: Vec<Value> = rows.iter().map(|one| row(one)).collect();
                add(&mut text, "rows", &json!({ "rows": rows, "left_out": left_out }));
            }
        }
        if dashboard.node().is_draining() && !self.is_bye_sent {
            self.is_bye_sent = true;
            add(&mut text, "bye", &json!({}));
        }
        text
    }

    /// Adds the problems that have changed, at most once a second.
    fn add_problems(&mut self, dashboard: &Dashboard, text: &mut String) {
        let second = dashboard.sampled().now.at_ms / 1000;
        if second == self.problems_at && self.problems > 0 {
            return;
        }
        let problems = dashboard.watch().problems.lock();
        let version = problems.version();
        let changed = if version == self.problems { Vec::new() } else { problems.since(self.problems) };
        drop(problems);
        self.problems = version;
        let id = dashboard.id();
        let mut changed: Vec<ShownProblem> = changed.iter().map(|one| ShownProblem::of(one, &id)).collect();
        changed.extend(self.problems_of_others(dashboard));
        if !changed.is_empty() {
            self.problems_at = second;
            add(text, "problems", &json!(changed));
        }
    }

    /// The problems of other nodes that have changed.
    fn problems_of_others(&mut self, dashboard: &Dashboard) -> Vec<ShownProblem> {
        let nodes = dashboard.nodes.lock();
        if nodes.version() == self.nodes {
            return Vec::new();
        }
        self.nodes = nodes.version();
        let all = nodes.problems();
        drop(nodes);
        let before = std::mem::take(&mut self.others);
        self.others = all.iter().map(|problem| (problem.id.clone(), problem.clone())).collect();
        all.into_iter().filter(|problem| before.get(&problem.id) != Some(problem)).collect()
    }
}

fn add(text: &mut String, event: &str, data: &Value) {
    // JSON has no line breaks of its own. Writing to a string never fails.
    let _ = write!(text, "event: {event}\ndata: {data}\n\n");
}

/// A row for the page: the fields that each row has, and all others by their names.
fn row(row: &Row) -> Value {
    let record = &row.record;
    let mut shown = Map::new();
    shown.insert("id".to_owned(), row.id.into());
    shown.insert("at_ms".to_owned(), record.at_ms.into());
    shown.insert("kind".to_owned(), row.kind.into());
    shown.insert("level".to_owned(), record.level.as_str().to_lowercase().into());
    shown.insert("text".to_owned(), record.text.as_str().into());
    let mut fields = Map::new();
    for (name, value) in &record.fields {
        match *name {
            "app" | "channel" | "event" | "user" | "address" => shown.insert((*name).to_owned(), value.as_str().into()),
            "socket_id" => shown.insert("socket".to_owned(), value.as_str().into()),
            name => fields.insert(name.to_owned(), value.as_str().into()),
        };
    }
    shown.insert("fields".to_owned(), fields.into());
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_streams_to_others() {
        let streams = Streams::new(30);
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let opened = |last| (0..100).filter(|_| streams.add(address(last))).count();
        assert_eq!((opened(1), opened(2), opened(3)), (STREAMS_OF_ADDRESS_MAX, 10, 0));
        streams.remove(address(1));
        assert_eq!((streams.open(), opened(3)), (29, 1));
        (0..19).for_each(|_| streams.remove(address(1)));
        assert_eq!(streams.open(), 11);
    }
}
