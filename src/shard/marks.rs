//! Marks: pings that tell how far a client has got the events of channels with a history. A client answers a ping
//! after everything before it (RFC 6455, 5.5.3), whatever library it has, so the answer confirms all of that.
//! The shard sends them to those that have got something since, a few times a second if they are few.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::history::log::Position;
use crate::history::reader::Reader;
use crate::protocol::frame::Frame;
use crate::registry::address::Slot;
use crate::registry::inbox::ChannelId;
use crate::shard::Shard;
use crate::shard::outbox::Piece;
use crate::shard::wheel::Tick;

/// The time between two rounds of marks, for each connection that may get one.
const TIME_FOR_EACH: Duration = Duration::from_millis(1);
/// The shortest and the longest time between two rounds: what is not confirmed comes twice after a cut.
const TIMES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// A mark without an answer is sent anew after so many ticks: a client may answer a later ping instead.
const REPEATED_AFTER: Tick = 10;

/// The marks of one connection.
#[derive(Debug, Default)]
pub(super) struct Marks {
    tracked: Vec<Tracked>,
    number: u32,
    sent: Option<Sent>,
}

/// A channel whose events the client has to confirm.
#[derive(Debug)]
struct Tracked {
    id: ChannelId,
    reader: Arc<Reader>,
    marked: Position,
}

/// The mark that has no answer so far.
#[derive(Debug)]
struct Sent {
    at: Tick,
    since: Instant,
    confirms: Vec<(Arc<Reader>, Position)>,
}

impl Shard {
    /// The client of a connection has to confirm the events of a channel.
    pub(super) fn on_tracked(&mut self, slot: Slot, id: ChannelId, reader: Arc<Reader>) {
        let Some(connection) = self.connections.get_mut(slot).filter(|one| one.session().is_some()) else { return };
        // The events that it got when it joined have to be confirmed, too.
        let marked = reader.confirmed().position;
        let marks = connection.marks.get_or_insert_default();
        if marks.tracked.iter().any(|tracked| tracked.id == id) {
            // There is something new to confirm, which the last mark came before.
            marks.tracked.retain(|tracked| tracked.id != id);
            marks.sent = None;
        }
        marks.tracked.push(Tracked { id, reader, marked });
        self.tracked.insert(slot);
    }

    /// A connection has left a channel.
    pub(super) fn stop_tracking(&mut self, slot: Slot, id: ChannelId) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let Some(marks) = &mut connection.marks else { return };
        marks.tracked.retain(|tracked| tracked.id != id);
        connection.marks.take_if(|marks| marks.tracked.is_empty());
    }

    /// Sends a mark to each client that has got something to confirm, unless the last round was just now.
    pub(super) fn send_marks(&mut self) {
        if self.tracked.is_empty() || self.now < self.next_marks {
            return;
        }
        let time = TIME_FOR_EACH * u32::try_from(self.tracked.len()).unwrap_or(u32::MAX);
        self.next_marks = self.now + time.clamp(TIMES[0], TIMES[1]);
        let (now, instant) = (self.wheel.now(), self.now);
        let mut due = Vec::new();
        let (connections, channels) = (&mut self.connections, &self.channels);
        self.tracked.retain(|slot| {
            let Some(connection) = connections.get_mut(*slot) else { return false };
            let waits = connection.has_lost_frames || connection.is_behind || connection.session().is_none();
            let Some(marks) = &mut connection.marks else { return false };
            if waits || marks.sent.as_ref().is_some_and(|sent| now - sent.at < REPEATED_AFTER) {
                return true;
            }
            let mut is_new = marks.sent.is_some();
            for tracked in &mut marks.tracked {
                let flushed = channels.get(&tracked.id).map_or(0, |channel| channel.flushed);
                let position = flushed.max(tracked.reader.joined_at());
                is_new |= position > tracked.marked;
                tracked.marked = position;
            }
            if is_new {
                let confirm = |tracked: &Tracked| (Arc::clone(&tracked.reader), tracked.marked);
                let confirms: Vec<_> = marks.tracked.iter().map(confirm).collect();
                confirms.iter().for_each(|(reader, _)| reader.ask(instant));
                marks.number = marks.number.wrapping_add(1);
                marks.sent = Some(Sent { at: now, since: instant, confirms });
                due.push((*slot, marks.number));
            }
            true
        });
        for (slot, number) in due {
            self.queue(slot, Piece::own(Frame::ping_with(&number.to_be_bytes()).bytes().clone()));
        }
    }

    /// The answer to a ping has come.
    pub(super) fn on_pong(&mut self, slot: Slot, payload: &[u8]) {
        let marks = self.connections.get_mut(slot).and_then(|connection| connection.marks.as_mut());
        let Some(marks) = marks.filter(|marks| payload == marks.number.to_be_bytes()) else { return };
        let Some(sent) = marks.sent.take() else { return };
        for (reader, position) in sent.confirms {
            reader.confirm(position, sent.since);
        }
    }

    /// Whether a client has left a mark unanswered for long, so that it may not have got what was sent since.
    pub(super) fn is_unconfirmed_long(&self, slot: Slot) -> bool {
        let marks = self.connections.get(slot).and_then(|connection| connection.marks.as_ref());
        marks.is_some_and(|marks| marks.tracked.iter().any(|tracked| tracked.reader.is_silent(self.now)))
    }
}
