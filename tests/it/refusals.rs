//! Whatever is refused is counted under a cause of its own, and the log says what to do about it.

use gema::refusal::Cause;

#[test]
fn the_readme_lists_every_cause() {
    let row = |cause: &Cause| {
        let code = cause.code().map_or(String::new(), |code| code.to_string());
        format!("| `{}` | {code} | {} | {} |\n", cause.name(), cause.sentence(), cause.remedy())
    };
    let table: String = Cause::ALL.iter().map(row).collect();
    let table = format!("| `cause` | `code` | refused, since | remedy |\n| --- | --- | --- | --- |\n{table}\n");
    let readme = include_str!("../../README.md");
    assert!(readme.contains(&table), "README.md must have this table:\n{table}");
}
