//! Signing in, a user's own channel, and the coming and going of the users on a watchlist.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use support::attempts::in_time;
use support::attempts::within;
use support::client::Client;
use support::server::APP_KEY;
use support::server::TestServer;
use support::server::token;
use support::server::user_auth;

fn watch(kind: &str, ids: &[&str]) -> String {
    let data = json!({ "events": [{ "name": kind, "user_ids": ids }] }).to_string();
    format!(r#"{{"event":"pusher_internal:watchlist_events","data":{}}}"#, json!(data))
}

async fn signed_in(server: &TestServer, id: &str) -> Client {
    let mut client = server.connect().await;
    client.sign_in(&json!({ "id": id })).await;
    client
}

/// Signs in with any token; the answer is left to read.
async fn send_sign_in(client: &mut Client, auth: &str, user_data: &str) {
    client.send_json(json!({ "event": "pusher:signin", "data": { "auth": auth, "user_data": user_data } })).await;
}

// G-162, G-163
#[tokio::test]
async fn a_sign_in_is_answered_with_the_very_text_that_was_sent() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.send_sign_in(r#"{"id":"12345"}"#).await;
    assert_eq!(
        client.next_text().await,
        r#"{"event":"pusher:signin_success","data":"{\"user_data\":\"{\\\"id\\\":\\\"12345\\\"}\"}"}"#
    );
    let odd = [
        r#"{"id": "12345", "user_info": {"name": "Ada"}}"#,
        r#"{"z":1.0,"id":"12345","a":"\u00e9 \/ é 😀","user_info":null,"watchlist":[]}"#,
        " {\n\"id\":\"12345\"}",
    ];
    for user_data in odd {
        client.send_sign_in(user_data).await;
        let frame = client.next().await;
        let data: Value = serde_json::from_str(frame["data"].as_str().unwrap()).unwrap();
        assert_eq!(data, json!({ "user_data": user_data }));
        assert_eq!(frame.as_object().unwrap().keys().collect::<Vec<_>>(), ["event", "data"]);
    }
    // Some clients send the data of a command as a string.
    let data = json!({ "auth": user_auth(&client.socket_id, odd[0]), "user_data": odd[0] }).to_string();
    client.send_json(json!({ "event": "pusher:signin", "data": data })).await;
    client.next_event("pusher:signin_success").await;
    client.nothing_came().await;
}

// G-164
#[tokio::test]
async fn a_sign_in_that_is_signed_wrongly_is_refused() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let user_data = r#"{"id":"12345"}"#;
    let right = user_auth(&client.socket_id, user_data);
    let signature = right.split_once(':').unwrap().1.to_owned();
    let signed = format!("{}::user::{user_data}", client.socket_id);
    let wrong = format!("Invalid signature: Expected HMAC SHA256 hex digest of {signed}");
    let refused = [
        (user_auth("1.2", user_data), wrong.clone()),
        (format!("{APP_KEY}:{}", "0".repeat(64)), wrong.clone()),
        (format!("{APP_KEY}:"), wrong.clone()),
        (format!("{APP_KEY}::user::{signature}"), wrong),
        (format!("nobody:{signature}"), "Invalid key in subscription auth data: 'nobody'".to_owned()),
        (signature, "Invalid format: auth must have the format key:signature".to_owned()),
    ];
    for (auth, message) in refused {
        send_sign_in(&mut client, &auth, user_data).await;
        client.next_error(None, &message).await;
    }
    for (data, message) in [
        (json!({ "user_data": user_data }), "Missing parameter: data.auth"),
        (json!({ "auth": null, "user_data": user_data }), "Missing parameter: data.auth"),
        (json!({ "auth": right }), "Missing parameter: data.user_data"),
        (json!({ "auth": right, "user_data": { "id": "12345" } }), "Missing parameter: data.user_data"),
    ] {
        client.send_json(json!({ "event": "pusher:signin", "data": data })).await;
        client.next_error(None, message).await;
    }
    // Nobody has been signed in by any of this, and the connection goes on.
    client.send_subscribe("#server-to-user-12345", None).await;
    let message = "Not authorized to subscribe to #server-to-user-12345";
    client.next_refusal("#server-to-user-12345", "AuthError", 401, message).await;
    send_sign_in(&mut client, &right, user_data).await;
    client.next_event("pusher:signin_success").await;
}

// G-165
#[tokio::test]
async fn a_sign_in_without_a_usable_id_is_refused() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let useless = [
        "{}",
        r#"{"user_id":"12345"}"#,
        r#"{"id":""}"#,
        r#"{"id":null}"#,
        r#"{"id":["12345"]}"#,
        r#"{"id":{}}"#,
        r#"{"id":"a\nb"}"#,
        "nonsense",
        r#"{"id":"12345""#,
        r#""12345""#,
        r#"["12345"]"#,
        "null",
        "",
    ];
    for user_data in useless {
        client.send_sign_in(user_data).await;
        client.next_error(None, "Invalid user_data").await;
    }
    client.sign_in(&json!({ "id": "12345" })).await;
}

// G-165
#[tokio::test]
async fn a_numeric_id_of_a_sign_in_is_the_text_of_its_digits() {
    in_time(a_number_signs_in).await;
}

async fn a_number_signs_in(factor: u32) -> Result<(), String> {
    let time = Duration::from_secs(factor.into());
    let server = TestServer::start_with(|config| {
        config.limits.enable_user_authentication = true;
        config.limits.user_authentication_timeout_seconds = gema::config::Seconds(time.as_secs_f64());
    })
    .await;
    let mut client = server.connect().await;
    // What PHP signs for ['id' => 7].
    for digits in ["7", "12345678901234567890"] {
        let signed_in = async {
            let mut client = server.connect().await;
            client.send_sign_in(&format!(r#"{{"id":{digits}}}"#)).await;
            client.next_event("pusher:signin_success").await;
            client
        };
        let mut client = within(time, signed_in).await?;
        client.subscribe(&format!("#server-to-user-{digits}")).await;
        server.api().publish(&format!("#server-to-user-{digits}"), "e", "1").await;
        client.next_event("e").await;
        client.send_subscribe("presence-room", None).await;
        let presence = client.next_event("pusher_internal:subscription_succeeded").await["presence"].clone();
        assert_eq!(presence["ids"], json!([digits]));
        client.close().await;
    }
    // Who does not sign in is closed, so the others were signed in.
    assert_eq!(client.next_close().await.0, 4009);
    Ok(())
}

// G-166
#[tokio::test]
async fn a_connection_belongs_to_one_user_for_life() {
    let server = TestServer::start().await;
    let (mut client, mut observer) = (server.connect().await, server.connect().await);
    observer.join("presence-room", "observer").await;
    client.sign_in(&json!({ "id": "12345", "user_info": { "name": "Ada" } })).await;
    client.send_sign_in(r#"{"id":"54321"}"#).await;
    client.next_error(None, "Connection is already signed in as another user").await;
    client.subscribe("#server-to-user-12345").await;
    client.send_subscribe("#server-to-user-54321", None).await;
    let message = "Not authorized to subscribe to #server-to-user-54321";
    client.next_refusal("#server-to-user-54321", "AuthError", 401, message).await;

    // The same id again: what it told about itself is replaced.
    client.sign_in(&json!({ "id": "12345", "user_info": { "name": "Countess" } })).await;
    client.send_subscribe("presence-room", None).await;
    client.next_event("pusher_internal:subscription_succeeded").await;
    let notice = observer.next_event("pusher_internal:member_added").await;
    assert_eq!(notice, json!({ "user_id": "12345", "user_info": { "name": "Countess" } }));
    client.nothing_came().await;
}

// G-167, G-168
#[tokio::test]
async fn a_users_own_channel_is_for_that_user_alone() {
    let server = TestServer::start().await;
    let channel = "#server-to-user-12345";
    let mut user = signed_in(&server, "12345").await;
    user.send(r##"{"event":"pusher:subscribe","data":{"auth":"","channel":"#server-to-user-12345"}}"##).await;
    assert_eq!(
        user.next_text().await,
        r##"{"event":"pusher_internal:subscription_succeeded","data":"{}","channel":"#server-to-user-12345"}"##
    );
    let (mut stranger, mut other) = (server.connect().await, signed_in(&server, "1234").await);
    let mut member = server.connect().await;
    member.join("presence-room", "12345").await;
    for client in [&mut stranger, &mut other, &mut member] {
        client.send_subscribe(channel, None).await;
        client.next_refusal(channel, "AuthError", 401, &format!("Not authorized to subscribe to {channel}")).await;
        // However well it is signed.
        let auth = token(APP_KEY, support::server::APP_SECRET, &format!("{}:{channel}", client.socket_id));
        client.send_json(json!({ "event": "pusher:subscribe", "data": { "auth": auth, "channel": channel } })).await;
        client.next_refusal(channel, "AuthError", 401, &format!("Not authorized to subscribe to {channel}")).await;
    }
    // An id may hold what no other name may.
    let mut odd = signed_in(&server, "a b/ö:#").await;
    odd.subscribe("#server-to-user-a b/ö:#").await;
}

// G-169
#[tokio::test]
async fn no_other_name_with_a_number_sign_is_for_anybody() {
    let server = TestServer::start().await;
    let mut user = signed_in(&server, "12345").await;
    let names = [
        "#",
        "#news",
        "#server-to-user-",
        "#server-to-user",
        "#Server-to-user-12345",
        "##server-to-user-12345",
        "#server-to-users-12345",
        "#private-x",
    ];
    for name in names {
        user.send_subscribe(name, None).await;
        user.next_refusal(name, "AuthError", 401, &format!("Not authorized to subscribe to {name}")).await;
    }
    user.subscribe("#server-to-user-12345").await;
}

// G-170
#[tokio::test]
async fn an_event_for_a_user_reaches_all_their_connections_that_listen_and_nobody_else() {
    let server = TestServer::start().await;
    let channel = "#server-to-user-12345";
    let (mut one, mut two) = (signed_in(&server, "12345").await, signed_in(&server, "12345").await);
    one.subscribe(channel).await;
    two.subscribe(channel).await;
    let mut deaf = signed_in(&server, "12345").await;
    let mut other = signed_in(&server, "1").await;
    other.subscribe("#server-to-user-1").await;

    server.api().publish(channel, "hello", r#"{"m":1}"#).await;
    let expected = r##"{"event":"hello","data":"{\"m\":1}","channel":"#server-to-user-12345"}"##;
    for client in [&mut one, &mut two] {
        assert_eq!(client.settle().await, [expected]);
    }
    for client in [&mut deaf, &mut other] {
        client.nothing_came().await;
    }
    let body = json!({ "name": "hello", "channel": channel, "data": r#"{"m":1}"#, "socket_id": one.socket_id });
    assert_eq!(server.api().post("/events", &body.to_string()).await.ok(), json!({}));
    one.nothing_came().await;
    assert_eq!(two.settle().await, [expected]);
}

// G-172, G-173
#[tokio::test]
async fn the_state_of_a_watchlist_follows_the_sign_in() {
    let server = TestServer::start().await;
    let _seven = signed_in(&server, "7").await;
    let _nine = signed_in(&server, "9").await;
    // A member is no user, and a user that was here is here no longer.
    server.connect().await.join("presence-room", "8").await;
    signed_in(&server, "10").await.close().await;
    let mut client = server.connect().await;
    client.send_sign_in(r#"{"id":"ada","watchlist":["7","8","9","10"]}"#).await;
    client.next_event("pusher:signin_success").await;
    assert_eq!(
        client.settle().await,
        [
            r#"{"event":"pusher_internal:watchlist_events","data":"{\"events\":[{\"name\":\"online\",\"user_ids\":[\"7\",\"9\"]},{\"name\":\"offline\",\"user_ids\":[\"8\",\"10\"]}]}"}"#
        ]
    );
    // An entry without ids is left out.
    for (watchlist, expected) in [
        (json!(["7"]), watch("online", &["7"])),
        (json!(["8"]), watch("offline", &["8"])),
        (json!(["bob"]), watch("online", &["bob"])),
        (json!(["never-seen", 5, "5", -1.50]), watch("offline", &["never-seen", "5", "-1.5"])),
    ] {
        let mut client = server.connect().await;
        client.sign_in(&json!({ "id": "bob", "watchlist": watchlist })).await;
        assert_eq!(client.settle().await, [expected]);
    }
}

#[tokio::test]
async fn a_watchlist_of_something_else_is_refused() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    for watchlist in
        [json!([1, null]), json!(["b", ["c"]]), json!([{}]), json!([true]), json!({ "7": "b" }), json!("b")]
    {
        client.send_sign_in(&json!({ "id": "w", "watchlist": watchlist }).to_string()).await;
        client.next_error(None, "watchlist must be an array of user-id strings").await;
    }
    client.send_subscribe("#server-to-user-w", None).await;
    let message = "Not authorized to subscribe to #server-to-user-w";
    client.next_refusal("#server-to-user-w", "AuthError", 401, message).await;
}

// G-173, G-174, G-175
#[tokio::test]
async fn watchers_hear_of_the_first_connection_of_a_user_and_of_the_last() {
    let server = TestServer::start().await;
    let mut watchers = [server.connect().await, server.connect().await];
    for (client, id) in watchers.iter_mut().zip(["ada", "bob"]) {
        client.sign_in(&json!({ "id": id, "watchlist": ["7", id] })).await;
        let state = client.next_event("pusher_internal:watchlist_events").await;
        let expected = json!([{ "name": "online", "user_ids": [id] }, { "name": "offline", "user_ids": ["7"] }]);
        assert_eq!(state["events"], expected);
    }
    let mut stranger = server.connect().await;
    stranger.sign_in(&json!({ "id": "stranger", "watchlist": ["6"] })).await;
    assert_eq!(stranger.next_text().await, watch("offline", &["6"]));

    let first = signed_in(&server, "7").await;
    let online = r#"{"event":"pusher_internal:watchlist_events","data":"{\"events\":[{\"name\":\"online\",\"user_ids\":[\"7\"]}]}"}"#;
    for client in &mut watchers {
        assert_eq!(client.settle().await, [online]);
    }
    let mut second = signed_in(&server, "7").await;
    second.sign_in(&json!({ "id": "7" })).await;
    first.close().await;
    for client in &mut watchers {
        client.nothing_came().await;
    }
    second.close().await;
    for client in &mut watchers {
        assert_eq!(client.settle().await, [watch("offline", &["7"])]);
    }
    stranger.nothing_came().await;
    // Back again, as anybody may be.
    let _third = signed_in(&server, "7").await;
    for client in &mut watchers {
        assert_eq!(client.settle().await, [watch("online", &["7"])]);
    }
    // One's own other connections are no news; one's watchlist may be replaced.
    let [mut ada, bob] = watchers;
    let _ada_too = signed_in(&server, "ada").await;
    ada.nothing_came().await;
    ada.sign_in(&json!({ "id": "ada", "watchlist": ["bob"] })).await;
    assert_eq!(ada.settle().await, [watch("online", &["bob"])]);
    bob.close().await;
    let _eight = signed_in(&server, "7").await;
    assert_eq!(ada.settle().await, [watch("offline", &["bob"])]);
}

// G-176
#[tokio::test]
async fn of_a_watchlist_that_is_too_long_the_first_hundred_count() {
    let server = TestServer::start().await;
    let ids: Vec<String> = (1..=101).map(|number| format!("user-{number}")).collect();
    let mut client = server.connect().await;
    client.sign_in(&json!({ "id": "ada", "watchlist": ids })).await;
    let message = "Watchlist limit exceeded. Only the first 100 user IDs are accepted.";
    client.next_error(Some(4302), message).await;
    let first: Vec<&str> = ids[..100].iter().map(String::as_str).collect();
    assert_eq!(client.settle().await, [watch("offline", &first)]);
    let _beyond = signed_in(&server, "user-101").await;
    let _within = signed_in(&server, "user-100").await;
    assert_eq!(client.settle().await, [watch("online", &["user-100"])]);
    // A hundred are not too many.
    let mut fits = server.connect().await;
    fits.sign_in(&json!({ "id": "bob", "watchlist": ids[1..] })).await;
    fits.next_event("pusher_internal:watchlist_events").await;
    fits.nothing_came().await;
}

// G-177
#[tokio::test]
async fn without_a_watchlist_nothing_is_told() {
    let server = TestServer::start().await;
    let user_data =
        [json!({ "id": "ada" }), json!({ "id": "ada", "watchlist": [] }), json!({ "id": "ada", "watchlist": null })];
    for user_data in user_data {
        let mut client = server.connect().await;
        client.sign_in(&user_data).await;
        let _other = signed_in(&server, "7").await;
        client.nothing_came().await;
    }
    let server = TestServer::start_with(|config| config.limits.enable_watchlist = false).await;
    let mut client = server.connect().await;
    client.sign_in(&json!({ "id": "ada", "watchlist": ["7"] })).await;
    let _seven = signed_in(&server, "7").await;
    client.nothing_came().await;
}
