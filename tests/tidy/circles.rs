//! Files of one folder do not use each other in a circle.
//!
//! A file and the folder of the same name are one here, and may use each other: `registry.rs` puts together what is in
//! `registry/`, and that in turn uses its types.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::source::SOURCE;

/// Names that one uses, each with a place where it does.
type Used<'a> = BTreeMap<&'a str, String>;

#[test]
fn files_do_not_use_each_other_in_a_circle() {
    let uses: Vec<_> = SOURCE.uses().collect();
    let mut folders: BTreeMap<&[String], BTreeMap<&str, Used<'_>>> = BTreeMap::new();
    for used in &uses {
        let shared = used.from.iter().zip(&used.to).take_while(|(from, to)| from == to).count();
        if let (Some(from), Some(to)) = (used.from.get(shared), used.to.get(shared)) {
            let folder = folders.entry(&used.from[..shared]).or_default();
            folder.entry(from).or_default().entry(to).or_insert_with(|| used.place.clone());
        }
    }
    let mut found = Vec::new();
    for (folder, files) in &folders {
        for circle in circles(files) {
            let inside = circle.iter().flat_map(|from| files[from].iter().map(move |used| (from, used)));
            let inside = inside.filter(|(_, (to, _))| circle.contains(*to));
            let places: Vec<_> = inside.map(|(from, (to, place))| format!("{place}: {from} uses {to}")).collect();
            found.push((folder.join("/"), circle, places));
        }
    }
    assert!(found.is_empty(), "in a circle: {found:#?}");
}

/// The largest sets of files of which each reaches each other one.
fn circles<'a>(files: &BTreeMap<&'a str, Used<'a>>) -> BTreeSet<BTreeSet<&'a str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = files.keys().map(|file| (*file, reached_from(file, files))).collect();
    let reaches = |from: &str, to: &str| reached.get(from).is_some_and(|reached| reached.contains(to));
    let in_circle = files.keys().filter(|file| reaches(file, file));
    in_circle.map(|file| reached[file].iter().copied().filter(|other| reaches(other, file)).collect()).collect()
}

/// Everything that `file` uses, and what that uses, and so on; `file` itself only if it is in a circle.
fn reached_from<'a>(file: &str, files: &BTreeMap<&'a str, Used<'a>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = vec![file];
    while let Some(file) = next.pop() {
        for used in files.get(file).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(*used) {
                next.push(used);
            }
        }
    }
    reached
}
