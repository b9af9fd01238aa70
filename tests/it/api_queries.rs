//! Asking over the HTTP API for channels and users, and throwing users out.

use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::http::Answer;
use support::http::request;
use support::server::TestServer;

/// Asks until the answer is the expected one: what a client does takes effect a moment after it was sent.
async fn becomes(server: &TestServer, rest: &str, parameters: &[(&str, &str)], expected: &str) {
    let mut last = String::new();
    let asking = async {
        while last != expected {
            last = server.api().get(rest, parameters).await.body;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, asking).await.is_ok(), "{rest} stays {last}, not {expected}");
}

async fn get(server: &TestServer, rest: &str, parameters: &[(&str, &str)]) -> Answer {
    server.api().get(rest, parameters).await
}

/// A connection on presence channels as this user.
async fn member(server: &TestServer, user: &str, channels: &[&str]) -> Client {
    let mut client = server.connect().await;
    for channel in channels {
        client.join(channel, user).await;
    }
    client
}

/// Names and attributes, whatever the order.
async fn channels(server: &TestServer, parameters: &[(&str, &str)]) -> Value {
    get(server, "/channels", parameters).await.ok()["channels"].clone()
}

// G-254, G-255, G-259
#[tokio::test]
async fn the_list_has_exactly_the_occupied_channels() {
    let server = TestServer::start().await;
    let answer = get(&server, "/channels", &[]).await;
    answer.ok();
    assert_eq!(answer.body, r#"{"channels":{}}"#);

    let mut client = member(&server, "u1", &["presence-room"]).await;
    let names = ["c", "private-p", "private-encrypted-e", "cache-c", "a@b,c.d;e=f-g_h"];
    for name in names {
        client.send_subscribe(name, None).await;
        client.next_event("pusher_internal:subscription_succeeded").await;
        if name.starts_with("cache-") {
            client.next_event("pusher:cache_miss").await;
        }
    }
    client.sign_in(&json!({ "id": "u1" })).await;
    client.subscribe("#server-to-user-u1").await;
    for idle in ["idle", "cache-idle", "presence-cache-idle", "#server-to-user-u1"] {
        server.api().publish(idle, "e", "1").await;
    }
    let expected = json!({
        "presence-room": {}, "c": {}, "private-p": {}, "private-encrypted-e": {}, "cache-c": {}, "a@b,c.d;e=f-g_h": {}
    });
    assert_eq!(channels(&server, &[]).await, expected);

    for name in names {
        client.unsubscribe(name).await;
    }
    becomes(&server, "/channels", &[], r#"{"channels":{"presence-room":{}}}"#).await;
    client.close().await;
    becomes(&server, "/channels", &[], r#"{"channels":{}}"#).await;
}

// G-254
#[tokio::test]
async fn each_app_sees_its_own_channels_only() {
    let server = TestServer::start_with(|config| {
        config.apps.push(gema::config::AppEntry::new("b", "b-key", "b-secret"));
    })
    .await;
    let mut client = server.connect().await;
    client.subscribe("ours").await;
    let mut other = server.connect_to("b-key").await;
    other.subscribe("theirs").await;
    assert_eq!(channels(&server, &[]).await, json!({ "ours": {} }));
    let theirs = server.api_of("b", "b-key", "b-secret").get("/channels", &[]).await;
    assert_eq!(theirs.ok(), json!({ "channels": { "theirs": {} } }));
}

// G-256, G-257, G-258
#[tokio::test]
async fn users_are_counted_where_the_prefix_leaves_presence_channels_only() {
    let server = TestServer::start().await;
    let _siti = member(&server, "siti", &["presence-a", "presence-b"]).await;
    let _siti_again = member(&server, "siti", &["presence-a"]).await;
    let mut budi = member(&server, "budi", &["presence-a"]).await;
    budi.subscribe("public").await;

    let presence = ("filter_by_prefix", "presence-");
    assert_eq!(channels(&server, &[presence]).await, json!({ "presence-a": {}, "presence-b": {} }));
    assert_eq!(channels(&server, &[("filter_by_prefix", "presence-b")]).await, json!({ "presence-b": {} }));
    assert_eq!(channels(&server, &[("filter_by_prefix", "pub")]).await, json!({ "public": {} }));
    assert_eq!(channels(&server, &[("filter_by_prefix", "resence-")]).await, json!({}));
    assert_eq!(
        channels(&server, &[presence, ("info", "user_count")]).await,
        json!({ "presence-a": { "user_count": 2 }, "presence-b": { "user_count": 1 } })
    );
    let sentence = "user_count may only be requested for presence channels - please supply filter_by_prefix begining with presence-";
    for prefix in [&[][..], &[("filter_by_prefix", "")], &[("filter_by_prefix", "presence")]] {
        let refused = get(&server, "/channels", &[prefix, &[("info", "user_count")]].concat()).await;
        assert_eq!(refused.refused(400), sentence, "{prefix:?}");
    }
}

// G-257, G-264
#[tokio::test]
async fn connections_are_counted_in_the_list_when_asked_for() {
    let server = TestServer::start().await;
    let mut siti = member(&server, "siti", &["presence-a"]).await;
    let _siti_again = member(&server, "siti", &["presence-a"]).await;
    siti.subscribe("public").await;
    assert_eq!(
        channels(&server, &[("info", "subscription_count")]).await,
        json!({ "presence-a": { "subscription_count": 2 }, "public": { "subscription_count": 1 } })
    );
    for info in ["user_count,subscription_count", "subscription_count,shoe_size,user_count"] {
        let answer = get(&server, "/channels", &[("filter_by_prefix", "presence-"), ("info", info)]).await;
        answer.ok();
        assert_eq!(answer.body, r#"{"channels":{"presence-a":{"user_count":1,"subscription_count":2}}}"#, "{info}");
    }
    assert_eq!(channels(&server, &[("info", "shoe_size")]).await, json!({ "presence-a": {}, "public": {} }));
}

// G-260, G-261, G-262, G-264
#[tokio::test]
async fn one_channel_tells_what_is_asked_of_it() {
    let server = TestServer::start().await;
    let mut siti = server.connect().await;
    siti.subscribe("public").await;
    siti.join("presence-a", "siti").await;
    let _budi = member(&server, "budi", &["presence-a"]).await;
    let _budi_again = member(&server, "budi", &["presence-a"]).await;
    for (channel, info, expected) in [
        ("public", "", r#"{"occupied":true}"#),
        ("nobody", "", r#"{"occupied":false}"#),
        ("presence-nobody", "", r#"{"occupied":false}"#),
        ("public", "subscription_count", r#"{"occupied":true,"subscription_count":1}"#),
        ("nobody", "subscription_count", r#"{"occupied":false,"subscription_count":0}"#),
        ("presence-a", "subscription_count", r#"{"occupied":true,"subscription_count":3}"#),
        ("presence-a", "user_count", r#"{"occupied":true,"user_count":2}"#),
        ("presence-a", "user_count,subscription_count", r#"{"occupied":true,"user_count":2,"subscription_count":3}"#),
        (
            "presence-nobody",
            "subscription_count,user_count",
            r#"{"occupied":false,"user_count":0,"subscription_count":0}"#,
        ),
        ("public", "shoe_size,,occupied", r#"{"occupied":true}"#),
        ("public", "shoe_size,subscription_count", r#"{"occupied":true,"subscription_count":1}"#),
    ] {
        let answer = get(&server, &format!("/channels/{channel}"), &[("info", info)]).await;
        answer.ok();
        assert_eq!(answer.body, expected, "{channel} {info}");
    }
    for channel in ["public", "nobody", "private-a", "cache-a", "presencea"] {
        let refused = get(&server, &format!("/channels/{channel}"), &[("info", "user_count")]).await;
        let sentence = "Cannot retrieve the user count unless the channel is a presence channel";
        assert_eq!(refused.refused(400), sentence, "{channel}");
    }
}

// G-263
#[tokio::test]
async fn a_cache_channel_tells_what_it_remembers_and_for_how_long() {
    let server = TestServer::start_with(|config| config.limits.cache_ttl_seconds = gema::config::Seconds(100.0)).await;
    let ask = async |channel: &str| get(&server, &format!("/channels/{channel}"), &[("info", "cache")]).await;
    for channel in ["cache-c", "private-cache-c", "presence-cache-c", "private-encrypted-cache-c"] {
        let answer = ask(channel).await;
        answer.ok();
        assert_eq!(answer.body, r#"{"occupied":false,"cache":null}"#, "{channel}");
        server.api().publish(channel, "e", r#"{"a":"é"}"#).await;
        let answer = ask(channel).await.ok();
        assert_eq!((&answer["occupied"], &answer["cache"]["data"]), (&json!(false), &json!(r#"{"a":"é"}"#)));
        let left = answer["cache"]["ttl"].as_u64().unwrap_or_else(|| panic!("{answer}"));
        assert!((90..=100).contains(&left), "{answer}");
        server.api().publish(channel, "e", "").await;
        assert_eq!(ask(channel).await.ok()["cache"]["data"], json!(""));
        // Half of a surrogate pair, which is no text but goes to the subscribers as it is.
        let odd = format!(r#"{{"name":"e","channel":"{channel}","data":"\ud800 \/"}}"#);
        server.api().post("/events", &odd).await.ok();
        let answer = ask(channel).await;
        assert!(answer.body.contains(r#""cache":{"data":"\ud800 \/","ttl":"#), "{answer:?}");
    }
    for channel in ["c", "private-c", "presence-c", "cached"] {
        let sentence = "Cannot retrieve the cache unless the channel is a cache channel";
        assert_eq!(ask(channel).await.refused(400), sentence, "{channel}");
    }
}

// G-263
#[tokio::test]
async fn a_cache_channel_forgets_after_its_time() {
    let server = TestServer::start_with(|config| config.limits.cache_ttl_seconds = gema::config::Seconds(0.2)).await;
    server.api().publish("cache-c", "e", "1").await;
    becomes(&server, "/channels/cache-c", &[("info", "cache")], r#"{"occupied":false,"cache":null}"#).await;
}

/// The ids of a list of users, sorted, and each exactly as the answer has it.
async fn users(server: &TestServer, channel: &str) -> Vec<Value> {
    let answer = get(server, &format!("/channels/{channel}/users"), &[]).await.ok();
    assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
    let mut users = answer["users"].as_array().unwrap().clone();
    users.sort_by_key(Value::to_string);
    users
}

// G-265, G-266, G-267
#[tokio::test]
async fn the_users_of_a_presence_channel_are_told_once_each() {
    let server = TestServer::start().await;
    let answer = get(&server, "/channels/presence-a/users", &[]).await;
    answer.ok();
    assert_eq!(answer.body, r#"{"users":[]}"#);

    let siti = member(&server, "siti", &["presence-a"]).await;
    let _siti_again = member(&server, "siti", &["presence-a"]).await;
    let mut numeric = server.connect().await;
    numeric.send_subscribe("presence-a", Some(r#"{"user_id":12345678901234567890,"user_info":{}}"#)).await;
    numeric.next_event("pusher_internal:subscription_succeeded").await;
    let everybody = [json!({ "id": "12345678901234567890" }), json!({ "id": "siti" })];
    assert_eq!(users(&server, "presence-a").await, everybody);
    siti.close().await;
    assert_eq!(users(&server, "presence-a").await, everybody);
    numeric.unsubscribe("presence-a").await;
    becomes(&server, "/channels/presence-a/users", &[], r#"{"users":[{"id":"siti"}]}"#).await;

    for channel in ["public", "private-a", "cache-a", "presence"] {
        let refused = get(&server, &format!("/channels/{channel}/users"), &[]).await;
        assert_eq!(refused.refused(400), "Users can only be retrieved for presence channels", "{channel}");
    }
}

// G-268
#[tokio::test]
async fn a_channel_is_found_however_its_name_is_escaped() {
    let server = TestServer::start().await;
    let name = "presence-a@b,c.d;e=f";
    let _member = member(&server, "siti", &[name]).await;
    for escaped in [name, "presence-a%40b%2Cc%2Ed%3Be%3Df", "%70resence-a%40b%2cc.d;e=f"] {
        assert_eq!(get(&server, &format!("/channels/{escaped}"), &[]).await.ok(), json!({ "occupied": true }));
        assert_eq!(users(&server, escaped).await, [json!({ "id": "siti" })]);
    }
    let mut client = server.connect().await;
    client.sign_in(&json!({ "id": "ü/1" })).await;
    client.subscribe("#server-to-user-ü/1").await;
    let answer = get(&server, "/channels/%23server-to-user-%C3%BC%2F1", &[]).await;
    assert_eq!(answer.ok(), json!({ "occupied": true }));
    for (invalid, shown) in [("a%20b", "a b"), ("a%2Fb", "a/b"), ("caf%C3%A9", "café"), ("%23x", "#x")] {
        for rest in ["", "/users"] {
            let refused = get(&server, &format!("/channels/{invalid}{rest}"), &[]).await;
            assert_eq!(refused.refused(400), format!("Invalid channel name: {shown}"));
        }
    }
}

/// A connection that is signed in as this user.
async fn signed_in(server: &TestServer, id: &str) -> Client {
    let mut client = server.connect().await;
    client.sign_in(&json!({ "id": id })).await;
    client
}

async fn terminate(server: &TestServer, id: &str, body: &str) -> Answer {
    server.api().post(&format!("/users/{id}/terminate_connections"), body).await
}

// G-269, G-270, G-272
#[tokio::test]
async fn every_connection_of_a_user_is_closed_and_no_other() {
    let server = TestServer::start().await;
    let mut own = Vec::new();
    for _ in 0..5 {
        own.push(signed_in(&server, "siti").await);
    }
    let mut other = signed_in(&server, "siti2").await;
    let mut member = member(&server, "siti", &["presence-a"]).await;
    let mut nobody = server.connect().await;

    let answer = terminate(&server, "siti", "{}").await;
    answer.ok();
    assert_eq!(answer.body, "{}");
    for client in &mut own {
        assert_eq!(client.next_close().await, (4009, "You got disconnected by the app.".to_owned()));
        client.ended().await;
    }
    for client in [&mut other, &mut member, &mut nobody] {
        client.nothing_came().await;
        client.subscribe("still-there").await;
    }
    assert_eq!(users(&server, "presence-a").await, [json!({ "id": "siti" })]);

    let mut again = signed_in(&server, "siti").await;
    again.nothing_came().await;
    again.subscribe("still-there").await;
}

// G-269
#[tokio::test]
async fn a_user_id_in_a_path_is_decoded() {
    let server = TestServer::start().await;
    for (id, escaped) in [("a b", "a%20b"), ("a/b", "a%2Fb"), ("ü", "%C3%BC"), ("a+b", "a+b"), ("100%", "100%25")] {
        let mut client = signed_in(&server, id).await;
        assert_eq!(terminate(&server, escaped, "{}").await.ok(), json!({}), "{id}");
        assert_eq!(client.next_close().await.0, 4009, "{id}");
    }
}

/// Libraries put the id into the path as it is, sign that, and leave it to what sends it to escape what must be: a space
/// by all, a backslash becomes a slash in JavaScript.
#[tokio::test]
async fn a_user_id_that_a_library_does_not_escape_is_understood() {
    for server in [TestServer::start().await, TestServer::start_cluster(2).await] {
        for (id, sent) in [
            ("a/b", "a/b"),
            ("a?b", "a?b"),
            ("a?b/c?", "a?b/c?"),
            ("a\\b", "a/b"),
            ("App\\Models\\User:1", "App%5CModels%5CUser:1"),
            ("%20", "%20"),
            ("a b", "a%20b"),
            ("terminate_connections", "terminate_connections"),
            ("users/1", "users/1"),
        ] {
            let mut client = signed_in(&server, id).await;
            let mut other = signed_in(&server, "b").await;
            for prefix in ["/apps/app-id", ""] {
                let path = |id: &str| format!("{prefix}/users/{id}/terminate_connections");
                let query = server.api().signed_query("POST", &path(id), &[], "{}");
                let answer = request(server.address(), "POST", &format!("{}?{query}", path(sent)), &[], b"{}").await;
                assert_eq!(answer.ok(), json!({}), "{id}");
                assert_eq!(client.next_close().await.0, 4009, "{id}");
                client = signed_in(&server, id).await;
            }
            other.nothing_came().await;
        }
    }
}

// G-271
#[tokio::test]
async fn unknown_users_and_empty_bodies_are_fine() {
    let server = TestServer::start().await;
    let mut client = signed_in(&server, "siti").await;
    for body in ["{}", "", r#"{"unknown":1}"#] {
        assert_eq!(terminate(&server, "nobody", body).await.ok(), json!({}), "{body}");
    }
    client.nothing_came().await;
    assert_eq!(terminate(&server, "siti", "").await.ok(), json!({}));
    assert_eq!(client.next_close().await.0, 4009);
}

// G-273
#[tokio::test]
async fn the_app_may_be_left_out_of_the_path_and_is_known_by_its_key() {
    let server = TestServer::start_with(|config| {
        config.apps.push(gema::config::AppEntry::new("b", "b-key", "b-secret"));
    })
    .await;
    let mut client = signed_in(&server, "siti").await;
    let post = async |api: &support::http::Api, signed: &str| {
        let query = api.signed_query("POST", signed, &[], "{}");
        request(server.address(), "POST", &format!("/users/siti/terminate_connections?{query}"), &[], b"{}").await
    };
    let path = "/users/siti/terminate_connections";
    let other = server.api_of("b", "b-key", "b-secret");
    assert_eq!(post(&other, path).await.ok(), json!({}));
    client.nothing_came().await;
    let impostor = server.api_of("app-id", "app-key", "b-secret");
    assert!(post(&impostor, path).await.refused(401).starts_with("Invalid signature"));
    assert!(post(&server.api(), "/apps/app-id/users/siti/terminate_connections").await.status == 401);
    let stranger = server.api_of("app-id", "nobody", "app-secret");
    assert_eq!(post(&stranger, path).await.refused(401), "Unknown auth_key");
    let keyless = request(server.address(), "POST", path, &[], b"{}").await;
    assert_eq!(keyless.refused(401), "Missing parameter: auth_key");
    client.nothing_came().await;
    assert_eq!(post(&server.api(), path).await.ok(), json!({}));
    assert_eq!(client.next_close().await.0, 4009);
}
