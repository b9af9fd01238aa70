//! Which items of the conformance checklist (docs/protocol.md, G-1 … G-324) the tests cover. An item counts as covered
//! when a comment above a test names it.

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

const ITEMS: RangeInclusive<u16> = 1..=324;

/// What is not covered yet, and why.
const NOT_COVERED: &[(RangeInclusive<u16>, &str)] = &[];

#[test]
fn every_item_is_covered_or_has_its_reason() {
    let covered = covered();
    let excused: BTreeSet<u16> = NOT_COVERED.iter().flat_map(|(items, _)| items.clone()).collect();
    let missing: Vec<u16> = ITEMS.filter(|item| !covered.contains(item) && !excused.contains(item)).collect();
    let outdated: Vec<&u16> = excused.intersection(&covered).collect();
    println!("conformance checklist: {} items covered, {} not", covered.len(), ITEMS.count() - covered.len());
    for (items, reason) in NOT_COVERED {
        println!("  G-{} to G-{}: {reason}", items.start(), items.end());
    }
    assert!(missing.is_empty(), "neither covered nor excused: {missing:?}");
    assert!(outdated.is_empty(), "covered, so no longer to be excused: {outdated:?}");
}

#[test]
fn the_document_has_every_item_once_and_in_order() {
    let document = include_str!("../../docs/protocol.md");
    let (_, section) = document.split_once("\n# G. ").unwrap();
    let (section, _) = section.split_once("\n# H. ").unwrap();
    let items = section.lines().filter_map(|line| line.split_once(". ")?.0.parse::<u16>().ok());
    assert!(items.eq(ITEMS), "docs/protocol.md must number its items from G-1 on without a gap");
}

fn covered() -> BTreeSet<u16> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut items = BTreeSet::new();
    for folder in ["it", "faults", "clients", "clients/python"] {
        for entry in fs::read_dir(tests.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let is_test =
                path.extension().is_some_and(|ending| ["rs", "js", "mjs", "cjs", "py"].iter().any(|e| ending == *e));
            if is_test && !path.ends_with("checklist.rs") {
                items.extend(named_in_comments(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    items
}

/// The numbers of each `G-n` that stands in a comment, or in the name of a test of another language.
fn named_in_comments(source: &str) -> impl Iterator<Item = u16> {
    source.split("G-").skip(1).filter_map(|rest| {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse().ok().filter(|item| ITEMS.contains(item))
    })
}
