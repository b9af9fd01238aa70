//! Background work beside the shards: flow rules, webhooks, other nodes, shared rate limits, Laravel's Redis, the database
//! with the apps.
//! `Server::start` starts it, and waits for the first attempts to connect.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use crate::config::Config;
use crate::ingest::Ingest;
use crate::node::Node;
use crate::store;
use crate::tasks::Tasks;

/// How long the start waits for a Redis that does not answer. Until there is a link, clients here get no events from
/// other nodes.
const LINK_WAIT: Duration = Duration::from_secs(3);
/// The shortest interval between two refreshes from the database.
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// Starts everything, and waits a short time for the first attempts to connect.
pub(super) async fn start(
    node: &Arc<Node>,
    config: &Config,
    store_worker: Option<store::StoreWorker>,
    tasks: &Tasks,
) -> io::Result<Vec<BackgroundThread>> {
    let mut threads = Vec::new();
    // The page and the metrics may take long; a window ends in time all the same. A drain has ended all rules before this
    // thread ends. It sleeps while no channel has a deadline.
    let flows = Arc::clone(node);
    let run = async move |stop: CancellationToken| {
        stop.run_until_cancelled(flows.run_flows()).await;
    };
    threads.push(BackgroundThread::start("flows", run)?);
    // It ends before the cluster's link, which carries its last events.
    let webhooks = Arc::clone(node.webhooks());
    threads.push(BackgroundThread::start("webhooks", |stop| webhooks.run(stop))?);
    if let Some(cluster) = node.cluster().cloned() {
        let receiver = BackgroundThread::start("receiver", async |stop| stop.cancelled().await)?;
        let runtime = receiver.runtime.clone();
        threads.push(BackgroundThread::start("cluster", |stop| cluster.run(stop, runtime))?);
        // It ends after the link that needs it.
        threads.push(receiver);
    }
    let ingest = config.ingest.is_on().then(|| Ingest::new(Arc::clone(node), &config.ingest, &config.redis));
    let ingest = ingest.map(Arc::new);
    if let Some(ingest) = ingest.clone() {
        threads.push(BackgroundThread::start("ingest", |stop| ingest.run(stop))?);
    }
    if let Some(store_worker) = store_worker {
        tasks.spawn(store_worker.run(tasks.stop().clone()));
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
    let _ = tokio::time::timeout(LINK_WAIT, first_attempts(node, ingest.as_deref())).await;
    Ok(threads)
}

/// Waits until Redis and the database have answered, or the first attempts have failed.
async fn first_attempts(node: &Node, ingest: Option<&Ingest>) {
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

/// Refreshes the apps from the database at intervals, even if nobody looks them up.
async fn refresh_apps(node: Arc<Node>, every: Duration, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
        node.refresh_apps().await;
    }
}

/// A thread with a runtime of its own, so that its waits delay nobody else.
#[derive(Debug)]
pub(super) struct BackgroundThread {
    runtime: Handle,
    stop: DropGuard,
    pub(super) ended: oneshot::Receiver<()>,
}

impl BackgroundThread {
    /// Starts a thread that runs until the token that `run` gets is cancelled.
    fn start<F>(name: &str, run: impl FnOnce(CancellationToken) -> F + Send + 'static) -> io::Result<Self>
    where
        F: Future<Output = ()>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let (end, ended) = oneshot::channel();
        let until = stop.clone();
        std::thread::Builder::new().name(format!("gema-{name}")).spawn(move || {
            runtime.block_on(run(until));
            runtime.shutdown_background();
            // Without a server nobody receives.
            let _ = end.send(());
        })?;
        Ok(Self { runtime: handle, stop: stop.drop_guard(), ended })
    }

    /// Asks it to end, and waits this long at most.
    pub(super) async fn end(self, at_most: Duration) {
        drop(self.stop);
        let _ = tokio::time::timeout(at_most, self.ended).await;
    }
}
