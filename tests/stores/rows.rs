//! What rows mean.

use gema::store::StoreError;

use crate::TestStore;
use crate::has_max;
use crate::servers::KINDS;
use crate::servers::Kind;
use crate::servers::Server;
use crate::servers::set_password;
use crate::small_table;
use crate::soketis_table;

#[tokio::test]
async fn soketis_table_gives_apps_by_id_and_key() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        soketis_table(server, "soketis").await;
        server
            .run(
                "INSERT INTO soketis VALUES ('1', 'key-1', 'secret-1', 200, 1, 1, 10, 20, 30, '[]'), \
                 ('2', 'key-2', 'secret-2', -1, 0, 0, -1, -1, -1, NULL)",
            )
            .await;
        let store = TestStore::new(&server.config("soketis"));
        let first = store.by_key("key-1").await.unwrap().unwrap();
        assert_eq!((first.id.as_str(), first.keys.len(), first.enabled), ("1", 1, true));
        assert_eq!((first.keys[0].key.as_str(), first.keys[0].secret.expose()), ("key-1", &b"secret-1"[..]));
        assert_eq!((first.limits.max_connections, first.limits.enable_client_messages), (200, true));
        assert_eq!((first.limits.max_backend_events_per_second, first.limits.max_client_events_per_second), (10, 20));
        assert_eq!(first.limits.max_read_requests_per_second, 30);
        let second = store.by_id("2").await.unwrap().unwrap();
        assert!(!second.enabled && !second.limits.enable_client_messages);
        for unknown in ["key-3", "KEY-1", "1", "' OR '1'='1", "key\0", "", &"k".repeat(300)] {
            assert!(store.by_key(unknown).await.unwrap().is_none(), "{kind:?} {unknown:?}");
        }
        assert!(store.by_id("key-1").await.unwrap().is_none());
    }
}

#[tokio::test]
async fn columns_may_have_any_type() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        server
            .run_either(
                "CREATE TABLE types (id bigint unsigned, `key` varchar(99) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, \
                 secret blob, enabled bit(1), enable_client_messages enum('no', 'yes'), max_connections varchar(9), \
                 max_event_batch_size decimal(10, 0), max_event_payload_in_kb float, \
                 max_presence_member_size_in_kb decimal(9, 2), max_read_req_per_sec mediumint, \
                 max_backend_events_per_sec smallint unsigned, enable_user_authentication char(5), \
                 allowed_origins json, webhooks longtext, created_at datetime, year year); \
                 INSERT INTO types VALUES (18446744073709551615, 'k', 'hush', b'0', 'yes', '7', 12, 2.5, 0.25, -1, \
                 65535, 'true', '[\"a.example\"]', '[{\"url\":\"https://x.example\",\"event_types\":[\"cache_miss\"]}]', NOW(), 2024)",
                "CREATE TYPE answer AS ENUM ('no', 'yes'); \
                 CREATE TABLE types (id numeric, \"key\" char(1), secret text, enabled boolean, \
                 enable_client_messages answer, max_connections varchar(9), max_event_batch_size numeric(10, 2), \
                 max_event_payload_in_kb real, max_presence_member_size_in_kb double precision, \
                 max_read_req_per_sec bigint, max_backend_events_per_sec smallint, enable_user_authentication text, \
                 allowed_origins jsonb, webhooks text, created_at timestamptz, year interval); \
                 INSERT INTO types VALUES (18446744073709551615, 'k', 'hush', false, 'yes', '7', 12, 2.5, 0.25, -1, \
                 32767, 'true', '[\"a.example\"]', '[{\"url\":\"https://x.example\",\"event_types\":[\"cache_miss\"]}]', now(), '1 day')",
            )
            .await;
        let store = TestStore::new(&server.config("types"));
        let app = store.by_id("18446744073709551615").await.unwrap().unwrap();
        let limits = &app.limits;
        assert_eq!((app.keys[0].key.as_str(), app.keys[0].secret.expose()), ("k", &b"hush"[..]), "{kind:?}");
        assert!(!app.enabled && limits.enable_client_messages && limits.enable_user_authentication);
        assert_eq!((limits.max_connections, limits.max_event_batch_size), (7, 12));
        assert_eq!((limits.event_bytes_max(), limits.member_bytes_max()), (2560, 256));
        assert_eq!(limits.max_read_requests_per_second, -1);
        assert_eq!(limits.max_backend_events_per_second, if kind == Kind::Mysql { 65_535 } else { 32_767 });
        assert_eq!(limits.allowed_origins, ["a.example"]);
        assert_eq!(app.webhooks[0].url.expose(), b"https://x.example");
    }
}

/// The statements of docs/configuration.md: a table with all that an app may have, a row, and a user who may read it.
#[tokio::test]
async fn the_documents_tables_hold_apps() {
    let document = include_str!("../../docs/configuration.md");
    let blocks: Vec<&str> = document.split("```sql\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    let [mysql, postgres, row] = blocks[..] else { panic!("{} blocks of SQL", blocks.len()) };
    let (_, app) = include_str!("../../config/default.toml").split_once("\n[[apps]]\n").unwrap();
    let fields = app.lines().filter_map(|line| line.trim_start_matches('#').split_once(" = "));
    for field in fields.map(|(field, _)| field).filter(|field| !field.contains(' ') && *field != "keys") {
        let soketis = field.replace("_per_second", "_per_sec").replace("_requests_", "_req_");
        for table in [mysql, postgres] {
            let is_column = |line: &str| line.trim_start().trim_start_matches(['`', '"']).starts_with(&soketis);
            assert!(table.lines().any(is_column), "{field} has no column in {table}");
        }
    }
    for kind in KINDS {
        let server = Server::own(kind).await;
        server.run_either(mysql, postgres).await;
        server.run_either(row, &row.replace('`', "\"")).await;
        server
            .run(
                "UPDATE apps SET enable_watchlist = FALSE, max_event_payload_in_kb = 2.5, channel_default = 'deny', \
                 max_read_req_per_sec = 7, cache_ttl_seconds = 60.5",
            )
            .await;
        let mut config = server.config("apps");
        (config.mysql.username, config.postgres.username) = ("gema".to_owned(), "gema".to_owned());
        set_password(&mut config, "change-this");
        let app = TestStore::new(&config).by_key("klinik-key").await.unwrap().unwrap();
        assert_eq!(
            (app.id.as_str(), app.keys[0].secret.expose(), app.enabled),
            ("klinik", &b"klinik-secret"[..], true)
        );
        assert_eq!((app.limits.max_connections, app.limits.max_read_requests_per_second), (5000, 7));
        assert_eq!((app.limits.event_bytes_max(), app.limits.enable_watchlist), (2560, false), "{kind:?}");
        assert_eq!(app.limits.allowed_origins, ["*.klinik.example"]);
        assert_eq!(app.webhooks[0].url.expose(), b"https://klinik.example/webhooks");
    }
}

#[tokio::test]
async fn what_the_table_lacks_or_leaves_null_comes_from_the_limits() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        small_table(server, "lacking").await;
        server.run("INSERT INTO lacking VALUES ('b', 'b-key', 'b-secret', NULL)").await;
        let mut config = server.config("lacking");
        config.limits.max_connections = 77;
        config.limits.max_event_batch_size = 3;
        let store = TestStore::new(&config);
        let app = store.by_id("b").await.unwrap().unwrap();
        assert!(app.enabled, "{kind:?}");
        assert_eq!((app.limits.max_connections, app.limits.max_event_batch_size), (77, 3));
        assert!(has_max(5)(&store.by_id("a").await));
    }
}

#[tokio::test]
async fn columns_may_come_and_go() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        small_table(server, "growing").await;
        let mut config = server.config("growing");
        config.app_store.connections_max = 1;
        let store = TestStore::new(&config);
        assert!(has_max(5)(&store.by_id("a").await));
        server.run("ALTER TABLE growing ADD COLUMN enabled smallint; UPDATE growing SET enabled = 0").await;
        let answers = store.refresh(&["a".to_owned()]).await;
        assert!(!answers[0].1.clone().unwrap().unwrap().enabled && has_max(5)(&answers[0].1), "{kind:?}");
        server.run("ALTER TABLE growing DROP COLUMN max_connections").await;
        let answers = store.refresh(&["a".to_owned()]).await;
        assert!(!answers[0].1.clone().unwrap().unwrap().enabled && has_max(-1)(&answers[0].1), "{kind:?}");
        assert_eq!(store.metric("gema_app_store_errors_total{cause=\"unavailable\"}"), 0);
    }
}

#[tokio::test]
async fn a_row_that_makes_no_app_is_refused_and_named() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        server
            .run_either(
                "CREATE TABLE wrong (id varchar(9), `key` varchar(9), secret varchar(9), max_event_batch_size int)",
                "CREATE TABLE wrong (id varchar(9), \"key\" varchar(9), secret varchar(9), max_event_batch_size int)",
            )
            .await;
        server
            .run(
                "INSERT INTO wrong VALUES ('a', 'ka', '', 1), ('b', 'kb', NULL, 1), ('c', 'kc', 's', -1), \
                 ('d', 'kd', 's', 0), ('e', 'k e', 's', 1), ('f', 'kf', 's', 1), ('g', 'kf', 's', 1), \
                 ('h', NULL, 's', 1), ('j', 'kj ', 's', 1), ('i', 'ki', 's', 1), ('l', 'k:l', 's', 1), \
                 ('..', 'km', 's', 1)",
            )
            .await;
        let store = TestStore::new(&server.config("wrong"));
        for (id, what) in [
            ("a", "wrong.secret is missing"),
            ("b", "wrong.secret is missing"),
            ("e", "wrong.key is \"k e\""),
            ("h", "wrong.key is missing"),
            ("j", "wrong.key is \"kj \""),
            ("l", "wrong.key is \"k:l\""),
            ("..", "wrong.id is \"..\""),
        ] {
            let error = store.by_id(id).await.unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, StoreError::Unusable { app, .. } if app == id), "{kind:?} {text}");
            assert!(text.starts_with(&format!("the row of app {id:?} cannot be used: {what}")), "{text}");
        }
        let twice = store.by_key("kf").await.unwrap_err().to_string();
        assert!(twice.contains("wrong.key is \"kf\" in several rows"), "{twice}");
        assert_eq!(store.metric("gema_app_store_errors_total{cause=\"unusable_row\"}"), 8);
        // A size that cannot be used is that of the limits, and the app is served.
        for id in ["c", "d"] {
            assert_eq!(store.by_id(id).await.unwrap().unwrap().limits.max_event_batch_size, 10, "{kind:?} {id}");
        }
        // The others are none the worse for it, and it is no outage.
        assert!(store.by_key("ki").await.unwrap().is_some());
        assert_eq!(store.metric("gema_app_store_up"), 1);
    }
}

#[tokio::test]
async fn a_row_may_say_in_many_ways_that_it_has_no_webhooks() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        for (table, column) in [("none_text", "text"), ("none_json", "json")] {
            let columns = format!("secret varchar(9), webhooks {column}, allowed_origins {column}");
            server
                .run_either(
                    &format!("CREATE TABLE {table} (id varchar(9), `key` varchar(9), {columns})"),
                    &format!("CREATE TABLE {table} (id varchar(9), \"key\" varchar(9), {columns})"),
                )
                .await;
            server
                .run(&format!(
                    "INSERT INTO {table} VALUES ('a', 'ka', 's', 'null', 'null'), ('b', 'kb', 's', '{{}}', NULL), \
                     ('c', 'kc', 's', '\"\"', NULL), ('d', 'kd', 's', '[]', NULL), ('e', 'ke', 's', '{{\"a\": 1}}', NULL)"
                ))
                .await;
            let store = TestStore::new(&server.config(table));
            for id in ["a", "b", "c", "d"] {
                let app = store.by_id(id).await.unwrap().unwrap();
                assert!(app.webhooks.is_empty(), "{kind:?} {table} {id}");
                assert_eq!(app.limits.allowed_origins, ["*"], "{kind:?} {table} {id}");
            }
            // One that says nothing that can be understood is told of, and is no reason to be without the app.
            assert!(store.by_id("e").await.unwrap().unwrap().webhooks.is_empty());
            assert_eq!(store.metric("gema_app_store_errors_total{cause=\"unusable_webhook\"}"), 1);
        }
        server.run("INSERT INTO none_text VALUES ('f', 'kf', 's', '[{', NULL)").await;
        let store = TestStore::new(&server.config("none_text"));
        assert!(store.by_id("f").await.unwrap().unwrap().webhooks.is_empty());
        assert_eq!(store.metric("gema_app_store_errors_total{cause=\"unusable_webhook\"}"), 1);
    }
}

/// Each is as panels for Soketi write it, and how many of the two webhooks are left out for it. The second has nothing
/// wrong with it.
const ODD_WEBHOOKS: [(&str, u64); 14] = [
    (r#"{"url":"https://x.example","event_types":["cache_miss"],"headers":[]}"#, 0),
    (r#"{"url":"https://x.example","event_types":["cache_miss"],"headers":{"X":null}}"#, 0),
    (r#"{"id":"7","name":"n","url":"https://x.example","event_types":["cache_miss"]}"#, 0),
    (r#"{"url":"https://x.example","event_types":["cache_miss"],"filter":{"channel_name_starts_with":null}}"#, 0),
    (r#"{"url":"https://x.example","event_types":["cache_miss"],"filter":[]}"#, 0),
    (r#"{"url":"https://x.example","event_types":["cache_miss","channel_emptied"]}"#, 0),
    (r#"{"url":"https://x.example","event_types":{"1":"cache_miss"},"lambda_function":null}"#, 0),
    (r#"{"url":"https://x.example"}"#, 1),
    (r#"{"url":"https://x.example","event_types":null}"#, 1),
    (r#"{"url":"x.example","event_types":["cache_miss"]}"#, 1),
    (r#"{"url":"https://x.example","event_types":["cache_miss"],"filter":["zzz"]}"#, 1),
    (r#"{"url":"https://x.example","event_types":["cache_miss"],"headers":["zzz"]}"#, 1),
    (r#"{"lambda_function":"","event_types":["cache_miss"]}"#, 1),
    ("7", 1),
];

#[tokio::test]
async fn a_detail_of_a_webhook_never_costs_the_app() {
    const GOOD: &str = r#"{"url":"https://y.example","event_types":["cache_miss"]}"#;
    for kind in KINDS {
        let server = Server::shared(kind).await;
        for (table, column) in [("odd_text", "text"), ("odd_json", "json")] {
            let columns = format!("secret varchar(9), max_event_payload_in_kb int, webhooks {column}");
            server
                .run_either(
                    &format!("CREATE TABLE {table} (id varchar(9), `key` varchar(9), {columns})"),
                    &format!("CREATE TABLE {table} (id varchar(9), \"key\" varchar(9), {columns})"),
                )
                .await;
            let store = TestStore::new(&server.config(table));
            let mut left_out = 0;
            for (number, (odd, is_left_out)) in ODD_WEBHOOKS.into_iter().enumerate() {
                let row = format!("'{number}', 'k{number}', 's', 0, '[{odd},{GOOD}]'");
                server.run(&format!("INSERT INTO {table} VALUES ({row})")).await;
                let app = store.by_id(&number.to_string()).await.unwrap().unwrap();
                let urls: Vec<&str> = app.webhooks.iter().map(|webhook| webhook.url.expose_text()).collect();
                let expected = if is_left_out == 0 {
                    &["https://x.example", "https://y.example"][..]
                } else {
                    &["https://y.example"]
                };
                assert_eq!(urls, expected, "{kind:?} {odd}");
                assert!(
                    app.webhooks.iter().all(|webhook| webhook.event_types.len() == 1 && webhook.filter.matches("c"))
                );
                assert_eq!(app.limits.event_bytes_max(), 102_400, "0 is no size");
                left_out += is_left_out;
                let counted = store.metric("gema_app_store_errors_total{cause=\"unusable_webhook\"}");
                assert_eq!(counted, left_out, "{kind:?} {odd}");
            }
            assert_eq!(store.metric("gema_app_store_errors_total{cause=\"unusable_row\"}"), 0);
        }
    }
}

#[tokio::test]
async fn a_table_may_have_an_odd_name_and_a_schema() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        let quote = if kind == Kind::Mysql { '`' } else { '"' };
        let quoted = |name: &str| format!("{quote}{}{quote}", name.replace(quote, &format!("{quote}{quote}")));
        let odd = "My `apps\"; DROP TABLE x -- ü";
        small_table(server, &quoted(odd)).await;
        assert!(has_max(5)(&TestStore::new(&server.config(odd)).by_key("a-key").await), "{kind:?}");
        server.run_either("CREATE DATABASE shop", "CREATE SCHEMA shop").await;
        small_table(server, "shop.apps").await;
        assert!(has_max(5)(&TestStore::new(&server.config("shop.apps")).by_key("a-key").await));
    }
}

#[tokio::test]
async fn an_id_may_be_a_number() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        server
            .run_either(
                "CREATE TABLE numbers (id int, `key` int, secret varchar(9))",
                "CREATE TABLE numbers (id int, \"key\" int, secret varchar(9))",
            )
            .await;
        server.run("INSERT INTO numbers VALUES (0, 10, 's'), (1, 11, 's')").await;
        let store = TestStore::new(&server.config("numbers"));
        assert_eq!(store.by_key("11").await.unwrap().unwrap().id, "1", "{kind:?}");
        for other in ["1x", "x", "01", "1.0"] {
            assert!(store.by_id(other).await.unwrap().is_none(), "{kind:?} {other}");
        }
    }
}
