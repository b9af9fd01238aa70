//! The documents say what gema understands: their settings load, their links lead somewhere, and they are easy to read.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere, its helpers included")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use gema::cli::doctor::Cause;
use gema::config::Fault;
use gema::config::load;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The documents of a folder and of those in it.
fn documents_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.flat_map(|path| if path.is_dir() { documents_in(&path) } else { vec![path] });
    found.filter(|file| file.extension().is_some_and(|end| end == "md")).collect()
}

/// Each document with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let names = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];
    let in_root = names.map(|name| root().join(name));
    let of_examples = ["chat", "clinics", "firehose"].map(|name| root().join("examples").join(name).join("README.md"));
    let files = in_root.into_iter().chain(of_examples).chain(documents_in(&root().join("docs")));
    files.map(|file| (file.clone(), fs::read_to_string(file).unwrap())).collect()
}

/// The lines outside of code blocks, with their numbers.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut is_code = false;
    let mut lines: Vec<(usize, &str)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let is_mark = line.trim_start().starts_with("```");
        if !is_mark && !is_code {
            lines.push((index + 1, line));
        }
        is_code ^= is_mark;
    }
    lines
}

/// Where the links and pictures of a document lead in this project: the file, and the heading if one is named.
fn links<'a>(document: &Path, text: &'a str) -> Vec<(&'a str, PathBuf, Option<&'a str>)> {
    let lines = prose(text).into_iter().map(|(_, line)| line);
    let links = lines.flat_map(|line| line.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()));
    let target = |link: &'a str| {
        let (file, place) = link.split_once('#').map_or((link, None), |(file, place)| (file, Some(place)));
        let target = if file.is_empty() { document.to_owned() } else { document.with_file_name(file) };
        (link, target, place)
    };
    links.filter(|link| !link.starts_with("http")).map(target).collect()
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
    let has_reverbs = variables.iter().any(|(name, _)| name == "REVERB_APP_KEY");
    let app = app.into_iter().filter(|_| !has_reverbs);
    let (faults, warnings) = match load(files, app.chain(variables)) {
        Ok(loaded) => (Vec::new(), loaded.warnings),
        Err(faults) => (faults.faults, faults.good.warnings),
    };
    let is_expected = ["No such file", "has a secret"];
    // Documents say which settings need such a build.
    let needs_aws = |fault: &Fault| !cfg!(feature = "aws") && fault.text.contains("this build has no AWS");
    let is_wrong = |fault: &&Fault| !needs_aws(fault) && !is_expected.iter().any(|text| fault.text.contains(text));
    let wrong: Vec<_> = faults.iter().filter(is_wrong).collect();
    assert!(wrong.is_empty(), "{place}: {wrong:?}");
    let without_effect: Vec<_> = warnings.iter().filter(|warning| warning.text.contains("has no effect")).collect();
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

#[test]
fn the_document_of_the_doctor_lists_every_cause() {
    let row = |cause: &Cause| format!("| `{}` | {} | {} |\n", cause.name(), cause.sentence(), cause.remedy());
    let table: String = Cause::ALL.iter().map(row).collect();
    let table = format!("| `cause` | what is wrong | what to do |\n| --- | --- | --- |\n{table}\n");
    let document = fs::read_to_string(root().join("docs/doctor.md")).unwrap();
    assert!(document.contains(&table), "docs/doctor.md must have this table:\n{table}");
}

/// The place in a document that a heading makes, as GitHub spells it.
fn anchor(heading: &str) -> String {
    let letters = heading.trim().chars().filter(|letter| letter.is_alphanumeric() || "-_ ".contains(*letter));
    letters.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The places in a document that its headings make.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text).into_iter().filter(|(_, line)| line.starts_with('#')) {
        let name = anchor(line.trim_start_matches('#'));
        let further = (1..).map(|number| format!("{name}-{number}"));
        let free = std::iter::once(name.clone()).chain(further).find(|name| !anchors.contains(name));
        anchors.extend(free);
    }
    anchors
}

#[test]
fn each_link_leads_somewhere() {
    let mut seen = 0;
    for (document, text) in documents() {
        for (link, target, place) in links(&document, &text) {
            assert!(target.exists(), "{}: {link}", document.display());
            if let Some(place) = place {
                let names = anchors(&fs::read_to_string(target).unwrap());
                assert!(names.contains(place), "{}: {link}", document.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn each_document_is_found_from_the_readme() {
    let documents = documents();
    let (mut found, mut next) = (BTreeSet::new(), vec![root().join("README.md").canonicalize().unwrap()]);
    while let Some(path) = next.pop() {
        let Some((document, text)) = documents.iter().find(|(document, _)| document.canonicalize().unwrap() == path)
        else {
            continue;
        };
        if found.insert(path) {
            next.extend(links(document, text).into_iter().map(|(_, target, _)| target.canonicalize().unwrap()));
        }
    }
    for (document, _) in documents {
        assert!(found.contains(&document.canonicalize().unwrap()), "nothing leads to {}", document.display());
    }
}

#[test]
fn the_readme_is_short() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 150, "{lines} lines");
}

/// Rows of tables, pictures and one piece of code cannot be wrapped. CHANGELOG has a line for each change.
#[test]
fn lines_of_prose_have_at_most_120_characters() {
    let words = |line: &str| line.split('`').step_by(2).flat_map(str::split_whitespace).count();
    let mut long = Vec::new();
    for (document, text) in documents().into_iter().filter(|(document, _)| !document.ends_with("CHANGELOG.md")) {
        for (number, line) in prose(&text) {
            let is_long = line.chars().count() > 120 && !line.starts_with(['|', '!']) && words(line) > 1;
            if is_long {
                long.push(format!("{}:{number}", document.display()));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// So each example of a translation is one that a test runs.
#[test]
fn translations_have_the_examples_of_the_originals() {
    let code = |text: &str| -> Vec<String> { text.split("```").skip(1).step_by(2).map(str::to_owned).collect() };
    let translations = documents_in(&root().join("docs/id"));
    assert!(translations.len() >= 4, "{translations:?}");
    for translation in translations {
        let original = root().join("docs").join(translation.file_name().unwrap());
        let [ours, theirs] = [&translation, &original].map(|file| code(&fs::read_to_string(file).unwrap()));
        assert_eq!(ours, theirs, "{}", translation.display());
    }
}

/// `registry/inbox.rs` and the like.
#[test]
fn each_source_file_that_is_named_is_there() {
    let mut seen = 0;
    for (document, text) in documents() {
        let names = text.split('`').skip(1).step_by(2).filter(|name| !name.starts_with('.'));
        for name in names.filter(|name| name.ends_with(".rs") || name.ends_with(".lua")) {
            let is_there = root().join(name).exists() || root().join("src").join(name).exists();
            assert!(is_there || name.contains(' '), "{}: {name}", document.display());
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

/// The lines that install, in two documents, below another root.
#[test]
fn the_lines_that_install_give_a_program_with_a_valid_configuration() {
    for name in ["operation.md", "getting-started.md"] {
        let text = fs::read_to_string(root().join("docs").join(name)).unwrap();
        let lines = blocks(&text, "bash").find(|block| block.contains("sudo install -m 755")).unwrap();
        let below = folder(&format!("install-{name}"));
        for place in ["usr/local/bin", "etc/systemd/system"] {
            fs::create_dir_all(below.join(place)).unwrap();
        }
        let lines = lines.replace("sudo ", "").replace("target/release/gema", env!("CARGO_BIN_EXE_gema"));
        let lines = ["/usr/local/", "/etc/"]
            .into_iter()
            .fold(lines, |lines, place| lines.replace(&format!(" {place}"), &format!(" {}{place}", below.display())));
        let done = Command::new("sh").args(["-euc", &lines]).current_dir(root()).output().unwrap();
        assert!(done.status.success(), "{lines}\n{}", String::from_utf8_lossy(&done.stderr));
        let file = format!("--config={}", below.join("etc/gema/gema.toml").display());
        let secrets = fs::read_to_string(below.join("etc/gema/gema.env")).unwrap();
        let checked = Command::new(below.join("usr/local/bin/gema"))
            .args(["check", &file])
            .env_clear()
            .envs(secrets.lines().filter_map(|line| line.split_once('=')))
            .output()
            .unwrap();
        assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stderr));
        assert!(Path::exists(&below.join("etc/systemd/system/gema.service")));
    }
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

#[test]
fn the_api_of_the_page_is_documented_path_by_path() {
    let source = fs::read_to_string(root().join("src/dashboard.rs")).unwrap();
    let routes: BTreeSet<(String, String)> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix(".route(\"")?.split_once("\", "))
        .map(|(path, handler)| (path.replace("{*", "{"), handler.split('(').next().unwrap().to_uppercase()))
        .collect();
    let document = fs::read_to_string(root().join("docs/dashboard-api.md")).unwrap();
    let documented: BTreeSet<(String, String)> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `/dashboard")?.split_once("` | "))
        .map(|(path, rest)| (format!("/dashboard{path}"), rest.split(' ').next().unwrap().to_owned()))
        .collect();
    assert!(routes.len() > 10, "{routes:?}");
    assert_eq!(routes, documented);
}
