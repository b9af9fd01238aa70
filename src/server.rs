//! Binds the ports, wires the parts together, and leaves in good order.

mod admit;
mod body;
mod handshake;
mod links;
mod listen;
mod proxied;
mod stream;

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
use crate::http::Api;
use crate::limiter::arrivals::Arrivals;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::protocol::code::Close;
use crate::protocol::code::CloseCode;
use crate::registry::address::SHARDS_MAX;
use crate::registry::inbox::Inboxes;
use crate::registry::inbox::ShardMessage;
use crate::server::handshake::Handshake;
use crate::server::links::Link;
use crate::server::listen::Listener;
use crate::server::listen::Port;
use crate::shard::Shard;
use crate::store::Store;
use crate::tasks::Tasks;
use crate::tls::Certificates;
use crate::tls::TlsError;

/// Descriptors that WebSockets leave to the HTTP API, files and listeners, so that they can't stop publishing:
/// a tenth of what the process may open, within these bounds.
const RESERVE: std::ops::RangeInclusive<u64> = 64..=1024;

/// What can be done if somebody has the main port.
const MAIN_PORT_TAKEN: &str = "is another server running there? server.share_port = true lets this one take its place";
/// The same for the metrics port, which is more often another program's.
const METRICS_PORT_TAKEN: &str =
    "is another program running there? choose another metrics.port (SOKETI_METRICS_SERVER_PORT)";

/// How long the last webhooks and leaving the cluster may take each, even if no time is left.
const FAREWELL: Duration = Duration::from_millis(500);

/// How long the shards may take to close their ports.
const CLOSING: Duration = Duration::from_millis(500);

/// Over which time the connections of a node without others are closed at most.
const LONE_SPREAD: Duration = Duration::from_millis(300);

/// A running server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    metrics_address: SocketAddr,
    node: Arc<Node>,
    stop: CancellationToken,
    tasks: Tasks,
    /// Hears of each shard that ends.
    shards: mpsc::Receiver<()>,
    /// The links to the other nodes and to Laravel's events.
    links: Vec<Link>,
    /// Cancelled when the shards do not accept connections any more.
    closed: Vec<CancellationToken>,
    share_port: bool,
    certificates: Option<Arc<Certificates>>,
    /// When they end, for the metrics.
    certificate_end: Option<Gauge>,
    drain_time: Duration,
    notice_time: Duration,
    open_files: u64,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be had.
    #[error("{key} {address} cannot be bound: {cause}; {remedy}")]
    Bind {
        /// The configuration keys that say so.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        cause: io::Error,
        /// What can be done about it.
        remedy: &'static str,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system refuses something else.
    #[error("the server's threads cannot be started: {0}")]
    System(#[from] io::Error),
}

/// What was left when the server ended.
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
    /// Binds and serves, in a cluster as soon as the other nodes are found. Must be called inside a tokio runtime,
    /// which runs the metrics port.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let certificates = config.tls.is_enabled().then(|| Certificates::load(&config.tls)).transpose()?.map(Arc::new);
        let tls = certificates.clone().map(Handshake::new).transpose()?;
        let open_files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or_default();
        let workers = worker_count(config.server.workers);
        let (listeners, metrics_listener) = bind(config, workers)?;
        let address = listeners[0].local_addr()?;
        let metrics_address = metrics_listener.local_addr()?;

        let inboxes = Arc::new(Inboxes::new(workers));
        let clustered = config.cluster.driver == ClusterDriver::Redis;
        let metrics = Arc::new(Metrics::new(&config.metrics.prefix, address.port(), clustered));
        let certificate_end = certificates.as_ref().map(|certificates| {
            let end = metrics.certificate_end();
            tell_of(certificates, &end);
            end
        });
        let sockets_max = sockets_max(config.connections.connections_max, open_files);
        let (store, store_link) = Store::new(config, || metrics.store()).unzip();
        let node = Arc::new(Node::new(config, inboxes, metrics, store, sockets_max));
        // Health and metrics are told until the end of a drain.
        let tasks = Tasks::new(CancellationToken::new());
        let links = links::start(&node, config, store_link, &tasks).await?;
        let stop = CancellationToken::new();
        let head_time = config.http.request_seconds.duration();
        let (ended, shards) = mpsc::channel(workers);
        let mut closed = Vec::new();
        let arrivals = Arc::new(Arrivals::new(files_max(open_files)));
        for (index, listener) in listeners.into_iter().enumerate() {
            // A token of its own, so that the shards do not share its lock.
            let own = Tasks::new(stop.child_token());
            let api = Api::new(Arc::clone(&node), index, &config.server, &config.http);
            let (node, tls) = (Arc::clone(&node), tls.clone());
            let port = Port {
                node: Arc::clone(&node),
                routes: api.main_port(),
                tls,
                head_time,
                arrivals: Arc::clone(&arrivals),
                reads_headers: config.server.proxy_protocol,
            };
            let listener = Listener::new(listener, own, port);
            closed.push(listener.closed());
            run_shard(index, node, listener, Ended(ended.clone()))?;
        }
        let api = Api::new(Arc::clone(&node), 0, &config.server, &config.http);
        let routes = api.metrics_port(config.metrics.enabled);
        let port = Port { node: Arc::clone(&node), routes, tls: None, head_time, arrivals, reads_headers: false };
        Listener::new(metrics_listener, tasks.clone(), port).serve()?;
        tasks.spawn(tick(Arc::clone(&node), tasks.stop().clone()));
        Ok(Self {
            address,
            metrics_address,
            node,
            stop,
            tasks,
            shards,
            links,
            certificates,
            certificate_end,
            closed,
            share_port: config.server.share_port,
            drain_time: config.server.drain_seconds.duration(),
            notice_time: config.server.drain_notice_seconds.duration(),
            open_files,
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

    /// Serves by this configuration from now on, as far as it can change while the server runs: the apps, their
    /// limits and the certificate. No connection is lost but those of apps that are disabled or gone.
    ///
    /// # Errors
    /// If the certificate cannot be used; then nothing has changed.
    pub async fn reload(&self, config: &Config) -> Result<(), TlsError> {
        match (&self.certificates, &self.certificate_end) {
            (Some(certificates), Some(end)) if config.tls.is_enabled() => {
                certificates.reload(&config.tls)?;
                tell_of(certificates, end);
            }
            (None, _) if !config.tls.is_enabled() => (),
            _ => tracing::warn!("TLS is switched on or off by a restart only"),
        }
        self.node.reload(config).await;
        Ok(())
    }

    /// Ends only when a shard or a link has ended although nobody asked it to. What it served is lost, so the
    /// process should end, too.
    pub async fn failed(&mut self) {
        let links = async {
            if self.links.is_empty() {
                std::future::pending::<()>().await;
            }
            // The end of one is one whether it could say so or not.
            let _ = futures_util::future::select_all(self.links.iter_mut().map(|link| &mut link.ended)).await;
        };
        tokio::select! {
            _ = self.shards.recv() => (),
            () = links => (),
        }
    }

    /// Leaves: not ready, stop accepting, close the connections, and wait for the rest. Ends within the configured
    /// time, whatever is left.
    pub async fn drain(mut self) -> Drained {
        let began = Instant::now();
        let connections = self.node.sockets();
        self.node.leave();
        tokio::time::sleep(self.notice_time).await;
        self.stop.cancel();
        let all_closed = async {
            for closed in &self.closed {
                closed.cancelled().await;
            }
        };
        let _ = tokio::time::timeout(CLOSING, all_closed).await;
        let mut others = self.node.has_others();
        loop {
            self.close_all(others, self.drain_time.saturating_sub(began.elapsed()));
            let time = self.drain_time.saturating_sub(began.elapsed());
            let all_ended = async { while self.shards.recv().await.is_some() {} };
            tokio::select! {
                _ = tokio::time::timeout(time, all_ended) => break,
                () = self.node.others_leave(), if others => others = false,
            }
        }
        for link in self.links {
            link.end(self.drain_time.saturating_sub(began.elapsed()).max(FAREWELL)).await;
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

    /// Has the shards close their connections. Clients return at once when somebody is there to take them, so they
    /// come spread over half the time that is left; who then finds nobody waits long for his next try (pusher-js
    /// 15 s). Else they return after a second, and until then a process that is started anew has to listen, so they
    /// all go quickly.
    fn close_all(&self, others: bool, left: Duration) {
        const REASON: &str = "Server closed. Please reconnect shortly.";
        // Nobody else than a successor can have the port by now. It does not hear what is told here, nor the other
        // way round, so that is soon over, too.
        let succeeded = || self.share_port && listen::is_shared(self.address);
        let code = if others || succeeded() { CloseCode::Reconnect } else { CloseCode::OverCapacity };
        let over = if others { left / 2 } else { (left / 2).min(LONE_SPREAD) };
        let inboxes = self.node.inboxes();
        for shard in 0..inboxes.shards() {
            inboxes.send(shard, ShardMessage::Drain(over, Close::new(code, REASON)));
        }
    }
}

/// Both ports: the main one so many times.
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

/// Says when the certificate ends, and what clients will dislike about it.
fn tell_of(certificates: &Certificates, end: &Gauge) {
    let ends = certificates.ends().and_then(|ends| ends.duration_since(SystemTime::UNIX_EPOCH).ok());
    end.set(ends.unwrap_or_default().as_secs_f64());
    if let Some(warning) = certificates.warning() {
        tracing::warn!("{warning}");
    }
}

fn worker_count(configured: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (if configured == 0 { cores } else { configured }).clamp(1, SHARDS_MAX)
}

fn sockets_max(configured: usize, open_files: u64) -> usize {
    if configured > 0 {
        return configured;
    }
    usize::try_from(open_files.saturating_sub(reserve(open_files))).unwrap_or(usize::MAX)
}

fn reserve(open_files: u64) -> u64 {
    (open_files / 10).clamp(*RESERVE.start(), *RESERVE.end())
}

/// Files that all connections together may have open. Half of the reserve is for everything else.
fn files_max(open_files: u64) -> usize {
    match open_files {
        // The system does not tell.
        0 => usize::MAX,
        open_files => usize::try_from(open_files.saturating_sub(reserve(open_files) / 2)).unwrap_or(usize::MAX),
    }
}

/// Tells the server that a shard has ended, by a panic too.
struct Ended(mpsc::Sender<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        // There is room for a word of each shard; without a server nobody wants to know.
        let _ = self.0.try_send(());
    }
}

/// One thread: a shard, and the HTTP side of its listener.
fn run_shard(index: usize, node: Arc<Node>, listener: Listener, ended: Ended) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let name = format!("gema-shard-{index}");
    std::thread::Builder::new().name(name).spawn(move || {
        let _ended = ended;
        let outcome = runtime.block_on(async {
            let mut shard = Shard::new(index, node)?;
            let tasks = listener.serve()?;
            shard.run().await;
            // Requests that came in before the end are answered, but nobody waits long for them.
            tasks.finish(Duration::from_millis(500)).await;
            // Whoever became a WebSocket in the meantime is told to go elsewhere.
            shard.run().await;
            io::Result::Ok(())
        });
        if let Err(error) = outcome {
            tracing::error!(%error, shard = index, "a shard could not be started");
        }
    })?;
    Ok(())
}

/// What the apps have to do about once a second.
async fn tick(node: Arc<Node>, stop: CancellationToken) {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        node.tick();
    }
}
