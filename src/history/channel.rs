//! The history of one channel: its last events, and how far known users have got them.
//! `registry` calls it under the lock of the channel.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::history::log::Entering;
use crate::history::log::EventLog;
use crate::history::log::Numbering;
use crate::history::log::Position;
use crate::history::numbers::SharedHistory;
use crate::history::reader::Place;
use crate::history::reader::Predecessor;
use crate::history::reader::Reader;
use crate::history::reader::Readers;
use crate::history::rule::HistoryRule;
use crate::history::totals::HistoryTotals;
use crate::protocol::frame::Frame;
use crate::protocol::identity::KnownUser;
use crate::protocol::socket_id::SocketId;

/// Between two looks for events and places that are too old.
const TICK: Duration = Duration::from_secs(1);

/// The history of a channel under its rule.
#[derive(Debug)]
pub struct ChannelHistory {
    pub(super) rule: Arc<HistoryRule>,
    pub(super) log: EventLog,
    pub(super) readers: Readers,
    ticked_at: Option<Instant>,
    /// This node is about to follow the numbers that Redis gives.
    is_beginning: bool,
    /// No event of this node waits for Redis.
    is_settled: bool,
    /// There while this node follows the numbers that Redis gives.
    pub(super) shared: Option<Box<SharedHistory>>,
}

/// Events for a connection that joins, after the answer.
#[derive(Debug, Default)]
pub struct Welcome {
    /// There if events are missing before the others.
    pub gap: Option<Gap>,
    /// The events that the user has missed, or the last ones.
    pub events: Vec<Frame>,
    /// There for a known user.
    pub reader: Option<Arc<Reader>>,
}

/// Events that a user has missed and that are not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// How many.
    pub missed: Missed,
    /// Until then everything has arrived.
    pub since: Instant,
}

/// How many events a user has missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// So many.
    Events(u64),
    /// Some, or perhaps none.
    Unknown,
}

impl Missed {
    /// How many; `None` if nobody knows.
    pub fn count(self) -> Option<u64> {
        match self {
            Self::Events(missed) => Some(missed),
            Self::Unknown => None,
        }
    }
}

impl Gap {
    /// `None` if nothing is missing.
    pub(super) fn of(missed: Missed, since: Instant) -> Option<Self> {
        (missed != Missed::Events(0)).then_some(Self { missed, since })
    }
}

impl ChannelHistory {
    /// An empty one, whose bytes and places count for its app.
    pub fn new(rule: Arc<HistoryRule>, of_app: &Arc<HistoryTotals>) -> Self {
        Self {
            rule,
            log: EventLog::new(Arc::clone(of_app)),
            readers: Readers::new(Arc::clone(of_app)),
            ticked_at: None,
            is_beginning: false,
            is_settled: true,
            shared: None,
        }
    }

    /// The rule.
    pub fn rule(&self) -> &Arc<HistoryRule> {
        &self.rule
    }

    /// The number of the last event.
    pub fn last(&self) -> Position {
        self.log.last()
    }

    /// Takes another rule. Its bounds count from the next event on.
    pub fn set_rule(&mut self, rule: Arc<HistoryRule>) {
        self.rule = rule;
    }

    /// Whether somebody may miss or get the next event.
    pub fn is_wanted(&self) -> bool {
        !self.readers.is_empty() || self.rule.last() > 0
    }

    /// Whether there is nothing that waits for Redis. Until then events of this node are kept for users that may come here,
    /// although nobody is here.
    pub fn set_settled(&mut self, is_settled: bool) {
        self.is_settled = is_settled;
    }

    /// From now on every event is kept, since this node follows the numbers soon.
    pub fn expect_shared(&mut self) {
        self.is_beginning = true;
    }

    /// This node does not follow the numbers any more: nobody can miss anything.
    pub fn end_shared(&mut self) {
        (self.shared, self.is_beginning) = (None, false);
        self.log.clear();
    }

    /// An event goes to the subscribers. Returns its number; 0 if nobody can miss it, so that it is not kept.
    pub fn push(&mut self, frame: &Frame, except: Option<SocketId>, now: Instant) -> Position {
        self.push_shared(frame, except, Numbering::None, now)
    }

    /// Like [`Self::push`], for an event with a number on all nodes.
    pub fn push_shared(
        &mut self,
        frame: &Frame,
        except: Option<SocketId>,
        shared: Numbering,
        now: Instant,
    ) -> Position {
        if !self.is_wanted() && !self.is_beginning {
            return 0;
        }
        self.log.push(&Entering { frame, except, shared, at: now }, &self.rule, now)
    }

    /// A connection joins.
    pub fn join(&mut self, user: Option<&KnownUser>, now: Instant) -> Welcome {
        self.log.drop_old(&self.rule, now);
        let last = self.log.last();
        let Some(user) = user else { return Welcome { events: self.last_events(), ..Welcome::default() } };
        let predecessor = self.readers.take(&user.id, last, (self.rule.remembered(), now), |_| true);
        if let Some(Predecessor { socket_id, .. }) = predecessor {
            self.note_taken(&user.id, socket_id);
        }
        let from = predecessor.map_or(Place { position: last, since: now }, |predecessor| predecessor.place);
        let reader = Some(self.readers.open(&user.id, user.socket_id, from, last));
        let Some(Predecessor { socket_id, place }) = predecessor else {
            return Welcome { gap: None, events: self.last_events(), reader };
        };
        let (missed, events) = self.log.after(place.position, Some(socket_id));
        Welcome { gap: Gap::of(Missed::Events(missed), place.since), events, reader }
    }

    /// A connection that has joined turns out to be of a known user: later it may return. Events that an earlier
    /// connection has missed cannot be sent in order any more, so they are a gap.
    pub fn identify(&mut self, user: &KnownUser, now: Instant) -> Welcome {
        if self.readers.has(user.socket_id) {
            return Welcome::default();
        }
        let last = self.log.last();
        // A connection that answers is another tab. It has got what it was sent.
        let is_cut = |open: &Reader| open.is_silent(now);
        let missed = self.readers.take(&user.id, last, (self.rule.remembered(), now), is_cut);
        let gap = missed.and_then(|Predecessor { place, .. }| {
            Gap::of(Missed::Events(last.saturating_sub(place.position)), place.since)
        });
        // The gap has to arrive, too.
        let from = missed.filter(|_| gap.is_some()).map_or(Place { position: last, since: now }, |missed| missed.place);
        let reader = Some(self.readers.open(&user.id, user.socket_id, from, last));
        Welcome { gap, events: Vec::new(), reader }
    }

    /// A connection leaves: on purpose, or because it was cut off.
    pub fn leave(&mut self, socket_id: SocketId, is_cut: bool, now: Instant) {
        self.readers.leave(socket_id, is_cut, now);
    }

    /// Forgets what is too old.
    pub fn tick(&mut self, now: Instant) {
        if self.ticked_at.is_some_and(|ticked_at| now.saturating_duration_since(ticked_at) < TICK) {
            return;
        }
        self.ticked_at = Some(now);
        self.readers.forget_old(self.rule.remembered(), now);
        self.log.drop_old(&self.rule, now);
        if !self.is_wanted() && !self.is_beginning && self.is_settled {
            self.log.clear();
        }
    }

    /// Whether nobody can miss or get anything.
    pub fn is_idle(&mut self, now: Instant) -> bool {
        self.tick(now);
        self.readers.is_empty() && self.log.is_empty()
    }

    pub(super) fn last_events(&self) -> Vec<Frame> {
        self.log.last_events(self.rule.last())
    }
}
