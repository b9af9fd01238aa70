//! The app store: apps that are rows of a table, as Soketi has them in MySQL, PostgreSQL and DynamoDB.
//! `node` looks apps up here, when the configuration names a database.
//!
//! Rows are cached for a while, and concurrent lookups of an app share one query. While the database is away, apps are
//! served as they were last read; no lookup then concludes that an app does not exist.
//!
//! [`Store`] works on any runtime. [`StoreWorker`] owns the connections and runs on one runtime, since a connection
//! ends with the runtime that made it.

#[cfg(feature = "aws")]
mod dynamodb;
mod mysql;
mod outage;
mod pool;
mod postgres;
mod query;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use moka::future::Cache;
use parking_lot::RwLock;
use serde_json::Value as Json;
use tokio_util::sync::CancellationToken;

pub use crate::store::outage::StoreState;
pub use crate::store::worker::StoreWorker;

use crate::config::App;
use crate::config::AppStore;
use crate::config::ClusterDriver;
use crate::config::Config;
use crate::config::LeftOut;
use crate::config::Limits;
use crate::config::RowApp;
use crate::config::StoreDriver;
use crate::metrics::AnswerFrom;
use crate::metrics::StoreMeters;
use crate::store::outage::Outage;
use crate::store::query::Column;
use crate::store::query::Query;
use crate::store::worker::Priority;
use crate::store::worker::QueryError;
use crate::store::worker::QueryQueue;

/// An unknown id or key is soon looked up again: the app may just be on its way into the table.
const UNKNOWN_LIFETIME: Duration = Duration::from_secs(5);

/// How often a database that is away is tried.
const WATCH_PAUSE: Duration = Duration::from_millis(500);

/// Longer ids and keys are in no table: Soketi's columns have this width.
const NAME_BYTES_MAX: usize = 255;

/// Apps per query.
const IDS_PER_QUERY: usize = 500;

/// A row of the table, by its columns.
type Row = serde_json::Map<String, Json>;

/// The apps of a database.
#[derive(Debug)]
pub struct Store {
    table: String,
    limits: RwLock<Limits>,
    lifetimes: Lifetimes,
    cache: Cache<LookupKey, CacheEntry>,
    queries: QueryQueue,
    outage: Outage,
    /// The nodes meet in NATS, where apps lack what needs Redis.
    is_over_nats: bool,
    meters: StoreMeters,
}

/// How long cache entries are valid.
#[derive(Debug, Clone, Copy)]
struct Lifetimes {
    fresh: Duration,
    unknown: Duration,
    stale: Duration,
    timeout: Duration,
}

/// Why a lookup has no answer. None of these means that the app does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be queried.
    #[error("the app store does not answer: {reason}")]
    Unavailable {
        /// The error of the database or the connection.
        reason: Arc<str>,
    },
    /// Too many queries wait already, so this one was not sent. That is no outage.
    #[error("too many ids and keys are looked up that are not known here; try again")]
    Busy,
    /// The app's row is not a valid app.
    #[error("the row of app {app:?} cannot be used: {faults}")]
    Unusable {
        /// The row's id.
        app: String,
        /// The faults, each beginning with table and column.
        faults: Arc<str>,
    },
}

/// An id or a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LookupKey {
    column: Column,
    text: Box<str>,
}

impl LookupKey {
    fn new(column: Column, text: &str) -> Self {
        Self { column, text: text.into() }
    }

    /// Whether a row may have it; others are not looked up.
    fn is_possible(&self) -> bool {
        !self.text.is_empty()
            && self.text.len() <= NAME_BYTES_MAX
            && self.text.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

/// The answer to a lookup: an app, none, or an error.
pub type Answer = Result<Option<Arc<App>>, StoreError>;

/// The cached answer to a lookup.
#[derive(Debug, Clone)]
struct CacheEntry {
    answer: Answer,
    /// The warnings about the row, as logged.
    warnings: Arc<[String]>,
    /// When the database answered.
    read: Instant,
    /// When to look it up again.
    fresh_until: Instant,
}

impl CacheEntry {
    fn new(answer: Answer, read: Instant, fresh_until: Instant) -> Self {
        Self { answer, warnings: Arc::default(), read, fresh_until }
    }

    fn is_fresh(&self) -> bool {
        Instant::now() < self.fresh_until
    }

    fn is_app(&self) -> bool {
        matches!(self.answer, Ok(Some(_)))
    }
}

impl Store {
    /// The store that the configuration selects, with its worker; `None` if the configuration holds the apps.
    pub fn new(config: &Config, meters: impl FnOnce() -> StoreMeters) -> Option<(Self, StoreWorker)> {
        let (options, mysql, postgres) = (&config.app_store, &config.mysql, &config.postgres);
        let ((queries, link), table, place) = match options.driver {
            StoreDriver::Config => return None,
            StoreDriver::Mysql => (StoreWorker::mysql(options, mysql), &mysql.table, mysql.place()),
            StoreDriver::Postgres => (StoreWorker::postgres(options, postgres), &postgres.table, postgres.place()),
            #[cfg(feature = "aws")]
            StoreDriver::Dynamodb => {
                let dynamodb = &config.dynamodb;
                (StoreWorker::dynamodb(options, dynamodb), &dynamodb.table, dynamodb.place())
            }
            // The configuration's check refuses it.
            #[cfg(not(feature = "aws"))]
            StoreDriver::Dynamodb => return None,
        };
        let lifetimes = Lifetimes::new(&config.app_store);
        let cache = Cache::builder()
            .max_capacity(config.app_store.cache_entries_max)
            .time_to_live(lifetimes.fresh + lifetimes.stale)
            .build();
        let store = Self {
            table: table.clone(),
            limits: RwLock::new(config.limits.clone()),
            lifetimes,
            cache,
            queries,
            outage: Outage::new(place),
            is_over_nats: config.cluster.driver == ClusterDriver::Nats,
            meters: meters(),
        };
        Some((store, link))
    }

    /// Sets the limits for columns that rows leave empty. All rows are read again.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.write() = limits;
        self.cache.invalidate_all();
    }

    /// The app with this id.
    pub async fn by_id(&self, id: &str) -> Answer {
        self.lookup(LookupKey::new(Column::Id, id)).await
    }

    /// The app with this key.
    pub async fn by_key(&self, key: &str) -> Answer {
        self.lookup(LookupKey::new(Column::Key, key)).await
    }

    /// Reads these apps again, so that changes of apps that nobody looks up are noticed.
    pub async fn refresh(&self, ids: &[String]) -> Vec<(String, Answer)> {
        let mut answers = Vec::with_capacity(ids.len());
        for ids in ids.chunks(IDS_PER_QUERY) {
            let rows = self.query(Column::Id, ids.to_vec(), Priority::Known).await.map(by_id);
            for id in ids {
                let name = LookupKey::new(Column::Id, id);
                let own = rows.as_ref().map(|rows| rows.get(id).cloned().unwrap_or_default());
                let entry = self.entry_from_rows(&name, own.map_err(StoreError::clone)).await;
                self.cache.insert(name, entry.clone()).await;
                answers.push((id.clone(), entry.answer));
            }
        }
        answers
    }

    async fn lookup(&self, name: LookupKey) -> Answer {
        if !name.is_possible() {
            return Ok(None);
        }
        if let Some(entry) = self.cache.get(&name).await.filter(CacheEntry::is_fresh) {
            self.meters.answered(AnswerFrom::Cache);
            return entry.answer;
        }
        let read = self.cache.entry_by_ref(&name).or_insert_with_if(self.read(&name), |entry| !entry.is_fresh());
        match tokio::time::timeout(self.lifetimes.timeout, read).await {
            Ok(entry) => entry.into_value().answer,
            Err(_) => {
                let before = self.cache.get(&name).await;
                let reason = "it is taking too long".into();
                self.stale_or_error(before, StoreError::Unavailable { reason }).answer
            }
        }
    }

    async fn read(&self, name: &LookupKey) -> CacheEntry {
        let is_app = self.cache.get(name).await.is_some_and(|entry| entry.is_app());
        let priority = if is_app { Priority::Known } else { Priority::Unknown };
        let rows = self.query(name.column, vec![name.text.to_string()], priority).await;
        self.entry_from_rows(name, rows).await
    }

    /// Queries the rows with one of these ids or keys.
    async fn query(&self, column: Column, texts: Vec<String>, priority: Priority) -> Result<Vec<Row>, StoreError> {
        self.outage.may_ask(self.lifetimes.timeout).map_err(|reason| StoreError::Unavailable { reason })?;
        let began = Instant::now();
        // Shorter than the timeout of lookups, so that they see the error of the query.
        let (send_by, until) =
            (began + self.lifetimes.timeout.mul_f64(0.45), began + self.lifetimes.timeout.mul_f64(0.9));
        match self.queries.ask(Query { column, texts, send_by, until }, priority).await {
            Ok(rows) => {
                self.meters.queried(began.elapsed());
                self.outage.answered();
                Ok(rows)
            }
            Err(QueryError::Busy) => {
                self.meters.not_asked();
                self.outage.cancel_attempt();
                Err(StoreError::Busy)
            }
            Err(QueryError::Unavailable(reason)) => {
                self.meters.unavailable();
                self.outage.failed(&reason, self.lifetimes.stale);
                Err(StoreError::Unavailable { reason })
            }
        }
    }

    /// Queries for nothing at intervals until the database has answered, and whenever it is away. So its return does
    /// not wait for a lookup, and wrong credentials or a missing table show at the start.
    pub async fn watch(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if !self.outage.is_settled() {
                let _ = self.query(Column::Id, vec![String::new()], Priority::Known).await;
                self.outage.mark_tried();
            }
            stop.run_until_cancelled(tokio::time::sleep(WATCH_PAUSE)).await;
        }
    }

    /// Waits until the database has been tried once.
    pub async fn tried(&self) {
        self.outage.tried().await;
    }

    /// Whether the database answers now.
    pub fn state(&self) -> StoreState {
        self.outage.state()
    }

    /// The cache entry for the result of a query.
    async fn entry_from_rows(&self, name: &LookupKey, rows: Result<Vec<Row>, StoreError>) -> CacheEntry {
        let before = self.cache.get(name).await;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return self.stale_or_error(before, error),
        };
        self.meters.answered(AnswerFrom::Database);
        let read = Instant::now();
        let (answer, warnings) = match self.app_with_key(name, &rows) {
            Ok(Some(row)) => {
                self.meters.left_out(row.left_out.len() as u64);
                let warnings = self.log_warnings(&row, before.as_ref());
                (Ok(Some(Arc::new(row.app))), warnings)
            }
            Ok(None) => (Ok(None), Arc::default()),
            Err(error) => {
                self.meters.unusable();
                if before.as_ref().is_none_or(|before| before.answer.as_ref().err() != Some(&error)) {
                    tracing::warn!("{error}");
                }
                (Err(error), Arc::default())
            }
        };
        let lifetime = if matches!(answer, Ok(Some(_))) { self.lifetimes.fresh } else { self.lifetimes.unknown };
        let entry = CacheEntry { answer, warnings, read, fresh_until: read + lifetime };
        self.update_aliases(name, before, &entry).await;
        entry
    }

    /// Logs the warnings about a row, unless they were logged last time. Returns them.
    fn log_warnings(&self, row: &RowApp, before: Option<&CacheEntry>) -> Arc<[String]> {
        let left_out = row.left_out.iter().map(|webhook| format!("{} {}", webhook.endpoint, webhook.why));
        let warnings: Arc<[String]> = row.warnings.iter().map(ToString::to_string).chain(left_out).collect();
        if before.is_some_and(|before| before.warnings == warnings) {
            return warnings;
        }
        let app_id = &row.app.id;
        for warning in &row.warnings {
            tracing::warn!(app_id, "{warning}");
        }
        for LeftOut { endpoint, why } in &row.left_out {
            tracing::warn!(
                app_id,
                endpoint,
                "a webhook of the app is left out, and the app is served without it: {why}"
            );
        }
        warnings
    }

    /// The earlier entry if it is not too old, else the error.
    fn stale_or_error(&self, before: Option<CacheEntry>, error: StoreError) -> CacheEntry {
        let served = |entry: &CacheEntry| entry.is_app() && entry.read.elapsed() < self.lifetimes.stale;
        match before.filter(served) {
            Some(entry) => {
                self.meters.answered(AnswerFrom::Stale);
                entry
            }
            None => {
                let now = Instant::now();
                CacheEntry::new(Err(error), now, now)
            }
        }
    }

    /// Updates the entries of the app's other names, and removes those of names that it no longer has.
    async fn update_aliases(&self, name: &LookupKey, before: Option<CacheEntry>, now: &CacheEntry) {
        let names = |entry: &CacheEntry| match &entry.answer {
            Ok(Some(app)) => names_of(app),
            _ => Vec::new(),
        };
        let current = names(now);
        let gone: Vec<LookupKey> = before.iter().flat_map(names).filter(|old| !current.contains(old)).collect();
        for other in gone.into_iter().filter(|gone| gone != name) {
            self.cache.invalidate(&other).await;
        }
        for other in current.into_iter().filter(|current| current != name) {
            self.cache.insert(other, now.clone()).await;
        }
    }

    /// The app of the row with exactly this name: MySQL compares more loosely.
    fn app_with_key(&self, name: &LookupKey, rows: &[Row]) -> Result<Option<RowApp>, StoreError> {
        let mut found = rows.iter().filter(|row| text(row, name.column) == *name.text);
        let Some(row) = found.next() else { return Ok(None) };
        let unusable = |faults: &str| StoreError::Unusable { app: text(row, Column::Id), faults: faults.into() };
        if found.next().is_some() {
            let (table, column) = (&self.table, name.column.name());
            return Err(unusable(&format!("{table}.{column} is {:?} in several rows; each must differ", name.text)));
        }
        let app = App::from_row(&self.table, row, &self.limits.read());
        let served = |mut row: RowApp| {
            if self.is_over_nats {
                row.warnings.extend(row.app.leave_out_history(&self.table));
            }
            Some(row)
        };
        app.map(served).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            unusable(&faults.join("; "))
        })
    }
}

impl Lifetimes {
    fn new(store: &AppStore) -> Self {
        let fresh = store.cache_seconds.duration();
        Self {
            fresh,
            unknown: fresh.min(UNKNOWN_LIFETIME),
            stale: store.stale_seconds.duration(),
            timeout: store.timeout_seconds.duration(),
        }
    }
}

fn names_of(app: &App) -> Vec<LookupKey> {
    let keys = app.keys.iter().map(|pair| LookupKey::new(Column::Key, &pair.key));
    std::iter::once(LookupKey::new(Column::Id, &app.id)).chain(keys).collect()
}

fn by_id(rows: Vec<Row>) -> HashMap<String, Vec<Row>> {
    let mut by_id: HashMap<_, Vec<Row>> = HashMap::new();
    for row in rows {
        by_id.entry(text(&row, Column::Id)).or_default().push(row);
    }
    by_id
}

/// An id or key as text; a column may hold numbers. Trailing white space is ignored here, and reported as a fault
/// later.
fn text(row: &Row, column: Column) -> String {
    match row.get(column.name()) {
        Some(Json::String(text)) => text.trim_end().to_owned(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}
