//! The server: binds the ports, starts shards and background threads, and drains them at the end.
//! `cli` starts it.

mod admit;
mod background;
mod body;
mod files;
mod listen;
mod proxy_header;
mod stream;
mod tls_handshake;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use prometheus::Gauge;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::ClusterDriver;
use crate::config::Config;
use crate::dashboard;
use crate::dashboard::Dashboard;
use crate::http::Api;
use crate::limiter::http_connections::HttpConnections;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::protocol::code::Close;
use crate::protocol::code::CloseCode;
use crate::registry::address::SHARDS_MAX;
use crate::registry::inbox::Inboxes;
use crate::registry::inbox::ShardMessage;
use crate::server::background::BackgroundThread;
use crate::server::listen::Listener;
use crate::server::listen::Port;
use crate::server::tls_handshake::TlsHandshake;
use crate::shard::Shard;
use crate::store::Store;
use crate::tasks::Tasks;
use crate::tls::Certificates;
use crate::tls::TlsError;

/// The advice if the main port is taken.
const MAIN_PORT_TAKEN: &str = "is another server running there? server.share_port = true lets this one take its place";
/// Like `MAIN_PORT_TAKEN`, but for the metrics port, which more often belongs to another program.
const METRICS_PORT_TAKEN: &str =
    "is another program running there? choose another metrics.port (SOKETI_METRICS_SERVER_PORT)";

/// How long the last webhooks and leaving the cluster may each take, even without time left.
const LAST_STEP_TIME: Duration = Duration::from_millis(500);

/// How long the shards may take to close their ports.
const CLOSE_PORTS_TIME: Duration = Duration::from_millis(500);

/// How long closing is spread at most on a node without peers.
const LONE_SPREAD_TIME: Duration = Duration::from_millis(300);

/// A running server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    metrics_address: SocketAddr,
    node: Arc<Node>,
    stop: CancellationToken,
    tasks: Tasks,
    /// Receives a message from each shard that ends.
    shards: mpsc::Receiver<()>,
    /// The threads for flow rules, webhooks, the other nodes and Laravel's events.
    threads: Vec<BackgroundThread>,
    /// Cancelled when a shard accepts no more connections.
    closed: Vec<CancellationToken>,
    share_port: bool,
    certificates: Option<Arc<Certificates>>,
    /// The metric with their end.
    certificate_end: Option<Gauge>,
    drain_time: Duration,
    notice_time: Duration,
    open_files: u64,
    /// The operator's page, if there is one.
    dashboard: Option<Arc<Dashboard>>,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be bound.
    #[error("{key} {address} cannot be bound: {cause}; {remedy}")]
    Bind {
        /// The settings of the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        cause: io::Error,
        /// The advice for the operator.
        remedy: &'static str,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system refuses something else.
    #[error("the server's threads cannot be started: {0}")]
    System(#[from] io::Error),
}

/// The result of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections when the drain began.
    pub connections: usize,
    /// Connections that had to be cut.
    pub left: usize,
    /// How long it took.
    pub took: Duration,
}

impl Server {
    /// Like [`Server::start_with`], with an operator's page, if there is one, that knows nothing of files and logs.
    ///
    /// # Errors
    /// If a port or the certificate cannot be used.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_with(config, dashboard::ProcessInfo::default()).await
    }

    /// Binds the ports and serves, in a cluster as soon as the other nodes are found. Call it in a tokio runtime, which
    /// serves the metrics port. The operator's page shows `process`, if there is one.
    ///
    /// # Errors
    /// If a port or the certificate cannot be used.
    pub async fn start_with(config: &Config, process: dashboard::ProcessInfo) -> Result<Self, StartError> {
        let certificates = config.tls.is_enabled().then(|| Certificates::load(&config.tls)).transpose()?.map(Arc::new);
        let tls = certificates.clone().map(TlsHandshake::new).transpose()?;
        let open_files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or_default();
        let workers = worker_count(config.server.workers);
        let (listeners, metrics_listener) = bind(config, workers)?;
        let address = listeners[0].local_addr()?;
        let metrics_address = metrics_listener.local_addr()?;

        let inboxes = Arc::new(Inboxes::new(workers).compressing(config.connections.compressed_bytes_min()));
        let clustered = config.cluster.driver != ClusterDriver::Local;
        let metrics = Arc::new(Metrics::new(&config.metrics.prefix, address.port(), clustered));
        let certificate_end = certificates.as_ref().map(|certificates| {
            let end = metrics.certificate_end();
            report_certificate(certificates, &end);
            end
        });
        let sockets_max = files::sockets_max(config.connections.connections_max, open_files);
        let (store, store_worker) = Store::new(config, || metrics.store()).unzip();
        let node = Arc::new(Node::new(config, inboxes, metrics, store, sockets_max));
        // Health and metrics are served until the end of a drain.
        let tasks = Tasks::new(CancellationToken::new());
        let threads = background::start(&node, config, store_worker, &tasks).await?;
        let stop = CancellationToken::new();
        let head_time = config.http.request_seconds.duration();
        let (ended, shards) = mpsc::channel(workers);
        let mut closed = Vec::new();
        let http_connections = Arc::new(HttpConnections::new(files::files_max(open_files)));
        for (index, listener) in listeners.into_iter().enumerate() {
            // Each shard has its own token, so that they do not share its lock.
            let own = Tasks::new(stop.child_token());
            let api = Api::new(Arc::clone(&node), (index, &own), &config.server, &config.http);
            let (node, tls) = (Arc::clone(&node), tls.clone());
            let port = Port {
                node: Arc::clone(&node),
                routes: api.main_port(),
                tls,
                head_time,
                http_connections: Arc::clone(&http_connections),
                reads_headers: config.server.proxy_protocol,
                cuts_answers: false,
            };
            let listener = Listener::new(listener, own, port);
            closed.push(listener.closed());
            run_shard(index, node, listener, EndNotice(ended.clone()))?;
        }
        let api = Api::new(Arc::clone(&node), (0, &tasks), &config.server, &config.http);
        let dashboard =
            start_dashboard(&api, config, process, (address.port(), files::streams_max(open_files)), &tasks);
        let routes = api.metrics_port(config.metrics.enabled, dashboard.as_ref().map(Dashboard::router));
        let port = Port::of_metrics(&node, routes, head_time, http_connections);
        Listener::new(metrics_listener, tasks.clone(), port).serve()?;
        tasks.spawn(tick(Arc::clone(&node), tasks.stop().clone()));
        Ok(Self {
            address,
            metrics_address,
            node,
            stop,
            tasks,
            shards,
            threads,
            certificates,
            certificate_end,
            closed,
            share_port: config.server.share_port,
            drain_time: config.server.drain_seconds.duration(),
            notice_time: config.server.drain_notice_seconds.duration(),
            open_files,
            dashboard,
        })
    }

    /// The main port's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The metrics port's address.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics_address
    }

    /// Threads that serve connections.
    pub fn workers(&self) -> usize {
        self.node.inboxes().shards()
    }

    /// Files and sockets that the process may have open.
    pub fn open_files(&self) -> u64 {
        self.open_files
    }

    /// Takes a new configuration, as far as it can change while the server runs: the apps, their limits and the
    /// certificate. Only connections of disabled or removed apps are closed.
    ///
    /// # Errors
    /// If the certificate cannot be used; then nothing has changed.
    pub async fn reload(&self, config: &Config) -> Result<(), TlsError> {
        match (&self.certificates, &self.certificate_end) {
            (Some(certificates), Some(end)) if config.tls.is_enabled() => {
                certificates.reload(&config.tls)?;
                report_certificate(certificates, end);
            }
            (None, _) if !config.tls.is_enabled() => (),
            _ => tracing::warn!("TLS is switched on or off by a restart only"),
        }
        self.node.reload(config).await;
        Ok(())
    }

    /// Shows other settings on the operator's page, if there is one.
    pub fn show(&self, settings: dashboard::Settings) {
        if let Some(dashboard) = &self.dashboard {
            dashboard.show(settings);
        }
    }

    /// Cancelled when the operator's page wants this node to stop.
    pub fn drain_requested(&self) -> CancellationToken {
        self.dashboard.as_ref().map(|dashboard| dashboard.drain_requested()).unwrap_or_default()
    }

    /// Waits until a shard or a background thread ends although nobody asked it to. Its work is lost, so the process
    /// should end, too.
    pub async fn failed(&mut self) {
        let threads = async {
            if self.threads.is_empty() {
                std::future::pending::<()>().await;
            }
            // A thread that panics cannot send, and has ended, too.
            let _ = futures_util::future::select_all(self.threads.iter_mut().map(|thread| &mut thread.ended)).await;
        };
        tokio::select! {
            _ = self.shards.recv() => (),
            () = threads => (),
        }
    }

    /// Drains: not ready, stop accepting, close the connections, wait for the rest. Ends within the configured time.
    pub async fn drain(mut self) -> Drained {
        let began = Instant::now();
        let connections = self.node.sockets();
        self.node.start_draining();
        if let Some(dashboard) = &self.dashboard {
            dashboard.announce_draining().await;
        }
        tokio::time::sleep(self.notice_time).await;
        self.stop.cancel();
        let all_closed = async {
            for closed in &self.closed {
                closed.cancelled().await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_PORTS_TIME, all_closed).await;
        let mut has_peers = self.node.has_peers();
        self.node.end_flows();
        loop {
            self.close_all(has_peers, self.drain_time.saturating_sub(began.elapsed()));
            let time = self.drain_time.saturating_sub(began.elapsed());
            let all_ended = async { while self.shards.recv().await.is_some() {} };
            tokio::select! {
                _ = tokio::time::timeout(time, all_ended) => break,
                () = self.node.peers_gone(), if has_peers => has_peers = false,
            }
        }
        for thread in self.threads {
            thread.end(self.drain_time.saturating_sub(began.elapsed()).max(LAST_STEP_TIME)).await;
        }
        let events = self.node.webhooks().waiting();
        if events > 0 {
            tracing::warn!(events, "no time is left to send these events to webhooks");
        }
        self.node.refusals().flush();
        self.tasks.stop().cancel();
        self.tasks.finish(self.drain_time.saturating_sub(began.elapsed())).await;
        Drained { connections, left: self.node.sockets(), took: began.elapsed() }
    }

    /// Tells the shards to close their connections.
    ///
    /// With peers the clients reconnect at once, so closing is spread over half the time that is left. A client that
    /// then finds no server waits long for its next attempt (pusher-js 15 s).
    ///
    /// Without peers the clients reconnect after a second. A restarted process has to listen by then, so all are closed
    /// quickly.
    fn close_all(&self, has_peers: bool, left: Duration) {
        const REASON: &str = "Server closed. Please reconnect shortly.";
        // Only a successor can have the port by now. The two nodes do not exchange events, so this must not last.
        let succeeded = || self.share_port && listen::is_shared(self.address);
        let code = if has_peers || succeeded() { CloseCode::Reconnect } else { CloseCode::OverCapacity };
        let over = if has_peers { left / 2 } else { (left / 2).min(LONE_SPREAD_TIME) };
        let inboxes = self.node.inboxes();
        for shard in 0..inboxes.shards() {
            inboxes.send(shard, ShardMessage::Drain(over, Close::new(code, REASON)));
        }
    }
}

/// Binds both ports: the main one `workers` times.
fn bind(config: &Config, workers: usize) -> Result<(Vec<std::net::TcpListener>, std::net::TcpListener), StartError> {
    let (server, metrics) = (&config.server, &config.metrics);
    let bind = |key, address, count, remedy| {
        listen::bind(address, server.backlog, count, server.share_port).map_err(|cause| StartError::Bind {
            key,
            address,
            cause,
            remedy,
        })
    };
    let main = SocketAddr::new(server.host, server.port);
    if server.share_port && listen::is_shared(main) {
        tracing::info!(address = %main, "another server listens there, too, and takes its part of the connections");
    }
    let listeners = bind("server.host and server.port", main, workers, MAIN_PORT_TAKEN)?;
    let metrics = SocketAddr::new(metrics.host, metrics.port);
    let metrics_listener = bind("metrics.host and metrics.port", metrics, 1, METRICS_PORT_TAKEN)?.remove(0);
    Ok((listeners, metrics_listener))
}

/// Sets the metric of the certificate's end, and logs what clients will reject.
fn report_certificate(certificates: &Certificates, end: &Gauge) {
    let ends = certificates.expires_at().and_then(|ends| ends.duration_since(SystemTime::UNIX_EPOCH).ok());
    end.set(ends.unwrap_or_default().as_secs_f64());
    if let Some(warning) = certificates.warning() {
        tracing::warn!("{warning}");
    }
}

fn worker_count(configured: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (if configured == 0 { cores } else { configured }).clamp(1, SHARDS_MAX)
}

/// Tells the server that a shard has ended, even by a panic.
struct EndNotice(mpsc::Sender<()>);

impl Drop for EndNotice {
    fn drop(&mut self) {
        // The channel has capacity for each shard; without a server nobody receives.
        let _ = self.0.try_send(());
    }
}

/// Starts a thread with a shard and its HTTP listener.
fn run_shard(index: usize, node: Arc<Node>, listener: Listener, ended: EndNotice) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let name = format!("gema-shard-{index}");
    std::thread::Builder::new().name(name).spawn(move || {
        let _ended = ended;
        let outcome = runtime.block_on(async {
            let mut shard = Shard::new(index, node)?;
            let tasks = listener.serve()?;
            shard.run().await;
            // Requests from before the end are answered, for a short time.
            tasks.finish(Duration::from_millis(500)).await;
            // Connections that have become WebSockets meanwhile are closed, too.
            shard.run().await;
            io::Result::Ok(())
        });
        if let Err(error) = outcome {
            tracing::error!(%error, shard = index, "a shard could not be started");
        }
    })?;
    Ok(())
}

/// Starts the operator's page, if there is one.
fn start_dashboard(
    api: &Api,
    config: &Config,
    process: dashboard::ProcessInfo,
    port_and_streams: (u16, usize),
    tasks: &Tasks,
) -> Option<Arc<Dashboard>> {
    if !config.dashboard.is_on() {
        return None;
    }
    let dashboard = Arc::new(Dashboard::new(api.clone(), config, process, port_and_streams, tasks.stop().clone()));
    tasks.spawn(Arc::clone(&dashboard).run_with_others(tasks.stop().clone()));
    tasks.spawn(Arc::clone(&dashboard).run(tasks.stop().clone()));
    Some(dashboard)
}

/// Calls [`Node::tick`] about once a second.
async fn tick(node: Arc<Node>, stop: CancellationToken) {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        node.tick();
    }
}
