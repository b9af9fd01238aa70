//! The settings that a reload on SIGHUP changes at once, and those that need a restart.
//! `cli` asks it when it has loaded the configuration again.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::config::Loaded;
use crate::config::loaded::secrets_that_differ;

/// Sections whose values take effect while the server runs.
const AT_RUN_TIME: [&str; 3] = ["apps", "limits", "tls"];
/// A value of another section that takes effect, too.
const LOG_LEVEL: &str = "log.level";

impl Loaded {
    /// The keys whose values are others in `new`, but take effect with a restart only.
    pub fn needs_restart(&self, new: &Self) -> Vec<String> {
        let fixed = |section: &str| !AT_RUN_TIME.contains(&section);
        let values = |loaded: &Self| -> Vec<(String, Json)> {
            loaded.values(fixed).into_iter().filter(|(key, _)| key != LOG_LEVEL).collect()
        };
        let (before, after) = (values(self), values(new));
        let only_in = |one: &[(String, Json)], other: &[(String, Json)]| -> Vec<String> {
            one.iter().filter(|value| !other.contains(value)).map(|(key, _)| key.clone()).collect()
        };
        let secrets = secrets_that_differ(&self.config, &new.config).map(str::to_owned);
        let keys = only_in(&before, &after).into_iter().chain(only_in(&after, &before)).chain(secrets);
        keys.collect::<BTreeSet<_>>().into_iter().collect()
    }
}
