//! The apps of this process: they come, change and go while it runs.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::config;
use crate::node::App;
use crate::node::Node;
use crate::protocol::code::Close;
use crate::protocol::code::CloseCode;
use crate::registry::inbox::Letter;

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
    /// The app with this id.
    pub fn app_by_id(&self, id: &str) -> Option<Arc<App>> {
        self.apps.by_id(id)
    }

    /// The app that this key belongs to.
    pub fn app_by_key(&self, key: &str) -> Option<Arc<App>> {
        self.apps.by_key(key)
    }

    /// From now on there are these apps, and no others. Connections go on under the rules of now, unless their app is
    /// disabled or gone.
    pub fn set_apps(&self, apps: Vec<config::App>) {
        // At once, so that nobody meets a key on its way from one app to another.
        let mut table = self.apps.0.write();
        table.ids =
            apps.iter().flat_map(|app| app.keys.iter().map(|pair| (pair.key.clone(), app.id.clone()))).collect();
        let kept: HashSet<&str> = apps.iter().map(|app| &*app.id).collect();
        table.by_id.values().filter(|app| !kept.contains(&*app.id)).for_each(|app| app.go());
        for says in apps {
            match table.by_id.get(&says.id) {
                Some(app) => app.change(says),
                None => {
                    let (cluster, rates) = (self.cluster.clone(), self.rates.clone());
                    let app = App::new(says, Arc::clone(&self.inboxes), cluster, rates, &self.metrics);
                    table.by_id.insert(app.id.clone(), Arc::new(app));
                }
            }
        }
        let closed: Vec<_> = table.by_id.values().filter(|app| !app.rules().said.enabled).cloned().collect();
        drop(table);
        for app in closed {
            self.close(&app);
        }
    }

    fn close(&self, app: &App) {
        for shard in 0..self.inboxes.shards() {
            self.inboxes.send(shard, Letter::CloseApp(Arc::clone(app.state.id()), APP_DISABLED));
        }
    }

    /// Forgets the apps that are gone and that nobody is connected to any more.
    pub(super) fn forget_gone_apps(&self) {
        let mut table = self.apps.0.write();
        table.by_id.retain(|_, app| {
            // Under the lock nobody can take hold of it.
            let is_over = app.rules().gone && Arc::strong_count(app) == 1 && app.state.is_idle();
            if let (true, Some(cluster)) = (is_over, &self.cluster) {
                cluster.remove(app.state.id());
            }
            !is_over
        });
    }
}
