//! The queries of the store, and the trait of a database that answers them.
//! `worker` sends queries; `pool` and `dynamodb` answer them.

use std::fmt::Display;
use std::time::Instant;

use crate::store::Row;

/// The column of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Column {
    Id,
    Key,
}

impl Column {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Key => "key",
        }
    }
}

/// Selects the rows with one of these texts in a column.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) column: Column,
    pub(super) texts: Vec<String>,
    /// Not sent later than this: too little time would be left to tell a slow answer from none.
    pub(super) send_by: Instant,
    pub(super) until: Instant,
}

/// A database.
pub(super) trait Driver: Send + Sync {
    type Error: Display + Send;

    /// Runs a query. It is dropped when its time is over.
    fn rows(&self, query: &Query) -> impl Future<Output = Result<Vec<Row>, Self::Error>> + Send;
}
