//! Publishing over the HTTP API: what is accepted, what is refused, what the answer tells, and what arrives.

use std::time::Instant;

use gema::protocol::signature::body_md5;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::http::Answer;
use support::http::Api;
use support::http::Connection;
use support::http::request;
use support::server::TestServer;

/// An event's frame; `data` is a JSON string with its quotes.
fn frame(channel: &str, name: &str, data: &str) -> String {
    format!(r#"{{"event":"{name}","data":{data},"channel":"{channel}"}}"#)
}

/// A client on these channels, which need no signature.
async fn subscribed(server: &TestServer, channels: &[&str]) -> Client {
    let mut client = server.connect().await;
    for channel in channels {
        client.subscribe(channel).await;
    }
    client
}

/// Nothing has come on this channel since the last look. Events arrive in order, so the next one is proof.
async fn nothing_came_on(client: &mut Client, server: &TestServer, channel: &str) {
    server.api().publish(channel, "mark", "").await;
    assert_eq!(client.next_text().await, frame(channel, "mark", r#""""#));
}

async fn post_event(server: &TestServer, body: &str) -> Answer {
    server.api().post("/events", body).await
}

async fn post_batch(server: &TestServer, events: &[Value]) -> Answer {
    server.api().post("/batch_events", &json!({ "batch": events }).to_string()).await
}

// G-225, G-226
#[tokio::test]
async fn every_success_is_a_json_object() {
    let server = TestServer::start().await;
    let api = server.api();
    let _client = subscribed(&server, &["c"]).await;
    for (rest, body, expected) in [
        ("/events", r#"{"name":"e","channel":"c","data":""}"#, "{}"),
        (
            "/events",
            r#"{"name":"e","channel":"c","data":"","info":"subscription_count"}"#,
            r#"{"channels":{"c":{"subscription_count":1}}}"#,
        ),
        ("/batch_events", r#"{"batch":[{"name":"e","channel":"c","data":""}]}"#, "{}"),
        ("/users/1/terminate_connections", "{}", "{}"),
    ] {
        let answer = api.post(rest, body).await;
        assert!(answer.ok().is_object());
        assert_eq!(answer.body, expected, "{rest}");
    }
    for (rest, expected) in [
        ("/channels", r#"{"channels":{"c":{}}}"#),
        ("/channels/c", r#"{"occupied":true}"#),
        ("/channels/presence-c/users", r#"{"users":[]}"#),
    ] {
        let answer = api.get(rest, &[]).await;
        assert!(answer.ok().is_object());
        assert_eq!(answer.body, expected, "{rest}");
    }
}

// G-227
#[tokio::test]
async fn channels_come_as_an_array_or_alone_and_the_array_is_preferred() {
    let server = TestServer::start().await;
    let mut client = subscribed(&server, &["a", "b", "c"]).await;
    for (body, reached) in [
        (r#"{"name":"e","data":"1","channel":"a"}"#, &["a"][..]),
        (r#"{"name":"e","data":"1","channels":["a","c"]}"#, &["a", "c"]),
        (r#"{"name":"e","data":"1","channel":"a","channels":["b"]}"#, &["b"]),
        (r#"{"name":"e","data":"1","channels":"c"}"#, &["c"]),
        (r#"{"name":"e","data":"1","channels":null,"channel":"b"}"#, &["b"]),
    ] {
        assert_eq!(post_event(&server, body).await.ok(), json!({}), "{body}");
        for channel in reached {
            assert_eq!(client.next_text().await, frame(channel, "e", r#""1""#), "{body}");
        }
        nothing_came_on(&mut client, &server, "a").await;
    }
}

// G-228, G-229, G-233
#[tokio::test]
async fn name_data_and_a_channel_are_needed() {
    let server = TestServer::start().await;
    let mut client = subscribed(&server, &["c"]).await;
    for (body, sentence) in [
        (r#"{"channel":"c","data":"1"}"#, "Missing required parameter: name"),
        (r#"{"name":null,"channel":"c","data":"1"}"#, "Missing required parameter: name"),
        (r#"{"name":"e","channel":"c"}"#, "Missing required parameter: data"),
        (r#"{"name":"e","channel":"c","data":null}"#, "Missing required parameter: data"),
        (r#"{"name":"e","data":"1"}"#, "Missing required parameter: channel"),
        (r#"{"name":"e","data":"1","channels":[]}"#, "Missing required parameter: channels"),
        (r#"{"name":"e","data":"1","channel":"c","channels":[]}"#, "Missing required parameter: channels"),
        (r#"{"name":5,"channel":"c","data":"1"}"#, "Expected name parameter to be a string"),
        (r#"{"name":["e"],"channel":"c","data":"1"}"#, "Expected name parameter to be a string"),
        (r#"{"name":{"e":1},"channel":"c","data":"1"}"#, "Expected name parameter to be a string"),
        (r#"{"name":true,"channel":"c","data":"1"}"#, "Expected name parameter to be a string"),
        (r#"{"name":"","channel":"c","data":"1"}"#, "The name parameter must not be empty"),
        (r#"{"name":"e","channel":["c"],"data":"1"}"#, "Expected channel parameter to be a string"),
        (r#"{"name":"e","channels":["c",5],"data":"1"}"#, "Expected channels parameter to be an array of strings"),
        (r#"{"name":"e","channels":5,"data":"1"}"#, "Expected channels parameter to be an array of strings"),
        (r#"{"name":"e","channels":{"c":1},"data":"1"}"#, "Expected channels parameter to be an array of strings"),
    ] {
        assert_eq!(post_event(&server, body).await.refused(400), sentence, "{body}");
    }
    nothing_came_on(&mut client, &server, "c").await;
}

// G-230, G-231
#[tokio::test]
async fn data_arrives_as_a_string_whatever_it_was() {
    let server = TestServer::start().await;
    let mut client = subscribed(&server, &["c"]).await;
    let deep = format!("{}{}", "[ ".repeat(300), "]".repeat(300));
    let deep_frame = format!(r#""{}""#, deep.replace(' ', ""));
    for (data, expected) in [
        (r#""""#, r#""""#),
        (r#""plain""#, r#""plain""#),
        (r#""null""#, r#""null""#),
        (r#""a \/ \u00e9 \ud83d\ude00""#, r#""a \/ \u00e9 \ud83d\ude00""#),
        (r#"{"b" : 1.0, "a": [ 1 , "x  y" ] }"#, r#""{\"b\":1.0,\"a\":[1,\"x  y\"]}""#),
        (r#"{"huge":123456789012345678901234567890.10e5}"#, r#""{\"huge\":123456789012345678901234567890.10e5}""#),
        (r#"{ "a" : "\"\\ \u00e9" }"#, r#""{\"a\":\"\\\"\\\\ \\u00e9\"}""#),
        (r#"{ "$serde_json::private::Number" : "1" }"#, r#""{\"$serde_json::private::Number\":\"1\"}""#),
        ("[]", r#""[]""#),
        ("{}", r#""{}""#),
        ("0", r#""0""#),
        ("false", r#""false""#),
        (&deep, &deep_frame),
    ] {
        let body = format!(r#"{{"name":"e","channel":"c","data":{data}}}"#);
        assert_eq!(post_event(&server, &body).await.ok(), json!({}), "{data}");
        assert_eq!(client.next_text().await, frame("c", "e", expected), "{data}");
    }
}

// G-232
#[tokio::test]
async fn an_event_may_name_a_hundred_channels() {
    let server = TestServer::start().await;
    let mut client = subscribed(&server, &["c-0", "c-99"]).await;
    let body = |count: usize| {
        let channels: Vec<String> = (0..count).map(|number| format!("c-{number}")).collect();
        json!({ "name": "e", "channels": channels, "data": "1" }).to_string()
    };
    assert_eq!(post_event(&server, &body(100)).await.ok(), json!({}));
    for channel in ["c-0", "c-99"] {
        assert_eq!(client.next_text().await, frame(channel, "e", r#""1""#));
    }
    let refused = post_event(&server, &body(101)).await;
    assert_eq!(refused.refused(400), "The number of channels exceeds the limit of 100");
    nothing_came_on(&mut client, &server, "c-0").await;
    nothing_came_on(&mut client, &server, "c-99").await;
}

// G-303
#[tokio::test]
async fn an_event_for_205_channels_in_three_requests_reaches_each_once() {
    let server = TestServer::start().await;
    let channels: Vec<String> = (0..205).map(|number| format!("c-{number}")).collect();
    let mut clients = Vec::new();
    for channel in [0, 99, 100, 204] {
        clients.push((&channels[channel], subscribed(&server, &[&channels[channel]]).await));
    }
    let mut everywhere = server.connect().await;
    for channel in &channels {
        everywhere.subscribe(channel).await;
    }
    for chunk in channels.chunks(100) {
        let body = json!({ "name": "App\\Events\\OrderShipped", "data": "[]", "channels": chunk });
        assert_eq!(post_event(&server, &body.to_string()).await.ok(), json!({}));
    }
    let shipped = |channel: &str| frame(channel, r"App\\Events\\OrderShipped", r#""[]""#);
    for (channel, mut client) in clients {
        assert_eq!(client.next_text().await, shipped(channel));
        nothing_came_on(&mut client, &server, channel).await;
    }
    for channel in &channels {
        assert_eq!(everywhere.next_text().await, shipped(channel));
    }
}

// G-234
#[tokio::test]
async fn one_invalid_channel_name_stops_the_event_on_all_channels() {
    let server = TestServer::start().await;
    let mut client = subscribed(&server, &["c"]).await;
    for name in ["", "a b", "a/b", "a:b", "#a", "#server-to-user-", "caf\u{e9}", "a\u{7f}"] {
        for channels in [["c", name], [name, "c"]] {
            let body = json!({ "name": "e", "channels": channels, "data": "1" }).to_string();
            let expected = format!("Invalid channel name: {}", name.replace('\u{7f}', " "));
            assert_eq!(post_event(&server, &body).await.refused(400), expected);
        }
    }
    let longest = "x".repeat(200);
    let body = |name: &str| json!({ "name": "e", "channels": ["d", name], "data": "1" }).to_string();
    assert_eq!(post_event(&server, &body(&longest)).await.ok(), json!({}));
    assert_eq!(post_event(&server, &body(&format!("{longest}x"))).await.refused(400), "Channel name too long");
    nothing_came_on(&mut client, &server, "c").await;
}

// G-235, G-236
#[tokio::test]
async fn the_named_connection_is_left_out_and_no_other() {
    let server = TestServer::start().await;
    let mut sender = subscribed(&server, &["c"]).await;
    let mut other = subscribed(&server, &["c"]).await;
    let body = |socket_id: Value| json!({ "name": "e", "channel": "c", "data": "1", "socket_id": socket_id });
    let excluding_sender = body(sender.socket_id.clone().into()).to_string();
    assert_eq!(post_event(&server, &excluding_sender).await.ok(), json!({}));
    assert_eq!(other.next_text().await, frame("c", "e", r#""1""#));
    nothing_came_on(&mut sender, &server, "c").await;
    assert_eq!(other.next_text().await, frame("c", "mark", r#""""#));

    let nobody = [json!("1234.1234"), json!("0.0"), json!("99999999999999999999999.1"), json!(null)];
    for socket_id in nobody {
        assert_eq!(post_event(&server, &body(socket_id.clone()).to_string()).await.ok(), json!({}), "{socket_id}");
        for client in [&mut sender, &mut other] {
            assert_eq!(client.next_text().await, frame("c", "e", r#""1""#), "{socket_id}");
        }
    }
    for socket_id in [json!(""), json!("1"), json!("1."), json!("1.2.3"), json!("a.b"), json!("1.2\n"), json!(1.2)] {
        let refused = post_event(&server, &body(socket_id.clone()).to_string()).await;
        assert_eq!(refused.refused(400), "Invalid socket_id, two numbers joined by a dot are expected", "{socket_id}");
    }
    nothing_came_on(&mut sender, &server, "c").await;
}

// G-236, G-237
#[tokio::test]
async fn null_counts_as_absent_and_unknown_fields_do_not_count() {
    let server = TestServer::start().await;
    let mut client = subscribed(&server, &["c"]).await;
    for more in [r#""info":null,"socket_id":null"#, r#""tags":{"a":"b"},"priority":[1]"#, r#""info":"""#] {
        let answer = post_event(&server, &format!(r#"{{"name":"e","channel":"c","data":"1",{more}}}"#)).await;
        assert_eq!(answer.ok(), json!({}), "{more}");
        assert_eq!(client.next_text().await, frame("c", "e", r#""1""#));
    }
}

/// A server where an event may have Pusher's 10 KiB.
async fn server_with_pushers_limit() -> TestServer {
    TestServer::start_with(|config| config.limits.max_event_payload_in_kb = 10.0).await
}

// G-238, G-239
#[tokio::test]
async fn data_is_measured_in_bytes_after_decoding() {
    let server = server_with_pushers_limit().await;
    let mut client = subscribed(&server, &["c"]).await;
    let mut other = subscribed(&server, &["d"]).await;
    let body = |data: &str| format!(r#"{{"name":"e","channels":["c","d"],"data":{data}}}"#);
    for unit in ["x", "\u{e9}", "\u{1f600}", r"\u0041", r"\u00e9", r"\ud83d\ude00", r"\n", r"\\", r#"\""#] {
        let bytes = serde_json::from_str::<String>(&format!("\"{unit}\"")).unwrap().len();
        let exactly = format!("\"{}\"", unit.repeat(10_240 / bytes));
        assert_eq!(post_event(&server, &body(&exactly)).await.ok(), json!({}), "{unit}");
        assert_eq!(client.next_text().await, frame("c", "e", &exactly));
        assert_eq!(other.next_text().await, frame("d", "e", &exactly));
        let over = format!("\"{}x\"", unit.repeat(10_240 / bytes));
        let refused = post_event(&server, &body(&over)).await;
        assert_eq!(
            refused.refused(413),
            "The data content of this event exceeds the allowed maximum (10240 bytes)",
            "{unit}"
        );
    }
    // 60 KB on the wire. What is no string counts by its compact text.
    assert_eq!(post_event(&server, &body(&format!("\"{}\"", r"\u0041".repeat(10_240)))).await.ok(), json!({}));
    let object = |length: usize| format!(r#"{{ "a" : "{}" }}"#, "x".repeat(length - r#"{"a":""}"#.len()));
    assert_eq!(post_event(&server, &body(&object(10_240))).await.ok(), json!({}));
    assert_eq!(post_event(&server, &body(&object(10_241))).await.status, 413);
    // Escapes count as what they stand for, in a value as in a string; JSON within a string is a string.
    let escaped = |length: usize| format!(r#"{{ "a" : "{}" }}"#, r"\u00e9".repeat((length - r#"{"a":""}"#.len()) / 2));
    assert_eq!(post_event(&server, &body(&escaped(10_240))).await.ok(), json!({}));
    assert_eq!(post_event(&server, &body(&escaped(10_242))).await.status, 413);
    assert_eq!(post_event(&server, &body(&json!(escaped(10_240)).to_string())).await.status, 413);
    for client in [&mut client, &mut other] {
        for _ in 0..3 {
            client.next_event("e").await;
        }
    }
    nothing_came_on(&mut client, &server, "c").await;
}

// G-238
#[tokio::test]
async fn without_further_settings_an_event_may_have_100_kib() {
    let server = TestServer::start().await;
    let body = |length: usize| json!({ "name": "e", "channel": "c", "data": "x".repeat(length) }).to_string();
    assert_eq!(post_event(&server, &body(102_400)).await.ok(), json!({}));
    let refused = post_event(&server, &body(102_401)).await;
    assert_eq!(refused.refused(413), "The data content of this event exceeds the allowed maximum (102400 bytes)");
}

// G-240
#[tokio::test]
async fn a_body_may_be_as_large_as_configured() {
    let server = TestServer::start_with(|config| config.http.request_bytes_max = 200_000).await;
    let mut client = subscribed(&server, &["c"]).await;
    let event = r#"{"name":"e","channel":"c","data":"1"}"#;
    let body = |length: usize| event.to_owned() + &" ".repeat(length - event.len());
    assert_eq!(post_event(&server, &body(200_000)).await.ok(), json!({}));
    assert_eq!(client.next_text().await, frame("c", "e", r#""1""#));
    let sentence = "The request body exceeds the allowed maximum (200000 bytes)";
    for length in [200_001, 20_000_000] {
        assert_eq!(post_event(&server, &body(length)).await.refused(413), sentence, "{length}");
    }
    // The length is not told beforehand.
    let mut connection = Connection::open(server.address()).await;
    connection.send(signed_head(&server, "/events", &body(200_001), "Transfer-Encoding: chunked")).await;
    connection.send(chunked(&body(200_001), 50_000)).await;
    assert_eq!(connection.answer().await.refused(413), sentence);
    nothing_came_on(&mut client, &server, "c").await;
}

// G-241, G-242
#[tokio::test]
async fn names_are_limited_in_length_and_some_are_reserved() {
    let server = TestServer::start().await;
    let mut client = subscribed(&server, &["c"]).await;
    let body = |name: &str| json!({ "name": name, "channel": "c", "data": "1" }).to_string();
    let allowed = ["x".repeat(200), "\u{e9}".repeat(200), "\u{1f600}".repeat(200)];
    let others = ["client-e", r"App\Events\OrderShipped", "pusher", "Pusher:x", "pusher_x", " a b:c\u{e9}", "a\nb"];
    for name in allowed.iter().map(String::as_str).chain(others) {
        assert_eq!(post_event(&server, &body(name)).await.ok(), json!({}), "{name}");
        let received = client.next().await;
        assert_eq!(received, json!({ "event": name, "data": "1", "channel": "c" }));
    }
    for name in allowed.map(|name| name + "x") {
        let refused = post_event(&server, &body(&name)).await;
        assert_eq!(refused.refused(400), "Event name is too long, at most 200 characters are allowed", "{name}");
    }
    let internal = "pusher_internal:subscription_succeeded";
    for name in ["pusher:error", "pusher:", internal, "pusher_internal:"] {
        let refused = post_event(&server, &body(name)).await;
        assert_eq!(refused.refused(400), "Event names starting with pusher: or pusher_internal: are reserved");
    }
    nothing_came_on(&mut client, &server, "c").await;
}

// G-243
#[tokio::test]
async fn an_encrypted_channel_must_be_alone() {
    let server = TestServer::start().await;
    let mut client = subscribed(&server, &["private-encrypted-a", "c"]).await;
    for other in ["c", "private-encrypted-b", "private-b"] {
        for channels in [["private-encrypted-a", other], [other, "private-encrypted-a"]] {
            let body = json!({ "name": "e", "channels": channels, "data": "1" }).to_string();
            let refused = post_event(&server, &body).await;
            assert_eq!(refused.refused(400), "An event on an encrypted channel must name no other channel");
        }
    }
    nothing_came_on(&mut client, &server, "c").await;
    let data = r#""{\"nonce\":\"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH\",\"ciphertext\":\"lyBWhPAFV8bniccaZPnmG46a2BKsfaYl9vW3rShflw==\"}""#;
    for channels in [r#"["private-encrypted-a"]"#, r#"["private-encrypted-a","private-encrypted-a"]"#] {
        let body = format!(r#"{{"name":"e","channels":{channels},"data":{data}}}"#);
        assert_eq!(post_event(&server, &body).await.ok(), json!({}));
        assert_eq!(client.next_text().await, frame("private-encrypted-a", "e", data));
    }
    nothing_came_on(&mut client, &server, "private-encrypted-a").await;
}

// G-244
#[tokio::test]
async fn a_channel_named_twice_gets_the_event_once() {
    let server = TestServer::start().await;
    let mut client = subscribed(&server, &["c", "d"]).await;
    let body = r#"{"name":"e","channels":["c","d","c","\u0063"],"data":"1","info":"subscription_count"}"#;
    let answer = post_event(&server, body).await;
    assert_eq!(answer.ok(), json!({ "channels": { "c": count(1), "d": count(1) } }));
    for channel in ["c", "d"] {
        assert_eq!(client.next_text().await, frame(channel, "e", r#""1""#));
    }
    nothing_came_on(&mut client, &server, "c").await;
    nothing_came_on(&mut client, &server, "d").await;
}

fn count(subscriptions: usize) -> Value {
    json!({ "subscription_count": subscriptions })
}

// G-245
#[tokio::test]
async fn a_body_must_be_a_json_object() {
    let server = TestServer::start().await;
    for rest in ["/events", "/batch_events"] {
        for body in ["", "  ", "x", "[]", r#"["e"]"#, "null", "5", r#""e""#, "\u{feff}{}"] {
            let refused = server.api().post(rest, body).await;
            assert_eq!(refused.refused(400), "The request body must be a JSON object", "{body:?}");
        }
        for body in
            ["{", "{]", r#"{"name":"e""#, r#"{"name":"e",}"#, r#"{"name":"e"} x"#, "{'name':'e'}", "{\"a\":\"\n\"}"]
        {
            let refused = server.api().post(rest, body).await;
            assert!(refused.refused(400).starts_with("The request body is not valid: "), "{body:?}: {refused:?}");
        }
        let path = server.api().path(rest);
        let body = b"{\"name\":\"\xff\",\"channel\":\"c\",\"data\":\"\"}";
        let query = server.api().signed_query("POST", &path, &[("body_md5", &body_md5(body))], "");
        let answer = request(server.address(), "POST", &format!("{path}?{query}"), &[], body).await;
        assert_eq!(answer.refused(400), "The request body is not UTF-8");
    }
}

// G-246
#[tokio::test]
async fn the_content_type_does_not_matter() {
    let server = TestServer::start().await;
    let mut client = subscribed(&server, &["c"]).await;
    let body = r#"{"name":"e","channel":"c","data":"1"}"#;
    for content_type in [
        None,
        Some("application/json"),
        Some("application/json; charset=utf-8"),
        Some("application/x-www-form-urlencoded"),
        Some("text/plain;charset=utf-16"),
        Some("nonsense"),
        Some(""),
    ] {
        let headers: Vec<_> = content_type.map(|value| ("Content-Type", value)).into_iter().collect();
        let path = server.api().path("/events");
        let target = format!("{path}?{}", server.api().signed_query("POST", &path, &[], body));
        let answer = request(server.address(), "POST", &target, &headers, body.as_bytes()).await;
        assert_eq!(answer.ok(), json!({}), "{content_type:?}");
        assert_eq!(client.next_text().await, frame("c", "e", r#""1""#));
    }
}

// G-247, G-248
#[tokio::test]
async fn the_answer_has_the_counts_that_apply_to_each_channel() {
    let server = TestServer::start().await;
    let mut clients = Vec::new();
    for user in ["siti", "budi", "siti"] {
        let mut client = subscribed(&server, &["another"]).await;
        client.join("presence-room", user).await;
        clients.push(client);
    }
    let body = |info: &str| {
        let channels = ["presence-room", "another", "idle", "presence-idle"];
        json!({ "name": "e", "channels": channels, "data": "1", "info": info }).to_string()
    };
    let answer = post_event(&server, &body("user_count,subscription_count")).await;
    answer.ok();
    assert_eq!(
        answer.body,
        r#"{"channels":{"presence-room":{"user_count":2,"subscription_count":3},"another":{"subscription_count":3},"idle":{"subscription_count":0},"presence-idle":{"user_count":0,"subscription_count":0}}}"#
    );
    for (info, expected) in [
        (
            " user_count ,",
            r#"{"channels":{"presence-room":{"user_count":2},"another":{},"idle":{},"presence-idle":{"user_count":0}}}"#,
        ),
        ("shoe_size,cache", r#"{"channels":{"presence-room":{},"another":{},"idle":{},"presence-idle":{}}}"#),
        ("", "{}"),
    ] {
        let answer = post_event(&server, &body(info)).await;
        answer.ok();
        assert_eq!(answer.body, expected, "{info}");
    }
}

#[tokio::test]
async fn the_counts_may_be_asked_for_in_an_array_but_not_in_anything_else() {
    let server = TestServer::start().await;
    let _client = subscribed(&server, &["c"]).await;
    let body = |info: &Value| json!({ "name": "e", "channel": "c", "data": "1", "info": info }).to_string();
    let counted = json!({ "channels": { "c": { "subscription_count": 1 } } });
    for info in [
        json!(["subscription_count"]),
        json!(["user_count", "subscription_count"]),
        json!(["subscription_count,user_count"]),
        json!("subscription_count"),
    ] {
        assert_eq!(post_event(&server, &body(&info)).await.ok(), counted, "{info}");
    }
    for info in [json!([]), json!(null), json!("")] {
        assert_eq!(post_event(&server, &body(&info)).await.ok(), json!({}), "{info}");
    }
    let sentence =
        "Expected info parameter to be a string, such as \"subscription_count,user_count\", or an array of strings";
    for info in [json!(1234), json!({ "a": 1 }), json!(true), json!([1]), json!(["subscription_count", null])] {
        assert_eq!(post_event(&server, &body(&info)).await.refused(400), sentence, "{info}");
        let event = json!({ "name": "e", "channel": "c", "data": "1", "info": info });
        let batch = json!({ "batch": [event] }).to_string();
        let answer = server.api().post("/batch_events", &batch).await;
        assert_eq!(answer.refused(400), format!("Event 1 of the batch: {sentence}"), "{info}");
    }
}

fn batch_event(channel: &str, name: &str) -> Value {
    json!({ "channel": channel, "name": name, "data": "1" })
}

// G-249
#[tokio::test]
async fn a_batch_of_ten_is_delivered_in_order() {
    let server = TestServer::start().await;
    let mut clients = [subscribed(&server, &["c"]).await, subscribed(&server, &["d"]).await];
    let channels = ["c", "d", "d", "c", "c", "d", "c", "d", "d", "c"];
    let events: Vec<Value> =
        channels.iter().enumerate().map(|(at, channel)| batch_event(channel, &format!("e{at}"))).collect();
    let answer = post_batch(&server, &events).await;
    answer.ok();
    assert_eq!(answer.body, "{}");
    assert_eq!(post_batch(&server, &[]).await.ok(), json!({}));
    for (client, own) in clients.iter_mut().zip(["c", "d"]) {
        for (at, _) in channels.iter().enumerate().filter(|(_, channel)| **channel == own) {
            assert_eq!(client.next_text().await, frame(own, &format!("e{at}"), r#""1""#));
        }
        nothing_came_on(client, &server, own).await;
    }
}

// G-250, G-251, G-252
#[tokio::test]
async fn one_wrong_event_stops_the_whole_batch() {
    let server = server_with_pushers_limit().await;
    let mut client = subscribed(&server, &["c"]).await;
    let eleven: Vec<Value> = (0..11).map(|_| batch_event("c", "e")).collect();
    assert_eq!(post_batch(&server, &eleven).await.refused(400), "Batch too large (11 > 10)");
    for (status, wrong, sentence) in [
        (400, json!({ "channels": ["c"], "name": "e", "data": "1" }), "Missing required parameter: channel"),
        (400, json!({ "name": "e", "data": "1" }), "Missing required parameter: channel"),
        (400, json!({ "channel": "c", "data": "1" }), "Missing required parameter: name"),
        (400, json!({ "channel": "c", "name": "e" }), "Missing required parameter: data"),
        (400, json!({ "channel": "a b", "name": "e", "data": "1" }), "Invalid channel name: a b"),
        (
            400,
            json!({ "channel": "c", "name": "e", "data": "1", "socket_id": "1" }),
            "Invalid socket_id, two numbers joined by a dot are expected",
        ),
        (400, batch_event("c", "pusher:x"), "Event names starting with pusher: or pusher_internal: are reserved"),
        (400, json!(1), "A JSON object is expected"),
        (400, json!(null), "A JSON object is expected"),
        (
            413,
            json!({ "channel": "c", "name": "e", "data": "x".repeat(10_241) }),
            "The data content of this event exceeds the allowed maximum (10240 bytes)",
        ),
    ] {
        let right = batch_event("c", "e");
        for (number, events) in [(2, [&right, &wrong]), (1, [&wrong, &right])] {
            let answer = server.api().post("/batch_events", &json!({ "batch": events }).to_string()).await;
            assert_eq!(answer.refused(status), format!("Event {number} of the batch: {sentence}"), "{wrong}");
        }
    }
    for (body, sentence) in [
        ("{}", "Missing required parameter: batch"),
        (r#"{"batch":null}"#, "Missing required parameter: batch"),
        (r#"{"batch":{"channel":"c"}}"#, "Expected batch parameter to be an array of events"),
        (r#"{"batch":"c"}"#, "Expected batch parameter to be an array of events"),
        ("[]", "The request body must be a JSON object"),
    ] {
        assert_eq!(server.api().post("/batch_events", body).await.refused(400), sentence);
    }
    nothing_came_on(&mut client, &server, "c").await;
}

// G-253
#[tokio::test]
async fn a_batch_answers_for_each_event_once_one_asks() {
    let server = TestServer::start().await;
    let mut client = subscribed(&server, &["c"]).await;
    client.join("presence-room", "siti").await;
    let asking = |channel: &str, info: &str| json!({ "channel": channel, "name": "e", "data": "1", "info": info, "socket_id": client.socket_id });
    let events = [
        asking("presence-room", "user_count,subscription_count"),
        batch_event("d", "e"),
        asking("c", "subscription_count"),
        asking("c", "user_count"),
        asking("c", ""),
    ];
    let answer = post_batch(&server, &events).await;
    answer.ok();
    assert_eq!(answer.body, r#"{"batch":[{"user_count":1,"subscription_count":1},{},{"subscription_count":1},{},{}]}"#);
}

// G-274
#[tokio::test]
async fn too_many_events_are_refused_until_later() {
    // Each node counts for itself.
    let server = TestServer::start_single_with(|config| config.limits.max_backend_events_per_second = 5).await;
    let mut client = subscribed(&server, &["c"]).await;
    let started = Instant::now();
    let mut accepted = 0;
    let refused = loop {
        let body = json!({ "name": "e", "channel": "c", "data": accepted.to_string() }).to_string();
        let answer = post_event(&server, &body).await;
        if answer.status != 200 {
            break answer;
        }
        accepted += 1;
    };
    let spare = started.elapsed().as_secs() as i32 + 1;
    assert!((5..=5 * (1 + spare)).contains(&accepted), "{accepted}");
    assert!(refused.refused(429).starts_with("The app publishes more than it may, try again in "), "{refused:?}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    for number in 0..accepted {
        assert_eq!(client.next_text().await, frame("c", "e", &format!("\"{number}\"")));
    }
    // Reading has a limit of its own.
    assert_eq!(server.api().get("/channels/c", &[]).await.ok(), json!({ "occupied": true }));
    let later =
        async { while post_event(&server, r#"{"name":"later","channel":"c","data":""}"#).await.status == 429 {} };
    tokio::time::timeout(PATIENCE, later).await.expect("never again");
    assert_eq!(client.next_text().await, frame("c", "later", r#""""#));
}

// G-274
#[tokio::test]
async fn too_many_questions_are_refused_until_later() {
    let server = TestServer::start_single_with(|config| config.limits.max_read_requests_per_second = 1).await;
    let until = Instant::now() + PATIENCE;
    let refused = loop {
        match server.api().get("/channels", &[]).await {
            answer if answer.status == 429 => break answer,
            _ => assert!(Instant::now() < until, "questions are not limited"),
        }
    };
    assert!(refused.body.starts_with("The app asks more often than it may, try again in "), "{refused:?}");
    assert_eq!(refused.header("retry-after"), Some("1"));
}

// G-274
#[tokio::test]
async fn no_questions_are_allowed_where_the_limit_is_zero() {
    let server = TestServer::start_with(|config| config.limits.max_read_requests_per_second = 0).await;
    for rest in ["/channels", "/channels/c", "/channels/presence-c/users"] {
        let refused = server.api().get(rest, &[]).await;
        assert_eq!(refused.header("retry-after"), None, "{refused:?}");
        assert_eq!(refused.refused(429), "The app may ask for nothing: its max_read_requests_per_second is 0");
    }
    server.api().publish("c", "e", "").await;
    assert_eq!(server.api().post("/users/1/terminate_connections", "{}").await.ok(), json!({}));
}

/// The head of a signed POST on a connection that stays open.
fn signed_head(server: &TestServer, rest: &str, body: &str, header: &str) -> String {
    let path = server.api().path(rest);
    let query = server.api().signed_query("POST", &path, &[], body);
    format!("POST {path}?{query} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n")
}

/// A body in chunks of this size, and its end.
fn chunked(body: &str, size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in body.as_bytes().chunks(size) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

#[tokio::test]
async fn a_body_may_come_in_chunks() {
    let server = TestServer::start().await;
    let mut client = subscribed(&server, &["c"]).await;
    let mut connection = Connection::open(server.address()).await;
    let body = json!({ "name": "e", "channel": "c", "data": "\u{e9}".repeat(40_000) }).to_string();
    for size in [7, 1000, 70_000, 100_000] {
        connection.send(signed_head(&server, "/events", &body, "Transfer-Encoding: chunked")).await;
        connection.send(chunked(&body, size)).await;
        assert_eq!(connection.answer().await.ok(), json!({}));
        assert_eq!(client.next_event("e").await, "\u{e9}".repeat(40_000));
    }
}

#[tokio::test]
async fn one_connection_serves_many_requests_refused_ones_included() {
    let server = TestServer::start().await;
    let mut client = subscribed(&server, &["c"]).await;
    let mut connection = Connection::open(server.address()).await;
    let body = r#"{"name":"e","channel":"c","data":"1"}"#;
    let good =
        || format!("{}{body}", signed_head(&server, "/events", body, &format!("Content-Length: {}", body.len())));
    let wrong = good().replace("auth_signature=", "auth_signature=0");
    let unknown = good().replace("/apps/app-id/", "/apps/nobody/");
    let invalid = format!("{}{{}}", signed_head(&server, "/events", "{}", "Content-Length: 2"));
    let nowhere = good().replace("/events?", "/nowhere?");
    let bodiless = signed_head(&server, "/users/1/terminate_connections", "", "Content-Length: 0");
    for (bytes, status) in
        [(good(), 200), (wrong, 401), (unknown, 404), (invalid, 400), (nowhere, 404), (bodiless, 200), (good(), 200)]
    {
        connection.send(&bytes).await;
        assert_eq!(connection.answer().await.status, status, "{bytes}");
    }
    // Several at once, as a pipelining client sends them.
    connection.send(good().repeat(3)).await;
    for _ in 0..3 {
        assert_eq!(connection.answer().await.ok(), json!({}));
    }
    for _ in 0..5 {
        assert_eq!(client.next_text().await, frame("c", "e", r#""1""#));
    }
    connection.send(good().replace("Host: localhost", "Host: localhost\r\nConnection: close")).await;
    assert_eq!(connection.answer().await.ok(), json!({}));
    connection.ended().await;
}

#[tokio::test]
async fn a_client_that_asks_may_send_its_body() {
    let server = TestServer::start().await;
    let mut client = subscribed(&server, &["c"]).await;
    let mut connection = Connection::open(server.address()).await;
    let body = r#"{"name":"e","channel":"c","data":"1"}"#;
    let expect = |length: usize| format!("Expect: 100-continue\r\nContent-Length: {length}");
    connection.send(signed_head(&server, "/events", body, &expect(body.len()))).await;
    assert_eq!(connection.answer().await.status, 100);
    connection.send(body).await;
    assert_eq!(connection.answer().await.ok(), json!({}));
    assert_eq!(client.next_text().await, frame("c", "e", r#""1""#));
    // What is too large is refused before it is sent.
    connection.send(signed_head(&server, "/events", body, &expect(100_000_000))).await;
    assert_eq!(connection.answer().await.status, 413);
}

#[tokio::test]
async fn pages_of_any_origin_may_call_unless_configured_otherwise() {
    let preflight = async |server: &TestServer, origin: &str| {
        let headers = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "content-type,x-socket-id"),
        ];
        let answer = request(server.address(), "OPTIONS", "/apps/app-id/events", &headers, b"").await;
        assert_eq!((answer.status, &*answer.body), (200, ""));
        answer
    };
    let server = TestServer::start().await;
    let answer = preflight(&server, "https://page.example").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET,POST,PUT,DELETE,OPTIONS"));
    assert_eq!(
        answer.header("access-control-allow-headers"),
        Some(
            "origin,content-type,x-auth-token,x-requested-with,accept,authorization,x-csrf-token,xsrf-token,x-socket-id"
        )
    );
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    let page = [("Origin", "https://page.example")];
    let signed =
        format!("/apps/app-id/channels?{}", server.api().signed_query("GET", "/apps/app-id/channels", &[], ""));
    for (target, status) in [(&*signed, 200), ("/apps/app-id/channels", 401), ("/nowhere", 404)] {
        let answer = request(server.address(), "GET", target, &page, b"").await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (status, Some("*")), "{target}");
        // Nobody but browsers needs it.
        let answer = request(server.address(), "GET", target, &[], b"").await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (status, None), "{target}");
    }

    let strict = TestServer::start_with(|config| {
        config.http.cors_origins = vec!["https://a.example".to_owned(), "https://b.example".to_owned()];
        config.http.cors_methods = vec!["POST".to_owned()];
        config.http.cors_headers = vec!["X-Socket-Id".to_owned()];
    })
    .await;
    for (origin, allowed) in [
        ("https://a.example", Some("https://a.example")),
        ("https://b.example", Some("https://b.example")),
        ("https://a.example:444", None),
        ("http://a.example", None),
        ("null", None),
    ] {
        let answer = preflight(&strict, origin).await;
        assert_eq!(answer.header("access-control-allow-origin"), allowed, "{origin}");
        assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
        assert_eq!(answer.header("access-control-allow-headers"), Some("x-socket-id"));
    }
}

/// How a server library of Pusher's writes its requests.
struct Library {
    name: &'static str,
    headers: &'static [(&'static str, &'static str)],
    /// Where the signature stands in the query.
    signature: Place,
    /// Whether a GET carries the MD5 of nothing.
    md5_of_nothing: bool,
    /// `info` of a GET as it is on the wire.
    info: &'static str,
    /// One event on `my-channel`; the same with two channels and options; a batch; one for a user.
    single: &'static str,
    options: &'static str,
    batch: Option<&'static str>,
    to_user: Option<&'static str>,
    /// Where users are thrown out.
    terminate: Option<&'static str>,
}

enum Place {
    Last,
    Second,
    Unsorted,
}

const LIBRARIES: [Library; 5] = [
    Library {
        name: "PHP",
        headers: &[
            ("User-Agent", "GuzzleHttp/7"),
            ("Content-Type", "application/json"),
            ("X-Pusher-Library", "pusher-http-php 7.2.6"),
        ],
        signature: Place::Last,
        md5_of_nothing: false,
        info: "info=user_count%2Csubscription_count",
        single: r#"{"name":"ev","data":"{\"a\":\"\\u00e9\\\/\\ud83d\\ude00\"}","channel":"my-channel"}"#,
        options: r#"{"name":"ev","data":"\"plain string\"","channels":["c1","c2"],"socket_id":"1234.1234","info":"subscription_count,user_count"}"#,
        batch: Some(
            r#"{"batch":[{"name":"e1","data":"{\"x\":1}","channel":"c1"},{"name":"e2","data":"\"s\"","channel":"c2","info":"user_count","socket_id":"1.2"}]}"#,
        ),
        to_user: Some(r##"{"name":"ev","data":"\"hi\"","channel":"#server-to-user-u1"}"##),
        terminate: Some("/apps/app-id/users/u1/terminate_connections"),
    },
    Library {
        name: "Node",
        headers: &[
            ("x-pusher-library", "pusher-http-node 5.3.4"),
            ("content-type", "application/json"),
            ("Accept", "*/*"),
        ],
        signature: Place::Last,
        md5_of_nothing: false,
        info: "info=user_count,subscription_count",
        single: r#"{"name":"ev","data":"{\"a\":\"é/😀\"}","channels":["my-channel"]}"#,
        options: r#"{"name":"ev","data":"plain string","channels":["c1","c2"],"socket_id":"1234.1234","info":"subscription_count,user_count"}"#,
        batch: Some(
            r#"{"batch":[{"channel":"c1","name":"e1","data":"{\"x\":1}"},{"channel":"c2","name":"e2","data":"s","socket_id":"1.2","info":"user_count"}]}"#,
        ),
        to_user: Some(r##"{"name":"ev","data":"hi","channels":["#server-to-user-u1"]}"##),
        terminate: Some("/apps/app-id/users/u1/terminate_connections"),
    },
    Library {
        name: "Python",
        headers: &[("X-Pusher-Library", "pusher-http-python 3.3.4"), ("Content-Type", "application/json")],
        signature: Place::Second,
        md5_of_nothing: true,
        info: "info=user_count,subscription_count",
        single: r#"{"name": "ev", "channels": ["my-channel"], "data": "{\"a\": \"\u00e9/\ud83d\ude00\"}"}"#,
        options: r#"{"name": "ev", "channels": ["c1", "c2"], "data": "plain string", "socket_id": "1234.1234"}"#,
        batch: None,
        to_user: Some(r##"{"name": "ev", "channels": ["#server-to-user-u1"], "data": "hi"}"##),
        terminate: Some("/users/u1/terminate_connections"),
    },
    Library {
        name: "Ruby",
        headers: &[
            ("X-Pusher-Library", "pusher-http-ruby 2.1.0"),
            ("Content-Type", "application/json"),
            ("Date", "Sat, 17 Nov 2012 00:02:59 GMT"),
        ],
        signature: Place::Unsorted,
        md5_of_nothing: false,
        info: "info=user_count%2Csubscription_count",
        single: r#"{"name":"ev","channels":["my-channel"],"data":"{\"a\":\"é/😀\"}"}"#,
        options: r#"{"socket_id":"1234.1234","info":"subscription_count,user_count","name":"ev","channels":["c1","c2"],"data":"plain string"}"#,
        batch: None,
        to_user: None,
        terminate: None,
    },
    Library {
        name: "Go",
        headers: &[
            ("Content-Type", "application/json"),
            ("X-Pusher-Library", "pusher-http-go 5.1.1"),
            ("Accept-Encoding", "gzip"),
        ],
        signature: Place::Second,
        md5_of_nothing: false,
        info: "info=user_count,subscription_count",
        single: r#"{"channels":["my-channel"],"data":"{\"a\":\"é/😀\"}","name":"ev"}"#,
        options: r#"{"channels":["c1","c2"],"data":"plain string","info":"subscription_count,user_count","name":"ev","socket_id":"1234.1234"}"#,
        batch: None,
        to_user: Some(r##"{"channels":["#server-to-user-u1"],"data":"hi","name":"ev"}"##),
        terminate: None,
    },
];

impl Library {
    async fn get(&self, server: &TestServer, path: &str, parameters: &str) -> Answer {
        let target = format!("{path}?{}", self.query(&server.api(), &["GET", path, parameters, ""]));
        request(server.address(), "GET", &target, self.headers, b"").await
    }

    async fn post(&self, server: &TestServer, path: &str, body: &str) -> Answer {
        let target = format!("{path}?{}", self.query(&server.api(), &["POST", path, "", body]));
        request(server.address(), "POST", &target, self.headers, body.as_bytes()).await
    }

    /// The query as this library writes it, signed as all of them sign.
    fn query(&self, api: &Api, &[method, path, parameters, body]: &[&str; 4]) -> String {
        let mut signed = Vec::new();
        let md5 = body_md5(body.as_bytes());
        if !body.is_empty() || self.md5_of_nothing {
            signed.push(("body_md5", &*md5));
        }
        let decoded = parameters.replace("%2C", ",");
        signed.extend(decoded.split('&').filter_map(|pair| pair.split_once('=')));
        let query = api.signed_query(method, path, &signed, "").replace(&decoded, parameters);
        let (start, signature) = query.split_once("&auth_signature=").unwrap();
        let (key, rest) = start.split_once('&').unwrap();
        match self.signature {
            Place::Last => format!("{start}&auth_signature={signature}"),
            Place::Second => format!("{key}&auth_signature={signature}&{rest}"),
            Place::Unsorted => format!("auth_signature={signature}&{rest}&{key}"),
        }
    }
}

/// The `data` of a body as it is written there.
fn data_literal(body: &str) -> &str {
    let (_, from) = body.split_once(r#""data":"#).unwrap();
    let from = from.trim_start();
    let ends = from.match_indices('"').map(|(at, _)| &from[..=at]).skip(1);
    ends.into_iter().find(|literal| serde_json::from_str::<String>(literal).is_ok()).unwrap()
}

// G-205
#[tokio::test]
async fn every_official_library_is_understood() {
    let server = TestServer::start().await;
    for library in &LIBRARIES {
        let name = library.name;
        let mut client = subscribed(&server, &["my-channel", "c1", "c2"]).await;
        client.sign_in(&json!({ "id": "u1" })).await;
        client.subscribe("#server-to-user-u1").await;
        client.join("presence-room", "u1").await;

        assert_eq!(library.post(&server, "/apps/app-id/events", library.single).await.ok(), json!({}), "{name}");
        assert_eq!(client.next_text().await, frame("my-channel", "ev", data_literal(library.single)), "{name}");

        let answer = library.post(&server, "/apps/app-id/events", library.options).await.ok();
        let asked = library.options.contains("info");
        let counts = json!({ "channels": { "c1": count(1), "c2": count(1) } });
        assert_eq!(answer, if asked { counts } else { json!({}) }, "{name}");
        for channel in ["c1", "c2"] {
            assert_eq!(client.next_text().await, frame(channel, "ev", data_literal(library.options)), "{name}");
        }

        if let Some(batch) = library.batch {
            let answer = library.post(&server, "/apps/app-id/batch_events", batch).await.ok();
            assert_eq!(answer, json!({ "batch": [{}, {}] }), "{name}");
            assert_eq!(client.next_text().await, frame("c1", "e1", r#""{\"x\":1}""#), "{name}");
            let second = &batch[batch.find("e2").unwrap()..];
            assert_eq!(client.next_text().await, frame("c2", "e2", data_literal(second)), "{name}");
        }
        if let Some(to_user) = library.to_user {
            assert_eq!(library.post(&server, "/apps/app-id/events", to_user).await.ok(), json!({}), "{name}");
            assert_eq!(client.next_text().await, frame("#server-to-user-u1", "ev", data_literal(to_user)), "{name}");
        }
        library_asks(library, &server).await;
        if let Some(path) = library.terminate {
            assert_eq!(library.post(&server, path, "{}").await.ok(), json!({}), "{name}");
            assert_eq!(client.next_close().await.0, 4009, "{name}");
        }
        client.close().await;
    }
}

async fn library_asks(library: &Library, server: &TestServer) {
    let parameters = format!("filter_by_prefix=presence-&{}", library.info);
    let room = json!({ "user_count": 1, "subscription_count": 1 });
    for (path, parameters, expected) in [
        ("/apps/app-id/channels", &*parameters, json!({ "channels": { "presence-room": room } })),
        (
            "/apps/app-id/channels/presence-room",
            library.info,
            json!({ "occupied": true, "user_count": 1, "subscription_count": 1 }),
        ),
        ("/apps/app-id/channels/presence-room/users", "", json!({ "users": [{ "id": "u1" }] })),
    ] {
        let answer = library.get(server, path, parameters).await;
        assert_eq!(answer.ok(), expected, "{} {path}", library.name);
    }
}
