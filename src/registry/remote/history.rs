//! The part of a channel's history that concerns other nodes: joiners whose users' places Redis looks for, and events
//! that wait while this node catches up with the numbers. `channel/shared.rs` decides.

use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;

use crate::history::numbers::Found;
use crate::history::numbers::HistoryEvent;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::identity::KnownUser;
use crate::protocol::numbered::EventNumber;
use crate::protocol::socket_id::SocketId;
use crate::registry::address::Address;
use crate::registry::remote::joiners::WAIT_MAX;
use crate::registry::remote::marked::Marked;
use crate::registry::subscription::Joiner;

/// Pause before this node catches up again after a failure, or after something was missing twice.
const RETRY_PAUSE: Duration = Duration::from_secs(3);
/// Events that may wait while this node catches up.
const WAITING_MAX: usize = 20_000;
/// Bytes of these events.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The state of one channel.
#[derive(Debug, Default)]
pub(crate) struct RemoteHistory {
    catching_up: Option<Box<CatchingUp>>,
    /// Until then this node does not catch up again.
    paused_until: Option<Instant>,
    joining: Vec<Joining>,
    /// Connections that have joined without an answer of Redis.
    alone: HashMap<SocketId, Alone>,
    /// Events are missing that Redis may have: this node has to catch up as soon as it may.
    pub(crate) is_behind: bool,
    /// When the link was lost.
    pub(crate) lost_at: Option<Instant>,
    /// When the first connection joined without a link, if this node has not caught up since.
    pub(crate) joined_unlinked: Option<Instant>,
}

/// Between the command to catch up, its answer and its mark.
#[derive(Debug)]
struct CatchingUp {
    answer: Marked<CaughtUp>,
    waiting: Vec<Waiting>,
    /// Of the events that wait.
    bytes: usize,
}

/// A message that waits until this node has caught up.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// An event of another node.
    Event(RemoteEvent, Option<EventNumber>),
    /// The number of an event of this node, with its number here.
    Own(u64, EventNumber),
}

impl Waiting {
    /// An event that Redis could not store.
    pub(crate) fn is_unnumbered(&self) -> bool {
        matches!(self, Self::Event(_, None))
    }

    /// Takes the events without a number that the node of this event has published before it.
    pub(crate) fn take_unnumbered_before(waiting: &mut Vec<Self>, later: &RemoteEvent) -> Vec<RemoteEvent> {
        let is_before = |message: &mut Self| matches!(message, Self::Event(event, None) if event.node == later.node && event.number < later.number);
        let taken = waiting.extract_if(.., is_before);
        taken.filter_map(|message| if let Self::Event(event, _) = message { Some(event) } else { None }).collect()
    }
}

/// The events that Redis has stored, up to a number.
#[derive(Debug)]
pub struct CaughtUp {
    /// The number of the last event.
    pub number: EventNumber,
    /// The events, the first one first.
    pub stored: Vec<HistoryEvent>,
}

/// A connection that joins once its user's place is known.
#[derive(Debug)]
struct Joining {
    /// The number of the command.
    number: u64,
    joiner: Joiner,
    /// There once Redis has answered.
    found: Option<Option<Found>>,
}

/// A connection that has joined by what this node alone knew.
#[derive(Debug)]
struct Alone {
    user: KnownUser,
    address: Address,
    /// Redis is asked.
    is_asked: bool,
    /// Redis has answered while the link was young, and has to be asked again.
    waits: bool,
}

impl RemoteHistory {
    /// Whether events wait.
    pub(crate) fn is_catching_up(&self) -> bool {
        self.catching_up.is_some()
    }

    /// Whether this node may catch up now.
    pub(crate) fn may_catch_up(&self, now: Instant) -> bool {
        self.catching_up.is_none() && self.paused_until.is_none_or(|until| until <= now)
    }

    /// Catches up from now on, by the command of this number.
    pub(crate) fn catch_up(&mut self, number: u64) {
        let answer = Marked::new(number);
        self.catching_up = Some(Box::new(CatchingUp { answer, waiting: Vec::new(), bytes: 0 }));
    }

    /// The link is lost.
    pub(crate) fn on_unlinked(&mut self, now: Instant) {
        self.lost_at.get_or_insert(now);
        self.paused_until = None;
    }

    /// Does not catch up again soon.
    pub(crate) fn pause(&mut self, now: Instant) {
        self.paused_until = Some(now + RETRY_PAUSE);
    }

    /// Keeps a message until this node has caught up. Gives it back if it does not, or if too many wait.
    pub(crate) fn wait(&mut self, message: Waiting) -> Option<Waiting> {
        let Some(catching_up) = &mut self.catching_up else { return Some(message) };
        if catching_up.waiting.len() >= WAITING_MAX || catching_up.bytes >= WAITING_BYTES_MAX {
            return Some(message);
        }
        if let Waiting::Event(event, _) = &message {
            catching_up.bytes += event.frame.bytes().len();
        }
        catching_up.waiting.push(message);
        None
    }

    /// The command of this number has an answer. Returns it once its mark has come, with what waited.
    pub(crate) fn on_answer(&mut self, number: u64, answer: CaughtUp) -> Option<(CaughtUp, Vec<Waiting>)> {
        let catching_up = self.catching_up.as_mut().filter(|catching_up| catching_up.answer.is_of(number))?;
        let answer = catching_up.answer.on_answer(answer)?;
        Some((answer, self.give_up()))
    }

    /// The mark of the command of this number has come. Returns the answer if that has, with what waited.
    pub(crate) fn on_mark(&mut self, number: u64) -> Option<(CaughtUp, Vec<Waiting>)> {
        let catching_up = self.catching_up.as_mut().filter(|catching_up| catching_up.answer.is_of(number))?;
        let answer = catching_up.answer.on_mark()?;
        Some((answer, self.give_up()))
    }

    /// Whether the command to catch up has this number.
    pub(crate) fn awaits(&self, number: u64) -> bool {
        self.catching_up.as_ref().is_some_and(|catching_up| catching_up.answer.is_of(number))
    }

    /// Catches up no more. Returns what waited.
    pub(crate) fn give_up(&mut self) -> Vec<Waiting> {
        self.catching_up.take().map(|catching_up| catching_up.waiting).unwrap_or_default()
    }

    /// A connection joins once the command of this number has an answer; at once with none.
    pub(crate) fn join(&mut self, number: Option<u64>, joiner: Joiner) {
        let found = if number.is_some() { None } else { Some(None) };
        self.joining.push(Joining { number: number.unwrap_or_default(), joiner, found });
    }

    /// Redis has looked for a place. False if nobody waits for it any more.
    pub(crate) fn on_found(&mut self, number: u64, found: Option<Found>) -> bool {
        let joining = self.joining.iter_mut().find(|joining| joining.number == number && joining.found.is_none());
        joining.map(|joining| joining.found = Some(found)).is_some()
    }

    /// Takes the joiner of a command that has failed.
    pub(crate) fn take(&mut self, number: u64) -> Option<Joiner> {
        let of_command = |joining: &Joining| joining.number == number && joining.found.is_none();
        let index = self.joining.iter().position(of_command)?;
        Some(self.joining.remove(index).joiner)
    }

    /// Takes the joiners whose places are known, unless this node is catching up.
    pub(crate) fn take_found(&mut self) -> Vec<(Joiner, Option<Found>)> {
        if self.is_catching_up() {
            return Vec::new();
        }
        let found = self.joining.extract_if(.., |joining| joining.found.is_some());
        found.map(|joining| (joining.joiner, joining.found.flatten())).collect()
    }

    /// Takes the joiners that have waited long enough.
    pub(crate) fn take_overdue(&mut self, now: Instant) -> Vec<Joiner> {
        let is_overdue = |joining: &mut Joining| now.saturating_duration_since(joining.joiner.came) >= WAIT_MAX;
        self.joining.extract_if(.., is_overdue).map(|joining| joining.joiner).collect()
    }

    /// Takes all joiners: the link is lost.
    pub(crate) fn take_all(&mut self) -> Vec<Joiner> {
        self.alone.values_mut().for_each(|alone| alone.is_asked = false);
        self.joining.drain(..).map(|joining| joining.joiner).collect()
    }

    /// Removes a joiner. `None` when it does not wait.
    pub(crate) fn remove(&mut self, address: Address) -> Option<Joiner> {
        let index = self.joining.iter().position(|joining| joining.joiner.address == address)?;
        Some(self.joining.remove(index).joiner)
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.joining.is_empty()
    }

    /// A connection joins by what this node alone knows. If it `waits`, Redis is asked only once the link is older.
    pub(crate) fn join_alone(&mut self, user: &KnownUser, address: Address, waits: bool) {
        self.alone.insert(user.socket_id, Alone { user: user.clone(), address, is_asked: false, waits });
    }

    /// Whether a connection has joined so, and Redis has not answered so far.
    pub(crate) fn is_alone(&self, socket_id: SocketId) -> bool {
        self.alone.contains_key(&socket_id)
    }

    /// Whether there are such connections.
    pub(crate) fn has_alone(&self) -> bool {
        !self.alone.is_empty()
    }

    /// The connection is known everywhere, or it has left.
    pub(crate) fn end_alone(&mut self, socket_id: SocketId) {
        self.alone.remove(&socket_id);
    }

    /// Redis could not answer.
    pub(crate) fn ask_again(&mut self, socket_id: SocketId) {
        if let Some(alone) = self.alone.get_mut(&socket_id) {
            alone.is_asked = false;
        }
    }

    /// Takes some of those connections, to ask for them.
    pub(crate) fn ask_alone(&mut self, max: usize, is_young: bool) -> Vec<(KnownUser, Address)> {
        let is_due = |alone: &&mut Alone| !(alone.is_asked || alone.waits && is_young);
        let unasked = self.alone.values_mut().filter(is_due).take(max);
        unasked
            .map(|alone| {
                alone.is_asked = true;
                (alone.user.clone(), alone.address)
            })
            .collect()
    }
}
