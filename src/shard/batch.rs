//! A batch: the pending frames of a channel as one piece of memory for all its subscribers.
//! `channel` makes it, `delivery` writes it.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::protocol::frame::Frame;
use crate::shard::outbox::Piece;

/// The frames of a channel that go out in one write.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Bytes,
    /// Where each frame ends.
    ends: Vec<usize>,
    payload_bytes: usize,
    /// These bytes, counted; made for the first reader that does not take them at once.
    waiting: OnceCell<Bytes>,
}

/// Bytes of batches that wait for slow readers, each batch once.
#[derive(Debug, Clone, Default)]
pub(super) struct WaitingBytes(Arc<AtomicUsize>);

impl WaitingBytes {
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes that are counted until the last reader has them.
#[derive(Debug)]
struct CountedBytes {
    bytes: Bytes,
    sum: WaitingBytes,
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        self.sum.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl CountedBytes {
    fn new(bytes: Bytes, sum: &WaitingBytes) -> Self {
        sum.0.fetch_add(bytes.len(), Ordering::Relaxed);
        Self { bytes, sum: sum.clone() }
    }
}

/// Smaller frames count for each reader.
const SHARED_BYTES_MIN: usize = 1024;
/// Outdated entries that may stay in the map.
const ENTRIES_MIN: usize = 64;

/// Frames that several connections get one after the other, outside of a batch: cached events, member lists, the rest
/// of a channel for a connection that unsubscribes.
#[derive(Debug, Default)]
pub(super) struct SharedFrames {
    /// By address and length: no other bytes can be there while these are kept.
    entries: HashMap<(usize, usize), Weak<CountedBytes>>,
    /// With this many entries, remove the outdated ones.
    entries_max: usize,
}

/// One reader's reference to a shared frame.
struct SharedReference(Arc<CountedBytes>);

impl AsRef<[u8]> for SharedReference {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl SharedFrames {
    /// A piece of these bytes. Shared ones count in `sum`, once for all readers.
    pub(super) fn piece(&mut self, bytes: &Bytes, sum: &WaitingBytes) -> Piece {
        if bytes.len() < SHARED_BYTES_MIN || bytes.is_unique() {
            return Piece::own(bytes.clone());
        }
        let key = (bytes.as_ptr() as usize, bytes.len());
        if let Some(kept) = self.entries.get(&key).and_then(Weak::upgrade) {
            return Piece::shared(Bytes::from_owner(SharedReference(kept)));
        }
        if self.entries.len() >= self.entries_max {
            self.entries.retain(|_, kept| kept.strong_count() > 0);
            self.entries_max = (2 * self.entries.len()).max(ENTRIES_MIN);
        }
        let kept = Arc::new(CountedBytes::new(bytes.clone(), sum));
        self.entries.insert(key, Arc::downgrade(&kept));
        Piece::shared(Bytes::from_owner(SharedReference(kept)))
    }
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
        Self {
            bytes,
            ends,
            payload_bytes: frames.iter().map(|frame| frame.payload_len()).sum(),
            waiting: OnceCell::new(),
        }
    }

    /// All frames.
    pub(super) fn whole(&self) -> &Bytes {
        &self.bytes
    }

    /// All frames, for a reader that waits; they count in `sum` while any reader waits.
    pub(super) fn waiting(&self, sum: &WaitingBytes) -> &Bytes {
        self.waiting.get_or_init(|| Bytes::from_owner(CountedBytes::new(self.bytes.clone(), sum)))
    }

    /// The number of frames.
    pub(super) fn frames(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of the messages, without headers.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// The byte ranges of the frames from `from` on without those in `excluded` (ascending), as few as possible.
    pub(super) fn pieces(&self, from: usize, excluded: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
        let start_of = |frame: usize| if frame == 0 { 0 } else { self.ends[frame - 1] };
        let mut pieces = Vec::new();
        let mut next = from;
        for excluded in excluded.filter(|&excluded| excluded >= from).chain([self.ends.len()]) {
            if excluded > next {
                pieces.push(start_of(next)..start_of(excluded));
            }
            next = excluded + 1;
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
        for (from, excluded) in
            [(0, vec![]), (0, vec![0]), (1, vec![0, 2]), (0, vec![1, 2]), (4, vec![]), (0, vec![0, 1, 2, 3])]
        {
            let expected: Vec<u8> = frames
                .iter()
                .enumerate()
                .filter(|(at, _)| *at >= from && !excluded.contains(at))
                .flat_map(|(_, frame)| frame.bytes().to_vec())
                .collect();
            let pieces = batch.pieces(from, excluded.iter().copied());
            let found: Vec<u8> = pieces.into_iter().flat_map(|piece| batch.whole()[piece].to_vec()).collect();
            assert_eq!(found, expected, "{from} {excluded:?}");
        }
    }

    #[test]
    fn what_waits_for_many_counts_once_until_the_last_has_it() {
        let frame = event::published("c", "a", "\"\"");
        let sum = WaitingBytes::default();
        let batch = Batch::new(&[&frame, &frame]);
        let waiting = [batch.waiting(&sum).clone(), batch.waiting(&sum).slice(3..)];
        assert_eq!(sum.get(), 2 * frame.bytes().len());
        drop(batch);
        assert_eq!(sum.get(), 2 * frame.bytes().len());
        drop(waiting);
        assert_eq!(sum.get(), 0);
    }

    #[test]
    fn a_frame_that_goes_to_one_after_another_counts_once() {
        let (sum, mut shared) = (WaitingBytes::default(), SharedFrames::default());
        let frame = Bytes::from(vec![b'x'; SHARED_BYTES_MIN]);
        let _alone = shared.piece(&frame, &sum);
        assert_eq!(sum.get(), 0);
        let _other = frame.clone();
        let pieces = [shared.piece(&frame, &sum), shared.piece(&frame, &sum)];
        assert_eq!(sum.get(), frame.len());
        drop(pieces);
        assert_eq!(sum.get(), 0);
        for _ in 0..10 * ENTRIES_MIN {
            let frame = Bytes::from(vec![b'x'; SHARED_BYTES_MIN]);
            let _other = frame.clone();
            shared.piece(&frame, &sum);
        }
        assert!(shared.entries.len() <= ENTRIES_MIN && sum.get() == 0);
    }
}
