//! What was written for Soketi: its options in files, `soketi.config.js`, `.env`, its names and command lines.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere, its helpers included")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use gema::config::{Faults, Loaded, load};
use serde_json::Value as Json;
use serde_json::json;

/// Every option of Soketi 1.6.1, its variable behind `SOKETI_`, its default and another value.
const OPTIONS: [(&str, &str, &str, &str); 112] = [
    ("adapter.driver", "ADAPTER_DRIVER", r#""local""#, r#""redis""#),
    ("adapter.redis.requestsTimeout", "ADAPTER_REDIS_REQUESTS_TIMEOUT", "5000", "5007"),
    ("adapter.redis.prefix", "ADAPTER_REDIS_PREFIX", r#""""#, r#""other""#),
    ("adapter.redis.redisPubOptions", "ADAPTER_REDIS_PUB_OPTIONS", "{}", r#"{"tls":{}}"#),
    ("adapter.redis.redisSubOptions", "ADAPTER_REDIS_SUB_OPTIONS", "{}", r#"{"tls":{}}"#),
    ("adapter.redis.clusterMode", "ADAPTER_REDIS_CLUSTER_MODE", "false", "true"),
    ("adapter.cluster.requestsTimeout", "ADAPTER_CLUSTER_REQUESTS_TIMEOUT", "5000", "5007"),
    ("adapter.nats.requestsTimeout", "ADAPTER_NATS_REQUESTS_TIMEOUT", "5000", "5007"),
    ("adapter.nats.prefix", "ADAPTER_NATS_PREFIX", r#""""#, r#""other""#),
    ("adapter.nats.servers", "ADAPTER_NATS_SERVERS", r#"["127.0.0.1:4222"]"#, r#"["n:4222"]"#),
    ("adapter.nats.user", "ADAPTER_NATS_USER", "null", r#""other""#),
    ("adapter.nats.pass", "ADAPTER_NATS_PASSWORD", "null", r#""other""#),
    ("adapter.nats.token", "ADAPTER_NATS_TOKEN", "null", r#""other""#),
    ("adapter.nats.timeout", "ADAPTER_NATS_TIMEOUT", "10000", "10007"),
    ("adapter.nats.nodesNumber", "ADAPTER_NATS_NODES_NUMBER", "null", "7"),
    ("appManager.driver", "APP_MANAGER_DRIVER", r#""array""#, r#""redis""#),
    ("appManager.cache.enabled", "APP_MANAGER_CACHE_ENABLED", "false", "true"),
    ("appManager.cache.ttl", "APP_MANAGER_CACHE_TTL", "-1", "6"),
    (
        "appManager.array.apps",
        "",
        r#"[{"id":"app-id","key":"app-key","secret":"app-secret"}]"#,
        r#"[{"id":"b","key":"k","secret":"0012"}]"#,
    ),
    ("appManager.dynamodb.table", "APP_MANAGER_DYNAMODB_TABLE", r#""apps""#, r#""other""#),
    ("appManager.dynamodb.region", "APP_MANAGER_DYNAMODB_REGION", r#""us-east-1""#, r#""other""#),
    ("appManager.dynamodb.endpoint", "APP_MANAGER_DYNAMODB_ENDPOINT", "null", r#""other""#),
    ("appManager.mysql.table", "APP_MANAGER_MYSQL_TABLE", r#""apps""#, r#""other""#),
    ("appManager.mysql.version", "APP_MANAGER_MYSQL_VERSION", r#""8.0""#, r#""other""#),
    ("appManager.mysql.useMysql2", "APP_MANAGER_MYSQL_USE_V2", "false", "true"),
    ("appManager.postgres.table", "APP_MANAGER_POSTGRES_TABLE", r#""apps""#, r#""other""#),
    ("appManager.postgres.version", "APP_MANAGER_POSTGRES_VERSION", r#""13.3""#, r#""other""#),
    ("cache.driver", "CACHE_DRIVER", r#""memory""#, r#""redis""#),
    ("cache.redis.redisOptions", "CACHE_REDIS_OPTIONS", "{}", r#"{"a":1}"#),
    ("cache.redis.clusterMode", "CACHE_REDIS_CLUSTER_MODE", "false", "true"),
    ("channelLimits.maxNameLength", "CHANNEL_LIMITS_MAX_NAME_LENGTH", "200", "207"),
    ("channelLimits.cacheTtl", "CHANNEL_CACHE_TTL", "3600", "3607"),
    ("cluster.hostname", "CLUSTER_HOST", r#""0.0.0.0""#, r#""other""#),
    ("cluster.helloInterval", "CLUSTER_KEEPALIVE_INTERVAL", "500", "507"),
    ("cluster.checkInterval", "CLUSTER_CHECK_INTERVAL", "500", "507"),
    ("cluster.nodeTimeout", "CLUSTER_NODE_TIMEOUT", "2000", "2007"),
    ("cluster.masterTimeout", "CLUSTER_MASTER_TIMEOUT", "2000", "2007"),
    ("cluster.port", "CLUSTER_PORT", "11002", "11009"),
    ("cluster.prefix", "CLUSTER_PREFIX", r#""""#, r#""other""#),
    ("cluster.ignoreProcess", "CLUSTER_IGNORE_PROCESS", "true", "false"),
    ("cluster.broadcast", "CLUSTER_BROADCAST_ADDRESS", r#""255.255.255.255""#, r#""10.0.0.1""#),
    ("cluster.unicast", "CLUSTER_UNICAST_ADDRESSES", "null", r#"["10.0.0.1"]"#),
    ("cluster.multicast", "CLUSTER_MULTICAST_ADDRESS", "null", r#""10.0.0.1""#),
    ("cors.credentials", "", "true", "false"),
    ("cors.origin", "", r#"["*"]"#, r#"["https://a.example"]"#),
    ("cors.methods", "", r#"["GET","POST","PUT","DELETE","OPTIONS"]"#, r#"["GET"]"#),
    (
        "cors.allowedHeaders",
        "",
        r#"["Origin","Content-Type","X-Auth-Token","X-Requested-With","Accept","Authorization","X-CSRF-TOKEN","XSRF-TOKEN","X-Socket-Id"]"#,
        r#"["Accept"]"#,
    ),
    ("database.mysql.host", "DB_MYSQL_HOST", r#""127.0.0.1""#, r#""other""#),
    ("database.mysql.port", "DB_MYSQL_PORT", "3306", "3313"),
    ("database.mysql.user", "DB_MYSQL_USERNAME", r#""root""#, r#""other""#),
    ("database.mysql.password", "DB_MYSQL_PASSWORD", r#""password""#, r#""other""#),
    ("database.mysql.database", "DB_MYSQL_DATABASE", r#""main""#, r#""other""#),
    ("database.postgres.host", "DB_POSTGRES_HOST", r#""127.0.0.1""#, r#""other""#),
    ("database.postgres.port", "DB_POSTGRES_PORT", "5432", "5439"),
    ("database.postgres.user", "DB_POSTGRES_USERNAME", r#""postgres""#, r#""other""#),
    ("database.postgres.password", "DB_POSTGRES_PASSWORD", r#""password""#, r#""other""#),
    ("database.postgres.database", "DB_POSTGRES_DATABASE", r#""main""#, r#""other""#),
    ("database.redis.host", "DB_REDIS_HOST", r#""127.0.0.1""#, r#""other""#),
    ("database.redis.port", "DB_REDIS_PORT", "6379", "6386"),
    ("database.redis.db", "DB_REDIS_DB", "0", "7"),
    ("database.redis.username", "DB_REDIS_USERNAME", "null", r#""other""#),
    ("database.redis.password", "DB_REDIS_PASSWORD", "null", r#""other""#),
    ("database.redis.keyPrefix", "DB_REDIS_KEY_PREFIX", r#""""#, r#""other""#),
    ("database.redis.sentinels", "DB_REDIS_SENTINELS", "null", r#"[{"host":"s-1","port":26379}]"#),
    ("database.redis.sentinelPassword", "DB_REDIS_SENTINEL_PASSWORD", "null", r#""other""#),
    ("database.redis.name", "DB_REDIS_INSTANCE_NAME", r#""mymaster""#, r#""other""#),
    ("database.redis.clusterNodes", "DB_REDIS_CLUSTER_NODES", "[]", r#"[{"host":"c-1","port":6379}]"#),
    ("databasePooling.enabled", "DB_POOLING_ENABLED", "false", "true"),
    ("databasePooling.min", "DB_POOLING_MIN", "0", "7"),
    ("databasePooling.max", "DB_POOLING_MAX", "7", "14"),
    ("debug", "DEBUG", "false", "true"),
    ("eventLimits.maxChannelsAtOnce", "EVENT_MAX_CHANNELS_AT_ONCE", "100", "107"),
    ("eventLimits.maxNameLength", "EVENT_MAX_NAME_LENGTH", "200", "207"),
    ("eventLimits.maxPayloadInKb", "EVENT_MAX_SIZE_IN_KB", "100", "107"),
    ("eventLimits.maxBatchSize", "EVENT_MAX_BATCH_SIZE", "10", "17"),
    ("host", "HOST", r#""0.0.0.0""#, r#""127.0.0.1""#),
    ("httpApi.requestLimitInMb", "", "100", "2.5"),
    ("httpApi.acceptTraffic.memoryThreshold", "HTTP_ACCEPT_TRAFFIC_MEMORY_THRESHOLD", "85", "50"),
    ("instance.process_id", "", "null", "7"),
    ("metrics.enabled", "METRICS_ENABLED", "false", "true"),
    ("metrics.driver", "METRICS_DRIVER", r#""prometheus""#, r#""redis""#),
    ("metrics.host", "METRICS_HOST", r#""0.0.0.0""#, r#""127.0.0.1""#),
    ("metrics.prometheus.prefix", "METRICS_PROMETHEUS_PREFIX", r#""soketi_""#, r#""other""#),
    ("metrics.port", "METRICS_SERVER_PORT", "9601", "9608"),
    ("mode", "MODE", r#""full""#, r#""worker""#),
    ("port", "PORT", "6001", "6008"),
    ("pathPrefix", "PATH_PREFIX", r#""""#, r#""/x""#),
    ("presence.maxMembersPerChannel", "PRESENCE_MAX_MEMBERS", "100", "107"),
    ("presence.maxMemberSizeInKb", "PRESENCE_MAX_MEMBER_SIZE", "2", "9"),
    ("queue.driver", "QUEUE_DRIVER", r#""sync""#, r#""redis""#),
    ("queue.redis.concurrency", "QUEUE_REDIS_CONCURRENCY", "1", "8"),
    ("queue.redis.redisOptions", "QUEUE_REDIS_OPTIONS", "{}", r#"{"a":1}"#),
    ("queue.redis.clusterMode", "QUEUE_REDIS_CLUSTER_MODE", "false", "true"),
    ("queue.sqs.region", "QUEUE_SQS_REGION", r#""us-east-1""#, r#""other""#),
    ("queue.sqs.endpoint", "QUEUE_SQS_ENDPOINT", "null", r#""other""#),
    ("queue.sqs.clientOptions", "QUEUE_SQS_CLIENT_OPTIONS", "{}", r#"{"a":1}"#),
    ("queue.sqs.consumerOptions", "", "{}", r#"{"a":1}"#),
    ("queue.sqs.queueUrl", "QUEUE_SQS_URL", r#""""#, r#""other""#),
    ("queue.sqs.processBatch", "QUEUE_SQS_PROCESS_BATCH", "false", "true"),
    ("queue.sqs.batchSize", "QUEUE_SQS_BATCH_SIZE", "1", "8"),
    ("queue.sqs.pollingWaitTimeMs", "QUEUE_SQS_POLLING_WAIT_TIME_MS", "0", "7"),
    ("rateLimiter.driver", "RATE_LIMITER_DRIVER", r#""local""#, r#""redis""#),
    ("rateLimiter.redis.redisOptions", "RATE_LIMITER_REDIS_OPTIONS", "{}", r#"{"a":1}"#),
    ("rateLimiter.redis.clusterMode", "RATE_LIMITER_REDIS_CLUSTER_MODE", "false", "true"),
    ("shutdownGracePeriod", "SHUTDOWN_GRACE_PERIOD", "3000", "3007"),
    ("ssl.certPath", "SSL_CERT", r#""""#, r#""other""#),
    ("ssl.keyPath", "SSL_KEY", r#""""#, r#""other""#),
    ("ssl.passphrase", "SSL_PASS", r#""""#, r#""other""#),
    ("ssl.caPath", "SSL_CA", r#""""#, r#""other""#),
    ("userAuthenticationTimeout", "USER_AUTHENTICATION_TIMEOUT", "30000", "30007"),
    ("webhooks.batching.enabled", "WEBHOOKS_BATCHING", "false", "false"),
    ("webhooks.batching.duration", "WEBHOOKS_BATCHING_DURATION", "50", "57"),
];

/// What a value leads to: settings other than the default, and how many warnings and faults.
#[derive(Debug, PartialEq)]
struct Outcome {
    settings: BTreeSet<String>,
    warnings: usize,
    faults: usize,
}

fn outcome(loaded: Result<Loaded, Faults>, default: &BTreeSet<String>) -> Outcome {
    let none = || BTreeSet::new();
    match loaded {
        Ok(loaded) => {
            let settings = settings(&loaded).difference(default).cloned().collect();
            Outcome { settings, warnings: loaded.warnings.len(), faults: 0 }
        }
        Err(Faults { faults, good }) => {
            assert!(!faults.iter().any(|fault| fault.contains("is not a")), "unknown: {faults:?}");
            Outcome { settings: none(), warnings: good.warnings.len(), faults: faults.len() }
        }
    }
}

fn settings(loaded: &Loaded) -> BTreeSet<String> {
    loaded.settings().iter().map(|line| line.rsplit_once(" # ").unwrap().0.trim().to_owned()).collect()
}

/// A folder of its own for each test.
fn folder(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("soketi-{test}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    fs::write(&file, text).unwrap();
    file
}

/// The option in groups, as in `{"adapter": {"driver": …}}`.
fn nested(option: &str, value: &Json) -> Json {
    option.rsplit('.').fold(value.clone(), |inner, name| json!({ name: inner }))
}

fn variables(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn each_option_means_the_same_dotted_nested_and_as_a_variable() {
    let folder = folder("options");
    let default = settings(&load(&[], []).unwrap());
    let quiet = load(&[], []).unwrap().warnings.len();
    for (option, variable, _, other) in OPTIONS {
        let value: Json = serde_json::from_str(other).unwrap();
        let dotted = write(&folder, "dotted.json", &json!({ option: value }).to_string());
        let dotted = outcome(load(&[dotted], []), &default);
        let nested = write(&folder, "nested.json", &nested(option, &value).to_string());
        assert_eq!(outcome(load(&[nested], []), &default), dotted, "{option}");
        let silent = dotted.settings.is_empty() && dotted.warnings == quiet && dotted.faults == 0;
        assert!(!silent, "{option} is neither honoured nor reported");
        if !variable.is_empty() {
            let text = value.as_str().map_or_else(|| other.to_owned(), str::to_owned);
            let environment = [(format!("SOKETI_{variable}"), text)];
            assert_eq!(outcome(load(&[], environment), &default), dotted, "SOKETI_{variable}");
        }
    }
}

#[test]
fn soketis_defaults_are_taken_without_a_word() {
    let folder = folder("defaults");
    let mut all = serde_json::Map::new();
    for (option, _, default, _) in OPTIONS {
        all.insert(option.to_owned(), serde_json::from_str(default).unwrap());
    }
    let file = write(&folder, "all.json", &Json::Object(all).to_string());
    let loaded = load(&[file], []).unwrap();
    assert!(loaded.warnings.len() == 1 && loaded.warnings[0].contains("Soketi's default secret"), "{loaded:?}");
    assert_eq!(loaded.config.http.request_bytes_max, 100 * 1024 * 1024);
}

#[test]
fn an_option_that_is_misspelt_is_refused_with_the_one_that_is_meant() {
    let folder = folder("misspelt");
    for (option, ..) in OPTIONS {
        // Two letters exchanged: the last but one and its neighbour.
        let mut letters: Vec<char> = option.chars().collect();
        let last = letters.len() - 1;
        if letters[last - 1] == letters[last - 2] || letters[last - 1] == '.' || letters[last - 2] == '.' {
            continue;
        }
        letters.swap(last - 1, last - 2);
        let misspelt: String = letters.into_iter().collect();
        let file = write(&folder, "misspelt.json", &nested(&misspelt, &json!("hush")).to_string());
        let place = format!("{misspelt} (from {}:1)", file.display());
        match load(&[file], []) {
            Err(Faults { faults, .. }) => {
                let fault = &faults[0];
                let meant = fault.contains(&format!("did you mean {option}?"));
                assert!(fault.starts_with(&place) && fault.contains(" is not a setting; "), "{fault}");
                assert!(meant || !fault.contains("hush"), "{fault}");
            }
            // What Soketi hands on to databases may have any name.
            Ok(loaded) => assert!(loaded.warnings.iter().any(|warning| warning.starts_with(&place)), "{misspelt}"),
        }
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_taken_or_refused_with_its_place() {
    let folder = folder("kinds");
    let values =
        ["true", "-1", "1.5", "1e300", "\"hush\"", "[]", "[\"hush\"]", "[{\"a\": \"hush\"}]", "{\"a\": \"hush\"}"];
    for (option, ..) in OPTIONS {
        for value in values {
            let file = write(&folder, "kinds.json", &format!("{{\n{:?}: {value}}}", option));
            let place = format!("(from {}:2)", file.display());
            if let Err(Faults { faults, .. }) = load(&[file], []) {
                assert!(faults.iter().all(|fault| fault.contains(&place)), "{option}: {value}: {faults:#?}");
                let is_secret = option.to_lowercase().contains("pass") || option.ends_with("apps");
                assert!(!is_secret || !faults.concat().contains("hush"), "{option}: {value}: {faults:#?}");
            }
        }
    }
}

#[test]
fn our_own_file_is_refused_wherever_a_letter_or_the_end_is_missing() {
    let folder = folder("own");
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/example.toml")).unwrap();
    let complete = load(&[write(&folder, "own.toml", &text)], []).unwrap().config.apps().len();
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let is_setting = line.starts_with(|first: char| first.is_ascii_lowercase());
        let Some((key, value)) = line.split_once(" = ").filter(|_| is_setting) else { continue };
        let misspelt = format!("{}x{} = {value}", &key[..1], &key[1..]);
        let changed = [&lines[..index], &[&misspelt], &lines[index + 1..]].concat().join("\n");
        let file = write(&folder, "own.toml", &changed);
        let faults = load(std::slice::from_ref(&file), []).unwrap_err().faults.join("\n");
        let place = format!("(from {}:{}) is not a setting", file.display(), index + 1);
        assert!(faults.contains(&place), "{key}: {faults}");
        let cut: Vec<&str> = lines[..index].to_vec();
        if let Ok(loaded) = load(&[write(&folder, "own.toml", &cut.join("\n"))], []) {
            // Without an app at all it is Soketi's, which is warned of where others can reach it.
            assert!(loaded.config.apps.len() <= complete);
        }
    }
}

#[test]
fn both_styles_may_stand_in_one_file_and_ours_wins() {
    let folder = folder("mixed");
    let text = "{ \"server.workers\": 3, \"port\": 7001, \"metrics\": { \"enabled\": true, \"prometheus\": { \"prefix\": \"\" } },\n\
                \"cluster\": { \"port\": 11002, \"name\": \"shop\" }, \"cors\": { \"origin\": [\"https://a.example\"] },\n\
                \"server\": { \"port\": 7002 }, \"shutdownGracePeriod\": 2500, \"limits\": { \"enable_watchlist\": false } }";
    let file = write(&folder, "mixed.json", text);
    let name = file.display().to_string();
    let loaded = load(&[file], []).unwrap();
    let config = &loaded.config;
    assert_eq!((config.server.port, config.server.workers, config.server.drain_seconds.0), (7002, 3, 2.5));
    assert_eq!((config.metrics.enabled, config.metrics.prefix.as_str()), (true, ""));
    assert_eq!((config.cluster.name.as_str(), config.limits.enable_watchlist), ("shop", false));
    assert_eq!(config.http.cors_origins, ["https://a.example"]);
    assert_eq!(
        loaded.warnings[0],
        format!("port (from {name}:1) has no effect, because server.port (from {name}:3) says it, too")
    );
}

#[test]
fn apps_come_in_all_of_soketis_spellings() {
    let folder = folder("apps");
    let text = r#"{ "appManager.array.apps": [
        { "id": 7, "key": "k", "secret": "0012", "maxConnections": "5", "enabled": "false", "webhooks": [], "maxEventBatchSize": null },
        { "AppId": "b", "AppKey": "l", "AppSecret": "s", "MaxConnections": 6, "enable_client_messages": 1, "max_read_req_per_sec": "" }
    ], "appManager": { "array.apps.0.enableUserAuthentication": true, "cache": { "enabled": false } } }"#;
    let apps = load(&[write(&folder, "apps.json", text)], []).unwrap().config.apps();
    let (first, second) = (&apps[0], &apps[1]);
    assert_eq!((first.id.as_str(), first.enabled, first.limits.max_connections), ("7", false, 5));
    assert_eq!((first.keys[0].secret.expose(), first.limits.enable_user_authentication), (&b"0012"[..], true));
    assert_eq!((second.id.as_str(), second.limits.max_connections), ("b", 6));
    assert!(second.limits.enable_client_messages && second.limits.max_read_requests_per_second < 0);
    // A single field changes the default app, as with Soketi, and the variable wins.
    let file =
        write(&folder, "one.json", r#"{ "appManager.array.apps.0.id": "c", "appManager.array.apps.0.key": "k" }"#);
    let app = &load(&[file], variables(&[("SOKETI_DEFAULT_APP_KEY", "m")])).unwrap().config.apps()[0];
    assert_eq!(
        (app.id.as_str(), app.keys[0].key.as_str(), app.keys[0].secret.expose()),
        ("c", "m", &b"app-secret"[..])
    );
}

/// An app with this webhook.
fn app_with(webhook: &str) -> String {
    format!(
        "{{\"host\": \"127.0.0.1\", \"appManager.array.apps\": [{{\"id\": \"a\", \"key\": \"k\", \"secret\": \"s\",\n\
         \"webhooks\": [{webhook}]}}]}}"
    )
}

#[test]
fn webhooks_are_taken_from_files_and_variables() {
    let webhook = r#"{"url": "https://x.example/hush", "event_types": ["channel_occupied", "cache_miss"],
        "headers": {"Authorization": "hush"}, "filter": {"channel_name_starts_with": "beta-"}}"#;
    let file = write(&folder("webhooks"), "webhooks.json", &app_with(webhook));
    let from_file = load(&[file], []).unwrap();
    let variable = format!("[{webhook}]");
    let from_variable = load(&[], variables(&[("SOKETI_DEFAULT_APP_WEBHOOKS", &variable)])).unwrap();
    let webhooks = [&from_file, &from_variable].map(|loaded| loaded.config.apps()[0].webhooks.clone());
    assert_eq!(webhooks[0], webhooks[1]);
    assert_eq!(webhooks[0][0].url.expose(), b"https://x.example/hush");
    assert!(webhooks[0][0].filter.matches("beta-1") && webhooks[0][0].headers["Authorization"].expose() == b"hush");
    assert!(!settings(&from_file).iter().any(|line| line.contains("hush")));
}

#[test]
fn no_webhooks_may_be_said_in_many_ways() {
    let folder = folder("no-webhooks");
    let load_with = |webhooks: &str| {
        let text = app_with("").replace("\"webhooks\": []", &format!("\"webhooks\": {webhooks}"));
        load(&[write(&folder, "none.json", &text)], [])
    };
    for none in ["null", "\"\"", "{}", "[]", "\"null\"", "\"{}\"", "\"[]\"", r#""\"\"""#] {
        assert_eq!(load_with(none).unwrap().config.apps()[0].webhooks, [], "{none}");
    }
    for broken in ["\"[{\"", "\"x\"", "1", "{\"a\": 1}"] {
        let faults = load_with(broken).unwrap_err().faults;
        assert!(faults[0].contains("must be a list of webhooks") && faults.len() == 1, "{broken}: {faults:?}");
    }
}

/// Two apps; the second one asks for a variable, and has a webhook with this URL.
fn second_app(url: &str) -> String {
    format!(
        "module.exports = {{ host: '127.0.0.1', 'appManager.array.apps': [\n{{ id: 'a', key: 'k', secret: 's' }},\n{{\n\
         id: 'b',\nkey: process.env.SHOP_KEY,\nsecret: 't',\nwebhooks: [\n{{\n\
         url: '{url}',\neventTypes: ['channel_occupied'],\nfilter: {{\nchannelNameStartsWith: 'x' }},\n\
         headers: {{ 'X-Shop': 'y',\n'X Y': 'z' }} }} ] }} ] }};\n"
    )
}

#[test]
fn what_an_app_lacks_is_told_with_its_line_and_its_variable() {
    let file = write(&folder("app-lacks"), "soketi.config.js", &second_app("hush"));
    let name = file.display().to_string();
    let faults = load(std::slice::from_ref(&file), []).unwrap_err().faults;
    let begins = [
        format!("apps.1.key (from {name}:5, SHOP_KEY) is missing; "),
        format!("apps.1.webhooks.0.url (from {name}:9) must be a whole URL, "),
        format!("apps.1.webhooks.0.headers (from {name}:13) has \"X Y\"; "),
    ];
    assert_eq!(faults.len(), begins.len(), "{faults:#?}");
    assert!(faults.iter().zip(&begins).all(|(fault, begins)| fault.starts_with(begins)), "{faults:#?}");
    let incomplete = "{\"apps\": [{\"id\": \"a\", \"key\": \"k\", \"secret\": \"s\",\n\"keys\": [{\"key\": \"l\"}],\n\
                      \"webhooks\": [\n{\"url\": \"http://x\"}]}]}";
    let file = write(&folder("app-lacks"), "apps.json", incomplete);
    let faults = load(std::slice::from_ref(&file), []).unwrap_err().faults;
    let name = file.display();
    assert!(faults[0].starts_with(&format!("apps.0.webhooks.0.event_types (from {name}:4) is missing")), "{faults:#?}");
    assert!(faults[1].starts_with(&format!("apps.0.keys.0.secret (from {name}:2) is missing")), "{faults:#?}");
}

#[test]
fn each_value_of_a_webhook_has_its_origin() {
    let text = second_app("https://x.example").replace(",\n'X Y': 'z'", "");
    let file = write(&folder("webhook-origins"), "soketi.config.js", &text);
    let name = file.display().to_string();
    let variable = r#"[{"url": "https://y.example", "event_types": []}]"#;
    let environment = [("SHOP_KEY", "l"), ("SOKETI_DEFAULT_APP_WEBHOOKS", variable)];
    let lines = load(&[file], variables(&environment)).unwrap().settings();
    for (key, origin) in [
        ("apps.0.webhooks.0.url", "SOKETI_DEFAULT_APP_WEBHOOKS".to_owned()),
        ("apps.0.webhooks.0.filter.channel_name_starts_with", "default".to_owned()),
        ("apps.1.webhooks.0.url", format!("{name}:9")),
        ("apps.1.webhooks.0.event_types", format!("{name}:10")),
        ("apps.1.webhooks.0.filter.channel_name_starts_with", format!("{name}:12")),
        ("apps.1.webhooks.0.filter.channel_name_ends_with", "default".to_owned()),
        ("apps.1.webhooks.0.headers.X-Shop", format!("{name}:13")),
        ("apps.1.key", format!("{name}:5, SHOP_KEY")),
    ] {
        let line = lines.iter().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
        assert!(line.ends_with(&format!("# {origin}")), "{line}");
    }
}

#[test]
fn details_of_a_webhook_without_effect_are_warned_of_and_typing_errors_are_faults() {
    let folder = folder("odd-webhooks");
    let load_with = |more: &str| {
        let types = if more.contains("event_types") { "" } else { r#""event_types": ["cache_miss"], "# };
        let webhook = format!("{{\"url\": \"https://x.example\", {types}{more}}}");
        let file = write(&folder, "webhooks.json", &app_with(&webhook));
        load(std::slice::from_ref(&file), []).map_err(|refused| refused.faults)
    };
    for nothing in [
        r#""headers": []"#,
        r#""headers": {"X": null}"#,
        r#""filter": []"#,
        r#""filter": {"channel_name_starts_with": null}"#,
    ] {
        let loaded = load_with(nothing).unwrap();
        assert_eq!(loaded.warnings, [""; 0], "{nothing}");
        let webhook = &loaded.config.apps()[0].webhooks[0];
        assert!(webhook.filter.matches("any") && webhook.headers.is_empty(), "{nothing}");
    }
    for (foreign, warning) in [
        (r#""id": 7"#, "id (from FILE:2) is not a setting of a webhook and has no effect"),
        (
            r#""event_types": ["cache_miss", "queue_drained"]"#,
            "event_types (from FILE:2) has \"queue_drained\", which is no event",
        ),
    ] {
        let loaded = load_with(foreign).unwrap();
        let warning = warning.replace("FILE", &folder.join("webhooks.json").display().to_string());
        assert!(loaded.warnings[0].starts_with(&format!("apps.0.webhooks.0.{warning}")), "{:?}", loaded.warnings);
        assert_eq!((loaded.warnings.len(), loaded.config.apps()[0].webhooks.len()), (1, 1));
    }
    for (wrong, fault) in [
        (r#""filter": ["zzz"]"#, "filter (from FILE:2) must be a group of settings, such as "),
        (r#""headers": ["zzz"]"#, "headers (from FILE:2) must be a group of settings, such as "),
        (
            r#""filters": {}"#,
            "filters (from FILE:2) is not a setting of a webhook; did you mean apps.0.webhooks.0.filter?",
        ),
        (
            r#""event_types": ["cache_mis"]"#,
            "event_types (from FILE:2) has \"cache_mis\", which is no event of a webhook; did you mean cache_miss?",
        ),
    ] {
        let faults = load_with(wrong).unwrap_err();
        let fault = fault.replace("FILE", &folder.join("webhooks.json").display().to_string());
        assert!(faults.len() == 1 && faults[0].starts_with(&format!("apps.0.webhooks.0.{fault}")), "{faults:?}");
    }
}

#[test]
fn a_webhook_that_can_never_be_sent_is_refused() {
    let folder = folder("unsendable");
    let load_with = |url: &str| {
        let webhook = json!({ "url": url, "event_types": ["channel_occupied"] }).to_string();
        let file = write(&folder, "webhooks.json", &app_with(&webhook));
        load(std::slice::from_ref(&file), []).map_err(|refused| refused.faults)
    };
    for url in ["http://hush:99999/", "http://hush:0/", "http://[::1/hush", "http://%zz/hush", "http://256.1.1.1/hush"]
    {
        let faults = load_with(url).unwrap_err();
        assert!(faults[0].starts_with("apps.0.webhooks.0.url (from ") && faults.len() == 1, "{url}: {faults:?}");
        assert!(faults[0].contains(":2) must be a whole URL") && !faults[0].contains("hush"), "{url}: {faults:?}");
    }
    for url in ["http://[::1]:9/x", "https://user:pass@x.example/?a=b%20c#d", "http://10.0.0.1"] {
        load_with(url).unwrap();
    }
}

#[test]
fn an_app_that_wants_what_is_not_there_is_refused() {
    let webhook = r#"{"lambda_function": "hush", "event_types": ["channel_occupied"]}"#;
    let file = write(&folder("lambda"), "lambda.json", &app_with(webhook));
    let place = format!("apps.0.webhooks.0.lambda_function (from {}:2) is not there: ", file.display());
    let faults = load(&[file], []).unwrap_err().faults;
    assert!(faults[0].starts_with(&place) && !faults[0].contains("hush"), "{faults:?}");
}

#[test]
fn what_soketi_hands_on_to_its_redis_client_counts_or_is_reported() {
    let folder = folder("ioredis");
    let load_redis = |more: &str| {
        let text =
            format!("{{\"host\": \"127.0.0.1\", \"adapter.driver\": \"redis\",\n\"database.redis\": {{{more}}}}}");
        let file = write(&folder, "redis.json", &text);
        (load(std::slice::from_ref(&file), []), file.display().to_string())
    };
    let loaded = load_redis("\"host\": \"r-1\", \"tls\": {}, \"password\": 12").0.unwrap();
    assert_eq!((loaded.config.redis.host.as_str(), loaded.config.redis.tls), ("r-1", true));
    assert_eq!((loaded.config.redis.password.expose(), loaded.warnings.len()), (&b"12"[..], 0));
    let loaded = load_redis("\"path\": \"/run/redis.sock\"").0.unwrap();
    assert_eq!(loaded.config.redis.url.expose(), b"unix:///run/redis.sock");
    let loaded = load_redis("\"path\": \"/run/my redis?.sock\", \"password\": \"h&u s+h%\", \"db\": 2").0.unwrap();
    let url = loaded.config.redis.url.expose_text();
    assert_eq!(url, "unix:///run/my%20redis%3F.sock?pass=h%26u+s%2Bh%25&db=2");
    assert_eq!(loaded.warnings, [""; 0]);
    let loaded =
        load_redis("\"path\": \"/run/redis.sock\", \"host\": \"r-1\", \"username\": \"u\", \"password\": \"p\"");
    let loaded = loaded.0.unwrap();
    assert_eq!(loaded.config.redis.url.expose(), b"unix:///run/redis.sock?pass=p&user=u");
    assert!(loaded.warnings[0].ends_with(" has no effect, because Redis is at a Unix socket"), "{loaded:?}");
    assert_eq!(loaded.warnings.len(), 1);
    let (loaded, file) = load_redis("\"lazyConnect\": true");
    let because = "has no effect, because gema's link to Redis has times and retries of its own";
    assert_eq!(loaded.unwrap().warnings, [format!("database.redis.lazyConnect (from {file}:2) {because}")]);
    let (loaded, file) = load_redis("\"prot\": 6380, \"tls\": {\"ca\": \"hush\"}");
    let faults = loaded.unwrap_err().faults;
    let misspelt = format!("database.redis.prot (from {file}:2) is not a setting; did you mean database.redis.port?");
    assert_eq!(faults[0], misspelt);
    assert!(faults[1].starts_with(&format!("database.redis.tls (from {file}:2) has tls.ca, ")), "{faults:?}");
    assert!(!faults.concat().contains("hush"), "{faults:?}");
}

#[test]
fn what_soketi_hands_on_to_its_database_client_counts_or_is_reported() {
    let folder = folder("knex");
    let load_with = |more: &str| {
        let text =
            format!("{{\"host\": \"127.0.0.1\", \"appManager.driver\": \"mysql\",\n\"database.mysql\": {{{more}}}}}");
        let file = write(&folder, "mysql.json", &text);
        (load(std::slice::from_ref(&file), []), file.display().to_string())
    };
    for (ssl, tls) in [("{}", true), ("true", true), ("false", false), ("null", false)] {
        let loaded = load_with(&format!("\"host\": \"db\", \"ssl\": {ssl}")).0.unwrap();
        assert_eq!((loaded.config.mysql.host.as_str(), loaded.config.mysql.tls), ("db", tls));
        assert!(loaded.warnings.is_empty(), "{loaded:?}");
    }
    let (loaded, file) = load_with("\"charset\": \"utf8\"");
    let begins = format!("database.mysql.charset (from {file}:2) has no effect, because gema has a client of its own");
    let warnings = loaded.unwrap().warnings;
    assert!(warnings[0].starts_with(&begins) && warnings.len() == 1, "{warnings:?}");
    let (loaded, file) = load_with("\"ssl\": {\"ca\": \"hush\"}");
    let faults = loaded.unwrap_err().faults;
    assert!(faults[0].starts_with(&format!("database.mysql.ssl (from {file}:2) must be true, false or {{}}: ")));
    assert!(!faults.concat().contains("hush"), "{faults:?}");
}

#[test]
fn warnings_about_an_app_name_its_place() {
    let file = write(
        &folder("place"),
        "place.yaml",
        "host: 127.0.0.1\nappManager:\n  array.apps:\n  - id: a\n    key: k\n    secret: ' s'\n",
    );
    let place = format!("app \"a\" (from {}:4) has a secret that begins or ends with white space", file.display());
    let warnings = load(&[file], []).unwrap().warnings;
    assert!(warnings[0].starts_with(&place) && warnings.len() == 1, "{warnings:?}");
}

/// In the form of the documents that people follow, with values of its own.
const CONFIG_JS: &str = r#"// soketi.config.js
module.exports = {
    appManager: {
        driver: "array",
        apps: [
            {
                id: process.env.PUSHER_APP_ID || "pabrik",
                key: process.env.PUSHER_APP_KEY || "pabrik-key",
                secret: process.env.PUSHER_APP_SECRET || "hush-secret",
                enableClientMessages: true,
                enableStatistics: true,
                maxConnectionsPerApp: 250,
            },
        ],
    },
    server: {
        host: '127.0.0.1',
        port: process.env.SOKETI_PORT || 6001,
        cors: {
            origin: ["http://localhost", `http://localhost:8000`],
            methods: ["GET", "POST"],
            credentials: true,
        },
        // Performance tuning
        maxPayload: 1024 * 1024, // 1MB
        perMessageDeflate: false, // none
    },
    database: {
        driver: "redis",
        redis: {
            host: process.env.REDIS_HOST || "127.0.0.1",
            port: process.env.REDIS_PORT || 6379,
            password: process.env.REDIS_PASSWORD || null,
            db: process.env.REDIS_DB || 0,
            retryDelayOnFailover: 100,
            lazyConnect: true,
        },
    },
    metrics: {
        enabled: true,
        driver: "redis",
        redis: { host: process.env.REDIS_HOST || "127.0.0.1" },
    },
    monitoring: { enabled: true, driver: "redis" },
    statistics: { enabled: true, model: "redis" },
};
"#;

#[test]
fn a_config_of_the_documents_is_mapped_and_the_rest_is_reported() {
    let folder = folder("documents");
    let file = write(&folder, "soketi.config.js", CONFIG_JS);
    let name = file.display().to_string();
    let environment = variables(&[("PUSHER_APP_KEY", "from-outside"), ("REDIS_PASSWORD", "null"), ("REDIS_HOST", "")]);
    let loaded = load(&[file], environment).unwrap();
    let (config, app) = (&loaded.config, &loaded.config.apps()[0]);
    assert_eq!((app.id.as_str(), app.keys[0].key.as_str()), ("pabrik", "from-outside"));
    assert_eq!((app.limits.max_connections, app.limits.enable_client_messages), (250, true));
    assert_eq!((config.server.port, config.connections.message_bytes_max), (6001, 1024 * 1024));
    assert_eq!(config.http.cors_origins, ["http://localhost", "http://localhost:8000"]);
    assert_eq!(config.http.cors_methods, ["GET", "POST"]);
    assert!(config.metrics.enabled && config.redis.password.is_empty());
    assert_eq!(loaded.origins["apps.0.key"], format!("{name}:8, PUSHER_APP_KEY"));
    assert_eq!(loaded.origins["server.port"], format!("{name}:18"));
    let said: Vec<&str> = loaded.warnings.iter().map(|warning| warning.split(&name).next().unwrap()).collect();
    let expected = [
        "apps.0.enableStatistics (from ",
        "database.driver (from ",
        "database.redis.lazyConnect (from ",
        "database.redis.retryDelayOnFailover (from ",
        "metrics.driver (from ",
        "metrics.redis (from ",
        "monitoring (from ",
        "statistics (from ",
    ];
    assert_eq!(BTreeSet::from_iter(said), BTreeSet::from(expected), "{:#?}", loaded.warnings);
    assert!(loaded.warnings.iter().all(|warning| warning.contains("has no effect, because ")));
}

#[test]
fn a_config_that_was_cut_off_never_starts_the_default_app() {
    let folder = folder("cut");
    for (end, _) in CONFIG_JS.match_indices('\n').skip(1) {
        let file = write(&folder, "soketi.config.js", &CONFIG_JS[..end]);
        match load(&[file], []) {
            Ok(loaded) => assert_eq!(loaded.config.apps()[0].id, "pabrik", "cut at {end}"),
            Err(faults) => assert!(faults.faults[0].contains("soketi.config.js:"), "{faults}"),
        }
    }
}

#[test]
fn a_config_that_does_something_is_refused_with_its_line() {
    let folder = folder("code");
    let file = write(&folder, "soketi.config.js", "const hush = 1;\nmodule.exports = { port: hush };\n");
    let found = run(&folder, "gema", &["check", "--config", "soketi.config.js"], &[]);
    assert_eq!(found.status.code(), Some(1));
    let told = String::from_utf8(found.stderr).unwrap();
    assert!(told.starts_with("fault: soketi.config.js:1: this is code, which gema does not run; "), "{told}");
    assert!(!told.contains("hush"), "{told}");
    fs::remove_file(file).unwrap();
}

/// Runs the program under another name, in `folder`.
fn command(folder: &Path, name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let program = folder.join(name);
    if !program.exists() {
        symlink(env!("CARGO_BIN_EXE_gema"), &program).unwrap();
    }
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env_clear().envs(environment.iter().copied());
    command
}

fn run(folder: &Path, name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    command(folder, name, arguments, environment).output().unwrap()
}

fn printed(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn dotenv_counts_after_the_environment_and_only_for_what_concerns_us() {
    let folder = folder("dotenv");
    let text = "APP_NAME=Toko Kami\nBROKEN=it's\n# Soketi\nSOKETI_PORT=7001 # the port\nSOKETI_HOST='127.0.0.1'\n\
                PUSHER_APP_ID=${APP_NAME}\nPUSHER_APP_KEY=k\nPUSHER_APP_SECRET=\"0012#3\"\nVITE_KEY=\"${PUSHER_APP_KEY}\"\n\
                SOKETI_METRICS_PROMETHEUS_PREFIX=\nGEMA_LOG_FORMAT=json\nREDIS_HOST=redis\n";
    write(&folder, ".env", text);
    let environment = [("SOKETI_HOST", "127.0.0.2"), ("PUSHER_APP_ID", "outside")];
    let lines = printed(run(&folder, "gema", &["config"], &environment));
    let line = |key: &str| lines.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap().to_owned();
    assert!(line("server.port").starts_with("server.port = 7001 "), "{lines}");
    for (key, origin) in [
        ("server.port", ".env:4, SOKETI_PORT"),
        ("server.host", "SOKETI_HOST"),
        ("apps.0.id", "PUSHER_APP_ID"),
        ("apps.0.key", ".env:7, PUSHER_APP_KEY"),
        ("apps.0.secret", ".env:8, PUSHER_APP_SECRET"),
        ("log.format", ".env:11, GEMA_LOG_FORMAT"),
        ("metrics.prefix", "default"),
        ("redis.host", "default"),
    ] {
        assert!(line(key).ends_with(&format!("# {origin}")), "{}", line(key));
    }
    assert!(!lines.contains("0012"), "{lines}");
}

#[test]
fn mistakes_in_dotenv_are_told_with_their_line() {
    let folder = folder("dotenv-mistakes");
    write(&folder, ".env", "APP_KEY=\nSOKETI_PROT=1\nSOKETI_PORT=many\nSOKETI_MODE=worker\nPUSHER_APP_SECRET='hush\n");
    let found = run(&folder, "gema", &["check"], &[]);
    assert_eq!(found.status.code(), Some(1));
    let told = String::from_utf8(found.stderr).unwrap();
    for fault in [
        "SOKETI_PROT (from .env:2) is not a variable of gema; did you mean SOKETI_PORT?",
        "server.port (from .env:3, SOKETI_PORT) is \"many\"; it must be a whole number",
        "SOKETI_MODE (from .env:4) must be full or server or left out: ",
        "PUSHER_APP_SECRET (from .env:5) has a quote that is not closed; close it",
    ] {
        assert!(told.contains(&format!("fault: {fault}")), "{fault}: {told}");
    }
    assert!(!told.contains("hush"), "{told}");
}

#[test]
fn variables_of_dotenv_are_there_for_a_config_that_asks() {
    let folder = folder("dotenv-config");
    write(&folder, ".env", "MY_PORT=7005\nMY_SECRET=hush\n");
    let text = "export default { port: parseInt(process.env.MY_PORT, 10), appManager: { array: { apps: [\n\
                { id: 'a', key: 'k', secret: process.env.MY_SECRET ?? '' }] } } };";
    write(&folder, "config.mjs", text);
    let lines = printed(run(&folder, "soketi", &["config", "--config=config.mjs"], &[]));
    assert!(
        lines.lines().any(|line| line.starts_with("server.port = 7005 ") && line.ends_with("# config.mjs:1, MY_PORT"))
    );
    assert!(!lines.contains("hush"), "{lines}");
}

#[test]
fn a_dotenv_that_cannot_be_read_never_starts_the_default_app() {
    let folder = folder("dotenv-unread");
    symlink(".env", folder.join(".env")).unwrap();
    let found = run(&folder, "gema", &["check"], &[]);
    let told = String::from_utf8(found.stderr).unwrap();
    assert!(told.starts_with("fault: .env cannot be read: ") && found.status.code() == Some(1), "{told}");
    let app = [("PUSHER_APP_ID", "a"), ("PUSHER_APP_KEY", "k"), ("PUSHER_APP_SECRET", "s")];
    let told = printed(run(&folder, "gema", &["check"], &app));
    assert!(told.starts_with("warning: .env cannot be read: "), "{told}");
}

/// What a WebSocket to `path` hears first.
fn first_frame(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut heard = Vec::new();
    while !heard.contains(&b'}') {
        let mut piece = [0; 1024];
        let read = stream.read(&mut piece).unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&piece[..read]);
    }
    String::from_utf8_lossy(&heard).into_owned()
}

/// A server that ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// Soketi's ways to be called, with the environment that PM2 and systemd files of the documents give it.
#[test]
fn soketis_names_and_command_lines_start_the_server() {
    let folder = folder("names");
    let config = CONFIG_JS.replace("6001", "0").replace("enabled: true,\n        driver", "port: 0, driver");
    write(&folder, "soketi.config.js", &config);
    let environment = [
        ("NODE_ENV", "production"),
        ("PUSHER_APP_ID", "gudang"),
        ("PUSHER_APP_KEY", "gudang-key"),
        ("PUSHER_APP_SECRET", "12345678"),
        ("REDIS_HOST", "127.0.0.1"),
        ("REDIS_PORT", "6379"),
        ("SOKETI_SHUTDOWN_GRACE_PERIOD", "100"),
        ("GEMA_LOG_FORMAT", "json"),
        ("GEMA_SERVER_WORKERS", "1"),
    ];
    let lines: [(&str, &[&str]); 4] = [
        ("soketi", &["start", "--config=soketi.config.js"]),
        ("soketi-pm2", &["start", "--config", "soketi.config.js"]),
        ("soketi", &["--config=soketi.config.js"]),
        ("node", &["--max-old-space-size=256", "/app/bin/server.js", "start", "--config=soketi.config.js"]),
    ];
    for (name, arguments) in lines {
        let mut server =
            Running(command(&folder, name, arguments, &environment).stdout(Stdio::piped()).spawn().unwrap());
        let mut log = BufReader::new(server.0.stdout.take().unwrap()).lines();
        let mut next = |message: &str| {
            let mut events = log.by_ref().map(|line| serde_json::from_str::<Json>(&line.unwrap()).unwrap());
            events
                .find(|event| event["message"] == message)
                .unwrap_or_else(|| panic!("{name} does not say {message:?}"))
        };
        let ready = next("ready");
        let address = ready["address"].as_str().unwrap();
        assert!(first_frame(address, "/app/gudang-key").contains("pusher:connection_established"));
        assert!(first_frame(address, "/app/gudang").contains("4001"));
        next("a client connects with an app id; clients need the app's key");
        let url = format!("http://{}", ready["metrics_address"].as_str().unwrap().replace("0.0.0.0", "127.0.0.1"));
        assert!(run(&folder, "wget", &["--no-verbose", "--spider", &url], &[]).status.success(), "{url}");
        assert!(Command::new("kill").arg(server.0.id().to_string()).status().unwrap().success());
        assert_eq!(server.0.wait().unwrap().code(), Some(0));
    }
    let other = run(&folder, "node", &["index.js"], &[]);
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8(other.stderr).unwrap().starts_with("this is gema, "));
}
