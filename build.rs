//! Tells the program which commit it is built from: the one in GEMA_COMMIT, else, in a release, the one that `.git` names.
//! Neither git nor a repository is needed, and the same commit makes the same program.

use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Letters of a commit that are shown.
const SHOWN: usize = 12;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=GEMA_COMMIT");
    let variable = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
    let given = variable("GEMA_COMMIT");
    // Elsewhere each commit would compile everything anew.
    let is_release = variable("PROFILE") == "release";
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let found = if given.is_empty() && is_release { commit(&root, &mut |file| watch(file)) } else { None };
    let commit = if given.is_empty() { found.unwrap_or_default() } else { given };
    let commit: String = commit.chars().filter(char::is_ascii_alphanumeric).take(SHOWN).collect();
    let commit = if commit.is_empty() { commit } else { format!(" ({commit})") };
    println!("cargo:rustc-env=GEMA_VERSION={}{commit}", variable("CARGO_PKG_VERSION"));
}

fn watch(file: &Path) {
    println!("cargo:rerun-if-changed={}", file.display());
}

/// The commit that is checked out in `root`, if that is a repository. `read` hears of each file that says so.
pub(crate) fn commit(root: &Path, read: &mut dyn FnMut(&Path)) -> Option<String> {
    let mut text = |file: PathBuf| {
        let text = fs::read_to_string(&file).ok()?;
        read(&file);
        Some(text.trim().to_owned())
    };
    let mut folder = root.join(".git");
    // In a further work tree it is a file that names the folder, which names the one that all share.
    if folder.is_file() {
        folder = root.join(text(folder)?.strip_prefix("gitdir:")?.trim());
    }
    let shared = fs::read_to_string(folder.join("commondir")).map(|shared| folder.join(shared.trim()));
    let shared = shared.unwrap_or_else(|_| folder.clone());
    // Grows with each commit, whoever then holds its name.
    let _ = text(folder.join("logs/HEAD"));
    let head = text(folder.join("HEAD"))?;
    let Some(name) = head.strip_prefix("ref:").map(str::trim) else { return Some(head).filter(|head| is_commit(head)) };
    let loose = text(folder.join(name)).or_else(|| text(shared.join(name)));
    let packed = || {
        let refs = text(shared.join("packed-refs"))?;
        refs.lines().find_map(|line| line.strip_suffix(name)?.strip_suffix(' ').map(str::to_owned))
    };
    loose.or_else(packed).filter(|commit| is_commit(commit))
}

fn is_commit(text: &str) -> bool {
    text.len() >= SHOWN && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
