//! JSON that passes through: what a publisher wrote reaches the subscriber as it was.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// `text` as a JSON string, with its quotes.
pub(crate) fn quote(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("text always becomes a JSON string");
}

/// A JSON object read into `T`, with borrowed fields; `None` when it is another kind of value or does not fit.
pub(crate) fn object<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Option<T> {
    let is_object = text.trim_ascii_start().starts_with('{');
    is_object.then(|| serde_json::from_str(text).ok()).flatten()
}

/// Whether the value is a string.
pub fn is_string(raw: &RawValue) -> bool {
    raw.get().starts_with('"')
}

/// The characters of a JSON string; `None` when it is another kind of value, or holds half of a surrogate pair.
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(serde::Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str(raw.get()).ok().map(|Text(text)| text)
}

/// A value as the JSON string that goes into a frame's `data`: a string as it is, escapes included; any
/// other value as its compact text. `None` when it is nested too deeply to be rewritten.
///
/// ```
/// use gema::protocol::json::data_string;
/// let raw = |text| serde_json::value::RawValue::from_string(String::from(text)).unwrap();
/// assert_eq!(data_string(&raw(r#""a\/b""#)).unwrap(), r#""a\/b""#);
/// assert_eq!(data_string(&raw(r#"{"b": 1.0}"#)).unwrap(), r#""{\"b\":1.0}""#);
/// ```
pub fn data_string(raw: &RawValue) -> Option<Cow<'_, str>> {
    if is_string(raw) {
        return Some(Cow::Borrowed(raw.get()));
    }
    let compact = compact(raw)?;
    serde_json::to_string(&compact).ok().map(Cow::Owned)
}

/// A value without white space between its parts; numbers keep their digits and keys their order.
pub fn compact(raw: &RawValue) -> Option<Cow<'_, str>> {
    let text = raw.get();
    if !text.bytes().any(|byte| byte.is_ascii_whitespace()) {
        return Some(Cow::Borrowed(text));
    }
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    serde_json::to_string(&value).ok().map(Cow::Owned)
}

/// UTF-8 bytes of a data string once its escapes are resolved. `literal` is the JSON string with its quotes.
pub fn decoded_len(literal: &str) -> usize {
    let bytes = literal.as_bytes();
    let inner = &bytes[1..bytes.len() - 1];
    let (mut length, mut at) = (0, 0);
    while at < inner.len() {
        if inner[at] != b'\\' {
            (length, at) = (length + 1, at + 1);
        } else if inner[at + 1] != b'u' {
            (length, at) = (length + 1, at + 2);
        } else {
            let unit = unit(&inner[at + 2..at + 6]);
            length += match unit {
                0..0x80 => 1,
                0x80..0x800 => 2,
                0xD800..0xE000 => 2, // half of a pair; both halves together are four bytes
                _ => 3,
            };
            at += 6;
        }
    }
    length
}

fn unit(digits: &[u8]) -> u32 {
    digits.iter().fold(0, |value, &digit| value * 16 + char::from(digit).to_digit(16).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decoded_length_is_that_of_the_decoded_text() {
        for text in ["", "abc", "é/😀", "a\"b\\c\n\u{2028}\0"] {
            let literal = serde_json::to_string(text).unwrap();
            assert_eq!(decoded_len(&literal), text.len(), "{text:?}");
        }
        assert_eq!(decoded_len(r#""\u00e9\/\ud83d\ude00""#), "é/😀".len());
    }

    #[test]
    fn rewriting_keeps_digits_and_order() {
        let raw = RawValue::from_string(r#"{"z": 12345678901234567890.50, "a": [ true ]}"#.to_owned()).unwrap();
        assert_eq!(compact(&raw).unwrap(), r#"{"z":12345678901234567890.50,"a":[true]}"#);
    }
}
