//! Explanations of wrong keys, ids and signatures for the operator's log.
//! `session` and `http` call it when they refuse a request, at most a few times per second.

use std::sync::Arc;

use crate::node::App;
use crate::node::Node;
use crate::protocol::signature::Signer;

/// Keys whose secrets are tried; a log line is not worth more.
const KEYS_MAX: usize = 1000;

impl Node {
    /// Names the app whose secret made a signature that is not the one of `key`.
    pub fn explain_signature(&self, app: &App, key: &str, is_made_by: impl Fn(&Signer) -> bool) -> String {
        let others = self.apps.all().into_iter().filter(|other| other.id != app.id);
        let mut left = KEYS_MAX;
        let found = |app: &App, left: &mut usize| {
            let rules = app.rules();
            let keys = rules.keys.iter().take(*left);
            *left = left.saturating_sub(rules.settings.keys.len());
            keys.into_iter().find(|(_, signer)| is_made_by(signer)).map(|(key, _)| key.to_owned())
        };
        if let Some(other) = found(app, &mut left) {
            return format!("it is signed with the secret of the app's key {other}, but names the key {key}");
        }
        for other in others {
            if found(&other, &mut left).is_some() {
                return format!("it is signed with the secret of app {}", other.id);
            }
        }
        format!(
            "it is signed with none of the secrets known here; compare the application's with that of the key {key}"
        )
    }

    /// Names the app of a key.
    pub fn explain_key(&self, key: &str) -> String {
        let shortened: String = key.chars().take(64).collect();
        let owner: Option<Arc<App>> = self.app_by_key(key);
        match owner {
            Some(owner) => format!("the key {shortened} is one of app {}", owner.id),
            None => format!("no app known here has the key {shortened}"),
        }
    }

    /// Names the app that a wrong id may mean.
    pub fn explain_id(&self, id: &str) -> String {
        let shortened: String = id.chars().take(64).collect();
        match self.app_by_key(id) {
            Some(owner) => format!("{shortened} is a key, of app {}; the path needs the app's id", owner.id),
            None => format!("no app known here has the id {shortened}"),
        }
    }
}
