//! Tokens: which are accepted, which are refused, and that no secret ever gets out.

use std::fmt::Debug;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gema::config::AppEntry;
use gema::config::Config;
use gema::config::KeyPair;
use gema::config::Secret;
use gema::protocol::grant::Keys;
use gema::protocol::grant::SubscribeLimits;
use gema::protocol::grant::Verifier;
use gema::protocol::identity::MemberLimits;
use gema::protocol::message::SignIn;
use gema::protocol::message::Subscribe;
use gema::protocol::signature::Signer;
use gema::protocol::socket_id::SocketId;
use gema::protocol::view::ViewLimits;
use parking_lot::Mutex;
use serde_json::json;
use support::client::Client;
use support::http::Answer;
use support::http::request;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::APP_SECRET;
use support::server::TestServer;
use support::server::channel_auth;
use support::server::token;
use support::server::user_auth;
use tracing::field::Field;
use tracing::field::Visit;
use tracing::span;

/// The app of all published examples.
const KEY: &str = "278d425bdf160c739803";
const SECRET: &str = "7ad3773142a6692b25b8";

const MR_CHANNELS: &str = r#"{"user_id":"10","user_info":{"name":"Mr. Channels"}}"#;
const MR_CHANNELS_IN_PYTHON: &str = r#"{"user_id": "10", "user_info": {"name": "Mr. Channels"}}"#;

/// Channel, `channel_data` and signature of connection 1234.1234.
const CHANNEL_SIGNATURES: [(&str, Option<&str>, &str); 8] = [
    ("private-foobar", None, "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"),
    ("private-cache-foobar", None, "395f4a03f06e17b74af8d9c58386cf386e70176f58452420f042b6e1bddefa43"),
    ("presence-foobar", Some(MR_CHANNELS), "4c6d8fc42a207ba96a0779844171b0bb819d96ffceef9609f5cce596ab17a800"),
    (
        "presence-foobar",
        Some(r#"{"user_id":10,"user_info":{"name":"Mr. Channels"}}"#),
        "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
    ),
    (
        "presence-foobar",
        Some(r#"{"user_id":"u-é","user_info":{"name":"Zoë 😀","url":"a/b"}}"#),
        "b9e8e267cd3091194d2944b5012f1ab6425c5367b0cee83006c48210685d6a72",
    ),
    (
        "presence-foobar",
        Some(MR_CHANNELS_IN_PYTHON),
        "96f61cf0b64a80c5cf1852da9dea2998a90fd7fa840c4cc62212573f1c524cdf",
    ),
    ("presence-foobar", None, "71506e66e7fdca106571b8999a849ad34245bc653772e51e0026c1a2475b92ba"),
    ("private-encrypted-foobar", None, "e6a18892d037c5d5e76a2265df4f086ffc38631605530dfd214aa5bff495f533"),
];

/// `user_data` and signature of connection 1234.1234.
const USER_SIGNATURES: [(&str, &str); 3] = [
    (r#"{"id":"12345"}"#, "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba"),
    (r#"{"id": "12345"}"#, "d06dc389319077f890321aeac54e04868921e1601686928f61fc9bf702e92830"),
    (
        r#"{"id":"12345","user_info":{"name":"Ada"},"watchlist":["7","8"]}"#,
        "66bcb229cb71d1ff2f9fd89dc15ab762802e7a3ff55ff0c2e9dfe348eda070da",
    ),
];

const LIMITS: SubscribeLimits = SubscribeLimits {
    name_length_max: 200,
    member: MemberLimits { user_id_length_max: 128, user_info_bytes_max: 1024 },
    view: ViewLimits { pattern_length_max: 200, stars: true, now: Duration::ZERO },
};

fn subscribe(channel: &str, auth: &str, channel_data: Option<&str>) -> Subscribe {
    let channel_data = channel_data.map(str::to_owned);
    Subscribe { channel: channel.to_owned(), auth: Some(auth.to_owned()), channel_data }
}

/// Subscribes with any token; the answer is left to read.
async fn send(client: &mut Client, channel: &str, auth: &str, channel_data: Option<&str>) {
    let mut data = json!({ "auth": auth, "channel": channel });
    if let Some(channel_data) = channel_data {
        data["channel_data"] = channel_data.into();
    }
    client.send_json(json!({ "event": "pusher:subscribe", "data": data })).await;
}

async fn accepted(client: &mut Client, channel: &str, auth: &str, channel_data: Option<&str>) {
    send(client, channel, auth, channel_data).await;
    client.next_event("pusher_internal:subscription_succeeded").await;
    client.unsubscribe(channel).await;
}

/// The token must be refused because of its signature.
async fn refused(client: &mut Client, channel: &str, auth: &str, channel_data: Option<&str>) {
    send(client, channel, auth, channel_data).await;
    let mut signed = format!("{}:{channel}", client.socket_id);
    if let Some(channel_data) = channel_data {
        signed = format!("{signed}:{channel_data}");
    }
    let message = format!("Invalid signature: Expected HMAC SHA256 hex digest of {signed}");
    client.next_refusal(channel, "AuthError", 401, &message).await;
}

// G-184
#[test]
fn the_published_signatures_are_reproduced_and_accepted() {
    let signer = Signer::new(SECRET.as_bytes());
    let keys = Keys::new([(KEY, SECRET.as_bytes())]);
    let socket_id = SocketId::parse("1234.1234").unwrap();
    let user = USER_SIGNATURES.map(|(user_data, signature)| {
        assert_eq!(signer.sign(&[b"1234.1234::user::", user_data.as_bytes()]), signature);
        let sign_in = SignIn { auth: format!("{KEY}:{signature}"), user_data: user_data.to_owned() };
        Verifier { keys: &keys, socket_id, user: None }.sign_in(&sign_in).unwrap()
    });
    let verifier = Verifier { keys: &keys, socket_id, user: Some(&user[0]) };
    for (channel, channel_data, signature) in CHANNEL_SIGNATURES {
        let signed = match channel_data {
            Some(channel_data) => format!("1234.1234:{channel}:{channel_data}"),
            None => format!("1234.1234:{channel}"),
        };
        assert_eq!(signer.sign(&[signed.as_bytes()]), signature, "{signed}");
        let subscribe = subscribe(channel, &format!("{KEY}:{signature}"), channel_data);
        assert_eq!(verifier.grant(&subscribe, LIMITS).unwrap().channel().as_str(), channel);
    }
}

// G-185
#[test]
fn the_documentations_wrong_signature_is_refused() {
    let wrong = "afaed3695da2ffd16931f457e338e6c9f2921fa133ce7dac49f529792be6304c";
    let keys = Keys::new([(KEY, SECRET.as_bytes())]);
    let verifier = Verifier { keys: &keys, socket_id: SocketId::parse("1234.1234").unwrap(), user: None };
    let numeric = r#"{"user_id":10,"user_info":{"name":"Mr. Channels"}}"#;
    for channel_data in [MR_CHANNELS, MR_CHANNELS_IN_PYTHON, numeric] {
        let subscribe = subscribe("presence-foobar", &format!("{KEY}:{wrong}"), Some(channel_data));
        let error = verifier.grant(&subscribe, LIMITS).unwrap_err();
        let signed = format!("1234.1234:presence-foobar:{channel_data}");
        assert_eq!(error.to_string(), format!("Invalid signature: Expected HMAC SHA256 hex digest of {signed}"));
    }
    // It belongs to somebody else.
    let pusher = numeric.replace("Mr. Channels", "Mr. Pusher");
    let subscribe = subscribe("presence-foobar", &format!("{KEY}:{wrong}"), Some(&pusher));
    verifier.grant(&subscribe, LIMITS).unwrap();
}

// G-186, G-187, G-188
#[tokio::test]
async fn a_signature_holds_for_one_connection_one_channel_and_one_secret() {
    let server = TestServer::start_with(|config| config.apps.push(AppEntry::new("2", "key-2", "secret-2"))).await;
    let (mut client, other) = (server.connect().await, server.connect().await);
    for (channel, channel_data) in
        [("private-x", None), ("private-encrypted-x", None), ("presence-x", Some(MR_CHANNELS))]
    {
        let auth = channel_auth(&other.socket_id, channel, channel_data);
        refused(&mut client, channel, &auth, channel_data).await;
        for another in ["private-y", "private-x2", "private-", "presence-y"] {
            let auth = channel_auth(&client.socket_id, another, channel_data);
            refused(&mut client, channel, &auth, channel_data).await;
        }
        let signed = match channel_data {
            Some(channel_data) => format!("{}:{channel}:{channel_data}", client.socket_id),
            None => format!("{}:{channel}", client.socket_id),
        };
        refused(&mut client, channel, &token(APP_KEY, "secret-2", &signed), channel_data).await;
        refused(&mut client, channel, &token(APP_KEY, "", &signed), channel_data).await;
        accepted(&mut client, channel, &token(APP_KEY, APP_SECRET, &signed), channel_data).await;
    }
    client.nothing_came().await;
}

// G-189
#[tokio::test]
async fn a_token_with_the_key_of_another_app_or_of_nobody_is_refused() {
    let server = TestServer::start_with(|config| config.apps.push(AppEntry::new("2", "key-2", "secret-2"))).await;
    let mut client = server.connect().await;
    let signed = format!("{}:private-x", client.socket_id);
    for (key, secret) in [
        ("key-2", "secret-2"),
        ("key-2", APP_SECRET),
        ("nobody", APP_SECRET),
        ("APP-KEY", APP_SECRET),
        (APP_ID, APP_SECRET),
    ] {
        send(&mut client, "private-x", &token(key, secret, &signed), None).await;
        let message = format!("Invalid key in subscription auth data: '{key}'");
        client.next_refusal("private-x", "AuthError", 401, &message).await;
    }
    // The other app takes the token of its own key.
    let mut theirs = server.connect_to("key-2").await;
    let signed = format!("{}:private-x", theirs.socket_id);
    accepted(&mut theirs, "private-x", &token("key-2", "secret-2", &signed), None).await;
}

// G-190, G-191
#[tokio::test]
async fn each_active_key_of_an_app_signs_with_its_own_secret() {
    let pair = |key: &str, secret: &str| KeyPair { key: key.to_owned(), secret: Secret::new(secret) };
    let server = TestServer::start_with(|config| config.apps[0].keys = vec![pair("new-key", "new-secret")]).await;
    for connected_with in [APP_KEY, "new-key"] {
        let mut client = server.connect_to(connected_with).await;
        let signed = format!("{}:private-x", client.socket_id);
        for (key, secret) in [(APP_KEY, APP_SECRET), ("new-key", "new-secret")] {
            accepted(&mut client, "private-x", &token(key, secret, &signed), None).await;
        }
        for (key, secret) in [(APP_KEY, "new-secret"), ("new-key", APP_SECRET)] {
            refused(&mut client, "private-x", &token(key, secret, &signed), None).await;
        }
        let user_data = r#"{"id":"12345"}"#;
        let auth = token("new-key", "new-secret", &format!("{}::user::{user_data}", client.socket_id));
        client.send_json(json!({ "event": "pusher:signin", "data": { "auth": auth, "user_data": user_data } })).await;
        client.next_event("pusher:signin_success").await;
        client.close().await;
    }
    server.api_of(APP_ID, "new-key", "new-secret").publish("news", "event", "x").await;
    server.drain().await;

    // The old key has been taken out.
    let server =
        TestServer::start_with(|config| config.apps = vec![AppEntry::new(APP_ID, "new-key", "new-secret")]).await;
    let mut client = server.connect_to("new-key").await;
    let old = channel_auth(&client.socket_id, "private-x", None);
    send(&mut client, "private-x", &old, None).await;
    let message = format!("Invalid key in subscription auth data: '{APP_KEY}'");
    client.next_refusal("private-x", "AuthError", 401, &message).await;
    client.send_sign_in(r#"{"id":"12345"}"#).await;
    client.next_error(None, &message).await;
    assert_eq!(server.api().get("/channels", &[]).await.refused(401).trim_end(), "Unknown auth_key");
}

// G-192, G-193
#[tokio::test]
async fn a_token_that_is_not_well_formed_is_refused() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let right = channel_auth(&client.socket_id, "private-x", None);
    let signature = right.split_once(':').unwrap().1.to_owned();
    for auth in [APP_KEY, &signature, " ", "x", "\u{0}"] {
        send(&mut client, "private-x", auth, None).await;
        let message = "Invalid format: auth must have the format key:signature";
        client.next_refusal("private-x", "AuthError", 401, message).await;
    }
    for key in ["", " ", "é", &format!(" {APP_KEY}"), &"k".repeat(64)] {
        send(&mut client, "private-x", &format!("{key}:{signature}"), None).await;
        let message = format!("Invalid key in subscription auth data: '{key}'");
        client.next_refusal("private-x", "AuthError", 401, &message).await;
    }
    let digests = [
        String::new(),
        ":".to_owned(),
        format!(":{signature}"),
        signature[..63].to_owned(),
        signature[..32].to_owned(),
        format!("{signature}0"),
        format!("{signature}{signature}"),
        format!("{signature}:"),
        format!(" {signature}"),
        format!("{signature}\n"),
        format!("0x{}", &signature[2..]),
        signature.to_uppercase(),
        format!("{}G", &signature[..63]),
        "é".repeat(32),
        "é".repeat(64),
        "x".repeat(10_000),
    ];
    for digest in digests {
        refused(&mut client, "private-x", &format!("{APP_KEY}:{digest}"), None).await;
    }
    let one_letter_up = signature.char_indices().find(|(_, digit)| digit.is_ascii_lowercase()).unwrap().0;
    let mut upper = signature.clone();
    upper[one_letter_up..=one_letter_up].make_ascii_uppercase();
    refused(&mut client, "private-x", &format!("{APP_KEY}:{upper}"), None).await;
    accepted(&mut client, "private-x", &right, None).await;
}

// G-194, G-195
#[tokio::test]
async fn channel_data_is_verified_as_it_was_sent() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let written = [
        MR_CHANNELS,
        MR_CHANNELS_IN_PYTHON,
        r#"{"user_id":"10","user_info":{"name":"Zo\u00eb \ud83d\ude00","url":"a\/b"}}"#,
        r#"{"user_info":{"name":"Zoë 😀","url":"a/b"},"user_id":10}"#,
        "{\n  \"user_id\": \"10\"\n}\n",
    ];
    for channel_data in written {
        let auth = channel_auth(&client.socket_id, "presence-x", Some(channel_data));
        accepted(&mut client, "presence-x", &auth, Some(channel_data)).await;
        for changed in [channel_data.replacen("10", "11", 1), format!("{channel_data} "), channel_data[1..].to_owned()]
        {
            refused(&mut client, "presence-x", &auth, Some(&changed)).await;
        }
    }
    // The same value, written in another way, is another text.
    let auth = channel_auth(&client.socket_id, "presence-x", Some(MR_CHANNELS));
    refused(&mut client, "presence-x", &auth, Some(MR_CHANNELS_IN_PYTHON)).await;
}

// G-196, G-197
#[tokio::test]
async fn on_a_private_channel_channel_data_belongs_to_the_signature_too() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    for channel in ["private-x", "private-cache-x", "private-encrypted-x"] {
        let with = channel_auth(&client.socket_id, channel, Some("any text"));
        let without = channel_auth(&client.socket_id, channel, None);
        refused(&mut client, channel, &without, Some("any text")).await;
        refused(&mut client, channel, &with, None).await;
        send(&mut client, channel, &with, Some("any text")).await;
        client.next_event("pusher_internal:subscription_succeeded").await;
        client.unsubscribe(channel).await;
        client.settle().await;
        // Nothing at all is not a text, though some sign it like one.
        let with_nothing = channel_auth(&client.socket_id, channel, Some(""));
        assert_ne!(with_nothing, without);
        for auth in [&without, &with_nothing] {
            send(&mut client, channel, auth, Some("")).await;
            client.next_event("pusher_internal:subscription_succeeded").await;
            client.unsubscribe(channel).await;
            client.settle().await;
        }
        refused(&mut client, channel, &with_nothing, None).await;
    }
}

// G-198
#[tokio::test]
async fn user_data_is_verified_as_it_was_sent() {
    let server = TestServer::start().await;
    for user_data in [
        r#"{"id":"12345"}"#,
        r#"{"id": "12345"}"#,
        r#"{"user_info":{"name":"Zo\u00eb","url":"a\/b"},"id":"12345"}"#,
        " {\"id\":\"12345\"}\n",
    ] {
        let mut client = server.connect().await;
        let signed = format!("{}::user::{user_data}", client.socket_id);
        let message = format!("Invalid signature: Expected HMAC SHA256 hex digest of {signed}");
        for wrongly_signed in [format!("{signed} "), signed.replacen("::user::", ":user:", 1), user_data.to_owned()] {
            let auth = token(APP_KEY, APP_SECRET, &wrongly_signed);
            let data = json!({ "auth": auth, "user_data": user_data });
            client.send_json(json!({ "event": "pusher:signin", "data": data })).await;
            client.next_error(None, &message).await;
        }
        client.send_sign_in(user_data).await;
        client.next_event("pusher:signin_success").await;
    }
}

// G-199
#[tokio::test]
async fn a_sign_in_is_not_a_subscription_and_the_other_way_round() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let user_data = r#"{"id":"12345","user_id":"12345"}"#;
    let signed_in = user_auth(&client.socket_id, user_data);
    for (channel, channel_data) in
        [("private-x", None), ("private-x", Some(user_data)), ("presence-x", Some(user_data))]
    {
        refused(&mut client, channel, &signed_in, channel_data).await;
        let auth = channel_auth(&client.socket_id, channel, channel_data);
        client.send_json(json!({ "event": "pusher:signin", "data": { "auth": auth, "user_data": user_data } })).await;
        let signed = format!("{}::user::{user_data}", client.socket_id);
        let message = format!("Invalid signature: Expected HMAC SHA256 hex digest of {signed}");
        client.next_error(None, &message).await;
    }
    // Not even on the channel whose name makes the two texts the same.
    let name = format!(":user::{user_data}");
    send(&mut client, &name, &signed_in, None).await;
    let message = format!("Invalid channel name: {name}");
    client.next_refusal(&name, "InvalidChannel", 400, &message).await;
}

// G-200
#[test]
fn signatures_are_compared_in_one_place_and_in_constant_time() {
    let mut sources = Vec::new();
    rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
    let mut comparing = Vec::new();
    for path in sources {
        let source = fs::read_to_string(&path).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap();
        let code: Vec<&str> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        if code.contains("verify_slice") {
            comparing.push(path.clone());
        }
        // Whoever signs could compare texts; whoever only verifies cannot.
        let signs = code.contains(".sign(") || code.contains("finalize()");
        // The doctor signs its requests, and the tokens of the operator's page make cookies. Both only verify.
        let allowed = ["protocol/signature.rs", "webhook.rs", "cli/doctor/api.rs", "dashboard/tokens.rs"];
        let may_sign = allowed.iter().any(|allowed| path.ends_with(allowed))
            || path.components().any(|part| part.as_os_str() == "webhook");
        assert!(may_sign || !signs, "{} makes signatures that it might compare", path.display());
        if path.ends_with("protocol/signature.rs") {
            let verify = code.split("pub fn verify").nth(1).unwrap().split("\n    }").next().unwrap();
            assert!(verify.contains("verify_slice") && !verify.contains("=="), "{verify}");
        }
    }
    assert!(matches!(&comparing[..], [one] if one.ends_with("protocol/signature.rs")), "{comparing:?}");
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

// G-202
#[tokio::test]
async fn encrypted_payloads_pass_through_unread_and_no_key_is_asked_for() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.subscribe("private-encrypted-foobar").await;
    let payloads = [
        r#""{\"nonce\":\"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH\",\"ciphertext\":\"lyBWhPAFV8bniccaZPnmG46a2BKsfaYl9vW3rShflw==\"}""#,
        r#""{\"ciphertext\" : \"broken\"}""#,
        r#""neither JSON nor encrypted""#,
    ];
    for data in payloads {
        let body = format!(r#"{{"name":"secret-news","channel":"private-encrypted-foobar","data":{data}}}"#);
        assert_eq!(server.api().post("/events", &body).await.ok(), json!({}));
        let expected = format!(r#"{{"event":"secret-news","data":{data},"channel":"private-encrypted-foobar"}}"#);
        assert_eq!(client.next_text().await, expected);
    }
    // What a faulty client sends along is not told to anybody.
    let mut faulty = server.connect().await;
    let auth = channel_auth(&faulty.socket_id, "private-encrypted-foobar", None);
    let data = json!({ "auth": auth, "channel": "private-encrypted-foobar", "shared_secret": "g3Au6SZ+UCU=" });
    faulty.send_json(json!({ "event": "pusher:subscribe", "data": data })).await;
    let expected =
        r#"{"event":"pusher_internal:subscription_succeeded","data":"{}","channel":"private-encrypted-foobar"}"#;
    assert_eq!(faulty.settle().await, [expected]);
    client.nothing_came().await;

    let config = Config { apps: vec![AppEntry::soketi_default()], ..Config::default() };
    let config = serde_json::to_string(&config).unwrap();
    assert!(!config.contains("encrypt") && !config.contains("master_key"), "{config}");
}

/// What all secrets of the next test contain, and nothing else.
const HUSH: &str = "hush7f3a";

/// Everything that is logged in this process while it listens, at every level, from every library.
#[derive(Debug)]
struct Listener;

static LISTENING: AtomicBool = AtomicBool::new(false);
static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Listener {
    fn keep(place: &str, record: impl FnOnce(&mut Line)) {
        let mut line = Line(place.to_owned());
        record(&mut line);
        LOGGED.lock().push(line.0);
    }
}

impl tracing::Subscriber for Listener {
    fn register_callsite(&self, _: &'static tracing::Metadata<'static>) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes()
    }

    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        LISTENING.load(Ordering::Relaxed)
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        Self::keep(span.metadata().name(), |line| span.record(line));
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        Self::keep("", |line| values.record(line));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        Self::keep(event.metadata().target(), |line| event.record(line));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Everything that goes wrong on a connection, as the client hears it.
async fn provoke_connection(server: &TestServer, told: &mut Vec<String>) {
    let mut client = server.connect_to("hush-key").await;
    let socket_id = client.socket_id.clone();
    let zeros = "0".repeat(64);
    for (channel, auth, channel_data) in [
        ("private-x", "", None),
        ("private-x", "no-colon", None),
        ("private-x", "nobody:0", None),
        ("private-x", &*format!("hush-key:{zeros}"), None),
        ("private-x", &*format!("second-key:{zeros}"), None),
        ("presence-x", &*format!("hush-key:{zeros}"), Some(MR_CHANNELS)),
        ("presence-x", "", None),
        ("a b", "", None),
        ("#server-to-user-1", "", None),
    ] {
        send(&mut client, channel, auth, channel_data).await;
    }
    let data = json!({ "auth": format!("hush-key:{zeros}"), "user_data": r#"{"id":"1"}"# });
    client.send_json(json!({ "event": "pusher:signin", "data": data })).await;
    client.send_json(json!({ "event": "client-x", "channel": "private-x" })).await;
    client.send("nonsense").await;
    let frames = client.settle().await;
    assert_eq!(frames.len(), 2 * 9 + 3);
    // What would have been right must not be told to who did not know it.
    let signed = ["private-x", &format!("presence-x:{MR_CHANNELS}"), ":user::{\"id\":\"1\"}"];
    for signed in signed {
        for secret in ["first-", "second-"].map(|prefix| format!("{prefix}{HUSH}")) {
            let right = token("", &secret, &format!("{socket_id}:{signed}"));
            assert!(!frames.concat().contains(&right[1..]), "{frames:?}");
        }
    }
    told.extend(frames);

    for key in ["nobody", "hush-id"] {
        let mut stranger = server.open(&format!("/app/{key}?protocol=7")).await;
        told.push(stranger.next_text().await);
        told.push(stranger.next_close().await.1);
    }
    client.send_message(tokio_tungstenite::tungstenite::Message::binary("x")).await;
    told.extend(client.settle().await);
}

/// Everything that the API may answer.
async fn provoke_api(server: &TestServer) -> Vec<Answer> {
    let right = server.api_of("hush-id", "hush-key", &format!("first-{HUSH}"));
    let wrong = server.api_of("hush-id", "hush-key", "wrong");
    let body = r#"{"name":"n","channel":"c","data":"d"}"#;
    let mut answers = vec![
        right.post("/events", body).await,
        right.post("/events", "{}").await,
        right.get("/channels", &[]).await,
        right.get("/channels/c", &[("info", "subscription_count")]).await,
        right.get("/channels/presence-c/users", &[]).await,
        right.get("/nowhere", &[]).await,
        right.post("/users/1/terminate_connections", "{}").await,
        wrong.post("/events", body).await,
        wrong.get("/channels", &[]).await,
        server.api_of("hush-id", "second-key", "wrong").get("/channels", &[]).await,
        server.api_of("hush-id", "nobody", "wrong").get("/channels", &[]).await,
        server.api_of("nobody", "hush-key", "wrong").get("/channels", &[]).await,
    ];
    let path = right.path("/events");
    let old = right.at(1).signed_query("POST", &path, &[], body);
    let other_body = right.signed_query("POST", &path, &[], "{}");
    for query in [&*old, &*other_body, "", "auth_key=hush-key"] {
        answers.push(request(server.address(), "POST", &format!("{path}?{query}"), &[], body.as_bytes()).await);
    }
    for target in ["/", "/ready", "/accept-traffic", "/nowhere"] {
        answers.push(request(server.address(), "GET", target, &[], b"").await);
    }
    for target in ["/metrics", "/usage", "/", "/nowhere"] {
        answers.push(request(server.metrics_address(), "GET", target, &[], b"").await);
    }
    answers
}

#[tokio::test]
async fn the_id_of_a_user_who_may_come_back_has_a_bound() {
    let server = TestServer::start_with(|config| {
        config.limits.history_rules = serde_json::from_value(json!([{ "match": "orders.*", "seconds": 60 }])).unwrap();
        config.limits.max_presence_user_id_length = 8;
    })
    .await;
    let mut client = server.connect().await;
    let data = |id: &str| json!({ "user_id": id }).to_string();
    let auth = |client: &Client, channel: &str, data: &str| channel_auth(&client.socket_id, channel, Some(data));
    for channel in ["private-orders.1", "private-encrypted-orders.1", "private-other"] {
        // Characters count, not bytes, and nothing counts without a rule.
        for id in ["12345678", "éééééééé", "123456789", &"é".repeat(10_000)] {
            let (data, is_long) = (data(id), id.chars().count() > 8);
            let auth = auth(&client, channel, &data);
            if is_long && channel != "private-other" {
                send(&mut client, channel, &auth, Some(&data)).await;
                let message = "The user_id of a user must not exceed 8 characters";
                client.next_refusal(channel, "LimitReached", 413, message).await;
            } else {
                accepted(&mut client, channel, &auth, Some(&data)).await;
            }
        }
    }
    // Without an id there is no user, and a sign-in has a bound of its own.
    let none = r#"{"user_info":{}}"#;
    let without = auth(&client, "private-orders.1", none);
    accepted(&mut client, "private-orders.1", &without, Some(none)).await;
    client.sign_in(&json!({ "id": "a-long-user-id" })).await;
    let alone = channel_auth(&client.socket_id, "private-orders.1", None);
    accepted(&mut client, "private-orders.1", &alone, None).await;
}

// G-201
#[tokio::test]
async fn no_secret_is_told_to_anybody() {
    tracing::subscriber::set_global_default(Listener).unwrap();
    LISTENING.store(true, Ordering::Relaxed);
    let mut told = Vec::new();
    let server = TestServer::start_with(|config| {
        let mut app = AppEntry::new("hush-id", "hush-key", &format!("first-{HUSH}"));
        app.keys = vec![KeyPair { key: "second-key".to_owned(), secret: Secret::new(format!("second-{HUSH}")) }];
        config.apps = vec![app];
        told.push(format!("{config:?} {}", serde_json::to_string(config).unwrap()));
        // A fault that concerns an app with a secret.
        let twice = Config { apps: vec![config.apps[0].clone(); 2], ..config.clone() };
        told.extend(twice.validate().iter().map(ToString::to_string));
    })
    .await;
    provoke_connection(&server, &mut told).await;
    let answers = provoke_api(&server).await;
    assert!(answers.iter().any(|answer| answer.status == 200 && answer.body.contains("soketi_")), "no metrics");
    assert_eq!(answers.iter().filter(|answer| answer.status == 401).count(), 8, "{answers:?}");
    told.extend(answers.iter().map(|answer| format!("{answer:?}")));
    server.drain().await;
    LISTENING.store(false, Ordering::Relaxed);

    let logged = std::mem::take(&mut *LOGGED.lock());
    for known in ["a client connects with an app id", "a request's signature is wrong"] {
        assert!(logged.iter().any(|line| line.starts_with("gema::") && line.contains(known)), "{known}");
    }
    for text in told.iter().chain(&logged) {
        assert!(!text.contains(HUSH), "{text}");
    }
}
