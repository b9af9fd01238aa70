//! Where NATS is, and the credentials for it.

use crate::config::fault::FaultList;
use crate::config::settings::redis::host_and_port;
use crate::config::settings::section;
use crate::config::settings::values::{Seconds, Secret};

/// The port of a server that names none.
const PORT: u16 = 4222;

section! {
    /// Where NATS is, and how it lets us in.
    pub struct Nats {
        /// Servers of one NATS as `host:port`, `nats://host:port` or `tls://host:port`; any of them will do.
        pub servers: Vec<String> = vec!["127.0.0.1:4222".to_owned()],
        /// Name of the account's user; empty for none.
        pub user: String = String::new(),
        /// The user's password.
        pub password: Secret = Secret::new(""),
        /// A token in place of user and password; empty for none.
        pub token: Secret = Secret::new(""),
        /// Put before the names of all subjects and buckets; empty for none.
        pub prefix: String = String::new(),
        /// Whether to speak TLS, with the system's certificate authorities; `tls://` says so, too.
        pub tls: bool = false,
        /// Whether a server must show a certificate of an authority that the system trusts, for its name.
        pub tls_verify: bool = true,
        /// How long connecting may take.
        // A link that takes minutes to make is none.
        pub connect_seconds: Seconds = Seconds(10.0) => 0.1..=300.0,
        /// Copies of each JetStream bucket in a NATS cluster.
        // JetStream itself takes five at most.
        pub replicas: usize = 1 => 1..=5,
    }
}

impl Nats {
    /// Where it is looked for, for the log: without anything that may be a password.
    ///
    /// ```
    /// use gema::config::Nats;
    ///
    /// let at = |server: &str| Nats { servers: vec![server.to_owned(), "b:1".to_owned()], ..Nats::default() }.place();
    /// assert_eq!(at("tls://nats-1:4223"), "nats-1:4223, b:1");
    /// assert_eq!(at("nats-1"), "nats-1:4222, b:1");
    /// ```
    pub fn place(&self) -> String {
        self.places().collect::<Vec<_>>().join(", ")
    }

    /// The servers as URLs, all with TLS if one of them needs it.
    ///
    /// ```
    /// use gema::config::Nats;
    ///
    /// let mut nats = Nats { servers: vec!["nats-1".to_owned(), "nats://[::1]:1".to_owned()], ..Nats::default() };
    /// assert_eq!(nats.urls(), ["nats://nats-1:4222", "nats://[::1]:1"]);
    /// nats.tls = true;
    /// assert_eq!(nats.urls(), ["tls://nats-1:4222", "tls://[::1]:1"]);
    /// ```
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.speaks_tls() { "tls" } else { "nats" };
        self.places().map(|place| format!("{scheme}://{place}")).collect()
    }

    /// Whether the link is encrypted.
    pub fn speaks_tls(&self) -> bool {
        self.tls || self.servers.iter().any(|server| server.starts_with("tls://"))
    }

    /// The servers, each `HOST:PORT`.
    pub fn places(&self) -> impl Iterator<Item = String> {
        self.servers.iter().filter_map(|server| host_with_port(server))
    }

    pub(in crate::config) fn validate(&self, faults: &mut FaultList) {
        self.check_bounds("nats", faults);
        faults.add_if(self.servers.is_empty(), "nats.servers", "is empty; name a server, such as nats-1:4222");
        // By its number, since somebody may have written a password into it.
        if let Some(index) = self.servers.iter().position(|server| host_with_port(server).is_none()) {
            let text = format!(
                "must be HOST:PORT each, such as nats-1:4222, nats://nats-1:4222 or tls://nats-1:4222; number {} is \
                 not. User and password belong into nats.user and nats.password",
                index + 1
            );
            faults.add("nats.servers", text);
        }
        let other = if self.user.is_empty() { "nats.password" } else { "nats.user" };
        let has_other = !self.user.is_empty() || !self.password.is_empty();
        let text = format!("cannot stand beside {other}; leave one of them out");
        faults.add_if(!self.token.is_empty() && has_other, "nats.token", text);
        faults.add_if(
            self.user.contains(char::is_control),
            "nats.user",
            format!("is {:?}; it must be a name, without control characters", self.user),
        );
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
        faults.add_if(
            self.prefix.len() > 64 || !self.prefix.chars().all(is_plain),
            "nats.prefix",
            format!("is {:?}; it must have at most 64 characters: letters, digits, - and _", self.prefix),
        );
    }
}

/// The host and the port of an entry of `servers`, as a URL has them; none if it is something else.
fn host_with_port(server: &str) -> Option<String> {
    let place = server.strip_prefix("nats://").or_else(|| server.strip_prefix("tls://")).unwrap_or(server);
    let place = place.strip_suffix('/').unwrap_or(place);
    let has_port = !place.ends_with(']') && place.contains(':');
    let place = if has_port { place.to_owned() } else { format!("{place}:{PORT}") };
    host_and_port(&place).is_some().then_some(place)
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::config::fault::sentences;

    use super::*;

    fn faults(change: impl FnOnce(&mut Nats)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config.nats);
        sentences(&config.validate())
    }

    #[test]
    fn servers_are_hosts_with_or_without_ports_and_hold_no_password() {
        for server in ["nats", "nats:4222", "10.0.0.1:4222", "nats://nats_1.example", "tls://[::1]:4223/", "[::1]"] {
            assert_eq!(faults(|nats| nats.servers = vec![server.to_owned()]), [""; 0], "{server}");
        }
        for server in
            ["", "nats:", "nats:0", "nats://", "u:hush@nats:1", "nats://u:hush@nats", "ws://nats", "::1", "a/b"]
        {
            let found = faults(|nats| nats.servers = vec!["b:1".to_owned(), server.to_owned()]);
            assert_eq!(found.len(), 1, "{server}");
            assert!(found[0].starts_with("nats.servers must be HOST:PORT each"), "{found:?}");
            assert!(found[0].contains("; number 2 is not.") && !found[0].contains("hush"), "{found:?}");
        }
        assert!(faults(|nats| nats.servers.clear())[0].starts_with("nats.servers is empty"));
    }

    #[test]
    fn one_server_with_tls_encrypts_the_way_to_all() {
        let servers = vec!["a:1".to_owned(), "tls://b:2".to_owned()];
        let nats = Nats { servers, ..Nats::default() };
        assert_eq!(nats.urls(), ["tls://a:1", "tls://b:2"]);
    }

    #[test]
    fn a_token_stands_alone() {
        let token = Secret::new("hush");
        assert_eq!(faults(|nats| nats.token = token.clone()), [""; 0]);
        let found = faults(|nats| (nats.token, nats.user) = (token.clone(), "gema".to_owned()));
        assert_eq!(found, ["nats.token cannot stand beside nats.user; leave one of them out"]);
        let found = faults(|nats| (nats.token, nats.password) = (token.clone(), token.clone()));
        assert_eq!(found, ["nats.token cannot stand beside nats.password; leave one of them out"]);
    }

    #[test]
    fn times_copies_and_names_have_bounds() {
        let found = faults(|nats| {
            nats.connect_seconds = Seconds(0.0);
            nats.replicas = 6;
            nats.user = "a\0".to_owned();
            nats.prefix = "a.b".to_owned();
        });
        assert_eq!(
            found,
            [
                "nats.connect_seconds is 0; it must be between 0.1 and 300 seconds",
                "nats.replicas is 6; it must be between 1 and 5",
                "nats.user is \"a\\0\"; it must be a name, without control characters",
                "nats.prefix is \"a.b\"; it must have at most 64 characters: letters, digits, - and _",
            ]
        );
        assert_eq!(faults(|nats| nats.prefix = "shop_eu-1".to_owned()), [""; 0]);
    }
}
