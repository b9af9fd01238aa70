//! Sentences of comments.

use crate::source::File;
use crate::source::SOURCE;

/// A sentence of a comment, and the line on which its paragraph begins.
pub(crate) struct Sentence {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// The sentences of a file's comments; blocks of code, headings and tables are left out.
pub(crate) fn sentences(file: &File) -> Vec<Sentence> {
    let mut sentences = Vec::new();
    let mut paragraph = String::new();
    let (mut begins, mut last) = (0, 0);
    let mut in_code = false;
    for (line, comment) in &file.comments {
        let text = comment.trim_start_matches('/').trim_start_matches('!').trim();
        let is_fence = text.starts_with("```");
        let is_left_out = text.starts_with(['|', '#']);
        let is_item = ["* ", "- "].iter().any(|mark| text.starts_with(mark));
        if *line != last + 1 || text.is_empty() || is_item || is_fence || is_left_out {
            sentences.extend(split(&paragraph).into_iter().map(|text| Sentence { text, line: begins }));
            paragraph.clear();
        }
        if is_fence {
            in_code = !in_code;
        } else if !in_code && !is_left_out {
            if paragraph.is_empty() {
                begins = *line;
            }
            paragraph.push_str(text.trim_start_matches(['*', '-']));
            paragraph.push(' ');
        }
        last = *line;
    }
    sentences.extend(split(&paragraph).into_iter().map(|text| Sentence { text, line: begins }));
    sentences
}

/// Sentences end with `.`, `!` or `?` before a space.
fn split(paragraph: &str) -> Vec<String> {
    let mut sentences = vec![String::new()];
    for word in paragraph.split_whitespace() {
        if let Some(sentence) = sentences.last_mut() {
            sentence.push_str(word);
            sentence.push(' ');
        }
        if word.trim_end_matches([')', '"', '*']).ends_with(['.', '!', '?']) {
            sentences.push(String::new());
        }
    }
    sentences.retain(|sentence| !sentence.is_empty());
    sentences
}

#[test]
fn each_file_says_what_it_is_for() {
    let silent: Vec<_> = SOURCE.files.iter().filter(|file| !file.has_module_comment).map(|file| &file.name).collect();
    assert!(silent.is_empty(), "without a `//!`: {silent:?}");
}
