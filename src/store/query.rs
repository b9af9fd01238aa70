//! The queries of the store, and the trait of a database that answers them.
//! `worker` sends queries; `mysql` and `postgres` answer them.

use std::time::Instant;

use crate::store::Column;
use crate::store::Row;

/// Selects the rows with one of these texts in a column.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) column: Column,
    pub(super) texts: Vec<String>,
    /// Not sent later than this: too little time would be left to tell a slow answer from none.
    pub(super) send_by: Instant,
    pub(super) until: Instant,
}

/// A kind of database.
pub(super) trait Driver: Send + Sync {
    type Connection: Send;

    fn connect(&self) -> impl Future<Output = sqlx::Result<Self::Connection>> + Send;

    fn rows(
        &self,
        connection: &mut Self::Connection,
        query: &Query,
    ) -> impl Future<Output = sqlx::Result<Vec<Row>>> + Send;
}
