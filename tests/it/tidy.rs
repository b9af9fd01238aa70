//! The layers of the source and the size of its files.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// A module uses only rows below its own: never a neighbour, never upwards.
const ROWS: &[&[&str]] = &[
    &["protocol", "metrics", "tasks"],
    &["config", "refusal"],
    &["registry", "limiter", "store", "tls"],
    &["cluster"],
    &["webhook"],
    &["node"],
    &["session", "http", "ingest"],
    &["shard"],
    &["server", "telemetry"],
    &["cli", "main", "lib"],
];

/// Lines of a file without its tests.
const LINES_MAX: usize = 450;

#[test]
fn modules_use_only_rows_below_their_own() {
    let mut wrong = Vec::new();
    for (path, source) in sources() {
        let own = module_of(&path);
        let row = row_of(&own)
            .unwrap_or_else(|| panic!("{own} has no row; put it into the table of ARCHITECTURE.md and here"));
        for used in source.split("crate::").skip(1) {
            let end = used.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(used.len());
            let used = &used[..end];
            if used != own && row_of(used).is_some_and(|used| used >= row) {
                wrong.push(format!("{} uses {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_can_be_read_in_one_go() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(path, source)| (source.lines().count(), path))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "longer than {LINES_MAX} lines: {long:#?}");
}

fn row_of(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

/// Every source file without its tests.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !name.ends_with("_tests") {
                let source = fs::read_to_string(&path).unwrap();
                let code = source.split("#[cfg(test)]\nmod ").next().unwrap().to_owned();
                let path = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_owned();
                found.push((path, code));
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// `shard` of `src/shard/wheel.rs` and of `src/shard.rs`.
fn module_of(path: &Path) -> String {
    let part = path.iter().nth(1).unwrap().to_string_lossy();
    part.trim_end_matches(".rs").to_owned()
}
