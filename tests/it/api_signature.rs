//! Who may use the HTTP API: the signature over method, path, query and body, and what a refusal says.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use gema::config::AppEntry;
use gema::config::KeyPair;
use gema::config::Secret;
use gema::protocol::signature::Signer;
use gema::protocol::signature::body_md5;
use serde_json::json;
use support::http::Answer;
use support::http::request;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::APP_SECRET;
use support::server::TestServer;

/// The app of the published examples.
const EXAMPLE_KEY: &str = "278d425bdf160c739803";
const EXAMPLE_SECRET: &str = "7ad3773142a6692b25b8";

/// A request of the default app, whose signature may be over something else than what is sent.
#[derive(Clone)]
struct Request {
    method: &'static str,
    path: String,
    query: String,
    body: &'static str,
    signed_path: String,
    signed_query: String,
}

/// A GET of the list of channels with these parameters, sent and signed alike.
fn get(query: &str) -> Request {
    let path = format!("/apps/{APP_ID}/channels");
    let (signed_path, signed_query) = (path.clone(), query.to_owned());
    Request { method: "GET", path, query: query.to_owned(), body: "", signed_path, signed_query }
}

/// A POST of an event; its query says what is in the body.
fn post(body: &'static str) -> Request {
    let path = format!("/apps/{APP_ID}/events");
    let query = format!("{}&body_md5={}", auth(), body_md5(body.as_bytes()));
    Request { method: "POST", signed_path: path.clone(), signed_query: query.clone(), path, query, body }
}

impl Request {
    fn signed_as(self, query: &str) -> Self {
        Self { signed_query: query.to_owned(), ..self }
    }

    fn signature(&self) -> String {
        let signed = format!("{}\n{}\n{}", self.method, self.signed_path, self.signed_query);
        Signer::new(APP_SECRET.as_bytes()).sign(&[signed.as_bytes()])
    }

    async fn send(&self, server: &TestServer) -> Answer {
        let target = format!("{}?{}&auth_signature={}", self.path, self.query, self.signature());
        request(server.address(), self.method, &target, &[], self.body.as_bytes()).await
    }
}

/// The parameters that every request needs, in the order in which they are signed.
fn auth() -> String {
    auth_at(now())
}

fn auth_at(timestamp: impl std::fmt::Display) -> String {
    format!("auth_key={APP_KEY}&auth_timestamp={timestamp}&auth_version=1.0")
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

const NO_CHANNELS: &str = r#"{"channels":{}}"#;
const EVENT: &str = r#"{"name":"e","channel":"c","data":"1"}"#;

/// The requests of Pusher's documentation and of the official libraries, with the signatures that they made.
const EXAMPLES: [(&str, &str, &str, &str, &str); 10] = [
    (
        "POST /apps/3/events",
        "body_md5=ec365a775a4cd0599faeb73354201b6f",
        r#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#,
        "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c",
        "{}",
    ),
    (
        "GET /apps/3/channels",
        "filter_by_prefix=presence-&info=user_count",
        "",
        "16819168891cb5dfd72b5c7a5d3d602605b26c6ba1930033b5e2eeeb65010291",
        NO_CHANNELS,
    ),
    (
        "GET /apps/3/channels",
        "filter_by_prefix=presence-&info=user_count%2Csubscription_count",
        "",
        "ff97d40ab3fbbd15394386a29c12998c33635305357b2e2abd18dc67efe3f87d",
        NO_CHANNELS,
    ),
    (
        "GET /apps/3/channels",
        "filter_by_prefix=a+b%26c%3Dd%40%2C%3B",
        "",
        "adf00895be9b7aab0b3571c7e64351da1636e6aa9ce39ef7842e99bf5e1dcbb3",
        NO_CHANNELS,
    ),
    (
        "GET /apps/3/channels/presence-foobar",
        "info=user_count,subscription_count",
        "",
        "377ee9260ea002a70c0d40cd887d55cb36db9f7f821297f5efacbcce66be356d",
        r#"{"occupied":false,"user_count":0,"subscription_count":0}"#,
    ),
    (
        "GET /apps/3/channels/presence-foobar/users",
        "",
        "",
        "5567dd30e7f8575e66be615d2aac3f608a0c311c31ddab8513a278b022e9597e",
        r#"{"users":[]}"#,
    ),
    (
        "GET /apps/3/channels/presence-foobar/users",
        "body_md5=d41d8cd98f00b204e9800998ecf8427e",
        "",
        "3d68b512095fd42cb6741cc80616761b1c77d00fcc4d6d9740f09504a4b761b0",
        r#"{"users":[]}"#,
    ),
    (
        "POST /apps/3/users/12345/terminate_connections",
        "body_md5=99914b932bd37a50b983c5e7c90ae93b",
        "{}",
        "01fa634edeb0cae84115307cad5c23f65a46cd286461b1c89637a3b5871a8f0e",
        "{}",
    ),
    (
        "POST /apps/3/users/a%20b/terminate_connections",
        "body_md5=99914b932bd37a50b983c5e7c90ae93b",
        "{}",
        "018c597f71190b3e4f5381914f679b0f7d94ae5ea73ac404395bbf4ab6507989",
        "{}",
    ),
    (
        "POST /apps/3/batch_events",
        "body_md5=e4a0145a5f968b151c4c62808c306098",
        r#"{"batch":[{"channel":"project-3","name":"foo","data":"{\"some\":\"data\"}"},{"channel":"presence-foobar","name":"bar","data":"hi","socket_id":"1234.1234","info":"user_count"}]}"#,
        "633817bbff45cde96c59803c2657b4c5cf024dab58999862d2a098157abe8873",
        r#"{"batch":[{},{"user_count":0}]}"#,
    ),
];

// G-204
#[tokio::test]
async fn the_signatures_of_the_published_examples_are_accepted_and_no_others() {
    let server = TestServer::start_with(|config| {
        config.apps = vec![AppEntry::new("3", EXAMPLE_KEY, EXAMPLE_SECRET)];
        config.http.timestamp_tolerance_seconds = 100 * 365 * 86_400;
    })
    .await;
    for (method_and_path, parameters, body, signature, expected) in EXAMPLES {
        let (method, path) = method_and_path.split_once(' ').unwrap();
        let auth = format!("auth_key={EXAMPLE_KEY}&auth_timestamp=1353088179&auth_version=1.0");
        let target = format!("{path}?{auth}&{parameters}&auth_signature=");
        let good = request(server.address(), method, &format!("{target}{signature}"), &[], body.as_bytes()).await;
        assert_eq!((good.status, &*good.body), (200, expected), "{method_and_path} {parameters}");
        let digit = if signature.ends_with('0') { "1" } else { "0" };
        let bad = format!("{target}{}{digit}", &signature[..63]);
        let bad = request(server.address(), method, &bad, &[], body.as_bytes()).await;
        assert!(bad.refused(401).starts_with("Invalid signature: "), "{bad:?}");
    }
}

// G-206, G-208, G-210
#[tokio::test]
async fn each_parameter_is_needed_and_must_be_as_it_should() {
    let server = TestServer::start().await;
    let now = now();
    for (query, sentence) in [
        (format!("auth_timestamp={now}&auth_version=1.0"), "Missing parameter: auth_key"),
        (format!("auth_key={APP_KEY}&auth_version=1.0"), "Timestamp required"),
        (format!("auth_key={APP_KEY}&auth_timestamp={now}"), "Version required"),
        (format!("auth_key={APP_KEY}&auth_timestamp={now}&auth_version=2.0"), "Version not supported"),
        (format!("auth_key={APP_KEY}&auth_timestamp={now}&auth_version=1"), "Version not supported"),
        (auth_at("soon"), "Timestamp required"),
        (auth_at(format!("{now}.0")), "Timestamp required"),
        (auth_at(""), "Timestamp required"),
        (auth_at("99999999999999999999"), "Timestamp required"),
    ] {
        assert_eq!(get(&query).send(&server).await.refused(401), sentence, "{query}");
    }
    let unsigned = format!("/apps/{APP_ID}/channels?{}", auth());
    let answer = request(server.address(), "GET", &unsigned, &[], b"").await;
    assert_eq!(answer.refused(401), "Missing parameter: auth_signature");
    assert_eq!(get(&auth()).send(&server).await.ok(), json!({ "channels": {} }));
}

// G-207
#[tokio::test]
async fn a_key_must_be_one_of_the_app_in_the_path() {
    let server = TestServer::start_with(|config| {
        config.apps[0].keys.push(KeyPair { key: "second-key".to_owned(), secret: Secret::new("second-secret") });
        config.apps.push(AppEntry::new("b", "b-key", APP_SECRET));
    })
    .await;
    let second = |secret: &str| server.api_of(APP_ID, "second-key", secret);
    assert_eq!(second("second-secret").get("/channels", &[]).await.ok(), json!({ "channels": {} }));
    assert!(second(APP_SECRET).get("/channels", &[]).await.refused(401).starts_with("Invalid signature"));
    for key in ["nobody", "b-key", "APP-KEY", ""] {
        let query = auth().replace(APP_KEY, key);
        assert_eq!(get(&query).send(&server).await.refused(401), "Unknown auth_key", "{key}");
    }
    let other = server.api_of("b", "b-key", APP_SECRET);
    assert_eq!(other.get("/channels", &[]).await.ok(), json!({ "channels": {} }));
}

/// The answer to a request with a time this far off, given and taken within the same second.
async fn at_a_distance(server: &TestServer, seconds: i64) -> (Answer, u64) {
    loop {
        let before = now();
        let answer = get(&auth_at(before as i64 + seconds)).send(server).await;
        if now() == before {
            return (answer, before);
        }
    }
}

// G-209
#[tokio::test]
async fn a_request_may_be_up_to_600_seconds_off() {
    let server = TestServer::start().await;
    for seconds in [-599, 0, 599] {
        let (answer, _) = at_a_distance(&server, seconds).await;
        assert_eq!(answer.ok(), json!({ "channels": {} }), "{seconds}");
    }
    for seconds in [-601, -600, 600, 601] {
        let (answer, now) = at_a_distance(&server, seconds).await;
        let shown = |seconds: u64| humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds));
        let (given, now) = (shown(now.checked_add_signed(seconds).unwrap()), shown(now));
        let expected = format!("Timestamp expired: Given timestamp ({given}) not within 600s of server time ({now})");
        assert_eq!(answer.refused(401), expected);
    }
    for far in [i64::MIN, -1, i64::MAX] {
        assert!(get(&auth_at(far)).send(&server).await.refused(401).starts_with("Timestamp expired: "), "{far}");
    }
}

// G-211, G-212
#[tokio::test]
async fn a_body_must_be_the_signed_one() {
    let server = TestServer::start().await;
    assert_eq!(post(EVENT).send(&server).await.ok(), json!({}));
    for body in [r#"{"name":"e","channel":"c","data":"2"}"#, "", r#"{"name":"e","channel":"c","data":"1"} "#] {
        let altered = Request { body, ..post(EVENT) };
        assert_eq!(altered.send(&server).await.refused(401), "Invalid body_md5", "{body}");
    }
    let without = Request { query: auth(), signed_query: auth(), ..post(EVENT) };
    assert_eq!(without.send(&server).await.refused(401), "Missing parameter: body_md5");
    let upper_case = format!("{}&body_md5={}", auth(), body_md5(EVENT.as_bytes()).to_uppercase());
    let upper_case = Request { query: upper_case.clone(), signed_query: upper_case, ..post(EVENT) };
    assert_eq!(upper_case.send(&server).await.refused(401), "Invalid body_md5");
}

// G-213
#[tokio::test]
async fn a_get_may_carry_the_md5_of_nothing() {
    let server = TestServer::start().await;
    let with = |md5: &str| get(&format!("{}&body_md5={md5}", auth()));
    assert_eq!(with("d41d8cd98f00b204e9800998ecf8427e").send(&server).await.ok(), json!({ "channels": {} }));
    let other = with("99914b932bd37a50b983c5e7c90ae93b").send(&server).await;
    assert_eq!(other.refused(401), "Invalid body_md5");
}

// G-214, G-218
#[tokio::test]
async fn a_list_may_be_sent_raw_escaped_or_as_phps_array() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.join("presence-a", "1").await;
    let counts = json!({ "channels": { "presence-a": { "user_count": 1, "subscription_count": 1 } } });
    let auth = auth();
    let signed = format!("{auth}&filter_by_prefix=presence-&info=user_count,subscription_count");
    for info in [
        "info=user_count,subscription_count",
        "info=user_count%2Csubscription_count",
        "info=user%5fcount%2csubscription_count",
        "info[0]=user_count&info[1]=subscription_count",
        "info%5B0%5D=user_count&info%5B1%5D=subscription_count",
    ] {
        let request = get(&format!("{auth}&filter_by_prefix=presence-&{info}")).signed_as(&signed);
        assert_eq!(request.send(&server).await.ok(), counts, "{info}");
    }
    // Ruby signs an array as it sends it.
    let alike = get(&format!("{auth}&filter_by_prefix=presence-&info[]=user_count&info[]=subscription_count"));
    assert_eq!(alike.send(&server).await.ok(), counts);
    let another = format!("{auth}&filter_by_prefix=presence-&info[0]=subscription_count&info[1]=user_count");
    assert!(get(&another).signed_as(&signed).send(&server).await.refused(401).starts_with("Invalid signature"));
}

// G-215
#[tokio::test]
async fn a_plus_is_a_space() {
    let server = TestServer::start().await;
    let auth = auth();
    for value in ["a+b", "a%20b"] {
        let request = get(&format!("{auth}&note={value}")).signed_as(&format!("{auth}&note=a b"));
        assert_eq!(request.send(&server).await.ok(), json!({ "channels": {} }), "{value}");
    }
    let plus = get(&format!("{auth}&note=a%2Bb"));
    assert!(plus.clone().signed_as(&format!("{auth}&note=a b")).send(&server).await.status == 401);
    assert_eq!(plus.signed_as(&format!("{auth}&note=a+b")).send(&server).await.ok(), json!({ "channels": {} }));
}

// G-216
#[tokio::test]
async fn parameters_are_signed_in_lower_case_and_sorted() {
    let server = TestServer::start().await;
    let now = now();
    let signed = format!("auth_key={APP_KEY}&auth_timestamp={now}&auth_version=1.0&filter_by_prefix=X&zone=B");
    for query in [
        format!("zone=B&filter_by_prefix=X&auth_version=1.0&auth_timestamp={now}&auth_key={APP_KEY}"),
        format!("Zone=B&Filter_By_Prefix=X&AUTH_VERSION=1.0&Auth_Timestamp={now}&AUTH_KEY={APP_KEY}"),
        format!("filter_by_prefix=X&auth_key={APP_KEY}&zone=B&auth_timestamp={now}&auth_version=1.0"),
    ] {
        assert_eq!(get(&query).signed_as(&signed).send(&server).await.ok(), json!({ "channels": {} }), "{query}");
    }
    // Python puts the signature in the middle, .NET at the beginning.
    let request = get(&signed);
    let signature = format!("auth_signature={}", request.signature());
    for query in [format!("{signature}&{signed}"), signed.replace("&auth_v", &format!("&{signature}&auth_v"))] {
        let target = format!("{}?{query}", request.path);
        let answer = support::http::request(server.address(), "GET", &target, &[], b"").await;
        assert_eq!(answer.ok(), json!({ "channels": {} }), "{query}");
    }
}

// G-217
#[tokio::test]
async fn what_is_added_after_signing_is_refused() {
    let server = TestServer::start().await;
    let signed = auth();
    let query = format!("{signed}&info=subscription_count");
    let request = get(&query).signed_as(&signed);
    let expected = format!(
        r#"Invalid signature: you should have sent HmacSHA256Hex("GET\n/apps/app-id/channels\n{query}", your_secret_key), but you sent "{}""#,
        request.signature()
    );
    assert_eq!(request.send(&server).await.refused(401), expected);
    // A signature is good for its own method and path only.
    let signature = get(&signed).signature();
    for (method, path) in [("HEAD", "/apps/app-id/channels"), ("GET", "/apps/app-id/channels/c")] {
        let target = format!("{path}?{signed}&auth_signature={signature}");
        assert_eq!(support::http::request(server.address(), method, &target, &[], b"").await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn no_other_query_with_the_same_signature_asks_for_more() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.subscribe("public").await;
    client.join("presence-a", "1").await;
    let asked = async |signed: &str, sent: &str| {
        let request = Request { query: format!("{sent}&{}", auth()), ..get(&format!("{}&{signed}", auth())) };
        request.send(&server).await.ok()["channels"].clone()
    };
    let narrow = json!({ "presence-a": {} });
    for sent in [
        "filter_by_prefix=presence-",
        "FILTER_BY_PREFIX=presence-",
        "filter_by_prefix[0]=presence-",
        "filter_by_prefix%5B%5D=presence-",
        "Filter_By_Prefix%5b7%5d=presence-",
    ] {
        assert_eq!(asked("filter_by_prefix=presence-", sent).await, narrow, "{sent}");
    }
    let counted = json!({ "presence-a": { "user_count": 1 } });
    let signed = "filter_by_prefix=presence-&info=user_count";
    for sent in [
        signed,
        "INFO=user_count&filter_by_prefix=presence-",
        "info[0]=user_count&filter_by_prefix=presence-",
        "filter_by_prefix=presence-%26info=user_count",
    ] {
        assert_eq!(asked(signed, sent).await, counted, "{sent}");
    }
}

#[tokio::test]
async fn a_time_in_milliseconds_is_told_as_such() {
    let server = TestServer::start().await;
    let answer = get(&auth_at(now() * 1000)).send(&server).await;
    let expected = format!("Timestamp expired: auth_timestamp is in milliseconds ({}", now() / 1000);
    assert!(answer.refused(401).starts_with(&expected[..expected.len() - 1]), "{answer:?}");
    assert!(answer.body.ends_with("it must be in seconds"), "{answer:?}");
}

// G-219
#[tokio::test]
async fn a_configured_prefix_need_not_be_signed() {
    let server = TestServer::start_single_with(|config| config.server.path_prefix = "/ws/v1".to_owned()).await;
    let plain = get(&auth());
    let prefixed = Request { path: format!("/ws/v1{}", plain.path), ..plain.clone() };
    assert_eq!(prefixed.send(&server).await.ok(), json!({ "channels": {} }));
    let elsewhere = "Not found: every path begins with /ws/v1 here (server.path_prefix)";
    assert_eq!(plain.send(&server).await.refused(404), elsewhere);
    assert_eq!(support::http::request(server.address(), "GET", "/ready", &[], b"").await.refused(404), elsewhere);
    let signed_whole = Request { signed_path: prefixed.path.clone(), ..prefixed };
    assert_eq!(signed_whole.send(&server).await.ok(), json!({ "channels": {} }));
    let signed_otherwise = Request { signed_path: format!("/ws{}", plain.path), ..signed_whole };
    assert!(signed_otherwise.send(&server).await.refused(401).starts_with("Invalid signature"));
    for root in ["/ws/v1", "/ws/v1/"] {
        assert_eq!(support::http::request(server.address(), "GET", root, &[], b"").await.status, 200, "{root}");
    }
    let other = Request { path: format!("/other{}", plain.path), ..plain };
    assert_eq!(other.send(&server).await.refused(404), elsewhere);
    let inside = support::http::request(server.address(), "GET", "/ws/v1/other", &[], b"").await;
    assert_eq!(inside.refused(404), "Not found");
}

// G-220
#[tokio::test]
async fn a_path_may_be_signed_escaped_or_not() {
    let server = TestServer::start().await;
    for signed in ["a b", "a%20b"] {
        let mut client = server.connect().await;
        client.sign_in(&json!({ "id": "a b" })).await;
        let path = |user: &str| format!("/apps/{APP_ID}/users/{user}/terminate_connections");
        let request = Request { path: path("a%20b"), signed_path: path(signed), ..post("{}") };
        assert_eq!(request.send(&server).await.ok(), json!({}), "{signed}");
        assert_eq!(client.next_close().await.0, 4009, "{signed}");
    }
    let path = |user: &str| format!("/apps/{APP_ID}/users/{user}/terminate_connections");
    let request = Request { path: path("a%20b"), signed_path: path("a+b"), ..post("{}") };
    assert_eq!(request.send(&server).await.status, 401);
}

// G-221, G-222
#[tokio::test]
async fn an_app_must_exist_and_be_enabled() {
    let server = TestServer::start_with(|config| {
        let mut off = AppEntry::new("off", "off-key", "off-secret");
        off.enabled = false;
        config.apps.push(off);
    })
    .await;
    let unknown = server.api_of("nobody", APP_KEY, APP_SECRET).get("/channels", &[]).await;
    assert_eq!((unknown.refused(404), unknown.header("content-type")), ("Unknown app", Some(TEXT)));
    for (rest, body) in [("/events", EVENT), ("/users/1/terminate_connections", "{}")] {
        let disabled = server.api_of("off", "off-key", "off-secret").post(rest, body).await;
        assert_eq!((disabled.refused(403), disabled.header("content-type")), ("App disabled", Some(TEXT)));
    }
    // Only who knows the secret hears that the app is disabled.
    let stranger = server.api_of("off", "off-key", "guess").get("/channels", &[]).await;
    assert!(stranger.refused(401).starts_with("Invalid signature"));
}

const TEXT: &str = "text/plain; charset=utf-8";

// G-223
#[tokio::test]
async fn paths_and_methods_that_are_not_there_are_told_apart() {
    let server = TestServer::start().await;
    for path in ["/nowhere", "/apps", "/apps/app-id", "/apps/app-id/event", "/apps/app-id/channels/c/members", "/app"] {
        for method in ["GET", "POST"] {
            let answer = request(server.address(), method, path, &[], b"").await;
            assert_eq!((answer.refused(404), answer.header("content-type")), ("Not found", Some(TEXT)), "{path}");
        }
    }
    for (method, path, allowed) in [
        ("GET", "/apps/app-id/events", "POST"),
        ("PUT", "/apps/app-id/events", "POST"),
        ("GET", "/apps/app-id/batch_events", "POST"),
        ("POST", "/apps/app-id/channels", "GET,HEAD"),
        ("DELETE", "/apps/app-id/channels/c", "GET,HEAD"),
        ("POST", "/apps/app-id/channels/presence-c/users", "GET,HEAD"),
        ("GET", "/apps/app-id/users/1/terminate_connections", "POST"),
        ("GET", "/users/1/terminate_connections", "POST"),
    ] {
        let answer = request(server.address(), method, path, &[], b"").await;
        assert_eq!((answer.refused(405), answer.header("allow")), ("", Some(allowed)), "{method} {path}");
    }
}

// G-224
#[tokio::test]
async fn refusals_are_one_sentence_and_give_no_valid_signature_away() {
    let server = TestServer::start().await;
    let wrongly = |request: Request| request.signed_as("something else");
    let refused = [
        wrongly(get(&auth())),
        wrongly(get(&format!("{}&note=a%0Ab%22", auth()))),
        wrongly(get(&format!("{}&info[0]=user_count", auth()))),
        wrongly(post(EVENT)),
        Request { path: "/apps/app-id/users/a%20b%0Ac/terminate_connections".to_owned(), ..post("{}") },
        get(&auth().replace(APP_KEY, "nobody")),
        get(&auth_at(0)),
        get(&format!("{}&info=user_count", auth())),
        post("{}"),
        post("not\njson"),
        post(r#"{"name":"e","channel":"a\nb","data":"1"}"#),
    ];
    for request in refused {
        let answer = request.send(&server).await;
        assert!((400..=401).contains(&answer.status), "{answer:?}");
        assert_eq!(answer.header("content-type"), Some(TEXT), "{answer:?}");
        assert!(answer.body.starts_with(char::is_alphabetic), "{answer:?}");
        assert!(!answer.body.contains(char::is_control), "{answer:?}");
        // What is signed properly, and refused for another reason, is not repeated either.
        let signed_path = request.path.replace("%20", " ").replace("%0A", "\n");
        for signed_path in [signed_path, request.path.clone()] {
            let valid = Request { signed_path, signed_query: request.query.clone(), ..request.clone() }.signature();
            assert!(!answer.body.contains(&valid), "{answer:?}");
        }
        assert!(!answer.body.contains(APP_SECRET), "{answer:?}");
    }
}
