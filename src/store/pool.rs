//! The connections to a database that speaks SQL: made when they are needed, and used again.
//! `worker` queries with it; `mysql` and `postgres` connect.

use parking_lot::Mutex;

use crate::store::Row;
use crate::store::query::Driver;
use crate::store::query::Query;

/// A kind of database that speaks SQL.
pub(super) trait Sql: Send + Sync {
    type Connection: Send;

    fn connect(&self) -> impl Future<Output = sqlx::Result<Self::Connection>> + Send;

    fn rows(
        &self,
        connection: &mut Self::Connection,
        query: &Query,
    ) -> impl Future<Output = sqlx::Result<Vec<Row>>> + Send;
}

/// The idle connections.
pub(super) struct Pool<S: Sql> {
    database: S,
    idle: Mutex<Vec<S::Connection>>,
}

impl<S: Sql> Pool<S> {
    pub(super) fn new(database: S) -> Self {
        Self { database, idle: Mutex::default() }
    }
}

impl<S: Sql> Driver for Pool<S> {
    type Error = sqlx::Error;

    /// A connection that does not answer in time is dropped with the query.
    async fn rows(&self, query: &Query) -> sqlx::Result<Vec<Row>> {
        let idle = self.idle.lock().pop();
        if let Some(mut connection) = idle {
            if let Ok(rows) = self.database.rows(&mut connection, query).await {
                self.idle.lock().push(connection);
                return Ok(rows);
            }
            // The server may have closed it long ago, and all others with it.
            self.idle.lock().clear();
        }
        let mut connection = self.database.connect().await?;
        let rows = self.database.rows(&mut connection, query).await?;
        self.idle.lock().push(connection);
        Ok(rows)
    }
}
