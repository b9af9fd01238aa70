//! Changes to the JSON of an event's data. The rest stays as it was written.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::flow::path;
use crate::flow::path::DataPath;
use crate::protocol::event;
use crate::protocol::frame::Frame;
use crate::protocol::json;
use crate::protocol::json::Fields;
use crate::protocol::json::quoted;

/// The frame of an event that a rule has made.
pub(super) fn frame(channel: &str, name: &str, data: &str) -> Frame {
    event::published(channel, name, &quoted(data))
}

/// The fields of two objects as one: a field of the newer takes the place of the older one of its name. `None` if one of
/// them is no object.
pub(super) fn merged(older: &str, newer: &str) -> Option<String> {
    let Fields(mut fields) = json::object(older)?;
    let Fields(newer) = json::object(newer)?;
    let mut places: HashMap<Cow<'_, str>, usize> = HashMap::with_capacity(fields.len());
    for (place, (name, _)) in fields.iter().enumerate() {
        places.insert(meaning(name), place);
    }
    for (name, value) in newer {
        match places.get(&meaning(name)) {
            Some(&place) => fields[place] = (name, value),
            None => {
                places.insert(meaning(name), fields.len());
                fields.push((name, value));
            }
        }
    }
    let members: Vec<String> = fields.iter().map(|(name, value)| format!("{}:{}", name.get(), value.get())).collect();
    Some(format!("{{{}}}", members.join(",")))
}

/// The text of a name, or the name as it is written if it has none.
fn meaning(name: &RawValue) -> Cow<'_, str> {
    json::text(name).unwrap_or(Cow::Borrowed(name.get()))
}

/// Whether the end of the path is a member of an object.
pub(super) fn is_member(text: &str, path: &DataPath) -> bool {
    parent_object(text, path).is_some()
}

/// The object that holds the end of the path.
fn parent_object<'a>(text: &'a str, path: &DataPath) -> Option<&'a str> {
    let parent = match path.parent() {
        Some(parent) => parent.find(text)?,
        None => text,
    };
    parent.trim_ascii_start().starts_with('{').then_some(parent)
}

/// `text` with another value at `path`, and `aggregate` beside it. `None` if there is no such member of an object.
pub(super) fn with_figures(text: &str, path: &DataPath, value: &str, aggregate: &str) -> Option<String> {
    let old = place(text, path.find(text)?);
    let parent = parent_object(text, path)?;
    let new = match path::take(parent, "aggregate").map(|present| place(text, present)) {
        Some(present) if present == old => vec![(old, value.to_owned())],
        Some(present) => vec![(old, value.to_owned()), (present, aggregate.to_owned())],
        None => vec![(old, format!("{value},\"aggregate\":{aggregate}"))],
    };
    Some(replaced(text, new))
}

/// `text` with another value at `path`.
pub(super) fn with_value(text: &str, path: &DataPath, value: &str) -> Option<String> {
    let old = place(text, path.find(text)?);
    Some(replaced(text, vec![(old, value.to_owned())]))
}

/// Where a part of `text` begins and ends.
fn place(text: &str, part: &str) -> (usize, usize) {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    (start, start + part.len())
}

fn replaced(text: &str, mut parts: Vec<((usize, usize), String)>) -> String {
    parts.sort_unstable_by_key(|&(place, _)| place);
    let (mut out, mut from) = (String::with_capacity(text.len() + 256), 0);
    for ((start, end), new) in parts {
        out.push_str(&text[from..start]);
        out.push_str(&new);
        from = end;
    }
    out.push_str(&text[from..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_fields_take_the_place_of_older_ones() {
        let merge = |older, newer| merged(older, newer);
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(
            merge(r#"{"a":1.0,"b":"\u00e9"}"#, r#"{"c": 3,"\u0061":2}"#),
            is(r#"{"\u0061":2,"b":"\u00e9","c":3}"#)
        );
        assert_eq!(merge("{}", "{}"), is("{}"));
        for other in ["[]", "1", "", "{", "\"a\"", "null"] {
            assert_eq!(merge(other, "{}"), None);
            assert_eq!(merge("{}", other), None);
        }
    }

    #[test]
    fn figures_stand_beside_their_value() {
        let edit = |text, path| with_figures(text, &DataPath::parse(path).unwrap(), "5", "{}");
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(edit(r#"{"v": 1 ,"w":2}"#, "v"), is(r#"{"v": 5,"aggregate":{} ,"w":2}"#));
        assert_eq!(edit(r#"{"d":{"v":1},"aggregate":7}"#, "d.v"), is(r#"{"d":{"v":5,"aggregate":{}},"aggregate":7}"#));
        assert_eq!(edit(r#"{"aggregate":7,"v":"1"}"#, "v"), is(r#"{"aggregate":{},"v":5}"#));
        assert_eq!(edit(r#"{"aggregate":7}"#, "aggregate"), is(r#"{"aggregate":5}"#));
        assert_eq!(edit("[1]", "0"), None);
        assert_eq!(edit("{}", "v"), None);
    }
}
