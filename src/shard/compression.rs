//! Compression: the second form of events, for connections that negotiated it.
//! `delivery` and `behind` ask for it.

use crate::protocol::deflate::Compressor;
use crate::protocol::frame::Frame;
use crate::registry::address::Slot;
use crate::registry::inbox::Event;
use crate::shard::Shard;
use crate::shard::batch::Batch;
use crate::shard::channel::Flush;
use crate::shard::delivery::Sent;

impl Shard {
    /// Gets ready for connections that negotiated compression.
    pub(super) fn start_compression(&mut self) {
        self.compressor.get_or_insert_with(Compressor::new);
    }

    /// Delivers a flush to a subscriber in the form that it negotiated. The compressed form is made for the first one
    /// that takes it.
    pub(super) fn deliver_form(&mut self, slot: Slot, flush: &Flush, sent: &mut Sent) {
        let compressed = match self.compresses(slot) {
            true => flush.compressed.get_or_init(|| self.compress(flush)).as_ref(),
            false => None,
        };
        let Some(batch) = compressed else { return self.deliver(slot, flush, &flush.batch, sent) };
        let before = sent.frames;
        self.deliver(slot, flush, batch, sent);
        if sent.frames > before {
            let saved = self.bytes_for(slot, flush, &flush.batch) - self.bytes_for(slot, flush, batch);
            sent.saved_bytes += saved as u64;
        }
    }

    /// The form of an event for a connection that gets it now.
    pub(super) fn frame_for(&mut self, slot: Slot, event: &Event) -> Frame {
        let compressed = if self.compresses(slot) { self.compressed_frame(event) } else { None };
        let Some(compressed) = compressed else { return event.frame.clone() };
        if let Some(meters) = self.node.compression() {
            let saved = event.frame.bytes().len() - compressed.bytes().len();
            meters.saved_bytes.inc_by(saved as u64);
        }
        compressed
    }

    fn compresses(&self, slot: Slot) -> bool {
        self.connections.get(slot).is_some_and(|connection| connection.compresses)
    }

    /// The compressed form of a flush; `None` if no event of it gets smaller.
    fn compress(&mut self, flush: &Flush) -> Option<Batch> {
        let compressed: Vec<_> = flush.events.iter().map(|event| self.compressed_frame(event)).collect();
        if compressed.iter().all(Option::is_none) {
            return None;
        }
        let pairs = compressed.iter().zip(&flush.events);
        let frames: Vec<&Frame> = pairs.map(|(frame, event)| frame.as_ref().unwrap_or(&event.frame)).collect();
        Some(Batch::new(&frames))
    }

    /// The compressed form of an event, which another shard may have made.
    fn compressed_frame(&mut self, event: &Event) -> Option<Frame> {
        let (compressed, compressor) = (event.compressed.as_ref()?, self.compressor.as_mut()?);
        let meters = self.node.compression();
        let compress = || {
            let frame = event.frame.compressed(compressor)?;
            meters.inspect(|meters| meters.frames.inc());
            Some(frame)
        };
        compressed.get(compress).cloned()
    }

    /// The bytes that a subscriber gets of a form of a flush.
    fn bytes_for(&self, slot: Slot, flush: &Flush, batch: &Batch) -> usize {
        let session = self.connections.get(slot).and_then(|connection| connection.session());
        let part =
            session.filter(|_| !flush.is_plain()).and_then(|session| flush.part(slot, session.socket_id(), batch));
        part.map_or(batch.whole().len(), |pieces| pieces.iter().map(|piece| piece.len()).sum())
    }
}
