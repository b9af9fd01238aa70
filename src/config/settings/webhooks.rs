//! Webhooks: which events go to which URLs, and how often a request is repeated.

mod read;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

pub(in crate::config) use read::{Written, items, read};

use crate::config::fault::{Fault, FaultList};
use crate::config::settings::aws::Function;
use crate::config::settings::is_token;
use crate::config::settings::section;
use crate::config::settings::values::{Seconds, Secret};
use crate::protocol::webhook::{KEY_HEADER, Kind, SIGNATURE_HEADER};

section! {
    /// How webhooks are sent.
    pub struct Webhooks {
        /// Where events wait for their endpoints.
        pub driver: WebhooksDriver = WebhooksDriver::Local,
        /// Whether events go out together; otherwise each has a request of its own.
        pub batch: bool = true,
        /// How long events are gathered.
        pub batch_seconds: Seconds = Seconds(0.05) => 0.0..=60.0,
        /// Events of one request.
        pub batch_events_max: usize = 100 => 1..=1000,
        /// How long `channel_vacated` and `member_removed` wait for a return; 0 sends them at once, as Soketi does.
        pub leave_delay_seconds: Seconds = Seconds(3.0) => 0.0..=60.0,
        /// How long further misses of a cache channel are the same miss.
        pub cache_miss_seconds: Seconds = Seconds(10.0) => 0.0..=3600.0,
        /// Time for one request with its answer.
        pub timeout_seconds: Seconds = Seconds(10.0) => 0.1..=300.0,
        /// How long a request is repeated.
        // Libraries that check refuse older events.
        pub retry_seconds: Seconds = Seconds(300.0) => 0.0..=300.0,
        /// Events that may wait for one endpoint, in bytes. Beyond it the oldest are dropped.
        pub queue_bytes_max: usize = 8 * 1024 * 1024 => 64 * 1024..=1024 * 1024 * 1024,
        /// Events that may wait in Redis for one endpoint. Beyond it the oldest are dropped.
        // From some events of the largest kind to what a small machine can spare.
        pub queue_events_max: usize = 100_000 => 100..=100_000_000,
        /// Memory of Redis that these may take up. Beyond it the oldest are dropped.
        pub stored_bytes_max: usize = 64 * 1024 * 1024 => 64 * 1024..=1024 * 1024 * 1024 * 1024,
        /// Whether endpoints may be in the own network; otherwise requests go to public addresses only.
        pub allow_private_addresses: bool = true,
    }
}

/// Where events wait for their endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhooksDriver {
    /// In the memory of this node. Soketi calls it `sync`.
    #[default]
    #[serde(alias = "sync")]
    Local,
    /// In Redis, which `[redis]` describes.
    Redis,
    /// In SQS, which `[sqs]` describes. Only in builds with the feature `aws`.
    Sqs,
}

/// One endpoint of an app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// `http://` or `https://`. May hold a token. Empty for a function.
    pub url: Secret,
    /// A function of AWS Lambda in place of a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda: Option<Function>,
    /// The events that are sent; none if empty.
    pub event_types: Vec<Kind>,
    /// The channels that it hears of.
    #[serde(default)]
    pub filter: ChannelFilter,
    /// Further request headers. May hold a token.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
}

/// Chooses channels by name; both must hold, and empty always does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelFilter {
    /// The beginning of the name.
    pub channel_name_starts_with: String,
    /// The end of the name.
    pub channel_name_ends_with: String,
}

impl ChannelFilter {
    /// Whether the channel is chosen.
    pub fn matches(&self, channel: &str) -> bool {
        channel.starts_with(&self.channel_name_starts_with) && channel.ends_with(&self.channel_name_ends_with)
    }
}

/// Headers that make a webhook what it is, or the request what it is; nobody else sets them.
const OWN_HEADERS: [&str; 7] =
    ["content-type", KEY_HEADER, SIGNATURE_HEADER, "host", "content-length", "transfer-encoding", "connection"];

const FIELDS: [&str; 4] = ["url", "event_types", "filter", "headers"];

const ALL_KINDS: [Kind; 7] = [
    Kind::ChannelOccupied,
    Kind::ChannelVacated,
    Kind::MemberAdded,
    Kind::MemberRemoved,
    Kind::ClientEvent,
    Kind::CacheMiss,
    Kind::SubscriptionCount,
];

/// A webhook that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Host and port, or the function, as far as it names one: the rest of the URL may hold a token.
    pub endpoint: String,
    /// A sentence that begins with the place.
    pub why: String,
}

impl LeftOut {
    /// Of the webhook that is written so.
    pub(in crate::config) fn new(item: &Json, why: String) -> Self {
        let url =
            ["url", "URL"].iter().find_map(|name| item.get(name)?.as_str()).and_then(|url| Url::parse(url.trim()).ok());
        let function = item.get("lambda_function").and_then(Json::as_str).unwrap_or_default();
        let host = url.as_ref().and_then(Url::host_str).unwrap_or(function);
        let port = url.as_ref().and_then(Url::port).map(|port| format!(":{port}")).unwrap_or_default();
        Self { endpoint: format!("{host}{port}"), why }
    }
}

impl Webhook {
    /// The headers that the operator may set.
    pub fn further_headers(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.headers.iter().map(|(name, value)| (&**name, value)).filter(|(name, _)| !is_own(name))
    }

    /// The URL, or the function with its region: no other webhook of the app has it, as a rule.
    pub fn identity(&self) -> Cow<'_, str> {
        match &self.lambda {
            Some(function) => format!("lambda:{}:{}", function.region, function.name).into(),
            None => self.url.expose_text().into(),
        }
    }

    /// Adds a fault for each thing that no request can have.
    pub(in crate::config) fn validate(&self, place: &str, faults: &mut FaultList) {
        match &self.lambda {
            Some(function) => function.validate(place, faults),
            None => self.validate_url(place, faults),
        }
        for (name, value) in &self.headers {
            faults.add_if(
                !is_token(name),
                format!("{place}.headers"),
                format!("has {name:?}; a name has only letters, digits and - between"),
            );
            faults.add_if(
                !value.expose().iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')),
                format!("{place}.headers.{name}"),
                "must be printable ASCII text on one line",
            );
        }
    }

    fn validate_url(&self, place: &str, faults: &mut FaultList) {
        let url = self.url.expose_text();
        let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let plausible = |host: &str| {
            !host.is_empty()
                && !host.starts_with(['/', '?', '#', ':'])
                && url.bytes().all(|byte| byte.is_ascii_graphic())
                && Url::parse(url).is_ok_and(|url| url.port() != Some(0))
        };
        // It may hold a token, so nothing of it is repeated.
        faults.add_if(
            !host.is_some_and(plausible),
            format!("{place}.url"),
            "must be a whole URL, such as https://example.com/webhooks, without white space and accents, \
                 with a host and a port that there can be",
        );
    }
}

fn is_own(header: &str) -> bool {
    OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(header))
}

/// Adds a fault for each webhook of an app that cannot be sent.
pub(in crate::config) fn validate(place: &str, webhooks: &[Webhook], faults: &mut FaultList) {
    for (index, webhook) in webhooks.iter().enumerate() {
        webhook.validate(&format!("{place}.webhooks.{index}"), faults);
    }
}

/// About headers that the webhooks of an app set without effect.
pub(in crate::config) fn warnings(app_id: &str, webhooks: &[Webhook]) -> Vec<Fault> {
    let headers = webhooks.iter().flat_map(|webhook| webhook.headers.keys()).filter(|name| is_own(name));
    headers
        .map(|name| {
            let text = format!("sets {name} of its webhooks without effect; gema sets it itself");
            Fault::new(format!("app {app_id:?}"), text)
        })
        .collect()
}

impl Webhooks {
    /// Events of one request.
    pub fn request_events_max(&self) -> usize {
        if self.batch { self.batch_events_max } else { 1 }
    }

    /// How long events are gathered for one request.
    pub fn gather_time(&self) -> Duration {
        if self.batch { self.batch_seconds.duration() } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fault::sentences;

    fn webhook(url: &str, headers: BTreeMap<String, Secret>) -> Webhook {
        let (url, filter) = (Secret::new(url), ChannelFilter::default());
        Webhook { url, lambda: None, event_types: vec![], filter, headers }
    }

    #[test]
    fn a_url_or_header_that_no_request_can_have_is_refused_and_not_shown() {
        for url in ["", "hush", "ftp://hush", "https://", "http:///hush", "http://a b/hush", "http://hush:99999/"] {
            let headers = BTreeMap::from([("x y".to_owned(), Secret::new("a\nhush"))]);
            let webhook = webhook(url, headers);
            let mut faults = FaultList::default();
            validate("apps.0", &[webhook], &mut faults);
            assert!(faults.0.len() == 3 && !sentences(&faults.0).concat().contains("hush"), "{faults:?}");
        }
    }

    #[test]
    fn what_makes_a_webhook_is_not_replaced() {
        let headers = ["X-Custom", "Content-type", "x-pusher-key", "X-PUSHER-SIGNATURE", "Host"];
        let headers = headers.map(|name| (name.to_owned(), Secret::new("v"))).into();
        let webhook = webhook("", headers);
        assert_eq!(webhook.further_headers().map(|(name, _)| name).collect::<Vec<_>>(), ["X-Custom"]);
        assert_eq!(warnings("a", &[webhook]).len(), 4);
    }
}
