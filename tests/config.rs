//! What the program makes of files, variables and its command line, seen from outside.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere, its helpers included")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;

use serde_json::Value as Json;

/// A file of its own for each test, by name.
fn file(name: &str, text: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gema"));
    command.args(arguments).env_clear().envs(environment.iter().copied());
    command
}

fn gema(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    command(arguments, environment).output().unwrap()
}

/// What goes wrong, line by line; the exit code must say so, too.
fn faults(arguments: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
    let output = gema(arguments, environment);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    String::from_utf8(output.stderr).unwrap().lines().map(str::to_owned).collect()
}

/// What `gema config` prints.
fn settings(files: &[&str], environment: &[(&str, &str)]) -> String {
    let arguments = files.iter().flat_map(|file| ["--config", file]);
    let output = gema(&["config"].into_iter().chain(arguments).collect::<Vec<_>>(), environment);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Value and origin of `key` in what `gema config` prints.
fn setting(settings: &str, key: &str) -> (String, String) {
    let line =
        settings.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap_or_else(|| panic!("no {key}"));
    let (value, origin) = line[key.len() + 3..].rsplit_once('#').unwrap();
    (value.trim().to_owned(), origin.trim().to_owned())
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once_with_file_key_and_remedy() {
    let file = file(
        "mistakes.toml",
        "[server]\nprot = 1\nport = 'x'\nbacklog = 0\n[sever]\nport = 1\n[[apps]]\nid = 'a'\nkey = 'k'\nmaxConections = 1\n",
    );
    let mut found = faults(&["check", "--config", &file], &[("SOKETI_PROT", "1")]);
    found.sort();
    assert_eq!(
        found,
        [
            "fault: SOKETI_PROT is not a variable of gema; did you mean SOKETI_PORT?".to_owned(),
            format!(
                "fault: apps.0.maxConections (from {file}) is not a setting of an app; did you mean apps.0.max_connections?"
            ),
            format!("fault: apps.0.secret (from {file}) is missing; without a secret anybody could publish"),
            format!("fault: server.backlog (from {file}) is 0; it must be between 1 and 65535"),
            format!("fault: server.port (from {file}) is \"x\"; it must be a whole number"),
            format!("fault: server.prot (from {file}) is not a setting; did you mean server.port?"),
            format!("fault: sever (from {file}) is not a setting; did you mean server?"),
        ]
    );
}

#[test]
fn a_broken_configuration_stops_the_start() {
    let file = file("broken.json", "{ \"server\": { \"port\": 70000 } }");
    for arguments in [&["start", "--config", &file][..], &["--config", &file], &["config", "--config", &file]] {
        let found = faults(arguments, &[]);
        assert_eq!(
            found,
            [format!("fault: server.port (from {file}) is 70000; it must be a whole number from 0 to 65535")]
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_stops_the_start() {
    let found = faults(&["start", "--config=/nowhere/gema.toml"], &[]);
    assert!(found[0].starts_with("fault: /nowhere/gema.toml cannot be read: No such file"), "{found:?}");
    let found = faults(&["start", "--config", &file("soketi.config.js", "module.exports = {}")], &[]);
    assert!(found[0].ends_with("its name must end in .toml, .json, .yaml or .yml"), "{found:?}");
}

#[test]
fn a_syntax_error_names_the_line_but_shows_none() {
    let file = file("syntax.toml", "[[apps]]\nsecret = \"hush\nkey = 1");
    let found = faults(&["check", "--config", &file], &[]);
    assert!(found[0].starts_with(&format!("fault: {file} cannot be read: TOML parse error at line 2")), "{found:?}");
    assert!(!found.join("").contains("hush"));
}

#[test]
fn variables_win_over_files_and_later_files_over_earlier_ones() {
    let first = file("first.toml", "[server]\nport = 1\nbacklog = 1\n[metrics]\nport = 10\n");
    let second = file("second.yaml", "server:\n  port: 2\n  backlog: 2\n");
    let printed = settings(&[&first, &second], &[("SOKETI_PORT", "3")]);
    assert_eq!(setting(&printed, "server.port"), ("3".to_owned(), "SOKETI_PORT".to_owned()));
    assert_eq!(setting(&printed, "server.backlog"), ("2".to_owned(), second));
    assert_eq!(setting(&printed, "metrics.port"), ("10".to_owned(), first));
    assert_eq!(setting(&printed, "server.workers"), ("0".to_owned(), "default".to_owned()));
}

#[test]
fn variables_change_the_first_app_of_a_file_and_leave_the_others() {
    let file = file(
        "apps.json",
        r#"{ "apps": [
            { "id": "a", "key": "k", "secret": 12345, "maxConnections": 5, "enableClientMessages": true },
            { "id": "b", "key": "l", "secret": "t" }
        ] }"#,
    );
    let printed = settings(&[&file], &[("SOKETI_DEFAULT_APP_MAX_CONNS", "7"), ("PUSHER_APP_ID", "not-this")]);
    let max_connections = setting(&printed, "apps.0.max_connections");
    assert_eq!(max_connections, ("7".to_owned(), "SOKETI_DEFAULT_APP_MAX_CONNS".to_owned()));
    assert_eq!(setting(&printed, "apps.0.enable_client_messages"), ("true".to_owned(), file.clone()));
    assert_eq!(setting(&printed, "apps.0.id"), ("\"a\"".to_owned(), file.clone()));
    assert_eq!(setting(&printed, "apps.1.id"), ("\"b\"".to_owned(), file));
}

#[test]
fn secrets_are_masked_wherever_they_are() {
    let file = file("masked.toml", "[[apps]]\nid='a'\nkey='k'\nsecret='hush-1'\nkeys=[{key='l', secret='hush-2'}]\n");
    let printed = settings(&[&file], &[]);
    assert!(!printed.contains("hush"), "{printed}");
    assert_eq!(setting(&printed, "apps.0.keys.0.secret"), ("\"***\"".to_owned(), file));
}

#[test]
fn a_digit_only_secret_stays_text() {
    let environment = [("SOKETI_DEFAULT_APP_SECRET", "0012345".to_owned())];
    let loaded = gema::config::load(&[], environment.map(|(name, value)| (name.to_owned(), value))).unwrap();
    assert_eq!(loaded.config.apps()[0].keys[0].secret.expose(), b"0012345");
    let file = file("digits.json", r#"{ "apps": [{ "id": 1, "key": 2, "secret": 12345 }] }"#);
    let loaded = gema::config::load(&[file.into()], []).unwrap();
    assert_eq!(loaded.config.apps()[0].keys[0].secret.expose(), b"12345");
}

#[test]
fn yaml_must_quote_numbers_that_are_meant_as_text() {
    let file = file("digits.yaml", "apps:\n  - id: a\n    key: k\n    secret: 007\n");
    let found = faults(&["check", "--config", &file], &[]);
    assert_eq!(found, [format!("fault: apps.0.secret (from {file}) must be text in quotes")]);
}

#[test]
fn an_empty_list_of_apps_is_not_soketis_default_app() {
    let file = file("none.json", r#"{ "apps": [] }"#);
    let found = faults(&["check", "--config", &file], &[]);
    assert!(found[0].contains("apps") && found[0].contains("is an empty list"), "{found:?}");
}

#[test]
fn two_spellings_of_one_field_are_refused() {
    let text = "[[apps]]\nid='a'\nkey='k'\nsecret='s'\nmaxConnections=1\nmax_connections=2\n";
    let found = faults(&["check", "--config", &file("twice.toml", text)], &[]);
    assert!(found[0].starts_with("fault: apps.0.max_connections is given twice"), "{found:?}");
}

#[test]
fn check_prints_warnings_and_succeeds_without_faults() {
    let output = gema(&["check"], &[("SOKETI_DB_REDIS_HOST", "redis"), ("SOKETI_ADAPTER_DRIVER", "local")]);
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.starts_with("warning: SOKETI_DB_REDIS_HOST has no effect"), "{printed}");
    assert!(printed.contains("Soketi's default secret"), "{printed}");
    assert!(printed.ends_with("the configuration has no faults\n"), "{printed}");
}

#[test]
fn the_version_is_told() {
    let output = gema(&["--version"], &[]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("gema {}\n", env!("CARGO_PKG_VERSION")));
}

/// A port where one request is answered with `answer`.
fn answering(answer: &'static str) -> (u16, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let read = stream.read(&mut request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..read]).into_owned()
    });
    (port, server)
}

#[test]
fn health_asks_the_configured_port_and_prefix() {
    let (port, server) = answering("HTTP/1.1 200 OK\r\n\r\n");
    let output = gema(&["health"], &[("SOKETI_PORT", &port.to_string()), ("SOKETI_PATH_PREFIX", "/ws")]);
    assert!(output.status.success());
    assert!(server.join().unwrap().starts_with("GET /ws/ready HTTP/1.1\r\n"));
}

#[test]
fn health_fails_unless_the_answer_is_200() {
    let (port, server) = answering("HTTP/1.1 503 Service Unavailable\r\n\r\n");
    let url = format!("http://127.0.0.1:{port}/ready");
    assert_eq!(faults(&["health", "--url", &url], &[]), [format!("{url} answers 503")]);
    server.join().unwrap();
    let found = faults(&["health", "--url", &url], &[]);
    assert_eq!(found, [format!("{url} does not answer: nothing listens there")]);
}

#[test]
fn the_server_says_ready_and_leaves_in_peace_on_sigterm() {
    let environment = [
        ("SOKETI_HOST", "127.0.0.1"),
        ("SOKETI_PORT", "0"),
        ("SOKETI_METRICS_HOST", "127.0.0.1"),
        ("SOKETI_METRICS_SERVER_PORT", "0"),
        ("SOKETI_SHUTDOWN_GRACE_PERIOD", "200"),
        ("SOKETI_DB_REDIS_HOST", "redis"),
        ("GEMA_SERVER_WORKERS", "1"),
        ("GEMA_LOG_FORMAT", "json"),
    ];
    let mut server = command(&[], &environment).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let mut next = |message: &str| -> Json {
        loop {
            let line = lines.next().unwrap_or_else(|| panic!("the log ended before {message:?}")).unwrap();
            let event: Json = serde_json::from_str(&line).unwrap();
            if event["message"].as_str().is_some_and(|text| text.starts_with(message)) {
                return event;
            }
        }
    };
    assert_eq!(next("SOKETI_DB_REDIS_HOST has no effect")["level"], "WARN");
    let ready = next("ready");
    let address = ready["address"].as_str().unwrap();
    assert!(address.starts_with("127.0.0.1:") && !address.ends_with(":0"), "{ready}");
    assert!(ready["metrics_address"].is_string() && ready["open_files"].is_u64(), "{ready}");
    assert!(gema(&["health", "--url", &format!("http://{address}/ready")], &[]).status.success());
    assert_eq!(ready["workers"], 1);
    let killed = Command::new("kill").arg(server.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert_eq!(next("stopping")["signal"], "SIGTERM");
    assert_eq!(next("stopped")["left"], 0);
    assert_eq!(server.wait().unwrap().code(), Some(0));
}

#[test]
fn a_port_that_is_taken_stops_the_start() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let environment = [("SOKETI_HOST", "127.0.0.1"), ("SOKETI_PORT", &port), ("SOKETI_METRICS_SERVER_PORT", "0")];
    let found = faults(&["start"], &environment);
    assert!(found[0].contains(&format!("127.0.0.1:{port} cannot be bound")), "{found:?}");
}
