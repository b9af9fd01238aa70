//! The outbox of one connection: frames that wait for its socket, as shared bytes.
//! `delivery` fills and writes it; `slow` limits it.

use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::io::Write;

use bytes::Bytes;

use crate::protocol::frame::frame_ends;

/// Pieces of one write; more makes no difference to the kernel.
const PIECES_PER_WRITE: usize = 64;
/// Memory of a piece besides its bytes: its place in a queue that grows by doubling, and an allocation.
const PIECE_COST: usize = 96;

/// Whole frames.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: Bytes,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// For this connection alone.
    Own,
    /// For several connections; `KeptBytes` counts its bytes.
    Shared,
    /// The answer to a ping; a newer one replaces it.
    Pong,
}

impl Piece {
    /// A piece for one connection.
    pub(super) fn own(bytes: Bytes) -> Self {
        Self { bytes, kind: Kind::Own }
    }

    /// A piece that several connections share.
    pub(super) fn shared(bytes: Bytes) -> Self {
        Self { bytes, kind: Kind::Shared }
    }

    /// The answer to a ping.
    pub(super) fn pong(bytes: Bytes) -> Self {
        Self { bytes, kind: Kind::Pong }
    }
}

/// A queue of pieces, each of them whole frames. Empty while the socket takes everything.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that have been written.
    written: usize,
    /// Bytes that wait.
    waiting: usize,
    /// Bytes of pieces for this connection alone.
    own: usize,
    /// Pieces that have been written since the outbox was empty.
    gone: usize,
    /// Where the newest pong is, counted like `gone`.
    pong: Option<usize>,
}

/// The size of what waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// Bytes for the socket.
    pub(super) bytes: usize,
    /// Memory of this connection's own.
    pub(super) memory: usize,
}

impl Load {
    /// Updates a sum when one of its parts changes.
    pub(super) fn follow(&mut self, before: Self, after: Self) {
        self.bytes = self.bytes + after.bytes - before.bytes;
        self.memory = self.memory + after.memory - before.memory;
    }
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The size of what waits.
    pub(super) fn load(&self) -> Load {
        Load { bytes: self.waiting, memory: self.own + self.pieces.len() * PIECE_COST }
    }

    /// The bytes that wait, with the memory of their pieces.
    pub(super) fn cost(&self) -> usize {
        self.waiting + self.pieces.len() * PIECE_COST
    }

    /// Like `cost`, but without the piece that is being written: one answer, however large, is no backlog.
    pub(super) fn backlog(&self) -> usize {
        self.cost() - self.pieces.front().map_or(0, |first| first.bytes.len() - self.written + PIECE_COST)
    }

    /// Appends whole frames.
    pub(super) fn push(&mut self, piece: Piece) {
        self.push_rest(piece, 0);
    }

    /// Appends whole frames of which `written` bytes have been written; then the outbox must be empty.
    pub(super) fn push_rest(&mut self, piece: Piece, written: usize) {
        debug_assert!(written == 0 || self.pieces.is_empty());
        if self.pieces.is_empty() {
            self.written = written;
        }
        self.waiting += piece.bytes.len() - written;
        if piece.kind != Kind::Shared {
            self.own += piece.bytes.len();
        }
        if piece.kind == Kind::Pong {
            self.pong = Some(self.gone + self.pieces.len());
        }
        self.pieces.push_back(piece);
    }

    /// Replaces a pong that has not been begun. Returns the pong if there is none to replace. A peer needs the answer
    /// to its newest ping only (RFC 6455, 5.5.3).
    pub(super) fn replace_pong(&mut self, pong: Piece) -> Option<Piece> {
        let is_begun = |at: usize| at == 0 && self.written > 0;
        let at = self.pong.map(|pong| pong - self.gone).filter(|&at| !is_begun(at));
        let Some(old) = at.and_then(|at| self.pieces.get_mut(at)) else { return Some(pong) };
        self.waiting = self.waiting - old.bytes.len() + pong.bytes.len();
        self.own = self.own - old.bytes.len() + pong.bytes.len();
        *old = pong;
        None
    }

    /// Writes until the outbox is empty or the socket takes no more.
    pub(super) fn write_to(&mut self, mut socket: impl Write) -> io::Result<()> {
        while !self.pieces.is_empty() {
            let result = match self.pieces.len() {
                1 => socket.write(&self.pieces[0].bytes[self.written..]),
                _ => self.write_many(&mut socket),
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes `head` together with the queued frames. A new socket that does not even take `head` is broken.
    pub(super) fn write_behind(&mut self, mut head: Vec<u8>, mut socket: impl Write) -> io::Result<()> {
        let length = head.len();
        self.pieces.iter().for_each(|piece| head.extend_from_slice(&piece.bytes));
        let written = socket.write(&head)?.checked_sub(length).ok_or(io::ErrorKind::WriteZero)?;
        self.advance(written);
        Ok(())
    }

    fn write_many(&self, socket: &mut impl Write) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); PIECES_PER_WRITE];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(if count == 0 { &piece.bytes[self.written..] } else { &piece.bytes });
            count += 1;
        }
        socket.write_vectored(&slices[..count])
    }

    fn advance(&mut self, mut count: usize) {
        self.waiting -= count;
        while let Some(first) = self.pieces.front() {
            let rest = first.bytes.len() - self.written;
            if count < rest {
                self.written += count;
                return;
            }
            count -= rest;
            self.written = 0;
            self.drop_first();
        }
        // Most outboxes are empty most of the time, and need no memory then.
        *self = Self::default();
    }

    fn drop_first(&mut self) {
        let Some(first) = self.pieces.pop_front() else { return };
        if first.kind != Kind::Shared {
            self.own -= first.bytes.len();
        }
        self.pong = self.pong.filter(|&pong| pong != self.gone);
        self.gone += 1;
    }

    /// Drops every frame that has not been begun. Returns how many.
    pub(super) fn forget(&mut self) -> usize {
        let Self { mut pieces, written, .. } = std::mem::take(self);
        let Some(Piece { bytes: first, .. }) = pieces.pop_front() else { return 0 };
        let later: usize = pieces.drain(..).map(|piece| frame_ends(&piece.bytes).count()).sum();
        let begun_end = match written {
            0 => 0,
            written => frame_ends(&first).find(|&end| end >= written).unwrap_or(first.len()),
        };
        let forgotten = later + frame_ends(&first).filter(|&end| end > begun_end).count();
        if begun_end > written {
            self.push_rest(Piece::own(first.slice(..begun_end)), written);
        }
        forgotten
    }

    /// The number of frames that wait, with the one that has been begun.
    pub(super) fn frames(&self) -> usize {
        let rest = self.pieces.iter().skip(1).map(|piece| frame_ends(&piece.bytes).count()).sum::<usize>();
        let is_left = |&end: &usize| end > self.written;
        rest + self.pieces.front().map_or(0, |first| frame_ends(&first.bytes).filter(is_left).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::event;

    /// Takes so many bytes, then no more.
    struct Narrow(usize, Vec<u8>);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.0 - self.1.len());
            self.1.extend_from_slice(&bytes[..count]);
            if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_comes_before_the_first_frame_is_written_whole_or_the_socket_is_broken() {
        let frame = event::published("c", "e", "\"\"").bytes().clone();
        for taken in 1..4 + frame.len() {
            let mut outbox = Outbox::default();
            outbox.push(Piece::own(frame.clone()));
            let mut socket = Narrow(taken, Vec::new());
            assert_eq!(outbox.write_behind(b"head".to_vec(), &mut socket).is_ok(), taken >= 4);
            if taken >= 4 {
                socket.0 = usize::MAX;
                outbox.write_to(&mut socket).unwrap();
                assert_eq!(socket.1, [b"head", &frame[..]].concat(), "after {taken} bytes");
                assert!(outbox.is_empty() && outbox.load() == Load::default());
            }
        }
    }

    #[test]
    fn forgetting_keeps_the_frame_that_was_begun_and_no_other() {
        let frames: Vec<Bytes> =
            ["a", "bb", "ccc", "d"].map(|name| event::published("c", name, "\"\"").bytes().clone()).into();
        let all: Vec<u8> = frames.concat();
        let piece = Bytes::from(frames[..3].concat());
        for taken in 0..all.len() {
            let mut outbox = Outbox::default();
            outbox.push(Piece::shared(piece.clone()));
            outbox.push(Piece::own(frames[3].clone()));
            let mut socket = Narrow(taken, Vec::new());
            outbox.write_to(&mut socket).unwrap();
            let whole = frame_ends(&all).take_while(|&end| end <= taken).count();
            let begun = usize::from(!frame_ends(&all).any(|end| end == taken) && taken > 0);
            assert_eq!(outbox.forget(), 4 - whole - begun, "after {taken} bytes");
            socket.0 = usize::MAX;
            outbox.write_to(&mut socket).unwrap();
            assert_eq!(frame_ends(&socket.1).count(), whole + begun, "after {taken} bytes");
            assert_eq!(frame_ends(&socket.1).last().unwrap_or(0), socket.1.len());
            assert!(outbox.is_empty() && outbox.load() == Load::default());
        }
    }

    #[test]
    fn only_the_newest_pong_waits_and_what_waits_costs_more_than_its_bytes() {
        let pong = |payload: u8| Piece::pong(crate::protocol::frame::Frame::pong(&[payload]).bytes().clone());
        let mut outbox = Outbox::default();
        assert!(outbox.replace_pong(pong(0)).is_some());
        outbox.push(pong(0));
        for number in 1..200 {
            assert!(outbox.replace_pong(pong(number)).is_none());
        }
        assert_eq!(outbox.load(), Load { bytes: 3, memory: 3 + PIECE_COST });
        // One that has been begun must be ended.
        let mut socket = Narrow(1, Vec::new());
        outbox.write_to(&mut socket).unwrap();
        let next = outbox.replace_pong(pong(200)).unwrap();
        outbox.push(next);
        outbox.push(Piece::shared(Bytes::from_static(&[0x89, 0])));
        assert_eq!(outbox.load(), Load { bytes: 2 + 3 + 2, memory: 3 + 3 + 3 * PIECE_COST });
        assert!(outbox.replace_pong(pong(201)).is_none());
        assert_eq!(outbox.backlog(), 3 + 2 + 2 * PIECE_COST);
        socket.0 = usize::MAX;
        outbox.write_to(&mut socket).unwrap();
        assert_eq!(socket.1, [0x8A, 1, 199, 0x8A, 1, 201, 0x89, 0]);
        assert_eq!(outbox.load(), Load::default());
    }
}
