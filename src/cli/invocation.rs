//! The ways in which Soketi is called, as ways to call this program.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// What those see who call `node` and mean something else.
const NOT_NODE: &str = "this is gema, which stands in for `node /app/bin/server.js start` and runs no other script";

/// The command line in gema's own words:
///
/// * `soketi …` and `soketi-pm2 …` are `gema …`;
/// * `node [options] …/bin/server.js …`, as in Soketi's image and its Helm chart, is `gema …`;
/// * `wget … URL`, as in the health check of Laravel Sail, is `gema health --url URL`.
pub(super) fn words(given: Vec<OsString>) -> Result<Vec<OsString>, &'static str> {
    let named = |word: Option<&OsString>, name: &str| {
        word.and_then(|word| Path::new(word).file_name()).is_some_and(|file| file == OsStr::new(name))
    };
    let own = || std::iter::once(OsString::from("gema"));
    if named(given.first(), "wget") {
        let url = given.into_iter().skip(1).rfind(|word| !word.as_encoded_bytes().starts_with(b"-"));
        return Ok(own().chain(["health", "--url"].map(OsString::from)).chain(url).collect());
    }
    let is_node = named(given.first(), "node") || named(given.get(1), "node");
    let script = given.iter().position(|word| named(Some(word), "server.js") || named(Some(word), "pm2.js"));
    match script {
        Some(script) if is_node || script == 1 => Ok(own().chain(given.into_iter().skip(script + 1)).collect()),
        _ if is_node => Err(NOT_NODE),
        _ => Ok(given),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<String, &'static str> {
        let words = words(line.split(' ').map(OsString::from).collect())?;
        Ok(words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn soketis_command_lines_are_understood() {
        for (line, means) in [
            ("gema check --config=a.toml", "gema check --config=a.toml"),
            ("/usr/bin/soketi start --config=a.json", "/usr/bin/soketi start --config=a.json"),
            ("soketi-pm2", "soketi-pm2"),
            ("node /app/bin/server.js start --config=/app/config.json", "gema start --config=/app/config.json"),
            ("/usr/local/bin/node --max-old-space-size=256 /app/bin/server.js start", "gema start"),
            ("gema node /app/bin/server.js start", "gema start"),
            ("gema /app/bin/pm2.js start", "gema start"),
            ("wget --no-verbose --spider http://localhost:9601", "gema health --url http://localhost:9601"),
            ("gema start --config server.js", "gema start --config server.js"),
        ] {
            assert_eq!(read(line).as_deref(), Ok(means), "{line}");
        }
    }

    #[test]
    fn other_scripts_are_not_run() {
        assert_eq!(read("node index.js"), Err(NOT_NODE));
        assert_eq!(read("gema node --version"), Err(NOT_NODE));
        assert_eq!(read("wget --help").as_deref(), Ok("gema health --url"), "which says that a URL is missing");
    }
}
