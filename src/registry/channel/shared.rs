//! The history of a channel in a cluster. This node follows the numbers that Redis gives while a known user is here: it
//! catches up first, and then each number follows the one before it. A joiner waits until Redis has looked for the place of
//! its user. Without the link this node decides alone.

use std::time::Instant;

use crate::history::channel::Gap;
use crate::history::channel::Missed;
use crate::history::log::Numbering;
use crate::history::numbers::Arrival;
use crate::history::numbers::Found;
use crate::history::numbers::HistoryEvent;
use crate::history::numbers::PlaceChange;
use crate::history::numbers::PlaceState;
use crate::history::numbers::Places;
use crate::protocol::envelope::Origin;
use crate::protocol::envelope::Topic;
use crate::protocol::identity::KnownUser;
use crate::protocol::numbered::EventNumber;
use crate::registry::address::Address;
use crate::registry::channel::Channel;
use crate::registry::channel::Source;
use crate::registry::inbox::Event;
use crate::registry::inbox::ShardMessage;
use crate::registry::remote::command::Operation;
use crate::registry::remote::history::CaughtUp;
use crate::registry::remote::history::Waiting;
use crate::registry::scope::Scope;
use crate::registry::subscription::Joiner;
use crate::registry::subscription::Unsubscribe;

/// Places in one command.
const CHANGES_MAX: usize = 1000;
/// Places that are looked for in one tick, for users that have joined without an answer.
const ASKED_MAX: usize = 500;

/// How it is known what a joiner has missed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Known {
    /// By what is on this node.
    Here,
    /// There is a link, but no answer in time: this node decides, and asks later.
    Alone,
    /// Redis has looked for the place of an earlier connection.
    Everywhere(Option<Found>),
}

impl Channel {
    /// Lets a joiner in, or keeps it until Redis has looked for the place of its user.
    pub(super) fn admit(&mut self, joiner: Joiner, scope: &mut Scope<'_>) {
        let Some(history) = self.history.as_mut().filter(|_| self.remote.is_some()) else {
            return self.let_in(&joiner, Known::Here, scope);
        };
        if !scope.is_linked() {
            return self.let_in(&joiner, Known::Alone, scope);
        }
        if joiner.user.is_none() && history.rule().last() == 0 {
            return self.let_in(&joiner, Known::Everywhere(None), scope);
        }
        let is_following = history.shared().is_some();
        if !is_following {
            self.catch_up(scope);
        }
        let remote = self.remote_mut();
        if !is_following && !remote.history.is_catching_up() {
            return self.let_in(&joiner, Known::Alone, scope);
        }
        let number = joiner.user.clone().map(|user| {
            let (number, operation) = Operation::take_place(user, joiner.address, false);
            scope.command(Topic::Channel(self.name.clone()), operation);
            number
        });
        let remote = self.remote_mut();
        remote.history.join(number, joiner);
        scope.needs_reconcile = true;
        self.admit_found(scope);
    }

    /// Lets in those whose places are known.
    fn admit_found(&mut self, scope: &mut Scope<'_>) {
        for (joiner, found) in self.remote_mut().history.take_found() {
            self.let_in(&joiner, Known::Everywhere(found), scope);
        }
    }

    /// Lets in a joiner although Redis may have found, or finds, the place of its user.
    pub(super) fn let_in_unsure(&mut self, joiner: &Joiner, scope: &mut Scope<'_>) {
        self.let_in(joiner, Known::Alone, scope);
        if let (Some(history), Some(user)) = (&mut self.history, &joiner.user) {
            history.set_unsure(user.socket_id);
        }
    }

    /// Follows the numbers from now on, or anew after a lost link, unless that is on its way.
    pub(super) fn catch_up(&mut self, scope: &mut Scope<'_>) {
        let Some(history) = &mut self.history else { return };
        let remote = self.remote.get_or_insert_default();
        if !scope.is_linked() || !remote.history.may_catch_up(scope.now) {
            return;
        }
        history.expect_shared();
        let (number, operation) = Operation::catch_up();
        remote.history.catch_up(number);
        scope.command(Topic::Channel(self.name.clone()), operation);
        scope.needs_reconcile = true;
    }

    /// Catches up because of an event that does not fit, at most once in a while.
    pub(super) fn catch_up_once(&mut self, scope: &mut Scope<'_>) {
        let is_new = !self.remote_mut().history.is_catching_up();
        self.catch_up(scope);
        let remote = self.remote_mut();
        if is_new && remote.history.is_catching_up() {
            remote.history.pause(scope.now);
        }
    }

    /// Follows the numbers if somebody needs them, and this node does not.
    pub(super) fn catch_up_if_needed(&mut self, scope: &mut Scope<'_>) {
        scope.needs_reconcile = true;
        if self.history.as_ref().is_some_and(|history| history.shared().is_none() && history.is_wanted()) {
            self.catch_up(scope);
        }
    }

    /// The topic is open again: goes on to follow the numbers if somebody needs them.
    pub(super) fn resume(&mut self, scope: &mut Scope<'_>) {
        if self.history.as_ref().is_some_and(|history| history.shared().is_some() || history.is_wanted()) {
            self.catch_up(scope);
        }
    }

    /// The command of this number has an answer, or has failed.
    pub(crate) fn on_caught_up(&mut self, number: u64, answer: Option<CaughtUp>, scope: &mut Scope<'_>) {
        let remote = self.remote_mut();
        match answer {
            Some(answer) => {
                if let Some((answer, waiting)) = remote.history.on_answer(number, answer) {
                    self.caught_up(answer, waiting, scope);
                }
            }
            None if remote.history.awaits(number) => {
                remote.history.pause(scope.now);
                remote.history.is_behind = true;
                self.stop_catching_up(scope);
                for joiner in self.remote_mut().history.take_all() {
                    self.let_in_unsure(&joiner, scope);
                }
            }
            None => (),
        }
    }

    /// Everything up to a number has come, or is in the answer.
    pub(super) fn caught_up(&mut self, answer: CaughtUp, mut waiting: Vec<Waiting>, scope: &mut Scope<'_>) {
        let CaughtUp { number, stored } = answer;
        let Some(history) = &mut self.history else {
            self.deliver_waiting(waiting, scope);
            return self.admit_found(scope);
        };
        let is_first = history.shared().is_none();
        if is_first {
            history.begin_shared(number, &stored, scope.node(), scope.now);
        } else {
            self.deliver_missed((number, stored), &mut waiting, scope);
        }
        let remote = self.remote_mut();
        (remote.history.lost_at, remote.history.is_behind) = (None, false);
        if let Some(since) = remote.history.joined_unlinked.take().filter(|_| is_first) {
            // Connections have joined before, and nobody knows what other nodes have published since.
            self.announce_missed(Missed::Unknown, since, scope);
        }
        for message in waiting {
            match message {
                // It is in the log already.
                Waiting::Event(event, Some(own)) if is_first && own.number <= number.number => {
                    self.receive(event, Source::Logged, scope);
                }
                Waiting::Event(event, number) => {
                    self.on_event(event, number, scope);
                }
                Waiting::Own(own, number) => self.on_own_number(own, number, scope),
            }
        }
        self.admit_found(scope);
        self.write_lacking(scope);
        self.ask_alone(scope);
    }

    /// Delivers the events that this node has missed without the link, and announces how many are not stored any more.
    /// Of those that wait, events of the same node come before that Redis could not store.
    fn deliver_missed(
        &mut self,
        (until, stored): (EventNumber, Vec<HistoryEvent>),
        waiting: &mut Vec<Waiting>,
        scope: &mut Scope<'_>,
    ) {
        let Some(received) = self.history.as_ref().and_then(|history| history.shared()) else { return };
        let is_new = |one: &HistoryEvent| received.epoch != until.epoch || one.number > received.number;
        let stored: Vec<_> = stored.into_iter().filter(is_new).collect();
        let first = stored.first().map_or(until.number + 1, |first| first.number);
        if received.epoch == until.epoch && first > received.number + 1 {
            self.announce_gap(Missed::Events(first - 1 - received.number), scope);
        }
        let last = stored.last().filter(|last| last.number == until.number);
        let last = last.and_then(|last| Origin::new(last.event.node, last.event.number));
        let lacking = waiting.iter().any(Waiting::is_unnumbered);
        for HistoryEvent { number, event, .. } in stored {
            if event.node == scope.node() {
                if let Some(history) = &mut self.history {
                    history.number_own(event.number, number);
                }
                continue;
            }
            for earlier in lacking.then(|| Waiting::take_unnumbered_before(waiting, &event)).into_iter().flatten() {
                self.receive(earlier, Source::Elsewhere(Numbering::None), scope);
            }
            self.receive(event, Source::Elsewhere(Numbering::Number(number)), scope);
        }
        if self.history.as_mut().is_some_and(|history| history.resume_shared(until, last)) {
            self.announce_gap(Missed::Unknown, scope);
        }
    }

    /// Writes the places that Redis lacks.
    fn write_lacking(&mut self, scope: &Scope<'_>) {
        let (Some(history), Some(remote)) = (&mut self.history, &self.remote) else { return };
        let Places { followed, mut changes } =
            history.tick_shared(|socket_id| remote.history.is_alone(socket_id), scope.now);
        // Connections that follow this node no more are written before the place of those that do.
        while changes.len() > CHANGES_MAX {
            let rest = changes.split_off(CHANGES_MAX);
            self.write_places(Places { followed: None, changes: std::mem::replace(&mut changes, rest) }, scope);
        }
        if followed.is_some() || !changes.is_empty() {
            self.write_places(Places { followed, changes }, scope);
        }
    }

    /// Redis has not written places. They are written again, perhaps in a new epoch.
    pub(crate) fn on_places_refused(&mut self, scope: &mut Scope<'_>) {
        if let Some(history) = &mut self.history {
            history.forget_written();
            if history.shared().is_some() {
                self.catch_up_once(scope);
            }
        }
    }

    /// Announces to everybody here that events are missing.
    fn announce_gap(&mut self, missed: Missed, scope: &mut Scope<'_>) {
        let since = self.remote_mut().history.lost_at.unwrap_or(scope.now);
        self.announce_missed(missed, since, scope);
    }

    /// Announces to everybody here that events are missing, where a rule wants to know.
    pub(in crate::registry) fn announce_missed(&mut self, missed: Missed, since: Instant, scope: &mut Scope<'_>) {
        if self.history.is_none() {
            return;
        }
        if let Some(meters) = &scope.app.history.meters {
            meters.gap(missed.count());
        }
        let frame = self.gap_frame(Gap { missed, since }, scope.now);
        // Like an event, so that it has to be confirmed, and comes again if it has not arrived.
        self.deliver((&Event::of(frame, scope.now), Source::Elsewhere(Numbering::Gap)), None, false, scope);
        if let Some(history) = &mut self.history {
            history.note_gap();
        }
    }

    /// Catches up no more: what waited is delivered.
    pub(super) fn stop_catching_up(&mut self, scope: &mut Scope<'_>) {
        let waiting = self.remote_mut().history.give_up();
        self.deliver_waiting(waiting, scope);
    }

    /// Events with a number come again, in order, when this node catches up the next time.
    pub(super) fn deliver_waiting(&mut self, waiting: Vec<Waiting>, scope: &mut Scope<'_>) {
        let is_following = self.history.as_ref().is_some_and(|history| history.shared().is_some());
        for message in waiting {
            match message {
                Waiting::Event(_, Some(_)) if is_following => self.remote_mut().history.is_behind = true,
                Waiting::Event(event, number) => {
                    self.receive(event, Source::Elsewhere(Numbering::of(number)), scope);
                }
                Waiting::Own(..) => self.remote_mut().history.is_behind |= is_following,
            }
        }
    }

    /// The number of an event of another node, if it follows the one before it. `None` if the event has to wait until this
    /// node has caught up.
    pub(super) fn number_of(
        &mut self,
        number: Option<EventNumber>,
        origin: Option<Origin>,
        scope: &mut Scope<'_>,
    ) -> Option<Numbering> {
        if self.remote_mut().history.is_catching_up() {
            return None;
        }
        let (Some(number), Some(history)) = (number, &mut self.history) else { return Some(Numbering::None) };
        match history.arrive(number, origin) {
            Arrival::Next => return Some(Numbering::Number(number.number)),
            Arrival::Unnumbered => return Some(Numbering::None),
            Arrival::Hole => (),
        }
        self.catch_up_once(scope);
        if self.remote_mut().history.is_catching_up() {
            return None;
        }
        // Twice in a short time: Redis does not have what is missing, or there is too much of it.
        self.history.as_mut()?.resume_shared(number, origin);
        self.announce_gap(Missed::Unknown, scope);
        Some(Numbering::Number(number.number))
    }

    /// Redis has given a number to an event of this node.
    pub(super) fn on_own_number(&mut self, own: u64, number: EventNumber, scope: &mut Scope<'_>) {
        if self.history.as_ref().is_none_or(|history| history.shared().is_none())
            && !self.remote_mut().history.is_catching_up()
        {
            return;
        }
        match self.number_of(Some(number), Origin::new(scope.node(), own), scope) {
            Some(Numbering::Number(number)) => {
                if let Some(history) = &mut self.history {
                    history.number_own(own, number);
                }
            }
            Some(_) => (),
            None => {
                self.remote_mut().history.wait(Waiting::Own(own, number));
            }
        }
    }

    /// Redis has looked for the place of a user, or has failed.
    pub(crate) fn on_found(
        &mut self,
        (number, user, address): (u64, &KnownUser, Address),
        found: Option<Option<Found>>,
        scope: &mut Scope<'_>,
    ) {
        let found =
            found.map(|found| found.map(|found| Found { is_numbered: scope.app.numbers_all(&self.name), ..found }));
        let remote = self.remote_mut();
        let Some(found) = found else {
            match remote.history.take(number) {
                Some(joiner) => self.let_in_unsure(&joiner, scope),
                None => remote.history.ask_again(user.socket_id),
            }
            return;
        };
        if remote.history.on_found(number, found) {
            return self.admit_found(scope);
        }
        remote.history.end_alone(user.socket_id);
        let late = self.history.as_mut().and_then(|history| history.rejoin_late(user, found, scope.now));
        if let Some((gap, reader)) = late.filter(|(gap, _)| self.matters(*gap)) {
            if let Some(meters) = &scope.app.history.meters {
                meters.gap(gap.missed.count());
            }
            let frame = self.gap_frame(gap, scope.now);
            scope.inboxes.put_to(address, |slot| ShardMessage::Send(slot, frame));
            scope.track(address, self.subscribers.id(), reader);
        }
    }

    /// The snapshot of a flow rule brings a page up to date, whatever else it has missed.
    pub(super) fn matters(&self, gap: Gap) -> bool {
        gap.missed != Missed::Unknown || !self.flow.as_ref().is_some_and(|flow| flow.has_snapshot())
    }

    /// A connection leaves the history.
    pub(super) fn leave_history(&mut self, unsubscribe: &Unsubscribe<'_>, scope: &mut Scope<'_>) {
        let (socket_id, is_cut) = (unsubscribe.socket_id, unsubscribe.is_cut);
        if let Some(remote) = &mut self.remote {
            remote.history.end_alone(socket_id);
        }
        let Some(history) = &mut self.history else { return };
        if !scope.is_linked() || history.shared().is_none() {
            return history.leave(socket_id, is_cut, scope.now);
        }
        if let Some(change) = history.leave_shared(socket_id, is_cut, scope.now) {
            self.write_places(Places { followed: None, changes: vec![change] }, scope);
        }
    }

    /// A connection leaves that waits for the place of its user. False if it does not wait.
    pub(super) fn stop_joining(&mut self, unsubscribe: &Unsubscribe<'_>, scope: &Scope<'_>) -> bool {
        let Some(joiner) = self.remote.as_mut().and_then(|remote| remote.history.remove(unsubscribe.address)) else {
            return false;
        };
        if let Some(user) = joiner.user {
            let left = PlaceState::Left { place: None, is_silent: false };
            let state = if unsubscribe.is_cut { left } else { PlaceState::Ended };
            let change = PlaceChange { user: user.id, socket_id: user.socket_id, state };
            self.write_places(Places { followed: None, changes: vec![change] }, scope);
        }
        true
    }

    fn write_places(&self, places: Places, scope: &Scope<'_>) {
        scope.command(Topic::Channel(self.name.clone()), Operation::WritePlaces(Box::new(places)));
    }

    /// Writes what Redis lacks, and lets in those that have waited long enough. Comes about once a second.
    pub(super) fn tick_shared(&mut self, scope: &mut Scope<'_>) {
        if self.remote.is_none() {
            return;
        }
        for joiner in self.remote_mut().history.take_overdue(scope.now) {
            self.let_in_unsure(&joiner, scope);
        }
        let Some(history) = &mut self.history else { return };
        let remote = self.remote.get_or_insert_default();
        if !scope.is_linked() || remote.history.is_catching_up() {
            scope.needs_reconcile |= history.is_wanted() || remote.history.is_catching_up();
            return;
        }
        if !history.is_wanted() && remote.history.is_empty() {
            return history.end_shared();
        }
        scope.needs_reconcile = true;
        if history.shared().is_none() || remote.history.is_behind {
            return self.catch_up(scope);
        }
        self.write_lacking(scope);
        self.ask_alone(scope);
    }

    /// Looks for the places of users that have joined without an answer of Redis.
    pub(super) fn ask_alone(&mut self, scope: &mut Scope<'_>) {
        let remote = self.remote.get_or_insert_default();
        let is_following = self.history.as_ref().is_some_and(|history| history.shared().is_some());
        if !scope.is_linked() || !is_following || remote.history.is_catching_up() {
            return;
        }
        scope.needs_reconcile |= remote.history.has_alone();
        for (user, address) in remote.history.ask_alone(ASKED_MAX, scope.is_link_young()) {
            if let Some(history) = &mut self.history {
                history.set_unsure(user.socket_id);
            }
            let (_, operation) = Operation::take_place(user, address, true);
            scope.command(Topic::Channel(self.name.clone()), operation);
        }
    }
}
