//! The connections to the database. They are made when they are needed, and kept.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::config::AppStore;
use crate::config::Database;
use crate::store::Column;
use crate::store::Row;
use crate::store::mysql::Mysql;
use crate::store::postgres::Postgres;

/// Questions that may wait; more are told that the database is away.
const WAITING_MAX: usize = 1024;

/// What is asked of the database: the rows with one of these texts in a column.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) column: Column,
    pub(super) texts: Vec<String>,
    pub(super) until: Instant,
}

type Rows = Result<Vec<Row>, Arc<str>>;
type Asked = (Question, oneshot::Sender<Rows>);

/// Where questions are put.
#[derive(Debug)]
pub(super) struct Questions(mpsc::Sender<Asked>);

impl Questions {
    pub(super) async fn ask(&self, question: Question) -> Rows {
        let (answer, answered) = oneshot::channel();
        let until = question.until;
        if self.0.try_send((question, answer)).is_err() {
            return Err("too many lookups wait for it".into());
        }
        match tokio::time::timeout_at(until.into(), answered).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(_)) if Instant::now() < until => Err("the link to it has ended".into()),
            _ => Err("no answer in time (app_store.timeout_seconds)".into()),
        }
    }
}

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
    let (sender, asked) = mpsc::channel(WAITING_MAX);
    let pool = Pool { server, idle: Mutex::default() };
    (Questions(sender), Desk { asked, pool, connections_max: store.connections_max as usize })
}

/// Where questions are taken up, as many at once as there may be connections.
struct Desk<S: Server> {
    asked: mpsc::Receiver<Asked>,
    pool: Pool<S>,
    connections_max: usize,
}

impl<S: Server> Desk<S> {
    async fn run(mut self, stop: CancellationToken) {
        let mut answering = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = answering.next() => (),
                asked = self.asked.recv(), if answering.len() < self.connections_max => match asked {
                    Some(asked) => answering.push(self.pool.answer(asked)),
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
    async fn answer(&self, (question, answer): Asked) {
        if answer.is_closed() {
            return;
        }
        // A connection that does not answer in time ends with its query.
        if let Ok(rows) = tokio::time::timeout_at(question.until.into(), self.rows(&question)).await {
            // Whoever asked may have gone.
            let _ = answer.send(rows.map_err(|error| error.to_string().into()));
        }
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
