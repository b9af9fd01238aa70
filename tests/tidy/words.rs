//! Words and sentences that a stranger would not understand. `words.txt` says how often each may still occur; the
//! numbers only fall.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::comments::sentences;
use crate::source::SOURCE;

const HOW_TO_LOWER: &str = "TIDY_LOWER=1 cargo test --test tidy";

/// A sentence of more words is two.
const SENTENCE_WORDS_MAX: usize = 30;

/// The key of such sentences.
const TOO_LONG: &str = ">30";

/// A line of `words.txt`.
struct Rule<'a> {
    /// As written: `fact,facts`, `Link`, `^What` or `>30`.
    key: &'a str,
    ceiling: usize,
    instead: &'a str,
}

impl<'a> Rule<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let mut columns = line.splitn(3, ' ');
        let (ceiling, key) = (columns.next()?, columns.next().unwrap_or_default());
        let ceiling = ceiling.parse().unwrap_or_else(|_| panic!("words.txt: no number begins {line:?}"));
        Some(Self { key, ceiling, instead: columns.next().unwrap_or_default() })
    }
}

/// The places of all keys. A name counts once for each of its words.
fn places() -> BTreeMap<String, Vec<String>> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in &SOURCE.files {
        for name in &file.names {
            let place = format!("{}:{} {}", file.name, name.line, name.text);
            if name.is_type {
                places.entry(name.text.clone()).or_default().push(place.clone());
            }
            for word in words_of(&name.text) {
                places.entry(word).or_default().push(place.clone());
            }
        }
        for sentence in sentences(file) {
            let place = format!("{}:{} {}", file.name, sentence.line, sentence.text);
            let first = sentence.text.split_whitespace().next().unwrap_or_default();
            places.entry(format!("^{first}")).or_default().push(place.clone());
            if sentence.text.split_whitespace().count() > SENTENCE_WORDS_MAX {
                places.entry(TOO_LONG.to_owned()).or_default().push(place);
            }
        }
    }
    places
}

/// `["outbox", "bytes"]` of `outbox_bytes`, `OUTBOX_BYTES` and `OutboxBytes`.
fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let is_constant = !name.chars().any(char::is_lowercase);
    for letter in name.chars() {
        if letter == '_' || (letter.is_uppercase() && !is_constant) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| letter != '_') {
            word.extend(letter.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn words_that_nobody_guesses_become_fewer() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tidy/words.txt");
    let text = fs::read_to_string(&file).unwrap();
    let places = places();
    let (mut lowered, mut too_many, mut fewer) = (String::new(), String::new(), String::new());
    for line in text.lines() {
        let Some(rule) = Rule::parse(line) else {
            writeln!(lowered, "{line}").unwrap();
            continue;
        };
        let found: Vec<_> = rule.key.split(',').filter_map(|key| places.get(key)).flatten().collect();
        let count = found.len();
        writeln!(lowered, "{} {} {}", count.min(rule.ceiling), rule.key, rule.instead).unwrap();
        if count > rule.ceiling {
            let Rule { key, ceiling, instead } = rule;
            writeln!(too_many, "{key}: {count} times, {ceiling} at most; instead: {instead}\n{found:#?}").unwrap();
        } else if count < rule.ceiling {
            writeln!(fewer, "{}: {count} times, no longer {}", rule.key, rule.ceiling).unwrap();
        }
    }
    assert!(too_many.is_empty(), "{too_many}");
    if std::env::var_os("TIDY_LOWER").is_some() {
        return fs::write(&file, lowered).unwrap();
    }
    assert!(fewer.is_empty(), "{fewer}Lower the numbers: {HOW_TO_LOWER}");
}

#[test]
fn names_fall_into_words() {
    assert_eq!(words_of("outbox_bytes_max"), ["outbox", "bytes", "max"]);
    assert_eq!(words_of("OUTBOX_BYTES"), ["outbox", "bytes"]);
    assert_eq!(words_of("ChannelFacts"), ["channel", "facts"]);
}
