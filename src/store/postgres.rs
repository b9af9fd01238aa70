//! The SQL for PostgreSQL.
//! `pool` connects and queries with it.

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::postgres::PgConnection;
use sqlx::postgres::PgSslMode;

use crate::config;
use crate::config::Database;
use crate::store::Row;
use crate::store::pool::Sql;
use crate::store::query::Query;

pub(super) struct Postgres {
    options: PgConnectOptions,
    /// Quoted.
    table: String,
}

impl Postgres {
    pub(super) fn new(database: &Database<config::Postgres>) -> Self {
        let options = PgConnectOptions::new_without_pgpass()
            .host(&database.host)
            .port(database.port)
            .username(&database.username)
            .password(database.password.expose_text())
            .database(&database.database)
            .ssl_mode(match (database.tls, database.tls_verify) {
                (true, true) => PgSslMode::VerifyFull,
                (true, false) => PgSslMode::Require,
                (false, _) => PgSslMode::Disable,
            })
            .application_name("gema")
            .disable_statement_logging();
        let quoted: Vec<_> = database.table_path().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
        Self { options, table: quoted.join(".") }
    }
}

impl Sql for Postgres {
    type Connection = PgConnection;

    async fn connect(&self) -> sqlx::Result<PgConnection> {
        self.options.connect().await
    }

    async fn rows(&self, connection: &mut PgConnection, query: &Query) -> sqlx::Result<Vec<Row>> {
        // As JSON, so that the server decides which values are numbers, booleans and texts, whatever the columns'
        // types.
        let statement = format!(
            "SELECT to_jsonb(app)::text FROM {} AS app WHERE app.\"{}\"::text = ANY($1)",
            self.table,
            query.column.name()
        );
        let rows: Vec<String> = sqlx::query_scalar(&statement).bind(&query.texts).fetch_all(connection).await?;
        let row = |text: &String| serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()));
        rows.iter().map(row).collect()
    }
}
