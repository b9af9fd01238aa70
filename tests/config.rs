//! What the program makes of files, variables and its command line, seen from outside.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere, its helpers included")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
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
    let mut found = faults(&["check", "--config", &file], &[("SOKETI_PROT", "1"), ("GEMA_SERVER_PROT", "1")]);
    found.sort();
    assert_eq!(
        found,
        [
            "fault: GEMA_SERVER_PROT is not a variable of gema; did you mean GEMA_SERVER_PORT?".to_owned(),
            format!(
                "fault: apps.0.maxConections (from {file}:10) is not a setting; did you mean apps.0.max_connections?"
            ),
            format!("fault: apps.0.secret (from {file}:7) is missing; without a secret anybody could publish"),
            format!("fault: server.backlog (from {file}:4) is 0; it must be between 1 and 65535"),
            format!("fault: server.port (from {file}:3) is \"x\"; it must be a whole number"),
            format!("fault: server.prot (from {file}:2) is not a setting; did you mean server.port?"),
            format!("fault: sever (from {file}:6) is not a setting; did you mean server?"),
            "warning: SOKETI_PROT has no effect, because neither Soketi nor gema reads it; did you mean SOKETI_PORT?"
                .to_owned(),
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
            [format!("fault: server.port (from {file}:1) is 70000; it must be a whole number from 0 to 65535")]
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_stops_the_start() {
    let found = faults(&["start", "--config=/nowhere/gema.toml"], &[]);
    assert!(found[0].starts_with("fault: /nowhere/gema.toml cannot be read: No such file"), "{found:?}");
}

#[test]
fn files_of_a_certificate_are_checked_with_all_the_rest() {
    let file = file("tls.toml", "[tls]\ncert_path = '/nowhere/cert.pem'\n");
    let environment = [
        ("SOKETI_SSL_KEY", "/nowhere/key.pem"),
        ("SOKETI_SSL_CA", "/nowhere/ca.pem"),
        ("SOKETI_DB_REDIS_HOST", "redis"),
        ("GEMA_NATS", "1"),
    ];
    let of_files = [
        format!("fault: tls.cert_path (from {file}:2): /nowhere/cert.pem cannot be read: "),
        "fault: tls.key_path (from SOKETI_SSL_KEY): /nowhere/key.pem cannot be read: ".to_owned(),
        "fault: tls.ca_path (from SOKETI_SSL_CA): /nowhere/ca.pem cannot be read: ".to_owned(),
    ];
    let begin = |found: &[String], begins: &[String]| {
        let same = found.len() == begins.len();
        same && found.iter().zip(begins).all(|(found, begins)| found.starts_with(begins))
    };
    for command in ["check", "start"] {
        let found = faults(&[command, "--config", &file], &environment);
        let unknown = "fault: GEMA_NATS is not a variable of gema".to_owned();
        assert!(begin(&found, &[&[unknown][..], &of_files].concat()), "{found:#?}");
        let found = faults(&[command, "--config", &file], &environment[..3]);
        assert!(begin(&found[..3], &of_files), "{found:#?}");
        assert!(found[3].starts_with("warning: SOKETI_DB_REDIS_HOST has no effect"), "{found:#?}");
        assert!(found[4].contains("Soketi's default secret"), "{found:#?}");
    }
}

#[test]
fn a_certificate_without_its_key_is_told_with_its_source_and_its_own_faults() {
    let found = faults(&["check"], &[("SOKETI_SSL_CERT", "/nowhere/cert.pem")]);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("fault: tls.cert_path (from SOKETI_SSL_CERT) needs tls.key_path; "), "{found:#?}");
    assert!(found[1].starts_with("fault: tls.cert_path (from SOKETI_SSL_CERT): /nowhere/cert.pem "), "{found:#?}");
    let path = |name: &str| format!("{}/tests/it/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let (certificate, key) = (path("certificate.pem"), path("encrypted.key"));
    let environment = [("SOKETI_SSL_CERT", &*certificate), ("SOKETI_SSL_KEY", &*key)];
    let locked = format!("fault: tls.key_path (from SOKETI_SSL_KEY): the key in {key} is encrypted, but ");
    assert!(faults(&["check"], &environment)[0].starts_with(&locked));
    assert!(gema(&["check"], &[&environment[..], &[("SOKETI_SSL_PASS", "hush")]].concat()).status.success());
}

#[test]
fn a_syntax_error_names_the_line_but_shows_none() {
    let file = file("syntax.toml", "[[apps]]\nsecret = \"hush\nkey = 1");
    let found = faults(&["check", "--config", &file], &[]);
    assert!(found[0].starts_with(&format!("fault: {file}:2: ")), "{found:?}");
    assert!(!found.join("").contains("hush"));
}

#[test]
fn variables_win_over_files_and_later_files_over_earlier_ones() {
    let first = file("first.toml", "[server]\nport = 1\nbacklog = 1\n[metrics]\nport = 10\n");
    let second = file("second.yaml", "server:\n  port: 2\n  backlog: 2\n");
    let printed = settings(&[&first, &second], &[("SOKETI_PORT", "3")]);
    assert_eq!(setting(&printed, "server.port"), ("3".to_owned(), "SOKETI_PORT".to_owned()));
    assert_eq!(setting(&printed, "server.backlog"), ("2".to_owned(), format!("{second}:3")));
    assert_eq!(setting(&printed, "metrics.port"), ("10".to_owned(), format!("{first}:5")));
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
    assert_eq!(setting(&printed, "apps.0.enable_client_messages"), ("true".to_owned(), format!("{file}:2")));
    assert_eq!(setting(&printed, "apps.0.id"), ("\"a\"".to_owned(), format!("{file}:2")));
    assert_eq!(setting(&printed, "apps.1.id"), ("\"b\"".to_owned(), format!("{file}:3")));
}

#[test]
fn secrets_are_masked_wherever_they_are() {
    let file = file("masked.toml", "[[apps]]\nid='a'\nkey='k'\nsecret='hush-1'\nkeys=[{key='l', secret='hush-2'}]\n");
    let printed = settings(&[&file], &[]);
    assert!(!printed.contains("hush"), "{printed}");
    assert_eq!(setting(&printed, "apps.0.keys.0.secret"), ("\"***\"".to_owned(), format!("{file}:5")));
}

/// Variables of Soketi that select Redis, and more of them.
fn on_redis<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("SOKETI_HOST", "127.0.0.1"), ("SOKETI_ADAPTER_DRIVER", "redis")], more].concat()
}

/// What `gema check` prints where there are no faults, without the line that says so.
fn warnings(files: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
    let arguments = files.iter().flat_map(|file| ["--config", file]);
    let output = gema(&["check"].into_iter().chain(arguments).collect::<Vec<_>>(), environment);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines = printed.lines().filter_map(|line| line.strip_prefix("warning: "));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_page_that_others_can_reach_without_tls_is_warned_of() {
    let page = [("SOKETI_HOST", "127.0.0.1"), ("GEMA_DASHBOARD_TOKEN", "viewer-token-0123456789")];
    let found = warnings(&[], &page);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with("metrics.host is 0.0.0.0, so the token of the operator's page"), "{found:#?}");
    for more in [("SOKETI_METRICS_HOST", "127.0.0.1"), ("GEMA_SERVER_TRUSTED_PROXIES", "10.0.0.1")] {
        assert_eq!(warnings(&[], &[&page[..], &[more]].concat()), [""; 0], "{more:?}");
    }
}

#[test]
fn soketis_variables_switch_redis_on() {
    let environment = on_redis(&[
        ("SOKETI_ADAPTER_REDIS_PREFIX", "shop"),
        ("SOKETI_ADAPTER_REDIS_PUB_OPTIONS", r#"{"tls":{}}"#),
        ("SOKETI_DB_REDIS_HOST", "redis"),
        ("SOKETI_DB_REDIS_PORT", "6380"),
        ("SOKETI_DB_REDIS_DB", "3"),
        ("SOKETI_DB_REDIS_USERNAME", "gema"),
        ("SOKETI_DB_REDIS_PASSWORD", "0012345"),
        ("SOKETI_DB_REDIS_KEY_PREFIX", "shop:"),
    ]);
    let printed = settings(&[], &environment);
    for (key, value, origin) in [
        ("cluster.driver", "\"redis\"", "SOKETI_ADAPTER_DRIVER"),
        ("cluster.name", "\"shop\"", "SOKETI_ADAPTER_REDIS_PREFIX"),
        ("redis.tls", "true", "SOKETI_ADAPTER_REDIS_PUB_OPTIONS"),
        ("redis.host", "\"redis\"", "SOKETI_DB_REDIS_HOST"),
        ("redis.port", "6380", "SOKETI_DB_REDIS_PORT"),
        ("redis.db", "3", "SOKETI_DB_REDIS_DB"),
        ("redis.username", "\"gema\"", "SOKETI_DB_REDIS_USERNAME"),
        ("redis.password", "\"***\"", "SOKETI_DB_REDIS_PASSWORD"),
        ("redis.key_prefix", "\"shop:\"", "SOKETI_DB_REDIS_KEY_PREFIX"),
        ("redis.url", "\"\"", "default"),
    ] {
        assert_eq!(setting(&printed, key), (value.to_owned(), origin.to_owned()), "{key}");
    }
    assert_eq!(warnings(&[], &environment), [""; 0]);
}

#[test]
fn soketis_variables_switch_nats_on() {
    let environment = [
        ("SOKETI_HOST", "127.0.0.1"),
        ("SOKETI_ADAPTER_DRIVER", "nats"),
        ("SOKETI_ADAPTER_NATS_PREFIX", "shop"),
        ("SOKETI_ADAPTER_NATS_SERVERS", r#"["nats-1:4222","nats-2:4222"]"#),
        ("SOKETI_ADAPTER_NATS_USER", "gema"),
        ("SOKETI_ADAPTER_NATS_PASSWORD", "0012345"),
        ("SOKETI_ADAPTER_NATS_TIMEOUT", "2500"),
        ("GEMA_NATS_PREFIX", "eu"),
        ("GEMA_NATS_REPLICAS", "3"),
    ];
    let printed = settings(&[], &environment);
    for (key, value, origin) in [
        ("cluster.driver", "\"nats\"", "SOKETI_ADAPTER_DRIVER"),
        ("cluster.name", "\"shop\"", "SOKETI_ADAPTER_NATS_PREFIX"),
        ("nats.servers", r#"["nats-1:4222","nats-2:4222"]"#, "SOKETI_ADAPTER_NATS_SERVERS"),
        ("nats.user", "\"gema\"", "SOKETI_ADAPTER_NATS_USER"),
        ("nats.password", "\"***\"", "SOKETI_ADAPTER_NATS_PASSWORD"),
        ("nats.token", "\"\"", "default"),
        ("nats.prefix", "\"eu\"", "GEMA_NATS_PREFIX"),
        ("nats.connect_seconds", "2.5", "SOKETI_ADAPTER_NATS_TIMEOUT"),
        ("nats.replicas", "3", "GEMA_NATS_REPLICAS"),
        ("nats.tls", "false", "default"),
    ] {
        assert_eq!(setting(&printed, key), (value.to_owned(), origin.to_owned()), "{key}");
    }
    assert_eq!(warnings(&[], &environment), [""; 0]);
}

#[test]
fn soketis_prefix_names_the_cluster_of_its_adapter_wherever_it_is_set() {
    let both =
        file("nats-prefixes.json", r#"{"adapter":{"driver":"nats","redis":{"prefix":"r"},"nats":{"prefix":"n"}}}"#);
    let local = [("SOKETI_HOST", "127.0.0.1")];
    let printed = settings(&[&both], &local);
    assert_eq!(setting(&printed, "cluster.name"), ("\"n\"".to_owned(), format!("{both}:1")));
    let unused = format!("adapter.redis.prefix (from {both}:1) has no effect, because cluster.driver is nats");
    assert_eq!(warnings(&[&both], &local), [unused]);
    // The last source that names a driver decides for all.
    let redis = [local[0], ("GEMA_CLUSTER_DRIVER", "redis")];
    assert_eq!(setting(&settings(&[&both], &redis), "cluster.name").0, "\"r\"");
    let unused = format!("adapter.nats.prefix (from {both}:1) has no effect, because cluster.driver is not nats");
    assert_eq!(warnings(&[&both], &redis), [unused]);
    let own = file("nats-name.json", r#"{"adapter":{"driver":"nats","nats":{"prefix":"n"}},"cluster":{"name":"own"}}"#);
    assert_eq!(setting(&settings(&[&own], &local), "cluster.name").0, "\"own\"");
    let unused =
        format!("adapter.nats.prefix (from {own}:1) has no effect, because cluster.name (from {own}:1) says it, too");
    assert_eq!(warnings(&[&own], &local), [unused]);
}

#[test]
fn nats_faults_name_key_origin_and_remedy_and_hold_no_secret() {
    let file = file(
        "nats-faults.toml",
        "[nats]\nservers = ['nats://u:hush@a']\nuser = 'a'\npassword = ['hush']\ntoken = 'hush'\nprefix = 'a.b'\n\
         replicas = 0\nservres = 'a'\n",
    );
    let environment = [("SOKETI_ADAPTER_DRIVER", "nats"), ("SOKETI_ADAPTER_NATS_TIMEOUT", "0")];
    let found = faults(&["check", "--config", &file], &environment);
    let prefixes = [
        format!("nats.servers (from {file}:2) must be HOST:PORT each, such as nats-1:4222"),
        format!("nats.password (from {file}:4) must be text in quotes"),
        format!("nats.token (from {file}:5) cannot stand beside nats.user; leave one of them out"),
        format!("nats.prefix (from {file}:6) is \"a.b\"; it must have at most 64 characters"),
        format!("nats.replicas (from {file}:7) is 0; it must be between 1 and 5"),
        format!("nats.servres (from {file}:8) is not a setting; did you mean nats.servers?"),
        "nats.connect_seconds (from SOKETI_ADAPTER_NATS_TIMEOUT) is 0; it must be between 0.1 and 300 seconds"
            .to_owned(),
    ];
    for prefix in &prefixes {
        assert!(found.iter().any(|fault| fault.starts_with(&format!("fault: {prefix}"))), "{prefix}: {found:#?}");
    }
    assert_eq!(found.len(), prefixes.len(), "{found:#?}");
    let broken = faults(&["check"], &[("SOKETI_ADAPTER_NATS_SERVERS", r#"["u:hush"#)]);
    assert!(
        broken[0].starts_with("fault: nats.servers (from SOKETI_ADAPTER_NATS_SERVERS) must be a list"),
        "{broken:?}"
    );
    assert!(!found.concat().contains("hush") && !broken.concat().contains("hush"), "{found:#?} {broken:?}");
}

#[test]
fn nats_settings_without_effect_are_warned_of() {
    let environment = [("SOKETI_HOST", "127.0.0.1"), ("SOKETI_ADAPTER_NATS_TOKEN", "hush"), ("GEMA_NATS_TLS", "false")];
    let because = "SOKETI_ADAPTER_NATS_TOKEN has no effect, because cluster.driver is not nats";
    assert_eq!(warnings(&[], &environment), [because]);
    let over_nats = |more: &[(&str, &str)]| {
        warnings(&[], &[&[("SOKETI_HOST", "127.0.0.1"), ("GEMA_CLUSTER_DRIVER", "nats")], more].concat())
    };
    for (name, value, because) in [
        ("GEMA_NATS_USER", "gema", "nats.password is empty"),
        ("GEMA_NATS_PASSWORD", "hush", "nats.user is empty"),
        ("GEMA_NATS_TLS_VERIFY", "false", "nats.tls is false"),
        ("SOKETI_DB_REDIS_HOST", "redis", "cluster.driver is nats, and nothing else uses Redis"),
    ] {
        assert_eq!(over_nats(&[(name, value)]), [format!("{name} has no effect, because {because}")]);
    }
    let key_prefix = [("GEMA_REDIS_KEY_PREFIX", "shop:"), ("GEMA_LIMITER_DRIVER", "redis")];
    assert_eq!(over_nats(&key_prefix), [""; 0], "limits are in Redis all the same");
    let unverified = over_nats(&[("GEMA_NATS_SERVERS", "tls://nats"), ("GEMA_NATS_TLS_VERIFY", "false")]);
    assert!(unverified.len() == 1 && unverified[0].contains("anybody on the way to NATS"), "{unverified:?}");
    let blank = over_nats(&[("GEMA_NATS_TOKEN", "hush ")]);
    assert!(blank.len() == 1 && blank[0].contains("white space; remove it unless NATS"), "{blank:?}");
}

#[test]
fn soketis_variables_take_apps_from_a_database() {
    let environment = [
        ("SOKETI_APP_MANAGER_DRIVER", "postgres"),
        ("SOKETI_APP_MANAGER_CACHE_ENABLED", "false"),
        ("SOKETI_APP_MANAGER_CACHE_TTL", "30"),
        ("SOKETI_APP_MANAGER_POSTGRES_TABLE", "shop.apps"),
        ("SOKETI_DB_POSTGRES_HOST", "db"),
        ("SOKETI_DB_POSTGRES_PORT", "5433"),
        ("SOKETI_DB_POSTGRES_USERNAME", "gema"),
        ("SOKETI_DB_POSTGRES_PASSWORD", "0012345"),
        ("SOKETI_DB_POSTGRES_DATABASE", "shop"),
        ("SOKETI_DB_POOLING_MAX", "9"),
        // Laravel's own app and database are nobody's business here.
        ("PUSHER_APP_SECRET", "hush"),
        ("DB_HOST", "laravels"),
    ];
    let printed = settings(&[], &environment);
    for (key, value, origin) in [
        ("app_store.driver", "\"postgres\"", "SOKETI_APP_MANAGER_DRIVER"),
        ("app_store.cache_seconds", "30.0", "SOKETI_APP_MANAGER_CACHE_TTL"),
        ("app_store.connections_max", "9", "SOKETI_DB_POOLING_MAX"),
        ("postgres.table", "\"shop.apps\"", "SOKETI_APP_MANAGER_POSTGRES_TABLE"),
        ("postgres.host", "\"db\"", "SOKETI_DB_POSTGRES_HOST"),
        ("postgres.port", "5433", "SOKETI_DB_POSTGRES_PORT"),
        ("postgres.username", "\"gema\"", "SOKETI_DB_POSTGRES_USERNAME"),
        ("postgres.password", "\"***\"", "SOKETI_DB_POSTGRES_PASSWORD"),
        ("postgres.database", "\"shop\"", "SOKETI_DB_POSTGRES_DATABASE"),
        ("mysql.port", "3306", "default"),
    ] {
        assert_eq!(setting(&printed, key), (value.to_owned(), origin.to_owned()), "{key}");
    }
    assert!(!printed.contains("apps.0"), "{printed}");
    assert_eq!(warnings(&[], &environment), [""; 0]);
}

#[test]
fn of_two_databases_the_one_that_is_not_selected_has_no_effect() {
    let environment = [
        ("SOKETI_HOST", "127.0.0.1"),
        ("SOKETI_APP_MANAGER_DRIVER", "mysql"),
        ("SOKETI_APP_MANAGER_CACHE_TTL", "-1"),
        ("SOKETI_APP_MANAGER_MYSQL_USE_V2", "true"),
        ("SOKETI_DB_MYSQL_HOST", "db"),
        ("SOKETI_DB_POSTGRES_HOST", "db"),
        ("SOKETI_DB_POSTGRES_PASSWORD", "hush"),
        ("SOKETI_DEFAULT_APP_SECRET", "hush"),
    ];
    assert_eq!(setting(&settings(&[], &environment), "app_store.cache_seconds").1, "default");
    assert_eq!(
        warnings(&[], &environment),
        [
            "SOKETI_APP_MANAGER_MYSQL_USE_V2 has no effect, because gema has a client of its own, see app_store.* for \
             its settings",
            "SOKETI_DB_POSTGRES_HOST has no effect, because app_store.driver is not postgres",
            "SOKETI_DB_POSTGRES_PASSWORD has no effect, because app_store.driver is not postgres",
            "apps have no effect, because app_store.driver is not config; remove them",
        ]
    );
    let without = [("SOKETI_HOST", "127.0.0.1"), ("SOKETI_DEFAULT_APP_SECRET", "s"), ("SOKETI_DB_POOLING_MAX", "9")];
    assert_eq!(
        warnings(&[], &without),
        ["SOKETI_DB_POOLING_MAX has no effect, because app_store.driver is config; set it to mysql or postgres to \
          take apps from a database"]
    );
}

#[test]
fn an_app_store_that_is_not_there_is_refused_with_what_to_do() {
    let environment = [("SOKETI_APP_MANAGER_DRIVER", "mongodb"), ("GEMA_APP_STORE_STALE_SECONDS", "-1")];
    assert_eq!(
        faults(&["check"], &environment),
        [
            "fault: SOKETI_APP_MANAGER_DRIVER must be array or mysql or mariadb or postgres or dynamodb or left out: apps \
             are in the configuration as [[apps]], or in one of these databases",
            "fault: app_store.stale_seconds (from GEMA_APP_STORE_STALE_SECONDS) is -1; it must be between 0 and 86400 \
             seconds",
        ]
    );
}

#[test]
fn a_build_without_aws_says_how_to_get_it() {
    let checked = gema(&["check"], &[("SOKETI_APP_MANAGER_DRIVER", "dynamodb")]);
    assert_eq!(checked.status.success(), cfg!(feature = "aws"));
    if !cfg!(feature = "aws") {
        assert_eq!(
            faults(&["check"], &[("SOKETI_APP_MANAGER_DRIVER", "dynamodb")]),
            [
                "fault: app_store.driver (from SOKETI_APP_MANAGER_DRIVER) is dynamodb, but this build has no AWS; build with \
              `cargo build --release --features aws`, or use the image"
            ]
        );
    }
}

#[test]
fn sentinels_and_cluster_nodes_come_in_soketis_form_and_in_ours() {
    let soketis = [
        ("SOKETI_DB_REDIS_SENTINELS", r#"[{"host":"s-1","port":26379},{"host":"s-2","port":"26380"}]"#),
        ("SOKETI_DB_REDIS_SENTINEL_PASSWORD", "hush"),
        ("SOKETI_DB_REDIS_INSTANCE_NAME", "shop"),
    ];
    let printed = settings(&[], &on_redis(&soketis));
    assert_eq!(setting(&printed, "redis.sentinels").0, r#"["s-1:26379","s-2:26380"]"#);
    assert_eq!(setting(&printed, "redis.sentinel_password").0, "\"***\"");
    assert_eq!(setting(&printed, "redis.sentinel_master").0, "\"shop\"");
    let soketis = [
        ("SOKETI_ADAPTER_REDIS_CLUSTER_MODE", "true"),
        ("SOKETI_DB_REDIS_CLUSTER_NODES", r#"[{"host":"c-1","port":6379},{"host":"::1","port":6379}]"#),
    ];
    let printed = settings(&[], &on_redis(&soketis));
    assert_eq!(setting(&printed, "redis.cluster_nodes").0, r#"["c-1:6379","[::1]:6379"]"#);
    for list in ["c-1:6379, c-2:6379", r#"["c-1:6379", "c-2:6379"]"#] {
        let printed = settings(&[], &on_redis(&[("GEMA_REDIS_CLUSTER_NODES", list)]));
        assert_eq!(setting(&printed, "redis.cluster_nodes").0, r#"["c-1:6379","c-2:6379"]"#);
    }
}

#[test]
fn laravels_redis_is_the_last_resort() {
    let laravels = [("REDIS_HOST", "laravel"), ("REDIS_PORT", "6380"), ("REDIS_PASSWORD", "null"), ("REDIS_DB", "1")];
    let file = file("redis.toml", "[redis]\nport = 6381\n");
    let environment = on_redis(&[&laravels[..], &[("SOKETI_DB_REDIS_DB", "2")]].concat());
    let printed = settings(&[&file], &environment);
    assert_eq!(setting(&printed, "redis.host"), ("\"laravel\"".to_owned(), "REDIS_HOST".to_owned()));
    assert_eq!(setting(&printed, "redis.port"), ("6381".to_owned(), format!("{file}:2")));
    assert_eq!(setting(&printed, "redis.db"), ("2".to_owned(), "SOKETI_DB_REDIS_DB".to_owned()));
    assert_eq!(setting(&printed, "redis.password"), ("\"\"".to_owned(), "default".to_owned()));
    let alone = [&laravels[..], &[("SOKETI_HOST", "127.0.0.1")]].concat();
    assert_eq!(warnings(&[], &alone), [""; 0], "Laravel's Redis says nothing about gema");
}

#[test]
fn redis_faults_name_key_origin_and_remedy_and_hold_no_secret() {
    let file = file(
        "redis-faults.toml",
        "[cluster]\ndriver = 'zmq'\nname = '{a}'\nbuffer_seconds = 0\n\
         [redis]\nurl = 'http://:hush@redis'\npassword = ['hush']\nsentinels = ['u:hush@a']\nhots = 'a'\n",
    );
    let environment = [
        ("SOKETI_ADAPTER_REDIS_SUB_OPTIONS", r#"{"password":"hush"}"#),
        ("SOKETI_DB_REDIS_CLUSTER_NODES", r#"["hush"#),
        ("SOKETI_DB_REDIS_PORT", "0"),
    ];
    let found = faults(&["check", "--config", &file], &environment);
    let prefixes = [
        "SOKETI_ADAPTER_REDIS_SUB_OPTIONS has password, which is set elsewhere; remove it there and set GEMA_REDIS_PASSWORD"
            .to_owned(),
        "SOKETI_DB_REDIS_CLUSTER_NODES must be a JSON array of hosts and ports".to_owned(),
        format!("cluster.driver (from {file}:2) is \"zmq\"; it must be one of `local`, `redis`, `nats`"),
        format!("cluster.name (from {file}:3) is \"{{a}}\"; it must have 1 to 64 characters"),
        format!("cluster.buffer_seconds (from {file}:4) is 0; it must be between 0.1 and 600 seconds"),
        format!("redis.url (from {file}:6) must begin with redis://"),
        format!("redis.url (from {file}:6) cannot stand beside redis.sentinels; leave one of them out"),
        format!("redis.password (from {file}:7) must be text in quotes"),
        format!("redis.sentinels (from {file}:8) must be HOST:PORT each"),
        "redis.port (from SOKETI_DB_REDIS_PORT) is 0; it must be between 1 and 65535".to_owned(),
        format!("redis.hots (from {file}:9) is not a setting; did you mean redis.host?"),
    ];
    for prefix in &prefixes {
        assert!(found.iter().any(|fault| fault.starts_with(&format!("fault: {prefix}"))), "{prefix}: {found:#?}");
    }
    assert_eq!(found.len(), prefixes.len(), "{found:#?}");
    assert!(!found.concat().contains("hush"), "{found:#?}");
}

#[test]
fn an_outage_is_set_everywhere_and_explained() {
    let settings = [
        ("outage.toml", "[cluster]\ndriver = 'redis'\nbuffer_seconds = 30\noutage = 'local'\n"),
        ("outage.yaml", "cluster:\n  driver: redis\n  buffer_seconds: 30\n  outage: local\n"),
        ("outage.json", r#"{"cluster":{"driver":"redis","buffer_seconds":30,"outage":"local"}}"#),
    ];
    let variables = ["DRIVER=redis", "BUFFER_SECONDS=30", "OUTAGE=local"].map(|pair| pair.split_once('=').unwrap());
    let variables = variables.map(|(name, value)| (format!("GEMA_CLUSTER_{name}"), value));
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let mut printed: Vec<String> = settings
        .map(|(name, text)| gema(&["check", "--config", &file(name, text)], &[]))
        .into_iter()
        .chain([gema(&["check"], &variables)])
        .map(|output| String::from_utf8(output.stdout).unwrap())
        .collect();
    printed.dedup();
    let [printed] = &printed[..] else { panic!("{printed:#?}") };
    let line = "without Redis, publishers are never refused: each node delivers to its own connections; for the other \
                nodes it keeps the events of the last 30 s, at most 33554432 bytes, and drops older ones; /ready answers \
                200";
    assert!(printed.lines().any(|printed| printed == line), "{printed}");
    let buffered = gema(&["check"], &[("GEMA_CLUSTER_DRIVER", "redis"), ("GEMA_CLUSTER_OUTAGE", "buffer")]);
    assert!(!String::from_utf8(buffered.stdout).unwrap().contains("without Redis"));

    let wrong = file("outage-wrong.toml", "[cluster]\ndriver = 'redis'\noutage = 'drop'\noutages = 'local'\n");
    assert_eq!(
        faults(&["check", "--config", &wrong], &[]),
        [
            format!("fault: cluster.outage (from {wrong}:3) is \"drop\"; it must be `buffer` or `local`"),
            format!("fault: cluster.outages (from {wrong}:4) is not a setting; did you mean cluster.outage?"),
        ]
    );
    let found = faults(&["check"], &[("GEMA_CLUSTER_DRIVER", "redis"), ("GEMA_CLUSTER_OUTAGE", "Local")]);
    assert_eq!(
        found,
        ["fault: cluster.outage (from GEMA_CLUSTER_OUTAGE) is \"Local\"; it must be `buffer` or `local`"]
    );
    let alone = warnings(&[], &[("SOKETI_HOST", "127.0.0.1"), ("GEMA_CLUSTER_OUTAGE", "local")]);
    assert_eq!(
        alone,
        [
            "GEMA_CLUSTER_OUTAGE has no effect, because cluster.driver is local; set it to redis to run several nodes as one"
        ]
    );
}

#[test]
fn adapters_that_are_not_there_stop_the_start() {
    for adapter in ["cluster", "NATS", "Redis"] {
        let found = faults(&["start"], &[("SOKETI_ADAPTER_DRIVER", adapter)]);
        let fault = "fault: SOKETI_ADAPTER_DRIVER must be local or redis or nats or left out: nodes meet in Redis or NATS; \
                     use redis or nats";
        assert_eq!(found, [fault]);
    }
}

#[test]
fn redis_in_a_file_of_a_single_node_is_warned_of() {
    let file = file("redis-idle.toml", "[redis]\nhost = 'redis'\nport = 6379\n");
    let because = "has no effect, because cluster.driver is local; set it to redis to run several nodes as one";
    let environment = [("SOKETI_HOST", "127.0.0.1"), ("GEMA_REDIS_PASSWORD", "hush")];
    let found = warnings(&[&file], &environment);
    assert_eq!(found, [format!("redis.host (from {file}:2) {because}"), format!("GEMA_REDIS_PASSWORD {because}")]);
    let found = warnings(&[&file], &[environment[0], ("GEMA_CLUSTER_DRIVER", "redis")]);
    assert_eq!(found, [""; 0]);
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
fn digits_are_text_where_text_is_meant_in_yaml_too() {
    let file = file("digits.yaml", "server:\n  port: 07001\napps:\n  - id: 7\n    key: k\n    secret: 0012345\n");
    let loaded = gema::config::load(&[file.into()], []).unwrap();
    assert_eq!(loaded.config.server.port, 7001);
    let app = &loaded.config.apps()[0];
    assert_eq!((app.id.as_str(), app.keys[0].secret.expose()), ("7", &b"0012345"[..]));
}

#[test]
fn an_empty_list_of_apps_is_not_soketis_default_app() {
    let file = file("none.json", r#"{ "apps": [] }"#);
    let found = faults(&["check", "--config", &file], &[]);
    assert!(found[0].contains("apps") && found[0].contains("is an empty list"), "{found:?}");
}

#[test]
fn a_key_or_an_id_that_nobody_can_use_is_refused_with_the_reason() {
    let app = |id: &str, key: &str| {
        format!(
            "[server]\nhost='127.0.0.1'\n[[apps]]\nid='{id}'\nkey='k'\nsecret='s'\nkeys=[{{key='{key}', secret='t'}}]\n"
        )
    };
    for key in ["a:b", ".", "..", "a\\b"] {
        let file = file("odd-key.toml", &app("a", key));
        let found = faults(&["check", "--config", &file], &[]);
        let begins = format!("fault: apps.0.keys.0.key (from {file}:7) is {key:?}; ");
        assert!(found.len() == 1 && found[0].starts_with(&begins), "{found:?}");
        assert!(!key.contains(':') || found[0].contains("the first colon"), "{found:?}");
    }
    for id in [".", ".."] {
        let file = file("odd-id.toml", &app(id, "l"));
        let found = faults(&["check", "--config", &file], &[]);
        let begins = format!("fault: apps.0.id (from {file}:4) is {id:?}; ");
        assert!(found.len() == 1 && found[0].starts_with(&begins), "{found:?}");
    }
    for key in ["a+b", "a&b"] {
        let found = warnings(&[&file("raw-key.toml", &app("a", key))], &[]);
        assert!(found.len() == 1 && found[0].contains("a key with + or &"), "{found:?}");
    }
    assert_eq!(warnings(&[&file("equal-key.toml", &app("a:b", "a=="))], &[]), [""; 0]);
}

#[test]
fn names_to_listen_on_are_refused_with_what_works() {
    for (variable, key) in [("SOKETI_HOST", "server.host"), ("SOKETI_METRICS_HOST", "metrics.host")] {
        assert_eq!(
            faults(&["check"], &[(variable, "gema.internal")]),
            [format!(
                "fault: {key} (from {variable}) is \"gema.internal\"; it must be an IPv4 or IPv6 address, such as \
                 127.0.0.1 or ::, or localhost; gema resolves no other names to listen on"
            )]
        );
        assert!(gema(&["check"], &[(variable, "localhost")]).status.success());
    }
}

#[test]
fn a_passphrase_without_a_certificate_has_no_effect_and_is_never_shown() {
    let environment = [("SOKETI_HOST", "127.0.0.1"), ("SOKETI_SSL_PASS", "hush")];
    assert_eq!(
        warnings(&[], &environment),
        ["tls.passphrase (from SOKETI_SSL_PASS) has no effect, because tls.cert_path is empty"]
    );
    let found = faults(&["check", "--config", &file("passphrase.toml", "[tls]\npassphrase = 12.75\n")], &[]);
    assert!(found[0].contains("passphrase.toml:2) must be text") && !found[0].contains("12.75"), "{found:?}");
}

#[test]
fn options_of_soketis_cache_have_no_effect_whatever_its_driver() {
    let environment = [
        ("SOKETI_HOST", "127.0.0.1"),
        ("SOKETI_CACHE_DRIVER", "redis"),
        ("SOKETI_CACHE_REDIS_OPTIONS", r#"{"tls":{}}"#),
    ];
    let found = warnings(&[], &environment);
    assert!(found.len() == 2 && !found.concat().contains("not selected"), "{found:?}");
}

#[test]
fn a_file_that_gemas_user_may_not_read_is_told_with_the_remedy() {
    let file = file("private.toml", "[server]\nport = 0\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = command(&["check", "--config", &file], &[]);
    // Root may read everything.
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(65534);
    }
    let told = String::from_utf8(command.output().unwrap().stderr).unwrap();
    fs::remove_file(&file).unwrap();
    assert!(told.starts_with(&format!("fault: {file} cannot be read: Permission denied")), "{told}");
    assert!(told.contains("the user that gema runs as"), "{told}");
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
fn check_warns_of_secrets_that_everybody_knows() {
    for (key, secret, says) in [
        ("k", "k", Some("is the same as its key")),
        ("k", "change-this-secret", Some("stands in gema's README, docs or examples")),
        ("k", "my-secret", Some("stands in gema's README, docs or examples")),
        ("k", "3f0c1d", None),
    ] {
        let environment = [("SOKETI_HOST", "127.0.0.1"), ("PUSHER_APP_KEY", key), ("PUSHER_APP_SECRET", secret)];
        let found = warnings(&[], &[&environment[..], &[("PUSHER_APP_ID", "shop")]].concat());
        assert_eq!(found.len(), usize::from(says.is_some()), "{found:?}");
        if let Some(says) = says {
            assert!(found[0].starts_with("app \"shop\" (from PUSHER_APP_ID) has a secret that"), "{found:?}");
            assert!(found[0].contains(says) && !found[0].contains("change-this-secret"), "{found:?}");
        }
    }
}

#[test]
fn check_tells_what_a_rule_makes_of_a_channel_however_its_prefixes_are_written() {
    let rules = "[[limits.channel_rules]]\nmatch = 'permintaan-barang.*'\nrequire = 'private'\n";
    let file = file("rules.toml", rules);
    let channel = "Cache-encrypted-permintaan-barang.K001";
    let output = gema(&["check", "--config", &file, "--channel", channel], &[]);
    let printed = String::from_utf8(output.stdout).unwrap();
    let told = format!("app-id: {channel}: rule permintaan-barang.*; subscribing refused (");
    assert!(printed.lines().any(|line| line.starts_with(&told)), "{printed}");
}

#[test]
fn check_tells_which_flow_rule_decides_and_what_it_does() {
    let rules = r#"
[[limits.channel_rules]]
match = "scada-realtime"
require = "private"
[[limits.flow_rules]]
match = "scada-*"
events = ["scada.data.received"]
except = ["*.alarm"]
conflate = { key = "data.channel", window_ms = 250 }
snapshot = { max_age_seconds = 600 }
views = ["5s"]
"#;
    let file = file("flow_explained.toml", rules);
    let told = |arguments: &[&str]| -> Vec<String> {
        let output = gema(&[&["check", "--config", &file], arguments].concat(), &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8(output.stdout).unwrap();
        printed.lines().filter_map(|line| line.strip_prefix("app-id: ")).map(str::to_owned).collect()
    };
    let policy = |rule: &str| {
        format!(
            "private-scada-realtime: {rule}; subscribing allowed; publishing allowed; client events refused \
             (enable_client_messages is false)"
        )
    };
    let conflates = |what: &str, window: &str| {
        format!(
            "flow rule scada-* conflates {what}: at most one event for each value of data.channel passes in {window}, the newest; a \
             page that joins gets the last event for each value of data.channel first, if it is not older than 600 s; \
             *.alarm passes at once, and what is pending goes before it; pages may add @5s to the channel's name for another window"
        )
    };
    let (channel, view) = ("private-scada-realtime", "private-scada-realtime@5s");
    assert_eq!(
        told(&["--channel", channel]),
        [
            policy("rule scada-realtime"),
            format!("{channel}: {}", conflates("scada.data.received", "250 ms")),
            format!("{channel}: other events pass at once, and what is pending goes before them"),
        ]
    );
    assert_eq!(
        told(&["--channel", view, "--event", "scada.data.received", "--event", "pump.alarm"]),
        [
            format!("{view}: it is {channel} with a window of 5s"),
            policy("rule scada-realtime"),
            format!("{view}, event scada.data.received: {}", conflates("it", "5 s")),
            format!(
                "{view}, event pump.alarm: flow rule scada-* lets it pass at once, and what is pending goes before it"
            ),
        ]
    );
    assert!(told(&["--channel", "other"])[1].ends_with("other: no flow rule; events pass as they come"));
    let output = gema(&["check", "--event", "x"], &[]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--channel"));
    let output = gema(&["check", "--channel", "a"], &[]);
    assert!(!String::from_utf8_lossy(&output.stdout).contains("flow rule"), "no word without a rule");
}

#[test]
fn a_rule_with_a_prefix_in_any_case_is_refused() {
    for pattern in ["Private-orders.*", "encrypted-orders.*"] {
        let rules = format!("[[limits.channel_rules]]\nmatch = '{pattern}'\n");
        let found = faults(&["check", "--config", &file("prefixes.toml", &rules)], &[]);
        assert!(found[0].contains("a name without private-, presence-, encrypted- and cache-"), "{found:?}");
    }
}

/// The output of `check` for rules in the text of a TOML file, without the file's name.
fn of_rules(name: &str, text: &str) -> Vec<String> {
    let file = file(name, text);
    let found = faults(&["check", "--config", &file], &[]);
    let texts = found.iter().filter_map(|line| line.strip_prefix("fault: "));
    texts.map(|line| line.replace(&format!("(from {file}:"), "(")).collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one file with all of them, and the list of what it says")]
fn every_mistake_of_a_flow_rule_is_told_with_its_line() {
    let text = r#"
[[limits.flow_rules]]
match = "private-a"
events = ["ok", "", "pusher:x"]
except = 7
conflate = { windo_ms = 5, key = "a..b", merge = "perhaps" }
window_ms = 1

[[limits.flow_rules]]
match = "b"

[[limits.flow_rules]]
match = "c"
conflate = { window_ms = 0 }
rate.per_second = 0
rate.burst = 0
keys_max = 0

[[limits.flow_rules]]
match = "d"
views = ["1s", "1000ms", "1h", "1s"]
at = "everywhere"

  [limits.flow_rules.aggregate]
  value = 0
  window_ms = 3600001
  as = "pusher:x"
  values_max = 5
  value_is = "median"
  keys_max = 7

[[limits.flow_rules]]
sample = { every = 1 }
views = ["1s"]
at = "ingest"
snapshot = { max_age_seconds = 0, key = "x" }
samle = 1

[[limits.flow_rules]]
match = "f"
rate = 5
snapshot = { max_age_seconds = "long" }
"#;
    let path = "it must be a path into the event's data: names with dots between them, such as data.channel";
    let event = "it must be the name of an event that is not Pusher's own, in which * stands for any characters";
    let mut expected = [
        "limits.flow_rules.0.match (3) is \"private-a\"; it must be a name without private-, presence-, encrypted- and cache-, which it covers all, in any case",
        &format!("limits.flow_rules.0.events.1 (4) is \"\"; {event}"),
        &format!("limits.flow_rules.0.events.2 (4) is \"pusher:x\"; {event}"),
        "limits.flow_rules.0.except (5) is 7; it must be a list of texts, such as [\"a\", \"b\"]",
        "limits.flow_rules.0.conflate.window_ms (6) is missing; it is the time in which a key gets one event, such as 250",
        "limits.flow_rules.0.conflate.windo_ms (6) is not a setting; did you mean limits.flow_rules.0.conflate.window_ms?",
        &format!("limits.flow_rules.0.conflate.key (6) is \"a..b\"; {path}"),
        "limits.flow_rules.0.conflate.merge (6) is \"perhaps\"; it must be true or false",
        "limits.flow_rules.0.window_ms (7) is not a setting; did you mean limits.flow_rules.0.conflate.window_ms?",
        "limits.flow_rules.1 (9) does not say what becomes of events; add one of conflate, aggregate, rate, sample and snapshot",
        "limits.flow_rules.2 (12) has conflate and rate; keep one, and write a second rule for other events",
        "limits.flow_rules.2.conflate.window_ms (14) is 0; it must be between 1 and 3600000",
        "limits.flow_rules.2.rate.per_second (15) is 0; it must be between 0.001 and 100000",
        "limits.flow_rules.2.rate.burst (16) is 0; it must be between 1 and 1000000",
        "limits.flow_rules.2.keys_max (17) is 0; it must be between 1 and 1000000",
        "limits.flow_rules.3.views.1 (21) is \"1000ms\"; it must be 1s",
        "limits.flow_rules.3.views (21) has 1s twice; keep one",
        "limits.flow_rules.3.views.2 (21) is \"1h\"; it must be a window such as 500ms, 1s or 2m, of an hour at most",
        "limits.flow_rules.3.at (22) is \"everywhere\"; it must be `delivery` or `ingest`",
        "limits.flow_rules.3.aggregate.window_ms (26) is 3600001; it must be between 1 and 3600000",
        "limits.flow_rules.3.aggregate.as (27) is \"pusher:x\"; it must be an event's name of 1 to 200 characters that does not begin with pusher:, pusher_internal: or client-",
        "limits.flow_rules.3.aggregate.values_max (28) is for emit = \"map\"; set that, or remove it",
        "limits.flow_rules.3.aggregate.value_is (29) is \"median\"; it must be one of `average`, `last`, `min`, `max`, `sum`",
        "limits.flow_rules.3.aggregate.keys_max (30) is not a setting; did you mean limits.flow_rules.3.keys_max?",
        "limits.flow_rules.4.match (32) is missing; a rule says which channels it is for",
        "limits.flow_rules.4.sample.every (33) is 1; it must be between 2 and 1000000",
        "limits.flow_rules.4.views (34) is for conflate and aggregate; remove it",
        "limits.flow_rules.4.at (35) is \"ingest\", which is for conflate and aggregate; remove it",
        "limits.flow_rules.4.snapshot.max_age_seconds (36) is 0; it must be between 1 and 31536000",
        "limits.flow_rules.4.snapshot.key (36) is for a snapshot alone; the key of sample counts here, so remove it",
        "limits.flow_rules.4.samle (37) is not a setting; did you mean limits.flow_rules.4.sample?",
        "limits.flow_rules.5.rate (41) is 5; it must be a group of settings, such as { per_second = 20.0 }",
        "limits.flow_rules.5.snapshot.max_age_seconds (42) is \"long\"; it must be a whole number",
    ]
    .map(str::to_owned);
    let mut found = of_rules("flow_faults.toml", text);
    found.sort();
    expected.sort();
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn figures_of_encrypted_data_are_a_fault() {
    let encrypted = "[[limits.channel_rules]]\nmatch = 'scada-secret'\nrequire = 'encrypted'\n";
    let aggregate = "aggregate = { value = 'v', window_ms = 1000 }\n";
    let rule = |pattern: &str| format!("[[limits.flow_rules]]\nmatch = '{pattern}'\n{aggregate}");
    for pattern in ["scada-secret", "Scada-*", "*"] {
        let found = of_rules("encrypted.toml", &format!("{encrypted}{}", rule(pattern)));
        let text = format!(
            "limits.flow_rules.0.aggregate (6) cannot read the data of {pattern}, since limits.channel_rules.0 requires \
             encrypted channels there; use conflate, or another match"
        );
        assert_eq!(found, [text]);
    }
    let found = of_rules(
        "encrypted.toml",
        &format!("{}[[apps]]\nid='a'\nkey='k'\nsecret='s'\n{}", rule("scada-*"), encrypted.replace("limits", "apps")),
    );
    assert!(found.len() == 1 && found[0].contains("since apps.0.channel_rules.0 requires"), "{found:?}");
    let before = "[[limits.flow_rules]]\nmatch = 'scada-secret'\nconflate.window_ms = 250\n";
    for good in [format!("{encrypted}{}", rule("other-*")), format!("{encrypted}{before}{}", rule("scada-*"))] {
        let file = file("encrypted.toml", &good);
        assert_eq!(gema(&["check", "--config", &file], &[]).status.code(), Some(0), "{good}");
    }
}

#[test]
fn flow_rules_that_do_less_than_they_seem_to_are_warned_of() {
    let rules = r#"
[[limits.flow_rules]]
match = "a-*"
events = ["x.*", "client-typing"]
except = ["alarm"]
sample = { every = 10 }
[[limits.flow_rules]]
match = "A-b"
events = ["x.y", "alarm"]
sample = { every = 10 }
[[limits.flow_rules]]
match = "a-c"
events = ["x.y", "z"]
sample = { every = 10 }
[[limits.flow_rules]]
match = "a-*"
sample = { every = 10 }
[[limits.flow_rules]]
match = "a-*.z"
client_events = true
sample = { every = 10 }
[[limits.flow_rules]]
match = "a-*.z"
snapshot = { max_age_seconds = 60 }
"#;
    let file = file("flow_warnings.toml", rules);
    let from = |line: u32| format!("(from {file}:{line})");
    let never =
        |earlier: u32| format!("never decides, since rule {earlier} before it is for the same channels and events");
    assert_eq!(
        warnings(&[&file], &[("SOKETI_HOST", "127.0.0.1")]),
        [
            format!(
                "limits.flow_rules.0.events.1 {} is \"client-typing\", but client events are thinned with client_events = \
                 true only",
                from(4)
            ),
            format!("limits.flow_rules.1 {} {}", from(7), never(0)),
            format!("limits.flow_rules.5 {} {}", from(22), never(3)),
        ]
    );
}

#[test]
fn flow_rules_come_from_each_source_and_have_its_name() {
    let json = r#"[{"match":"scada-*","events":["reading"],"conflate":{"key":"data.channel","window_ms":250},
        "snapshot":{"max_age_seconds":600},"views":["1s"]}]"#;
    let toml = "[[limits.flow_rules]]\nmatch = 'scada-*'\nevents = ['reading']\nviews = ['1s']\n\
                conflate = { key = 'data.channel', window_ms = 250 }\nsnapshot.max_age_seconds = 600\n";
    let yaml = "limits:\n  flow_rules:\n  - match: scada-*\n    events: [reading]\n    conflate:\n      key: data.channel\n\
                \x20     window_ms: 250\n    snapshot: { max_age_seconds: 600 }\n    views: reading\n";
    let js = format!("module.exports = {{ limits: {{ flow_rules: {json} }} }}");
    let yaml = yaml.replace("views: reading", "views: 1s");
    let app = format!("module.exports = {{ apps: [{{ id: 'a', key: 'k', secret: 's', flowRules: {json} }}] }}");
    let files = [
        (file("flow.toml", toml), "limits", 5),
        (file("flow.yaml", &yaml), "limits", 7),
        (file("flow.json", &format!("{{ \"limits\": {{ \"flow_rules\": {json} }} }}")), "limits", 1),
        (file("flow.config.js", &js), "limits", 1),
        (file("flow-app.config.js", &app), "apps.0", 1),
    ];
    let is_there = |settings: &str, place: &str, origin: &str| {
        let value = |name: &str| setting(settings, &format!("{place}.flow_rules.0.{name}"));
        assert_eq!(value("conflate.window_ms"), ("250".to_owned(), origin.to_owned()));
        assert_eq!(value("conflate.key").0, "\"data.channel\"");
        assert_eq!(value("match").0, "\"scada-*\"");
        assert_eq!(value("events").0, "[\"reading\"]");
        assert_eq!(value("views").0, "[\"1s\"]");
        assert_eq!(value("snapshot.max_age_seconds").0, "600");
        assert_eq!(value("keys_max"), ("1000".to_owned(), "default".to_owned()));
        assert!(!settings.contains("flow_rules.0.rate"), "{settings}");
    };
    for (file, place, line) in &files {
        is_there(&settings(&[file], &[]), place, &format!("{file}:{line}"));
    }
    let variable = ("GEMA_LIMITS_FLOW_RULES", json);
    is_there(&settings(&[], &[variable]), "limits", "GEMA_LIMITS_FLOW_RULES");
    let found = faults(&["check"], &[("GEMA_LIMITS_FLOW_RULES", r#"[{"match":"a","sample":{"every":0,"evry":1}}]"#)]);
    let place = |name: &str| format!("fault: limits.flow_rules.0.sample.{name} (from GEMA_LIMITS_FLOW_RULES) ");
    assert_eq!(
        found[..2],
        [
            format!("{}is not a setting; did you mean limits.flow_rules.0.sample.every?", place("evry")),
            format!("{}is 0; it must be between 2 and 1000000", place("every")),
        ]
    );
    for none in ["scada", "{}", "7", "[1]"] {
        let found = faults(&["check"], &[("GEMA_LIMITS_FLOW_RULES", none)]);
        assert!(found[0].contains("(from GEMA_LIMITS_FLOW_RULES) must be a"), "{found:?}");
    }
}

#[test]
fn every_mistake_of_a_history_rule_is_told_with_its_line() {
    let text = r#"
[limits]
history_bytes_max = 4095

[[limits.history_rules]]
match = "private-a"
seconds = 3601
events_max = 0
bytes_max = 67108865
replay = "Returning"

[[limits.history_rules]]
second = 5
replay = { lats = 1 }

[[limits.history_rules]]
match = "c"
seconds = 0
events_max = 100000
replay = { last = 100001 }

[[limits.history_rules]]
match = "d"
seconds = "long"
replay = { last = "x" }

[[apps]]
id = "a"
key = "k"
secret = "s"
history_rules = [{ match = "e", seconds = 5, bytes_max = 4095, replay = 7 }, { match = "f", seconds = 1, replay.last = 0 }]
"#;
    let replay = "it must be \"returning\" or { last = 10 }";
    let mut expected = [
        "limits.history_bytes_max (3) is 4095; it must be between 4096 and 1099511627776",
        "limits.history_rules.0.match (6) is \"private-a\"; it must be a name without private-, presence-, encrypted- and cache-, which it covers all, in any case",
        "limits.history_rules.0.seconds (7) is 3601; it must be between 1 and 3600",
        "limits.history_rules.0.events_max (8) is 0; it must be between 1 and 100000",
        "limits.history_rules.0.bytes_max (9) is 67108865; it must be between 4096 and 67108864",
        &format!("limits.history_rules.0.replay (10) is \"Returning\"; {replay}"),
        "limits.history_rules.1.match (12) is missing; a rule says which channels it is for",
        "limits.history_rules.1.seconds (12) is missing; it is how long an event is kept, such as 120",
        "limits.history_rules.1.second (13) is not a setting; did you mean limits.history_rules.1.seconds?",
        "limits.history_rules.1.replay.last (14) is missing; it is how many of the last events everybody gets who joins, such as 10",
        "limits.history_rules.1.replay.lats (14) is not a setting; did you mean limits.history_rules.1.replay.last?",
        "limits.history_rules.2.seconds (18) is 0; it must be between 1 and 3600",
        "limits.history_rules.2.replay.last (20) is 100001; it must be between 1 and 100000",
        "limits.history_rules.3.seconds (24) is \"long\"; it must be a whole number",
        "limits.history_rules.3.replay.last (25) is \"x\"; it must be a whole number",
        "apps.0.history_rules.0.bytes_max (31) is 4095; it must be between 4096 and 67108864",
        &format!("apps.0.history_rules.0.replay (31) is 7; {replay}"),
        "apps.0.history_rules.1.replay.last (31) is 0; it must be between 1 and 1000",
    ]
    .map(str::to_owned);
    let mut found = of_rules("history_faults.toml", text);
    found.sort();
    expected.sort();
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn history_rules_that_do_less_than_they_seem_to_are_warned_of() {
    let rules = r#"
[limits]
history_bytes_max = 8192
[[limits.history_rules]]
match = "a-*"
seconds = 60
bytes_max = 8193
[[limits.history_rules]]
match = "A-b"
seconds = 60
bytes_max = 8192
[[apps]]
id = "one"
key = "one"
secret = "of-one"
history_bytes_max = 8192000
[[apps]]
id = "two"
key = "two"
secret = "of-two"
history_rules = [{ match = "*", seconds = 1, bytes_max = 9000 }, { match = "b", seconds = 1, bytes_max = 5000 }]
[[apps]]
id = "three"
key = "three"
secret = "of-three"
history_bytes_max = 8000
"#;
    let file = file("history_warnings.toml", rules);
    let from = |line: u32| format!("(from {file}:{line})");
    let never = "never decides, since rule 0 before it is for the same channels";
    let bytes = |bytes: u32, place: &str, max: u32| {
        format!(
            "is {bytes}, but all channels of an app together hold {place}.history_bytes_max, {max}, at most; raise that \
             one, or lower this one"
        )
    };
    assert_eq!(
        warnings(&[&file], &[("SOKETI_HOST", "127.0.0.1")]),
        [
            format!("limits.history_rules.1 {} {never}", from(8)),
            format!("limits.history_rules.0.bytes_max {} {}", from(7), bytes(8193, "limits", 8192)),
            format!("apps.1.history_rules.1 {} {never}", from(21)),
            format!("apps.1.history_rules.0.bytes_max {} {}", from(21), bytes(9000, "limits", 8192)),
            format!("limits.history_rules.0.bytes_max {} {}", from(7), bytes(8193, "apps.2", 8000)),
            format!("limits.history_rules.1.bytes_max {} {}", from(11), bytes(8192, "apps.2", 8000)),
        ]
    );
    let clustered = [("SOKETI_HOST", "127.0.0.1"), ("SOKETI_ADAPTER_DRIVER", "redis")];
    assert_eq!(warnings(&[&file], &clustered), warnings(&[&file], &clustered[..1]), "Redis keeps it for all nodes");
}

#[test]
fn history_rules_come_from_each_source_and_have_its_name() {
    let json = r#"[{"match":"orders.*","seconds":120,"bytes_max":8192,"replay":{"last":10}},{"match":"a","seconds":1,"replay":"returning"}]"#;
    let toml = "[[limits.history_rules]]\nmatch = 'orders.*'\nbytes_max = 8192\nreplay = { last = 10 }\nseconds = 120\n\
                [[limits.history_rules]]\nmatch = 'a'\nseconds = 1\nreplay = 'returning'\n";
    let yaml = "limits:\n  history_rules:\n  - match: orders.*\n    bytes_max: 8192\n    replay:\n      last: 10\n\
                \x20   seconds: 120\n  - { match: a, seconds: 1, replay: returning }\n";
    let js = format!("module.exports = {{ limits: {{ history_rules: {json} }} }}");
    let app = format!("module.exports = {{ apps: [{{ id: 'a', key: 'k', secret: 's', historyRules: {json} }}] }}");
    let of_app = "[[apps]]\nid = 'a'\nkey = 'k'\nsecret = 's'\n[[apps.history_rules]]\nmatch = 'orders.*'\nbytes_max = 8192\n\
                  replay.last = 10\nseconds = 120\n[[apps.history_rules]]\nmatch = 'a'\nseconds = 1\n";
    let files = [
        (file("history.toml", toml), "limits", 5),
        (file("history.yaml", yaml), "limits", 7),
        (file("history.json", &format!("{{ \"limits\": {{ \"history_rules\": {json} }} }}")), "limits", 1),
        (file("history.config.js", &js), "limits", 1),
        (file("history-app.config.js", &app), "apps.0", 1),
        (file("history-app.toml", of_app), "apps.0", 9),
    ];
    let is_there = |settings: &str, place: &str, origin: &str| {
        let value = |name: &str| setting(settings, &format!("{place}.history_rules.{name}"));
        assert_eq!(value("0.seconds"), ("120".to_owned(), origin.to_owned()));
        assert_eq!((value("0.match").0, value("0.bytes_max").0), ("\"orders.*\"".to_owned(), "8192".to_owned()));
        assert_eq!(value("0.replay.last").0, "10");
        assert_eq!(value("0.events_max"), ("1000".to_owned(), "default".to_owned()));
        assert_eq!((value("1.match").0, value("1.replay").0), ("\"a\"".to_owned(), "\"returning\"".to_owned()));
    };
    for (file, place, line) in &files {
        is_there(&settings(&[file], &[]), place, &format!("{file}:{line}"));
    }
    let variable = "GEMA_LIMITS_HISTORY_RULES";
    is_there(&settings(&[], &[(variable, json)]), "limits", variable);
    for (rules, told) in [
        ("orders", "limits.history_rules (from GEMA_LIMITS_HISTORY_RULES) must be a list of rules"),
        (
            "[1]",
            "limits.history_rules.0 (from GEMA_LIMITS_HISTORY_RULES) must be a group of settings, such as { match =",
        ),
        (r#"[{"match":"a"}]"#, "limits.history_rules.0.seconds (from GEMA_LIMITS_HISTORY_RULES) is missing; it is how"),
        (
            r#"[{"match":null,"seconds":1}]"#,
            "limits.history_rules.0.match (from GEMA_LIMITS_HISTORY_RULES) is missing; a",
        ),
    ] {
        let found = faults(&["check"], &[(variable, rules)]);
        assert!(found[0].starts_with(&format!("fault: {told}")), "{found:?}");
    }
    let bytes = settings(&[], &[("GEMA_LIMITS_HISTORY_BYTES_MAX", "1048576")]);
    let told = setting(&bytes, "limits.history_bytes_max");
    assert_eq!(told, ("1048576".to_owned(), "GEMA_LIMITS_HISTORY_BYTES_MAX".to_owned()));
}

#[test]
fn check_tells_the_history_of_a_channel() {
    let text = "[[limits.history_rules]]\nmatch = 'orders.*'\nseconds = 120\n[[apps]]\nid = 'a'\nkey = 'k'\nsecret = 's'\n\
                [[apps]]\nid = 'b'\nkey = 'b'\nsecret = 's'\nhistory_rules = [{ match = 'orders.7', seconds = 5, replay.last = 3 }]\n\
                [[apps]]\nid = 'c'\nkey = 'c'\nsecret = 's'\nhistory_rules = []\n";
    let file = file("history_explained.toml", text);
    let output = gema(&["check", "--config", &file, "--channel", "presence-orders.8"], &[]);
    let printed = String::from_utf8(output.stdout).unwrap();
    let told: Vec<&str> =
        printed.lines().filter(|line| line.contains("presence-orders.8: ") && line.contains("history")).collect();
    assert_eq!(
        told,
        [
            "a: presence-orders.8: history rule orders.* keeps the events of each channel for 120 s, at most 1000 events and \
             1048576 bytes: a known user who was cut off gets those that are missing; every member is known",
            "b: presence-orders.8: no history rule; a user who was cut off misses the events until the page is back",
        ]
    );
    let output = gema(&["check", "--channel", "a"], &[]);
    assert!(!String::from_utf8_lossy(&output.stdout).contains("history"), "no word without a rule");
}

#[test]
fn raw_clients_may_be_set_in_every_way() {
    let app = "id = 'a'\nkey = 'k'\nsecret = 's'\n";
    let json = r#"{"channels":["scada-realtime"],"accept_id":true}"#;
    for (name, text, variables, place) in [
        (
            "raw.toml",
            "[limits]\nraw_clients = { channels = ['scada-realtime'], accept_id = true }\n",
            &[][..],
            "limits",
        ),
        ("raw-group.toml", "[limits.raw_clients]\nchannels = ['scada-realtime']\naccept_id = true\n", &[], "limits"),
        (
            "raw-app.toml",
            &format!("[[apps]]\n{app}[apps.raw_clients]\nchannels = ['scada-realtime']\naccept_id = true\n"),
            &[],
            "apps.0",
        ),
        ("raw.yaml", "limits:\n  raw_clients:\n    channels: [scada-realtime]\n    accept_id: true\n", &[], "limits"),
        ("raw.json", &format!(r#"{{"limits":{{"raw_clients":{json}}}}}"#), &[], "limits"),
        (
            "raw.config.js",
            "module.exports = { 'appManager.array.apps': [{ id: 'a', key: 'k', secret: 's', \
             rawClients: { channels: ['scada-realtime'], acceptId: true } }] };",
            &[],
            "apps.0",
        ),
        ("raw-none.toml", "", &[("GEMA_LIMITS_RAW_CLIENTS", json)], "limits"),
    ] {
        let printed = settings(&[&file(name, text)], variables);
        let of = |key: &str| setting(&printed, &format!("{place}.raw_clients.{key}"));
        assert_eq!((&*of("channels").0, &*of("accept_id").0), (r#"["scada-realtime"]"#, "true"), "{name}");
        let origin = variables.first().map_or(name, |(variable, _)| variable);
        assert!(of("channels").1.contains(origin), "{name}: {}", of("channels").1);
    }
    // Off, and an app without what all others have.
    assert!(!settings(&[], &[]).contains("raw_clients"));
    let all =
        "[limits]\nraw_clients = { channels = ['open'] }\nchannel_rules = [{ match = 'x', require = 'private' }]\n";
    let printed = settings(&[&file("raw-but.toml", &format!("{all}[[apps]]\n{app}raw_clients = {{}}\n"))], &[]);
    assert!(!printed.contains("apps.0.raw_clients"), "{printed}");
    let checked =
        gema(&["check", "--config", &file("raw-check.toml", all), "--channel", "open", "--channel", "x"], &[]);
    let checked = String::from_utf8(checked.stdout).unwrap();
    let told: Vec<bool> = checked
        .lines()
        .filter(|line| line.starts_with("app-id: "))
        .map(|line| line.ends_with("; raw clients get it"))
        .collect();
    assert_eq!(told, [true, false], "{checked}");
}

#[test]
fn each_mistake_about_raw_clients_is_told_with_its_place() {
    for (number, (lines, told)) in [
        ("raw_clients = { channels = ['private-a'] }", ".channels (from FILE:2) lists \"private-a\", which is not public"),
        ("raw_clients = { channels = ['presence-a', 'a'] }", ".channels (from FILE:2) lists \"presence-a\", which is not"),
        ("raw_clients = { channels = ['#server-to-user-1'] }", ".channels (from FILE:2) lists \"#server-to-user-1\", which"),
        ("raw_clients = { channels = ['a b'] }", ".channels (from FILE:2) lists \"a b\", which is no name of a channel"),
        ("raw_clients = { channels = ['a,b'] }", ".channels (from FILE:2) lists \"a,b\", whose comma separates names"),
        ("raw_clients = { channels = ['a', 'a'] }", ".channels (from FILE:2) lists \"a\", twice; list it once"),
        ("raw_clients = { channels = [] }", ".channels (from FILE:2) lists no channel; list the public channels"),
        ("raw_clients = { accept_id = true }", ".channels (from FILE:2) lists no channel; list the public channels"),
        ("raw_clients = { channels = 7 }", ".channels (from FILE:2) is 7; it must be a list of texts"),
        ("raw_clients = { channels = ['a'], accept_id = 'x' }", ".accept_id (from FILE:2) is \"x\"; it must be true or"),
        ("raw_clients = { channels = ['a'], acept_id = true }", ".acept_id (from FILE:2) is not a setting; did you mean"),
        ("raw_clients = 'a'", " (from FILE:2) must be a group of settings with channels and accept_id"),
        ("raw_clients = ['a']", " (from FILE:2) must be a group of settings with channels and accept_id"),
        (
            "raw_clients = { channels = ['scada-a'] }\nchannel_rules = [{ match = 'scada-*', require = 'private' }]",
            ".channels (from FILE:2) lists a channel that channel_rules forbid: The rule scada-* does not allow the channel scada-a",
        ),
        (
            "raw_clients = { channels = ['a'] }\nchannel_default = 'deny'",
            ".channels (from FILE:2) lists a channel that channel_rules forbid: No rule allows the channel a",
        ),
        (
            "raw_clients = { channels = ['a'] }\nenable_user_authentication = true",
            ".channels (from FILE:2) has no use beside enable_user_authentication, since raw clients cannot sign in",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let file = file(&format!("raw-mistake-{number}.toml"), &format!("[limits]\n{lines}\n"));
        let found = faults(&["check", "--config", &file], &[]);
        let told = format!("fault: limits.raw_clients{}", told.replace("FILE", &file));
        assert!(found.len() == 1 && found[0].starts_with(&told), "{lines}: {found:#?}");
    }
    // What an app says counts together with what all have.
    let app = "[[apps]]\nid = 'a'\nkey = 'k'\nsecret = 's'\nraw_clients = { channels = ['scada-a'] }\n";
    let rules = "[limits]\nchannel_rules = [{ match = 'scada-*', require = 'private' }]\n";
    let found = faults(&["check", "--config", &file("raw-app-mistake.toml", &format!("{rules}{app}"))], &[]);
    assert!(found.len() == 1 && found[0].starts_with("fault: apps.0.raw_clients.channels (from "), "{found:#?}");
    // A view by name is ruled as its channel, and each app has its own length of names.
    let view = "raw_clients = { channels = ['scada-a@1s'] }\nchannel_rules = [{ match = 'scada-a', require = 'private' }]\n\
                flow_rules = [{ match = 'scada-*', views = ['1s'], conflate = { window_ms = 250 } }]\n";
    let found = faults(&["check", "--config", &file("raw-view-mistake.toml", &format!("[limits]\n{view}"))], &[]);
    let told = "lists a channel that channel_rules forbid: The rule scada-a does not allow the channel scada-a";
    assert!(found.len() == 1 && found[0].contains(told), "{found:#?}");
    let short = "[limits]\nraw_clients = { channels = ['scada-a'] }\n[[apps]]\nid = 'a'\nkey = 'k'\nsecret = 's'\n\
                 max_channel_name_length = 6\n";
    let found = faults(&["check", "--config", &file("raw-short-mistake.toml", short)], &[]);
    let told = "lists \"scada-a\", which is longer than max_channel_name_length, 6";
    assert!(found.len() == 1 && found[0].contains(told), "{found:#?}");
    let long = "scada-".repeat(40);
    let roomy = format!("[limits]\nmax_channel_name_length = 300\n{}", app.replace("scada-a", &long));
    assert!(gema(&["check", "--config", &file("raw-long.toml", &roomy)], &[]).status.success());
    let variable = [("GEMA_LIMITS_RAW_CLIENTS", r#"{"channels":["private-a"]}"#)];
    let told =
        "fault: limits.raw_clients.channels (from GEMA_LIMITS_RAW_CLIENTS) lists \"private-a\", which is not public";
    assert!(faults(&["check"], &variable)[0].starts_with(told), "{:#?}", faults(&["check"], &variable));
}

#[test]
fn the_version_is_told() {
    let output = gema(&["--version"], &[]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("gema {}\n", env!("GEMA_VERSION")));
    assert!(env!("GEMA_VERSION").starts_with(env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_event_size_that_clients_may_send_raises_the_message_limit_unless_that_is_set() {
    let size = ("SOKETI_EVENT_MAX_SIZE_IN_KB", "900");
    let clients = ("SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES", "true");
    let host = ("SOKETI_HOST", "127.0.0.1");
    let limit = |environment: &[(&str, &str)]| setting(&settings(&[], environment), "connections.message_bytes_max").0;
    assert_eq!(limit(&[]), "262144", "twice the default event and 56 KiB");
    assert_eq!(limit(&[size]), (2 * 900 * 1024 + 56 * 1024).to_string());
    assert_eq!(warnings(&[], &[host, clients, size]), [""; 0]);
    let set = ("GEMA_CONNECTIONS_MESSAGE_BYTES_MAX", "300000");
    assert_eq!(limit(&[size, set]), "300000");
    assert_eq!(warnings(&[], &[host, size, set]), [""; 0], "no client may send");
    let found = warnings(&[], &[host, clients, size, set]);
    assert!(found.len() == 1 && found[0].contains("larger than connections.message_bytes_max"), "{found:?}");
}

#[test]
fn small_request_limits_are_taken() {
    let file = file("small.json", r#"{ "httpApi.requestLimitInMb": 0.0005 }"#);
    assert_eq!(setting(&settings(&[&file], &[]), "http.request_bytes_max").0, "524");
}

#[test]
fn an_allowed_origin_from_which_no_page_comes_is_a_fault() {
    for origin in
        ["https://shop.example/", "https://shop.example/app", "shop.example ", "a.example b.example", "", "https://"]
    {
        let app = format!("[[apps]]\nid='a'\nkey='k'\nsecret='s'\nallowed_origins=['ok.example', '{origin}']\n");
        let file = file("origins.toml", &app);
        let found = faults(&["check", "--config", &file], &[]);
        let begins = format!("fault: apps.0.allowed_origins (from {file}:5) has {origin:?}, from which no page comes");
        assert!(found.len() == 1 && found[0].starts_with(&begins), "{found:?}");
    }
    let origins = "*.shop.example, https://shop.example:8443, localhost:3000, http://[::1]:3000, null, file://, *";
    assert!(gema(&["check"], &[("GEMA_LIMITS_ALLOWED_ORIGINS", origins)]).status.success());
}

#[test]
fn the_schemes_of_phps_clients_lead_to_redis_with_and_without_tls() {
    for (variable, value, key, becomes) in [
        ("REDIS_HOST", "tls://redis", "redis.tls", "true"),
        ("REDIS_HOST", "tls://redis", "redis.host", "\"redis\""),
        ("SOKETI_DB_REDIS_HOST", "tcp://redis", "redis.host", "\"redis\""),
        ("SOKETI_DB_REDIS_HOST", "tcp://redis", "redis.tls", "false"),
    ] {
        let printed = settings(&[], &on_redis(&[(variable, value)]));
        assert_eq!(setting(&printed, key).0, becomes, "{variable}={value}");
    }
    for (url, becomes) in [("tls://:hush@redis:6380", "rediss://:hush@redis:6380"), ("tcp://redis", "redis://redis")] {
        let environment = on_redis(&[("REDIS_URL", url)]).into_iter();
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let loaded = gema::config::load(&[], environment).unwrap();
        assert_eq!(loaded.config.redis.url.expose_text(), becomes);
        assert_eq!(loaded.warnings, []);
    }
}

#[test]
fn certificates_that_nobody_checks_are_warned_of_loudly() {
    let options = ("SOKETI_ADAPTER_REDIS_PUB_OPTIONS", r#"{"tls":{"rejectUnauthorized":false}}"#);
    let printed = settings(&[], &on_redis(&[options]));
    assert_eq!(
        (setting(&printed, "redis.tls").0, setting(&printed, "redis.tls_verify").0),
        ("true".into(), "false".into())
    );
    let found = warnings(&[], &on_redis(&[options]));
    assert!(
        found[0].starts_with("redis.tls_verify (from SOKETI_ADAPTER_REDIS_PUB_OPTIONS) is false: anybody on the way")
    );
    assert_eq!(found.len(), 1, "{found:?}");
    let text = "{\"host\": \"127.0.0.1\", \"appManager.driver\": \"postgres\",\n\
                \"database.postgres\": {\"host\": \"db\", \"ssl\": {\"rejectUnauthorized\": false}}}";
    let file = file("unverified.json", text);
    let found = warnings(&[&file], &[]);
    assert!(
        found[0].starts_with(&format!("postgres.tls_verify (from {file}:2) is false: anybody on the way")),
        "{found:?}"
    );
    assert_eq!(found.len(), 1, "{found:?}");
    let idle = warnings(&[], &on_redis(&[("GEMA_REDIS_TLS_VERIFY", "false")]));
    assert_eq!(idle, ["GEMA_REDIS_TLS_VERIFY has no effect, because redis.tls is false"]);
}

#[test]
fn braces_of_soketis_prefixes_are_left_out_and_ours_are_refused_with_the_reason() {
    let soketis = [("SOKETI_ADAPTER_REDIS_PREFIX", "{shop}"), ("SOKETI_DB_REDIS_KEY_PREFIX", "{shop}:")];
    let printed = settings(&[], &on_redis(&soketis));
    assert_eq!(setting(&printed, "cluster.name").0, "\"shop\"");
    assert_eq!(setting(&printed, "redis.key_prefix").0, "\"shop:\"");
    let found = faults(&["check"], &on_redis(&[("GEMA_REDIS_KEY_PREFIX", "{shop}:")]));
    assert!(found[0].contains("it must not hold control characters and { }, with which gema itself"), "{found:?}");
}

#[test]
fn mariadb_and_laravels_name_for_postgres_are_databases() {
    for (driver, becomes) in [("mariadb", "mysql"), ("pgsql", "postgres"), ("postgresql", "postgres")] {
        let printed = settings(&[], &[("GEMA_APP_STORE_DRIVER", driver), ("PUSHER_APP_ID", "laravels")]);
        assert_eq!(setting(&printed, "app_store.driver").0, format!("{becomes:?}"));
        assert!(!printed.contains("apps.0"), "{printed}");
    }
    assert!(gema(&["check"], &[("SOKETI_APP_MANAGER_DRIVER", "mariadb")]).status.success());
}

#[test]
fn check_tells_that_an_app_has_client_events_off() {
    let channels = ["--channel", "private-a", "--channel", "public-a", "--channel", "private-encrypted-a"];
    let told = |environment: &[(&str, &str)]| {
        let output = gema(&[&["check"][..], &channels].concat(), environment);
        let printed = String::from_utf8(output.stdout).unwrap();
        let ends =
            printed.lines().filter_map(|line| line.split_once("; client events ").map(|(_, end)| end.to_owned()));
        ends.collect::<Vec<_>>()
    };
    assert_eq!(told(&[]), ["refused (enable_client_messages is false)"; 3]);
    assert_eq!(
        told(&[("SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES", "true")]),
        [
            "allowed",
            "refused (the channel is public, and allow_public_client_events is false)",
            "refused (the channel is encrypted)"
        ]
    );
}

#[test]
fn a_file_that_is_written_on_the_command_line_is_told_of_without_its_secrets() {
    let found = faults(&["start", "--config", r#"{"appManager.array.apps":[{"secret":"hush"}]}"#], &[]);
    assert!(found[0].starts_with("fault: --config must name a file") && !found.concat().contains("hush"), "{found:?}");
}

#[test]
fn health_takes_addresses_without_a_scheme() {
    let (port, server) = answering("HTTP/1.1 200 OK\r\n\r\n");
    assert!(gema(&["health", "--url", &format!("127.0.0.1:{port}/ready")], &[]).status.success());
    assert!(server.join().unwrap().starts_with("GET /ready HTTP/1.1\r\n"));
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
fn health_asks_the_metrics_port_where_the_main_port_wants_a_proxys_header() {
    let (port, server) = answering("HTTP/1.1 200 OK\r\n\r\n");
    let port = port.to_string();
    let variables = [
        ("SOKETI_PORT", "1"),
        ("SOKETI_METRICS_SERVER_PORT", &*port),
        ("GEMA_SERVER_PROXY_PROTOCOL", "true"),
        ("GEMA_SERVER_TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let output = gema(&["health"], &variables);
    assert!(output.status.success(), "{output:?}");
    assert!(server.join().unwrap().starts_with("GET /ready HTTP/1.1\r\n"));
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
