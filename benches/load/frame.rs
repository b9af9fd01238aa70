//! WebSocket frames, as little of them as a load program needs.

/// A whole frame at the start of some bytes.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    /// Low four bits of the first byte.
    pub(crate) opcode: u8,
    /// RSV1: the message is compressed.
    pub(crate) compressed: bool,
    /// Where the payload begins.
    pub(crate) start: usize,
    /// Where the frame ends.
    pub(crate) end: usize,
    /// The key stands in the four bytes before the payload.
    pub(crate) masked: bool,
}

/// Opcodes that occur.
pub(crate) mod opcode {
    pub(crate) const TEXT: u8 = 1;
    pub(crate) const CLOSE: u8 = 8;
    pub(crate) const PING: u8 = 9;
    pub(crate) const PONG: u8 = 10;
}

/// Constant, since the receiver's work does not depend on it.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The frame at the start of `bytes`, once all of it has come.
#[inline]
pub(crate) fn first(bytes: &[u8]) -> Option<Frame> {
    let [lead, second, ..] = *bytes else { return None };
    let (header, length) = match second & 0x7f {
        126 => (4, u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize),
        short => (2, short as usize),
    };
    let masked = second & 0x80 != 0;
    let start = if masked { header + 4 } else { header };
    let end = start + length;
    (bytes.len() >= end).then_some(Frame { opcode: lead & 0x0f, compressed: lead & 0x40 != 0, start, end, masked })
}

/// Appends a frame as a server sends it.
pub(crate) fn plain(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    header(out, opcode, 0, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a frame as a client sends it.
pub(crate) fn masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    header(out, opcode, 0x80, payload.len());
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// The payload of a frame at the start of `bytes`, without its mask.
pub(crate) fn unmasked(bytes: &[u8], frame: Frame) -> Vec<u8> {
    let payload = &bytes[frame.start..frame.end];
    if !frame.masked {
        return payload.to_vec();
    }
    let key = &bytes[frame.start - 4..frame.start];
    payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect()
}

fn header(out: &mut Vec<u8>, opcode: u8, mask_bit: u8, length: usize) {
    out.push(0x80 | opcode);
    if length < 126 {
        out.push(mask_bit | length as u8);
    } else if let Ok(length) = u16::try_from(length) {
        out.push(mask_bit | 126);
        out.extend_from_slice(&length.to_be_bytes());
    } else {
        out.push(mask_bit | 127);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
}
