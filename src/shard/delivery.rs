//! From events to sockets.

use std::io::Write;
use std::time::Instant;

use bytes::Bytes;

use crate::protocol::channel::ChannelName;
use crate::protocol::frame::Frame;
use crate::protocol::frame::frame_ends;
use crate::protocol::frame::payload_len;
use crate::registry::address::Slot;
use crate::registry::inbox::ChannelId;
use crate::registry::inbox::Event;
use crate::session::Session;
use crate::shard::Shard;
use crate::shard::channel::Channel;
use crate::shard::channel::Flush;

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
            self.unread.push(slot);
        }
        self.on_sees(slot, id);
        for frame in answers {
            self.send(slot, frame);
        }
    }

    /// A connection gets the events of a channel or a view from now on.
    pub(super) fn on_sees(&mut self, slot: Slot, id: ChannelId) {
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
            self.unread.push(slot);
        }
        for frame in frames {
            self.send(slot, &frame);
        }
    }

    /// A connection has left a channel: it gets what is pending, then nothing more.
    pub(super) fn on_left(&mut self, slot: Slot, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let connection = self.connections.get_mut(slot).filter(|connection| !connection.half_close);
        let socket_id = connection.and_then(|connection| connection.session.as_ref()).map(Session::socket_id);
        let pieces = channel.leave(slot, socket_id);
        if channel.subscribers.is_empty() {
            self.channels.remove(&id);
        }
        for piece in pieces {
            self.queue(slot, piece);
        }
    }

    /// Sends a frame to one connection at the end of the turn.
    pub(super) fn send(&mut self, slot: Slot, frame: &Frame) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if let Some(session) = &connection.session {
            session.meters().messages_sent.inc();
            session.meters().transmitted_bytes.inc_by(frame.payload_len() as u64);
        }
        self.queue(slot, frame.bytes().clone());
    }

    /// Appends whole frames to a connection's outbox.
    pub(super) fn queue(&mut self, slot: Slot, piece: Bytes) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if connection.outbox.is_empty() {
            self.unwritten.push(slot);
        }
        self.outbox_bytes += piece.len();
        connection.outbox.push(piece);
        if connection.outbox.backlog() > self.node.connections().outbox_bytes_max && connection.session.is_some() {
            self.evicted.push(slot);
        }
    }

    /// Sends what is pending on all channels.
    pub(super) fn flush_all(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        for id in pending.drain(..) {
            self.flush(id);
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
        let part = if flush.is_plain() { None } else { flush.part(slot, session.socket_id()) };
        if let Some(pieces) = part {
            for piece in pieces {
                sent.count_piece(&piece);
                // A small part must not keep a large batch alive.
                let small = piece.len() < flush.batch.whole().len() / 2;
                self.queue(slot, if small { Bytes::copy_from_slice(&piece) } else { piece });
            }
            return;
        }
        sent.frames += flush.batch.frames() as u64;
        sent.payload_bytes += flush.batch.payload_bytes() as u64;
        // Who listens to one channel only has nothing to wait for: no other piece will join this one.
        if session.channel_count() == 1 && connection.outbox.is_empty() {
            self.write_now(slot, flush.batch.whole());
        } else {
            self.queue(slot, flush.batch.whole().clone());
        }
    }

    /// Writes to an idle connection; what the socket does not take goes into the outbox.
    fn write_now(&mut self, slot: Slot, bytes: &Bytes) {
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
        let rest = bytes.len() - written;
        self.outbox_bytes += rest;
        connection.outbox.push_rest(bytes.clone(), written);
        self.unwritten.push(slot);
    }

    /// Writes the outboxes that got something in this turn, or whose sockets take more again.
    pub(super) fn write_all(&mut self) {
        let mut unwritten = std::mem::take(&mut self.unwritten);
        for slot in unwritten.drain(..) {
            self.write(slot);
        }
        unwritten.append(&mut self.unwritten);
        self.unwritten = unwritten;
        for slot in std::mem::take(&mut self.broken) {
            self.remove(slot);
        }
        self.report_outboxes();
    }

    fn report_outboxes(&mut self) {
        if self.outbox_bytes != self.outbox_bytes_reported {
            let change = self.outbox_bytes as i64 - self.outbox_bytes_reported as i64;
            self.node.metrics().outbox_bytes.add(change);
            self.outbox_bytes_reported = self.outbox_bytes;
        }
    }

    /// Writes what waits for a connection, as far as its socket takes it.
    pub(super) fn write(&mut self, slot: Slot) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if connection.blocked || connection.is_sent() {
            return;
        }
        let before = connection.outbox.waiting();
        let resumed = connection.socket.resume();
        let outcome = resumed.and_then(|()| connection.outbox.write_to(&mut connection.socket));
        self.outbox_bytes -= before - connection.outbox.waiting();
        self.after_write(slot, outcome.is_ok());
    }

    /// Writes the answer to the upgrade and, in the same packet, the first frames.
    pub(super) fn greet(&mut self, slot: Slot, answer: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let before = connection.outbox.waiting();
        let outcome = connection.outbox.write_behind(answer, &mut connection.socket);
        self.outbox_bytes -= before - connection.outbox.waiting();
        self.after_write(slot, outcome.is_ok());
    }

    fn after_write(&mut self, slot: Slot, intact: bool) {
        if !intact {
            return self.remove(slot);
        }
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if connection.paused && connection.outbox.waiting() <= self.node.connections().outbox_bytes_max / 2 {
            connection.paused = false;
            self.unread.push(slot);
        }
        let left_over = !connection.outbox.is_empty();
        connection.blocked = connection.socket.is_blocked(left_over);
        if connection.blocked {
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
