//! What was written for Soketi: its options in files, `soketi.config.js`, `.env`, its names and command lines.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere, its helpers included")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use gema::config;
use gema::config::{ClusterDriver, Config, Fault};
use serde_json::Value as Json;
use serde_json::json;

/// A configuration that may be served, with sentences as the operator reads them.
#[derive(Debug)]
struct Loaded {
    config: Config,
    warnings: Vec<String>,
    ignored: Vec<String>,
    origins: BTreeMap<String, String>,
    whole: config::Loaded,
}

impl From<config::Loaded> for Loaded {
    fn from(whole: config::Loaded) -> Self {
        let unread = whole.warnings.iter().filter(|warning| warning.unread);
        Self {
            config: whole.config.clone(),
            warnings: sentences(&whole.warnings),
            ignored: unread.map(ToString::to_string).collect(),
            origins: whole.origins.iter().map(|(key, origin)| (key.clone(), origin.to_string())).collect(),
            whole,
        }
    }
}

impl Loaded {
    fn strict(self) -> Result<Self, Faults> {
        self.whole.strict().map(Self::from).map_err(Faults::from)
    }

    fn settings(&self) -> Vec<String> {
        self.whole.settings()
    }
}

#[derive(Debug)]
struct Faults {
    faults: Vec<String>,
    good: Box<Loaded>,
    shown: String,
}

impl From<config::Faults> for Faults {
    fn from(whole: config::Faults) -> Self {
        let (faults, shown) = (sentences(&whole.faults), whole.to_string());
        Self { faults, good: Box::new(Loaded::from(*whole.good)), shown }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

fn sentences(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

fn load(files: &[PathBuf], environment: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Faults> {
    config::load(files, environment).map(Loaded::from).map_err(Faults::from)
}

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
        Err(Faults { faults, good, .. }) => {
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
fn an_option_that_is_misspelt_is_told_with_the_one_that_is_meant() {
    let folder = folder("misspelt");
    let mut named = 0;
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
        let place = format!("{misspelt} (from {}:1) ", file.display());
        let loaded = load(&[file], []).unwrap_or_else(|faults| panic!("Soketi serves {misspelt}: {faults}"));
        let told = loaded.warnings.iter().find(|told| told.starts_with(&place)).unwrap().clone();
        assert!(!told.contains("hush"), "{told}");
        if told.contains("did you mean") {
            assert!(told.ends_with(&format!("; did you mean {option}?")), "{told}");
            named += 1;
        }
        assert_eq!(loaded.strict().is_err(), told.contains("neither Soketi nor gema"), "{option}");
    }
    assert!(named > 80, "{named}");
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

#[cfg(not(feature = "aws"))]
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
    let (loaded, file) = load_redis("\"prot\": 6380, \"natMap\": {\"a\": 1}, \"tls\": {\"ca\": \"hush\"}");
    let Faults { faults, good, .. } = loaded.unwrap_err();
    let misspelt =
        format!("database.redis.prot (from {file}:2) has no effect, because neither Soketi nor gema reads it; ");
    assert_eq!(good.ignored, [misspelt + "did you mean database.redis.port?"]);
    assert!(faults[0].starts_with(&format!("database.redis.natMap (from {file}:2) is not there: ")), "{faults:?}");
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
    assert!(faults[0].starts_with(&format!("database.mysql.ssl (from {file}:2) must be true, false, {{}} or ")));
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
        "server.port (from .env:3, SOKETI_PORT) is \"many\"; it must be a whole number",
        "SOKETI_MODE (from .env:4) must be full or server or left out: ",
        "PUSHER_APP_SECRET (from .env:5) has a quote that is not closed; close it",
    ] {
        assert!(told.contains(&format!("fault: {fault}")), "{fault}: {told}");
    }
    assert!(told.contains("warning: SOKETI_PROT (from .env:2) has no effect, "), "{told}");
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

/// A file or variables for Soketi, which ignores some of it.
fn load_text(folder: &Path, text: &str, environment: &[(&str, &str)]) -> Result<Loaded, Faults> {
    let file = write(folder, "soketi.json", text);
    load(&[file], variables(environment))
}

#[test]
fn keys_that_soketi_ignores_are_told_with_the_remedy_and_strict_refuses_them() {
    let folder = folder("ignored-keys");
    for (key, remedy) in [
        ("logPath", "remove it"),
        ("authEndpoint", "remove it"),
        ("publishClientEvents", "remove it"),
        ("database.default", "remove it"),
        ("database.sqlite", "remove it"),
        ("ssl.enabled", "remove it"),
        ("server.protocol", "remove it"),
        ("adapter.redis.host", "did you mean database.redis.host?"),
        ("adapter.redis.port", "did you mean database.redis.port?"),
        ("queue.redis.host", "did you mean database.redis.host?"),
        ("appManager.mysql.host", "did you mean database.mysql.host?"),
        ("ssl.key", "did you mean ssl.keyPath?"),
        ("ssl.cert", "did you mean ssl.certPath?"),
        ("database.redis.database", "did you mean database.redis.db?"),
        ("database.mysql.username", "did you mean database.mysql.user?"),
        ("cors.allowed_origins", "did you mean cors.origin?"),
        ("metrics.serverPort", "did you mean metrics.port?"),
        ("app_manager", "did you mean appManager?"),
        ("httpMaxPayloadSize", "did you mean httpApi.requestLimitInMb?"),
    ] {
        let loaded = load_text(&folder, &nested(key, &json!("hush")).to_string(), &[]).unwrap();
        let place = format!("{key} (from {}:1)", folder.join("soketi.json").display());
        let told = format!("{place} has no effect, because neither Soketi nor gema reads it; {remedy}");
        assert_eq!(loaded.ignored, std::slice::from_ref(&told), "{key}");
        assert!(loaded.warnings.contains(&told));
        let refused = loaded.strict().unwrap_err();
        assert_eq!(refused.faults, [told]);
        assert!(!refused.good.warnings.iter().any(|warning| warning.contains(key)), "told once");
    }
    for (field, remedy) in [
        ("name", "remove it"),
        ("authHost", "remove it"),
        ("hasRestrictedChannels", "remove it"),
        ("maxConections", "did you mean apps.0.max_connections?"),
    ] {
        let app = json!({ "id": "a", "key": "k", "secret": "s", field: "hush" });
        let loaded = load_text(&folder, &json!({ "appManager.array.apps": [app] }).to_string(), &[]).unwrap();
        let told = &loaded.ignored[0];
        assert!(
            told.starts_with(&format!("apps.0.{field} (from ")) && told.ends_with(&format!("; {remedy}")),
            "{told}"
        );
    }
}

#[test]
fn variables_that_soketi_ignores_are_told_with_the_remedy_and_strict_refuses_them() {
    let others = "keep it if another program does";
    for (name, remedy) in [
        ("SOKETI_PUBLIC_HOST", others),
        ("SOKETI_SERVER", others),
        ("SOKETI_PUSHER_SCHEME", others),
        ("SOKETI_METRICS_PORT", "did you mean SOKETI_METRICS_SERVER_PORT?"),
        ("SOKETI_ADAPTER_REDIS_HOST", "did you mean SOKETI_DB_REDIS_HOST?"),
        ("SOKETI_REDIS_PORT", "did you mean SOKETI_DB_REDIS_PORT?"),
        ("SOKETI_DEFAULT_APP_MAX_CONNECTIONS", "did you mean SOKETI_DEFAULT_APP_MAX_CONNS?"),
        ("SOKETI_CORS_ALLOWED_ORIGINS", "did you mean GEMA_HTTP_CORS_ORIGINS?"),
        ("SOKETI_CORS_ALLOWED_METHODS", "did you mean GEMA_HTTP_CORS_METHODS?"),
        ("SOKETI_CORS_ALLOWED_HEADERS", "did you mean GEMA_HTTP_CORS_HEADERS?"),
    ] {
        let loaded = load(&[], variables(&[(name, "hush")])).unwrap();
        let told = format!("{name} has no effect, because neither Soketi nor gema reads it; {remedy}");
        assert_eq!(loaded.ignored, [told], "{name}");
    }
    let folder = folder("strict");
    let environment = [("SOKETI_PUBLIC_HOST", "ws.example"), ("PUSHER_APP_SECRET", "mine")];
    let told = printed(run(&folder, "gema", &["check"], &environment));
    assert!(told.starts_with("warning: SOKETI_PUBLIC_HOST has no effect"), "{told}");
    let found = run(&folder, "gema", &["check", "--strict"], &environment);
    assert_eq!(found.status.code(), Some(1));
    let told = String::from_utf8(found.stderr).unwrap();
    assert!(told.starts_with("fault: SOKETI_PUBLIC_HOST has no effect"), "{told}");
    let quiet = [("SOKETI_PORT", "7001"), ("PUSHER_APP_SECRET", "mine")];
    assert!(run(&folder, "gema", &["check", "--strict"], &quiet).status.success());
}

#[test]
fn an_app_that_is_named_where_none_is_read_is_refused_with_the_place_where_it_belongs() {
    let folder = folder("unread-apps");
    let app = json!({ "id": "a", "key": "k", "secret": "hush" });
    for (key, value) in [
        ("app", app.clone()),
        ("appKey", json!("k")),
        ("appSecret", json!("hush")),
        ("appManager.options", json!({ "apps": [app] })),
        ("appManager.array.app", json!([app])),
        ("pusher", json!({ "app_id": "a", "app_key": "k", "app_secret": "hush" })),
    ] {
        let refused = load_text(&folder, &nested(key, &value).to_string(), &[]).unwrap_err();
        let place = format!("{key} (from {}:1) names an app where none is read", folder.join("soketi.json").display());
        assert!(refused.faults[0].starts_with(&place), "{refused}");
        assert!(refused.faults[0].contains("\"appManager.array.apps\": ["), "{refused}");
        assert!(refused.faults.len() == 1 && !refused.to_string().contains("hush"), "{refused}");
        // Where another app is served it is as harmless as anything else that Soketi ignores.
        let served = [("SOKETI_DEFAULT_APP_SECRET", "mine")];
        assert_eq!(load_text(&folder, &nested(key, &value).to_string(), &served).unwrap().ignored.len(), 1);
    }
    // What everybody knows names nobody's app.
    let default = json!({ "app": { "id": "app-id", "key": "app-key", "secret": "app-secret" }, "appKey": "app-key" });
    assert_eq!(load_text(&folder, &default.to_string(), &[]).unwrap().ignored.len(), 2);
    for name in ["SOKETI_APP_SECRET", "SOKETI_APP_KEY", "SOKETI_DEFAULT_APP_SECERT", "DEFAULT_APP_SECRET"] {
        let refused = load(&[], variables(&[(name, "hush")])).unwrap_err();
        assert!(refused.faults[0].starts_with(&format!("{name} names an app where none is read")), "{refused}");
        assert!(refused.faults[0].ends_with("SOKETI_DEFAULT_APP_SECRET") && refused.faults.len() == 1, "{refused}");
        load(&[], variables(&[(name, "hush"), ("PUSHER_APP_SECRET", "mine")])).unwrap();
    }
}

#[test]
fn gemas_own_keys_stay_strict_whatever_the_file() {
    let folder = folder("own-strict");
    for (key, meant) in [
        ("limits.max_conections", "did you mean limits.max_connections?"),
        ("limits.whatever", "remove it"),
        ("server.trusted_proxys", "did you mean server.trusted_proxies?"),
        ("connections.pingSeconds", "did you mean connections.ping_seconds?"),
        ("redis.pasword", "did you mean redis.password?"),
    ] {
        let refused = load_text(&folder, &nested(key, &json!("hush")).to_string(), &[]).unwrap_err();
        let place = format!("{key} (from {}:1) is not a setting; {meant}", folder.join("soketi.json").display());
        assert_eq!(refused.faults, [place]);
    }
    let app = json!({ "id": "a", "key": "k", "secret": "s", "allowed_origns": ["a.example"] });
    let refused = load_text(&folder, &json!({ "apps": [app] }).to_string(), &[]).unwrap_err();
    assert!(refused.faults[0].ends_with("did you mean apps.0.allowed_origins?"), "{refused}");
    // Nobody but gema reads these.
    for (name, text) in [
        ("own.toml", "logPath = 'x'\n[adapter.redis]\nhost = 'x'"),
        ("own.yaml", "logPath: x\nadapter: {redis: {host: x}}"),
    ] {
        let refused = load(&[write(&folder, name, text)], []).unwrap_err();
        assert_eq!(refused.faults.len(), 2, "{refused}");
    }
}

/// Configurations as people have put them on the web, of different shape, with other names in them. What each says
/// that has no effect, and what it must say otherwise to be served.
const PASTED: [Pasted; 10] = [
    Pasted {
        from: "a Swarm stack with Traefik",
        file: None,
        variables: &[
            ("SOKETI_DEBUG", "1"),
            ("SOKETI_METRICS_SERVER_PORT", "9601"),
            ("SOKETI_DEFAULT_APP_ID", "gudang"),
            ("SOKETI_DEFAULT_APP_KEY", "gudang-key"),
            ("SOKETI_DEFAULT_APP_SECRET", "gudang-secret"),
            ("SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES", "true"),
            ("SOKETI_DEFAULT_APP_ENABLED", "true"),
            ("SOKETI_DEFAULT_APP_MAX_CONNECTIONS", "100"),
            ("SOKETI_DEFAULT_APP_MAX_BACKEND_EVENTS_PER_SEC", "100"),
            ("SOKETI_DEFAULT_APP_MAX_CLIENT_EVENTS_PER_SEC", "100"),
            ("SOKETI_DEFAULT_APP_MAX_READ_REQ_PER_SEC", "100"),
            ("SOKETI_CORS_ALLOWED_ORIGINS", "*"),
            ("SOKETI_CORS_ALLOWED_HEADERS", "*"),
            ("SOKETI_CORS_ALLOWED_METHODS", "*"),
        ],
        app: "gudang",
        ignored: &[
            "SOKETI_CORS_ALLOWED_HEADERS",
            "SOKETI_CORS_ALLOWED_METHODS",
            "SOKETI_CORS_ALLOWED_ORIGINS",
            "SOKETI_DEFAULT_APP_MAX_CONNECTIONS",
        ],
    },
    Pasted {
        from: "Coolify's template of the service",
        file: None,
        variables: &[
            ("SERVICE_FQDN_SOKETI_6001", "ws.gudang.example"),
            ("SOKETI_DEBUG", "0"),
            ("SOKETI_DEFAULT_APP_ID", "gudang"),
            ("SOKETI_DEFAULT_APP_KEY", "Z3VkYW5nLWtleQ=="),
            ("SOKETI_DEFAULT_APP_SECRET", "Z3VkYW5nLXNlY3JldA=="),
            ("SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES", ""),
            ("SOKETI_PUSHER_SCHEME", "https"),
        ],
        app: "gudang",
        ignored: &["SOKETI_PUSHER_SCHEME"],
    },
    Pasted {
        from: "systemd's EnvironmentFile of an installer, with apps in PostgreSQL",
        file: None,
        variables: &[
            ("SOKETI_DEBUG", "false"),
            ("SOKETI_APP_MANAGER_DRIVER", "postgres"),
            ("SOKETI_DB_POSTGRES_HOST", "localhost"),
            ("SOKETI_DB_POSTGRES_PORT", "5432"),
            ("SOKETI_DB_POSTGRES_USERNAME", "gudang"),
            ("SOKETI_DB_POSTGRES_PASSWORD", "hush"),
            ("SOKETI_DB_POSTGRES_DATABASE", "gudang"),
            ("SOKETI_APP_MANAGER_POSTGRES_TABLE", "apps"),
            ("SOKETI_APP_MANAGER_POSTGRES_VERSION", "16"),
            ("SOKETI_APP_MANAGER_CACHE_ENABLED", "true"),
            ("SOKETI_APP_MANAGER_CACHE_TTL", "-1"),
            ("SOKETI_RATE_LIMITER_DRIVER", "local"),
            ("SOKETI_HTTP_MAX_REQUEST_SIZE", "100"),
            ("SOKETI_CHANNEL_MAX_NAME_LENGTH", "100"),
            ("SOKETI_PRESENCE_MAX_MEMBER_SIZE", "10"),
            ("SOKETI_WEBHOOKS_BATCHING", "1"),
            ("SOKETI_WEBHOOKS_BATCHING_DURATION", "1000"),
            ("SOKETI_DEFAULT_APP_ID", "gudang"),
            ("SOKETI_APP_KEY", "gudang-key"),
            ("SOKETI_APP_ID", "gudang"),
            ("SOKETI_APP_SECRET", "hush"),
            ("SOKETI_HOST", "127.0.0.1"),
            ("SOKETI_SHUTDOWN_GRACE_PERIOD", "10000"),
        ],
        app: "",
        ignored: &[
            "SOKETI_APP_ID",
            "SOKETI_APP_KEY",
            "SOKETI_APP_SECRET",
            "SOKETI_CHANNEL_MAX_NAME_LENGTH",
            "SOKETI_HTTP_MAX_REQUEST_SIZE",
        ],
    },
    Pasted {
        from: "a Deployment of Kubernetes for several pods",
        file: None,
        variables: &[
            ("SOKETI_SERVICE_HOST", "10.43.0.17"),
            ("SOKETI_PORT_6001_TCP", "tcp://10.43.0.17:6001"),
            ("SOKETI_DEFAULT_APP_ID", "gudang"),
            ("SOKETI_DEFAULT_APP_KEY", "gudang-key"),
            ("SOKETI_DEFAULT_APP_SECRET", "gudang-secret"),
            ("SOKETI_ADAPTER_DRIVER", "redis"),
            ("SOKETI_ADAPTER_REDIS_HOST", "redis-master"),
            ("SOKETI_ADAPTER_REDIS_PORT", "6379"),
            ("SOKETI_DEBUG", "1"),
        ],
        app: "gudang",
        ignored: &["SOKETI_ADAPTER_REDIS_HOST", "SOKETI_ADAPTER_REDIS_PORT"],
    },
    Pasted {
        from: "a list of Compose whose quotes stay",
        file: None,
        variables: &[
            ("SOKETI_DEBUG", "'1'"),
            ("SOKETI_DEFAULT_APP_ID", "gudang"),
            ("SOKETI_DEFAULT_APP_KEY", "gudang-key"),
            ("SOKETI_DEFAULT_APP_SECRET", "gudang-secret"),
            ("SOKETI_METRICS_ENABLED", "'true'"),
            ("METRICS_SERVER_PORT", "9601"),
            ("SOKETI_DEFAULT_APP_USER_AUTHENTICATION", "true"),
            ("SOKETI_USER_AUTHENTICATION_TIMEOUT", "50000000"),
        ],
        app: "gudang",
        ignored: &[],
    },
    Pasted {
        from: "a nested file of a tutorial with the client's part beside the server's",
        file: Some(
            r#"{
    "port": 6001,
    "metrics": { "enabled": true, "driver": "prometheus", "port": 9601 },
    "debug": true,
    "database": { "redis": { "host": "127.0.0.1", "port": 6379, "keyPrefix": "soketi:" } },
    "rateLimiter": { "driver": "local" },
    "httpApi": { "acceptTraffic": { "memoryThreshold": 85 } },
    "pusher": { "host": "127.0.0.1", "port": 6001, "key": "gudang-key", "secret": "hush", "app_id": "gudang", "useTLS": false },
    "ssl": { "enabled": false },
    "appManager": { "driver": "array", "array": { "apps": [{
        "id": "gudang", "key": "gudang-key", "secret": "hush", "maxConnections": 100, "enableStats": true,
        "enableClientMessages": true, "maxBackendEventsPerSecond": 100, "maxClientEventsPerSecond": 100,
        "maxReadRequestsPerSecond": 100 }] } }
}"#,
        ),
        variables: &[],
        app: "gudang",
        ignored: &["pusher", "ssl.enabled"],
    },
    Pasted {
        from: "a flat file that PM2 starts",
        file: Some(
            r#"{
  "debug": false, "host": "0.0.0.0", "port": 6001,
  "appManager.driver": "array",
  "appManager.array.apps": [
    { "id": "gudang", "key": "gudang-key", "secret": "hush", "maxConnections": 10000, "enableClientMessages": true,
      "enabled": true, "webhooks": [] }
  ],
  "metrics.enabled": false,
  "maxBackpressureInBytes": 67108864,
  "httpMaxPayloadSize": 104857600
}"#,
        ),
        variables: &[],
        app: "gudang",
        ignored: &["httpMaxPayloadSize", "maxBackpressureInBytes"],
    },
    Pasted {
        from: "a file with the whole list of fields and one of another server",
        file: Some(
            r#"{
    "debug": true, "port": 6001, "appManager.driver": "array",
    "appManager.array.apps": [{
        "id": "gudang", "key": "gudang-key", "secret": "hush", "webhooks": [], "maxConnections": -1,
        "enableClientMessages": false, "enabled": true, "maxBackendEventsPerSecond": -1, "maxClientEventsPerSecond": -1,
        "maxReadRequestsPerSecond": -1, "hasRestrictedChannels": false, "enableStatistics": true, "name": "Gudang"
    }],
    "cors.credentials": true, "cors.origin": ["*"], "cors.allowed_origins": ["*"]
}"#,
        ),
        variables: &[],
        app: "gudang",
        ignored: &["apps.0.hasRestrictedChannels", "apps.0.name", "cors.allowed_origins"],
    },
    Pasted {
        from: "a panel's file with MySQL in the wrong group",
        file: Some(
            r#"{ "port": 6001, "appManager.driver": "mysql", "appManager.mysql.host": "localhost", "appManager.mysql.port": 3306,
                 "appManager.mysql.user": "gudang", "appManager.mysql.password": "hush", "appManager.mysql.database": "gudang" }"#,
        ),
        variables: &[],
        app: "",
        ignored: &[
            "appManager.mysql.database",
            "appManager.mysql.host",
            "appManager.mysql.password",
            "appManager.mysql.port",
            "appManager.mysql.user",
        ],
    },
    Pasted {
        from: "Sail's service, with what the application's own variables are called",
        file: None,
        variables: &[
            ("SOKETI_DEBUG", "1"),
            ("SOKETI_METRICS_SERVER_PORT", "9601"),
            ("SOKETI_DEFAULT_APP_ID", "gudang"),
            ("SOKETI_DEFAULT_APP_KEY", "gudang-key"),
            ("SOKETI_DEFAULT_APP_SECRET", "gudang-secret"),
            ("SOKETI_PUBLIC_HOST", "ws.gudang.example"),
            ("SOKETI_PUBLIC_PORT", "443"),
        ],
        app: "gudang",
        ignored: &["SOKETI_PUBLIC_HOST", "SOKETI_PUBLIC_PORT"],
    },
];

/// See `PASTED`.
struct Pasted {
    from: &'static str,
    file: Option<&'static str>,
    variables: &'static [(&'static str, &'static str)],
    /// Its app; empty if a database has the apps.
    app: &'static str,
    /// Names that have no effect.
    ignored: &'static [&'static str],
}

#[test]
fn configurations_as_people_paste_them_are_served_and_tell_what_has_no_effect() {
    let folder = folder("pasted");
    for Pasted { from, file, variables: given, app, ignored } in PASTED {
        let file = file.map(|text| write(&folder, "soketi.json", text));
        let loaded = load(file.as_slice(), variables(given)).unwrap_or_else(|faults| panic!("{from}: {faults}"));
        let mut names: Vec<&str> = loaded.ignored.iter().map(|told| told.split(' ').next().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ignored, "{from}");
        assert_eq!(loaded.config.apps().first().map_or("", |app| app.id.as_str()), app, "{from}");
        assert!(!loaded.warnings.concat().contains("hush"), "{from}");
        // Not with whichever Redis is on this machine.
        if loaded.config.cluster.driver == ClusterDriver::Local {
            let key = loaded.config.apps().first().map(|app| app.keys[0].key.clone());
            serves(&folder, file.is_some(), given, key.as_deref());
        }
        assert_eq!(loaded.strict().is_ok(), ignored.is_empty(), "{from}");
    }
}

/// Starts the server with this configuration, on other ports, and connects if there is a key.
fn serves(folder: &Path, has_file: bool, environment: &[(&str, &str)], key: Option<&str>) {
    let arguments: &[&str] = if has_file { &["start", "--config=soketi.json"] } else { &["start"] };
    let places = [("GEMA_SERVER_HOST", "127.0.0.1"), ("GEMA_SERVER_PORT", "0"), ("GEMA_METRICS_HOST", "127.0.0.1")];
    let others = [("GEMA_METRICS_PORT", "0"), ("GEMA_LOG_FORMAT", "json"), ("GEMA_SERVER_WORKERS", "1")];
    let environment = [environment, &places, &others].concat();
    let mut server =
        Running(command(folder, "soketi", arguments, &environment).stdout(Stdio::piped()).spawn().unwrap());
    let log = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let mut events = log.map(|line| serde_json::from_str::<Json>(&line.unwrap()).unwrap());
    let ready = events.find(|event| event["message"] == "ready").unwrap();
    if let Some(key) = key {
        let heard = first_frame(ready["address"].as_str().unwrap(), &format!("/app/{key}?protocol=7"));
        assert!(heard.contains("pusher:connection_established"), "{heard}");
    }
}

/// The environment of Soketi 0.x, which Soketi ignores since.
#[test]
fn variables_without_a_prefix_never_lead_to_the_default_app() {
    let old = [("DEFAULT_APP_ID", "gudang"), ("DEFAULT_APP_KEY", "gudang"), ("DEFAULT_APP_SECRET", "hush")];
    let refused = load(&[], variables(&[&old[..], &[("SOKETI_DEBUG", "0")]].concat())).unwrap_err().to_string();
    assert!(refused.contains("set SOKETI_DEFAULT_APP_ID, SOKETI_DEFAULT_APP_KEY and ") && !refused.contains("hush"));
}

/// What a WebSocket to `path` hears first.
fn first_frame(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
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
    let lines: [(&str, &[&str]); 7] = [
        ("soketi", &["start", "--config=soketi.config.js"]),
        ("soketi-pm2", &["start", "--config", "soketi.config.js"]),
        ("soketi", &["--config=soketi.config.js"]),
        ("node", &["--max-old-space-size=256", "/app/bin/server.js", "start", "--config=soketi.config.js"]),
        ("node", &["/app/bin/server.js start", "--config=soketi.config.js"]),
        ("pm2", &["/app/bin/server.js", "start", "--config=soketi.config.js"]),
        ("soketi", &["start", "--port=7001", "--debug", "--config", "soketi.config.js"]),
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
        let bare = url.trim_start_matches("http://");
        let checks: [&[&str]; 4] = [
            &["--no-verbose", "--spider", &url],
            &["-q", &url, "-O", "/dev/null"],
            &["--spider", &url, "-T", "5"],
            &["-qO-", bare],
        ];
        for check in checks {
            let checked = run(&folder, "wget", check, &[]);
            assert!(checked.status.success(), "{check:?}: {}", String::from_utf8_lossy(&checked.stderr));
        }
        assert!(Command::new("kill").arg(server.0.id().to_string()).status().unwrap().success());
        assert_eq!(server.0.wait().unwrap().code(), Some(0));
    }
    let named = run(&folder, "soketi", &["start", "--app-secret=hush"], &[]);
    assert_eq!(named.status.code(), Some(1));
    let told = String::from_utf8(named.stderr).unwrap();
    assert!(
        told.starts_with("fault: --app-secret names an app where none is read") && !told.contains("hush"),
        "{told}"
    );
    let other = run(&folder, "node", &["index.js"], &[]);
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8(other.stderr).unwrap().starts_with("this is gema, "));
}
