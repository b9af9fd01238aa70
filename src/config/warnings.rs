//! Warnings about values that are valid but probably mistakes.
//! `load` warns about them, and `row` about those of an app.

use crate::config::App;
use crate::config::ClusterDriver;
use crate::config::Config;
use crate::config::KeyPair;
use crate::config::StoreDriver;
use crate::config::fault::{Fault, FaultList};
use crate::config::over_nats;
use crate::config::settings::flow_rules;
use crate::config::settings::history_rules;
use crate::config::settings::webhooks;

impl Config {
    /// About values that can be served but are probably not meant.
    pub fn warnings(&self) -> Vec<Fault> {
        let mut warnings = FaultList::default();
        let (host, redis, connections) = (self.server.host, &self.redis, &self.connections);
        let (nats, is_nats) = (&self.nats, self.cluster.driver == ClusterDriver::Nats);
        for (key, is_odd, server) in [
            ("redis.password", self.needs_redis() && !redis.password.is_trimmed(), "Redis"),
            ("nats.password", is_nats && !nats.password.is_trimmed(), "NATS"),
            ("nats.token", is_nats && !nats.token.is_trimmed(), "NATS"),
        ] {
            let text = format!("begins or ends with white space; remove it unless {server} has the same");
            warnings.add_if(is_odd, key, text);
        }
        let (mysql, postgres, driver) = (&self.mysql, &self.postgres, self.app_store.driver);
        for (key, is_unverified, server) in [
            ("redis.tls_verify", self.needs_redis() && redis.speaks_tls() && !redis.tls_verify, "Redis"),
            ("nats.tls_verify", is_nats && nats.speaks_tls() && !nats.tls_verify, "NATS"),
            ("mysql.tls_verify", driver == StoreDriver::Mysql && mysql.tls && !mysql.tls_verify, "the database"),
            (
                "postgres.tls_verify",
                driver == StoreDriver::Postgres && postgres.tls && !postgres.tls_verify,
                "the database",
            ),
        ] {
            let text = format!(
                "is false: anybody on the way to {server} can pretend to be it, and read passwords and events; trust \
                 its authority by SSL_CERT_FILE instead"
            );
            warnings.add_if(is_unverified, key, text);
        }
        let has_only_passphrase = !self.tls.is_enabled() && !self.tls.passphrase.is_empty();
        warnings.add_if(has_only_passphrase, "tls.passphrase", "has no effect, because tls.cert_path is empty");
        let text = "have no effect, because app_store.driver is not config; remove them";
        warnings.add_if(driver != StoreDriver::Config && !self.apps.is_empty(), "apps", text);
        for (key, limit) in [
            ("connections.per_address_max", connections.per_address_max > 0),
            ("connections.handshakes_per_address_per_second", connections.handshakes_per_address_per_second > 0),
        ] {
            let text = format!(
                "counts all clients of a proxy as one, since server.trusted_proxies is empty and only this machine \
                 reaches {host}; name the proxy there"
            );
            warnings.add_if(limit && host.is_loopback() && self.server.trusted_proxies.is_empty(), key, text);
        }
        warnings.0.extend(over_nats::warnings(self));
        warnings.0.extend(self.warning_of_open_page());
        warnings.0.extend(flow_rules::warnings("limits.flow_rules", &self.limits.flow_rules));
        for (index, entry) in self.apps.iter().enumerate() {
            let rules = entry.flow_rules.as_deref().unwrap_or_default();
            warnings.0.extend(flow_rules::warnings(&format!("apps.{index}.flow_rules"), rules));
        }
        warnings.0.extend(history_rules::warnings(&self.limits, &self.apps));
        for app in self.apps() {
            self.warn_of_app(&app, &mut warnings);
        }
        warnings.0
    }

    /// About an operator's page whose token can be read on the way: the metrics port has no TLS of its own.
    pub fn warning_of_open_page(&self) -> Option<Fault> {
        let (host, mut warnings) = (self.metrics.host, FaultList::default());
        let is_open = !host.is_loopback() && self.server.trusted_proxies.is_empty();
        let text = format!(
            "is {host}, so the token of the operator's page crosses the network without TLS; set metrics.host to \
             127.0.0.1, or let people in through a proxy with TLS and name it in server.trusted_proxies"
        );
        warnings.add_if(self.dashboard.is_on() && is_open, "metrics.host", text);
        warnings.0.pop()
    }

    fn warn_of_app(&self, app: &App, warnings: &mut FaultList) {
        let (host, key) = (self.server.host, format!("app {:?}", app.id));
        let text = format!(
            "has Soketi's default secret, which everybody knows, and the server listens on {host}: anybody can \
             publish; set a secret of your own, or server.host to 127.0.0.1"
        );
        warnings.add_if(app.has_public_secret() && !host.is_loopback(), &*key, text);
        warnings.0.extend(webhooks::warnings(&app.id, &app.webhooks));
        warnings.0.extend(of_keys(app));
        let clustered = self.cluster.driver != ClusterDriver::Local;
        let bytes = app.limits.event_bytes_max();
        for (is_over, text) in [
            (
                app.limits.enable_client_messages && bytes > self.connections.message_bytes_max,
                "lets clients send events larger than connections.message_bytes_max, which closes the sender's \
                 connection with 1009",
            ),
            (
                bytes > self.connections.hard_bytes_max(),
                "may send events larger than connections.backlog_bytes_max, which closes the connections of all but \
                 the fastest clients",
            ),
            (
                bytes > self.http.request_bytes_max,
                "may send events larger than http.request_bytes_max, which are refused with 413",
            ),
            (
                clustered && bytes > self.cluster.buffer_bytes_max,
                "may send events larger than cluster.buffer_bytes_max, which never reach other nodes",
            ),
        ] {
            warnings.add_if(is_over, &*key, format!("{text}; raise it above {bytes}"));
        }
    }
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

/// About keys and secrets of an app that are probably not meant.
pub(super) fn of_keys(app: &App) -> Vec<Fault> {
    let mut warnings = FaultList::default();
    let any = |is_odd: &dyn Fn(&KeyPair) -> bool| app.keys.iter().any(is_odd);
    for (is_odd, text) in [
        (
            app.enabled && any(&|pair| PUBLISHED.contains(&pair.secret.expose_text())),
            "has a secret that stands in gema's README, docs or examples, so anybody can publish and join every \
             channel; set a secret of your own, such as what openssl rand -hex 32 prints",
        ),
        (
            app.enabled && any(&|pair| pair.secret.expose_text() == pair.key),
            "has a secret that is the same as its key, which every page shows, so anybody can publish and join every \
             channel; set another secret, such as what openssl rand -hex 32 prints",
        ),
        (
            any(&|pair| pair.key.contains(['+', '&'])),
            "has a key with + or &, which many libraries send as it is in a query, where it means something else; \
             choose a key of letters and digits",
        ),
        (
            any(&|pair| !pair.secret.is_trimmed()),
            "has a secret that begins or ends with white space; signatures differ unless publishers have the same, so \
             remove it",
        ),
    ] {
        warnings.add_if(is_odd, format!("app {:?}", app.id), text);
    }
    warnings.0
}
