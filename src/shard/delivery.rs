//! Delivery: from an event to pending frames, outboxes and sockets.
//! The shard calls it for messages of its inbox and at the end of each turn.

use std::io::Write;
use std::time::Instant;

use bytes::Bytes;
use indexmap::IndexSet;

use crate::metrics::DropCause;
use crate::protocol::channel::ChannelName;
use crate::protocol::frame::Frame;
use crate::protocol::frame::frame_ends;
use crate::protocol::frame::payload_len;
use crate::registry::address::Slot;
use crate::registry::inbox::ChannelId;
use crate::registry::inbox::Event;
use crate::session::Session;
use crate::shard::Shard;
use crate::shard::batch::Batch;
use crate::shard::channel::Channel;
use crate::shard::channel::Flush;
use crate::shard::connection::ClientConnection;
use crate::shard::connection::OnceSent;
use crate::shard::connection::Phase;
use crate::shard::outbox::Load;
use crate::shard::outbox::Piece;
use crate::shard::time_slice::TimeSlice;

/// A frame of this size for one connection is written at once.
const LARGE_BYTES: usize = 64 * 1024;
/// Writes between two looks at the clock.
const WRITES: u32 = 8;

impl Shard {
    /// Appends an event to its channel, to be sent at the end of the turn.
    pub(super) fn on_event(&mut self, id: ChannelId, event: Event) {
        // The last subscriber may have left while the event was in the inbox.
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.push(event) {
            self.pending.push(id);
        }
        if channel.is_heavy() {
            self.flush(id);
        }
    }

    /// Adds a connection to a channel: first its answers, then the channel's events.
    pub(super) fn on_joined(&mut self, slot: Slot, id: ChannelId, answers: &[Frame]) {
        let connection = self.connections.get_mut(slot);
        let Some(session) = connection.and_then(|connection| connection.session_mut()) else { return };
        session.on_joined();
        if session.has_deferred() {
            self.read_later(slot);
        }
        self.on_mirror(slot, id);
        for frame in answers {
            self.send(slot, frame);
        }
    }

    /// Adds a connection to a channel or a view.
    pub(super) fn on_mirror(&mut self, slot: Slot, id: ChannelId) {
        let connection = self.connections.get_mut(slot);
        let Some(session) = connection.and_then(|connection| connection.session()) else { return };
        let channel = self.channels.entry(id).or_insert_with(|| Channel::new(session.meters().clone()));
        channel.join(slot);
    }

    /// Tells a connection that it cannot join a channel.
    pub(super) fn on_refused(&mut self, slot: Slot, channel: &ChannelName) {
        let connection = self.connections.get_mut(slot);
        let Some(session) = connection.and_then(|connection| connection.session_mut()) else { return };
        let frames = session.on_refused(channel, self.now);
        if session.has_deferred() {
            self.read_later(slot);
        }
        for frame in frames {
            self.send(slot, &frame);
        }
    }

    /// Removes a connection from a channel. It still gets the pending events.
    pub(super) fn on_unsubscribed(&mut self, slot: Slot, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let connection = self.connections.get_mut(slot).filter(|connection| !connection.has_lost_frames);
        let socket_id = connection.and_then(|connection| connection.session()).map(Session::socket_id);
        let events = channel.leave(slot, socket_id);
        if let Some(behind) = &mut channel.behind {
            behind.take(slot, None);
        }
        channel.behind.take_if(|behind| behind.is_empty());
        if channel.subscribers.is_empty() {
            self.channels.remove(&id);
        }
        self.stop_tracking(slot, id);
        for event in events {
            let frame = self.frame_for(slot, &event);
            let piece = self.shared.piece(frame.bytes(), &self.shared_bytes);
            self.queue(slot, piece);
        }
    }

    /// Queues a frame for one connection.
    pub(super) fn send(&mut self, slot: Slot, frame: &Frame) {
        let connection = self.connections.get_mut(slot).filter(|connection| !connection.has_lost_frames);
        let Some(session) = connection.as_deref().and_then(ClientConnection::session) else { return };
        session.meters().messages_sent.inc();
        session.meters().transmitted_bytes.inc_by(frame.payload_len() as u64);
        let piece = self.shared.piece(frame.bytes(), &self.shared_bytes);
        self.queue(slot, piece);
        // Memory of a single connection does not wait for the end of the turn.
        if frame.bytes().len() > LARGE_BYTES {
            self.write(slot);
        }
    }

    /// Appends whole frames to a connection's outbox.
    pub(super) fn queue(&mut self, slot: Slot, piece: Piece) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if connection.outbox.is_empty() {
            connection.last_progress = self.now;
            self.unwritten.push(slot);
        }
        let before = connection.outbox.load();
        connection.outbox.push(piece);
        self.load.follow(before, connection.outbox.load());
        if connection.outbox.cost() > self.node.connections().outbox_bytes_max {
            self.mark_lagging(slot);
        }
    }

    /// Queues the answer to a ping. A blocked connection gets only the newest.
    pub(super) fn queue_pong(&mut self, slot: Slot, pong: &Frame) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let mut pong = Some(Piece::pong(pong.bytes().clone()));
        if connection.blocked {
            let before = connection.outbox.load();
            pong = pong.and_then(|pong| connection.outbox.replace_pong(pong));
            self.load.follow(before, connection.outbox.load());
        }
        if let Some(pong) = pong {
            self.queue(slot, pong);
        }
    }

    /// Sends the pending events of all channels.
    pub(super) async fn flush_all(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        let mut slice = TimeSlice::begin(1);
        for id in pending.drain(..) {
            self.flush(id);
            slice.yield_if_over().await;
        }
        self.pending = pending;
    }

    /// Sends the pending events of a channel to its subscribers on this shard. Invariant: a socket whose outbox holds
    /// bytes gets nothing past it.
    fn flush(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let flush = channel.take();
        if flush.batch.frames() == 0 {
            return;
        }
        let subscribers = std::mem::take(&mut channel.subscribers);
        let meters = channel.meters.clone();
        let mut sent = Sent::default();
        if flush.is_thinned() || channel.behind.is_some() {
            self.deliver_thinned(id, &subscribers, &flush, &mut sent);
        } else if self.compressor.is_some() {
            for &slot in &subscribers {
                self.deliver_form(slot, &flush, &mut sent);
            }
        } else {
            for &slot in &subscribers {
                self.deliver(slot, &flush, &flush.batch, &mut sent);
            }
        }
        // Nothing above changes the subscribers, so the set goes back as it was.
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.subscribers = subscribers;
        }
        meters.deliveries.inc_by(sent.frames);
        meters.messages_sent.inc_by(sent.frames);
        meters.transmitted_bytes.inc_by(sent.payload_bytes);
        if let Some(meters) = self.node.compression() {
            meters.saved_bytes.inc_by(sent.saved_bytes);
        }
        let latency = &self.node.metrics().publish_to_socket;
        let now = Instant::now();
        for event in &flush.events {
            latency.observe(now.duration_since(event.accepted).as_secs_f64());
        }
    }

    /// Delivers to those whose sockets take it. The others fall behind, unless the flush has an event that cannot wait.
    fn deliver_thinned(&mut self, id: ChannelId, subscribers: &IndexSet<Slot>, flush: &Flush, sent: &mut Sent) {
        let (can_wait, has_forms) = (flush.can_wait(), self.compressor.is_some());
        let mut late = Vec::new();
        for &slot in subscribers {
            self.limit_unsent(slot);
            if can_wait && self.is_blocked(slot) {
                late.push((slot, flush.first_for(slot)));
            } else {
                self.catch_up_on(slot, id);
                if has_forms {
                    self.deliver_form(slot, flush, sent);
                } else {
                    self.deliver(slot, flush, &flush.batch, sent);
                }
            }
        }
        if !late.is_empty() {
            self.fall_behind(id, flush, &late);
        }
    }

    /// Writes or queues `batch`, which holds a form of each event of the flush.
    pub(super) fn deliver(&mut self, slot: Slot, flush: &Flush, batch: &Batch, sent: &mut Sent) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let Some(session) = connection.session() else { return };
        if connection.has_lost_frames {
            return session.meters().dropped(DropCause::SlowReader, batch.frames() as u64);
        }
        let part = if flush.is_plain() { None } else { flush.part(slot, session.socket_id(), batch) };
        if let Some(pieces) = part {
            let whole = batch.whole();
            for piece in pieces {
                sent.count_piece(&whole[piece.clone()]);
                // A small piece must not keep a large batch in memory.
                let is_small = piece.len() < whole.len() / 2;
                self.queue(
                    slot,
                    match is_small {
                        true => Piece::own(Bytes::copy_from_slice(&whole[piece])),
                        false => Piece::shared(batch.waiting(&self.shared_bytes).slice(piece)),
                    },
                );
            }
            return;
        }
        sent.frames += batch.frames() as u64;
        sent.payload_bytes += batch.payload_bytes() as u64;
        // With one channel no other piece will join this one, so do not wait.
        if session.channel_count() == 1 && connection.outbox.is_empty() {
            self.write_now(slot, batch);
        } else {
            self.queue(slot, Piece::shared(batch.waiting(&self.shared_bytes).clone()));
        }
    }

    /// Writes to a connection with an empty outbox, and queues the rest.
    fn write_now(&mut self, slot: Slot, batch: &Batch) {
        let bytes = batch.whole();
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let written = match connection.socket.write(bytes) {
            Ok(written) if written == bytes.len() => {
                if connection.socket.is_pending() {
                    self.unwritten.push(slot);
                }
                return;
            }
            Ok(written) => written,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => 0,
            Err(_) => return self.broken.push(slot),
        };
        connection.outbox.push_rest(Piece::shared(batch.waiting(&self.shared_bytes).clone()), written);
        connection.last_progress = self.now;
        self.load.follow(Load::default(), connection.outbox.load());
        self.unwritten.push(slot);
        if connection.outbox.cost() > self.node.connections().outbox_bytes_max {
            self.mark_lagging(slot);
        }
    }

    /// Writes the outboxes that got frames in this turn, or whose sockets are writable again.
    pub(super) async fn write_all(&mut self) {
        let mut unwritten = std::mem::take(&mut self.unwritten);
        let mut slice = TimeSlice::begin(WRITES);
        for slot in unwritten.drain(..) {
            self.write(slot);
            slice.yield_if_over().await;
        }
        unwritten.append(&mut self.unwritten);
        self.unwritten = unwritten;
        for slot in std::mem::take(&mut self.broken) {
            self.remove(slot);
        }
        self.report_outboxes();
    }

    /// Adds this shard's changes to the gauges.
    pub(super) fn report_outboxes(&mut self) {
        let now = Load { memory: self.memory(), ..self.load };
        if now != self.load_reported {
            let metrics = self.node.metrics();
            metrics.outbox_bytes.add(now.bytes as i64 - self.load_reported.bytes as i64);
            metrics.outbox_memory_bytes.add(now.memory as i64 - self.load_reported.memory as i64);
            self.load_reported = now;
        }
    }

    /// Memory that is held only because clients have not read it yet.
    pub(super) fn memory(&self) -> usize {
        self.load.memory + self.shared_bytes.get()
    }

    /// Writes a connection's outbox as far as its socket takes it.
    pub(super) fn write(&mut self, slot: Slot) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if connection.blocked {
            return;
        }
        if connection.is_sent() {
            // TLS may have sent its rest while reading.
            if connection.is_behind {
                self.catch_up(slot);
            }
            return;
        }
        let before = connection.outbox.load();
        let resumed = connection.socket.resume();
        // These bytes had left the outbox for TLS before.
        let is_taken = matches!(resumed, Ok(1..));
        let outcome = resumed.and_then(|_| connection.outbox.write_to(&mut connection.socket));
        let left = connection.outbox.load();
        if is_taken || left.bytes < before.bytes {
            connection.last_progress = self.now;
        }
        self.load.follow(before, left);
        self.after_write(slot, outcome.is_ok());
    }

    /// Writes the answer to the upgrade and, in the same packet, the first frames.
    pub(super) fn write_upgrade_response(&mut self, slot: Slot, answer: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let before = connection.outbox.load();
        let outcome = connection.outbox.write_behind(answer, &mut connection.socket);
        self.load.follow(before, connection.outbox.load());
        self.after_write(slot, outcome.is_ok());
    }

    fn after_write(&mut self, slot: Slot, intact: bool) {
        if !intact {
            return self.remove(slot);
        }
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let left_over = !connection.outbox.is_empty();
        connection.blocked = connection.socket.is_blocked(left_over);
        let is_blocked = connection.blocked;
        if connection.paused && connection.outbox.cost() <= self.node.connections().outbox_bytes_max / 2 {
            connection.paused = false;
            self.read_later(slot);
        }
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if is_blocked {
            return;
        }
        if left_over {
            // The next turn encrypts more.
            self.unwritten.push(slot);
            return;
        }
        if connection.is_behind {
            self.catch_up(slot);
        }
        let Some(connection) = self.connections.get_mut(slot).filter(|connection| connection.is_sent()) else { return };
        match connection.phase {
            Phase::Open(..) | Phase::Closing { once_sent: OnceSent::Wait, .. } => (),
            Phase::Closing { once_sent: OnceSent::ShutDown, .. } => connection.socket.shut_down(),
            Phase::Closing { once_sent: OnceSent::Remove, .. } => self.remove(slot),
        }
    }
}

/// Counts the frames that a flush has written or queued.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) frames: u64,
    payload_bytes: u64,
    /// Bytes that compression has saved.
    pub(super) saved_bytes: u64,
}

impl Sent {
    fn count_piece(&mut self, piece: &[u8]) {
        let mut start = 0;
        for end in frame_ends(piece) {
            self.frames += 1;
            self.payload_bytes += payload_len(&piece[start..end]) as u64;
            start = end;
        }
    }
}
