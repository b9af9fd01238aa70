//! Connecting, being refused, and what holds for every frame (Pusher protocol, "Connection").

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::ops::Range;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use gema::config::AppEntry;
use gema::config::Seconds;
use gema::config::Tls;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::client::assert_well_formed;
use support::http;
use support::process::Process;
use support::server::TestServer;
use support::server::channel_auth;
use tokio_tungstenite::tungstenite::Bytes;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;
use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode;

use crate::wire::CLOSE;
use crate::wire::TEXT;
use crate::wire::Wire;
use crate::wire::upgrade_head;

const PONG: &str = r#"{"event":"pusher:pong","data":"{}"}"#;
const INVALID: &str = r#"{"event":"pusher:error","data":{"code":null,"message":"Received invalid JSON"}}"#;

/// The connection is refused as every one is: an error with an integer code, then a close with the same.
/// Returns the code and the reason.
async fn refusal(mut client: Client) -> (u16, String) {
    let error = client.next_text().await;
    let (code, reason) = client.next_close().await;
    let message = serde_json::from_str::<Value>(&error).unwrap()["data"]["message"].as_str().unwrap().to_owned();
    assert_eq!(error, json!({ "event": "pusher:error", "data": { "code": code, "message": message } }).to_string());
    assert!(!reason.is_empty() && reason.len() <= 123, "{reason}");
    assert!(message.starts_with(&reason), "{message}: {reason}");
    client.ended().await;
    (code, message)
}

/// The code that a connection on this path is refused with.
async fn refused(server: &TestServer, path_and_query: &str) -> u16 {
    refusal(server.open(path_and_query).await).await.0
}

/// A connection on this path is accepted and works.
async fn accepted(server: &TestServer, path_and_query: &str) {
    let mut client = server.open(path_and_query).await;
    client.established().await;
    client.nothing_came().await;
}

// G-1, G-10
#[tokio::test]
async fn an_upgrade_is_answered_with_the_accept_key_of_the_rfc() {
    let server = TestServer::start().await;
    let (answer, mut wire) =
        Wire::upgrade(server.address(), &upgrade_head("/app/app-key?protocol=7&client=js", &[])).await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("connection"), Some("Upgrade"));
    assert_eq!(answer.header("sec-websocket-protocol"), None);
    assert_eq!(wire.next_event().await, "pusher:connection_established");
}

// G-2
#[tokio::test]
async fn connections_come_below_the_path_prefix_only() {
    let server = TestServer::start_single_with(|config| config.server.path_prefix = "/realtime/v1".to_owned()).await;
    accepted(&server, "/realtime/v1/app/app-key?protocol=7").await;
    for path in ["/app/app-key", "/realtime/app/app-key", "/realtime/v1x/app/app-key", "/realtime/v1/app-key"] {
        assert_eq!(refused(&server, &format!("{path}?protocol=7")).await, 4005, "{path}");
    }
}

// G-3
#[tokio::test]
async fn the_query_may_have_any_order_and_unknown_parameters() {
    let server = TestServer::start().await;
    for query in [
        "flash=false&version=8.6.0&client=js&protocol=7",
        "x=1&protocol=7&protocols=99&y",
        "client=a%20b&&&=&protocol=7&version",
    ] {
        accepted(&server, &format!("/app/app-key?{query}")).await;
    }
}

// G-4
#[tokio::test]
async fn a_key_is_percent_decoded_and_compared_case_sensitively() {
    let server = TestServer::start_with(|config| config.apps.push(AppEntry::new("second", "key;2,a", "secret"))).await;
    accepted(&server, "/app/app%2Dkey?protocol=7").await;
    accepted(&server, "/app/key%3B2%2ca?protocol=7").await;
    assert_eq!(refused(&server, "/app/APP-KEY?protocol=7").await, 4001);
}

// G-4
#[tokio::test]
async fn a_key_that_is_no_text_is_refused_after_the_upgrade() {
    let server = TestServer::start().await;
    assert_eq!(refused(&server, "/app/%FF?protocol=7").await, 4005);
}

// G-5
#[tokio::test]
async fn upgrade_tokens_are_read_in_any_case_and_among_others() {
    let server = TestServer::start().await;
    let head = upgrade_head("/app/app-key?protocol=7", &[])
        .replace("Connection: Upgrade", "connection: keep-alive, UPGRADE")
        .replace("Upgrade: websocket", "UPGRADE: WebSocket");
    let (answer, mut wire) = Wire::upgrade(server.address(), &head).await;
    assert_eq!(answer.status, 101);
    assert_eq!(wire.next_event().await, "pusher:connection_established");
}

// G-6
#[tokio::test]
async fn another_version_of_websocket_is_told_which_one_is_spoken_here() {
    let server = TestServer::start().await;
    let head = upgrade_head("/app/app-key?protocol=7", &[]).replace("Version: 13", "Version: 12");
    let (answer, _) = Wire::upgrade(server.address(), &head).await;
    assert_eq!(answer.status, 426);
    assert_eq!(answer.header("sec-websocket-version"), Some("13"));
}

// G-7
#[tokio::test]
async fn a_plain_get_is_told_to_upgrade_and_leaves_nothing_behind() {
    let server = TestServer::start().await;
    let answer = http::request(server.address(), "GET", "/app/app-key?protocol=7", &[], b"").await;
    assert_eq!(answer.refused(426), "A WebSocket upgrade is expected here");
    let metrics = http::request(server.metrics_address(), "GET", "/metrics", &[], b"").await.body;
    let port = server.port().port();
    for name in ["soketi_connected", "soketi_new_connections_total", "soketi_new_disconnections_total"] {
        assert!(metrics.contains(&format!("{name}{{app_id=\"app-id\",port=\"{port}\"}} 0\n")), "{metrics}");
    }
}

// G-8, G-9
#[tokio::test]
async fn pushers_sub_protocol_is_chosen_or_else_the_first_one() {
    let server = TestServer::start().await;
    for (offered, chosen) in [
        ("pusher-channels-protocol-7", "pusher-channels-protocol-7"),
        ("mqtt, pusher-channels-protocol-7, pusher-channels-protocol-6", "pusher-channels-protocol-7"),
        ("graphql-ws,mqtt", "graphql-ws"),
    ] {
        let mut client = server.open_with("/app/app-key?protocol=7", &[("sec-websocket-protocol", offered)]).await;
        assert_eq!(client.response.headers()["sec-websocket-protocol"], chosen);
        client.established().await;
    }
}

// G-11
#[tokio::test]
async fn an_offer_of_compression_is_declined_without_harm() {
    let server = TestServer::start().await;
    let offer = [("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")];
    let mut client = server.open_with("/app/app-key?protocol=7", &offer).await;
    assert_eq!(client.response.headers().get("sec-websocket-extensions"), None);
    client.established().await;
    client.subscribe("a").await;
    client.nothing_came().await;
}

// G-12, G-27, G-28
#[tokio::test]
async fn an_unknown_key_hears_an_error_and_then_the_close() {
    let server = TestServer::start().await;
    let mut client = server.open("/app/nobody?protocol=7").await;
    let message = "App key nobody not in this cluster. Did you forget to specify the cluster?";
    assert_eq!(
        client.next_text().await,
        format!(r#"{{"event":"pusher:error","data":{{"code":4001,"message":"{message}"}}}}"#)
    );
    assert_eq!(client.next_close().await, (4001, message.to_owned()));
    client.ended().await;
}

// G-28
#[tokio::test]
async fn the_reason_for_a_refusal_is_cut_between_letters() {
    let server = TestServer::start().await;
    for key in ["%C3%A9".repeat(200), "x".repeat(2000), "a".to_owned() + &"%F0%9F%98%80".repeat(50)] {
        let (code, message) = refusal(server.open(&format!("/app/{key}?protocol=7")).await).await;
        assert_eq!(code, 4001);
        assert!(message.len() > 123, "nothing had to be cut: {message}");
    }
}

// G-13, G-27, G-28
#[tokio::test]
async fn a_disabled_app_is_refused() {
    let server = TestServer::start_with(|config| config.apps[0].enabled = false).await;
    let refusal = refusal(server.open("/app/app-key?protocol=7").await).await;
    assert_eq!(refusal, (4003, "Application disabled".to_owned()));
}

// G-14, G-15, G-16
#[tokio::test]
async fn only_a_trusted_proxy_can_tell_that_a_connection_came_over_tls() {
    let path = "/app/app-key?protocol=7";
    let https = [("x-forwarded-proto", "https")];
    let trusting = TestServer::start_with(|config| {
        config.tls = Tls::default();
        config.limits.require_tls = true;
        config.server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    trusting.open_with(path, &https).await.established().await;
    assert_eq!(refusal(trusting.open_with(path, &[("x-forwarded-proto", "http")]).await).await.0, 4000);
    assert_eq!(refused(&trusting, path).await, 4000);

    let trusting_others = TestServer::start_with(|config| {
        config.tls = Tls::default();
        config.limits.require_tls = true;
        config.server.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    })
    .await;
    let refusal = refusal(trusting_others.open_with(path, &https).await).await;
    let message = "Application only accepts SSL connections, reconnect using wss://";
    assert_eq!(refusal, (4000, message.to_owned()));
}

// G-17, G-27, G-28
#[tokio::test]
async fn a_websocket_on_another_path_is_refused_after_the_upgrade() {
    let server = TestServer::start().await;
    for path in ["/nothing", "/", "/app", "/app/", "/app/app-key/more", "/apps/app-id/events", "/ready"] {
        let refusal = refusal(server.open(&format!("{path}?protocol=7")).await).await;
        assert_eq!(refusal, (4005, "Path not found".to_owned()), "{path}");
    }
}

// G-18, G-19, G-27, G-28
#[tokio::test]
async fn protocol_versions_that_nobody_speaks_are_refused() {
    let server = TestServer::start().await;
    for protocol in ["3", "8", "0", "-7", "263", "99999999999999999999", "abc", "7.0", "7%20", "%FF"] {
        let refusal = refusal(server.open(&format!("/app/app-key?protocol={protocol}")).await).await;
        assert_eq!(refusal, (4007, "Unsupported protocol version".to_owned()), "{protocol}");
    }
}

// G-20, G-21, G-23
#[tokio::test]
async fn spoken_and_missing_protocol_versions_and_odd_library_versions_are_accepted() {
    let server = TestServer::start().await;
    let queries = ["?protocol=4", "?protocol=5", "?protocol=6", "?protocol=7"];
    let without_protocol = ["", "?", "?protocol=", "?protocol&client=js", "?client=js&version=8.6.0"];
    let odd_versions = ["?protocol=7&version=", "?protocol=7&version=@version@", "?protocol=7&version=%00%FF"];
    for query in queries.iter().chain(&without_protocol).chain(&odd_versions) {
        accepted(&server, &format!("/app/app-key{query}")).await;
    }
}

// G-22, G-27, G-28
#[tokio::test]
async fn a_strict_server_wants_to_know_protocol_and_version() {
    let server = TestServer::start_with(|config| config.connections.strict_protocol = true).await;
    for query in ["", "?protocol=", "?version=8.6.0"] {
        let refusal = refusal(server.open(&format!("/app/app-key{query}")).await).await;
        assert_eq!(refusal, (4008, "No protocol version supplied".to_owned()), "{query:?}");
    }
    assert_eq!(refused(&server, "/app/app-key?protocol=7&version=@version@").await, 4006);
    for query in ["?protocol=7", "?protocol=5&version=0.0.0-dev", "?protocol=7&version=10.1.10"] {
        accepted(&server, &format!("/app/app-key{query}")).await;
    }
}

// G-24, G-27, G-28
#[tokio::test]
async fn an_origin_that_is_not_on_the_list_is_refused_after_the_upgrade() {
    let server =
        TestServer::start_with(|config| config.limits.allowed_origins = vec!["*.example.com".to_owned()]).await;
    let path = "/app/app-key?protocol=7";
    server.open_with(path, &[("origin", "https://shop.example.com:8443")]).await.established().await;
    for headers in [&[("origin", "https://example.org")][..], &[("origin", "null")], &[]] {
        let refusal = refusal(server.open_with(path, headers).await).await;
        assert_eq!(refusal, (4009, "Origin not allowed".to_owned()), "{headers:?}");
    }
}

// G-25, G-26, G-27, G-28
#[tokio::test]
async fn a_full_app_takes_the_next_connection_when_one_has_left() {
    // Each node has a quota of its own.
    let server = TestServer::start_single_with(|config| config.limits.max_connections = 2).await;
    let mut first = server.connect().await;
    first.subscribe("a").await;
    let second = server.connect().await;
    for _ in 0..3 {
        let refusal = refusal(server.open("/app/app-key?protocol=7").await).await;
        assert_eq!(refusal, (4004, "Application is over connection quota".to_owned()));
    }
    server.api().publish("a", "still-here", "1").await;
    assert_eq!(first.next_text().await, r#"{"event":"still-here","data":"1","channel":"a"}"#);
    second.close().await;
    let _third = server.connect().await;
    assert_eq!(refused(&server, "/app/app-key?protocol=7").await, 4004);
}

// G-29, G-30, G-31, G-32, G-34
#[tokio::test]
async fn the_first_frame_tells_socket_id_and_activity_timeout_to_every_protocol() {
    let server = TestServer::start_with(|config| config.connections.activity_timeout_seconds = 77).await;
    for protocol in 4..=7 {
        let mut client = server.open(&format!("/app/app-key?protocol={protocol}")).await;
        let text = client.next_text().await;
        let data: Value = serde_json::from_str::<Value>(&text).unwrap()["data"].as_str().unwrap().parse().unwrap();
        let socket_id = data["socket_id"].as_str().unwrap();
        assert_eq!(
            text,
            format!(
                r#"{{"event":"pusher:connection_established","data":"{{\"socket_id\":\"{socket_id}\",\"activity_timeout\":77}}"}}"#
            )
        );
        let numbers: Vec<&str> = socket_id.split('.').collect();
        let is_plain = |number: &&str| !number.starts_with('0') && number.bytes().all(|byte| byte.is_ascii_digit());
        assert!(numbers.len() == 2 && numbers.iter().all(|number| !number.is_empty() && is_plain(number)), "{text}");
    }
}

// G-33
#[tokio::test]
async fn ten_thousand_connections_have_ten_thousand_socket_ids() {
    const ALL: usize = 10_000;
    const AT_ONCE: usize = 128;
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    assert!(files > ALL as u64 + 1000, "this test needs more open files than {files}");
    let process = Process::start(&[("GEMA_CONNECTIONS_CONNECTIONS_MAX", "10000")]).await;
    let mut connecting = FuturesUnordered::new();
    let mut connected = Vec::with_capacity(ALL);
    let mut socket_ids = HashSet::with_capacity(ALL);
    for _ in 0..ALL {
        connecting.push(async {
            let (_, mut wire) = Wire::upgrade(process.address, &upgrade_head("/app/app-key?protocol=7", &[])).await;
            let established = wire.next_text().await;
            (wire, established)
        });
        if connecting.len() == AT_ONCE {
            connected.extend(connecting.next().await);
        }
    }
    connected.extend(connecting.collect::<Vec<_>>().await);
    for (_, established) in &connected {
        let (start, _) = established.split_once(r#"\",\"activity_timeout"#).unwrap();
        socket_ids.insert(
            start.strip_prefix(r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\""#).unwrap(),
        );
    }
    assert_eq!(socket_ids.len(), ALL);
}

// G-35, G-36, G-37, G-40
#[tokio::test]
async fn pings_of_every_client_are_answered_and_pongs_are_not() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    for ping in [
        r#"{"event":"pusher:ping","data":{}}"#,
        r#"{"event": "pusher:ping"}"#,
        r#"{"event":"pusher:ping","data":"{}"}"#,
        r#"{"data":null,"event":"pusher:ping","channel":"a"}"#,
    ] {
        client.send(ping).await;
        assert_eq!(client.next_text().await, PONG, "{ping}");
    }
    for pong in [r#"{"event":"pusher:pong","data":{}}"#, r#"{"event":"pusher:pong"}"#] {
        client.send(pong).await;
        client.nothing_came().await;
    }
}

// G-38, G-39
#[tokio::test]
async fn a_ping_frame_is_answered_with_its_payload_and_with_nothing_else() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    for payload in [Vec::new(), b"ping\0\xFF".to_vec(), vec![7; 125]] {
        client.send_message(Message::Ping(payload.clone().into())).await;
        assert_eq!(client.next_message().await, Message::Pong(payload.into()));
    }
    client.nothing_came().await;
}

// G-47
#[tokio::test]
async fn a_thousand_pings_at_once_are_all_answered() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    for number in 0..1000_u16 {
        client.send(r#"{"event":"pusher:ping","data":{}}"#).await;
        client.send(r#"{"event":"pusher:pong","data":{}}"#).await;
        client.send_message(Message::Ping(Bytes::copy_from_slice(&number.to_be_bytes()))).await;
    }
    for number in 0..1000_u16 {
        assert_eq!(client.next_message().await, Message::text(PONG));
        assert_eq!(client.next_message().await, Message::Pong(Bytes::copy_from_slice(&number.to_be_bytes())));
    }
    client.nothing_came().await;
}

// G-48, G-49
#[tokio::test]
async fn what_is_no_object_with_a_string_event_is_invalid_and_costs_nothing() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    for text in [
        "",
        " ",
        "hello",
        "{",
        r#"{"event":"pusher:ping""#,
        r#"{"event":"pusher:ping"}}"#,
        "null",
        "17",
        r#""pusher:ping""#,
        "[]",
        r#"[{"event":"pusher:ping"}]"#,
        r#"{"event":5}"#,
        r#"{"event":{"pusher":"ping"}}"#,
        r#"{"event":"\ud800"}"#,
        r#"{"event":"pusher:ping","event":"pusher:ping"}"#,
    ] {
        client.send(text).await;
        assert_eq!(client.next_text().await, INVALID, "{text}");
    }
    for text in ["{}", r#"{"data":{}}"#, r#"{"type":"heartbeat"}"#, r#"{"event":null}"#] {
        client.send(text).await;
        client.next_error(None, "Missing parameter: event").await;
    }
    client.nothing_came().await;
}

// G-50
#[tokio::test]
async fn unknown_events_are_refused_and_the_connection_goes_on() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.subscribe("a").await;
    for text in [
        r#"{"event":"hello","data":{}}"#,
        r#"{"event":"hello","channel":"a","data":{}}"#,
        r#"{"event":"pusher:no_such_command","data":{}}"#,
        r#"{"event":"pusher_internal:member_added","channel":"a","data":{}}"#,
        r#"{"event":"Pusher:ping"}"#,
        r#"{"event":""}"#,
    ] {
        client.send(text).await;
        let frame = client.next().await;
        assert_eq!(frame["event"], "pusher:error", "{text}: {frame}");
        assert_eq!(frame["data"]["code"], Value::Null, "{text}: {frame}");
    }
    client.nothing_came().await;
}

// G-51
#[tokio::test]
async fn a_binary_message_is_no_command() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let subscribe = r#"{"event":"pusher:subscribe","data":{"channel":"a"}}"#;
    client.send_message(Message::binary(subscribe.as_bytes().to_vec())).await;
    assert_eq!(
        client.next_text().await,
        r#"{"event":"pusher:error","data":{"code":null,"message":"Binary messages are not supported"}}"#
    );
    server.api().publish("a", "e", "1").await;
    client.nothing_came().await;
}

// G-52
#[tokio::test]
async fn a_message_of_the_maximum_passes_and_one_byte_more_ends_the_connection() {
    const MAX: usize = 32 * 1024;
    let server = TestServer::start_with(|config| config.connections.message_bytes_max = MAX).await;
    let of_length = |length: usize| {
        let empty = r#"{"event":"pusher:ping","data":""}"#.len();
        format!(r#"{{"event":"pusher:ping","data":"{}"}}"#, "x".repeat(length - empty))
    };
    let mut client = server.connect().await;
    client.send(&of_length(MAX)).await;
    assert_eq!(client.next_text().await, PONG);
    client.send(&of_length(MAX + 1)).await;
    assert_eq!(client.next_close().await, (1009, format!("The message is larger than {MAX} bytes")));
    client.ended().await;

    let mut client = server.connect().await;
    for fragment in fragments(&of_length(MAX), &[0..1, 1..MAX / 2, MAX / 2..MAX]) {
        client.send_message(fragment).await;
    }
    assert_eq!(client.next_text().await, PONG);
    for fragment in fragments(&of_length(MAX + 1), &[0..1, 1..MAX / 2, MAX / 2..MAX + 1]) {
        client.send_message(fragment).await;
    }
    assert_eq!(client.next_close().await.0, 1009);
}

/// A text message in several frames.
fn fragments(text: &str, ranges: &[Range<usize>]) -> Vec<Message> {
    let frame = |(at, range): (usize, &Range<usize>)| {
        let opcode = OpCode::Data(if at == 0 { Data::Text } else { Data::Continue });
        let payload = Bytes::copy_from_slice(&text.as_bytes()[range.clone()]);
        Message::Frame(Frame::message(payload, opcode, at == ranges.len() - 1))
    };
    ranges.iter().enumerate().map(frame).collect()
}

// G-53
#[tokio::test]
async fn a_message_in_several_frames_is_one_message_with_pings_in_between() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let text = r#"{"event":"pusher:subscribe","data":{"channel":"a","note":"é😀"}}"#;
    let within_a_letter = text.find('é').unwrap() + 1;
    let ranges = [0..0, 0..1, 1..within_a_letter, within_a_letter..text.len(), text.len()..text.len()];
    for (number, fragment) in fragments(text, &ranges).into_iter().enumerate() {
        if number > 0 {
            client.send_message(Message::Ping(vec![number as u8].into())).await;
            assert_eq!(client.next_message().await, Message::Pong(vec![number as u8].into()));
        }
        client.send_message(fragment).await;
    }
    assert_eq!(
        client.next_text().await,
        r#"{"event":"pusher_internal:subscription_succeeded","data":"{}","channel":"a"}"#
    );
    client.nothing_came().await;
}

// G-54
#[tokio::test]
async fn text_that_is_not_utf8_ends_the_connection() {
    let server = TestServer::start().await;
    for text in [&b"{\"event\":\"\xFF\"}"[..], b"\xC3", b"\xED\xA0\x80"] {
        let mut wire = Wire::connect(server.address(), "/app/app-key?protocol=7").await;
        wire.send(TEXT, text).await;
        assert_eq!(wire.next_close().await, (1007, "A text message must be UTF-8".to_owned()), "{text:?}");
    }
    let mut wire = Wire::connect(server.address(), "/app/app-key?protocol=7").await;
    wire.send(0x01, b"\xC3").await;
    wire.send(0x80, b"\xC3").await;
    assert_eq!(wire.next_close().await.0, 1007);
}

// G-55, G-56, G-57
#[tokio::test]
async fn every_kind_of_frame_is_text_with_string_data_and_only_errors_hold_an_object() {
    let server = TestServer::start_with(|config| {
        config.limits.enable_subscription_count = true;
        config.limits.max_watchlist_size = 1;
        config.limits.max_client_events_per_second = 1;
    })
    .await;
    let mut other = server.connect().await;
    other.join("presence-room", "other").await;
    let mut client = server.open("/app/app-key?protocol=5").await;
    client.established().await;
    client.send_sign_in(r#"{"id":"me","watchlist":["you","they"]}"#).await;
    client.send_subscribe("a", None).await;
    client.send_subscribe("cache-a", None).await;
    client.send_subscribe("private-a", None).await;
    client.send_subscribe("presence-room", Some(r#"{"user_id":"me"}"#)).await;
    client.send("not json").await;
    client.send(r#"{"event":"pusher:subscribe","data":{"channel":"private-b","auth":"x:y"}}"#).await;
    for _ in 0..3 {
        client.send(r#"{"event":"client-typing","channel":"private-a","data":{"a":1}}"#).await;
    }
    client.send(r#"{"event":"pusher:ping"}"#).await;
    let mut seen = seen_until(&mut client, "pusher:pong").await;
    let third = server.connect().await;
    other.send(r#"{"event":"client-typing","channel":"presence-room","data":{"a":1}}"#).await;
    seen.extend(seen_until(&mut client, "client-typing").await);
    third.close().await;
    server.api().post("/events", r#"{"name":"published","channel":"cache-a","data":{"a":[1]}}"#).await.ok();
    seen.extend(seen_until(&mut client, "published").await);
    let mut fourth = server.connect().await;
    fourth.join("presence-room", "fourth").await;
    fourth.close().await;
    seen.extend(seen_until(&mut client, "pusher_internal:member_removed").await);
    server.api().post("/users/me/terminate_connections", "{}").await.ok();
    seen.extend(seen_until(&mut client, "pusher:error").await);
    assert_eq!(client.next_close().await.0, 4009);
    let expected = [
        "client-typing",
        "published",
        "pusher:cache_miss",
        "pusher:error",
        "pusher:pong",
        "pusher:signin_success",
        "pusher:subscription_error",
        "pusher_internal:member_added",
        "pusher_internal:member_removed",
        "pusher_internal:subscription_count",
        "pusher_internal:subscription_succeeded",
        "pusher_internal:watchlist_events",
    ];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

/// The events of the frames up to the first of this one; each frame is held against the rules.
async fn seen_until(client: &mut Client, last: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    while !seen.contains(last) {
        let Message::Text(text) = client.next_message().await else { panic!("not a text frame") };
        assert_well_formed(&text);
        let frame: Value = serde_json::from_str(&text).unwrap();
        seen.insert(frame["event"].as_str().unwrap().to_owned());
    }
    seen
}

// G-58
#[tokio::test]
async fn the_data_of_commands_may_be_a_string_that_holds_json() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let data = json!({ "channel": "private-a", "auth": channel_auth(&client.socket_id, "private-a", None) });
    client.send_json(json!({ "event": "pusher:subscribe", "data": data.to_string() })).await;
    assert_eq!(
        client.next_text().await,
        r#"{"event":"pusher_internal:subscription_succeeded","data":"{}","channel":"private-a"}"#
    );
    server.api().publish("private-a", "e", "1").await;
    assert_eq!(client.next_text().await, r#"{"event":"e","data":"1","channel":"private-a"}"#);
    client.send(r#"{"event":"pusher:unsubscribe","data":"{\"channel\":\"private-a\"}"}"#).await;
    client.nothing_came().await;
    server.api().publish("private-a", "e", "2").await;
    client.nothing_came().await;
}

// G-59
#[tokio::test]
async fn errors_from_4300_on_are_told_without_a_close() {
    let server = TestServer::start_with(|config| {
        config.limits.max_client_events_per_second = 1;
        config.limits.max_watchlist_size = 1;
    })
    .await;
    let mut client = server.connect().await;
    client.subscribe("private-a").await;
    client.send_sign_in(r#"{"id":"me","watchlist":["you","they"]}"#).await;
    let frames = client.settle().await;
    let code = |frame: &String| serde_json::from_str::<Value>(frame).unwrap()["data"]["code"].as_u64();
    let mut codes: Vec<u64> = frames.iter().filter_map(code).collect();
    for _ in 0..20 {
        client.send(r#"{"event":"client-typing","channel":"private-a","data":"x"}"#).await;
    }
    client.send(r#"{"event":"pusher:ping"}"#).await;
    loop {
        let frame = client.next().await;
        codes.extend(frame["data"]["code"].as_u64());
        if frame["event"] == "pusher:pong" {
            break;
        }
    }
    codes.dedup();
    assert_eq!(codes, [4302, 4301]);
    client.nothing_came().await;
}

// G-63, G-64
#[tokio::test]
async fn a_close_by_the_server_is_told_as_an_error_only_up_to_protocol_5() {
    let server = TestServer::start().await;
    let message = "You got disconnected by the app.";
    for protocol in 4..=7 {
        let mut client = server.open(&format!("/app/app-key?protocol={protocol}")).await;
        client.established().await;
        client.sign_in(&json!({ "id": "me" })).await;
        server.api().post("/users/me/terminate_connections", "{}").await.ok();
        if protocol <= 5 {
            assert_eq!(
                client.next_text().await,
                format!(r#"{{"event":"pusher:error","data":{{"code":4009,"message":"{message}"}}}}"#)
            );
        }
        assert_eq!(client.next_close().await, (4009, message.to_owned()), "{protocol}");
        client.ended().await;
    }
}

// G-65
#[tokio::test]
async fn a_close_of_the_client_is_answered_before_the_connection_ends() {
    let server = TestServer::start().await;
    for payload in [&b""[..], &[0x03, 0xE8], b"\x03\xE9going away", &[0x0F, 0xA0]] {
        let mut wire = Wire::connect(server.address(), "/app/app-key?protocol=7").await;
        wire.send(CLOSE, payload).await;
        let code = payload[..payload.len().min(2)].to_vec();
        assert_eq!(wire.next_frame().await, Some((CLOSE, code)));
        assert_eq!(wire.next_frame().await, None);
    }
    let mut client = server.connect().await;
    client.subscribe("a").await;
    let close = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
    client.send_message(Message::Close(Some(close))).await;
    assert_eq!(client.next_close().await.0, 1000);
    client.ended().await;
    assert_eq!(server.api().get("/channels", &[]).await.ok(), json!({ "channels": {} }));
}

// G-66
#[tokio::test]
async fn the_queries_of_the_official_clients_connect_and_are_told_of_a_shutdown() {
    let server = TestServer::start_single_with(|config| config.server.drain_seconds = Seconds(60.0)).await;
    let mut clients = Vec::new();
    for (query, sub_protocol) in [
        ("protocol=7&client=js&version=8.6.0&flash=false", None),
        ("client=pusher-websocket-swift&version=10.1.10&protocol=7", Some("pusher-channels-protocol-7")),
        ("client=java-client&protocol=5&version=2.4.4", None),
        ("protocol=5&client=pusher-dotnet-client&version=2.1.0", None),
        ("client=Pysher&version=1.0.8&protocol=6", None),
    ] {
        let headers: Vec<_> = sub_protocol.map(|name| ("sec-websocket-protocol", name)).into_iter().collect();
        let mut client = server.open_with(&format!("/app/app-key?{query}"), &headers).await;
        client.established().await;
        client.subscribe("a").await;
        clients.push((client, query.contains("protocol=5")));
    }
    server.api().publish("a", "e", "1").await;
    server.quiet().await;
    let hear = clients.into_iter().map(async |(mut client, knows_no_codes)| {
        assert_eq!(client.next_text().await, r#"{"event":"e","data":"1","channel":"a"}"#);
        let message = "Server closed. Please reconnect shortly.";
        if knows_no_codes {
            assert_eq!(
                client.next_text().await,
                format!(r#"{{"event":"pusher:error","data":{{"code":4100,"message":"{message}"}}}}"#)
            );
        }
        assert_eq!(client.next_close().await, (4100, message.to_owned()));
        client.ended().await;
    });
    let (_, drained) = tokio::join!(join_all(hear), server.drain());
    assert_eq!((drained.connections, drained.left), (5, 0));
}
