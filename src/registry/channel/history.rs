//! The history of a channel: events for users that come back, and the frames that they get.

use std::sync::Arc;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::history::channel::Gap;
use crate::history::channel::Welcome;
use crate::history::log::Numbering;
use crate::history::reader::Reader;
use crate::history::rule::HistoryRule;
use crate::protocol::envelope::Origin;
use crate::protocol::event;
use crate::protocol::frame::Frame;
use crate::protocol::identity::KnownUser;
use crate::protocol::numbered::EventNumber;
use crate::registry::address::Address;
use crate::registry::channel::Channel;
use crate::registry::channel::Source;
use crate::registry::channel::shared::Known;
use crate::registry::inbox::Event;
use crate::registry::inbox::ShardMessage;
use crate::registry::scope::Scope;
use crate::registry::subscription::Joiner;

impl Channel {
    /// Adds an event for users that may miss it. Returns its number; 0 if it is not kept.
    pub(super) fn remember(&mut self, event: &Event, source: Source, scope: &Scope<'_>) -> u64 {
        let Some(history) = self.history.as_mut().filter(|_| !event::is_client_event(&event.frame)) else { return 0 };
        let shared = match source {
            Source::Here(origin) => origin.map_or(Numbering::None, |origin| Numbering::Own(origin.number.get())),
            Source::Elsewhere(shared) => shared,
            Source::Logged => return 0,
        };
        history.set_settled(!matches!(shared, Numbering::Own(_)) || scope.is_settled());
        history.push_shared(&event.frame, event.except, shared, scope.now)
    }

    /// The part of the history that a joiner gets: perhaps a gap, and events.
    pub(super) fn welcome(
        &mut self,
        joiner: &Joiner,
        known: Known,
        scope: &Scope<'_>,
    ) -> (Option<Frame>, Vec<Frame>, Option<Arc<Reader>>) {
        let Some(history) = &mut self.history else { return (None, Vec::new(), None) };
        let Welcome { gap, events, reader } = match (known, &joiner.user) {
            (Known::Everywhere(found), Some(user)) => {
                if found.is_none() && scope.is_link_young() {
                    // The node that knows the user may not be back.
                    self.remote.get_or_insert_default().history.join_alone(user, joiner.address, true);
                }
                history.rejoin(user, found, scope.now)
            }
            (Known::Alone, Some(user)) => {
                if !scope.is_linked() {
                    self.remote.get_or_insert_default().history.joined_unlinked.get_or_insert(scope.now);
                }
                self.remote.get_or_insert_default().history.join_alone(user, joiner.address, false);
                history.join(Some(user), scope.now)
            }
            (_, user) => history.join(user.as_ref(), scope.now),
        };
        let gap = gap.filter(|gap| self.matters(*gap));
        if let Some(meters) = &scope.app.history.meters {
            meters.replayed(events.len());
            gap.inspect(|gap| meters.gap(gap.missed.count()));
        }
        (gap.map(|gap| self.gap_frame(gap, scope.now)), events, reader)
    }

    /// A connection on this channel has signed in.
    pub(in crate::registry) fn identify(&mut self, address: Address, user: &KnownUser, scope: &mut Scope<'_>) {
        let Some(history) = &mut self.history else { return };
        let Welcome { gap, reader, .. } = history.identify(user, scope.now);
        let is_new = reader.is_some();
        if let (Some(meters), Some(gap)) = (&scope.app.history.meters, gap) {
            meters.gap(gap.missed.count());
        }
        if is_new && self.remote.is_some() {
            // Other nodes may know of an earlier connection.
            self.remote_mut().history.join_alone(user, address, false);
            self.catch_up_if_needed(scope);
            self.ask_alone(scope);
        }
        let gap = gap.map(|gap| self.gap_frame(gap, scope.now));
        if let Some(frame) = gap {
            scope.inboxes.put_to(address, |slot| ShardMessage::Send(slot, frame));
        }
        if let Some(reader) = reader {
            scope.track(address, self.subscribers.id(), reader);
        }
    }

    /// Takes the present history rule of the app.
    pub(in crate::registry) fn follow_history_rule(&mut self, scope: &Scope<'_>) {
        let new = scope.app.history.of_channel(&self.name);
        match (&mut self.history, new) {
            (Some(history), Some(new)) => history.set_rule(Arc::clone(new.rule())),
            (history, new) => *history = new,
        }
    }

    /// The rule, and the last number that has come with its event.
    pub(in crate::registry) fn history_rule(&self) -> Option<(Arc<HistoryRule>, Option<EventNumber>, Option<Origin>)> {
        let history = self.history.as_ref()?;
        Some((Arc::clone(history.rule()), history.shared(), history.last_origin()))
    }

    pub(super) fn gap_frame(&self, gap: Gap, now: Instant) -> Frame {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = since_1970.saturating_sub(now.saturating_duration_since(gap.since));
        let missed = gap.missed.count();
        event::history_gap(self.name.as_str(), missed, u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
