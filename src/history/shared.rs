//! The history of a channel in a cluster: Redis numbers the events, and knows the places of known users, so that they may
//! come back to any node. This is the view of one node.
//! `registry` calls it under the lock of the channel.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use crate::history::channel::ChannelHistory;
use crate::history::channel::Gap;
use crate::history::channel::Missed;
use crate::history::channel::Welcome;
use crate::history::log::Entering;
use crate::history::log::Numbering;
use crate::history::numbers::Arrival;
use crate::history::numbers::Found;
use crate::history::numbers::HistoryEvent;
use crate::history::numbers::PlaceChange;
use crate::history::numbers::PlaceState;
use crate::history::numbers::Places;
use crate::history::numbers::SharedHistory;
use crate::history::numbers::SharedPlace;
use crate::history::reader::Differing;
use crate::history::reader::Place;
use crate::history::reader::Predecessor;
use crate::history::reader::Reader;
use crate::history::reader::Written;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Origin;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::frame::Frame;
use crate::protocol::identity::KnownUser;
use crate::protocol::numbered::Epoch;
use crate::protocol::numbered::EventNumber;
use crate::protocol::socket_id::SocketId;

/// A connection that has confirmed everything of so many ticks ago follows its node: it needs no place of its own.
const FOLLOWED_TICKS: usize = 2;
/// Ticks whose numbers are remembered.
const TICKS_MAX: usize = 64;
/// How many times a tick passes until a slow connection's place is written again.
const SLOW_TICKS: u64 = 4;
/// Places that were taken while Redis was away, and that Redis has to forget. Those beyond are found again.
const TAKEN_MAX: usize = 65_536;
/// After this part of the time of a rule what Redis knows is written again, so that it does not expire.
const REFRESHES: u32 = 2;

impl ChannelHistory {
    /// The last number that has come; `None` if this node does not follow the numbers so far.
    pub fn shared(&self) -> Option<EventNumber> {
        self.shared.as_ref().map(|shared| shared.number(shared.received))
    }

    /// Follows the numbers from here on. `stored` is everything that Redis has stored up to then. Events of this node that
    /// are in the log came after those, or are among them. They stay in the order in which they went out here, also those
    /// that Redis could not store.
    pub fn begin_shared(&mut self, number: EventNumber, stored: &[HistoryEvent], node: NodeId, now: Instant) {
        let before = self.log.last();
        let of_node = stored.iter().filter(|stored| stored.event.node == node);
        let numbers: HashMap<u64, u64> = of_node.map(|stored| (stored.event.number, stored.number)).collect();
        let own = self.log.take_numbered(|own| numbers.get(&own).copied());
        let here: HashSet<u64> = own.iter().filter_map(|(number, _)| *number).collect();
        self.log.begin_after(stored.first().map_or(number.number, |first| first.number.saturating_sub(1)));
        let is_here = |event: &RemoteEvent| event.node == node && here.contains(&event.number);
        let others = stored.iter().filter(|stored| !is_here(&stored.event));
        for HistoryEvent { number, at, event } in others {
            let (frame, except, shared, at) = (&event.frame, event.except, Numbering::Number(*number), *at);
            self.log.push(&Entering { frame, except, shared, at }, &self.rule, now);
        }
        for (_, (frame, except, shared, at)) in &own {
            let (except, shared, at) = (*except, *shared, *at);
            self.log.push(&Entering { frame, except, shared, at }, &self.rule, now);
        }
        self.readers.shift(self.log.last() - before);
        let mut shared = SharedHistory::begin(number.epoch, number.number);
        for HistoryEvent { event, .. } in stored {
            shared.is_new(event.node, event.number);
        }
        shared.last = origin_of(stored.last().filter(|last| last.number == number.number));
        self.shared = Some(Box::new(shared));
    }

    /// Goes on from here after the link was lost, once what was missed is in the log. Returns whether Redis has lost
    /// something meanwhile: then nobody can tell what else is missing.
    pub fn resume_shared(&mut self, number: EventNumber, last: Option<Origin>) -> bool {
        let Some(shared) = &mut self.shared else { return false };
        if shared.received != number.number {
            (shared.received, shared.last) = (number.number, last);
        }
        // Another node may have taken this one for dead, and what was written last may be lost.
        self.readers.forget_written();
        let is_lost = shared.epoch != number.epoch;
        if is_lost {
            let come_of = std::mem::take(&mut shared.come_of);
            **shared = SharedHistory { come_of, last, ..SharedHistory::begin(number.epoch, number.number) };
        }
        is_lost
    }

    /// Redis has not written a place.
    pub fn forget_written(&mut self) {
        self.readers.forget_written();
    }

    /// The event with the last number that has come, if this node has heard it.
    pub fn last_origin(&self) -> Option<Origin> {
        self.shared.as_ref().and_then(|shared| shared.last)
    }

    /// Whether an event with a number is new; `None` if this node does not follow the numbers.
    pub fn is_new(&mut self, origin: Origin) -> Option<bool> {
        self.shared.as_mut().map(|shared| shared.is_new(origin.node, origin.number.get()))
    }

    /// The next event has this number. One that does not fit is not counted.
    pub fn arrive(&mut self, number: EventNumber, origin: Option<Origin>) -> Arrival {
        let Some(shared) = &mut self.shared else { return Arrival::Unnumbered };
        if number.number <= shared.received && number.epoch == shared.epoch {
            return Arrival::Unnumbered;
        }
        if number.epoch != shared.epoch || number.number != shared.received + 1 {
            return Arrival::Hole;
        }
        (shared.received, shared.last) = (number.number, origin);
        Arrival::Next
    }

    /// An event of another node has come without a number, since Redis could not store it.
    pub fn note_unnumbered(&mut self, origin: Origin) {
        if let Some(shared) = &mut self.shared {
            shared.note_unnumbered(origin);
        }
    }

    /// Redis has given a number to an event of this node.
    pub fn number_own(&mut self, own: u64, number: u64) {
        self.log.number_own(own, number);
    }

    /// A connection joins whose user's earlier place Redis has looked for. The place counts here if the earlier connection
    /// was on this node, since that is exact.
    pub fn rejoin(&mut self, user: &KnownUser, found: Option<Found>, now: Instant) -> Welcome {
        self.log.drop_old(&self.rule, now);
        let last = self.log.last();
        let Some(found) = found else {
            let from = Place { position: last, since: now };
            let reader = Some(self.readers.open(&user.id, user.socket_id, from, last));
            return Welcome { gap: None, events: self.last_events(), reader };
        };
        let (gap, events, place) = self.missed_since(&user.id, found, now);
        let reader = self.readers.open(&user.id, user.socket_id, place, last);
        self.readers.set_written(&user.id, user.socket_id, Written::At(found.place.number.number));
        Welcome { gap, events, reader: Some(reader) }
    }

    /// Redis has found the place when the connection has joined already. Events cannot be sent in order any more, so they
    /// are a gap. It has to be confirmed by the returned reader.
    pub fn rejoin_late(&mut self, user: &KnownUser, found: Option<Found>, now: Instant) -> Option<(Gap, Arc<Reader>)> {
        self.readers.set_unsure(user.socket_id, false);
        let (found, reader) = found.zip(self.readers.reader(user.socket_id))?;
        let (gap, events, place) = self.missed_since(&user.id, found, now);
        let missed = match gap.map(|gap| gap.missed) {
            Some(Missed::Unknown) => Missed::Unknown,
            Some(Missed::Events(missed)) => Missed::Events(missed + events.len() as u64),
            None => Missed::Events(events.len() as u64),
        };
        let gap = Gap::of(missed, place.since)?;
        reader.set_back(place);
        Some((gap, reader))
    }

    /// A gap has been announced to everybody as the last event. A user that has not confirmed it gets it on another node,
    /// too.
    pub fn note_gap(&mut self) {
        let last = self.log.last();
        if let Some(shared) = &mut self.shared {
            shared.gap = Some((last, Epoch::random()));
        }
    }

    /// The events after a place that was found, with the gap before them, and the place as this node counts it.
    fn missed_since(&mut self, user: &str, found: Found, now: Instant) -> (Option<Gap>, Vec<Frame>, Place) {
        let Found { socket_id, place: SharedPlace { number, since }, is_numbered } = found;
        let last = self.log.last();
        let here = socket_id.and_then(|socket_id| self.readers.take_of(user, socket_id, (last, now)));
        if let Some(Predecessor { place, .. }) = here {
            let (missed, events) = self.log.after(place.position, socket_id);
            return (Gap::of(Missed::Events(missed), place.since), events, place);
        }
        let is_known = is_numbered && self.shared.as_ref().is_some_and(|shared| shared.epoch == number.epoch);
        let missed = match self.log.gone().checked_sub(number.number) {
            _ if !is_known => Missed::Unknown,
            missed => Missed::Events(missed.unwrap_or_default()),
        };
        let events = if is_numbered { self.log.after_shared(number.number, socket_id) } else { Vec::new() };
        let position = if is_numbered { self.log.position_before(number.number) } else { last };
        (Gap::of(missed, since), events, Place { position, since })
    }

    /// A connection leaves while there is a link. Returns what Redis has to know.
    pub fn leave_shared(&mut self, socket_id: SocketId, is_cut: bool, now: Instant) -> Option<PlaceChange> {
        let is_unsure = self.readers.is_unsure(socket_id);
        let (user, reader) = self.readers.leave(socket_id, is_cut, now)?;
        self.readers.set_written(&user, socket_id, Written::Follows);
        let state = if is_cut {
            let place = self.shared_place(reader.confirmed()).filter(|_| !is_unsure);
            PlaceState::Left { place, is_silent: reader.is_silent(now) }
        } else {
            PlaceState::Ended
        };
        Some(PlaceChange { user, socket_id, state })
    }

    /// A place of this node in the numbers of all nodes, or one before it.
    fn shared_place(&self, Place { position, since }: Place) -> Option<SharedPlace> {
        let shared = self.shared.as_ref()?;
        let number = self
            .log
            .shared_at(position, shared.received)
            .or_else(|| shared.ticks.iter().find(|(last, _)| *last <= position).map(|(_, received)| *received))?;
        let epoch = shared.gap.filter(|(gap, _)| position < *gap).map_or(shared.epoch, |(_, epoch)| epoch);
        Some(SharedPlace { number: EventNumber { epoch, number }, since })
    }

    /// Remembers the present numbers, and returns what Redis lacks, except of connections whose place it does not know so
    /// far. Call it about once a second, while there is a link.
    pub fn tick_shared(&mut self, is_unknown: impl Fn(SocketId) -> bool, now: Instant) -> Places {
        let last = self.log.last();
        let Some(shared) = &mut self.shared else { return Places::default() };
        shared.tick += 1;
        shared.ticks.truncate(TICKS_MAX - 1);
        shared.ticks.push_front((last, shared.received));
        let (position, number) = shared.ticks.get(FOLLOWED_TICKS).or(shared.ticks.back()).copied().unwrap_or_default();
        // A connection follows this node once it has confirmed the last gap.
        let position = position.max(shared.gap.map_or(0, |(gap, _)| gap));
        let refresh = self.rule.time() / REFRESHES;
        let is_due = |(_, at): &(u64, Instant)| now.saturating_duration_since(*at) >= refresh;
        let is_written = shared.followed.as_ref().is_some_and(|followed| followed.0 == number && !is_due(followed));
        let followed = (!is_written && !self.readers.is_empty()).then(|| {
            shared.followed = Some((number, now));
            SharedPlace { number: shared.number(number), since: now }
        });
        let is_slow_tick = shared.tick.is_multiple_of(SLOW_TICKS);
        let ended = |(user, socket_id)| PlaceChange { user, socket_id, state: PlaceState::Ended };
        let mut changes: Vec<_> = std::mem::take(&mut shared.taken).into_iter().map(ended).collect();
        let mut written = Vec::new();
        for differing in self.readers.differing(position) {
            let (user, socket_id, state, now_written) = match differing {
                Differing::Open { socket_id, .. } if is_unknown(socket_id) => continue,
                Differing::Open { user, socket_id, follows: true, .. } => {
                    (user, socket_id, PlaceState::Follows, Written::Follows)
                }
                Differing::Open { written: Written::At(_), .. } if !is_slow_tick => continue,
                Differing::Open { user, socket_id, place, written, .. } => match self.shared_place(place) {
                    Some(place) if written == Written::At(place.number.number) => continue,
                    Some(place) => (user, socket_id, PlaceState::Behind(place), Written::At(place.number.number)),
                    None => continue,
                },
                Differing::Left { user, socket_id, place, is_unsure } => {
                    let place = self.shared_place(place).filter(|_| !is_unsure);
                    (user, socket_id, PlaceState::Left { place, is_silent: false }, Written::Follows)
                }
            };
            changes.push(PlaceChange { user: Arc::clone(user), socket_id, state });
            written.push((Arc::clone(user), socket_id, now_written));
        }
        for (user, socket_id, written) in written {
            self.readers.set_written(&user, socket_id, written);
        }
        Places { followed, changes }
    }

    /// Redis is asked for the place of a connection that has joined, and may move it there before the answer comes.
    pub fn set_unsure(&mut self, socket_id: SocketId) {
        self.readers.set_unsure(socket_id, true);
    }

    /// A place was taken while Redis was away. Redis has to know.
    pub(super) fn note_taken(&mut self, user: &Arc<str>, socket_id: SocketId) {
        if let Some(shared) = &mut self.shared
            && !self.readers.has(socket_id)
            && shared.taken.len() < TAKEN_MAX
        {
            shared.taken.push((Arc::clone(user), socket_id));
        }
    }
}

/// The origin of an event.
fn origin_of(event: Option<&HistoryEvent>) -> Option<Origin> {
    event.and_then(|HistoryEvent { event, .. }| Origin::new(event.node, event.number))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::history::rule::HistoryRule;
    use crate::history::totals::HistoryTotals;
    use crate::protocol::event;

    fn history() -> ChannelHistory {
        let rule: HistoryRule = serde_json::from_str(r#"{"match":"*","seconds":600,"replay":{"last":100}}"#).unwrap();
        let totals = Arc::new(HistoryTotals::default());
        totals.set_bytes_max(1 << 20);
        ChannelHistory::new(Arc::new(rule), &totals)
    }

    fn frame(name: &str) -> Frame {
        event::published("orders", name, "\"1\"")
    }

    fn stored(number: u64, node: NodeId, of_node: u64, name: &str) -> HistoryEvent {
        let (accepted_micros, except, cached_for_ms, partial) = (0, None, 0, None);
        let frame = frame(name);
        let event = RemoteEvent { node, number: of_node, accepted_micros, except, cached_for_ms, frame, partial };
        HistoryEvent { number, at: Instant::now(), event }
    }

    #[test]
    fn events_that_redis_could_not_store_stay_in_the_order_of_their_node() {
        let (mut history, now) = (history(), Instant::now());
        let (here, there, epoch) = (NodeId::random(), NodeId::random(), Epoch::random());
        for (number, name) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
            history.push_shared(&frame(name), None, Numbering::Own(number), now);
        }
        let both = [stored(7, there, 1, "x"), stored(8, here, 3, "c"), stored(9, there, 2, "y")];
        history.begin_shared(EventNumber { epoch, number: 9 }, &both, here, now);
        let all = |names: &str| names.chars().map(|name| frame(&name.to_string())).collect::<Vec<_>>();
        assert_eq!(history.log.after_shared(6, None), all("xyabcd"));
        assert_eq!(history.log.after_shared(8, None), all("yd"), "c has the number 8, and with it all before");
        assert_eq!(history.log.after(6 + 1, None), (0, all("bcd")), "who has confirmed the first one");
    }

    #[test]
    fn an_event_that_has_come_without_a_number_does_not_come_again_with_one() {
        let (mut history, node) = (history(), NodeId::random());
        history.begin_shared(EventNumber { epoch: Epoch::random(), number: 1 }, &[], NodeId::random(), Instant::now());
        let origin = |number| Origin { node, number: NonZeroU64::new(number).unwrap() };
        for number in [4, 6] {
            history.note_unnumbered(origin(number));
        }
        let is_new = [3, 4, 5, 6, 7].map(|number| history.is_new(origin(number)));
        assert_eq!(is_new, [Some(true), Some(false), Some(true), Some(false), Some(true)]);
    }
}
