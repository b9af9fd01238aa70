//! The operator's page: its files, its API and its stream, on the metrics port.
//! `server` makes a [`Dashboard`] where a token is set, and runs it beside the metrics port. ARCHITECTURE.md shows the
//! way from an event of the log to the page.

mod access;
mod act;
mod answer;
mod apps;
mod channels;
mod connections;
mod files;
mod history;
mod login;
mod nodes;
mod now;
mod problem;
mod questions;
mod request;
mod sampler;
mod state;
mod status;
mod stream;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;
use axum::Router;
use axum::middleware::map_response;
use axum::routing::get;
use axum::routing::post;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::App;
use crate::config::Config;
use crate::dashboard::nodes::Nodes;
use crate::dashboard::sampler::Sampled;
use crate::dashboard::sampler::Sampler;
use crate::dashboard::stream::Streams;
use crate::dashboard::tokens::Tokens;
use crate::http::Api;
use crate::metrics::DashboardMeters;
use crate::node::Node;
use crate::watch::Watch;
use crate::watch::now_ms;
use crate::watch::verbosity::Verbosity;

/// The interval of samples.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Searches for connections at once; further ones wait.
const SEARCHES_MAX: usize = 2;

/// The process and its configuration, as the page shows them.
#[derive(Debug, Default)]
pub struct ProcessInfo {
    /// The events that the log's layer keeps.
    pub watch: Arc<Watch>,
    /// How much the log says, if that can be changed.
    pub verbosity: Option<Arc<Verbosity>>,
    /// The settings as they are at the start.
    pub settings: Settings,
}

/// The settings that the page shows. They change with SIGHUP.
#[derive(Debug, Default)]
pub struct Settings {
    /// Each setting with its value and who set it; secrets are masked.
    pub listed: Vec<(String, serde_json::Value, String)>,
    /// The warnings about the configuration.
    pub warnings: Vec<String>,
    /// The first app, for the examples to paste.
    pub app: Option<App>,
}

/// The operator's page of a process.
#[derive(Debug)]
pub struct Dashboard {
    api: Api,
    watch: Arc<Watch>,
    verbosity: Option<Arc<Verbosity>>,
    settings: ArcSwap<Settings>,
    config: Config,
    tokens: Tokens,
    sampled: ArcSwap<Sampled>,
    /// The other nodes.
    nodes: Mutex<Nodes>,
    started_ms: u64,
    /// The port of WebSockets.
    port: u16,
    streams: Streams,
    /// Turns of searches for connections, each of which looks at all.
    searches: Semaphore,
    /// Whether the log has a line about a proxy that is not trusted.
    is_proxy_logged: AtomicBool,
    meters: DashboardMeters,
    /// Cancelled when the process ends.
    stop: CancellationToken,
    /// Cancelled when the page wants this node to stop.
    drain: CancellationToken,
}

impl Dashboard {
    /// A page that has no samples yet. `port` is the main port; streams end with `stop`, and at most `streams_max` are
    /// open.
    pub fn new(
        api: Api,
        config: &Config,
        process: ProcessInfo,
        (port, streams_max): (u16, usize),
        stop: CancellationToken,
    ) -> Self {
        let meters = api.node().metrics().dashboard();
        Self {
            api,
            tokens: Tokens::new(&config.dashboard),
            config: config.clone(),
            watch: process.watch,
            verbosity: process.verbosity,
            settings: ArcSwap::from_pointee(process.settings),
            sampled: ArcSwap::default(),
            nodes: Mutex::default(),
            started_ms: now_ms(),
            port,
            streams: Streams::new(streams_max),
            searches: Semaphore::new(SEARCHES_MAX),
            is_proxy_logged: AtomicBool::new(false),
            meters,
            stop,
            drain: CancellationToken::new(),
        }
    }

    /// The routes of the page.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/dashboard", get(files::index))
            .route("/dashboard/", get(files::slash))
            .route("/dashboard/api/login", post(login::login))
            .route("/dashboard/api/logout", post(login::logout))
            .route("/dashboard/api/state", get(state::state))
            .route("/dashboard/api/history", get(history::history))
            .route("/dashboard/api/stream", get(stream::stream))
            .route("/dashboard/api/channels", get(channels::list))
            .route("/dashboard/api/channel", get(channels::one))
            .route("/dashboard/api/connections", get(connections::list))
            .route("/dashboard/api/publish", post(act::publish))
            .route("/dashboard/api/disconnect", post(act::disconnect))
            .route("/dashboard/api/drain", post(act::drain))
            .route("/dashboard/api/log", post(act::log))
            .route("/dashboard/{*file}", get(files::file).post(answer::no_such_path))
            .method_not_allowed_fallback(answer::no_such_method)
            .layer(map_response(answer::forbid_frames))
            .with_state(Arc::clone(self))
    }

    /// Samples the metrics at once, so that the first page has them, and each second until `stop`.
    pub fn run(self: Arc<Self>, stop: CancellationToken) -> impl Future<Output = ()> {
        let mut sampler = Sampler::new(&self);
        self.sample(&mut sampler);
        async move {
            let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + SAMPLE_EVERY, SAMPLE_EVERY);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            while stop.run_until_cancelled(interval.tick()).await.is_some() {
                self.sample(&mut sampler);
            }
        }
    }

    fn sample(&self, sampler: &mut Sampler) {
        self.meters.bytes.set(i64::try_from(self.watch().bytes()).unwrap_or(i64::MAX));
        self.meters.streams.set(self.streams.open() as i64);
        self.sampled.store(Arc::new(sampler.sample(self, Instant::now())));
        if let Some(verbosity) = &self.verbosity {
            verbosity.tick(Instant::now());
        }
    }

    /// Shows other settings from now on.
    pub fn show(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Cancelled when the page wants this node to stop.
    pub fn drain_requested(&self) -> CancellationToken {
        self.drain.clone()
    }

    fn node(&self) -> &Arc<Node> {
        self.api.node()
    }

    fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    fn sampled(&self) -> Arc<Sampled> {
        self.sampled.load_full()
    }

    /// The id of this node.
    fn id(&self) -> String {
        self.node().cluster().map_or_else(|| "local".to_owned(), |cluster| cluster.node().to_string())
    }
}
