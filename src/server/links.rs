//! What a node is linked to: webhooks, other nodes, the limits that they share, Laravel's Redis, a database with the apps.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use crate::config::Config;
use crate::ingest::Ingest;
use crate::node::Node;
use crate::store;
use crate::tasks::Tasks;

/// How long the start waits for a Redis that does not answer. Before there is a link nobody who comes hears
/// what other nodes accept.
const LINK_WAIT: Duration = Duration::from_secs(3);
/// The shortest time between two looks at what has changed in the database.
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// Starts the links, and waits until each has been tried, though not for long.
pub(super) async fn start(
    node: &Arc<Node>,
    config: &Config,
    store_link: Option<store::Link>,
    tasks: &Tasks,
) -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    // Before the link to the other nodes ends, they hear what this one still had.
    let webhooks = Arc::clone(node.webhooks());
    links.push(Link::start("webhooks", |stop| webhooks.run(stop))?);
    if let Some(cluster) = node.cluster().cloned() {
        links.push(Link::start("cluster", |stop| cluster.run(stop))?);
    }
    let ingest = config.ingest.is_on().then(|| Ingest::new(Arc::clone(node), &config.ingest, &config.redis));
    let ingest = ingest.map(Arc::new);
    if let Some(ingest) = ingest.clone() {
        links.push(Link::start("ingest", |stop| ingest.run(stop))?);
    }
    if let Some(store_link) = store_link {
        tasks.spawn(store_link.run(tasks.stop().clone()));
        let every = config.app_store.cache_seconds.duration().max(REFRESH_MIN);
        tasks.spawn(refresh_apps(Arc::clone(node), every, tasks.stop().clone()));
        if let Some(store) = node.store().cloned() {
            let stop = tasks.stop().clone();
            tasks.spawn(async move { store.watch(stop).await });
        }
    }
    if let Some(rates) = node.rates().cloned() {
        tasks.spawn(rates.run(tasks.stop().clone()));
    }
    let _ = tokio::time::timeout(LINK_WAIT, tried(node, ingest.as_deref())).await;
    Ok(links)
}

/// Ends when each link to Redis is made and the database has answered, or when the first try has failed.
async fn tried(node: &Node, ingest: Option<&Ingest>) {
    if let Some(cluster) = node.cluster() {
        cluster.tried().await;
    }
    if let Some(rates) = node.rates() {
        rates.tried().await;
    }
    if let Some(store) = node.store() {
        store.tried().await;
    }
    if let Some(ingest) = ingest {
        ingest.tried().await;
    }
}

/// Notices what has changed in the database, although nobody may ask for the app.
async fn refresh_apps(node: Arc<Node>, every: Duration, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
        node.refresh_apps().await;
    }
}

/// The threads that keep a link. What comes over it may wait for a shard there, and holds up nobody else.
#[derive(Debug)]
pub(super) struct Link {
    stop: DropGuard,
    pub(super) ended: oneshot::Receiver<()>,
}

impl Link {
    /// Runs until the token that `run` gets is cancelled.
    fn start<F>(name: &str, run: impl FnOnce(CancellationToken) -> F + Send + 'static) -> io::Result<Self>
    where
        F: Future<Output = ()>,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(format!("gema-{name}"))
            .enable_all()
            .build()?;
        let stop = CancellationToken::new();
        let (end, ended) = oneshot::channel();
        let until = stop.clone();
        std::thread::Builder::new().name(format!("gema-{name}")).spawn(move || {
            runtime.block_on(run(until));
            runtime.shutdown_background();
            // Without a server nobody wants to know.
            let _ = end.send(());
        })?;
        Ok(Self { stop: stop.drop_guard(), ended })
    }

    /// Ends it in good order, within this time.
    pub(super) async fn end(self, at_most: Duration) {
        drop(self.stop);
        let _ = tokio::time::timeout(at_most, self.ended).await;
    }
}
