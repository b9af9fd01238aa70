//! The apps of the static list, under Soketi's names in camelCase or snake_case.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::flow::rule::FlowRule;
use crate::flow::rules::FlowRules;
use crate::history::rule::HistoryRule;
use crate::protocol::policy::{ChannelRule, Decision, Policy};

use crate::config::Webhook;
use crate::config::fault::FaultList;
use crate::config::settings::allowed_origins;
use crate::config::settings::raw_clients::RawClients;
use crate::config::settings::section;
use crate::config::settings::values::{DAY, Seconds, Secret};
use crate::config::settings::webhooks;
use crate::config::suggest;

/// Defines [`Limits`], and beside its identity the same fields for [`AppEntry`], which may leave each out.
macro_rules! limits {
    ($( $(#[$about:meta])* pub $field:ident: $type:ty = $default:expr $(=> $bounds:expr)?, )*) => {
        section! {
            /// The limits of all apps that have none of their own; Soketi's defaults where it has one.
            pub struct Limits { $( $(#[$about])* pub $field: $type = $default $(=> $bounds)?, )* }
        }

        /// One app as configured: limits that it leaves out come from `[limits]`.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct AppEntry {
            /// Part of the path of API requests.
            pub id: String,
            /// Part of the path of WebSocket connections.
            pub key: String,
            /// Signs channels, users and API requests.
            pub secret: Secret,
            /// Further key and secret pairs, for changing them without a gap.
            #[serde(default)]
            pub keys: Vec<KeyPair>,
            /// A disabled app refuses connections (4003) and API requests (403).
            #[serde(default = "yes")]
            pub enabled: bool,
            /// Where its events go.
            #[serde(default)]
            pub webhooks: Vec<Webhook>,
            $( $(#[$about])* pub $field: Option<$type>, )*
        }

        impl AppEntry {
            /// An app with nothing but its identity.
            pub fn new(id: &str, key: &str, secret: &str) -> Self {
                Self {
                    id: id.to_owned(),
                    key: key.to_owned(),
                    secret: Secret::new(secret),
                    keys: Vec::new(),
                    enabled: true,
                    webhooks: Vec::new(),
                    $( $field: None, )*
                }
            }

            fn limits(&self, limits: &Limits) -> Limits {
                Limits { $( $field: self.$field.clone().unwrap_or_else(|| limits.$field.clone()), )* }
            }
        }
    };
}

limits! {
    /// Whether clients may send events of their own.
    pub enable_client_messages: bool = false,
    /// Whether they may do so on public channels, as with Soketi.
    pub allow_public_client_events: bool = false,
    /// Connections must sign in or join a private or presence channel in time, else 4009.
    pub enable_user_authentication: bool = false,
    /// The time for that.
    pub user_authentication_timeout_seconds: Seconds = Seconds(30.0) => 0.001..=DAY,
    /// Whether subscribers hear how many they are.
    pub enable_subscription_count: bool = false,
    /// Whether signed-in users hear of the users on their watchlist.
    pub enable_watchlist: bool = true,
    /// Refuses connections that did not come over TLS (4000).
    pub require_tls: bool = false,
    /// Hosts that pages may connect from, such as `*.example.com`; `*` allows all, none included.
    pub allowed_origins: Vec<String> = vec!["*".to_owned()],
    /// Connections of the app; 0 or less for no limit.
    pub max_connections: i64 = -1,
    /// Events over the HTTP API, counted per channel; negative for no limit.
    pub max_backend_events_per_second: i64 = -1,
    /// Client events of one connection; negative for no limit.
    pub max_client_events_per_second: i64 = -1,
    /// GET requests to the HTTP API; negative for no limit.
    pub max_read_requests_per_second: i64 = -1,
    /// Distinct users of one presence channel.
    pub max_presence_members_per_channel: usize = 100,
    /// `user_info` of one member, in KiB.
    pub max_presence_member_size_in_kb: f64 = 2.0,
    /// `user_id` of one member, in characters.
    pub max_presence_user_id_length: usize = 128,
    /// Channel names, in characters.
    pub max_channel_name_length: usize = 200,
    /// Channels of one event.
    pub max_event_channels_at_once: usize = 100,
    /// Event names, in characters.
    pub max_event_name_length: usize = 200,
    /// `data` of one event, in KiB.
    pub max_event_payload_in_kb: f64 = 100.0,
    /// Events of one batch.
    pub max_event_batch_size: usize = 10,
    /// Users on one connection's watchlist.
    pub max_watchlist_size: usize = 100,
    /// How long a cache channel remembers its last event.
    // A year: what is kept longer belongs in a database.
    pub cache_ttl_seconds: Seconds = Seconds(3600.0) => 0.0..=31_536_000.0,
    /// Rules for channels by their names; the first rule that matches decides.
    pub channel_rules: Vec<ChannelRule> = Vec::new(),
    /// Whether channels that no rule matches may be used.
    pub channel_default: Decision = Decision::Allow,
    /// Rules for floods of events; the first rule that matches the channel and names the event decides.
    pub flow_rules: Vec<FlowRule> = Vec::new(),
    /// Rules for users that come back after a cut; the first rule that matches the channel decides.
    pub history_rules: Vec<HistoryRule> = Vec::new(),
    /// Memory for the events that an app's channels keep by these rules, in bytes.
    pub history_bytes_max: usize = 64 * 1024 * 1024 => 4096..=1024 * 1024 * 1024 * 1024,
    /// The channels of clients that do not speak Pusher's protocol.
    pub raw_clients: RawClients = RawClients::default(),
}

/// One more key of an app, with its secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyPair {
    /// Part of the path of WebSocket connections.
    pub key: String,
    /// Signs what names this key.
    pub secret: Secret,
}

/// An app with everything resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct App {
    /// Part of the path of API requests.
    pub id: String,
    /// Its keys with their secrets, the first one first; never empty.
    pub keys: Vec<KeyPair>,
    /// Whether it takes connections and requests.
    pub enabled: bool,
    /// Where its events go.
    pub webhooks: Vec<Webhook>,
    /// Its limits.
    pub limits: Limits,
}

impl App {
    /// Whether it works with Soketi's default secret.
    pub fn has_public_secret(&self) -> bool {
        let public = AppEntry::soketi_default().secret;
        self.enabled && self.keys.iter().any(|pair| pair.secret == public)
    }
}

impl AppEntry {
    /// The app that Soketi serves when none is configured.
    pub fn soketi_default() -> Self {
        Self::new("app-id", "app-key", "app-secret")
    }

    /// The name of a field that may be in camelCase, or as in one of Soketi's databases.
    pub(in crate::config) fn field(name: &str) -> String {
        let name = suggest::snake_case(name);
        match name.as_str() {
            // As in DynamoDB, and as in other servers' files.
            "app_id" | "app_key" | "app_secret" => name.replacen("app_", "", 1),
            "max_connections_per_app" => "max_connections".to_owned(),
            "max_read_req_per_sec" => "max_read_requests_per_second".to_owned(),
            "max_backend_events_per_sec" | "max_client_events_per_sec" => format!("{name}ond"),
            _ => name,
        }
    }

    /// The app, with `limits` in place of those that it leaves out.
    pub fn resolve(&self, limits: &Limits) -> App {
        let first = KeyPair { key: self.key.clone(), secret: self.secret.clone() };
        App {
            id: self.id.clone(),
            keys: std::iter::once(first).chain(self.keys.iter().cloned()).collect(),
            enabled: self.enabled,
            webhooks: self.webhooks.clone(),
            limits: self.limits(limits),
        }
    }
}

impl Limits {
    /// `data` of one event, in bytes.
    pub fn event_bytes_max(&self) -> usize {
        kib(self.max_event_payload_in_kb)
    }

    /// The rules for channels.
    pub fn policy(&self) -> Policy<'_> {
        Policy { rules: &self.channel_rules, default: self.channel_default }
    }

    /// Why raw clients could not join or stay under these limits, if so.
    pub(in crate::config) fn raw_conflict(&self) -> Option<String> {
        let flow_rules = FlowRules::new(&self.flow_rules);
        let ruled =
            |name: &str| flow_rules.view(name).map_or_else(|| name.to_owned(), |(channel, _)| channel.to_owned());
        self.raw_clients.conflict(self.max_channel_name_length, self.policy(), ruled, self.enable_user_authentication)
    }

    /// `user_info` of one member, in bytes.
    pub fn member_bytes_max(&self) -> usize {
        kib(self.max_presence_member_size_in_kb)
    }

    pub(in crate::config) fn validate(&self, faults: &mut FaultList) {
        self.validate_under("limits", faults);
    }

    fn validate_under(&self, place: &str, faults: &mut FaultList) {
        self.check_bounds(place, faults);
        for (name, value) in [
            ("max_channel_name_length", self.max_channel_name_length),
            ("max_event_channels_at_once", self.max_event_channels_at_once),
            ("max_event_name_length", self.max_event_name_length),
            ("max_event_batch_size", self.max_event_batch_size),
            ("max_presence_user_id_length", self.max_presence_user_id_length),
        ] {
            faults.add_if(value == 0, format!("{place}.{name}"), "must be at least 1");
        }
        for (name, value) in [
            ("max_event_payload_in_kb", self.max_event_payload_in_kb),
            ("max_presence_member_size_in_kb", self.max_presence_member_size_in_kb),
        ] {
            faults.add_if(
                !(value > 0.0 && value <= 102_400.0),
                format!("{place}.{name}"),
                format!("is {value}; it must be more than 0 and at most 102400"),
            );
        }
        self.raw_clients.validate(place, faults);
        faults.0.extend(self.allowed_origins.iter().filter_map(|origin| allowed_origins::fault(place, origin)));
    }
}

/// Adds a fault for each app that lacks an identity or shares one with another.
pub(in crate::config) fn validate(apps: &[AppEntry], faults: &mut FaultList) {
    let (mut ids, mut keys) = (HashSet::new(), HashSet::new());
    for (index, app) in apps.iter().enumerate() {
        validate_app(&format!("apps.{index}"), app, (&mut ids, &mut keys), faults);
    }
}

/// Adds what is wrong with an app, whatever others there are.
pub(in crate::config) fn validate_alone(place: &str, app: &AppEntry, faults: &mut FaultList) {
    validate_app(place, app, (&mut HashSet::new(), &mut HashSet::new()), faults);
}

type Names<'a, 'b> = &'b mut HashSet<&'a str>;

fn validate_app<'a>(
    place: &str,
    app: &'a AppEntry,
    (ids, keys): (Names<'a, '_>, Names<'a, '_>),
    faults: &mut FaultList,
) {
    part_of_path(&format!("{place}.id"), &app.id, ids, faults);
    credentials(place, &app.key, &app.secret, keys, faults);
    for (index, pair) in app.keys.iter().enumerate() {
        credentials(&format!("{place}.keys.{index}"), &pair.key, &pair.secret, keys, faults);
    }
    webhooks::validate(place, &app.webhooks, faults);
    app.resolve(&Limits::default()).limits.validate_under(place, faults);
}

fn credentials<'a>(place: &str, key: &'a str, secret: &Secret, keys: &mut HashSet<&'a str>, faults: &mut FaultList) {
    let place_of_key = format!("{place}.key");
    faults.add_if(
        key.contains(':'),
        &*place_of_key,
        format!("is {key:?}; clients send it with a signature behind the first colon, so choose a key without one"),
    );
    part_of_path(&place_of_key, key, keys, faults);
    faults.add_if(
        secret.expose().is_empty(),
        format!("{place}.secret"),
        "is missing; without a secret anybody could publish",
    );
}

/// Adds a fault unless `text` is only there once and can stand in a path as it is.
fn part_of_path<'a>(place: &str, text: &'a str, others: &mut HashSet<&'a str>, faults: &mut FaultList) {
    if text.is_empty() {
        faults.add(place, "is missing; every app needs one");
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/\\?#%".contains(&byte)) {
        faults.add(
            place,
            format!("is {text:?}; it is part of a path, so it must not hold spaces, / \\ ? # % or accents"),
        );
    } else if matches!(text, "." | "..") {
        faults.add(place, format!("is {text:?}; it is part of a path, in which that is a folder, so choose another"));
    } else if !others.insert(text) {
        faults.add(place, format!("is {text:?}, which is used twice; each must differ"));
    }
}

fn kib(value: f64) -> usize {
    (value * 1024.0) as usize
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fault::sentences;

    fn faults(apps: &[AppEntry]) -> Vec<String> {
        let mut faults = FaultList::default();
        validate(apps, &mut faults);
        sentences(&faults.0)
    }

    #[test]
    fn an_app_takes_from_the_limits_what_it_does_not_say() {
        let limits = Limits { max_connections: 7, enable_client_messages: true, ..Limits::default() };
        let entry = AppEntry { enable_client_messages: Some(false), ..AppEntry::new("id", "key", "secret") };
        let app = entry.resolve(&limits);
        assert_eq!(app.limits.max_connections, 7);
        assert!(!app.limits.enable_client_messages);
    }

    #[test]
    fn the_first_key_comes_before_further_keys() {
        let further = KeyPair { key: "new".to_owned(), secret: Secret::new("s") };
        let entry = AppEntry { keys: vec![further], ..AppEntry::new("id", "old", "secret") };
        let keys: Vec<String> = entry.resolve(&Limits::default()).keys.into_iter().map(|pair| pair.key).collect();
        assert_eq!(keys, ["old", "new"]);
    }

    #[test]
    fn ids_and_keys_must_differ() {
        let found = faults(&[AppEntry::new("a", "k", "s"), AppEntry::new("a", "k", "s")]);
        assert_eq!(
            found,
            [
                "apps.1.id is \"a\", which is used twice; each must differ",
                "apps.1.key is \"k\", which is used twice; each must differ",
            ]
        );
    }

    #[test]
    fn an_app_without_a_secret_is_refused() {
        assert_eq!(
            faults(&[AppEntry::new("a", "k", "")]),
            ["apps.0.secret is missing; without a secret anybody could publish"]
        );
    }

    #[test]
    fn a_key_that_no_path_can_hold_is_refused() {
        for key in ["a/b", "a b", "a\n", "caf\u{e9}"] {
            assert_eq!(faults(&[AppEntry::new("a", key, "s")]).len(), 1, "{key:?}");
        }
    }

    #[test]
    fn every_spelling_of_a_field_has_one_name() {
        assert_eq!(AppEntry::field("maxReadRequestsPerSecond"), "max_read_requests_per_second");
        assert_eq!(AppEntry::field("max_read_req_per_sec"), "max_read_requests_per_second");
        assert_eq!(AppEntry::field("max_client_events_per_sec"), "max_client_events_per_second");
    }
}
