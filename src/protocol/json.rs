//! JSON that passes through unchanged: a subscriber gets a publisher's data as it was written.
//! The other files of `protocol` use it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::MapAccess;
use serde::de::Visitor;
use serde_json::value::RawValue;

/// `text` as a JSON string, with its quotes.
pub(crate) fn quote(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("text always becomes a JSON string");
}

/// Like `quote`, but as a new text.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("text always becomes a JSON string")
}

/// A JSON object read into `T`, with borrowed fields; `None` when it is another kind of value or does not fit.
pub(crate) fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    let is_object = text.trim_ascii_start().starts_with('{');
    is_object.then(|| serde_json::from_str(text).ok()).flatten()
}

/// Whether the value is a string.
pub fn is_string(raw: &RawValue) -> bool {
    raw.get().starts_with('"')
}

/// The characters of a JSON string; `None` when it is another kind of value, or holds half of a surrogate pair.
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    // For another kind of value serde_json would spend more on its error than on a string.
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

/// A value without white space between its parts, otherwise as it was written.
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

/// A value in the fewest bytes: without white space between its parts, and without unnecessary escapes. Digits, order
/// and names stay as they were written.
///
/// ```
/// use gema::protocol::json::minimal;
/// let raw = |text| serde_json::value::RawValue::from_string(String::from(text)).unwrap();
/// assert_eq!(minimal(&raw(r#"{ "a\/b": "\u00e9\ud83d\ude00", "n": 1.0 }"#)), r#"{"a/b":"é😀","n":1.0}"#);
/// assert_eq!(minimal(&raw(r#""\u0022\n\u0007\ud800""#)), r#""\"\n\u0007\ud800""#);
/// ```
pub fn minimal(raw: &RawValue) -> Cow<'_, str> {
    match compact(raw) {
        Cow::Borrowed(compact) => without_escapes(compact),
        Cow::Owned(compact) => Cow::Owned(without_escapes(&compact).into_owned()),
    }
}

fn without_escapes(json: &str) -> Cow<'_, str> {
    if !json.contains('\\') {
        return Cow::Borrowed(json);
    }
    let mut short = String::with_capacity(json.len());
    // Outside of strings there are no backslashes.
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        short.push_str(&rest[..at]);
        let (literal, meant) = escape(&rest[at..]);
        match meant {
            Some('"') => short.push_str("\\\""),
            Some('\\') => short.push_str("\\\\"),
            Some(letter) if letter >= ' ' => short.push(letter),
            Some('\n') => short.push_str("\\n"),
            Some('\r') => short.push_str("\\r"),
            Some('\t') => short.push_str("\\t"),
            Some('\u{8}') => short.push_str("\\b"),
            Some('\u{c}') => short.push_str("\\f"),
            // Half of a pair, or what has no shorter form.
            _ => short.push_str(literal),
        }
        rest = &rest[at + literal.len()..];
    }
    short.push_str(rest);
    Cow::Owned(short)
}

/// The escape at the beginning of a text, with both halves of a pair, and its character; `None` for half of a pair. The
/// text is valid JSON.
fn escape(text: &str) -> (&str, Option<char>) {
    let bytes = text.as_bytes();
    let letter = match bytes[1] {
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'u' => {
            let first = unit(&bytes[2..6]);
            let second = text.get(6..12).filter(|next| next.starts_with("\\u")).map(|next| unit(&next.as_bytes()[2..]));
            if let (0xD800..0xDC00, Some(low @ 0xDC00..0xE000)) = (first, second) {
                return (&text[..12], char::from_u32(0x10000 + ((first - 0xD800) << 10) + (low - 0xDC00)));
            }
            return (&text[..6], char::from_u32(first));
        }
        other => char::from(other),
    };
    (&text[..2], Some(letter))
}

/// Whether an event's data holds more than `max` bytes: those of a text, or those of any other value in its shortest
/// form. `literal` is what [`data_string`] has made of it.
pub fn data_is_longer(raw: &RawValue, literal: &str, max: usize) -> bool {
    let is_long = |json: String| without_escapes(&json).len() > max;
    is_longer(literal, max) && (is_string(raw) || serde_json::from_str(literal).map_or(true, is_long))
}

/// Adds a member to the data of a frame, a JSON string with its quotes. It replaces any member of its name. `None` if
/// the data is no object; an empty array is one, since PHP does not distinguish them.
pub fn with_member(literal: &str, name: &str, value: &str) -> Option<String> {
    let data: Cow<'_, str> = serde_json::from_str(literal).ok()?;
    let Fields(fields) = match data.trim_ascii() {
        "[]" => Fields(Vec::new()),
        _ => object(&data)?,
    };
    let others = fields.iter().filter(|(key, _)| text(key).as_deref() != Some(name));
    let members = others.map(|(key, value)| format!("{}:{}", key.get(), value.get()));
    let members: Vec<String> = members.chain([format!("{}:{}", quoted(name), quoted(value))]).collect();
    Some(quoted(&format!("{{{}}}", members.join(","))))
}

/// Keys and values of an object, in their order and as they were written.
pub(crate) struct Fields<'a>(pub(crate) Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Fields<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Whether a data string, a JSON string with its quotes, holds more than `max` bytes.
pub fn is_longer(literal: &str, max: usize) -> bool {
    // Resolving escapes only shortens, so a short literal needs no counting.
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
    fn the_shortest_form_means_the_same() {
        for text in [
            r#"{"\u0061":["\/","\\\/","\\u0041","\u005c","\"\u0022"],"b":-1.50e3}"#,
            r#""\b\f\n\r\t\u0008\u000C\u000a\u000D\u0009\u0000\u001f\u007f""#,
            "[\"\\u00E9\\u0e01\\ud83D\\uDE00\\u2028é\", \"\"]",
        ] {
            let raw = RawValue::from_string(text.to_owned()).unwrap();
            let short = minimal(&raw);
            let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            assert_eq!(value(&short), value(text), "{short}");
            assert_eq!(short, value(&short).to_string().replace("-1500.0", "-1.50e3"), "{text}");
        }
        let halves = RawValue::from_string(r#""\ud800\ud800\udc00\udc00x\ud83d\u0041""#.to_owned()).unwrap();
        assert_eq!(minimal(&halves), "\"\\ud800\u{10000}\\udc00x\\ud83dA\"");
    }

    #[test]
    fn data_counts_as_what_it_is() {
        let longer = |text: &str, max| {
            let raw = RawValue::from_string(text.to_owned()).unwrap();
            data_is_longer(&raw, &data_string(&raw), max)
        };
        let value = format!("{{ \"a\": \"{}\" }}", "\\u00e9".repeat(100));
        assert!(!longer(&value, 208) && longer(&value, 207));
        let text = format!("\"{}\"", "\\u00e9".repeat(100));
        assert!(!longer(&text, 200) && longer(&text, 199));
        // White space within a text counts.
        let within = serde_json::to_string(&value).unwrap();
        assert!(!longer(&within, value.len()) && longer(&within, value.len() - 1));
    }

    #[test]
    fn a_member_is_added_to_objects_only_and_only_once() {
        let added = |data: &str| {
            with_member(&quoted(data), "channel", "a\"b")
                .map(|literal| serde_json::from_str::<String>(&literal).unwrap())
        };
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(added(r#" { "a" : [1.0, "\u00e9"] }"#), is(r#"{"a":[1.0, "\u00e9"],"channel":"a\"b"}"#));
        assert_eq!(added(r#"{"channel":"mine","\u0063hannel":1,"b":2}"#), is(r#"{"b":2,"channel":"a\"b"}"#));
        for empty in ["{}", "[]", " [] "] {
            assert_eq!(added(empty), is(r#"{"channel":"a\"b"}"#), "{empty}");
        }
        for other in ["", "text", "{a", "[1]", "7", "null", "\"{}\"", "{} {}"] {
            assert_eq!(added(other), None, "{other}");
        }
    }

    #[test]
    fn deep_values_are_rewritten_like_others() {
        let deep = format!("{}{}", "[ ".repeat(100_000), "]".repeat(100_000));
        let raw = RawValue::from_string(deep.clone()).unwrap();
        assert_eq!(compact(&raw), deep.replace(' ', ""));
    }
}
