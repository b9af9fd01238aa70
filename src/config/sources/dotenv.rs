//! Parses the text of `.env`, as dotenv and Laravel do.
//! `sources` opens the file and calls it.

use std::collections::BTreeMap;

const OPEN: &str = "has a quote that is not closed; close it";

/// A variable of the file.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::config) struct Entry {
    pub(in crate::config) line: usize,
    pub(in crate::config) name: String,
    pub(in crate::config) value: Result<String, &'static str>,
}

/// The variables of a `.env` by name, the last of a name, as Laravel reads them. One whose quote is not closed is left
/// out.
///
/// ```
/// use gema::config::dotenv_variables;
///
/// let variables = dotenv_variables("APP_NAME=shop # ours\nREDIS_PREFIX=\"${APP_NAME}_\"\n", &[].into());
/// assert_eq!(variables["REDIS_PREFIX"], "shop_");
/// ```
pub fn variables(text: &str, environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let entries = read(text, environment, |_| true).into_iter();
    entries.filter_map(|entry| Some((entry.name, entry.value.ok()?))).collect()
}

/// The variables of `text`, from top to bottom; what is none is passed over. `${NAME}` stands for a variable of
/// `environment` or one further up. A quote that nobody closed does not swallow a variable that `matters`.
pub(in crate::config) fn read(
    text: &str,
    environment: &BTreeMap<String, String>,
    matters: fn(&str) -> bool,
) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let (mut rest, mut line) = (text.trim_start_matches('\u{feff}'), 1);
    while !rest.is_empty() {
        let mut behind = rest;
        if let Some((name, begin)) = name(rest) {
            let known = |name: &str| {
                let above = || entries.iter().rev().find(|entry| entry.name == name);
                environment.get(name).cloned().or_else(|| above()?.value.clone().ok())
            };
            let (mut value, mut end) = value(begin, &known);
            let mut further = begin[..begin.len() - end.len()].lines().skip(1);
            if further.any(|line| self::name(line).is_some_and(|(name, _)| matters(name))) {
                (value, end) = (Err(OPEN), begin);
            }
            entries.push(Entry { line, name: name.to_owned(), value });
            behind = end;
        }
        let next = behind.split_once('\n').map_or("", |(_, next)| next);
        line += rest[..rest.len() - next.len()].matches('\n').count();
        rest = next;
    }
    entries
}

/// The name that a line gives a value, and what follows the sign between them.
fn name(line: &str) -> Option<(&str, &str)> {
    let blank = |letter: char| letter == ' ' || letter == '\t';
    let line = line.trim_start_matches(blank);
    let line = line.strip_prefix("export ").map_or(line, |line| line.trim_start_matches(blank));
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    let (name, rest) = line.split_at(line.find(|letter| !is_name(letter)).unwrap_or(line.len()));
    let rest = rest.trim_start_matches(blank).strip_prefix('=')?;
    (!name.is_empty()).then(|| (name, rest.trim_start_matches(blank)))
}

/// A value, with or without quotes, and what follows it.
fn value<'a>(text: &'a str, known: &dyn Fn(&str) -> Option<String>) -> (Result<String, &'static str>, &'a str) {
    let Some(quote) = text.chars().next().filter(|first| "'\"`".contains(*first)) else {
        let line = text.split('\n').next().unwrap_or_default();
        let is_comment = |at: &usize| line[..*at].chars().next_back().is_none_or(char::is_whitespace);
        let end = line.match_indices('#').map(|(at, _)| at).find(is_comment).unwrap_or(line.len());
        return (Ok(expand(line[..end].trim(), known)), &text[line.len()..]);
    };
    let mut escaped = false;
    let end = text[1..].find(|letter| {
        let closes = letter == quote && !escaped;
        escaped = quote == '"' && letter == '\\' && !escaped;
        closes
    });
    let Some(end) = end else { return (Err(OPEN), text) };
    let (inner, rest) = (&text[1..=end], &text[end + 2..]);
    let value = if quote == '"' { unescape(inner, known) } else { inner.to_owned() };
    (Ok(value), rest)
}

/// A text without its escapes, and with values in the place of their `${NAME}`, unless the `$` is escaped.
fn unescape(text: &str, known: &dyn Fn(&str) -> Option<String>) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(&expand(before, known));
        let mut letters = after.chars();
        match letters.next() {
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('t') => plain.push('\t'),
            Some(letter @ ('"' | '\\' | '$')) => plain.push(letter),
            other => plain.extend(std::iter::once('\\').chain(other)),
        }
        rest = letters.as_str();
    }
    plain + &expand(rest, known)
}

/// Puts values in the place of their `${NAME}`; what nobody knows stays.
fn expand(text: &str, known: &dyn Fn(&str) -> Option<String>) -> String {
    let (mut expanded, mut rest) = (String::new(), text);
    while let Some((before, (name, after))) =
        rest.split_once("${").and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    {
        expanded.push_str(before);
        expanded.push_str(&known(name).unwrap_or_else(|| format!("${{{name}}}")));
        rest = after;
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(text: &str) -> Vec<(usize, String, String)> {
        let environment = BTreeMap::from([("OUTSIDE".to_owned(), "o".to_owned())]);
        let entries = read(text, &environment, |_| false);
        entries.into_iter().map(|entry| (entry.line, entry.name, entry.value.unwrap())).collect()
    }

    #[test]
    fn values_are_read_as_dotenv_and_laravel_do() {
        for (text, value) in [
            ("A=b", "b"),
            ("\u{feff}A=b\r\n", "b"),
            ("  export A = b  # a comment", "b"),
            ("A=#c", ""),
            ("A=b#c", "b#c"),
            ("A=", ""),
            ("A='b # c' # d", "b # c"),
            ("A=\"b \\\"c\\\" \\n\"", "b \"c\" \n"),
            ("A=`b\nc`", "b\nc"),
            ("A=b c", "b c"),
            ("A=${OUTSIDE}-${NOBODY}-${", "o-${NOBODY}-${"),
            ("A='${OUTSIDE}'", "${OUTSIDE}"),
            ("A=\"x${OUTSIDE}\"", "xo"),
            ("A=\"\\${OUTSIDE} \\\\${OUTSIDE}\"", "${OUTSIDE} \\o"),
        ] {
            assert_eq!(values(text)[0].2, value, "{text:?}");
        }
    }

    #[test]
    fn each_variable_has_its_line() {
        let text = "# APP\n\nA='1\n2'\nnot a variable\nB=2\nC=${B}3";
        let found = values(text);
        let found: Vec<_> = found.iter().map(|(line, name, value)| (*line, name.as_str(), value.as_str())).collect();
        assert_eq!(found, [(3, "A", "1\n2"), (6, "B", "2"), (7, "C", "23")]);
    }

    #[test]
    fn a_quote_that_is_not_closed_spoils_its_line_only() {
        let entries = read("A=\"b\nB=2", &BTreeMap::new(), |_| false);
        assert!(entries[0].value.is_err());
        assert_eq!((entries[1].line, entries[1].value.as_deref()), (2, Ok("2")));
    }

    #[test]
    fn a_quote_far_below_closes_nothing_over_what_matters() {
        let text = "A='b\nB='2'\nC='3'";
        let values: Vec<_> =
            read(text, &BTreeMap::new(), |name| name == "B").into_iter().map(|entry| entry.value).collect();
        assert_eq!(values, [Err(OPEN), Ok("2".to_owned()), Ok("3".to_owned())]);
    }

    proptest! {
        #[test]
        fn whatever_is_there_has_its_line(text in "[A-C=\"'`#$\\{\\}\\\\ \nü\r]{0,80}") {
            for entry in read(&text, &BTreeMap::new(), |name| name == "B") {
                let line = text.split('\n').nth(entry.line - 1).unwrap();
                prop_assert!(line.contains(&entry.name));
            }
        }
    }
}
