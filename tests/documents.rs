//! The documents say what gema understands: their settings load, and their links lead somewhere.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere, its helpers included")]

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use gema::config::load;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Each document with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let in_root = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root().join(name));
    let in_docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let files = in_root.into_iter().chain(in_docs).filter(|file| file.extension().is_some_and(|end| end == "md"));
    files.map(|file| (file.clone(), fs::read_to_string(file).unwrap())).collect()
}

/// The code blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> impl Iterator<Item = &'a str> {
    let mark = format!("\n```{language}\n");
    text.split(&mark).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect::<Vec<_>>().into_iter()
}

/// A folder of the test's own, empty.
fn folder(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("documents-{test}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Loads settings of a document. The app that documents speak of is there, as is the secret that they keep elsewhere;
/// files of certificates are not.
fn is_understood(place: &str, files: &[PathBuf], variables: Vec<(String, String)>) {
    let app = [("PUSHER_APP_ID", "my-app"), ("PUSHER_APP_KEY", "my-key"), ("PUSHER_APP_SECRET", "my-secret")];
    let app = app.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (faults, warnings) = match load(files, app.into_iter().chain(variables)) {
        Ok(loaded) => (Vec::new(), loaded.warnings),
        Err(faults) => (faults.faults, faults.good.warnings),
    };
    let is_wrong = |text: &&String| !text.contains("No such file") && !text.contains("has a secret");
    let wrong: Vec<_> = faults.iter().filter(is_wrong).collect();
    assert!(wrong.is_empty(), "{place}: {wrong:?}");
    let without_effect: Vec<_> = warnings.iter().filter(|warning| warning.contains("has no effect")).collect();
    assert!(without_effect.is_empty(), "{place}: {without_effect:?}");
}

#[test]
fn each_block_of_settings_is_understood() {
    let folder = folder("settings");
    let mut seen = 0;
    for (document, text) in documents() {
        let whole = |block: &&str| !block.contains('…');
        for block in blocks(&text, "toml").filter(whole) {
            let file = folder.join("gema.toml");
            fs::write(&file, block).unwrap();
            let secret = ("SOKETI_DEFAULT_APP_SECRET".to_owned(), "of-the-test".to_owned());
            is_understood(&format!("{}: {block}", document.display()), &[file], vec![secret]);
            seen += 1;
        }
        for block in blocks(&text, "env").filter(whole) {
            let pairs = block.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
            let value = |text: &str| text.split(" #").next().unwrap().trim().trim_matches('"').to_owned();
            let variables = pairs.map(|(name, text)| (name.to_owned(), value(text))).collect();
            is_understood(&format!("{}: {block}", document.display()), &[], variables);
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

/// The place in a document that a heading makes, as GitHub spells it.
fn anchor(heading: &str) -> String {
    let letters = heading.trim().chars().filter(|letter| letter.is_alphanumeric() || "-_ ".contains(*letter));
    letters.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn each_link_leads_somewhere() {
    for (document, text) in documents() {
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", document.display());
            if !place.is_empty() {
                let text = fs::read_to_string(target).unwrap();
                let mut headings =
                    text.lines().filter_map(|line| Some(line.strip_prefix('#')?.trim_start_matches('#')));
                assert!(headings.any(|heading| anchor(heading) == place), "{}: {link}", document.display());
            }
        }
    }
}

/// `registry/inbox.rs` and the like.
#[test]
fn each_source_file_that_is_named_is_there() {
    let mut seen = 0;
    for (document, text) in documents() {
        for name in text.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs") || name.ends_with(".lua")) {
            let is_there = root().join(name).exists() || root().join("src").join(name).exists();
            assert!(is_there || name.contains(' '), "{}: {name}", document.display());
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

/// The lines of "Install" in docs/operation.md, below another root.
#[test]
fn the_lines_that_install_give_a_program_with_a_valid_configuration() {
    let text = fs::read_to_string(root().join("docs/operation.md")).unwrap();
    let lines = blocks(&text, "bash").next().unwrap();
    let below = folder("install");
    for place in ["usr/local/bin", "etc/systemd/system"] {
        fs::create_dir_all(below.join(place)).unwrap();
    }
    let program = env!("CARGO_BIN_EXE_gema");
    let lines = lines.replace("sudo ", "").replace("target/release/gema", program);
    let lines = ["/usr/local/", "/etc/"]
        .into_iter()
        .fold(lines, |lines, place| lines.replace(&format!(" {place}"), &format!(" {}{place}", below.display())));
    let done = Command::new("sh").args(["-euc", &lines]).current_dir(root()).output().unwrap();
    assert!(done.status.success(), "{lines}\n{}", String::from_utf8_lossy(&done.stderr));
    let file = format!("--config={}", below.join("etc/gema/gema.toml").display());
    let checked = Command::new(below.join("usr/local/bin/gema")).args(["check", &file]).env_clear().output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert!(Path::exists(&below.join("etc/systemd/system/gema.service")));
}

/// The instances of docs/several-nodes.md have ports of their own.
#[test]
fn each_instance_of_the_unit_has_its_ports() {
    let text = fs::read_to_string(root().join("docs/several-nodes.md")).unwrap();
    let unit = blocks(&text, "ini").next().unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("Environment=")).unwrap();
    let ports = |instance: &str| {
        let line = line.replace("%i", instance);
        let pairs = line.split(' ').filter_map(|pair| pair.split_once('='));
        let config = load(&[], pairs.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap().config;
        (config.server.port, config.metrics.port)
    };
    assert_eq!((ports("1"), ports("2")), ((6001, 9601), (6002, 9602)));
}
