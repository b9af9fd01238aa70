//! A mark in each payload: when the event was sent, by which connection, and as which number.
//!
//! `~#`, then 16 letters of time, 8 of stream and 8 of number. A letter is 'A' plus four bits:
//! JSON never escapes it, and eight of them are read with three shifts.

/// Bytes of a mark.
const LENGTH: usize = 34;
const SIGN: &[u8; 2] = b"~#";

/// A mark that was read.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    /// When the event was sent, on the tool's clock.
    pub(crate) sent: u64,
    /// The stream that it belongs to: the number of the HTTP connection.
    pub(crate) stream: u32,
    /// Its number within the stream, from 0.
    pub(crate) number: u32,
}

impl Mark {
    fn write(self, out: &mut [u8]) {
        out[..2].copy_from_slice(SIGN);
        put(&mut out[2..18], self.sent);
        put(&mut out[18..26], u64::from(self.stream));
        put(&mut out[26..34], u64::from(self.number));
    }

    /// Finds the mark in a frame. `place` is where the last one stood, and so nearly always this one.
    #[inline]
    pub(crate) fn find(text: &[u8], place: &mut usize) -> Option<Self> {
        let letters = match letters(text, *place) {
            Some(letters) => letters,
            None => {
                *place = text.windows(SIGN.len()).position(|window| window == SIGN)?;
                letters(text, *place)?
            }
        };
        let (words, _) = letters.as_chunks::<8>();
        Some(Self {
            sent: u64::from(word(words[0])) << 32 | u64::from(word(words[1])),
            stream: word(words[2]),
            number: word(words[3]),
        })
    }
}

#[inline]
fn letters(text: &[u8], place: usize) -> Option<&[u8; LENGTH - 2]> {
    text.get(place..)?.strip_prefix(SIGN)?.first_chunk()
}

fn put(letters: &mut [u8], mut value: u64) {
    for letter in letters.iter_mut().rev() {
        *letter = b'A' + (value & 15) as u8;
        value >>= 4;
    }
}

/// Eight letters, four bits each.
#[inline]
fn word(letters: [u8; 8]) -> u32 {
    let nibbles = u64::from_be_bytes(letters).wrapping_sub(u64::from_be_bytes([b'A'; 8]));
    let bytes = (nibbles | nibbles >> 4) & 0x00ff_00ff_00ff_00ff;
    let halves = (bytes | bytes >> 8) & 0x0000_ffff_0000_ffff;
    (halves | halves >> 16) as u32
}

/// An event's `data` as Laravel sends it: an object in a string, so that quotes in it are escaped.
pub(crate) struct Payload {
    text: Vec<u8>,
    place: usize,
    key_place: usize,
}

impl Payload {
    /// A payload of `length` bytes after unescaping, if a mark fits into that.
    pub(crate) fn new(length: usize) -> Self {
        const HEAD: &[u8] = br#"{\"mark\":\""#;
        const MIDDLE: &[u8] = br#"\",\"text\":\""#;
        const TAIL: &[u8] = br#"\"}"#;
        let mut text = [HEAD, &[b'A'; LENGTH], MIDDLE].concat();
        let bare = [&text, TAIL].concat().iter().filter(|byte| **byte != b'\\').count();
        let words = b"the order has been shipped and is on its way ";
        text.extend(words.iter().cycle().take(length.saturating_sub(bare)));
        text.extend_from_slice(TAIL);
        Self { text, place: HEAD.len(), key_place: 0 }
    }

    /// The same with a key, as [`Payload::set_key`] sets it.
    pub(crate) fn keyed(length: usize) -> Self {
        const KEY: &[u8] = br#"\"key\":\"00000\","#;
        let bare = KEY.iter().filter(|byte| **byte != b'\\').count();
        let Self { mut text, place, .. } = Self::new(length.saturating_sub(bare));
        let start = place + LENGTH + br#"\","#.len();
        text.splice(start..start, KEY.iter().copied());
        Self { text, place, key_place: start + br#"\"key\":\""#.len() }
    }

    /// Writes a key of five digits.
    pub(crate) fn set_key(&mut self, key: usize) {
        self.text[self.key_place..self.key_place + 5].copy_from_slice(format!("{key:05}").as_bytes());
    }

    /// A payload of about `length` bytes after unescaping: readings of sensors, as a dashboard gets them.
    pub(crate) fn readings(length: usize) -> Self {
        let head = r#"{\"mark\":\""#;
        let mut text = format!(r#"{head}{}\",\"readings\":["#, "A".repeat(LENGTH));
        // Always the same, so that runs can be compared.
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let unescaped = |text: &str| text.bytes().filter(|byte| *byte != b'\\').count();
        while unescaped(&text) < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let (sensor, value, second) = (state % 100, (state >> 8) % 100_000, (state >> 32) % 60);
            text.push_str(&format!(
                r#"{{\"channel\":\"sensor-{sensor}\",\"value\":{}.{:02},\"unit\":\"bar\",\"at\":\"2027-01-01T08:00:{second:02}Z\"}},"#,
                value / 100,
                value % 100,
            ));
        }
        text.pop();
        text.push_str("]}");
        Self { text: text.into_bytes(), place: head.len(), key_place: 0 }
    }

    /// The payload, ready to stand between quotes, with this mark in it.
    pub(crate) fn with(&mut self, mark: Mark) -> &[u8] {
        mark.write(&mut self.text[self.place..]);
        &self.text
    }
}
