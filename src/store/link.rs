//! The connections to the database. They are made when they are needed, and kept.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::config::AppStore;
use crate::config::Database;
use crate::store::Column;
use crate::store::Row;
use crate::store::mysql::Mysql;
use crate::store::postgres::Postgres;

/// Questions of each kind that may wait; more are not asked.
const WAITING_MAX: usize = 1024;
/// The part of the connections that strangers leave to those who are known: one in so many, and at least one if there
/// are several. After a start everybody is a stranger.
const KNOWN_SHARE: usize = 3;

/// What is asked of the database: the rows with one of these texts in a column.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) column: Column,
    pub(super) texts: Vec<String>,
    /// Later it is no longer put to the database: too little time is left to tell a slow answer from none.
    pub(super) ask_by: Instant,
    pub(super) until: Instant,
}

/// Who wants to know. Anybody can make up ids and keys, so those of which nothing is known have a queue of their own
/// and never all of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// Somebody with an app that was there last time.
    Known,
    /// Anybody.
    Stranger,
}

/// Why there are no rows.
#[derive(Debug)]
pub(super) enum NoRows {
    /// The database was not asked: too many questions wait.
    NotAsked,
    /// It was asked, and has not answered.
    Away(Arc<str>),
}

type Rows = Result<Vec<Row>, NoRows>;

/// A question, and where its answer goes.
#[derive(Debug)]
struct Asked {
    question: Question,
    answer: oneshot::Sender<Rows>,
    /// The database is being asked.
    taken: Arc<AtomicBool>,
}

/// Where questions are put.
#[derive(Debug)]
pub(super) struct Questions {
    known: mpsc::Sender<Asked>,
    strangers: mpsc::Sender<Asked>,
}

impl Questions {
    pub(super) async fn ask(&self, question: Question, asker: Asker) -> Result<Vec<Row>, NoRows> {
        let (answer, answered) = oneshot::channel();
        let (until, taken) = (question.until, Arc::new(AtomicBool::new(false)));
        let queue = if asker == Asker::Known { &self.known } else { &self.strangers };
        match queue.try_send(Asked { question, answer, taken: Arc::clone(&taken) }) {
            Ok(()) => (),
            Err(TrySendError::Full(_)) => return Err(NoRows::NotAsked),
            Err(TrySendError::Closed(_)) => return Err(NoRows::Away(ENDED.into())),
        }
        match tokio::time::timeout_at(until.into(), answered).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(_)) if Instant::now() < until => Err(NoRows::Away(ENDED.into())),
            _ if taken.load(Ordering::Relaxed) => {
                Err(NoRows::Away("no answer in time (app_store.timeout_seconds)".into()))
            }
            _ => Err(NoRows::NotAsked),
        }
    }
}

const ENDED: &str = "the link to it has ended";

/// A kind of database.
pub(super) trait Server: Send + Sync {
    type Connection: Send;

    fn connect(&self) -> impl Future<Output = sqlx::Result<Self::Connection>> + Send;

    fn rows(
        &self,
        connection: &mut Self::Connection,
        question: &Question,
    ) -> impl Future<Output = sqlx::Result<Vec<Row>>> + Send;
}

/// The link between a [`Store`](crate::store::Store) and its database; nothing is answered unless it runs.
pub struct Link(Kind);

enum Kind {
    Mysql(Desk<Mysql>),
    Postgres(Desk<Postgres>),
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn mysql(store: &AppStore, database: &Database<config::Mysql>) -> (Questions, Self) {
        let (questions, desk) = desk(store, Mysql::new(database));
        (questions, Self(Kind::Mysql(desk)))
    }

    pub(super) fn postgres(store: &AppStore, database: &Database<config::Postgres>) -> (Questions, Self) {
        let (questions, desk) = desk(store, Postgres::new(database));
        (questions, Self(Kind::Postgres(desk)))
    }

    /// Answers lookups until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        match self.0 {
            Kind::Mysql(desk) => desk.run(stop).await,
            Kind::Postgres(desk) => desk.run(stop).await,
        }
    }
}

fn desk<S: Server>(store: &AppStore, server: S) -> (Questions, Desk<S>) {
    let (known, of_known) = mpsc::channel(WAITING_MAX);
    let (strangers, of_strangers) = mpsc::channel(WAITING_MAX);
    let connections_max = store.connections_max as usize;
    let desk = Desk {
        known: of_known,
        strangers: of_strangers,
        pool: Pool { server, idle: Mutex::default() },
        connections_max,
        strangers_max: (connections_max - (connections_max / KNOWN_SHARE).max(1)).max(1),
    };
    (Questions { known, strangers }, desk)
}

/// Where questions are taken up, as many at once as there may be connections.
struct Desk<S: Server> {
    known: mpsc::Receiver<Asked>,
    strangers: mpsc::Receiver<Asked>,
    pool: Pool<S>,
    connections_max: usize,
    strangers_max: usize,
}

impl<S: Server> Desk<S> {
    async fn run(mut self, stop: CancellationToken) {
        let mut answering = FuturesUnordered::new();
        let mut strangers = 0;
        loop {
            let has_room = answering.len() < self.connections_max;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(asker) = answering.next() => strangers -= usize::from(asker == Asker::Stranger),
                asked = self.known.recv(), if has_room => match asked {
                    Some(asked) => answering.push(self.pool.answer(asked, Asker::Known)),
                    None => return,
                },
                asked = self.strangers.recv(), if has_room && strangers < self.strangers_max => match asked {
                    Some(asked) => {
                        strangers += 1;
                        answering.push(self.pool.answer(asked, Asker::Stranger));
                    }
                    None => return,
                },
            }
        }
    }
}

/// Connections that are not in use.
struct Pool<S: Server> {
    server: S,
    idle: Mutex<Vec<S::Connection>>,
}

impl<S: Server> Pool<S> {
    /// Returns who has asked.
    async fn answer(&self, Asked { question, answer, taken }: Asked, asker: Asker) -> Asker {
        if answer.is_closed() {
            return asker;
        }
        if Instant::now() > question.ask_by {
            let _ = answer.send(Err(NoRows::NotAsked));
            return asker;
        }
        taken.store(true, Ordering::Relaxed);
        // A connection that does not answer in time ends with its query.
        if let Ok(rows) = tokio::time::timeout_at(question.until.into(), self.rows(&question)).await {
            // Whoever asked may have gone.
            let _ = answer.send(rows.map_err(|error| NoRows::Away(error.to_string().into())));
        }
        asker
    }

    async fn rows(&self, question: &Question) -> sqlx::Result<Vec<Row>> {
        let idle = self.idle.lock().pop();
        if let Some(mut connection) = idle {
            if let Ok(rows) = self.server.rows(&mut connection, question).await {
                self.idle.lock().push(connection);
                return Ok(rows);
            }
            // The server may have ended it long ago, and all others with it.
            self.idle.lock().clear();
        }
        let mut connection = self.server.connect().await?;
        let rows = self.server.rows(&mut connection, question).await?;
        self.idle.lock().push(connection);
        Ok(rows)
    }
}
