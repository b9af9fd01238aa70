//! The rules of an app at one moment: its settings, with what is derived from them.
//! A request of the API loads them once and uses them to its end, so that a reload never mixes two versions.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::config;
use crate::flow::rules::Choice;
use crate::flow::rules::FlowRules;
use crate::flow::rules::choose;
use crate::history::rule::HistoryRules;
use crate::limiter::Allowance;
use crate::limiter::TooFast;
use crate::limiter::shared::Rates;
use crate::node::rate::Rate;
use crate::node::rate::SharedRate;
use crate::protocol::channel::ChannelName;
use crate::protocol::connect::ConnectRequest;
use crate::protocol::grant::Keys;
use crate::protocol::grant::SubscribeLimits;
use crate::protocol::identity::MemberLimits;
use crate::protocol::policy::PolicyError;
use crate::protocol::publish::PublishLimits;
use crate::protocol::view::ViewLimits;
use crate::registry::JoinRules;

/// The rules of an app. A reload replaces them as a whole.
#[derive(Debug)]
pub struct Rules {
    /// The settings.
    pub settings: Arc<config::App>,
    /// The keys, ready to check signatures.
    pub keys: Keys,
    /// The app is no longer configured.
    pub(super) is_removed: bool,
    flow: FlowRules,
    history: HistoryRules,
    backend_events: Option<Rate>,
    read_requests: Option<Rate>,
}

impl Rules {
    pub(super) fn new(settings: Arc<config::App>, rates: Option<&Arc<Rates>>) -> Self {
        let rate = |per_second, kind| {
            let shared = rates.map(|rates| SharedRate::new(Arc::clone(rates), &settings.id, kind));
            Rate::new(per_second, shared)
        };
        Self {
            keys: Keys::new(settings.keys.iter().map(|pair| (&*pair.key, pair.secret.expose()))),
            is_removed: false,
            flow: FlowRules::new(&settings.limits.flow_rules),
            history: HistoryRules::new(&settings.limits.history_rules),
            backend_events: rate(settings.limits.max_backend_events_per_second, "backend_events"),
            read_requests: rate(settings.limits.max_read_requests_per_second, "read_requests"),
            settings,
        }
    }

    /// The rules of the same app when it is no longer configured.
    pub(super) fn removed(&self, rates: Option<&Arc<Rates>>) -> Self {
        let settings = Arc::new(config::App { enabled: false, ..config::App::clone(&self.settings) });
        Self { is_removed: true, ..Self::new(settings, rates) }
    }

    /// The limits of the app.
    pub fn limits(&self) -> &config::Limits {
        &self.settings.limits
    }

    /// The flow rules.
    pub(super) fn flow(&self) -> &FlowRules {
        &self.flow
    }

    /// The history rules.
    pub(super) fn history(&self) -> &HistoryRules {
        &self.history
    }

    /// The channel whose rules hold for `channel`: itself, or the one of which it is a view.
    pub fn ruled<'a>(&self, channel: &'a ChannelName) -> Cow<'a, ChannelName> {
        let viewed = || ChannelName::parse(self.flow.view(channel.as_str())?.0, usize::MAX).ok();
        viewed().map_or(Cow::Borrowed(channel), Cow::Owned)
    }

    /// Whether a client is raw: it names no protocol, and the app takes such clients.
    pub(super) fn may_be_raw(&self, request: &ConnectRequest) -> bool {
        request.may_be_raw() && self.limits().raw_clients.is_on()
    }

    /// Whether a client may name the app by its id.
    pub(super) fn accepts_id(&self, request: &ConnectRequest) -> bool {
        self.may_be_raw(request) && self.limits().raw_clients.accept_id
    }

    /// The channel to which a rule redirects an event, if one does.
    pub fn destination(&self, channel: &ChannelName) -> Result<Option<ChannelName>, PolicyError> {
        self.limits().policy().publish(channel, self.limits().max_channel_name_length)
    }

    /// The pattern of the flow rule that thins an event of this name on a channel, if one does.
    pub fn thinned_by(&self, channel: &ChannelName, event: &str) -> Option<String> {
        match choose(&self.flow.of_channel(channel), event) {
            Choice::Thins(_, rule) => Some(rule.pattern.to_string()),
            _ => None,
        }
    }

    /// The effects of flow rules on a channel, a sentence each.
    pub fn explain_flow(&self, channel: &ChannelName) -> Vec<String> {
        if self.flow.is_empty() { Vec::new() } else { self.flow.explain(channel) }
    }

    /// How long a cache channel keeps an event; `None` for other channels.
    pub(super) fn cache_time(&self, channel: &ChannelName) -> Option<Duration> {
        channel.kind().cached.then(|| self.limits().cache_ttl_seconds.duration())
    }

    /// How long a subscription may last, if a rule limits it.
    pub fn subscription_age_max(&self, channel: &ChannelName) -> Option<Duration> {
        let seconds = self.limits().policy().subscription_age_max(&self.ruled(channel))?;
        Some(Duration::from_secs(seconds.into()))
    }

    /// Takes `events` from what the app may publish in a second. `None` without a limit.
    pub(super) async fn take_backend_events(&self, events: usize) -> Result<Option<Allowance>, TooFast> {
        take(self.backend_events.as_ref(), events).await
    }

    /// Takes one from the read requests that the app may make in a second. `None` without a limit.
    pub async fn take_read_request(&self) -> Result<Option<Allowance>, TooFast> {
        take(self.read_requests.as_ref(), 1).await
    }

    /// The connections that the app may have; `None` without a limit.
    pub(super) fn connections_max(&self) -> Option<usize> {
        usize::try_from(self.limits().max_connections).ok().filter(|&max| max > 0)
    }

    /// The sizes that publishers must keep to.
    pub fn publish_limits(&self) -> PublishLimits {
        let limits = self.limits();
        PublishLimits {
            batch_events_max: limits.max_event_batch_size,
            channels_max: limits.max_event_channels_at_once,
            channel_name_length_max: limits.max_channel_name_length,
            event_name_length_max: limits.max_event_name_length,
            data_bytes_max: limits.event_bytes_max(),
        }
    }

    /// The sizes that subscribers must keep to; `stars` if views may be of patterns with stars.
    pub(super) fn subscribe_limits(&self, stars: bool) -> SubscribeLimits {
        let limits = self.limits();
        SubscribeLimits {
            name_length_max: limits.max_channel_name_length,
            member: MemberLimits {
                user_id_length_max: limits.max_presence_user_id_length,
                user_info_bytes_max: limits.member_bytes_max(),
            },
            view: ViewLimits {
                pattern_length_max: limits.max_channel_name_length,
                stars,
                now: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            },
        }
    }

    /// The rules for a subscription of a connection that is raw or not.
    pub(super) fn join_rules(&self, raw: bool) -> JoinRules {
        let limits = self.limits();
        JoinRules {
            members_max: limits.max_presence_members_per_channel,
            counted: limits.enable_subscription_count,
            raw,
        }
    }
}

async fn take(rate: Option<&Rate>, count: usize) -> Result<Option<Allowance>, TooFast> {
    match rate {
        Some(rate) => rate.take(count).await.map(Some),
        None => Ok(None),
    }
}
