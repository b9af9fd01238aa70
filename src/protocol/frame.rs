//! The format of WebSocket frames (RFC 6455, 5): a decoder for clients' bytes, and frames for clients.
//! The shard decodes and sends them. Headers are tungstenite's; assembling and its checks are gema's.

use std::borrow::Cow;
use std::io::Cursor;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode as Received, Control, Data, OpCode};

use crate::protocol::code::Close;
use crate::protocol::code::CloseCode;
use crate::protocol::deflate::Compressor;
use crate::protocol::deflate::InflateError;
use crate::protocol::deflate::Inflater;

/// A complete frame, ready to be written to any number of sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(Bytes);

/// The longest header of an unmasked frame: two bytes and a 64-bit length.
const HEADER_MAX: usize = 10;
/// The first byte of a whole text frame.
const TEXT: u8 = 0x81;
/// The bit of the first byte that marks a compressed message (RFC 7692, 6).
const RSV1: u8 = 0x40;

impl Frame {
    /// A text frame whose payload `write` puts into the buffer of about `length` bytes.
    pub(crate) fn text(length: usize, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_MAX + length);
        bytes.resize(HEADER_MAX, 0);
        write(&mut bytes);
        let header = header(OpCode::Data(Data::Text), bytes.len() - HEADER_MAX);
        let start = HEADER_MAX - header.len();
        bytes[start..HEADER_MAX].copy_from_slice(&header);
        Self(Bytes::from(bytes).slice(start..))
    }

    /// The compressed form of a text frame, for clients that negotiated `permessage-deflate`; `None` if it is not
    /// smaller, or for a control frame.
    pub fn compressed(&self, compressor: &mut Compressor) -> Option<Self> {
        if self.0[0] != TEXT {
            return None;
        }
        let payload = compressor.compress(self.payload())?;
        let mut bytes = header(OpCode::Data(Data::Text), payload.len());
        bytes[0] |= RSV1;
        bytes.reserve_exact(payload.len());
        bytes.extend_from_slice(payload);
        Some(Self(bytes.into()))
    }

    /// A frame of another node: `None` unless it is one whole text frame with a JSON object.
    pub fn received(bytes: &Bytes) -> Option<Self> {
        let mut cursor = Cursor::new(&bytes[..]);
        let (header, length) = FrameHeader::parse(&mut cursor).ok()??;
        let payload = &bytes[cursor.position() as usize..];
        let plain = header == FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
        let whole = plain && payload.len() as u64 == length;
        let is_object = || payload.starts_with(b"{") && serde_json::from_slice::<&RawValue>(payload).is_ok();
        (whole && is_object()).then(|| Self(bytes.clone()))
    }

    /// A ping without payload.
    pub fn ping() -> Self {
        Self(Bytes::from_static(&[0x89, 0]))
    }

    /// A ping with a payload of at most 125 bytes, which its answer repeats.
    pub fn ping_with(payload: &[u8]) -> Self {
        Self::control(Control::Ping, payload)
    }

    /// The answer to a ping with this payload.
    pub fn pong(payload: &[u8]) -> Self {
        Self::control(Control::Pong, payload)
    }

    /// A close frame; the reason is cut to what fits into one (123 bytes of UTF-8).
    pub fn close(close: &Close) -> Self {
        let mut end = close.reason.len().min(123);
        while !close.reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut payload = close.code.number().to_be_bytes().to_vec();
        payload.extend_from_slice(&close.reason.as_bytes()[..end]);
        Self::control(Control::Close, &payload)
    }

    /// The answer to a peer's close frame: its own code.
    pub fn close_answer(code: Option<u16>) -> Self {
        Self::control(Control::Close, code.map(u16::to_be_bytes).as_ref().map_or(&[], |bytes| bytes))
    }

    fn control(opcode: Control, payload: &[u8]) -> Self {
        let mut bytes = header(OpCode::Control(opcode), payload.len());
        bytes.extend_from_slice(payload);
        Self(bytes.into())
    }

    /// The frame as it goes over the wire.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The payload, without the header.
    pub fn payload(&self) -> &[u8] {
        &self.0[self.0.len() - self.payload_len()..]
    }

    /// Bytes of the payload.
    pub fn payload_len(&self) -> usize {
        payload_len(&self.0)
    }
}

/// Bytes of the payload of a frame of this server.
pub fn payload_len(frame: &[u8]) -> usize {
    let header = match frame[1] {
        126 => 4,
        127 => HEADER_MAX,
        _ => 2,
    };
    frame.len() - header
}

/// The end of each frame in `bytes`, which are whole frames of this server.
pub fn frame_ends(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut cursor = Cursor::new(&bytes[at..]);
        let (_, length) = FrameHeader::parse(&mut cursor).ok()??;
        at = at.saturating_add(cursor.position() as usize + length as usize).min(bytes.len());
        Some(at)
    })
}

fn header(opcode: OpCode, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_MAX);
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    header.format(length as u64, &mut bytes).expect("a vector takes every byte");
    bytes
}

/// A client's message, assembled from its frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'b> {
    /// A text message.
    Text(Cow<'b, str>),
    /// A binary message; its content does not matter here.
    Binary,
    /// A ping, to be answered with its payload.
    Ping(&'b [u8]),
    /// The answer to a ping, with its payload.
    Pong(&'b [u8]),
    /// The peer closes, with its code if it sent one.
    Close(Option<u16>),
}

/// Why a connection must be closed because of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// RFC 6455 forbids it.
    #[error("{0}")]
    Protocol(&'static str),
    /// A text message that is not UTF-8.
    #[error("A text message must be UTF-8")]
    NotUtf8,
    /// A compressed message that cannot be inflated.
    #[error("A compressed message must be one whole DEFLATE stream, and not in tiny blocks")]
    NotDeflate,
    /// A message larger than allowed.
    #[error("The message is larger than {0} bytes")]
    TooBig(usize),
}

impl FrameError {
    /// The close for the peer.
    pub fn close(self) -> Close {
        let code = match self {
            Self::Protocol(_) => CloseCode::ProtocolError,
            Self::NotUtf8 | Self::NotDeflate => CloseCode::InvalidPayload,
            Self::TooBig(_) => CloseCode::TooBig,
        };
        Close { code, reason: self.to_string().into() }
    }
}

/// The state between two reads: the beginning of a frame or message.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of an incomplete frame.
    partial: Vec<u8>,
    /// The frames so far of an incomplete message.
    fragments: Option<Box<Fragments>>,
}

#[derive(Debug)]
struct Fragments {
    text: bool,
    compressed: bool,
    payload: Vec<u8>,
}

impl Decoder {
    /// Feeds `input` and passes each complete message to `on_message`, until that returns false; the rest is for the
    /// next call. A message may hold up to `bytes_max` bytes; a larger one is refused before it is collected. Messages
    /// may be compressed if there is an `inflater`.
    pub fn decode(
        &mut self,
        input: &mut [u8],
        bytes_max: usize,
        inflater: Option<&mut Inflater>,
        mut on_message: impl FnMut(Message<'_>) -> bool,
    ) -> Result<(), FrameError> {
        let mut rules = Rules { bytes_max, inflater };
        if self.partial.is_empty() {
            let used = self.decode_all(input, &mut rules, &mut on_message)?;
            self.partial.extend_from_slice(&input[used..]);
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.partial);
        bytes.extend_from_slice(input);
        let used = self.decode_all(&mut bytes, &mut rules, &mut on_message)?;
        if used < bytes.len() {
            bytes.drain(..used);
            self.partial = bytes;
        }
        Ok(())
    }

    /// Buffers bytes for the next call of [`Decoder::decode`].
    pub fn feed(&mut self, input: &[u8]) {
        self.partial.extend_from_slice(input);
    }

    /// Bytes in the buffer.
    pub fn waiting(&self) -> usize {
        self.partial.len() + self.fragments.as_ref().map_or(0, |fragments| fragments.payload.len())
    }

    /// Returns how many bytes belonged to complete frames.
    fn decode_all(
        &mut self,
        bytes: &mut [u8],
        rules: &mut Rules<'_>,
        on_message: &mut impl FnMut(Message<'_>) -> bool,
    ) -> Result<usize, FrameError> {
        let mut used = 0;
        while let Some((header, start, length)) = self.header(&bytes[used..], rules)? {
            let frame = &mut bytes[used..];
            let Some(payload) = frame.get_mut(start..start + length) else { break };
            unmask(payload, header.mask.unwrap_or_default());
            used += start + length;
            if let Some(message) = self.assemble(&header, payload, rules)?
                && !on_message(message)
            {
                return Ok(used);
            }
        }
        Ok(used)
    }

    /// The next frame's header, with the start and length of its payload; `None` if it is incomplete.
    fn header(&self, bytes: &[u8], rules: &Rules<'_>) -> Result<Option<(FrameHeader, usize, usize)>, FrameError> {
        let mut cursor = Cursor::new(bytes);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| FrameError::Protocol("Unknown opcode"))?;
        let Some((header, length)) = parsed else { return Ok(None) };
        if header.rsv2 || header.rsv3 || (header.rsv1 && !rules.allows_compressed(header.opcode)) {
            return Err(FrameError::Protocol("A reserved bit is set"));
        }
        if header.mask.is_none() {
            return Err(FrameError::Protocol("Frames from a client must be masked"));
        }
        let (collected, compressed) = match header.opcode {
            OpCode::Control(_) if !header.is_final => {
                return Err(FrameError::Protocol("A control frame is fragmented"));
            }
            OpCode::Control(_) if length > 125 => {
                return Err(FrameError::Protocol("A control frame is longer than 125 bytes"));
            }
            OpCode::Control(_) => (0, false),
            OpCode::Data(_) => match &self.fragments {
                Some(fragments) => (fragments.payload.len(), fragments.compressed),
                None => (0, header.rsv1),
            },
        };
        match usize::try_from(length) {
            Ok(length) if collected.saturating_add(length) <= rules.wire_bytes_max(compressed) => {
                Ok(Some((header, cursor.position() as usize, length)))
            }
            _ => Err(FrameError::TooBig(rules.bytes_max)),
        }
    }

    /// Adds a frame. Returns the message that it completes.
    fn assemble<'b>(
        &mut self,
        header: &FrameHeader,
        payload: &'b mut [u8],
        rules: &mut Rules<'_>,
    ) -> Result<Option<Message<'b>>, FrameError> {
        match header.opcode {
            OpCode::Control(Control::Ping) => Ok(Some(Message::Ping(payload))),
            OpCode::Control(Control::Close) => close_message(payload).map(Some),
            OpCode::Control(_) => Ok(Some(Message::Pong(payload))),
            OpCode::Data(Data::Continue) => self.go_on(payload, header.is_final, rules),
            OpCode::Data(_) if self.fragments.is_some() => {
                Err(FrameError::Protocol("A new message starts before the last one is complete"))
            }
            OpCode::Data(kind) => {
                let (text, compressed) = (kind == Data::Text, header.rsv1);
                if !header.is_final {
                    self.fragments = Some(Box::new(Fragments { text, compressed, payload: payload.to_vec() }));
                    return Ok(None);
                }
                let payload = if compressed { Cow::Owned(rules.inflate(payload)?) } else { Cow::Borrowed(&*payload) };
                data_message(text, payload).map(Some)
            }
        }
    }

    fn go_on<'b>(
        &mut self,
        payload: &[u8],
        is_final: bool,
        rules: &mut Rules<'_>,
    ) -> Result<Option<Message<'b>>, FrameError> {
        let Some(fragments) = &mut self.fragments else {
            return Err(FrameError::Protocol("A continuation without a beginning"));
        };
        fragments.payload.extend_from_slice(payload);
        if !is_final {
            return Ok(None);
        }
        let Some(whole) = self.fragments.take() else { return Ok(None) };
        let payload = if whole.compressed { rules.inflate(&whole.payload)? } else { whole.payload };
        data_message(whole.text, Cow::Owned(payload)).map(Some)
    }
}

/// The limits for messages of a connection.
struct Rules<'i> {
    bytes_max: usize,
    /// There if messages may be compressed.
    inflater: Option<&'i mut Inflater>,
}

impl Rules<'_> {
    /// Whether the first frame of a message with this opcode may be marked as compressed.
    fn allows_compressed(&self, opcode: OpCode) -> bool {
        self.inflater.is_some() && matches!(opcode, OpCode::Data(Data::Text | Data::Binary))
    }

    /// Bytes that a message may take on the wire. DEFLATE adds up to five bytes to each block that it cannot compress.
    fn wire_bytes_max(&self, compressed: bool) -> usize {
        let more = if compressed { self.bytes_max / 1024 + 64 } else { 0 };
        self.bytes_max.max(125).saturating_add(more)
    }

    fn inflate(&mut self, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
        let inflater = self.inflater.as_deref_mut().ok_or(FrameError::NotDeflate)?;
        inflater.inflate(payload, self.bytes_max).map_err(|error| match error {
            InflateError::Damaged => FrameError::NotDeflate,
            InflateError::TooBig => FrameError::TooBig(self.bytes_max),
        })
    }
}

fn data_message(text: bool, payload: Cow<'_, [u8]>) -> Result<Message<'_>, FrameError> {
    if !text {
        return Ok(Message::Binary);
    }
    let text = match payload {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).ok(),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).ok(),
    };
    text.map(Message::Text).ok_or(FrameError::NotUtf8)
}

fn close_message(payload: &[u8]) -> Result<Message<'static>, FrameError> {
    match payload {
        [] => Ok(Message::Close(None)),
        [_] => Err(FrameError::Protocol("A close frame holds half a code")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !Received::from(code).is_allowed() {
                return Err(FrameError::Protocol("A close frame holds a code that must not be sent"));
            }
            std::str::from_utf8(reason).map_err(|_| FrameError::NotUtf8)?;
            Ok(Message::Close(Some(code)))
        }
    }
}

/// XORs eight bytes at a time, which the compiler turns into vector instructions.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = [a, b, c, d, a, b, c, d];
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        for (byte, mask) in chunk.iter_mut().zip(wide) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(wide) {
        *byte ^= mask;
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
