//! What Soketi 1.6.1 was seen to answer, and gema to the same. `soketi/wire.txt` has both: lines without a mark are
//! the same for both, one with `-why` is Soketi's, one with `+why` gema's, and `why` stands in the table here.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;
use std::time::SystemTime;

use gema::config::Config;
use gema::protocol::signature::Signer;
use gema::protocol::signature::body_md5;
use serde_json::Value;
use serde_json::json;
use support::http;
use support::http::Answer;
use support::server::TestServer;

use crate::wire::BINARY;
use crate::wire::CLOSE;
use crate::wire::PING;
use crate::wire::PONG;
use crate::wire::TEXT;
use crate::wire::Wire;
use crate::wire::masked;
use crate::wire::upgrade_head;

const RECORDED: &str = include_str!("soketi/wire.txt");

/// Differences on purpose: the name in the recording, Soketi's behaviour, gema's behaviour. The table of
/// docs/from-soketi.md is the same.
const DIFFERENCES: [(&str, &str, &str); 41] = [
    (
        "status",
        "status 200 for a request that it refuses, so Laravel loses events without noticing",
        "true status codes (400, 401, 403, 404, 408, 413, 429, 503) with one plain sentence",
    ),
    (
        "signature",
        "accepts any `auth_key` and `auth_version`, and signatures of any age",
        "the key must be one of the app's, the version 1.0, the time within ±600 s (`http.timestamp_tolerance_seconds`)",
    ),
    ("public", "client events on public channels are delivered", "refused; `allow_public_client_events` allows them"),
    ("encrypted", "client events on encrypted channels are delivered", "refused"),
    (
        "user-channel",
        "anybody may join `#server-to-user-X`; a signed-in user gets its events without joining",
        "only the signed-in user may join it, as pusher-js does",
    ),
    ("file", "a broken config file is skipped, and the default app is served", "gema does not start"),
    (
        "groups",
        "a group in a file replaces the whole group of defaults",
        "the group's settings are merged with the defaults",
    ),
    (
        "unknown",
        "unknown keys, variables and arguments are ignored",
        "a warning with the name that is probably meant; unknown names of gema's own are refused; `gema check --strict` refuses all",
    ),
    (
        "braces",
        "braces in a Redis prefix (`{shop}`) choose the slot in a Redis Cluster",
        "the braces are left out; gema adds its own where they are needed",
    ),
    ("bad-input", "one malformed frame or body stops the server", "only its sender gets an error"),
    (
        "slow",
        "slow readers lose messages silently",
        "their queue is bounded; a client that reads nothing for 10 s (`connections.slow_seconds`) is closed with 4100, counted and logged",
    ),
    (
        "joins",
        "no limit on joining and leaving",
        "50 joins per second and connection, 2,000 at once (`connections.subscriptions_per_second`, 0 for no limit); beyond it `pusher:subscription_error` with status 429",
    ),
    (
        "form",
        "`subscription_succeeded` and `cache_miss` have no data; other messages have objects as data",
        "data is a string of JSON, as in Pusher; in `pusher:error` it is an object",
    ),
    (
        "silence",
        "no answer to a message that it does not understand or cannot do",
        "`pusher:error` with code null; the connection stays open",
    ),
    (
        "words",
        "error texts and numbers of its own, and one message for a refused subscription",
        "Pusher's texts; a refused subscription gets `pusher:subscription_error` and `pusher:error`",
    ),
    ("quota", "a connection over quota gets 4100", "4004, as in Pusher"),
    ("protocol", "accepts any `protocol`", "4007 for a text that is no version, or an unsupported version"),
    (
        "path",
        "a WebSocket to another path gets HTTP status 404, and so do `/app/KEY/` and `//app/KEY`",
        "4005, which clients understand; repeated slashes count as one, and one at the end does not matter",
    ),
    ("binary", "binary messages are read as text", "refused, as in Pusher"),
    (
        "twice",
        "a second subscription to a channel succeeds again, even as another user",
        "refused; the first one stays",
    ),
    (
        "names",
        "`private-`, `presence-`, `cache-` and `client-` count anywhere in a name",
        "they count at the beginning only; `my-private-x` is a public channel",
    ),
    ("channel-data", "`channel_data` on a private channel is not signed", "if it is there, it must be signed"),
    (
        "members",
        "7 and \"7\" are two members; a client without a `user_id` is a member, too",
        "`user_id` is text in every message and is required; a missing `user_info` is null",
    ),
    ("members-max", "each connection of a user counts towards the members of a channel", "distinct users count"),
    ("sign-in-id", "the `id` of a sign-in may be a number", "the number becomes text"),
    (
        "sign-in",
        "a connection may sign in again as somebody else; a failed sign-in closes it",
        "one user per connection; a failure is answered with `pusher:error`. An id is text. Watchlists are served, and sign-in needs no setting",
    ),
    ("ok", "`{\"ok\":true}`", "`{}`, as in Pusher"),
    ("info", "`info` of an event has no effect", "the answer has the counts that it asks for"),
    (
        "counts",
        "counts in every list of channels; escapes in a channel's name are taken literally",
        "only the counts that `info` asks for; escapes are decoded",
    ),
    ("user-info", "`with_user_info` adds the members' `user_info`", "ids only, as in Pusher"),
    (
        "strict",
        "accepts events to no channel, to impossible channel names and with a malformed `socket_id`; refuses empty data",
        "refuses the former; accepts empty data",
    ),
    (
        "methods",
        "HEAD, browsers' preflights and other methods get 404",
        "HEAD and preflights work; other methods get 405",
    ),
    ("disabled", "the HTTP API of a disabled app works", "403"),
    (
        "rates",
        "`Retry-After` in fractions of a second, and only on accepted requests",
        "whole seconds, on refused requests (429, 503) unless they can never be accepted; 429 also has `X-RateLimit-Limit` and `X-RateLimit-Remaining`",
    ),
    (
        "kept",
        "closes the connection after each answer; does not understand chunked bodies",
        "HTTP/1.1: connections are kept, chunked bodies work",
    ),
    (
        "hosts",
        "`SOKETI_HOST` and `SOKETI_METRICS_HOST` may be any name",
        "addresses and `localhost`; other names are refused, because gema does not resolve them",
    ),
    (
        "colon",
        "a key with a colon works",
        "refused, because the signature begins behind the first colon; the ids and keys `.` and `..` are refused, too",
    ),
    (
        "newest",
        "a user's second connection does not find its own `user_info` in its member list",
        "it does, and later members get this newest `user_info`, too",
    ),
    (
        "quota",
        "`max_connections` of an app counts the connections of all nodes",
        "it counts those of each node, so a connection never waits for Redis. Give each node its share",
    ),
    (
        "nats",
        "the adapter `nats` needs a NATS, and its system account unless `nodesNumber` says how many nodes there are",
        "needs a NATS with JetStream (`nats-server -js`): [several-nodes.md](several-nodes.md#nats). Nodes find each other",
    ),
    (
        "ports",
        "opens UDP port 11002; two servers may share a port by accident",
        "opens two ports, and refuses to start if one is taken",
    ),
];

/// Those of them that frames and answers do not show. `tests/config.rs`, `tests/soketi.rs`, `bad_input`, `cluster`, `metrics`
/// and `restart` do.
const ELSEWHERE: [&str; 13] = [
    "file",
    "groups",
    "unknown",
    "bad-input",
    "slow",
    "hosts",
    "colon",
    "quota",
    "nats",
    "ports",
    "braces",
    "joins",
    "sign-in-id",
];

#[test]
fn every_difference_is_recorded_and_documented() {
    let marks = RECORDED.lines().filter(|line| line.starts_with(['+', '-']));
    let seen: BTreeSet<&str> = marks.map(|line| line[1..].split_once(' ').unwrap().0).chain(ELSEWHERE).collect();
    let told: BTreeSet<&str> = DIFFERENCES.iter().map(|(name, ..)| *name).collect();
    assert_eq!(seen, told);
    let table: String = DIFFERENCES.iter().map(|(_, soketi, gema)| format!("| {soketi} | {gema} |\n")).collect();
    let document = include_str!("../../docs/from-soketi.md");
    assert!(document.contains(&format!("| Soketi | gema |\n| --- | --- |\n{table}\n")), "{table}");
}

#[tokio::test]
async fn soketis_cases_are_answered_as_soketi_does_or_differ_as_the_table_says() {
    let server = server().await;
    let mut report = String::new();
    for case in RECORDED.split("### ").skip(1) {
        Replay::new(&server).run(case, &mut report).await;
    }
    assert!(report.is_empty(), "{report}");
}

/// A server with the eight apps of the recording.
async fn server() -> TestServer {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/soketi/apps.json");
    let config = gema::config::load(&[file], []).unwrap_or_else(|faults| panic!("{faults}")).config;
    TestServer::start_single_with(|own| {
        *own = Config { server: own.server.clone(), metrics: own.metrics.clone(), ..config };
    })
    .await
}

/// One case: its clients, and what has been heard and not been compared yet.
struct Replay<'a> {
    server: &'a TestServer,
    sockets: BTreeMap<String, Socket>,
    /// Of sockets that have gone, too.
    ids: BTreeMap<String, String>,
    heard: Vec<(String, String)>,
}

struct Socket {
    wire: Wire,
    app: App,
    /// The last signature that it has sent.
    signature: String,
}

#[derive(Clone)]
struct App {
    key: String,
    secret: String,
}

impl App {
    /// By id or key; for an unknown one the first.
    fn named(name: &str) -> Self {
        let file: Value = serde_json::from_str(include_str!("soketi/apps.json")).unwrap();
        let apps = file["appManager.array.apps"].as_array().unwrap();
        let app = apps.iter().find(|app| app["id"] == name || app["key"] == name).unwrap_or(&apps[0]);
        let text = |field: &str| app[field].as_str().unwrap().to_owned();
        Self { key: text("key"), secret: text("secret") }
    }

    fn sign(&self, text: &str) -> String {
        Signer::new(self.secret.as_bytes()).sign(&[text.as_bytes()])
    }
}

impl<'a> Replay<'a> {
    fn new(server: &'a TestServer) -> Self {
        Self { server, sockets: BTreeMap::new(), ids: BTreeMap::new(), heard: Vec::new() }
    }

    async fn run(&mut self, case: &str, report: &mut String) {
        let (title, lines) = case.split_once('\n').unwrap();
        let lines: Vec<&str> = lines.lines().filter_map(gemas).filter(|line| !line.is_empty()).collect();
        let is_step = |line: &&str| expectation(line).is_none();
        let mut rest = &lines[..];
        while !rest.is_empty() {
            let steps = rest.iter().position(|line| !is_step(line)).unwrap_or(rest.len());
            let (steps, after) = rest.split_at(steps);
            let answers = after.iter().position(is_step).unwrap_or(after.len());
            let (answers, after) = after.split_at(answers);
            rest = after;
            for step in steps {
                self.step(step).await;
                self.settle().await;
            }
            let expected = answers.iter().map(|line| expectation(line).unwrap());
            let expected: Vec<_> = expected.map(|(who, what)| (who.to_owned(), self.expand(what, who))).collect();
            let heard = std::mem::take(&mut self.heard);
            if !same(&expected, &heard) {
                writeln!(report, "{title}").unwrap();
                steps.iter().for_each(|step| writeln!(report, "  {step}").unwrap());
                expected.iter().for_each(|(who, what)| writeln!(report, "- {who}{what}").unwrap());
                heard.iter().for_each(|(who, what)| writeln!(report, "+ {who}{what}").unwrap());
            }
        }
    }

    async fn step(&mut self, step: &str) {
        if step.starts_with('#') {
            return;
        }
        if step == "pause" {
            // Rates are counted by the second.
            return tokio::time::sleep(Duration::from_millis(1100)).await;
        }
        if let Some((who, text)) = step.split_once('>').filter(|(who, _)| !who.contains(' ') || who.ends_with(')')) {
            let text = self.expand(text.strip_prefix(' ').unwrap_or(text), who);
            return match who.split_once('(').map_or((who, ""), |(who, how)| (who, how.trim_end_matches(')'))) {
                ("HTTP", how) => self.request(how, &text).await,
                ("RAW", _) => self.raw(&text).await,
                (who, "binary") => self.send(BINARY, who, &text).await,
                (who, _) => self.send(TEXT, who, &text).await,
            };
        }
        let (who, what) = step.split_once(' ').unwrap();
        let (what, more) = what.split_once(' ').unwrap_or((what, ""));
        match what {
            "opens" => self.open(who, more).await,
            "subscribes" => self.subscribe(who, more).await,
            "waits" => drop(self.take_frame(who).await),
            "closes" => {
                let mut socket = self.sockets.remove(who).unwrap();
                socket.wire.send(CLOSE, &1000_u16.to_be_bytes()).await;
                while socket.wire.next_frame().await.is_some() {}
            }
            _ => panic!("not a step: {step}"),
        }
    }

    async fn open(&mut self, who: &str, target: &str) {
        let app = App::named(target);
        let path = if target.starts_with('/') { target.to_owned() } else { format!("/app/{target}?protocol=7") };
        let (answer, wire) = Wire::upgrade(self.server.address(), &upgrade_head(&path, &[])).await;
        if answer.status == 101 {
            self.sockets.insert(who.to_owned(), Socket { wire, app, signature: String::new() });
        } else {
            self.heard.push((format!("{who} x "), format!("refused {}", answer.status)));
        }
    }

    async fn subscribe(&mut self, who: &str, what: &str) {
        let (channel, data) = what.split_once(' ').unwrap_or((what, ""));
        let auth = format!("{}:<good-hmac>", self.sockets[who].app.key);
        let data = json!({ "channel": channel, "auth": auth, "channel_data": data });
        self.send(TEXT, who, &json!({ "event": "pusher:subscribe", "data": data }).to_string()).await;
        self.settle().await;
        self.heard.clear();
    }

    async fn send(&mut self, kind: u8, who: &str, text: &str) {
        let signature = signed_text(text, &self.ids[who]).map(|signed| self.sockets[who].app.sign(&signed));
        let socket = self.sockets.get_mut(who).unwrap();
        socket.signature = signature.unwrap_or_default();
        let text = text.replace("<good-hmac>", &socket.signature).replace("<bad-hmac>", &"0".repeat(64));
        socket.wire.send(kind, text.as_bytes()).await;
    }

    /// Takes everything that the clients are sent because of what has happened so far. One ping, and what they have
    /// sent themselves has been taken; three more, and it has gone through another shard to their sockets.
    async fn settle(&mut self) {
        for _ in 0..4 {
            for who in self.sockets.keys().cloned().collect::<Vec<_>>() {
                self.ping(&who).await;
            }
        }
    }

    async fn ping(&mut self, who: &str) {
        let Some(socket) = self.sockets.get_mut(who) else { return };
        socket.wire.send_in_vain(&masked(PING, b"")).await;
        while self.take_frame(who).await.is_some_and(|kind| kind != PONG) {}
    }

    /// Takes the next frame of a client; `None` when there will be no more.
    async fn take_frame(&mut self, who: &str) -> Option<u8> {
        let (kind, payload) = self.sockets.get_mut(who)?.wire.next_frame().await.expect("a close comes before the end");
        match kind {
            TEXT => self.hear(who, &String::from_utf8(payload).unwrap()),
            CLOSE => {
                let code = u16::from_be_bytes([payload[0], payload[1]]).to_string();
                self.heard.push((format!("{who} x "), code));
                self.sockets.remove(who);
                return None;
            }
            _ => (),
        }
        Some(kind)
    }

    fn hear(&mut self, who: &str, text: &str) {
        let frame: Value = serde_json::from_str(text).unwrap();
        if frame["event"] == "pusher:connection_established" {
            let data: Value = serde_json::from_str(frame["data"].as_str().unwrap()).unwrap();
            self.ids.insert(who.to_owned(), data["socket_id"].as_str().unwrap().to_owned());
        }
        self.heard.push((format!("{who}< "), text.to_owned()));
    }

    /// `how` says what is unusual about the request.
    async fn request(&mut self, how: &str, text: &str) {
        let (method, rest) = text.split_once(' ').unwrap();
        let (target, body) = rest.split_once(' ').unwrap_or((rest, ""));
        let target =
            if how == "unsigned" || how == "metrics" { target.to_owned() } else { signed(method, target, body, how) };
        let address = if how == "metrics" { self.server.metrics_address() } else { self.server.address() };
        let answer = http::request(address, method, &target, &[], body.as_bytes()).await;
        self.answered(&answer);
    }

    async fn raw(&mut self, text: &str) {
        let mut text = text.replace("\\r\\n", "\r\n");
        if let Some(start) = text.find("<signed ") {
            let end = start + text[start..].find('>').unwrap();
            let target = signed("POST", "/apps/app-id/events", &text[start + 8..end], "");
            text.replace_range(start..=end, &target);
        }
        let mut connection = http::Connection::open(self.server.address()).await;
        connection.send(text).await;
        let answer = connection.answer().await;
        self.answered(&answer);
    }

    fn answered(&mut self, answer: &Answer) {
        let headers: String = ["retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "connection"]
            .iter()
            .filter_map(|name| answer.header(name).map(|value| format!("{name}: {value}; ")))
            .collect();
        self.heard.push(("HTTP< ".to_owned(), format!("{} [{headers}] {}", answer.status, answer.body)));
    }

    /// `<A.id>` is the id of A, `<3 x z>` stands for zzz.
    fn expand(&self, text: &str, who: &str) -> String {
        let mut text = text.to_owned();
        for (name, id) in &self.ids {
            text = text.replace(&format!("<{name}.id>"), id);
        }
        while let Some((start, end, run)) = run_of(&text) {
            text.replace_range(start..end, &run);
        }
        match who.strip_suffix("< ").and_then(|who| self.sockets.get(who)) {
            Some(socket) => text.replace("<good-hmac>", &socket.signature),
            None => text,
        }
    }
}

/// The first `<3 x z>`: where it is, and what it stands for.
fn run_of(text: &str) -> Option<(usize, usize, String)> {
    text.match_indices('<').find_map(|(start, _)| {
        let (inside, _) = text[start + 1..].split_once('>')?;
        let (count, letter) = inside.split_once(" x ")?;
        Some((start, start + inside.len() + 2, letter.repeat(count.parse().ok()?)))
    })
}

/// A line as gema has it; `None` where it is Soketi's alone.
fn gemas(line: &str) -> Option<&str> {
    match line.split_at_checked(1)? {
        ("-", _) => None,
        ("+", marked) => Some(marked.split_once(' ').unwrap().1),
        _ => Some(line),
    }
}

/// Who says what, where a line is not a step.
fn expectation(line: &str) -> Option<(&str, &str)> {
    let (who, rest) = line.split_once(' ')?;
    if who.ends_with('<') {
        return Some(line.split_at(who.len() + 1));
    }
    rest.starts_with("x ").then(|| line.split_at(who.len() + 3))
}

/// What a message has to sign.
fn signed_text(text: &str, socket_id: &str) -> Option<String> {
    let message: Value = serde_json::from_str(text).ok()?;
    let data = &message["data"];
    if let Some(user) = data["user_data"].as_str() {
        return Some(format!("{socket_id}::user::{user}"));
    }
    let channel = data["channel"].as_str()?;
    match data["channel_data"].as_str() {
        Some(data) if channel.starts_with("presence-") => Some(format!("{socket_id}:{channel}:{data}")),
        _ => Some(format!("{socket_id}:{channel}")),
    }
}

/// A request's target with its signature. `how` is `secret VALUE`, `without NAME` or `NAME VALUE` of a parameter.
fn signed(method: &str, target: &str, body: &str, how: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut app = App::named(path.split('/').nth(2).unwrap_or_default());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().to_string();
    let mut parameters =
        BTreeMap::from([("auth_key", app.key.clone()), ("auth_timestamp", now), ("auth_version", "1.0".to_owned())]);
    parameters.extend(query.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k, v.to_owned())));
    if !body.is_empty() {
        parameters.insert("body_md5", body_md5(body.as_bytes()));
    }
    match how.split_once(' ') {
        Some(("secret", secret)) => secret.clone_into(&mut app.secret),
        Some(("without", name)) => drop(parameters.remove(name)),
        Some((name, value)) => drop(parameters.insert(name, value.to_owned())),
        None => (),
    }
    let query = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    format!("{path}?{query}&auth_signature={}", app.sign(&format!("{method}\n{path}\n{query}")))
}

/// Whether each speaker has said the same; between speakers there is no order.
fn same(expected: &[(String, String)], heard: &[(String, String)]) -> bool {
    let speakers: BTreeSet<&String> = expected.iter().chain(heard).map(|(who, _)| who).collect();
    expected.len() == heard.len()
        && speakers.into_iter().all(|who| {
            let of = |all: &'_ [(String, String)]| -> Vec<String> {
                all.iter().filter(|(own, _)| own == who).map(|(_, what)| what.clone()).collect()
            };
            let (expected, heard) = (of(expected), of(heard));
            expected.len() == heard.len() && expected.iter().zip(&heard).all(|(expected, heard)| fits(expected, heard))
        })
}

/// Of an answer's headers only those count that are expected; of a refusal's sentence, `…`, that there is one.
fn fits(expected: &str, heard: &str) -> bool {
    let Some((status, rest)) = heard.split_once(" [") else { return fits_json(expected, heard) };
    let (headers, body) = rest.split_once("] ").unwrap();
    let (expected, named) = match expected.split_once(" [") {
        Some((status, rest)) => {
            let (named, body) = rest.split_once(']').unwrap();
            (format!("{status} {}", body.trim_start()), named.to_lowercase())
        }
        None => (expected.to_owned(), String::new()),
    };
    let (expected_status, expected_body) = expected.split_once(' ').unwrap_or((&expected, ""));
    let has = |header: &str| match header.split_once(": *") {
        Some((name, _)) => headers.contains(&format!("{name}: ")),
        None => headers.contains(&format!("{header}; ")),
    };
    expected_status == status
        && named.split("; ").filter(|header| !header.is_empty()).all(has)
        && (["", "…"].contains(&expected_body) || fits_json(expected_body, body))
}

fn fits_json(expected: &str, heard: &str) -> bool {
    match (serde_json::from_str(expected), serde_json::from_str(heard)) {
        (Ok(expected), Ok(heard)) => fits_value(&expected, &heard),
        _ => expected == heard,
    }
}

/// Members have no order, in a string of JSON neither; `<number>` is any number.
fn fits_value(expected: &Value, heard: &Value) -> bool {
    match (expected, heard) {
        (Value::Object(expected), Value::Object(heard)) => {
            expected.len() == heard.len()
                && expected.iter().all(|(name, own)| heard.get(name).is_some_and(|heard| fits_value(own, heard)))
        }
        (Value::String(expected), Value::Number(_)) => expected == "<number>",
        (Value::String(expected), Value::String(heard)) if expected.starts_with('{') => fits_json(expected, heard),
        _ => expected == heard,
    }
}
