//! The way of an event from its channel to the subscribers here: through the flow rules, the cached event and the history.

use std::time::Duration;

use crate::history::log::Numbering;
use crate::protocol::envelope::Origin;
use crate::protocol::event;
use crate::registry::channel::Activity;
use crate::registry::channel::Channel;
use crate::registry::deadlines::Receivers;
use crate::registry::flow::Flow;
use crate::registry::inbox::Event;
use crate::registry::scope::Scope;

/// Where an event comes from.
#[derive(Debug, Clone, Copy)]
pub(in crate::registry) enum Source {
    /// This node has accepted it. In a cluster it has a place there.
    Here(Option<Origin>),
    /// Another node, with its number in the history of all nodes.
    Elsewhere(Numbering),
    /// Another node; it is in the history already.
    Logged,
}

impl Source {
    fn origin(self) -> Option<Origin> {
        match self {
            Self::Here(origin) => origin,
            Self::Elsewhere(_) | Self::Logged => None,
        }
    }
}

impl Channel {
    /// Takes an event for the subscribers: delivers it, or what the flow rules make of it. A cache channel keeps it for
    /// `cache_for`; `is_local` as in [`Cached`].
    pub(in crate::registry) fn accept(
        &mut self,
        (event, source): (&Event, Source),
        cache_for: Option<Duration>,
        is_local: bool,
        scope: &mut Scope<'_>,
    ) {
        if scope.app.counts_activity {
            self.activity.get_or_insert_with(|| Box::new(Activity::new(scope.now))).count(scope.now);
        }
        let Some(rules) = scope.app.flow.rules() else {
            return self.deliver((event, source), cache_for, is_local, scope);
        };
        if self.flow.as_ref().is_some_and(|flow| flow.is_outdated(&rules)) {
            self.update_flow(scope);
        }
        let is_empty = self.subscriptions() == 0;
        let flow = self.flow.get_or_insert_with(|| {
            Box::new(Flow::new(&self.name, Receivers::Subscribers, rules, scope.app, scope.now))
        });
        if !flow.has_rule() {
            return self.deliver((event, source), cache_for, is_local, scope);
        }
        // A client event of the channel is not cached, but what is pending may be.
        if let Some(cache_for) = cache_for {
            flow.cache = Some((cache_for, is_local));
        }
        let is_remembered = self.history.as_ref().is_some_and(|history| history.is_wanted());
        if cache_for.is_none() && !flow.has_snapshot() && is_empty && !is_remembered {
            return;
        }
        // Only what is stored for other nodes needs the origin.
        let origin = source.origin();
        let with_origin = origin.filter(|_| flow.has_snapshot()).map(|_| Event { origin, ..event.clone() });
        let events = flow.publish(with_origin.as_ref().unwrap_or(event), scope.now);
        self.deliver_all(events, scope);
    }

    /// Delivers what is due by the flow rules.
    pub(in crate::registry) fn run_flow(&mut self, scope: &mut Scope<'_>) {
        let events = self.flow.as_mut().map(|flow| flow.run_due(scope.now));
        self.deliver_all(events.unwrap_or_default(), scope);
        self.fetch_again(scope);
    }

    /// Delivers everything that the flow rules have held back.
    pub(super) fn flush_flow(&mut self, scope: &mut Scope<'_>) {
        let events = self.flow.as_mut().map(|flow| flow.flush(scope.now));
        self.deliver_all(events.unwrap_or_default(), scope);
    }

    /// Takes the present flow rules of the app.
    pub(in crate::registry) fn update_flow(&mut self, scope: &mut Scope<'_>) {
        self.flush_flow(scope);
        self.end_storing(scope);
        match &mut self.flow {
            Some(flow) if scope.app.flow.rules().is_some() => flow.follow_rules(&self.name, scope.app, scope.now),
            flow => *flow = None,
        }
    }

    fn deliver_all(&mut self, events: Vec<Event>, scope: &mut Scope<'_>) {
        let cache = self.flow.as_ref().and_then(|flow| flow.cache);
        let (cache_for, is_local) = cache.map_or((None, false), |(cache_for, is_local)| (Some(cache_for), is_local));
        for event in events {
            self.deliver((&event, Source::Here(None)), cache_for, is_local, scope);
        }
        self.store_events(scope);
        if let Some(flow) = &mut self.flow {
            flow.schedule(&self.name, scope.app);
        }
    }

    pub(super) fn deliver(
        &mut self,
        (event, source): (&Event, Source),
        cache_for: Option<Duration>,
        is_local: bool,
        scope: &mut Scope<'_>,
    ) {
        if let Some(cache_for) = cache_for {
            self.cache((&event.frame, event.accepted + cache_for, is_local), scope);
        }
        match self.remember(event, source, scope) {
            0 => self.announce(event, scope),
            number => self.announce(&Event { number, ..event.clone() }, scope),
        }
    }

    /// Puts an event into the inbox of each shard that has subscribers.
    pub(super) fn announce(&self, event: &Event, scope: &mut Scope<'_>) {
        self.subscribers.announce(event, &mut scope.inboxes);
        if let Some(raw) = &self.raw
            && let Some(frame) = event::raw(&event.frame)
        {
            raw.announce(&Event { frame, ..event.clone() }, &mut scope.inboxes);
        }
    }
}
