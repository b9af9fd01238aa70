//! Apps that are rows of a table, as Soketi has them in MySQL and PostgreSQL.
//!
//! What was read is remembered for a while, and however many ask for an app at once, the database is asked once.
//! While it is away, apps are served as they were last read; that an app is unknown is never concluded from it.
//!
//! [`Store`] answers on any runtime. [`Link`] has the connections and belongs to one, since a connection ends with
//! the runtime that it was made on.

mod link;
mod mysql;
mod outage;
mod postgres;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use moka::future::Cache;
use parking_lot::RwLock;
use serde_json::Value as Json;
use tokio_util::sync::CancellationToken;

pub use crate::store::link::Link;
pub use crate::store::outage::StoreState;

use crate::config::App;
use crate::config::AppStore;
use crate::config::Config;
use crate::config::LeftOut;
use crate::config::Limits;
use crate::config::RowApp;
use crate::config::StoreDriver;
use crate::metrics::AnswerFrom;
use crate::metrics::StoreMeters;
use crate::store::link::Asker;
use crate::store::link::NoRows;
use crate::store::link::Question;
use crate::store::link::Questions;
use crate::store::outage::Outage;

/// That nothing has an id or a key is soon asked again: the app may just be on its way into the table.
const UNKNOWN_LIFETIME: Duration = Duration::from_secs(5);

/// How often a database is tried that is away.
const WATCH_PAUSE: Duration = Duration::from_millis(500);

/// Longer ids and keys are in no table: Soketi's columns are as wide.
const NAME_BYTES_MAX: usize = 255;

/// Apps of one query; more are several.
const IDS_PER_QUERY: usize = 500;

/// A row of the table, by its columns.
type Row = serde_json::Map<String, Json>;

/// The apps that a database holds.
#[derive(Debug)]
pub struct Store {
    table: String,
    limits: RwLock<Limits>,
    times: Times,
    cache: Cache<Name, Known>,
    questions: Questions,
    outage: Outage,
    meters: StoreMeters,
}

/// How long what was read is good.
#[derive(Debug, Clone, Copy)]
struct Times {
    fresh: Duration,
    unknown: Duration,
    stale: Duration,
    timeout: Duration,
}

/// Why there is no answer to whether an app exists. None of them means that it does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be asked.
    #[error("the app store does not answer: {reason}")]
    Unavailable {
        /// What the database or the way to it says.
        reason: Arc<str>,
    },
    /// The database was not asked, since too many wait for it already. That is no outage.
    #[error("too many ids and keys are looked up that are not known here; try again")]
    Busy,
    /// The app's row makes no app.
    #[error("the row of app {app:?} cannot be used: {faults}")]
    Unusable {
        /// The row's id.
        app: String,
        /// A sentence each, beginning with table and column.
        faults: Arc<str>,
    },
}

/// What an app is looked for by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Column {
    Id,
    Key,
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Key => "key",
        }
    }
}

/// An id or a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name {
    column: Column,
    text: Box<str>,
}

impl Name {
    fn new(column: Column, text: &str) -> Self {
        Self { column, text: text.into() }
    }

    /// Whether a row may have it: others are told so without asking.
    fn is_possible(&self) -> bool {
        !self.text.is_empty()
            && self.text.len() <= NAME_BYTES_MAX
            && self.text.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

/// An app, or that there is none, or why that is not known.
pub type Answer = Result<Option<Arc<App>>, StoreError>;

/// What is known of a name.
#[derive(Debug, Clone)]
struct Known {
    answer: Answer,
    /// What the app's row says in vain, as the log has been told.
    in_vain: Arc<[String]>,
    /// The database's last word on it.
    read: Instant,
    /// Until when nobody needs to ask again.
    fresh_until: Instant,
}

impl Known {
    fn new(answer: Answer, read: Instant, fresh_until: Instant) -> Self {
        Self { answer, in_vain: Arc::default(), read, fresh_until }
    }

    fn is_fresh(&self) -> bool {
        Instant::now() < self.fresh_until
    }

    fn is_app(&self) -> bool {
        matches!(self.answer, Ok(Some(_)))
    }
}

impl Store {
    /// The store that the configuration selects, and its link to the database; none where the configuration holds
    /// the apps.
    pub fn new(config: &Config, meters: impl FnOnce() -> StoreMeters) -> Option<(Self, Link)> {
        let ((questions, link), table, place) = match config.app_store.driver {
            StoreDriver::Config => return None,
            StoreDriver::Mysql => {
                (Link::mysql(&config.app_store, &config.mysql), &config.mysql.table, config.mysql.place())
            }
            StoreDriver::Postgres => {
                (Link::postgres(&config.app_store, &config.postgres), &config.postgres.table, config.postgres.place())
            }
        };
        let times = Times::new(&config.app_store);
        let cache = Cache::builder()
            .max_capacity(config.app_store.cache_entries_max)
            .time_to_live(times.fresh + times.stale)
            .build();
        let store = Self {
            table: table.clone(),
            limits: RwLock::new(config.limits.clone()),
            times,
            cache,
            questions,
            outage: Outage::new(place),
            meters: meters(),
        };
        Some((store, link))
    }

    /// From now on these hold for what rows leave out; the rows are read anew.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.write() = limits;
        self.cache.invalidate_all();
    }

    /// The app with this id.
    pub async fn by_id(&self, id: &str) -> Answer {
        self.lookup(Name::new(Column::Id, id)).await
    }

    /// The app that this key belongs to.
    pub async fn by_key(&self, key: &str) -> Answer {
        self.lookup(Name::new(Column::Key, key)).await
    }

    /// Reads these apps anew, whatever is known of them, so that changes are noticed of apps that nobody looks up.
    pub async fn refresh(&self, ids: &[String]) -> Vec<(String, Answer)> {
        let mut answers = Vec::with_capacity(ids.len());
        for ids in ids.chunks(IDS_PER_QUERY) {
            let rows = self.ask(Column::Id, ids.to_vec(), Asker::Known).await.map(by_id);
            for id in ids {
                let name = Name::new(Column::Id, id);
                let own = rows.as_ref().map(|rows| rows.get(id).cloned().unwrap_or_default());
                let known = self.learn(&name, own.map_err(StoreError::clone)).await;
                self.cache.insert(name, known.clone()).await;
                answers.push((id.clone(), known.answer));
            }
        }
        answers
    }

    async fn lookup(&self, name: Name) -> Answer {
        if !name.is_possible() {
            return Ok(None);
        }
        if let Some(known) = self.cache.get(&name).await.filter(Known::is_fresh) {
            self.meters.answered(AnswerFrom::Cache);
            return known.answer;
        }
        let read = self.cache.entry_by_ref(&name).or_insert_with_if(self.read(&name), |known| !known.is_fresh());
        match tokio::time::timeout(self.times.timeout, read).await {
            Ok(entry) => entry.into_value().answer,
            Err(_) => {
                let before = self.cache.get(&name).await;
                let reason = "it is taking too long".into();
                self.without_database(before, StoreError::Unavailable { reason }).answer
            }
        }
    }

    async fn read(&self, name: &Name) -> Known {
        let is_app = self.cache.get(name).await.is_some_and(|known| known.is_app());
        let asker = if is_app { Asker::Known } else { Asker::Stranger };
        let rows = self.ask(name.column, vec![name.text.to_string()], asker).await;
        self.learn(name, rows).await
    }

    /// The rows with one of these ids or keys, or why there are none to be had.
    async fn ask(&self, column: Column, texts: Vec<String>, asker: Asker) -> Result<Vec<Row>, StoreError> {
        self.outage.may_ask(self.times.timeout).map_err(|reason| StoreError::Unavailable { reason })?;
        let began = Instant::now();
        // So that its end is known before everybody who waits for it has given up.
        let (ask_by, until) = (began + self.times.timeout.mul_f64(0.45), began + self.times.timeout.mul_f64(0.9));
        match self.questions.ask(Question { column, texts, ask_by, until }, asker).await {
            Ok(rows) => {
                self.meters.queried(began.elapsed());
                self.outage.is_over();
                Ok(rows)
            }
            Err(NoRows::NotAsked) => {
                self.meters.not_asked();
                self.outage.was_not_asked();
                Err(StoreError::Busy)
            }
            Err(NoRows::Away(reason)) => {
                self.meters.unavailable();
                self.outage.goes_on(&reason, self.times.stale);
                Err(StoreError::Unavailable { reason })
            }
        }
    }

    /// Asks for nothing, which shows whether the database lets us in and has the table. Until it has done so once, and
    /// whenever it is away, that is tried again and again, so that its return does not wait for somebody to come.
    pub async fn watch(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if !self.outage.is_settled() {
                let _ = self.ask(Column::Id, vec![String::new()], Asker::Known).await;
                self.outage.was_tried();
            }
            stop.run_until_cancelled(tokio::time::sleep(WATCH_PAUSE)).await;
        }
    }

    /// Ends when the database has been tried once.
    pub async fn tried(&self) {
        self.outage.tried().await;
    }

    /// Whether the database answers now.
    pub fn state(&self) -> StoreState {
        self.outage.state()
    }

    /// What is known of a name now that the database was asked.
    async fn learn(&self, name: &Name, rows: Result<Vec<Row>, StoreError>) -> Known {
        let before = self.cache.get(name).await;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return self.without_database(before, error),
        };
        self.meters.answered(AnswerFrom::Database);
        let read = Instant::now();
        let (answer, in_vain) = match self.app_among(name, &rows) {
            Ok(Some(row)) => {
                self.meters.left_out(row.left_out.len() as u64);
                let in_vain = self.tell(&row, before.as_ref());
                (Ok(Some(Arc::new(row.app))), in_vain)
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
        let lifetime = if matches!(answer, Ok(Some(_))) { self.times.fresh } else { self.times.unknown };
        let known = Known { answer, in_vain, read, fresh_until: read + lifetime };
        self.share(name, before, &known).await;
        known
    }

    /// Logs what a row says in vain, unless it has said so last time. Returns it.
    fn tell(&self, row: &RowApp, before: Option<&Known>) -> Arc<[String]> {
        let left_out = row.left_out.iter().map(|webhook| format!("{} {}", webhook.endpoint, webhook.why));
        let in_vain: Arc<[String]> = row.warnings.iter().cloned().chain(left_out).collect();
        if before.is_some_and(|before| before.in_vain == in_vain) {
            return in_vain;
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
        in_vain
    }

    /// What was known goes on being served for a while.
    fn without_database(&self, before: Option<Known>, error: StoreError) -> Known {
        let served = |known: &Known| known.is_app() && known.read.elapsed() < self.times.stale;
        match before.filter(served) {
            Some(known) => {
                self.meters.answered(AnswerFrom::Stale);
                known
            }
            None => {
                let now = Instant::now();
                Known::new(Err(error), now, now)
            }
        }
    }

    /// An app is known by its id and its key at once, and no longer by a key that it had before.
    async fn share(&self, name: &Name, before: Option<Known>, now: &Known) {
        let names = |known: &Known| match &known.answer {
            Ok(Some(app)) => names_of(app),
            _ => Vec::new(),
        };
        let current = names(now);
        let gone: Vec<Name> = before.iter().flat_map(names).filter(|old| !current.contains(old)).collect();
        for other in gone.into_iter().filter(|gone| gone != name) {
            self.cache.invalidate(&other).await;
        }
        for other in current.into_iter().filter(|current| current != name) {
            self.cache.insert(other, now.clone()).await;
        }
    }

    /// The app of the row that has this name. MySQL compares more loosely than names are meant.
    fn app_among(&self, name: &Name, rows: &[Row]) -> Result<Option<RowApp>, StoreError> {
        let mut found = rows.iter().filter(|row| text(row, name.column) == *name.text);
        let Some(row) = found.next() else { return Ok(None) };
        let unusable = |faults: &str| StoreError::Unusable { app: text(row, Column::Id), faults: faults.into() };
        if found.next().is_some() {
            let (table, column) = (&self.table, name.column.name());
            return Err(unusable(&format!("{table}.{column} is {:?} in several rows; each must differ", name.text)));
        }
        let app = App::from_row(&self.table, row, &self.limits.read());
        app.map(Some).map_err(|faults| unusable(&faults.join("; ")))
    }
}

impl Times {
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

fn names_of(app: &App) -> Vec<Name> {
    let keys = app.keys.iter().map(|pair| Name::new(Column::Key, &pair.key));
    std::iter::once(Name::new(Column::Id, &app.id)).chain(keys).collect()
}

fn by_id(rows: Vec<Row>) -> HashMap<String, Vec<Row>> {
    let mut by_id: HashMap<_, Vec<Row>> = HashMap::new();
    for row in rows {
        by_id.entry(text(&row, Column::Id)).or_default().push(row);
    }
    by_id
}

/// An id or a key as text; a column may have numbers. White space at its end does not hide the row, so that it is
/// found to be a fault.
fn text(row: &Row, column: Column) -> String {
    match row.get(column.name()) {
        Some(Json::String(text)) => text.trim_end().to_owned(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}
