//! From events to sockets.

use std::io::Write;
use std::time::Instant;

use bytes::Bytes;

use crate::metrics::Cause;
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
use crate::shard::outbox::Load;
use crate::shard::outbox::Piece;
use crate::shard::share::Share;

/// What is as large and for one connection only is written at once.
const LARGE_BYTES: usize = 64 * 1024;
/// Writes after which the clock is looked at.
const WRITES: u32 = 8;

impl Shard {
    /// An event goes to the channel's subscribers at the end of the turn.
    pub(super) fn on_event(&mut self, id: ChannelId, event: Event) {
        // The last subscriber may have left while the event was on its way.
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.push(event) {
            self.pending.push(id);
        }
        if channel.is_heavy() {
            self.flush(id);
        }
    }

    /// A connection has joined a channel: its answers first, then the channel's events.
    pub(super) fn on_joined(&mut self, slot: Slot, id: ChannelId, answers: &[Frame]) {
        let connection = self.connections.get_mut(slot);
        let Some(session) = connection.and_then(|connection| connection.session.as_mut()) else { return };
        session.on_joined();
        if session.has_deferred() {
            self.read_later(slot);
        }
        self.on_mirror(slot, id);
        for frame in answers {
            self.send(slot, frame);
        }
    }

    /// A connection gets the events of a channel or a view from now on.
    pub(super) fn on_mirror(&mut self, slot: Slot, id: ChannelId) {
        let connection = self.connections.get_mut(slot);
        let Some(session) = connection.and_then(|connection| connection.session.as_ref()) else { return };
        let channel = self.channels.entry(id).or_insert_with(|| Channel::new(session.meters().clone()));
        channel.join(slot);
    }

    /// A connection does not get into a channel.
    pub(super) fn on_refused(&mut self, slot: Slot, channel: &ChannelName) {
        let connection = self.connections.get_mut(slot);
        let Some(session) = connection.and_then(|connection| connection.session.as_mut()) else { return };
        let frames = session.on_refused(channel, self.now);
        if session.has_deferred() {
            self.read_later(slot);
        }
        for frame in frames {
            self.send(slot, &frame);
        }
    }

    /// A connection has left a channel: it gets what is pending, then nothing more.
    pub(super) fn on_unsubscribed(&mut self, slot: Slot, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let connection = self.connections.get_mut(slot).filter(|connection| !connection.half_close);
        let socket_id = connection.and_then(|connection| connection.session.as_ref()).map(Session::socket_id);
        let pieces = channel.leave(slot, socket_id);
        if channel.subscribers.is_empty() {
            self.channels.remove(&id);
        }
        for bytes in pieces {
            let piece = self.shared.piece(&bytes, &self.kept);
            self.queue(slot, piece);
        }
    }

    /// Sends a frame to one connection at the end of the turn.
    pub(super) fn send(&mut self, slot: Slot, frame: &Frame) {
        // Behind what an evicted connection has lost nothing but its close follows.
        let Some(connection) = self.connections.get_mut(slot).filter(|connection| !connection.half_close) else {
            return;
        };
        if let Some(session) = &connection.session {
            session.meters().messages_sent.inc();
            session.meters().transmitted_bytes.inc_by(frame.payload_len() as u64);
        }
        let piece = self.shared.piece(frame.bytes(), &self.kept);
        self.queue(slot, piece);
        // Memory that is one connection's own does not wait for the end of the turn.
        if frame.bytes().len() > LARGE_BYTES {
            self.write(slot);
        }
    }

    /// Appends whole frames to a connection's outbox.
    pub(super) fn queue(&mut self, slot: Slot, piece: Piece) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if connection.outbox.is_empty() {
            connection.took = self.now;
            self.unwritten.push(slot);
        }
        let before = connection.outbox.load();
        connection.outbox.push(piece);
        self.load.follow(before, connection.outbox.load());
        if connection.outbox.cost() > self.node.connections().outbox_bytes_max {
            self.lag(slot);
        }
    }

    /// Appends the answer to a ping. Who does not read gets only the newest.
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

    /// Sends what is pending on all channels.
    pub(super) async fn flush_all(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        let mut share = Share::begin(1);
        for id in pending.drain(..) {
            self.flush(id);
            share.give().await;
        }
        self.pending = pending;
    }

    /// Sends what is pending on a channel to everybody on this shard who listens.
    /// Invariant: a socket whose outbox holds bytes gets nothing past it.
    fn flush(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let flush = channel.take();
        if flush.batch.frames() == 0 {
            return;
        }
        let subscribers = std::mem::take(&mut channel.subscribers);
        let meters = channel.meters.clone();
        let mut sent = Sent::default();
        for &slot in &subscribers {
            self.deliver(slot, &flush, &mut sent);
        }
        // Nothing above lets anybody join or leave, so the set goes back as it was.
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.subscribers = subscribers;
        }
        meters.deliveries.inc_by(sent.frames);
        meters.messages_sent.inc_by(sent.frames);
        meters.transmitted_bytes.inc_by(sent.payload_bytes);
        let latency = &self.node.metrics().publish_to_socket;
        let now = Instant::now();
        for event in &flush.events {
            latency.observe(now.duration_since(event.accepted).as_secs_f64());
        }
    }

    fn deliver(&mut self, slot: Slot, flush: &Flush, sent: &mut Sent) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let Some(session) = &connection.session else { return };
        if connection.half_close {
            return session.meters().dropped(Cause::SlowReader, flush.batch.frames() as u64);
        }
        let part = if flush.is_plain() { None } else { flush.part(slot, session.socket_id()) };
        if let Some(pieces) = part {
            let whole = flush.batch.whole();
            for piece in pieces {
                sent.count_piece(&whole[piece.clone()]);
                // A small part must not keep a large batch alive.
                let is_small = piece.len() < whole.len() / 2;
                self.queue(
                    slot,
                    match is_small {
                        true => Piece::own(Bytes::copy_from_slice(&whole[piece])),
                        false => Piece::shared(flush.batch.kept(&self.kept).slice(piece)),
                    },
                );
            }
            return;
        }
        sent.frames += flush.batch.frames() as u64;
        sent.payload_bytes += flush.batch.payload_bytes() as u64;
        // Who listens to one channel only has nothing to wait for: no other piece will join this one.
        if session.channel_count() == 1 && connection.outbox.is_empty() {
            self.write_now(slot, &flush.batch);
        } else {
            self.queue(slot, Piece::shared(flush.batch.kept(&self.kept).clone()));
        }
    }

    /// Writes to an idle connection; what the socket does not take goes into the outbox.
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
        connection.outbox.push_rest(Piece::shared(batch.kept(&self.kept).clone()), written);
        connection.took = self.now;
        self.load.follow(Load::default(), connection.outbox.load());
        self.unwritten.push(slot);
        if connection.outbox.cost() > self.node.connections().outbox_bytes_max {
            self.lag(slot);
        }
    }

    /// Writes the outboxes that got something in this turn, or whose sockets take more again.
    pub(super) async fn write_all(&mut self) {
        let mut unwritten = std::mem::take(&mut self.unwritten);
        let mut share = Share::begin(WRITES);
        for slot in unwritten.drain(..) {
            self.write(slot);
            share.give().await;
        }
        unwritten.append(&mut self.unwritten);
        self.unwritten = unwritten;
        for slot in std::mem::take(&mut self.broken) {
            self.remove(slot);
        }
        self.report_outboxes();
    }

    /// Tells the gauges of all shards what waits here.
    pub(super) fn report_outboxes(&mut self) {
        let now = Load { memory: self.memory(), ..self.load };
        if now != self.load_reported {
            let metrics = self.node.metrics();
            metrics.outbox_bytes.add(now.bytes as i64 - self.load_reported.bytes as i64);
            metrics.outbox_memory_bytes.add(now.memory as i64 - self.load_reported.memory as i64);
            self.load_reported = now;
        }
    }

    /// Memory that is held only because somebody has not read it yet.
    pub(super) fn memory(&self) -> usize {
        self.load.memory + self.kept.get()
    }

    /// Writes what waits for a connection, as far as its socket takes it.
    pub(super) fn write(&mut self, slot: Slot) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if connection.blocked || connection.is_sent() {
            return;
        }
        let before = connection.outbox.load();
        let resumed = connection.socket.resume();
        // TLS has taken these out of the outbox before.
        let is_taken = matches!(resumed, Ok(1..));
        let outcome = resumed.and_then(|_| connection.outbox.write_to(&mut connection.socket));
        let left = connection.outbox.load();
        if is_taken || left.bytes < before.bytes {
            connection.took = self.now;
        }
        self.load.follow(before, left);
        self.after_write(slot, outcome.is_ok());
    }

    /// Writes the answer to the upgrade and, in the same packet, the first frames.
    pub(super) fn greet(&mut self, slot: Slot, answer: Vec<u8>) {
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
        } else if connection.finishing {
            self.remove(slot);
        } else if connection.half_close {
            connection.socket.shut_down();
        }
    }
}

/// What a flush has handed to sockets.
#[derive(Debug, Default)]
struct Sent {
    frames: u64,
    payload_bytes: u64,
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
