//! The state of a topic on all nodes: one for each channel and for each watched user, which apply changes through it.

use std::time::Duration;
use std::time::Instant;

use crate::protocol::envelope::Change;
use crate::protocol::envelope::Topic;
use crate::registry::remote::command::Operation;
use crate::registry::remote::marked::Marked;
use crate::registry::remote::message::NodeMessage;
use crate::registry::remote::message::Snapshot;
use crate::registry::remote::roster::Effect;
use crate::registry::remote::roster::Gap;
use crate::registry::remote::roster::Roster;
use crate::registry::scope::Scope;

/// Users that a snapshot lacks are removed after this time. Their nodes may come back until then.
const UNCONFIRMED_TIME: Duration = Duration::from_secs(12);
/// Pause before a topic is opened again after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(3);
/// Messages that wait while a topic is opening.
const BUFFERED_MAX: usize = 20_000;

/// A topic that other nodes share.
#[derive(Debug, Default)]
pub(crate) struct RemoteTopic {
    phase: Phase,
    /// When to open the topic again, or to remove unconfirmed users.
    reconcile_at: Option<Instant>,
    /// The topic has to be opened again.
    reopen: bool,
    /// When a change last proved implausible.
    implausible_at: Option<Instant>,
}

#[derive(Debug, Default)]
enum Phase {
    /// Changes apply as they come. Without a link, only those of this node come.
    #[default]
    Ready,
    /// The topic's state is on its way. Changes wait.
    Opening(Opening),
    /// The topic's state has come. The changes that waited apply, and each must follow the one before it.
    Replaying,
}

/// A topic between the command to open it and the answer.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// The answer to the command. It has a mark if the state has a flow rule's snapshot.
    answer: Marked<Box<Snapshot>>,
    /// Messages in the order in which they came.
    pub(crate) buffered: Vec<NodeMessage>,
    /// An event has been cached meanwhile, so the snapshot's is older.
    pub(crate) has_newer_event: bool,
}

impl RemoteTopic {
    /// Whether the topic's state is on its way.
    pub(crate) fn is_opening(&self) -> bool {
        matches!(self.phase, Phase::Opening(_))
    }

    /// Whether the topic waits for the answer to the command of this number.
    pub(crate) fn awaits(&self, number: u64) -> bool {
        matches!(&self.phase, Phase::Opening(opening) if opening.answer.is_of(number))
    }

    /// Subscribes to the topic and fetches its state, unless that is on its way. Without a link nobody would carry out
    /// the command: the next link opens every topic.
    pub(crate) fn open(&mut self, topic: &Topic, scope: &Scope<'_>) {
        if !self.is_opening() && scope.is_linked() {
            let has_snapshot = matches!(topic, Topic::Channel(name) if scope.app.snapshot_max(name).is_some());
            let (number, operation) = Operation::open(has_snapshot);
            let phase = Phase::Opening(Opening { answer: Marked::new(number), ..Opening::default() });
            *self = Self { phase, implausible_at: self.implausible_at, ..Self::default() };
            scope.command(topic.clone(), operation);
        }
    }

    /// The topic's state has come. Returns it unless something that was published before it has not come yet.
    pub(crate) fn wait_for_mark(&mut self, state: Snapshot) -> Option<Snapshot> {
        match &mut self.phase {
            Phase::Opening(opening) if state.last_events.is_some() => {
                opening.answer.on_answer(Box::new(state)).map(|state| *state)
            }
            _ => Some(state),
        }
    }

    /// Everything has come that was published before the state of this number. Returns that if it has waited.
    pub(crate) fn on_mark(&mut self, number: u64) -> Option<Snapshot> {
        match &mut self.phase {
            Phase::Opening(opening) if opening.answer.is_of(number) => opening.answer.on_mark().map(|state| *state),
            _ => None,
        }
    }

    /// Takes the topic's state, with its number, if it waits for nothing but its mark.
    pub(crate) fn take_unmarked(&mut self) -> Option<(u64, Snapshot)> {
        match &mut self.phase {
            Phase::Opening(opening) => opening.answer.take_unmarked().map(|(number, state)| (number, *state)),
            Phase::Ready | Phase::Replaying => None,
        }
    }

    /// The topic's state has come, or does not come. The caller either applies the messages that waited and calls
    /// [`Self::end_replay`], or drops them and calls [`Self::reset`].
    pub(crate) fn end_opening(&mut self) -> Opening {
        match std::mem::replace(&mut self.phase, Phase::Replaying) {
            Phase::Opening(opening) => opening,
            Phase::Ready | Phase::Replaying => Opening::default(),
        }
    }

    /// The messages that waited are applied. Returns false if the topic is opening again.
    pub(crate) fn end_replay(&mut self, scope: &mut Scope<'_>) -> bool {
        if self.is_opening() {
            return false;
        }
        self.phase = Phase::Ready;
        if self.reopen {
            self.reopen_later(scope);
        }
        true
    }

    /// Ends the opening without the topic's state: this node decides alone.
    pub(crate) fn reset(&mut self) {
        self.phase = Phase::Ready;
    }

    /// Opens the topic again in a while.
    pub(crate) fn reopen_later(&mut self, scope: &mut Scope<'_>) {
        self.reopen = true;
        self.reconcile_after(RETRY_PAUSE, scope);
    }

    /// An event has been cached.
    pub(crate) fn on_cached(&mut self) {
        if let Phase::Opening(opening) = &mut self.phase {
            opening.has_newer_event = true;
        }
    }

    /// Keeps a message until the topic is open. Beyond the bound the topic is opened again.
    pub(crate) fn buffer(&mut self, message: NodeMessage) {
        match &mut self.phase {
            Phase::Opening(opening) if opening.buffered.len() < BUFFERED_MAX => opening.buffered.push(message),
            _ => self.reopen = true,
        }
    }

    /// Merges a snapshot into the roster. Users that it lacks stay for a while.
    pub(crate) fn merge(&mut self, roster: &mut Roster, snapshot: &Snapshot, scope: &mut Scope<'_>) -> Vec<Effect> {
        let effects = roster.merge(snapshot.version, &snapshot.entries, scope.node());
        if roster.has_unconfirmed() {
            self.reconcile_after(UNCONFIRMED_TIME, scope);
        }
        effects
    }

    /// Applies a change to the roster, now or once the topic is open.
    pub(crate) fn apply(
        &mut self,
        roster: &mut Roster,
        change: Change,
        topic: &Topic,
        scope: &mut Scope<'_>,
    ) -> Option<Effect> {
        if self.is_opening() {
            self.buffer(NodeMessage::Member(change));
            return None;
        }
        if change.node == scope.node() && change.by != change.node {
            // Another node has removed this node's users, as if this node had crashed.
            self.open(topic, scope);
            return None;
        }
        match roster.apply(&change) {
            Ok(effect) => return effect,
            Err(Gap) if matches!(self.phase, Phase::Replaying) => {
                self.implausible_at = Some(scope.now);
                scope.report_implausible();
            }
            // To open the topic again at once would most likely be in vain.
            Err(Gap) if self.implausible_at.is_some_and(|at| scope.now.saturating_duration_since(at) < RETRY_PAUSE) => {
                scope.report_implausible();
                self.reopen_later(scope);
            }
            Err(Gap) => {
                self.open(topic, scope);
                self.buffer(NodeMessage::Member(change));
            }
        }
        None
    }

    fn reconcile_after(&mut self, pause: Duration, scope: &mut Scope<'_>) {
        self.reconcile_at.get_or_insert(scope.now + pause);
        scope.needs_reconcile = true;
    }

    /// When it is time, opens the topic again or removes the unconfirmed users.
    pub(crate) fn reconcile(
        &mut self,
        roster: Option<&mut Roster>,
        topic: &Topic,
        scope: &mut Scope<'_>,
    ) -> Vec<Effect> {
        if self.reconcile_at.take_if(|at| *at <= scope.now).is_none() {
            scope.needs_reconcile |= self.reconcile_at.is_some();
            return Vec::new();
        }
        if std::mem::take(&mut self.reopen) && scope.is_linked() {
            self.open(topic, scope);
            return Vec::new();
        }
        roster.map(Roster::remove_unconfirmed).unwrap_or_default()
    }
}
