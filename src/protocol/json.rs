//! JSON that passes through: what a publisher wrote reaches the subscriber as it was.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// `text` as a JSON string, with its quotes.
pub(crate) fn quote(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("text always becomes a JSON string");
}

/// The same as a text of its own.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("text always becomes a JSON string")
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
    // serde_json would spend more on saying what it is instead than on a string.
    if !is_string(raw) {
        return None;
    }
    serde_json::from_str(raw.get()).ok().map(|Text(text)| text)
}

/// A value as the JSON string that goes into a frame's `data`: a string as it is, escapes included; any
/// other value as its compact text.
///
/// ```
/// use gema::protocol::json::data_string;
/// let raw = |text| serde_json::value::RawValue::from_string(String::from(text)).unwrap();
/// assert_eq!(data_string(&raw(r#""a\/b""#)), r#""a\/b""#);
/// assert_eq!(data_string(&raw(r#"{"b": 1.0}"#)), r#""{\"b\":1.0}""#);
/// ```
pub fn data_string(raw: &RawValue) -> Cow<'_, str> {
    if is_string(raw) {
        return Cow::Borrowed(raw.get());
    }
    Cow::Owned(quoted(&compact(raw)))
}

/// A value without white space between its parts, and otherwise as it was written.
pub fn compact(raw: &RawValue) -> Cow<'_, str> {
    let text = raw.get();
    if !text.bytes().any(|byte| byte.is_ascii_whitespace()) {
        return Cow::Borrowed(text);
    }
    let (mut in_string, mut escaped) = (false, false);
    let is_kept = |letter: &char| {
        in_string ^= *letter == '"' && !escaped;
        escaped = *letter == '\\' && !escaped;
        in_string || !letter.is_ascii_whitespace()
    };
    Cow::Owned(text.chars().filter(is_kept).collect())
}

/// Whether a data string, a JSON string with its quotes, holds more than `max` bytes.
pub fn is_longer(literal: &str, max: usize) -> bool {
    // Escapes only ever shorten, so a short literal needs no counting.
    literal.len() - 2 > max && decoded_len(literal) > max
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
        assert_eq!(compact(&raw), r#"{"z":12345678901234567890.50,"a":[true]}"#);
    }

    #[test]
    fn strings_keep_their_white_space_and_keys_mean_nothing() {
        let text = r#"{ "a b\\" : "\" c", "$serde_json::private::Number" : "1", "a b\\" : "\ud800 \/" }"#;
        let raw = RawValue::from_string(text.to_owned()).unwrap();
        let compacted = r#"{"a b\\":"\" c","$serde_json::private::Number":"1","a b\\":"\ud800 \/"}"#;
        assert_eq!(compact(&raw), compacted);
    }

    #[test]
    fn deep_values_are_rewritten_like_others() {
        let deep = format!("{}{}", "[ ".repeat(100_000), "]".repeat(100_000));
        let raw = RawValue::from_string(deep.clone()).unwrap();
        assert_eq!(compact(&raw), deep.replace(' ', ""));
    }
}
