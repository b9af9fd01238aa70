//! The worker of the app store: owns the connections to the database and runs queries on them.
//! `Store` puts queries into its queues; `server` runs it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::config::AppStore;
use crate::config::Database;
use crate::store::Row;
#[cfg(feature = "aws")]
use crate::store::dynamodb::Dynamodb;
use crate::store::mysql::Mysql;
use crate::store::pool::Pool;
use crate::store::postgres::Postgres;
use crate::store::query::Driver;
use crate::store::query::Query;

/// Queries of each priority that may wait; further ones are refused.
const WAITING_MAX: usize = 1024;
/// One connection in so many, but at least one of several, is reserved for known apps. After a start all apps are
/// unknown.
const KNOWN_SHARE: usize = 3;

/// The priority of a lookup. Anybody can invent ids and keys, so unknown ones have a queue of their own and never use
/// all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// For an app that was found last time.
    Known,
    /// For an id or key that may not exist.
    Unknown,
}

/// Why a query has no rows.
#[derive(Debug)]
pub(super) enum QueryError {
    /// Too many queries wait, so it was not sent.
    Busy,
    /// The database has not answered.
    Unavailable(Arc<str>),
}

type Rows = Result<Vec<Row>, QueryError>;

/// A query with the channel for its answer.
#[derive(Debug)]
struct PendingQuery {
    query: Query,
    answer: oneshot::Sender<Rows>,
    /// It has been sent to the database.
    is_sent: Arc<AtomicBool>,
}

/// The queues of the worker.
#[derive(Debug)]
pub(super) struct QueryQueue {
    known: mpsc::Sender<PendingQuery>,
    unknown: mpsc::Sender<PendingQuery>,
}

impl QueryQueue {
    pub(super) async fn ask(&self, query: Query, priority: Priority) -> Result<Vec<Row>, QueryError> {
        let (answer, answered) = oneshot::channel();
        let (until, is_sent) = (query.until, Arc::new(AtomicBool::new(false)));
        let queue = if priority == Priority::Known { &self.known } else { &self.unknown };
        match queue.try_send(PendingQuery { query, answer, is_sent: Arc::clone(&is_sent) }) {
            Ok(()) => (),
            Err(TrySendError::Full(_)) => return Err(QueryError::Busy),
            Err(TrySendError::Closed(_)) => return Err(QueryError::Unavailable(ENDED.into())),
        }
        match tokio::time::timeout_at(until.into(), answered).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(_)) if Instant::now() < until => Err(QueryError::Unavailable(ENDED.into())),
            _ if is_sent.load(Ordering::Relaxed) => {
                Err(QueryError::Unavailable("no answer in time (app_store.timeout_seconds)".into()))
            }
            _ => Err(QueryError::Busy),
        }
    }
}

const ENDED: &str = "the link to it has ended";

/// The worker of a [`Store`](crate::store::Store). The store answers nothing unless it runs.
pub struct StoreWorker(Kind);

enum Kind {
    Mysql(Worker<Pool<Mysql>>),
    Postgres(Worker<Pool<Postgres>>),
    #[cfg(feature = "aws")]
    Dynamodb(Worker<Dynamodb>),
}

impl fmt::Debug for StoreWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreWorker").finish_non_exhaustive()
    }
}

impl StoreWorker {
    pub(super) fn mysql(store: &AppStore, database: &Database<config::Mysql>) -> (QueryQueue, Self) {
        let (queries, worker) = worker(store, Pool::new(Mysql::new(database)));
        (queries, Self(Kind::Mysql(worker)))
    }

    pub(super) fn postgres(store: &AppStore, database: &Database<config::Postgres>) -> (QueryQueue, Self) {
        let (queries, worker) = worker(store, Pool::new(Postgres::new(database)));
        (queries, Self(Kind::Postgres(worker)))
    }

    #[cfg(feature = "aws")]
    pub(super) fn dynamodb(store: &AppStore, options: &config::Dynamodb) -> (QueryQueue, Self) {
        let (queries, worker) = worker(store, Dynamodb::new(options, store.timeout_seconds.duration()));
        (queries, Self(Kind::Dynamodb(worker)))
    }

    /// Runs queries until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        match self.0 {
            Kind::Mysql(worker) => worker.run(stop).await,
            Kind::Postgres(worker) => worker.run(stop).await,
            #[cfg(feature = "aws")]
            Kind::Dynamodb(worker) => worker.run(stop).await,
        }
    }
}

fn worker<D: Driver>(store: &AppStore, driver: D) -> (QueryQueue, Worker<D>) {
    let (known, known_receiver) = mpsc::channel(WAITING_MAX);
    let (unknown, unknown_receiver) = mpsc::channel(WAITING_MAX);
    let connections_max = store.connections_max as usize;
    let worker = Worker {
        known: known_receiver,
        unknown: unknown_receiver,
        driver,
        connections_max,
        unknown_max: (connections_max - (connections_max / KNOWN_SHARE).max(1)).max(1),
    };
    (QueryQueue { known, unknown }, worker)
}

/// Runs as many queries at once as there may be connections.
struct Worker<D: Driver> {
    known: mpsc::Receiver<PendingQuery>,
    unknown: mpsc::Receiver<PendingQuery>,
    driver: D,
    connections_max: usize,
    unknown_max: usize,
}

impl<D: Driver> Worker<D> {
    async fn run(mut self, stop: CancellationToken) {
        let mut answering = FuturesUnordered::new();
        let mut unknown = 0;
        loop {
            let has_room = answering.len() < self.connections_max;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(priority) = answering.next() => unknown -= usize::from(priority == Priority::Unknown),
                asked = self.known.recv(), if has_room => match asked {
                    Some(asked) => answering.push(answer(&self.driver, asked, Priority::Known)),
                    None => return,
                },
                asked = self.unknown.recv(), if has_room && unknown < self.unknown_max => match asked {
                    Some(asked) => {
                        unknown += 1;
                        answering.push(answer(&self.driver, asked, Priority::Unknown));
                    }
                    None => return,
                },
            }
        }
    }
}

/// Runs a query. Returns its priority.
async fn answer<D: Driver>(
    driver: &D,
    PendingQuery { query, answer, is_sent }: PendingQuery,
    priority: Priority,
) -> Priority {
    if answer.is_closed() {
        return priority;
    }
    if Instant::now() > query.send_by {
        let _ = answer.send(Err(QueryError::Busy));
        return priority;
    }
    is_sent.store(true, Ordering::Relaxed);
    if let Ok(rows) = tokio::time::timeout_at(query.until.into(), driver.rows(&query)).await {
        // The lookup may have ended.
        let _ = answer.send(rows.map_err(|error| QueryError::Unavailable(error.to_string().into())));
    }
    priority
}
