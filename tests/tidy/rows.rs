//! The table of rows in ARCHITECTURE.md: each module uses only rows below its own.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::source::SOURCE;

/// The row of each module, as ARCHITECTURE.md has it: `| 3 | `cluster` | … |` below `| row | modules | …`.
fn rows() -> BTreeMap<String, usize> {
    let text = include_str!("../../ARCHITECTURE.md");
    let cells = |line: &str| -> Vec<String> { line.split('|').map(|cell| cell.trim().to_owned()).collect() };
    let table =
        text.lines().map(cells).skip_while(|cells| cells.get(1..3).is_none_or(|head| head != ["row", "modules"]));
    let mut rows = BTreeMap::new();
    for cells in table.skip(2).take_while(|cells| cells.len() > 3) {
        let row = cells[1].parse().unwrap_or_else(|_| panic!("{:?} is no number of a row", cells[1]));
        for name in cells[2].split(',') {
            let name = name.trim().trim_matches('`').to_owned();
            assert!(rows.insert(name.clone(), row).is_none(), "{name} is in ARCHITECTURE.md's table twice");
        }
    }
    assert!(!rows.is_empty(), "ARCHITECTURE.md has no table that begins with `| row | modules |`");
    rows
}

#[test]
fn each_module_has_a_row() {
    let rows = rows();
    let listed: BTreeSet<&str> = rows.keys().map(String::as_str).collect();
    let modules: BTreeSet<&str> = SOURCE.modules.keys().filter_map(|path| path.first()).map(String::as_str).collect();
    let missing: Vec<_> = modules.difference(&listed).collect();
    assert!(missing.is_empty(), "not in ARCHITECTURE.md's table: {missing:?}");
    let gone: Vec<_> = listed.difference(&modules).collect();
    assert!(gone.is_empty(), "in ARCHITECTURE.md's table, but not in src: {gone:?}");
}

#[test]
fn modules_use_only_rows_below_their_own() {
    let rows = rows();
    let mut wrong = BTreeSet::new();
    for used in SOURCE.uses() {
        // `src/lib.rs` only declares modules. Others have nothing to take from it.
        let (Some(own), Some(other)) = (used.from.first(), used.to.first()) else { continue };
        if own != other && rows.get(own) <= rows.get(other) {
            wrong.insert(format!("{}: {own} uses {other}", used.place));
        }
    }
    assert!(wrong.is_empty(), "a module uses only rows below its own (ARCHITECTURE.md): {wrong:#?}");
}
