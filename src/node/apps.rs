//! The apps of this process: they come, change and go while it runs.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use crate::config;
use crate::config::Config;
use crate::node::App;
use crate::node::Node;
use crate::protocol::code::Close;
use crate::protocol::code::CloseCode;
use crate::registry::inbox::ShardMessage;
use crate::store::StoreError;

/// How long an app of a database is kept without being asked for.
const UNUSED_MAX: Duration = Duration::from_secs(60);
/// The app takes no connections, or takes none any more.
pub(super) const APP_DISABLED: Close = Close::new(CloseCode::AppDisabled, "Application disabled");

/// The apps of a process.
#[derive(Debug, Default)]
pub(super) struct Apps(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    /// With those that are gone but still have connections.
    by_id: HashMap<String, Arc<App>>,
    /// The ids by key.
    ids: HashMap<String, String>,
}

impl Table {
    /// The operator says this of an app, which may be new.
    fn put(&mut self, says: Arc<config::App>, make: impl FnOnce(Arc<config::App>) -> App) -> Arc<App> {
        let known = self.by_id.get(&says.id).cloned();
        if let Some(app) = &known {
            self.drop_keys(app);
        }
        self.ids.extend(says.keys.iter().map(|pair| (pair.key.clone(), says.id.clone())));
        match known {
            Some(app) => {
                app.change(says);
                app
            }
            None => {
                let app = Arc::new(make(says));
                self.by_id.insert(app.id.clone(), Arc::clone(&app));
                app
            }
        }
    }

    /// An app is no longer found by the keys that it has now.
    fn drop_keys(&mut self, app: &App) {
        for pair in &app.rules().said.keys {
            if self.ids.get(&pair.key) == Some(&app.id) {
                self.ids.remove(&pair.key);
            }
        }
    }
}

impl Apps {
    pub(super) fn by_id(&self, id: &str) -> Option<Arc<App>> {
        self.0.read().by_id.get(id).filter(|app| !app.rules().gone).cloned()
    }

    pub(super) fn by_key(&self, key: &str) -> Option<Arc<App>> {
        let table = self.0.read();
        table.by_id.get(table.ids.get(key)?).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<App>> {
        self.0.read().by_id.values().cloned().collect()
    }
}

impl Node {
    /// The app that this key belongs to, as far as it is known here.
    pub fn app_by_key(&self, key: &str) -> Option<Arc<App>> {
        self.apps.by_key(key)
    }

    /// The app with this id, as far as it is known here.
    pub fn app_by_id(&self, id: &str) -> Option<Arc<App>> {
        self.apps.by_id(id)
    }

    /// Whether a database holds the apps.
    pub fn asks_a_database(&self) -> bool {
        self.store.is_some()
    }

    /// The app with this id; a database that holds the apps is asked where need be.
    pub async fn find_by_id(&self, id: &str) -> Result<Option<Arc<App>>, StoreError> {
        match &self.store {
            // Boxed, since most requests find their app without a database and need no room for asking one.
            Some(store) => Ok(Box::pin(store.by_id(id)).await?.map(|says| self.found(says))),
            None => Ok(self.apps.by_id(id)),
        }
    }

    /// The app that this key belongs to; a database that holds the apps is asked where need be.
    pub async fn find_by_key(&self, key: &str) -> Result<Option<Arc<App>>, StoreError> {
        match &self.store {
            Some(store) => Ok(Box::pin(store.by_key(key)).await?.map(|says| self.found(says))),
            None => Ok(self.apps.by_key(key)),
        }
    }

    /// What a database says of an app.
    fn found(&self, says: Arc<config::App>) -> Arc<App> {
        let known = self.apps.by_id(&says.id).filter(|app| Arc::ptr_eq(&app.rules().said, &says));
        let app = known.unwrap_or_else(|| {
            let app = self.apps.0.write().put(says, |says| self.new_app(says));
            self.close_unless_enabled(&app);
            app
        });
        app.is_used_now();
        app
    }

    /// From now on the configuration says this. Connections go on under the rules of now, unless their app is disabled
    /// or gone.
    pub async fn reload(&self, config: &Config) {
        match &self.store {
            Some(store) => {
                store.set_limits(config.limits.clone());
                self.refresh_apps().await;
            }
            None => self.set_apps(config.apps()),
        }
    }

    /// From now on there are these apps, and no others.
    pub(super) fn set_apps(&self, apps: Vec<config::App>) {
        // At once, so that nobody meets a key on its way from one app to another.
        let mut table = self.apps.0.write();
        let kept: HashSet<&str> = apps.iter().map(|app| &*app.id).collect();
        table.by_id.values().filter(|app| !kept.contains(&*app.id)).for_each(|app| app.go());
        table.ids.clear();
        for says in apps {
            table.put(Arc::new(says), |says| self.new_app(says));
        }
        drop(table);
        for app in self.apps.all() {
            self.close_unless_enabled(&app);
        }
    }

    /// Has the database say anew what holds for the apps that are in use here. What it cannot say stays as it is.
    pub async fn refresh_apps(&self) {
        let Some(store) = &self.store else { return };
        let ids: Vec<String> = self.apps.all().into_iter().map(|app| app.id.clone()).collect();
        for (id, answer) in store.refresh(&ids).await {
            match answer {
                Ok(Some(says)) => {
                    let app = self.apps.0.write().put(says, |says| self.new_app(says));
                    self.close_unless_enabled(&app);
                }
                Ok(None) => self.remove_app(&id),
                // The store has said why.
                Err(_) => (),
            }
        }
    }

    fn remove_app(&self, id: &str) {
        let mut table = self.apps.0.write();
        let Some(app) = table.by_id.get(id).cloned() else { return };
        table.drop_keys(&app);
        app.go();
        drop(table);
        self.close_unless_enabled(&app);
    }

    fn new_app(&self, says: Arc<config::App>) -> App {
        App::new(says, self)
    }

    fn close_unless_enabled(&self, app: &App) {
        if app.rules().said.enabled {
            return;
        }
        for shard in 0..self.inboxes.shards() {
            self.inboxes.send(shard, ShardMessage::CloseApp(Arc::clone(app.state.id()), APP_DISABLED));
        }
    }

    /// Forgets the apps that nobody is connected to any more: those that are gone, and those of a database that nobody
    /// asks for.
    pub(super) fn forget_idle_apps(&self) {
        // Under the lock for writing nobody can take hold of it.
        let is_over = |app: &Arc<App>| {
            let unwanted = app.rules().gone || (self.store.is_some() && app.unused_for() > UNUSED_MAX);
            unwanted && Arc::strong_count(app) == 1 && app.open_connections() == 0 && app.state.is_idle()
        };
        let over = |(id, app): (&String, &Arc<App>)| is_over(app).then(|| id.clone());
        let over: Vec<String> = self.apps.0.read().by_id.iter().filter_map(over).collect();
        if over.is_empty() {
            return;
        }
        let found = self.metrics.find(&over.iter().map(|id| &**id).collect());
        let mut table = self.apps.0.write();
        for id in over {
            // One that has come into use meanwhile stays.
            if !table.by_id.get(&id).is_some_and(is_over) {
                continue;
            }
            let Some(app) = table.by_id.remove(&id) else { continue };
            table.drop_keys(&app);
            self.metrics.forget_app(&app.meters, &found);
            self.webhooks.mark_unused(&id);
            if let Some(cluster) = &self.cluster {
                cluster.remove(&id);
            }
        }
    }
}
