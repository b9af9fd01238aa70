//! The compression of `permessage-deflate` (RFC 7692, 7.2), without context takeover: each message stands alone.
//! `frame` compresses and inflates with it. Both directions keep their state for the next message, of any connection.

use std::fmt;

use miniz_oxide::DataFormat;
use miniz_oxide::deflate::CompressionLevel;
use miniz_oxide::deflate::core::CompressorOxide;
use miniz_oxide::deflate::core::TDEFLFlush;
use miniz_oxide::deflate::core::TDEFLStatus;
use miniz_oxide::deflate::core::compress;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::DecompressorOxide;
use miniz_oxide::inflate::core::decompress;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;

/// The empty block that ends a compressed message, without its first byte; it is not sent.
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];
/// The tail, and a last block that is empty. A complete message ends exactly there.
const END: [u8; 9] = [0x00, 0x00, 0xFF, 0xFF, 0x01, 0x00, 0x00, 0xFF, 0xFF];
/// The fastest level. On JSON of 2 KB it takes half the time of the next one, and its result is at most 3 % larger:
/// `cargo bench --bench load -- compression`.
const LEVEL: CompressionLevel = CompressionLevel::BestSpeed;
/// A larger buffer is not kept.
const BUFFER_BYTES_MAX: usize = 128 * 1024;
/// The first buffer for an inflated message, beside what its compressed size suggests.
const INFLATED_BYTES_MIN: usize = 256;

/// Blocks that any message may have, and bytes of a compressed message for each block more. A block costs some
/// microseconds, however short it is. Compressors make blocks of kilobytes, or one for each fragment.
const BLOCKS_MIN: usize = 512;
/// See [`BLOCKS_MIN`].
const BLOCK_BYTES: usize = 256;

/// Compresses messages, one after the other.
pub struct Compressor {
    state: Box<CompressorOxide>,
    buffer: Vec<u8>,
}

impl Compressor {
    /// A compressor, with about 300 KB of memory.
    #[expect(clippy::new_without_default, reason = "it takes much memory, so nobody should make one by the way")]
    pub fn new() -> Self {
        Self { state: Box::new(CompressorOxide::with_format_and_level(DataFormat::Raw, LEVEL)), buffer: Vec::new() }
    }

    /// The compressed payload of a message, or `None` if it is not smaller.
    ///
    /// ```
    /// use gema::protocol::deflate::{Compressor, Inflater};
    /// let text = "thermometer ".repeat(50);
    /// let compressed = Compressor::new().compress(text.as_bytes()).expect("it repeats itself").to_vec();
    /// assert!(compressed.len() < 40);
    /// assert_eq!(Inflater::default().inflate(&compressed, 1024), Ok(text.into_bytes()));
    /// ```
    pub fn compress(&mut self, payload: &[u8]) -> Option<&[u8]> {
        if self.buffer.len() > BUFFER_BYTES_MAX {
            self.buffer = Vec::new();
        }
        // With less than one byte left over the compressor may have more to write.
        let length = payload.len() + TAIL.len();
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        let output = &mut self.buffer[..length];
        let (status, read, written) = compress(&mut self.state, payload, output, TDEFLFlush::Sync);
        self.state.reset();
        let is_complete = status == TDEFLStatus::Okay && read == payload.len() && written < length;
        self.buffer[..written].strip_suffix(&TAIL).filter(|_| is_complete)
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

/// Why a compressed message is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InflateError {
    /// The data is damaged, incomplete, in too many blocks, or followed by something else.
    Damaged,
    /// The message is larger than allowed.
    TooBig,
}

/// Inflates messages, one after the other. Its memory, about 11 KB, comes with the first one.
#[derive(Default)]
pub struct Inflater(Option<Box<DecompressorOxide>>);

impl Inflater {
    /// The message of a compressed payload. It never takes more memory than `bytes_max`.
    pub fn inflate(&mut self, payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, InflateError> {
        // zlib, which most clients use, takes it as an empty message.
        if payload.is_empty() {
            return Ok(Vec::new());
        }
        let state = self.0.get_or_insert_default();
        state.init();
        let mut output = Output::new(payload.len(), bytes_max);
        match output.feed(state, payload)? {
            // The last block has come. Only the beginning of an empty block may follow (RFC 7692, 7.2.3.4).
            Some([] | [0x00]) => Ok(output.into_message()),
            Some(_) => Err(InflateError::Damaged),
            None => {
                let length = output.length;
                let is_complete = output.feed(state, &END)? == Some(&[]) && output.length == length;
                if is_complete { Ok(output.into_message()) } else { Err(InflateError::Damaged) }
            }
        }
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

/// A message as far as it is inflated.
struct Output {
    bytes: Vec<u8>,
    length: usize,
    bytes_max: usize,
    /// Blocks that may still come.
    blocks: usize,
}

impl Output {
    fn new(compressed: usize, bytes_max: usize) -> Self {
        let blocks = BLOCKS_MIN + compressed / BLOCK_BYTES;
        let mut output = Self { bytes: Vec::new(), length: 0, bytes_max, blocks };
        output.grow(INFLATED_BYTES_MIN.max(compressed.saturating_mul(4)));
        output
    }

    /// One byte more than allowed tells a message that is too large from one that just fits.
    fn grow(&mut self, length: usize) {
        let length = length.min(self.bytes_max.saturating_add(1));
        self.bytes.reserve_exact(length.saturating_sub(self.bytes.len()));
        self.bytes.resize(length, 0);
    }

    /// Inflates some input. Returns what follows the last block, or `None` if that has not come.
    fn feed<'a>(
        &mut self,
        state: &mut DecompressorOxide,
        mut input: &'a [u8],
    ) -> Result<Option<&'a [u8]>, InflateError> {
        const FLAGS: u32 =
            TINFL_FLAG_HAS_MORE_INPUT | TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        loop {
            let (status, read, written) = decompress(state, input, &mut self.bytes, self.length, FLAGS);
            input = &input[read..];
            self.length += written;
            if self.length > self.bytes_max {
                return Err(InflateError::TooBig);
            }
            match status {
                TINFLStatus::HasMoreOutput => self.grow(self.bytes.len().saturating_mul(2)),
                TINFLStatus::BlockBoundary => {
                    self.blocks = self.blocks.checked_sub(1).ok_or(InflateError::Damaged)?;
                }
                TINFLStatus::NeedsMoreInput => return Ok(None),
                TINFLStatus::Done => return Ok(Some(input)),
                _ => return Err(InflateError::Damaged),
            }
        }
    }

    fn into_message(mut self) -> Vec<u8> {
        self.bytes.truncate(self.length);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inflate(payload: &[u8]) -> Result<String, InflateError> {
        Inflater::default().inflate(payload, 1024).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn the_examples_of_rfc_7692_are_understood() {
        for (name, payload) in [
            ("one block", &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00][..]),
            ("a stored block", &[0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00]),
            ("a last block", &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00]),
            ("a last block alone", &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00]),
            ("two blocks", &[0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00]),
        ] {
            assert_eq!(inflate(payload).as_deref(), Ok("Hello"), "{name}");
        }
        assert_eq!(inflate(&[0x00]).as_deref(), Ok(""));
        assert_eq!(inflate(&[]).as_deref(), Ok(""));
    }

    #[test]
    fn damaged_data_is_no_message() {
        let hello = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
        let mut damaged: Vec<(&str, Vec<u8>)> = vec![
            ("block type 3", vec![0x07]),
            ("a distance before the beginning", vec![0x02, 0x02]),
            ("a stored length that is not confirmed", vec![0x00, 0x05, 0x00, 0xFA, 0xFE, 0x48]),
            ("the tail, which is not sent", [&hello[..], &TAIL].concat()),
            ("data behind the last block", vec![0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x01]),
            ("two bytes behind the last block", vec![0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00, 0x00]),
            ("an incomplete stored block", vec![0x00, 0xFF, 0x00, 0x00, 0xFF, 0x48]),
        ];
        damaged.extend((1..hello.len()).map(|length| ("cut short", hello[..length].to_vec())));
        for (name, payload) in damaged {
            assert_eq!(inflate(&payload), Err(InflateError::Damaged), "{name}: {payload:?}");
        }
    }

    #[test]
    fn a_message_of_the_largest_size_fits_and_one_byte_more_does_not() {
        let (mut compressor, mut inflater) = (Compressor::new(), Inflater::default());
        for length in [300, 1023, 1024, 1025, 100_000] {
            let text = vec![b'x'; length];
            let payload = compressor.compress(&text).unwrap().to_vec();
            let expected = if length <= 1024 { Ok(text) } else { Err(InflateError::TooBig) };
            assert_eq!(inflater.inflate(&payload, 1024), expected, "{length}");
        }
    }

    #[test]
    fn an_inflated_message_takes_no_more_memory_than_allowed() {
        let bomb = Compressor::new().compress(&vec![b'x'; 10_000_000]).unwrap().to_vec();
        let mut state = DecompressorOxide::new();
        let mut output = Output::new(bomb.len(), 100_000);
        assert_eq!(output.feed(&mut state, &bomb), Err(InflateError::TooBig));
        assert!(output.bytes.capacity() <= 100_001, "{}", output.bytes.capacity());
    }

    #[test]
    fn a_message_in_tiny_blocks_is_refused_before_it_costs_much() {
        // Four empty blocks in five bytes.
        let blocks = [0x02, 0x08, 0x20, 0x80, 0x00];
        assert_eq!(inflate(&[&blocks.repeat(100)[..], &[0x00]].concat()).as_deref(), Ok(""));
        assert_eq!(inflate(&[&blocks.repeat(200)[..], &[0x00]].concat()), Err(InflateError::Damaged));
    }

    proptest! {
        #[test]
        fn what_was_compressed_is_inflated_to_the_same(
            messages in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..50), 1_usize..3000), 1..6),
        ) {
            let (mut compressor, mut inflater) = (Compressor::new(), Inflater::default());
            for (piece, times) in messages {
                let message = piece.repeat(times);
                if let Some(payload) = compressor.compress(&message) {
                    prop_assert!(payload.len() < message.len());
                    prop_assert_eq!(inflater.inflate(payload, message.len()), Ok(message.clone()));
                    prop_assert_eq!(inflater.inflate(payload, message.len() - 1), Err(InflateError::TooBig));
                }
            }
        }
    }
}
