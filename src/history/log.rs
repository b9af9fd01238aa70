//! The last events of a channel, numbered, within the bounds of its rule and of its app. In a cluster an event has a
//! second number, which all nodes share.
//! `channel` appends to it and reads what somebody has missed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::history::rule::HistoryRule;
use crate::history::totals::HistoryTotals;
use crate::protocol::frame::Frame;
use crate::protocol::numbered::EventNumber;
use crate::protocol::socket_id::SocketId;

/// The memory of an event besides its frame.
const OVERHEAD: usize = 128;

/// Events of this node that may wait for their numbers after they are gone.
const UNNUMBERED_MAX: usize = 100_000;

/// The number of an event on its channel and node, counted from one; also the place behind it. 0 is the place before
/// all events.
pub type Position = u64;

/// The last events of a channel.
#[derive(Debug)]
pub(super) struct EventLog {
    entries: VecDeque<Entry>,
    /// The number of the last event, kept or not.
    last: Position,
    bytes: usize,
    of_app: Arc<HistoryTotals>,
    /// The greatest shared number of an event that is gone.
    gone: u64,
    /// The places of this node's own events without a shared number so far, each with its number on the node.
    unnumbered: VecDeque<(Position, u64)>,
    /// The last event of this node that has a shared number.
    last_own: u64,
}

#[derive(Debug)]
struct Entry {
    frame: Frame,
    /// The connection that must not get it.
    except: Option<SocketId>,
    at: Instant,
    shared: Numbering,
}

/// The number of an event that all nodes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbering {
    /// It has none: it concerns this node alone.
    None,
    /// It is no event of the channel, but says that some are missing.
    Gap,
    /// It is on its way to Redis. With it goes this number, which grows with the events of this node.
    Own(u64),
    /// Redis has given it this number.
    Number(u64),
}

impl Numbering {
    /// Of an event of another node.
    pub fn of(number: Option<EventNumber>) -> Self {
        number.map_or(Self::None, |number| Self::Number(number.number))
    }
}

/// An event for the log.
#[derive(Debug, Clone, Copy)]
pub struct Entering<'a> {
    /// The frame for all subscribers.
    pub frame: &'a Frame,
    /// The connection that must not get it.
    pub except: Option<SocketId>,
    /// Its number on all nodes.
    pub shared: Numbering,
    /// When it came.
    pub at: Instant,
}

/// An event that is taken out of the log.
pub(super) type Taken = (Frame, Option<SocketId>, Numbering, Instant);

impl Entry {
    /// Whether it comes after a shared number.
    fn is_after(&self, number: u64) -> bool {
        match self.shared {
            Numbering::None | Numbering::Gap => false,
            Numbering::Own(_) => true,
            Numbering::Number(own) => own > number,
        }
    }
}

impl EventLog {
    pub(super) fn new(of_app: Arc<HistoryTotals>) -> Self {
        let last = of_app.numbered();
        Self { entries: VecDeque::new(), last, bytes: 0, of_app, gone: 0, unnumbered: VecDeque::new(), last_own: 0 }
    }

    /// The number of the last event.
    pub(super) fn last(&self) -> Position {
        self.last
    }

    /// Whether no event is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends an event, and drops those beyond the bounds. Returns its number.
    pub(super) fn push(&mut self, event: &Entering<'_>, rule: &HistoryRule, now: Instant) -> Position {
        let Entering { frame, except, shared, at } = *event;
        let cost = cost(frame);
        self.last += 1;
        self.bytes += cost;
        self.of_app.add(cost);
        self.entries.push_back(Entry { frame: frame.clone(), except, at, shared });
        if let Numbering::Own(number) = shared {
            self.unnumbered.push_back((self.last, number));
        }
        while self.entries.len() > rule.events_max || self.bytes > rule.bytes_max {
            self.drop_first();
        }
        while self.of_app.is_full() && self.drop_first() {
            self.of_app.evict();
        }
        self.drop_old(rule, now);
        self.last
    }

    /// Drops events that are too old.
    pub(super) fn drop_old(&mut self, rule: &HistoryRule, now: Instant) {
        while self.entries.front().is_some_and(|entry| now.saturating_duration_since(entry.at) > rule.time()) {
            self.drop_first();
        }
    }

    /// Drops all events.
    pub(super) fn clear(&mut self) {
        while self.drop_first() {}
        self.entries.shrink_to_fit();
        self.gone = 0;
    }

    /// Redis has given a number to an event of this node. Earlier ones that it has not numbered get the same.
    pub(super) fn number_own(&mut self, own: u64, number: u64) {
        if own <= self.last_own {
            // It was sent twice.
            return;
        }
        self.last_own = own;
        let mut is_here = false;
        while let Some(&(position, waiting)) = self.unnumbered.front()
            && waiting <= own
        {
            self.unnumbered.pop_front();
            if let Some(entry) = self.index(position).and_then(|index| self.entries.get_mut(index)) {
                entry.shared = Numbering::Number(number);
                is_here = true;
            }
        }
        if !is_here {
            self.gone = self.gone.max(number);
        }
    }

    /// The greatest shared number of an event that is gone: this log has no earlier one, either.
    pub(super) fn gone(&self) -> u64 {
        self.gone
    }

    /// Events up to this shared number are not in this log.
    pub(super) fn begin_after(&mut self, number: u64) {
        self.gone = self.gone.max(number);
    }

    /// The greatest shared number so that every event up to it stands before a place; `None` if events behind the place
    /// are gone. All up to `received` have come.
    pub(super) fn shared_at(&self, position: Position, received: u64) -> Option<u64> {
        let from = self.index(position + 1)?;
        let after = self.entries.iter().skip(from).filter_map(|entry| match entry.shared {
            Numbering::Number(number) => Some(number.saturating_sub(1)),
            Numbering::None | Numbering::Gap | Numbering::Own(_) => None,
        });
        after.chain([received]).min()
    }

    /// The events after a shared number, without those that exclude this connection. One that is on its way to Redis
    /// comes after all numbers.
    pub(super) fn after_shared(&self, number: u64, except: Option<SocketId>) -> Vec<Frame> {
        let after = self.entries.iter().filter(|entry| entry.is_after(number));
        let own = after.filter(|entry| except.is_none() || entry.except != except);
        own.map(|entry| entry.frame.clone()).collect()
    }

    /// The last events, so many at most.
    pub(super) fn last_events(&self, max: usize) -> Vec<Frame> {
        let events = self.entries.iter().rev().filter(|entry| entry.shared != Numbering::Gap).take(max);
        let mut frames: Vec<Frame> = events.map(|entry| entry.frame.clone()).collect();
        frames.reverse();
        frames
    }

    /// The place before the first event after a shared number.
    pub(super) fn position_before(&self, number: u64) -> Position {
        let first = self.entries.iter().position(|entry| entry.is_after(number));
        first.map_or(self.last, |index| self.first() - 1 + index as u64)
    }

    /// Takes all events out, the first one first. Each of this node comes with its number here, and has its shared one if
    /// `number_of` knows that. Earlier ones without get the same.
    pub(super) fn take_numbered(&mut self, number_of: impl Fn(u64) -> Option<u64>) -> Vec<(Option<u64>, Taken)> {
        let mut next = None;
        let mut all = Vec::with_capacity(self.entries.len());
        for entry in self.entries.iter().rev() {
            let (mut shared, mut own) = (entry.shared, None);
            if let Numbering::Own(number) = shared {
                own = Some(number);
                next = number_of(number).or(next);
                shared = next.map_or(shared, Numbering::Number);
            } else if let Numbering::Number(_) = shared {
                // Redis has stored it.
                continue;
            }
            all.push((own, (entry.frame.clone(), entry.except, shared, entry.at)));
        }
        all.reverse();
        self.unnumbered.clear();
        self.clear();
        all
    }

    /// The number of the first event that is kept, or of the next one.
    fn first(&self) -> Position {
        self.last + 1 - self.entries.len() as u64
    }

    fn index(&self, position: Position) -> Option<usize> {
        position.checked_sub(self.first()).and_then(|index| usize::try_from(index).ok())
    }

    /// The events after a place, without those that exclude this connection, and how many are not kept any more.
    pub(super) fn after(&self, position: Position, except: Option<SocketId>) -> (u64, Vec<Frame>) {
        let before_first = self.last - self.entries.len() as u64;
        let missed = before_first.saturating_sub(position);
        let from = usize::try_from(position.saturating_sub(before_first)).unwrap_or(usize::MAX);
        let own = self.entries.iter().skip(from).filter(|entry| except.is_none() || entry.except != except);
        (missed, own.map(|entry| entry.frame.clone()).collect())
    }

    fn drop_first(&mut self) -> bool {
        let Some(entry) = self.entries.pop_front() else { return false };
        let cost = cost(&entry.frame);
        self.bytes -= cost;
        self.of_app.subtract(cost);
        match entry.shared {
            Numbering::None | Numbering::Gap => (),
            Numbering::Own(_) if self.unnumbered.len() > UNNUMBERED_MAX => drop(self.unnumbered.pop_front()),
            Numbering::Own(_) => (),
            Numbering::Number(number) => self.gone = self.gone.max(number),
        }
        true
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        self.of_app.subtract(self.bytes);
        self.of_app.set_numbered(self.last);
    }
}

fn cost(frame: &Frame) -> usize {
    frame.bytes().len() + OVERHEAD
}
