//! The SQL for MySQL and MariaDB.
//! `pool` connects and queries with it.

use serde_json::Value as Json;
use sqlx::Column as _;
use sqlx::ConnectOptions;
use sqlx::Row as _;
use sqlx::TypeInfo;
use sqlx::ValueRef;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::mysql::MySqlConnection;
use sqlx::mysql::MySqlRow;
use sqlx::mysql::MySqlSslMode;

use crate::config;
use crate::config::Database;
use crate::store::Row;
use crate::store::pool::Sql;
use crate::store::query::Query;

pub(super) struct Mysql {
    options: MySqlConnectOptions,
    /// Quoted.
    table: String,
}

impl Mysql {
    pub(super) fn new(database: &Database<config::Mysql>) -> Self {
        let options = MySqlConnectOptions::new()
            .host(&database.host)
            .port(database.port)
            .username(&database.username)
            .password(database.password.expose_text())
            .database(&database.database)
            .ssl_mode(match (database.tls, database.tls_verify) {
                (true, true) => MySqlSslMode::VerifyIdentity,
                (true, false) => MySqlSslMode::Required,
                (false, _) => MySqlSslMode::Disabled,
            })
            // The queries depend on none of these.
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .timezone(None)
            .disable_statement_logging();
        let quoted: Vec<_> = database.table_path().map(|name| format!("`{}`", name.replace('`', "``"))).collect();
        Self { options, table: quoted.join(".") }
    }
}

impl Sql for Mysql {
    type Connection = MySqlConnection;

    async fn connect(&self) -> sqlx::Result<MySqlConnection> {
        self.options.connect().await
    }

    async fn rows(&self, connection: &mut MySqlConnection, query: &Query) -> sqlx::Result<Vec<Row>> {
        let marks = vec!["?"; query.texts.len()].join(", ");
        let statement = format!("SELECT * FROM {} WHERE `{}` IN ({marks})", self.table, query.column.name());
        let mut select = sqlx::query(&statement);
        for text in &query.texts {
            select = select.bind(text);
        }
        select.fetch_all(connection).await?.iter().map(row).collect()
    }
}

fn row(row: &MySqlRow) -> sqlx::Result<Row> {
    let columns = row.columns().iter();
    columns.map(|column| Ok((column.name().to_owned(), value(row, column.ordinal())?))).collect()
}

/// A column as JSON: numbers as numbers, everything else as text.
fn value(row: &MySqlRow, index: usize) -> sqlx::Result<Json> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Json::Null);
    }
    let kind = raw.type_info().name().to_owned();
    Ok(match kind.as_str() {
        "FLOAT" | "DOUBLE" => row.try_get::<f64, _>(index)?.into(),
        "BIT" => row.try_get_unchecked::<u64, _>(index)?.into(),
        "BOOLEAN" => row.try_get_unchecked::<i64, _>(index)?.into(),
        kind if kind.ends_with("INT UNSIGNED") => row.try_get::<u64, _>(index)?.into(),
        kind if kind.ends_with("INT") => row.try_get::<i64, _>(index)?.into(),
        _ => String::from_utf8_lossy(row.try_get_unchecked::<&[u8], _>(index)?).into(),
    })
}
