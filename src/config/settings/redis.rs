//! The address of Redis, and the credentials for it.

use std::net::Ipv6Addr;

use reqwest::Url;

use crate::config::fault::FaultList;
use crate::config::settings::section;
use crate::config::settings::values::Secret;

section! {
    /// Where Redis is, and how it lets us in.
    pub struct Redis {
        /// `redis://`, `rediss://` or `redis+unix://`; wins over the fields below, of which a socket without `?` takes
        /// database, username and password. May hold a password.
        pub url: Secret = Secret::new(""),
        /// Host name or address.
        pub host: String = "127.0.0.1".to_owned(),
        /// TCP port.
        pub port: u16 = 6379 => 1..=u16::MAX,
        /// Number of the database; pub/sub ignores it.
        // Redis itself counts them with 32 bits.
        pub db: i64 = 0 => 0..=i64::from(i32::MAX),
        /// Name of the ACL user; empty for the default user.
        pub username: String = String::new(),
        /// Empty for none.
        pub password: Secret = Secret::new(""),
        /// Put before every name in Redis, those of pub/sub channels included, with a colon behind it.
        pub key_prefix: String = String::new(),
        /// Whether to speak TLS, with the system's certificate authorities.
        pub tls: bool = false,
        /// Whether Redis must show a certificate of an authority that the system trusts, for its name.
        pub tls_verify: bool = true,
        /// Sentinels as `host:port`; any of them switches Sentinel on.
        pub sentinels: Vec<String> = Vec::new(),
        /// Password of the Sentinels; empty for none.
        pub sentinel_password: Secret = Secret::new(""),
        /// The name of the master that the Sentinels watch.
        pub sentinel_master: String = "mymaster".to_owned(),
        /// Nodes of a Redis Cluster as `host:port`; any of them switches Redis Cluster on.
        pub cluster_nodes: Vec<String> = Vec::new(),
    }
}

/// Host and port of an entry of `sentinels` or `cluster_nodes`; an IPv6 address loses its brackets.
///
/// ```
/// use gema::config::host_and_port;
///
/// assert_eq!(host_and_port("redis-1:6379"), Some(("redis-1", 6379)));
/// assert_eq!(host_and_port("[::1]:6379"), Some(("::1", 6379)));
/// assert_eq!(host_and_port("redis-1"), None);
/// ```
pub fn host_and_port(node: &str) -> Option<(&str, u16)> {
    let (host, port) = node.rsplit_once(':')?;
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| is_number && *port != 0)?;
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok().then_some((address, port)),
        None => is_name(host).then_some((host, port)),
    }
}

impl Redis {
    /// Where it is looked for, for the log: without anything that may be a password.
    ///
    /// ```
    /// use gema::config::{Redis, Secret};
    ///
    /// let at = |url: &str| Redis { url: Secret::new(url), ..Redis::default() }.place();
    /// assert_eq!(at(""), "127.0.0.1:6379");
    /// assert_eq!(at("rediss://me:hush@redis-1:6380/2"), "redis-1:6380");
    /// assert_eq!(at("redis://redis-1"), "redis-1:6379");
    /// assert_eq!(at("unix:///run/redis.sock?pass=hush"), "/run/redis.sock");
    /// ```
    pub fn place(&self) -> String {
        if !self.cluster_nodes.is_empty() {
            return self.cluster_nodes.join(", ");
        }
        if !self.sentinels.is_empty() {
            return format!("{} by the Sentinels {}", self.sentinel_master, self.sentinels.join(", "));
        }
        match Url::parse(self.url.expose_text()) {
            Ok(url) if url.has_host() => {
                format!("{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(Self::default().port))
            }
            Ok(url) => url.path().to_owned(),
            Err(_) if self.host.contains(':') => format!("[{}]:{}", self.host, self.port),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }

    /// Whether the URL names a socket and nothing else.
    pub(in crate::config) fn is_bare_socket(&self) -> bool {
        let url = self.url.expose_text();
        (url.starts_with("unix:") || url.starts_with("redis+unix:")) && !url.contains('?')
    }

    /// Whether the link is encrypted.
    pub(in crate::config) fn speaks_tls(&self) -> bool {
        self.tls || self.url.expose_text().starts_with("rediss:")
    }

    /// Understands the schemes of PHP's clients of Redis: `tls://` and `tcp://`, in a URL and before a host.
    pub(in crate::config) fn complete_scheme(&mut self) {
        for (theirs, ours) in [("tls://", "rediss://"), ("tcp://", "redis://")] {
            if let Some(rest) = self.url.expose_text().strip_prefix(theirs) {
                self.url = Secret::new(format!("{ours}{rest}"));
            }
            if let Some(rest) = self.host.strip_prefix(theirs) {
                self.host = rest.to_owned();
                self.tls |= theirs == "tls://";
            }
        }
    }

    /// Puts database, username and password into the URL of a socket that says none of them.
    pub(in crate::config) fn complete_socket(&mut self) {
        if !self.is_bare_socket() {
            return;
        }
        let mut query = form_urlencoded::Serializer::new(String::new());
        if !self.password.is_empty() {
            query.append_pair("pass", self.password.expose_text());
            if !self.username.is_empty() {
                query.append_pair("user", &self.username);
            }
        }
        if self.db != 0 {
            query.append_pair("db", &self.db.to_string());
        }
        let query = query.finish();
        if !query.is_empty() {
            self.url = Secret::new(format!("{}?{query}", self.url.expose_text()));
        }
    }

    pub(in crate::config) fn validate(&self, faults: &mut FaultList) {
        self.check_bounds("redis", faults);
        faults.add_if(
            !is_name(&self.host) && self.host.parse::<Ipv6Addr>().is_err(),
            "redis.host",
            "must be a host name or an address alone; a port belongs into redis.port, a URL into \
                 redis.url, and redis.tls switches TLS on",
        );
        if self.key_prefix.contains(|letter: char| letter.is_control() || "{}".contains(letter)) {
            let prefix = &self.key_prefix;
            faults.add(
                "redis.key_prefix",
                format!(
                    "is {prefix:?}; it must not hold control characters and {{ }}, with which gema itself \
                 keeps together in a Redis Cluster what belongs together"
                ),
            );
        }
        if self.sentinel_master.is_empty() || self.sentinel_master.contains(char::is_whitespace) {
            let master = &self.sentinel_master;
            faults.add(
                "redis.sentinel_master",
                format!(
                    "is {master:?}; it must be the name that follows `sentinel monitor` in the \
                 Sentinels' configuration"
                ),
            );
        }
        for (key, nodes) in [("sentinels", &self.sentinels), ("cluster_nodes", &self.cluster_nodes)] {
            // By its number, since somebody may have written a password into it.
            if let Some(index) = nodes.iter().position(|node| host_and_port(node).is_none()) {
                faults.add(
                    format!("redis.{key}"),
                    format!("must be HOST:PORT each, such as redis-1:6379; number {} is not", index + 1),
                );
            }
        }
        self.validate_url(faults);
        self.validate_together(faults);
    }

    /// The URL may hold a password, so nothing of it is repeated.
    fn validate_url(&self, faults: &mut FaultList) {
        if self.url.is_empty() {
            return;
        }
        if let Some(must) = url_must(self.url.expose_text()) {
            faults.add("redis.url", format!("must {must}"));
        } else if self.tls && !self.url.expose_text().starts_with("rediss:") {
            faults.add("redis.tls", "is true, but redis.url is without TLS; let the URL begin with rediss://");
        }
    }

    /// There is one Redis, found in one way.
    fn validate_together(&self, faults: &mut FaultList) {
        let ways = [
            ("redis.url", !self.url.is_empty()),
            ("redis.sentinels", !self.sentinels.is_empty()),
            ("redis.cluster_nodes", !self.cluster_nodes.is_empty()),
        ];
        let mut set = ways.iter().filter(|(_, set)| *set);
        if let (Some((one, _)), Some((other, _))) = (set.next(), set.next()) {
            faults.add(*one, format!("cannot stand beside {other}; leave one of them out"));
        }
        faults.add_if(
            self.db != 0 && !self.cluster_nodes.is_empty(),
            "redis.db",
            format!("is {}, but a Redis Cluster has database 0 only; leave it out", self.db),
        );
    }
}

/// The rule that a URL breaks.
fn url_must(url: &str) -> Option<&'static str> {
    if url.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Some("not hold white space; remove it, the end of the line included");
    }
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    match scheme {
        "redis" | "rediss" => {
            let (place, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
            let has_port = !place.ends_with(']') && place.contains(':');
            let place = if has_port { place.to_owned() } else { format!("{place}:6379") };
            let db = path.split(['?', '#']).next().unwrap_or_default().trim_matches('/');
            if host_and_port(&place).is_none() {
                return Some(
                    "name a host, and a port from 1 to 65535 if any, such as redis://:PASSWORD@HOST:6379/0; within a \
                     password / ? # @ : are written as %2F %3F %23 %40 %3A",
                );
            }
            let is_number = db.is_empty() || db.parse::<i32>().is_ok_and(|db| db >= 0);
            (!is_number).then_some("have the number of a database behind the host, such as redis://HOST:6379/0")
        }
        "unix" | "redis+unix" => {
            let names_file = rest.starts_with('/') && !rest.starts_with("/?") && rest.len() > 1;
            (!names_file).then_some("name the absolute path of a socket, such as unix:///run/redis.sock")
        }
        _ => Some("begin with redis://, rediss:// (for TLS), unix:// or redis+unix://"),
    }
}

/// Whether `text` is a host's name or an IPv4 address.
pub(in crate::config) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|letter| letter.is_alphanumeric() || "-._".contains(letter))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::config::fault::sentences;

    use super::*;

    fn faults(change: impl FnOnce(&mut Redis)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config.redis);
        sentences(&config.validate())
    }

    fn url_faults(url: &str) -> Vec<String> {
        faults(|redis| redis.url = Secret::new(url))
    }

    #[test]
    fn urls_that_redis_understands_are_taken() {
        for url in [
            "redis://redis",
            "redis://redis:6380",
            "redis://:p%40ss@redis:6380/3",
            "rediss://user:pass@[::1]:6380/0?protocol=resp3",
            "redis://[::1]",
            "redis://10.0.0.1/",
            "unix:///run/redis.sock",
            "redis+unix:///run/redis.sock?db=1",
        ] {
            assert_eq!(url_faults(url), [""; 0], "{url}");
        }
    }

    #[test]
    fn a_wrong_url_is_told_without_showing_it() {
        for (url, must) in [
            ("hush", "begin with redis://"),
            ("http://hush", "begin with redis://"),
            ("tcp://:hush@redis", "begin with redis://"),
            ("redis://", "name a host"),
            ("redis://:hush@", "name a host"),
            ("redis://:hu/sh@redis", "name a host"),
            ("redis://:hush@redis:0", "name a host"),
            ("redis://:hush@redis:70000", "name a host"),
            ("redis://:hush@redis/x", "have the number of a database"),
            ("redis://:hush@redis/-1", "have the number of a database"),
            ("redis://:hush@redis\n", "not hold white space"),
            ("unix://hush", "name the absolute path"),
            ("redis+unix:///?pass=hush", "name the absolute path"),
        ] {
            let found = url_faults(url);
            assert_eq!(found.len(), 1, "{url}");
            assert!(found[0].starts_with(&format!("redis.url must {must}")), "{url}: {found:?}");
            assert!(!found[0].contains("hush"), "{found:?}");
        }
    }

    #[test]
    fn a_host_is_a_host_alone() {
        for host in ["redis_1.example", "10.0.0.1", "::1"] {
            assert_eq!(faults(|redis| redis.host = host.to_owned()), [""; 0], "{host}");
        }
        for host in ["", "tls://redis", "redis:6379", "user:hush@redis", "re dis", "[::1]", "/run/redis.sock"] {
            let found = faults(|redis| redis.host = host.to_owned());
            assert_eq!(found.len(), 1, "{host}");
            assert!(found[0].starts_with("redis.host must be ") && !found[0].contains("hush"), "{found:?}");
        }
    }

    #[test]
    fn ports_databases_and_names_have_bounds() {
        let found = faults(|redis| {
            redis.port = 0;
            redis.db = -1;
            redis.key_prefix = "{a}".to_owned();
            redis.sentinel_master = String::new();
        });
        let keys: Vec<&str> = found.iter().filter_map(|fault| fault.split(' ').next()).collect();
        assert_eq!(keys, ["redis.port", "redis.db", "redis.key_prefix", "redis.sentinel_master"]);
        assert_eq!(found[0], "redis.port is 0; it must be between 1 and 65535");
    }

    #[test]
    fn nodes_are_hosts_with_ports() {
        let list = |nodes: &[&str]| nodes.iter().map(|&node| node.to_owned()).collect::<Vec<_>>();
        assert_eq!(faults(|redis| redis.sentinels = list(&["a:1", "[::1]:26379"])), [""; 0]);
        for node in ["a", "a:", ":1", "a:0", "a:x", "a:+1", "a:70000", "::1:6379", "[a]:1", "redis://a:1", "u:hush@a:1"]
        {
            let found = faults(|redis| redis.cluster_nodes = list(&["b:1", node]));
            assert_eq!(
                found,
                ["redis.cluster_nodes must be HOST:PORT each, such as redis-1:6379; number 2 is not"],
                "{node}"
            );
        }
    }

    #[test]
    fn there_is_one_way_to_redis() {
        let (url, node) = (Secret::new("redis://a"), vec!["a:1".to_owned()]);
        let found = faults(|redis| (redis.url, redis.sentinels) = (url.clone(), node.clone()));
        assert_eq!(found, ["redis.url cannot stand beside redis.sentinels; leave one of them out"]);
        let found = faults(|redis| (redis.url, redis.cluster_nodes) = (url.clone(), node.clone()));
        assert_eq!(found, ["redis.url cannot stand beside redis.cluster_nodes; leave one of them out"]);
        let found = faults(|redis| (redis.sentinels, redis.cluster_nodes) = (node.clone(), node.clone()));
        assert_eq!(found, ["redis.sentinels cannot stand beside redis.cluster_nodes; leave one of them out"]);
        let found = faults(|redis| (redis.db, redis.cluster_nodes) = (2, node.clone()));
        assert_eq!(found, ["redis.db is 2, but a Redis Cluster has database 0 only; leave it out"]);
        let found = faults(|redis| (redis.url, redis.tls) = (url.clone(), true));
        assert_eq!(found, ["redis.tls is true, but redis.url is without TLS; let the URL begin with rediss://"]);
        assert_eq!(faults(|redis| (redis.url, redis.tls) = (Secret::new("rediss://a"), true)), [""; 0]);
    }
}
