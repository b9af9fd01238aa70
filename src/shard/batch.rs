//! What is pending on a channel, put together once for all its subscribers.

use bytes::Bytes;

use crate::protocol::frame::Frame;

/// The frames of a channel that go out in one write.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Bytes,
    /// Where each frame ends.
    ends: Vec<usize>,
    payload_bytes: usize,
}

impl Batch {
    /// Copies the frames into one piece, unless there is only one.
    pub(super) fn new(frames: &[&Frame]) -> Self {
        let mut end = 0;
        let ends: Vec<usize> = frames
            .iter()
            .map(|frame| {
                end += frame.bytes().len();
                end
            })
            .collect();
        let bytes = match frames {
            [frame] => frame.bytes().clone(),
            _ => {
                let mut bytes = Vec::with_capacity(end);
                frames.iter().for_each(|frame| bytes.extend_from_slice(frame.bytes()));
                bytes.into()
            }
        };
        Self { bytes, ends, payload_bytes: frames.iter().map(|frame| frame.payload_len()).sum() }
    }

    /// All of it.
    pub(super) fn whole(&self) -> &Bytes {
        &self.bytes
    }

    /// How many frames there are.
    pub(super) fn frames(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of the messages, without headers.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// The frames from `from` on without those in `holes` (ascending), as few pieces as possible.
    pub(super) fn pieces(&self, from: usize, holes: impl Iterator<Item = usize>) -> Vec<Bytes> {
        let start_of = |frame: usize| if frame == 0 { 0 } else { self.ends[frame - 1] };
        let mut pieces = Vec::new();
        let mut next = from;
        for hole in holes.filter(|&hole| hole >= from).chain([self.ends.len()]) {
            if hole > next {
                pieces.push(self.bytes.slice(start_of(next)..start_of(hole)));
            }
            next = hole + 1;
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::event;

    #[test]
    fn holes_and_a_late_start_leave_out_exactly_their_frames() {
        let frames: Vec<Frame> = ["a", "bb", "ccc", "dddd"].map(|name| event::published("c", name, "\"\"")).into();
        let batch = Batch::new(&frames.iter().collect::<Vec<_>>());
        for (from, holes) in
            [(0, vec![]), (0, vec![0]), (1, vec![0, 2]), (0, vec![1, 2]), (4, vec![]), (0, vec![0, 1, 2, 3])]
        {
            let expected: Vec<u8> = frames
                .iter()
                .enumerate()
                .filter(|(at, _)| *at >= from && !holes.contains(at))
                .flat_map(|(_, frame)| frame.bytes().to_vec())
                .collect();
            assert_eq!(batch.pieces(from, holes.iter().copied()).concat(), expected, "{from} {holes:?}");
        }
    }
}
