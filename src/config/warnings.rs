//! What can be served but is probably not meant.

use crate::config::App;
use crate::config::ClusterDriver;
use crate::config::Config;
use crate::config::KeyPair;
use crate::config::StoreDriver;
use crate::config::fault::Fault;
use crate::config::settings::webhooks;

impl Config {
    /// What can be served but is probably not meant, a sentence each.
    pub fn warnings(&self) -> Vec<Fault> {
        let mut warnings = Vec::new();
        let host = self.server.host;
        if self.needs_redis() && !self.redis.password.is_trimmed() {
            warnings.push(Fault::new(
                "redis.password",
                "begins or ends with white space; remove it unless Redis has the same",
            ));
        }
        if self.needs_redis() && self.redis.speaks_tls() && !self.redis.tls_verify {
            warnings.push(unverified("redis", "Redis"));
        }
        let databases = [
            ("mysql", StoreDriver::Mysql, self.mysql.tls && !self.mysql.tls_verify),
            ("postgres", StoreDriver::Postgres, self.postgres.tls && !self.postgres.tls_verify),
        ];
        let selected = databases.iter().filter(|(_, driver, trusts)| *driver == self.app_store.driver && *trusts);
        warnings.extend(selected.map(|(section, ..)| unverified(section, "the database")));
        if !self.tls.is_enabled() && !self.tls.passphrase.is_empty() {
            warnings.push(Fault::new("tls.passphrase", "has no effect, because tls.cert_path is empty"));
        }
        if self.app_store.driver != StoreDriver::Config && !self.apps.is_empty() {
            warnings.push(Fault::new("apps", "have no effect, because app_store.driver is not config; remove them"));
        }
        if host.is_loopback() && self.server.trusted_proxies.is_empty() {
            let limits = [
                ("connections.per_address_max", self.connections.per_address_max > 0),
                (
                    "connections.handshakes_per_address_per_second",
                    self.connections.handshakes_per_address_per_second > 0,
                ),
            ];
            warnings.extend(limits.into_iter().filter(|(_, is_set)| *is_set).map(|(key, _)| {
                let text = format!(
                    "counts all clients of a proxy as one, since server.trusted_proxies is empty and only this \
                     machine reaches {host}; name the proxy there"
                );
                Fault::new(key, text)
            }));
        }
        for app in self.apps() {
            self.warn_of_app(&app, &mut warnings);
        }
        warnings
    }

    fn warn_of_app(&self, app: &App, warnings: &mut Vec<Fault>) {
        let host = self.server.host;
        let clustered = self.cluster.driver == ClusterDriver::Redis;
        let (id, event_bytes_max) = (&app.id, app.limits.event_bytes_max());
        if app.has_public_secret() && !host.is_loopback() {
            warnings.push(Fault::new(
                format!("app {id:?}"),
                format!(
                    "has Soketi's default secret, which everybody knows, and the server listens on {host}: \
                     anybody can publish; set a secret of your own, or server.host to 127.0.0.1"
                ),
            ));
        }
        warnings.extend(webhooks::warnings(id, &app.webhooks));
        warnings.extend(of_keys(app));
        if app.limits.enable_client_messages && event_bytes_max > self.connections.message_bytes_max {
            warnings.push(Fault::new(
                format!("app {id:?}"),
                format!(
                    "lets clients send events larger than connections.message_bytes_max, which closes the \
                     sender's connection with 1009; raise it above {event_bytes_max}"
                ),
            ));
        }
        if event_bytes_max > self.connections.hard_bytes_max() {
            warnings.push(Fault::new(
                format!("app {id:?}"),
                format!(
                    "may send events larger than connections.backlog_bytes_max, which closes the connections \
                     of all but the fastest clients; raise it above {event_bytes_max}"
                ),
            ));
        }
        if event_bytes_max > self.http.request_bytes_max {
            warnings.push(Fault::new(
                format!("app {id:?}"),
                format!(
                    "may send events larger than http.request_bytes_max, which are refused with 413; \
                     raise it above {event_bytes_max}"
                ),
            ));
        }
        if clustered && event_bytes_max > self.cluster.buffer_bytes_max {
            warnings.push(Fault::new(
                format!("app {id:?}"),
                format!(
                    "may send events larger than cluster.buffer_bytes_max, which never reach other nodes; \
                     raise it above {event_bytes_max}"
                ),
            ));
        }
    }
}

/// The warning about a server whose certificate nobody checks.
fn unverified(section: &str, server: &str) -> Fault {
    let text = format!(
        "is false: anybody on the way to {server} can pretend to be it, and read passwords and \
         events; trust its authority by SSL_CERT_FILE instead"
    );
    Fault::new(format!("{section}.tls_verify"), text)
}

/// Secrets that everybody can read in gema's README, docs and example files. Soketi's default one is warned of apart.
const PUBLISHED: [&str; 6] = [
    "my-secret",
    "change-this",
    "change-this-secret",
    "change-this-other-secret",
    "klinik-secret",
    "klinik-secret-2027",
];

/// What about keys and secrets of an app is probably not meant.
pub(super) fn of_keys(app: &App) -> Vec<Fault> {
    let (id, mut warnings) = (&app.id, Vec::new());
    let published = |pair: &KeyPair| PUBLISHED.contains(&pair.secret.expose_text());
    if app.enabled && app.keys.iter().any(published) {
        warnings.push(Fault::new(
            format!("app {id:?}"),
            "has a secret that stands in gema's README, docs or examples, so anybody can publish and join \
             every channel; set a secret of your own, such as what openssl rand -hex 32 prints",
        ));
    }
    if app.enabled && app.keys.iter().any(|pair| pair.secret.expose_text() == pair.key) {
        warnings.push(Fault::new(
            format!("app {id:?}"),
            "has a secret that is the same as its key, which every page shows, so anybody can publish and join \
             every channel; set another secret, such as what openssl rand -hex 32 prints",
        ));
    }
    if app.keys.iter().any(|pair| pair.key.contains(['+', '&'])) {
        warnings.push(Fault::new(
            format!("app {id:?}"),
            "has a key with + or &, which many libraries send as it is in a query, where it means \
             something else; choose a key of letters and digits",
        ));
    }
    if app.keys.iter().any(|pair| !pair.secret.is_trimmed()) {
        warnings.push(Fault::new(
            format!("app {id:?}"),
            "has a secret that begins or ends with white space; signatures differ unless publishers have \
             the same, so remove it",
        ));
    }
    warnings
}
