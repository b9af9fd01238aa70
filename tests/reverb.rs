//! Laravel's `.env` as Reverb and laravel-websockets read it: each variable is honoured or reported, leftovers change
//! nothing, and the command lines of both start the server.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere, its helpers included")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use gema::config;
use gema::config::{Fault, Faults, Loaded};
use serde_json::Value as Json;

use Becomes::{Nothing, Refused, Setting, Warning};

/// The effect of a value of a variable.
#[derive(Debug, Clone, Copy)]
enum Becomes {
    /// These lines of `gema config`, and no warning.
    Setting(&'static [&'static str]),
    /// A warning with these words, and no setting.
    Warning(&'static str),
    /// A fault with these words.
    Refused(&'static str),
    /// Nothing: it concerns others, as the document says.
    Nothing,
}

/// A variable: its default in `config/reverb.php` or `config/websockets.php` if gema has the same, another value, what
/// becomes of that, and the document's sentence.
type Row = (&'static str, &'static str, &'static str, Becomes, &'static str);

/// Every variable of `config/reverb.php`, 1.0.0-beta8 to 1.10.2.
#[rustfmt::skip]
const REVERB: [Row; 31] = [
    ("REVERB_APP_ID", "", "7", Setting(&["apps.0.id = \"7\""]), "the app's `id`"),
    ("REVERB_APP_KEY", "", "007", Setting(&["apps.0.key = \"007\""]), "the app's `key`"),
    ("REVERB_APP_SECRET", "", "other", Setting(&[]), "the app's `secret`"),
    ("REVERB_SERVER", "reverb", "other", Refused("REVERB_SERVER must be reverb or left out"), "`reverb`; anything else is refused"),
    ("REVERB_SERVER_HOST", "0.0.0.0", "127.0.0.9", Setting(&["server.host = \"127.0.0.9\""]), "`server.host`"),
    ("REVERB_SERVER_PORT", "8080", "9000", Setting(&["server.port = 9000"]), "`server.port`; 8080 where nothing sets it"),
    ("REVERB_SERVER_PATH", "", "ws/", Setting(&["server.path_prefix = \"/ws\""]), "`server.path_prefix`, with or without slashes around it"),
    ("REVERB_HOST", "", "ws.shop.example", Setting(&["REVERB_HOST = \"ws.shop.example\""]), "where pages and Laravel connect: `gema doctor` tests it, `gema config` and the operator's page show it. Reverb also looks for a certificate of Herd or Valet by this name; gema does not: set `tls.cert_path`"),
    ("REVERB_PORT", "", "444", Setting(&["REVERB_PORT = \"444\""]), "the same"),
    ("REVERB_SCHEME", "", "http", Setting(&["REVERB_SCHEME = \"http\""]), "the same"),
    ("REVERB_MAX_REQUEST_SIZE", "", "200000", Setting(&["http.request_bytes_max = 200000"]), "`http.request_bytes_max`, in bytes; 10 MiB where it is not set"),
    ("REVERB_SCALING_ENABLED", "false", "true", Setting(&["cluster.driver = \"redis\""]), "`true` is `cluster.driver = \"redis\"`"),
    ("REVERB_SCALING_CHANNEL", "", "shop", Setting(&["cluster.name = \"shop\""]), "`cluster.name`, without braces; `gema` where it is not set"),
    ("REDIS_URL", "", "redis://r:7", Setting(&["redis.url = \"***\""]), "`redis.url`, where a setting needs Redis"),
    ("REDIS_HOST", "127.0.0.1", "r", Setting(&["redis.host = \"r\""]), "`redis.host`, the same"),
    ("REDIS_PORT", "6379", "7", Setting(&["redis.port = 7"]), "`redis.port`, the same"),
    ("REDIS_USERNAME", "", "shop", Setting(&["redis.username = \"shop\""]), "`redis.username`, the same"),
    ("REDIS_PASSWORD", "", "hush", Setting(&["redis.password = \"***\""]), "`redis.password`, the same"),
    ("REDIS_DB", "0", "7", Setting(&["redis.db = 7"]), "`redis.db`, the same"),
    ("REDIS_TIMEOUT", "60", "5", Warning("REDIS_TIMEOUT has no effect, because gema's link to Redis has times"), "a warning: gema tries again for as long as it runs"),
    ("REVERB_PULSE_INGEST_INTERVAL", "15", "5", Warning("gema's figures are on its metrics port"), "a warning: gema writes nothing into Laravel's Pulse"),
    ("REVERB_TELESCOPE_INGEST_INTERVAL", "15", "5", Warning("gema's figures are on its metrics port"), "a warning: nor into Telescope"),
    ("REVERB_APP_PING_INTERVAL", "", "45", Setting(&["connections.ping_seconds = 45.0"]), "`connections.ping_seconds`; 120 where it is not set"),
    ("REVERB_APP_ACTIVITY_TIMEOUT", "30", "20", Setting(&["connections.activity_timeout_seconds = 20"]), "`connections.activity_timeout_seconds`"),
    ("REVERB_APP_MAX_CONNECTIONS", "", "500", Setting(&["limits.max_connections = 500"]), "`limits.max_connections`, of each node as in Reverb"),
    ("REVERB_APP_MAX_MESSAGE_SIZE", "", "400000", Setting(&["connections.message_bytes_max = 400000"]), "`connections.message_bytes_max`, in bytes; 256 KiB where it is not set. Below 32768, Reverb's 10000 included, 32768 counts, with a warning"),
    ("REVERB_APP_ACCEPT_CLIENT_EVENTS_FROM", "members", "none", Setting(&["limits.enable_client_messages = false"]), "`members`, also where it is not set: whispers work. `none`: `limits.enable_client_messages = false`. `all`: on public channels, too, but from subscribers only, with a warning"),
    ("REVERB_APP_RATE_LIMITING_ENABLED", "false", "true", Setting(&["limits.max_client_events_per_second = 1"]), "`true` sets `limits.max_client_events_per_second`, for each connection, from the next two"),
    ("REVERB_APP_RATE_LIMIT_MAX_ATTEMPTS", "60", "600", Setting(&["limits.max_client_events_per_second = 10"]), "divided by the seconds and rounded up, with a warning that names the result; joins have limits of their own"),
    ("REVERB_APP_RATE_LIMIT_DECAY_SECONDS", "60", "2", Setting(&["limits.max_client_events_per_second = 30"]), "the seconds"),
    ("REVERB_APP_RATE_LIMIT_TERMINATE", "false", "true", Warning("gema refuses what comes too fast, and leaves the connection open"), "`true` is warned of: gema refuses what comes too fast and leaves the connection open"),
];

/// Every variable of `config/websockets.php`, 1.0.0 to 2.0.0-beta.37.
#[rustfmt::skip]
const WEBSOCKETS: [Row; 20] = [
    ("PUSHER_APP_ID", "", "7", Setting(&["apps.0.id = \"7\""]), "the app's `id`"),
    ("PUSHER_APP_KEY", "", "007", Setting(&["apps.0.key = \"007\""]), "the app's `key`"),
    ("PUSHER_APP_SECRET", "", "other", Setting(&[]), "the app's `secret`"),
    ("PUSHER_APP_HOST", "", "ws.shop.example", Warning("own page"), "a warning: it is for the page of laravel-websockets"),
    ("PUSHER_APP_PATH", "", "/ws", Warning("own page"), "the same. `server.path_prefix` moves gema's paths"),
    ("APP_NAME", "", "Shop", Nothing, "Laravel's own; nothing"),
    ("APP_ENV", "", "local", Nothing, "the same"),
    ("DB_CONNECTION", "mysql", "sqlite", Nothing, "the same. Apps from a database: [app_store](configuration.md#apps-from-a-database)"),
    ("LARAVEL_WEBSOCKETS_PORT", "6001", "6002", Warning("set SOKETI_PORT or start with --port"), "a warning unless it is 6001: it is where the page of laravel-websockets connects. The server's port is `--port`, or `SOKETI_PORT`"),
    ("LARAVEL_WEBSOCKETS_DOMAIN", "", "shop.example", Warning("gema's is at /dashboard"), "a warning: it is for the page of laravel-websockets"),
    ("LARAVEL_WEBSOCKETS_PATH", "", "laravel-websockets", Warning("gema's is at /dashboard"), "the same"),
    ("LARAVEL_WEBSOCKETS_STATISTICS_DRIVER", "", "database", Warning("gema's figures are its metrics"), "a warning: gema's figures are its metrics"),
    ("LARAVEL_WEBSOCKETS_SSL_LOCAL_CERT", "", "/c.pem", Warning("set SOKETI_SSL_CERT"), "a warning: set `SOKETI_SSL_CERT` to the same file"),
    ("LARAVEL_WEBSOCKETS_SSL_LOCAL_PK", "", "/k.pem", Warning("SOKETI_SSL_KEY"), "a warning: `SOKETI_SSL_KEY`, also if the key is in the file of the certificate"),
    ("LARAVEL_WEBSOCKETS_SSL_PASSPHRASE", "", "hush", Warning("SOKETI_SSL_PASS"), "a warning: `SOKETI_SSL_PASS`"),
    ("LARAVEL_WEBSOCKETS_SSL_CA", "", "/ca", Warning("gema reads TLS by its own names"), "a warning: `SOKETI_SSL_CA` is a file, not a folder"),
    ("WEBSOCKETS_REPLICATION_MODE", "local", "redis", Warning("set SOKETI_ADAPTER_DRIVER=redis"), "a warning: set `SOKETI_ADAPTER_DRIVER=redis`"),
    ("WEBSOCKETS_REDIS_REPLICATION_CONNECTION", "default", "ws", Warning("REDIS_URL or REDIS_HOST"), "a warning: Redis has the address of `REDIS_URL` or `REDIS_HOST`"),
    ("LARAVEL_WEBSOCKETS_REPLICATION_DRIVER", "local", "redis", Warning("set SOKETI_ADAPTER_DRIVER=redis"), "as `WEBSOCKETS_REPLICATION_MODE`, in early versions of 2.x"),
    ("LARAVEL_WEBSOCKETS_REPLICATION_CONNECTION", "default", "ws", Warning("REDIS_URL or REDIS_HOST"), "as `WEBSOCKETS_REDIS_REPLICATION_CONNECTION`"),
];

/// An app by Reverb's names, as its installer writes them.
const APP: [(&str, &str); 3] = [("REVERB_APP_ID", "1"), ("REVERB_APP_KEY", "shop-key"), ("REVERB_APP_SECRET", "hush")];
const PUSHER: [(&str, &str); 3] =
    [("PUSHER_APP_ID", "2"), ("PUSHER_APP_KEY", "old-key"), ("PUSHER_APP_SECRET", "hush-2")];
const SOKETI: [(&str, &str); 3] =
    [("SOKETI_DEFAULT_APP_ID", "3"), ("SOKETI_DEFAULT_APP_KEY", "s-key"), ("SOKETI_DEFAULT_APP_SECRET", "hush-3")];

type Pair<'a> = (&'a str, &'a str);
type Variables<'a> = &'a [Pair<'a>];

fn load(variables: Variables<'_>) -> Result<Loaded, Faults> {
    config::load(&[], variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn sentences(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

/// The lines of `gema config` without the sources.
fn settings(loaded: &Loaded) -> BTreeSet<String> {
    loaded.settings().iter().map(|line| line.rsplit_once(" # ").unwrap().0.trim().to_owned()).collect()
}

/// The variables that the meaning of `name` depends on.
fn beside(name: &str) -> Vec<(&'static str, &'static str)> {
    match name {
        "REDIS_USERNAME" => vec![("REVERB_SCALING_ENABLED", "true"), ("REDIS_PASSWORD", "hush")],
        name if name.starts_with("REDIS_") || name == "REVERB_SCALING_CHANNEL" => {
            vec![("REVERB_SCALING_ENABLED", "true")]
        }
        name if name.starts_with("REVERB_APP_RATE_LIMIT_") => vec![("REVERB_APP_RATE_LIMITING_ENABLED", "true")],
        _ => vec![],
    }
}

fn check_rows(rows: &[Row], app: Variables<'_>) {
    for &(name, default, other, becomes, _) in rows {
        let before: Vec<_> = app.iter().copied().filter(|(given, _)| *given != name).chain(beside(name)).collect();
        let base = load(&[app, &beside(name)].concat()).unwrap();
        let known = sentences(&base.warnings);
        let with = |value| load(&[&before[..], &[(name, value)]].concat());
        if !default.is_empty() {
            let loaded = with(default).unwrap();
            assert_eq!(settings(&loaded), settings(&base), "{name}={default}");
            assert_eq!(sentences(&loaded.warnings), known, "{name}={default}");
        }
        let result = with(other);
        let warnings = |loaded: &Loaded| -> Vec<String> {
            sentences(&loaded.warnings).into_iter().filter(|warning| !known.contains(warning)).collect()
        };
        let changed = |loaded: &Loaded| -> Vec<String> {
            let changed: BTreeSet<String> = settings(loaded).difference(&settings(&base)).cloned().collect();
            changed.into_iter().collect()
        };
        match (becomes, &result) {
            (Setting(lines), Ok(loaded)) => {
                assert_eq!(changed(loaded), lines, "{name}={other}");
                let is_named = |warning: &String| warning.contains("has no effect") && warning.contains(name);
                assert!(!warnings(loaded).iter().any(is_named), "{name}: {:?}", warnings(loaded));
            }
            (Warning(words), Ok(loaded)) => {
                let warnings = warnings(loaded);
                assert!(warnings.len() == 1 && warnings[0].contains(words), "{name}: {warnings:?}");
                assert!(warnings[0].starts_with(name) && changed(loaded).is_empty(), "{name}: {warnings:?}");
            }
            (Refused(words), Err(Faults { faults, .. })) => {
                assert!(faults.len() == 1 && faults[0].to_string().contains(words), "{name}: {faults:?}");
            }
            (Nothing, Ok(loaded)) => {
                assert_eq!((changed(loaded), warnings(loaded)), (vec![], vec![]), "{name}={other}");
            }
            _ => panic!("{name}={other}: {result:?}"),
        }
    }
}

#[test]
fn each_variable_of_reverb_is_honoured_or_reported() {
    check_rows(&REVERB, &APP);
    let loaded = load(&[APP[0], APP[1], ("REVERB_APP_SECRET", "other")]).unwrap();
    assert_eq!(loaded.config.apps()[0].keys[0].secret.expose(), b"other");
}

#[test]
fn each_variable_of_laravel_websockets_is_honoured_or_reported() {
    check_rows(&WEBSOCKETS, &PUSHER);
    let loaded = load(&[PUSHER[0], PUSHER[1], ("PUSHER_APP_SECRET", "other")]).unwrap();
    assert_eq!(loaded.config.apps()[0].keys[0].secret.expose(), b"other");
}

#[test]
fn the_documents_have_a_line_for_each_variable() {
    for (file, rows) in [("from-reverb.md", &REVERB[..]), ("from-laravel-websockets.md", &WEBSOCKETS)] {
        let rows: String = rows.iter().map(|(name, .., text)| format!("| `{name}` | {text} |\n")).collect();
        let table = format!("| variable | gema |\n| --- | --- |\n{rows}\n");
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs");
        let document = fs::read_to_string(folder.join(file)).unwrap();
        assert!(document.contains(&table), "docs/{file} must have this table:\n{table}");
    }
}

#[test]
fn numbers_have_reverbs_units() {
    let limit = |variables: Variables<'_>| {
        let enabled = [("REVERB_APP_RATE_LIMITING_ENABLED", "true")];
        let loaded = load(&[&APP[..], &enabled, variables].concat()).unwrap();
        (loaded.config.apps()[0].limits.max_client_events_per_second, loaded.warnings.len())
    };
    let (attempts, seconds) = ("REVERB_APP_RATE_LIMIT_MAX_ATTEMPTS", "REVERB_APP_RATE_LIMIT_DECAY_SECONDS");
    assert_eq!(limit(&[]), (1, 1), "60 in 60 s");
    assert_eq!(limit(&[(attempts, "61")]), (2, 1), "rounded up");
    assert_eq!(limit(&[(attempts, "20"), (seconds, "1")]), (20, 0), "exact, so no warning");
    assert_eq!(limit(&[(attempts, "'20'"), (seconds, "'1'")]), (20, 0), "as a list of Compose may have it");
    let idle = load(&[&APP[..], &[(attempts, "20")]].concat()).unwrap();
    assert_eq!(
        sentences(&idle.warnings),
        [format!("{attempts} has no effect, because REVERB_APP_RATE_LIMITING_ENABLED is not true")]
    );
    let small = load(&[&APP[..], &[("REVERB_APP_MAX_MESSAGE_SIZE", "10000")]].concat()).unwrap();
    assert_eq!(small.config.connections.message_bytes_max, 32_768);
    assert!(small.warnings[0].to_string().contains("is 10000, but gema takes messages of 32768 bytes"));
    let all = load(&[&APP[..], &[("REVERB_APP_ACCEPT_CLIENT_EVENTS_FROM", "all")]].concat()).unwrap();
    assert!(
        all.config.apps()[0].limits.allow_public_client_events && all.warnings[0].to_string().contains("subscribers")
    );
    let limits = &load(&APP).unwrap().config.apps()[0].limits;
    assert!(limits.enable_client_messages && !limits.allow_public_client_events, "Reverb lets members whisper");
}

#[test]
fn a_mistake_is_refused_with_its_name_and_its_place() {
    let folder = folder("mistakes");
    for (name, value, words) in [
        ("REVERB_SERVER_PORT", "80800", "server.port (from .env:4, REVERB_SERVER_PORT) is 80800; it must be a whole"),
        (
            "REVERB_SERVER_HOST",
            "ws.shop.example",
            "server.host (from .env:4, REVERB_SERVER_HOST) is \"ws.shop.example\"",
        ),
        ("REVERB_SERVER_PATH", "a b", "server.path_prefix (from .env:4, REVERB_SERVER_PATH) is \"/a b\""),
        ("REVERB_MAX_REQUEST_SIZE", "10_000", "http.request_bytes_max (from .env:4, REVERB_MAX_REQUEST_SIZE) is"),
        ("REVERB_SCALING_ENABLED", "maybe", "REVERB_SCALING_ENABLED (from .env:4) is \"maybe\"; it must be true or"),
        ("REVERB_APP_PING_INTERVAL", "0", "connections.ping_seconds (from .env:4, REVERB_APP_PING_INTERVAL) is 0"),
        (
            "REVERB_APP_ACTIVITY_TIMEOUT",
            "1.5",
            "connections.activity_timeout_seconds (from .env:4, REVERB_APP_ACTIVITY",
        ),
        ("REVERB_APP_MAX_CONNECTIONS", "many", "limits.max_connections (from .env:4, REVERB_APP_MAX_CONNECTIONS) is"),
        ("REVERB_APP_MAX_MESSAGE_SIZE", "10k", "connections.message_bytes_max (from .env:4, REVERB_APP_MAX_MESSAGE"),
        ("REVERB_APP_ACCEPT_CLIENT_EVENTS_FROM", "some", "(from .env:4) is \"some\"; it must be members, all or none"),
        ("REVERB_APP_RATE_LIMITING_ENABLED", "x", "(from .env:4) is \"x\"; it must be true or false"),
        ("REVERB_APP_RATE_LIMIT_MAX_ATTEMPTS", "-1", "(from .env:4) is \"-1\"; it must be a whole number, 0 or more"),
        ("REVERB_APP_RATE_LIMIT_DECAY_SECONDS", "0", "(from .env:4) is \"0\"; it must be a whole number, 1 or more"),
        ("REVERB_APP_RATE_LIMIT_TERMINATE", "x", "(from .env:4) is \"x\"; it must be true or false"),
    ] {
        let app: String = APP.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        fs::write(folder.join(".env"), format!("{app}{name}={value}\n")).unwrap();
        let faults = sentences(&config::load_in(&folder, &[], []).unwrap_err().faults);
        assert!(faults.len() == 1 && faults[0].contains(words), "{name}: {faults:?}");
    }
    for (missing, _) in APP {
        let app: Vec<_> = APP.into_iter().filter(|(name, _)| *name != missing).collect();
        let faults = sentences(&load(&app).unwrap_err().faults);
        assert!(faults[0].starts_with(&format!("{missing} is missing; set it beside REVERB_APP_")), "{faults:?}");
    }
}

#[test]
fn who_names_the_app_decides_whether_reverbs_names_count() {
    let by = |variables: &[Variables<'_>]| {
        let loaded = load(&variables.concat()).unwrap();
        let id = loaded.config.apps()[0].id.clone();
        (id, loaded.config.server.port, sentences(&loaded.warnings).join("; "))
    };
    let broadcaster = |name| [("BROADCAST_CONNECTION", name)];
    assert_eq!(by(&[&APP]), ("1".to_owned(), 8080, String::new()));
    assert_eq!(by(&[&APP, &broadcaster("log")]), ("1".to_owned(), 8080, String::new()));
    // As the `.env` of a new application of Laravel 10 has them.
    let empty = [("PUSHER_APP_ID", ""), ("PUSHER_APP_KEY", "null"), ("PUSHER_APP_SECRET", " ")];
    assert_eq!(by(&[&APP, &empty]), ("1".to_owned(), 8080, String::new()));
    let (id, port, warning) = by(&[&APP, &PUSHER]);
    assert_eq!((id.as_str(), port), ("2", 6001));
    assert!(
        warning.starts_with(
            "REVERB_APP_ID and 2 more variables of Reverb have no effect, because PUSHER_APP_ID names the app; set \
             BROADCAST_CONNECTION=reverb"
        ),
        "{warning}"
    );
    assert_eq!(by(&[&APP, &PUSHER, &broadcaster("pusher")]).0, "2");
    // Leftovers beside the default app.
    for other in ["pusher", "redis"] {
        let (id, port, warning) =
            by(&[&APP, &broadcaster(other), &[("GEMA_INGEST_PREFIXES", "laravel_database_=app-id")]]);
        assert_eq!((id.as_str(), port), ("app-id", 6001));
        assert!(warning.contains(&format!("no effect, because Laravel's broadcaster is {other}; set")), "{warning}");
    }
    let (id, port, warning) = by(&[&APP, &PUSHER, &broadcaster("reverb")]);
    assert_eq!((id.as_str(), port), ("1", 8080));
    assert_eq!(
        warning,
        "PUSHER_APP_ID has no effect, because BROADCAST_CONNECTION is reverb, and REVERB_APP_* name the app"
    );
    let (id, port, warning) = by(&[&APP, &SOKETI, &broadcaster("reverb")]);
    assert_eq!((id.as_str(), port), ("3", 6001));
    assert!(warning.contains("because SOKETI_DEFAULT_APP_ID decides about the app"), "{warning}");
    // The same app by both names: gema has served it on its own port before.
    let same = [("PUSHER_APP_ID", "1"), ("PUSHER_APP_KEY", "shop-key"), ("PUSHER_APP_SECRET", "hush")];
    let (id, port, warning) = by(&[&APP, &same, &broadcaster("reverb")]);
    assert_eq!((id.as_str(), port), ("1", 6001));
    assert!(warning.contains("because PUSHER_APP_ID names the same app"), "{warning}");
    let (_, port, _) = by(&[&APP, &same[1..], &broadcaster("reverb")]);
    assert_eq!(port, 6001);
    // One that names no app is no reason to serve another port.
    let (id, port, warning) = by(&[&[("REVERB_SERVER_PORT", "9000"), ("SOKETI_HOST", "127.0.0.1")]]);
    assert_eq!((id.as_str(), port), ("app-id", 6001));
    assert!(warning.starts_with("REVERB_SERVER_PORT has no effect, because none of REVERB_APP_ID"), "{warning}");
    assert!(!by(&[&APP, &PUSHER]).2.contains("hush"));
}

#[test]
fn origins_and_words_for_nothing_mean_what_they_mean_in_laravel() {
    for name in ["REVERB_ALLOWED_ORIGINS", "REVERB_APP_ALLOWED_ORIGINS"] {
        let loaded = load(&[&APP[..], &[(name, "shop.example,admin.example")]].concat()).unwrap();
        assert_eq!(loaded.config.apps()[0].limits.allowed_origins, ["shop.example", "admin.example"]);
    }
    let words =
        [("REVERB_SERVER_PATH", "(empty)"), ("REVERB_SCALING_ENABLED", "(false)"), ("REVERB_INTERNAL_PORT", "1")];
    let loaded = load(&[&APP[..], &words].concat()).unwrap();
    assert_eq!((loaded.config.server.path_prefix.as_str(), loaded.warnings.len()), ("", 0));
    assert_eq!(
        loaded.settings().last().unwrap().split_whitespace().collect::<Vec<_>>()[..3],
        ["REVERB_INTERNAL_PORT", "=", "\"1\""]
    );
    let faults = sentences(&load(&[APP[0], APP[1], (APP[2].0, "(null)")]).unwrap_err().faults);
    assert!(faults[0].starts_with("REVERB_APP_SECRET is missing"), "{faults:?}");
}

#[test]
fn a_misspelt_name_is_named_although_nothing_else_is_set() {
    let warnings = sentences(&load(&[("REVERB_APP_KY", "shop-key")]).unwrap().warnings).join("; ");
    assert!(warnings.starts_with("REVERB_APP_KY has no effect"), "{warnings}");
}

#[test]
fn soketis_and_gemas_own_names_win_one_by_one() {
    let own = [("SOKETI_PORT", "7001"), ("GEMA_CLUSTER_NAME", "own"), ("GEMA_LIMITS_ENABLE_CLIENT_MESSAGES", "false")];
    let reverbs =
        [("REVERB_SERVER_PORT", "9000"), ("REVERB_SCALING_ENABLED", "true"), ("REVERB_SCALING_CHANNEL", "shop")];
    let of_app = [("SOKETI_DEFAULT_APP_MAX_CONNS", "5"), ("REVERB_APP_MAX_CONNECTIONS", "7")];
    let loaded = load(&[&APP[..], &own, &reverbs, &of_app].concat()).unwrap();
    let config = &loaded.config;
    assert_eq!((config.apps()[0].id.as_str(), config.apps()[0].limits.max_connections), ("1", 5));
    assert_eq!((config.server.port, config.cluster.name.as_str()), (7001, "own"));
    assert!(!config.apps()[0].limits.enable_client_messages);
    assert_eq!(
        sentences(&loaded.warnings),
        [
            "REVERB_SCALING_CHANNEL has no effect, because cluster.name (from GEMA_CLUSTER_NAME) sets it",
            "REVERB_APP_MAX_CONNECTIONS has no effect, because apps.0.max_connections (from SOKETI_DEFAULT_APP_MAX_CONNS) \
             sets it",
            "REVERB_SERVER_PORT has no effect, because server.port (from SOKETI_PORT) sets it",
        ]
    );
}

/// A project that has moved on: every variable of both servers beside those of an installation that works.
#[test]
fn leftovers_change_nothing_for_whoever_has_run_soketi_or_gema() {
    let folder = folder("leftovers");
    let leftovers: Vec<(&str, &str)> = REVERB
        .iter()
        .chain(WEBSOCKETS.iter().filter(|(name, ..)| !["ID", "KEY", "SECRET"].iter().any(|end| name.ends_with(end))))
        .filter(|(name, ..)| !name.starts_with("REDIS_") || *name == "REDIS_TIMEOUT")
        .map(|&(name, _, other, ..)| (name, other))
        .collect();
    let file = folder.join("gema.toml");
    fs::write(&file, "[[apps]]\nid = \"4\"\nkey = \"f-key\"\nsecret = \"hush-4\"\n").unwrap();
    let soketis = folder.join("soketi.json");
    let apps = r#"{"appManager.array.apps": [{"id": "5", "key": "j-key", "secret": "hush-5"}], "port": 6003}"#;
    fs::write(&soketis, apps).unwrap();
    let database = [("SOKETI_APP_MANAGER_DRIVER", "mysql"), ("SOKETI_PORT", "6002")];
    let same_app = [("PUSHER_APP_ID", "7"), ("PUSHER_APP_KEY", "007"), ("PUSHER_APP_SECRET", "other")];
    let reverb = ("BROADCAST_CONNECTION", "reverb");
    let pusher = ("BROADCAST_CONNECTION", "pusher");
    let cases: [(&[PathBuf], Vec<Pair<'_>>); 8] = [
        (&[], PUSHER.to_vec()),
        (&[], [&PUSHER[..], &[pusher]].concat()),
        (&[], [&same_app[..], &[reverb]].concat()),
        (&[], [&SOKETI[..], &[reverb]].concat()),
        (&[], database.to_vec()),
        (std::slice::from_ref(&file), vec![reverb]),
        (std::slice::from_ref(&soketis), vec![reverb]),
        (&[], vec![SOKETI[1], ("SOKETI_HOST", "127.0.0.1")]),
    ];
    for (files, before) in cases {
        let load = |variables: &[(&str, &str)]| {
            let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            config::load(files, owned).unwrap_or_else(|faults| panic!("{before:?}: {faults}"))
        };
        let (old, new) = (load(&before), load(&[&before[..], &leftovers].concat()));
        assert_eq!(old.settings(), new.settings(), "{before:?}");
        let of_reverb = new.warnings.iter().filter(|warning| warning.to_string().contains("of Reverb have no effect"));
        assert_eq!(of_reverb.count(), 1, "{before:?}: one sentence for all of them");
        assert!(new.strict().is_ok(), "{before:?}: known names");
    }
}

#[test]
fn names_that_nobody_reads_are_warned_of() {
    let odd = [("REVERB_SERVER_PROT", "1"), ("LARAVEL_WEBSOCKETS_PROT", "1"), ("REVERB_PORT", "tcp://10.0.0.1:8080")];
    // Kubernetes makes these for a service called `reverb`.
    let links = [("REVERB_SERVICE_HOST", "10.0.0.1"), ("REVERB_PORT_8080_TCP", "tcp://10.0.0.1:8080")];
    let loaded = load(&[&APP[..], &odd, &links].concat()).unwrap();
    let mut warnings = sentences(&loaded.warnings);
    warnings.sort();
    assert_eq!(
        warnings,
        [
            "LARAVEL_WEBSOCKETS_PROT has no effect, because neither laravel-websockets nor gema reads it; did you mean \
             LARAVEL_WEBSOCKETS_PORT?",
            "REVERB_SERVER_PROT has no effect, because neither Reverb nor gema reads it; did you mean REVERB_SERVER_PORT?",
        ]
    );
    assert_eq!(loaded.strict().unwrap_err().faults.len(), 2);
    let quoted = load(&[APP[0], APP[1], ("REVERB_APP_SECRET", "'hush'")]).unwrap();
    assert!(quoted.warnings[0].to_string().starts_with("REVERB_APP_SECRET begins and ends with a quote"));
}

/// A folder of its own for each test.
fn folder(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("reverb-{test}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Opens the operator's page.
const TOKEN: &str = "token-of-the-test";

fn command(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gema"));
    let places = [("GEMA_METRICS_HOST", "127.0.0.1"), ("GEMA_METRICS_PORT", "0"), ("GEMA_DASHBOARD_TOKEN", TOKEN)];
    let quiet = [("GEMA_LOG_FORMAT", "json"), ("GEMA_SERVER_WORKERS", "1")];
    command.args(words).current_dir(folder).env_clear().envs(places).envs(quiet);
    command
}

/// A server that ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the server and returns its log up to the line that says which names count, and its address.
fn start(folder: &Path, words: &[&str]) -> (Running, Vec<Json>, String) {
    let mut server = Running(command(folder, words).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let mut log: Vec<Json> = Vec::new();
    while !log.last().is_some_and(|line| line["message"].as_str().unwrap().starts_with("Reverb's variables")) {
        log.push(serde_json::from_str(&lines.next().expect("the server runs").unwrap()).unwrap());
    }
    let ready = log.iter().find(|line| line["message"] == "ready").unwrap();
    let address = ready["address"].as_str().unwrap().to_owned();
    (server, log, address)
}

/// The answer to a request on a connection of its own, as far as `end`.
fn answer(address: &str, path: &str, headers: &str, end: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").unwrap();
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains(end) {
        let mut piece = [0; 1024];
        let read = stream.read(&mut piece).unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&piece[..read]);
    }
    String::from_utf8_lossy(&heard).into_owned()
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The `.env` of Reverb's installer, with the port of Reverb's server.
fn write_env(folder: &Path) {
    let env = "BROADCAST_CONNECTION=reverb\nREVERB_APP_ID=1\nREVERB_APP_KEY=shop-key\nREVERB_APP_SECRET=hush\n\
               REVERB_HOST=\"localhost\"\nREVERB_PORT=8080\nREVERB_SCHEME=http\nREVERB_SERVER_PORT=1\n";
    fs::write(folder.join(".env"), env).unwrap();
}

#[test]
fn the_options_of_reverb_start_and_websockets_serve_start_the_server() {
    let folder = folder("options");
    write_env(&folder);
    let words = ["start", "--host=127.0.0.1", "--port=0", "--path=ws/", "--hostname=shop.test", "--debug"];
    let (_server, log, address) = start(&folder, &words);
    let has = |level: &str, start: &str| {
        log.iter().any(|line| line["level"] == level && line["message"].as_str().unwrap().starts_with(start))
    };
    assert!(has("WARN", "--hostname has no effect, because gema answers to every name"), "{log:?}");
    assert!(has("INFO", "Reverb's variables such as REVERB_APP_KEY configure this server: it listens on port 0"));
    assert!(!has("WARN", "REVERB_SERVER_PORT"), "an option wins without a word, as with Reverb");
    assert!(answer(&address, "/ws/app/shop-key?protocol=7", UPGRADE, "}").contains("pusher:connection_established"));
    for path in ["/ws/up", "/ws/health"] {
        assert!(answer(&address, path, "", "\r\n\r\nOK").starts_with("HTTP/1.1 200 OK"), "{path}");
    }
    let ready = log.iter().find(|line| line["message"] == "ready").unwrap();
    let page = ready["metrics_address"].as_str().unwrap();
    let authorization = format!("Authorization: Bearer {TOKEN}\r\n");
    let shown = answer(page, "/ws/dashboard/api/state", &authorization, "REVERB_SCHEME=http");
    for line in ["broadcaster: 'reverb'", "BROADCAST_CONNECTION=reverb\\nREVERB_APP_ID=1\\nREVERB_APP_KEY=shop-key"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }

    let words = ["start", "--host", "127.0.0.1", "--port", "0", "--disable-statistics", "--statistics-interval=5"];
    let (_server, log, address) = start(&folder, &words);
    let warnings = log.iter().filter(|line| line["level"] == "WARN").count();
    assert_eq!(warnings, 2, "{log:?}");
    assert!(answer(&address, "/app/shop-key?protocol=7", UPGRADE, "}").contains("pusher:connection_established"));
}

#[test]
fn a_wrong_option_is_refused_by_its_name() {
    let folder = folder("wrong-options");
    for (word, sentence) in [
        ("--port=80800", "fault: server.port (from --port) is 80800; it must be a whole number from 0 to 65535"),
        ("--host=shop.example", "fault: server.host (from --host) is \"shop.example\""),
        ("--path=a b", "fault: server.path_prefix (from --path) is \"/a b\""),
    ] {
        let Output { status, stderr, .. } = command(&folder, &["start", word]).output().unwrap();
        let told = String::from_utf8(stderr).unwrap();
        assert!(status.code() == Some(1) && told.starts_with(sentence), "{told}");
    }
}

#[test]
fn the_check_says_whose_port_it_is() {
    let folder = folder("check");
    write_env(&folder);
    let said = || String::from_utf8(command(&folder, &["check"]).output().unwrap().stdout).unwrap();
    assert!(said().contains("it listens on port 1\n"), "{}", said());
    let env = fs::read_to_string(folder.join(".env")).unwrap();
    fs::write(folder.join(".env"), env.replace("REVERB_SERVER_PORT=1\n", "")).unwrap();
    assert!(said().contains("it listens on port 8080, Reverb's own, because nothing sets another\n"), "{}", said());
}
