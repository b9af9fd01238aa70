//! Apps in MySQL (as MariaDB) and PostgreSQL, against servers that the tests start, pause and kill.

#![expect(clippy::disallowed_methods, reason = "tests spawn tasks of their own")]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod cache;
mod outages;
mod rows;
mod servers;
mod serving;
mod webhooks;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use gema::config::Config;
use gema::metrics::Metrics;
use gema::store::Answer;
use gema::store::Store;
use gema::store::StoreError;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use crate::servers::PATIENCE;
use crate::servers::Server;

/// A store whose link runs until the test ends.
struct TestStore {
    store: Arc<Store>,
    metrics: Metrics,
    stop: DropGuard,
}

impl Deref for TestStore {
    type Target = Arc<Store>;

    fn deref(&self) -> &Self::Target {
        &self.store
    }
}

impl TestStore {
    fn new(config: &Config) -> Self {
        let metrics = Metrics::new("", 0, false);
        let (store, link) = Store::new(config, || metrics.store()).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(link.run(stop.clone()));
        Self { store: Arc::new(store), metrics, stop: stop.drop_guard() }
    }

    /// The value of a metric, its labels included.
    fn metric(&self, name: &str) -> u64 {
        let text = String::from_utf8(self.metrics.text()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
    }

    /// Queries that the database has answered.
    fn queries(&self) -> u64 {
        self.metric("gema_app_store_query_seconds_count")
    }

    /// Waits until the app with this id is as it should be.
    async fn until(&self, id: &str, is_so: impl Fn(&Answer) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.by_id(id).await;
            if is_so(&answer) {
                return;
            }
            assert!(Instant::now() < until, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A table with the columns of Soketi's documents.
async fn soketis_table(server: &Server, table: &str) {
    server
        .run_either(
            &format!(
                "CREATE TABLE {table} (`id` varchar(255) COLLATE utf8mb4_unicode_ci NOT NULL, \
                 `key` varchar(255) COLLATE utf8mb4_unicode_ci NOT NULL, \
                 `secret` varchar(255) COLLATE utf8mb4_unicode_ci NOT NULL, `max_connections` integer(11) NOT NULL, \
                 `enable_client_messages` tinyint(1) NOT NULL, `enabled` tinyint(1) NOT NULL, \
                 `max_backend_events_per_sec` integer(11) NOT NULL, `max_client_events_per_sec` integer(11) NOT NULL, \
                 `max_read_req_per_sec` integer(11) NOT NULL, `webhooks` json, PRIMARY KEY (`id`))"
            ),
            &format!(
                "CREATE TABLE {table} (id varchar(255) PRIMARY KEY, \"key\" varchar(255) NOT NULL, \
                 secret varchar(255) NOT NULL, max_connections integer NOT NULL, \
                 enable_client_messages smallint NOT NULL, enabled smallint NOT NULL, \
                 max_backend_events_per_sec integer NOT NULL, max_client_events_per_sec integer NOT NULL, \
                 max_read_req_per_sec integer NOT NULL, webhooks json)"
            ),
        )
        .await;
}

/// A table that holds the app `a` with the key `a-key`, and nothing that an app can do without.
async fn small_table(server: &Server, table: &str) {
    let quote = if server.kind == servers::Kind::Mysql { '`' } else { '"' };
    server
        .run(&format!(
            "CREATE TABLE {table} (id varchar(255) PRIMARY KEY, {quote}key{quote} varchar(255), secret varchar(255), \
             max_connections integer); INSERT INTO {table} VALUES ('a', 'a-key', 'a-secret', 5)"
        ))
        .await;
}

/// That an app is there, with so many connections.
fn has_max(connections: i64) -> impl Fn(&Answer) -> bool {
    move |answer| matches!(answer, Ok(Some(app)) if app.limits.max_connections == connections)
}

fn is_unavailable(answer: &Answer) -> bool {
    matches!(answer, Err(StoreError::Unavailable { .. } | StoreError::Busy))
}
