//! Translates command lines of Soketi, and of health checks, into gema's.
//! `cli` calls it first.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The error for another script of `node`.
const NOT_NODE: &str = "this is gema, which stands in for `node /app/bin/server.js start` and runs no other script";

/// Programs that start Soketi's script, apart from `node`.
const LAUNCHERS: [&str; 4] = ["nodejs", "pm2", "pm2-runtime", "pm2-docker"];
/// Soketi's programs.
const SOKETI: [&str; 2] = ["soketi", "soketi-pm2"];
/// Its scripts.
const SCRIPTS: [&str; 2] = ["server.js", "pm2.js"];
/// Our own commands.
const COMMANDS: [&str; 7] = ["start", "check", "config", "health", "doctor", "manual", "help"];

/// Options of wget and of curl that are followed by a value: one letter each, or a word.
const WGET: (&str, [&str; 6]) =
    ("aBDeiIloOPQRtTUwYX", ["--output-document", "--output-file", "--timeout", "--tries", "--header", "--user-agent"]);
const CURL: (&str, [&str; 6]) = (
    "AbcdDeFHKmoPQrtTuUwxXyYzE",
    ["--output", "--max-time", "--connect-timeout", "--retry", "--header", "--user-agent"],
);

/// A command line in gema's words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Invocation {
    /// The words for the parser.
    pub(super) arguments: Vec<OsString>,
    /// Options that Soketi takes and ignores.
    pub(super) ignored: Vec<String>,
}

/// The command line in gema's own words:
///
/// * `soketi …` and `soketi-pm2 …` are `gema …`, without the options that Soketi ignores;
/// * `node [options] …/bin/server.js …`, as in Soketi's image and its Helm chart, is `gema …`, and so is PM2's
///   `pm2 start …/bin/server.js -- …`;
/// * `wget … URL`, as in the health check of Laravel Sail, is `gema health --url URL`, and so is `curl … URL`.
pub(super) fn invocation(given: Vec<OsString>) -> Result<Invocation, &'static str> {
    // In an image these names follow the entry point.
    let behind =
        usize::from(given.get(1).is_some_and(|word| is_named(word, &["node", "wget", "curl"]) || is_soketi(word)));
    let own = || std::iter::once(OsString::from("gema"));
    let program = given.get(behind);
    for (name, options) in [("wget", &WGET), ("curl", &CURL)] {
        if program.is_some_and(|word| is_named(word, &[name])) {
            let url = fetched_url(given.into_iter().skip(behind + 1), options);
            let words = own().chain(["health", "--url"].map(OsString::from)).chain(url).collect();
            return Ok(Invocation { arguments: words, ..Invocation::default() });
        }
    }
    let is_node = given.iter().take(2).any(|word| is_named(word, &["node"]));
    let is_launcher = given.iter().take(2).any(|word| is_named(word, &LAUNCHERS));
    // Dockerfiles have `"/app/bin/server.js start"` as one word.
    let words: Vec<OsString> =
        if is_node || is_launcher { given.iter().flat_map(split_script).collect() } else { given };
    let script = words.iter().position(|word| is_named(word, &SCRIPTS));
    match script {
        Some(script) if is_node || is_launcher || script == 1 => {
            // Words before `--` are for PM2.
            let end = words.iter().skip(script).position(|word| word == "--").map_or(script, |dashes| script + dashes);
            Ok(soketi_invocation(own().chain(words.into_iter().skip(end + 1)).collect()))
        }
        _ if is_node => Err(NOT_NODE),
        _ => match words.iter().take(2).position(is_soketi) {
            Some(at) => Ok(soketi_invocation(words.into_iter().skip(at).collect())),
            None => Ok(Invocation { arguments: words, ..Invocation::default() }),
        },
    }
}

fn is_named(word: &OsString, names: &[&str]) -> bool {
    Path::new(word).file_name().is_some_and(|file| names.iter().any(|name| file == OsStr::new(name)))
}

fn is_soketi(word: &OsString) -> bool {
    is_named(word, &SOKETI)
}

/// Splits a word that begins with a script.
fn split_script(word: &OsString) -> Vec<OsString> {
    let text = word.to_string_lossy();
    let mut parts = text.split_ascii_whitespace().map(OsString::from);
    match parts.next() {
        Some(first) if is_named(&first, &SCRIPTS) => std::iter::once(first).chain(parts).collect(),
        _ => vec![word.clone()],
    }
}

/// A start like Soketi's: only its option `--config` counts. gema's own commands keep their options.
fn soketi_invocation(words: Vec<OsString>) -> Invocation {
    let is = |word: Option<&OsString>, texts: &[&str]| word.is_some_and(|word| texts.iter().any(|text| word == text));
    let starts = !is(words.get(1), &COMMANDS[1..]);
    if !starts || words.iter().any(|word| is(Some(word), &["--help", "-h", "--version", "-V"])) {
        return Invocation { arguments: words, ..Invocation::default() };
    }
    let mut invocation = Invocation::default();
    let mut rest = words.into_iter();
    invocation.arguments.extend(rest.next());
    while let Some(word) = rest.next() {
        let text = word.to_string_lossy().into_owned();
        match text.as_str() {
            "start" => invocation.arguments.push(word),
            "--config" => invocation.arguments.extend(std::iter::once(word).chain(rest.next())),
            text if text.starts_with("--config=") => invocation.arguments.push(word),
            // Its value may be a secret.
            text if text.starts_with('-') => {
                invocation.ignored.push(text.split('=').next().unwrap_or_default().to_owned());
            }
            _ => (),
        }
    }
    invocation
}

/// The URL in the command line of a program that fetches it.
fn fetched_url(words: impl Iterator<Item = OsString>, (letters, names): &(&str, [&str; 6])) -> Option<OsString> {
    let mut words = words;
    let mut candidates = Vec::new();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        let takes_next = match text.strip_prefix('-') {
            None => {
                candidates.push(word.clone());
                continue;
            }
            Some(long) if long.starts_with('-') => names.contains(&&*text),
            // wget's -nv and the like are two letters that belong together.
            Some(short) if short.starts_with('n') => false,
            // The first letter with a value ends a group, and what follows in the group is that value.
            Some(short) => short.find(|letter| letters.contains(letter)).is_some_and(|at| at + 1 == short.len()),
        };
        if takes_next {
            words.next();
        }
    }
    let whole = candidates.iter().position(|word| word.to_string_lossy().contains("://"));
    candidates.into_iter().nth(whole.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invoked(words: &[&str]) -> Result<(String, Vec<String>), &'static str> {
        let Invocation { arguments: words, ignored } = invocation(words.iter().map(OsString::from).collect())?;
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        Ok((words.join(" "), ignored))
    }

    fn read(line: &str) -> Result<String, &'static str> {
        invoked(&line.split(' ').collect::<Vec<_>>()).map(|(words, _)| words)
    }

    #[test]
    fn soketis_command_lines_are_understood() {
        for (line, means) in [
            ("gema check --config=a.toml", "gema check --config=a.toml"),
            ("/usr/bin/soketi start --config=a.json", "/usr/bin/soketi start --config=a.json"),
            ("soketi-pm2", "soketi-pm2"),
            ("gema soketi start --config=a.json", "soketi start --config=a.json"),
            ("soketi check --strict --config a.json", "soketi check --strict --config a.json"),
            ("node /app/bin/server.js start --config=/app/config.json", "gema start --config=/app/config.json"),
            ("/usr/local/bin/node --max-old-space-size=256 /app/bin/server.js start", "gema start"),
            ("gema node /app/bin/server.js start", "gema start"),
            ("gema /app/bin/pm2.js start", "gema start"),
            ("pm2 /app/bin/server.js start", "gema start"),
            ("gema pm2 /app/bin/server.js start", "gema start"),
            ("pm2-runtime start /app/bin/server.js --name ws -- start --config=a.json", "gema start --config=a.json"),
            ("gema start --config server.js", "gema start --config server.js"),
        ] {
            assert_eq!(read(line).as_deref(), Ok(means), "{line}");
        }
        for words in [
            &["node", "/app/bin/server.js start", "--config=/app/config.json"][..],
            &["gema", "node", "/app/bin/server.js start", "--config=/app/config.json"],
        ] {
            assert_eq!(invoked(words), Ok(("gema start --config=/app/config.json".to_owned(), Vec::new())));
        }
    }

    #[test]
    fn options_that_soketi_ignores_are_left_out_and_told() {
        let words = ["soketi", "start", "--port=7001", "--app-secret", "hush", "--config", "a.json", "-d"];
        let ignored = ["--port", "--app-secret", "-d"].map(str::to_owned).to_vec();
        assert_eq!(invoked(&words), Ok(("soketi start --config a.json".to_owned(), ignored)));
        assert_eq!(read("gema start --port=7001").as_deref(), Ok("gema start --port=7001"), "that is our own name");
        assert_eq!(read("soketi --version").as_deref(), Ok("soketi --version"));
    }

    #[test]
    fn health_checks_are_understood() {
        for line in [
            "wget --no-verbose --spider URL",
            "wget -q URL -O /dev/null",
            "wget --spider URL -T 5",
            "wget -qO- URL",
            "wget -qO - URL",
            "wget -nv -t1 --spider URL",
            "wget --tries 1 --timeout 5 -O /dev/null URL",
            "/usr/bin/wget -q --tries=1 --spider URL",
            "gema wget -q --spider URL",
            "curl -f URL",
            "curl -sS -o /dev/null --max-time 5 URL",
            "curl --fail -m 3 URL",
        ] {
            for url in ["http://localhost:9601", "localhost:6001/ready"] {
                let means = format!("gema health --url {url}");
                assert_eq!(read(&line.replace("URL", url)), Ok(means), "{line}");
            }
        }
    }

    #[test]
    fn other_scripts_are_not_run() {
        assert_eq!(read("node index.js"), Err(NOT_NODE));
        assert_eq!(read("gema node --version"), Err(NOT_NODE));
        assert_eq!(read("wget --help").as_deref(), Ok("gema health --url"), "which says that a URL is missing");
    }
}
