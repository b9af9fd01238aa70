//! History: a known user whose connection was cut off gets what he has missed, in order, between the answer to his
//! subscribe and the first live event.

use std::net::SocketAddr;

use gema::config::Config;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::proxy::Proxy;
use support::server::APP_KEY;
use support::server::TestServer;
use support::server::channel_auth;
use tokio_tungstenite::tungstenite::Message;

use crate::wire::Wire;

const CHANNEL: &str = "private-orders.K001";
const USER: &str = r#"{"user_id":"7"}"#;
const SUCCEEDED: &str = "subscription_succeeded";

fn with_rule(rule: Value) -> impl FnOnce(&mut Config) {
    move |config| config.limits.history_rules = serde_json::from_value(json!([rule])).unwrap()
}

async fn server_with(rule: Value) -> TestServer {
    TestServer::start_with(with_rule(rule)).await
}

/// One node, which knows what each connection has confirmed at this very moment.
async fn single() -> TestServer {
    TestServer::start_single_with(with_rule(json!({ "match": "orders.*", "seconds": 600 }))).await
}

async fn server() -> TestServer {
    server_with(json!({ "match": "orders.*", "seconds": 600 })).await
}

async fn publish(server: &TestServer, channel: &str, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        server.api().publish(channel, "order", &number.to_string()).await;
    }
}

/// Names without their prefix, and numbers in place of the events that have one.
fn shown(texts: &[String]) -> Vec<String> {
    let one = |text: &String| {
        let event: Value = serde_json::from_str(text).unwrap();
        match (event["event"].as_str().unwrap(), event["data"].as_str().unwrap()) {
            ("order", number) => number.to_owned(),
            ("gema:history_gap", data) => {
                let data: Value = serde_json::from_str(data).unwrap();
                format!("gap of {}", data["missed"])
            }
            (name, _) => name.rsplit(':').next().unwrap().to_owned(),
        }
    };
    texts.iter().map(one).collect()
}

/// Subscribes as this user; returns what comes.
async fn subscribe(client: &mut Client, channel: &str, channel_data: Option<&str>) -> Vec<String> {
    client.send_subscribe(channel, channel_data).await;
    shown(&client.settle().await)
}

async fn user(server: &TestServer) -> (Client, Vec<String>) {
    let mut client = server.connect().await;
    let came = subscribe(&mut client, CHANNEL, Some(USER)).await;
    (client, came)
}

/// Ends a connection without a close frame, as a lost line does.
async fn cut(server: &TestServer, client: Client) {
    let connected = server.metric("soketi_connected", None).await;
    drop(client);
    server.metric_becomes("soketi_connected", None, connected - 1.0).await;
}

/// Waits until these have come and the client has answered a ping behind them.
async fn confirm(client: &mut Client, expected: &[&str]) {
    let (mut texts, mut is_confirmed) = (Vec::new(), expected.is_empty());
    while !is_confirmed {
        match client.next_message().await {
            Message::Ping(_) => is_confirmed = texts.len() == expected.len(),
            Message::Text(text) => texts.push(text.to_string()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(shown(&texts), expected);
    // The server has read the answer.
    client.nothing_came().await;
}

/// A user who confirms what comes first.
async fn confirming_user(server: &TestServer, expected: &[&str]) -> Client {
    let mut client = server.connect().await;
    client.send_subscribe(CHANNEL, Some(USER)).await;
    confirm(&mut client, expected).await;
    client
}

#[tokio::test]
async fn a_user_who_was_cut_off_gets_what_he_has_missed() {
    let server = server().await;
    let (mut page, came) = user(&server).await;
    assert_eq!(came, [SUCCEEDED]);
    publish(&server, CHANNEL, 1..=2).await;
    confirm(&mut page, &["1", "2"]).await;
    cut(&server, page).await;
    publish(&server, CHANNEL, 3..=5).await;
    let (mut page, came) = user(&server).await;
    assert_eq!(came, [SUCCEEDED, "3", "4", "5"]);
    publish(&server, CHANNEL, [6]).await;
    assert_eq!(shown(&page.settle().await), ["6"]);
    assert_eq!(server.metric("gema_history_replayed_total", None).await, 3.0);
}

#[tokio::test]
async fn what_was_sent_and_not_confirmed_comes_again() {
    let server = server().await;
    let (mut page, _) = user(&server).await;
    publish(&server, CHANNEL, [1]).await;
    confirm(&mut page, &["1"]).await;
    publish(&server, CHANNEL, [2]).await;
    cut(&server, page).await;
    publish(&server, CHANNEL, [3]).await;
    assert_eq!(user(&server).await.1, [SUCCEEDED, "2", "3"]);
}

#[tokio::test]
async fn a_replay_that_did_not_arrive_comes_again() {
    let server = server().await;
    let (mut page, _) = user(&server).await;
    publish(&server, CHANNEL, [1]).await;
    confirm(&mut page, &["1"]).await;
    cut(&server, page).await;
    publish(&server, CHANNEL, [2]).await;
    for _ in 0..3 {
        // This one answers no ping.
        let mut page = Wire::connect(server.address(), &format!("/app/{APP_KEY}?protocol=7")).await;
        let auth = channel_auth(&page.socket_id, CHANNEL, Some(USER));
        let data = json!({ "auth": auth, "channel": CHANNEL, "channel_data": USER });
        page.send_text(&json!({ "event": "pusher:subscribe", "data": data }).to_string()).await;
        assert_eq!(shown(&[page.next_text().await, page.next_text().await]), [SUCCEEDED, "2"]);
        drop(page);
        server.metric_becomes("soketi_connected", None, 0.0).await;
    }
    let page = confirming_user(&server, &[SUCCEEDED, "2"]).await;
    cut(&server, page).await;
    assert_eq!(user(&server).await.1, [SUCCEEDED], "it was confirmed");
}

#[tokio::test]
async fn a_user_may_return_before_the_server_knows_that_his_line_is_dead() {
    let server = single().await;
    let proxy = Proxy::start(server.address().port()).await;
    let address = SocketAddr::from(([127, 0, 0, 1], proxy.port()));
    let mut page = Client::open(address, &format!("/app/{APP_KEY}?protocol=7"), &[]).await;
    page.established().await;
    assert_eq!(subscribe(&mut page, CHANNEL, Some(USER)).await, [SUCCEEDED]);
    publish(&server, CHANNEL, [1]).await;
    confirm(&mut page, &["1"]).await;
    proxy.freeze();
    publish(&server, CHANNEL, 2..=3).await;
    let second = confirming_user(&server, &[SUCCEEDED, "2", "3"]).await;
    proxy.cut();
    server.metric_becomes("soketi_connected", None, 1.0).await;
    let (_third, came) = user(&server).await;
    assert_eq!(came, [SUCCEEDED], "what the second tab has gone on with");
    drop(second);
}

#[tokio::test]
async fn newcomers_get_nothing_and_strangers_neither() {
    let server = server().await;
    let (page, _) = user(&server).await;
    publish(&server, CHANNEL, [1]).await;
    cut(&server, page).await;
    publish(&server, CHANNEL, [2]).await;
    for channel_data in [Some(r#"{"user_id":"8"}"#), None, Some("{}"), Some("text"), Some(r#"{"user_id":""}"#)] {
        let mut client = server.connect().await;
        assert_eq!(subscribe(&mut client, CHANNEL, channel_data).await, [SUCCEEDED], "{channel_data:?}");
    }
    let mut number = server.connect().await;
    assert_eq!(subscribe(&mut number, CHANNEL, Some(r#"{"user_id":7}"#)).await, [SUCCEEDED, "1", "2"]);
}

#[tokio::test]
async fn everybody_gets_the_last_events_where_the_rule_says_so() {
    let server = server_with(json!({ "match": "news", "seconds": 600, "replay": { "last": 2 } })).await;
    publish(&server, "news", 1..=3).await;
    let mut page = server.connect().await;
    assert_eq!(subscribe(&mut page, "news", None).await, [SUCCEEDED, "2", "3"]);
    publish(&server, "news", [4]).await;
    assert_eq!(shown(&page.settle().await), ["4"]);
}

#[tokio::test]
async fn leaving_on_purpose_ends_the_claim() {
    let server = server().await;
    let (mut page, _) = user(&server).await;
    page.unsubscribe(CHANNEL).await;
    page.settle().await;
    publish(&server, CHANNEL, [1]).await;
    server.quiet().await;
    assert_eq!(subscribe(&mut page, CHANNEL, Some(USER)).await, [SUCCEEDED]);
    page.close().await;
    server.metric_becomes("soketi_connected", None, 0.0).await;
    publish(&server, CHANNEL, [2]).await;
    assert_eq!(user(&server).await.1, [SUCCEEDED]);
}

#[tokio::test]
async fn what_is_not_kept_any_more_is_a_gap() {
    let server = server_with(json!({ "match": "orders.*", "seconds": 600, "events_max": 3 })).await;
    let (page, _) = user(&server).await;
    cut(&server, page).await;
    publish(&server, CHANNEL, 1..=5).await;
    let mut page = server.connect().await;
    page.send_subscribe(CHANNEL, Some(USER)).await;
    page.next_event("pusher_internal:subscription_succeeded").await;
    let gap = page.next_event("gema:history_gap").await;
    assert_eq!((&gap["channel"], &gap["missed"]), (&json!(CHANNEL), &json!(2)));
    assert!(gap["since"].as_u64().unwrap() > 1_700_000_000_000, "{gap}");
    assert_eq!(shown(&page.settle().await), ["3", "4", "5"]);
    assert_eq!(server.metric("gema_history_gaps_total", None).await, 1.0);
    assert_eq!(server.metric("gema_history_missed_total", None).await, 2.0);
}

#[tokio::test]
async fn each_tab_gets_what_its_predecessor_missed_the_oldest_place_first() {
    let server = single().await;
    let (first, _) = user(&server).await;
    let (mut second, _) = user(&server).await;
    cut(&server, first).await;
    publish(&server, CHANNEL, [1]).await;
    confirm(&mut second, &["1"]).await;
    cut(&server, second).await;
    publish(&server, CHANNEL, [2]).await;
    let _first = confirming_user(&server, &[SUCCEEDED, "1", "2"]).await;
    assert_eq!(user(&server).await.1[1], "2", "the second tab had the first event");
}

#[tokio::test]
async fn members_and_signed_in_users_are_known() {
    let server = TestServer::start_with(|config| {
        with_rule(json!({ "match": "*", "seconds": 600 }))(config);
    })
    .await;
    let mut member = server.connect().await;
    member.join("presence-room", "7").await;
    let mut signed_in = server.connect().await;
    signed_in.sign_in(&json!({ "id": "7" })).await;
    signed_in.settle().await;
    signed_in.subscribe("news").await;
    cut(&server, member).await;
    cut(&server, signed_in).await;
    publish(&server, "presence-room", [1]).await;
    publish(&server, "news", [2]).await;
    let mut member = server.connect().await;
    member.join("presence-room", "7").await;
    assert_eq!(shown(&member.settle().await), ["1"]);
    let mut signed_in = server.connect().await;
    signed_in.sign_in(&json!({ "id": "7" })).await;
    signed_in.settle().await;
    assert_eq!(subscribe(&mut signed_in, "news", None).await, [SUCCEEDED, "2"]);
}

#[tokio::test]
async fn who_signs_in_after_he_has_subscribed_is_told_of_a_gap() {
    let server = server_with(json!({ "match": "*", "seconds": 600 })).await;
    let late = async || {
        let mut page = server.connect().await;
        page.subscribe("news").await;
        page.send_sign_in(&json!({ "id": "7" }).to_string()).await;
        let came = shown(&page.settle().await);
        (page, came)
    };
    let (page, came) = late().await;
    assert_eq!(came, ["signin_success"]);
    cut(&server, page).await;
    publish(&server, "news", 1..=2).await;
    assert_eq!(late().await.1, ["signin_success", "gap of 2"]);
}

#[tokio::test]
async fn events_of_clients_and_of_members_are_not_kept() {
    let server = TestServer::start_with(|config| {
        with_rule(json!({ "match": "*", "seconds": 600 }))(config);
        config.limits.enable_client_messages = true;
    })
    .await;
    let mut member = server.connect().await;
    member.join("presence-room", "7").await;
    let mut other = server.connect().await;
    other.join("presence-room", "8").await;
    cut(&server, member).await;
    other.send_json(json!({ "event": "client-typing", "channel": "presence-room", "data": "x" })).await;
    other.settle().await;
    publish(&server, "presence-room", [1]).await;
    let mut third = server.connect().await;
    third.join("presence-room", "9").await;
    let mut member = server.connect().await;
    member.join("presence-room", "7").await;
    assert_eq!(shown(&member.settle().await), ["1"]);
}

#[tokio::test]
async fn an_event_that_excluded_the_users_own_connection_is_not_replayed() {
    let server = server().await;
    let (page, _) = user(&server).await;
    let own = json!({ "name": "order", "channel": CHANNEL, "data": "1", "socket_id": page.socket_id });
    server.api().post("/events", &own.to_string()).await.ok();
    publish(&server, CHANNEL, [2]).await;
    cut(&server, page).await;
    assert_eq!(user(&server).await.1, [SUCCEEDED, "2"]);
}

#[tokio::test]
async fn the_cached_event_comes_before_the_replay_and_once() {
    let server = server_with(json!({ "match": "*", "seconds": 600 })).await;
    let channel = "private-cache-orders";
    let mut page = server.connect().await;
    page.send_subscribe(channel, Some(USER)).await;
    assert_eq!(shown(&page.settle().await), [SUCCEEDED, "cache_miss"]);
    publish(&server, channel, [1]).await;
    confirm(&mut page, &["1"]).await;
    cut(&server, page).await;
    let mut page = server.connect().await;
    assert_eq!(subscribe(&mut page, channel, Some(USER)).await, [SUCCEEDED, "1"], "the cached event");
    cut(&server, page).await;
    publish(&server, channel, 2..=3).await;
    let mut page = server.connect().await;
    assert_eq!(subscribe(&mut page, channel, Some(USER)).await, [SUCCEEDED, "2", "3"]);
}

#[tokio::test]
async fn a_reload_changes_the_rule_and_loses_nothing() {
    let mut server = server().await;
    let (page, _) = user(&server).await;
    publish(&server, CHANNEL, [1]).await;
    cut(&server, page).await;
    server.reload(with_rule(json!({ "match": "orders.*", "seconds": 60, "events_max": 2 }))).await;
    publish(&server, CHANNEL, [2]).await;
    assert_eq!(user(&server).await.1, [SUCCEEDED, "1", "2"]);
    server.reload(|config| config.limits.history_rules.clear()).await;
    publish(&server, CHANNEL, [3]).await;
    assert_eq!(user(&server).await.1, [SUCCEEDED]);
    server.metric_becomes("gema_history_bytes", None, 0.0).await;
}

#[tokio::test]
async fn the_memory_of_an_app_is_bounded() {
    let server = TestServer::start_single_with(|config| {
        with_rule(json!({ "match": "*", "seconds": 600, "replay": { "last": 1000 } }))(config);
        config.limits.history_bytes_max = 20_000;
    })
    .await;
    for channel in 0..50 {
        publish(&server, &format!("news.{channel}"), 1..=10).await;
    }
    let bytes = server.metric("gema_history_bytes", None).await;
    assert!((1.0..=20_000.0).contains(&bytes), "{bytes}");
    assert!(server.metric("gema_history_evicted_total", None).await > 0.0);
}

#[tokio::test]
async fn a_flow_rule_lets_through_what_the_history_is_to_keep() {
    let server = TestServer::start_single_with(|config| {
        with_rule(json!({ "match": "orders.*", "seconds": 600 }))(config);
        let rule = json!([{ "match": "*", "except": ["order"], "conflate": { "window_ms": 3_600_000 } }]);
        config.limits.flow_rules = serde_json::from_value(rule).unwrap();
    })
    .await;
    let (page, _) = user(&server).await;
    cut(&server, page).await;
    publish(&server, CHANNEL, 1..=2).await;
    assert_eq!(user(&server).await.1, [SUCCEEDED, "1", "2"]);
}

#[tokio::test]
async fn a_rule_that_goes_and_comes_back_counts_on() {
    let mut server = single().await;
    let (mut page, _) = user(&server).await;
    publish(&server, CHANNEL, 1..=3).await;
    confirm(&mut page, &["1", "2", "3"]).await;
    server.reload(|config| config.limits.history_rules.clear()).await;
    server.reload(with_rule(json!({ "match": "orders.*", "seconds": 600 }))).await;
    let (mut other, _) = user(&server).await;
    publish(&server, CHANNEL, [4]).await;
    confirm(&mut other, &["4"]).await;
    cut(&server, other).await;
    publish(&server, CHANNEL, 5..=6).await;
    assert_eq!(user(&server).await.1, [SUCCEEDED, "5", "6"]);
}

#[tokio::test]
async fn who_signs_in_while_another_tab_gets_events_is_told_of_no_gap() {
    let server = server_with(json!({ "match": "*", "seconds": 600 })).await;
    let mut first = server.connect().await;
    first.sign_in(&json!({ "id": "7" })).await;
    first.settle().await;
    first.subscribe("news").await;
    publish(&server, "news", [1]).await;
    // The first tab has not confirmed it, but it answers.
    let mut second = server.connect().await;
    second.subscribe("news").await;
    second.send_sign_in(&json!({ "id": "7" }).to_string()).await;
    assert_eq!(shown(&second.settle().await), ["signin_success"]);
}
