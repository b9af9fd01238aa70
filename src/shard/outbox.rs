//! What waits for one connection: shared bytes, not copies.

use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::io::Write;

use bytes::Bytes;

use crate::protocol::frame::frame_ends;

/// Pieces that one write takes along; more makes no difference to the kernel.
const PIECES_PER_WRITE: usize = 64;

/// A queue of pieces, each of them whole frames. Empty while the socket takes everything.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Bytes>,
    /// Bytes of the first piece that have been written.
    written: usize,
    /// Bytes that wait.
    waiting: usize,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Bytes behind the piece that is being written: one answer, however large, is no backlog.
    pub(super) fn backlog(&self) -> usize {
        self.waiting - self.pieces.front().map_or(0, |first| first.len() - self.written)
    }

    /// Appends whole frames.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.push_rest(piece, 0);
    }

    /// Appends whole frames of which so many bytes have been written. The box must be empty unless none were.
    pub(super) fn push_rest(&mut self, piece: Bytes, written: usize) {
        debug_assert!(written == 0 || self.pieces.is_empty());
        if self.pieces.is_empty() {
            self.written = written;
        }
        self.waiting += piece.len() - written;
        self.pieces.push_back(piece);
    }

    /// Writes until the box is empty or the socket takes no more.
    pub(super) fn write_to(&mut self, mut socket: impl Write) -> io::Result<()> {
        while !self.pieces.is_empty() {
            let result = match self.pieces.len() {
                1 => socket.write(&self.pieces[0][self.written..]),
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

    /// Writes what comes before the first frame, and with it what waits. A new socket that does not even take the
    /// former is broken.
    pub(super) fn write_behind(&mut self, mut head: Vec<u8>, mut socket: impl Write) -> io::Result<()> {
        let length = head.len();
        self.pieces.iter().for_each(|piece| head.extend_from_slice(piece));
        let written = socket.write(&head)?.checked_sub(length).ok_or(io::ErrorKind::WriteZero)?;
        self.advance(written);
        Ok(())
    }

    fn write_many(&self, socket: &mut impl Write) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); PIECES_PER_WRITE];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(if count == 0 { &piece[self.written..] } else { piece });
            count += 1;
        }
        socket.write_vectored(&slices[..count])
    }

    fn advance(&mut self, mut count: usize) {
        self.waiting -= count;
        while let Some(first) = self.pieces.front() {
            let rest = first.len() - self.written;
            if count < rest {
                self.written += count;
                return;
            }
            count -= rest;
            self.written = 0;
            self.pieces.pop_front();
        }
        // Most boxes are empty most of the time, and need no room then.
        self.pieces = VecDeque::new();
    }

    /// Forgets every frame that has not been begun; returns how many those are.
    pub(super) fn forget(&mut self) -> usize {
        let Some(first) = self.pieces.pop_front() else { return 0 };
        let later: usize = self.pieces.drain(..).map(|piece| frame_ends(&piece).count()).sum();
        let begun_end = match self.written {
            0 => 0,
            written => frame_ends(&first).find(|&end| end >= written).unwrap_or(first.len()),
        };
        let forgotten = later + frame_ends(&first).filter(|&end| end > begun_end).count();
        self.waiting = begun_end - self.written;
        if self.waiting > 0 {
            self.pieces.push_back(first.slice(..begun_end));
        } else {
            self.written = 0;
        }
        forgotten
    }

    /// How many frames wait, the begun one included.
    pub(super) fn frames(&self) -> usize {
        let rest = self.pieces.iter().skip(1).map(|piece| frame_ends(piece).count()).sum::<usize>();
        rest + self.pieces.front().map_or(0, |first| frame_ends(first).filter(|&end| end > self.written).count())
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
            outbox.push(frame.clone());
            let mut socket = Narrow(taken, Vec::new());
            assert_eq!(outbox.write_behind(b"head".to_vec(), &mut socket).is_ok(), taken >= 4);
            if taken >= 4 {
                socket.0 = usize::MAX;
                outbox.write_to(&mut socket).unwrap();
                assert_eq!(socket.1, [b"head", &frame[..]].concat(), "after {taken} bytes");
                assert!(outbox.is_empty() && outbox.waiting() == 0);
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
            outbox.push(piece.clone());
            outbox.push(frames[3].clone());
            let mut socket = Narrow(taken, Vec::new());
            outbox.write_to(&mut socket).unwrap();
            let whole = frame_ends(&all).take_while(|&end| end <= taken).count();
            let begun = usize::from(!frame_ends(&all).any(|end| end == taken) && taken > 0);
            assert_eq!(outbox.forget(), 4 - whole - begun, "after {taken} bytes");
            socket.0 = usize::MAX;
            outbox.write_to(&mut socket).unwrap();
            assert_eq!(frame_ends(&socket.1).count(), whole + begun, "after {taken} bytes");
            assert_eq!(frame_ends(&socket.1).last().unwrap_or(0), socket.1.len());
            assert!(outbox.is_empty() && outbox.waiting() == 0);
        }
    }
}
