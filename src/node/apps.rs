//! The apps of this process: finds them, adds and removes them while it runs.
//! `http` and `connect` look apps up; a reload and the database change them.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use crate::config;
use crate::config::Config;
use crate::node::App;
use crate::node::Node;
use crate::protocol::code::APP_DISABLED;
use crate::protocol::connect::ConnectRequest;
use crate::registry::inbox::ShardMessage;
use crate::store::StoreError;

/// How long an app of a database is kept without a lookup.
const UNUSED_MAX: Duration = Duration::from_secs(60);

/// The apps of a process.
#[derive(Debug, Default)]
pub(super) struct Apps(RwLock<AppIndex>);

#[derive(Debug, Default)]
struct AppIndex {
    /// Includes removed apps that still have connections.
    by_id: HashMap<String, Arc<App>>,
    /// The app's id by key.
    id_by_key: HashMap<String, String>,
}

impl AppIndex {
    /// Adds an app, or changes it.
    fn insert_or_update(&mut self, settings: Arc<config::App>, make: impl FnOnce(Arc<config::App>) -> App) -> Arc<App> {
        let known = self.by_id.get(&settings.id).cloned();
        if let Some(app) = &known {
            self.remove_keys(app);
        }
        self.id_by_key.extend(settings.keys.iter().map(|pair| (pair.key.clone(), settings.id.clone())));
        match known {
            Some(app) => {
                app.update(settings);
                app
            }
            None => {
                let app = Arc::new(make(settings));
                self.by_id.insert(app.id.clone(), Arc::clone(&app));
                app.end_flows_if_stopping();
                app
            }
        }
    }

    /// Removes the keys of an app from the index.
    fn remove_keys(&mut self, app: &App) {
        for pair in &app.rules().settings.keys {
            if self.id_by_key.get(&pair.key) == Some(&app.id) {
                self.id_by_key.remove(&pair.key);
            }
        }
    }
}

impl Apps {
    pub(super) fn by_id(&self, id: &str) -> Option<Arc<App>> {
        self.0.read().by_id.get(id).filter(|app| !app.rules().is_removed).cloned()
    }

    /// Like `by_id`, but also one that is no longer configured.
    pub(super) fn with_removed(&self, id: &str) -> Option<Arc<App>> {
        self.0.read().by_id.get(id).cloned()
    }

    pub(super) fn by_key(&self, key: &str) -> Option<Arc<App>> {
        let index = self.0.read();
        index.by_id.get(index.id_by_key.get(key)?).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<App>> {
        self.0.read().by_id.values().cloned().collect()
    }
}

impl Node {
    /// The app with this key, if it is known here.
    pub fn app_by_key(&self, key: &str) -> Option<Arc<App>> {
        self.apps.by_key(key)
    }

    /// The app with this id, if it is known here.
    pub fn app_by_id(&self, id: &str) -> Option<Arc<App>> {
        self.apps.by_id(id)
    }

    /// All apps that are known here, also removed ones that still have connections.
    pub fn all_apps(&self) -> Vec<Arc<App>> {
        self.apps.all()
    }

    /// Whether a database holds the apps.
    pub fn uses_database(&self) -> bool {
        self.store.is_some()
    }

    /// The app with this id, from the database if need be.
    pub async fn load_by_id(&self, id: &str) -> Result<Option<Arc<App>>, StoreError> {
        match &self.store {
            // Boxed: most requests find their app without a database, and need no space for asking.
            Some(store) => Ok(Box::pin(store.by_id(id)).await?.map(|settings| self.use_stored(settings))),
            None => Ok(self.apps.by_id(id)),
        }
    }

    /// The app with this key, from the database if need be.
    pub async fn load_by_key(&self, key: &str) -> Result<Option<Arc<App>>, StoreError> {
        match &self.store {
            Some(store) => Ok(Box::pin(store.by_key(key)).await?.map(|settings| self.use_stored(settings))),
            None => Ok(self.apps.by_key(key)),
        }
    }

    /// The app that a client names by its key, or by its id if it may be raw.
    pub async fn load_for_client(&self, key: &str, request: &ConnectRequest) -> Result<Option<Arc<App>>, StoreError> {
        match self.load_by_key(key).await? {
            // A database that has just said that there is no such key need not answer the second question.
            None if request.may_be_raw() => Ok(self.load_by_id(key).await.unwrap_or_default()),
            app => Ok(app),
        }
    }

    /// Adds an app from the database, unless it is here already with the same settings.
    fn use_stored(&self, settings: Arc<config::App>) -> Arc<App> {
        let known = self.apps.by_id(&settings.id).filter(|app| Arc::ptr_eq(&app.rules().settings, &settings));
        let app = known.unwrap_or_else(|| {
            let app = self.apps.0.write().insert_or_update(settings, |settings| self.new_app(settings));
            self.close_if_disabled(&app);
            app
        });
        app.touch();
        app
    }

    /// Takes a new configuration. Connections continue under their app's new rules, unless it is disabled or removed.
    pub async fn reload(&self, config: &Config) {
        match &self.store {
            Some(store) => {
                store.set_limits(config.limits.clone());
                self.refresh_apps().await;
            }
            None => self.set_apps(config.apps()),
        }
    }

    /// Replaces all apps.
    pub(super) fn set_apps(&self, apps: Vec<config::App>) {
        // Under one lock, so that a key that moves from one app to another is always found.
        let mut index = self.apps.0.write();
        let kept: HashSet<&str> = apps.iter().map(|app| &*app.id).collect();
        index.by_id.values().filter(|app| !kept.contains(&*app.id)).for_each(|app| app.remove());
        index.id_by_key.clear();
        for settings in apps {
            index.insert_or_update(Arc::new(settings), |settings| self.new_app(settings));
        }
        drop(index);
        for app in self.apps.all() {
            self.close_if_disabled(&app);
        }
    }

    /// Reads the settings of all apps in use again. An app stays as it is while the database does not answer.
    pub async fn refresh_apps(&self) {
        let Some(store) = &self.store else { return };
        let ids: Vec<String> = self.apps.all().into_iter().map(|app| app.id.clone()).collect();
        for (id, answer) in store.refresh(&ids).await {
            match answer {
                Ok(Some(settings)) => {
                    let app = self.apps.0.write().insert_or_update(settings, |settings| self.new_app(settings));
                    self.close_if_disabled(&app);
                }
                Ok(None) => self.remove_app(&id),
                // The store has logged it.
                Err(_) => (),
            }
        }
    }

    fn remove_app(&self, id: &str) {
        let mut index = self.apps.0.write();
        let Some(app) = index.by_id.get(id).cloned() else { return };
        index.remove_keys(&app);
        app.remove();
        drop(index);
        self.close_if_disabled(&app);
    }

    fn new_app(&self, settings: Arc<config::App>) -> App {
        App::new(settings, self)
    }

    fn close_if_disabled(&self, app: &App) {
        if app.rules().settings.enabled {
            return;
        }
        for shard in 0..self.inboxes.shards() {
            self.inboxes.send(shard, ShardMessage::CloseApp(Arc::clone(app.state.id()), APP_DISABLED));
        }
    }

    /// Forgets apps without connections: removed ones, and apps of a database that nobody looks up.
    pub(super) fn forget_idle_apps(&self) {
        // Under the write lock nobody can get hold of it.
        let is_over = |app: &Arc<App>| {
            let unwanted = app.rules().is_removed || (self.store.is_some() && app.unused_for() > UNUSED_MAX);
            unwanted && Arc::strong_count(app) == 1 && app.open_connections() == 0 && app.state.is_idle()
        };
        let over = |(id, app): (&String, &Arc<App>)| is_over(app).then(|| id.clone());
        let over: Vec<String> = self.apps.0.read().by_id.iter().filter_map(over).collect();
        if over.is_empty() {
            return;
        }
        let found = self.metrics.find(&over.iter().map(|id| &**id).collect());
        let mut index = self.apps.0.write();
        for id in over {
            // An app that has come into use meanwhile stays.
            if !index.by_id.get(&id).is_some_and(is_over) {
                continue;
            }
            let Some(app) = index.by_id.remove(&id) else { continue };
            index.remove_keys(&app);
            self.metrics.forget_app(&app.meters, &found);
            self.webhooks.mark_unused(&id);
            if let Some(cluster) = &self.cluster {
                cluster.remove(&id);
            }
        }
    }
}
