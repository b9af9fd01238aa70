//! Rules for channels: however a name is varied, who is not let in hears nothing.

use std::time::Duration;
use std::time::Instant;

use gema::protocol::policy::ChannelRule;
use gema::protocol::policy::Decision;
use serde_json::Value;
use serde_json::json;
use support::attempts::in_time;
use support::attempts::within;
use support::client::Client;
use support::server::TestServer;

fn rule(text: &str) -> ChannelRule {
    serde_json::from_str(text).unwrap()
}

async fn server_with(rules: &[&str]) -> TestServer {
    TestServer::start_with(|config| config.limits.channel_rules = rules.iter().map(|text| rule(text)).collect()).await
}

const PRIVATE: &str = r#"{"match":"permintaan-barang.*","require":"private"}"#;

/// Both ways of telling it: Echo's `error()` hears the first, older clients the second.
async fn is_refused(client: &mut Client, channel: &str, message: &str) {
    client.send_subscribe(channel, None).await;
    client.next_refusal(channel, "Forbidden", 403, message).await;
}

async fn publish(server: &TestServer, channels: &[&str]) -> (u16, String) {
    let body = json!({ "name": "e", "channels": channels, "data": "1" }).to_string();
    let answer = server.api().post("/events", &body).await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn a_protected_channel_is_joined_with_a_signature_only() {
    let server = server_with(&[PRIVATE]).await;
    let mut client = server.connect().await;
    for (channel, instead) in [
        ("permintaan-barang.K001", "private-permintaan-barang.K001"),
        ("PERMINTAAN-barang.k001", "private-PERMINTAAN-barang.k001"),
        ("permintaan-barang.K001.", "private-permintaan-barang.K001."),
        ("cache-permintaan-barang.K001", "private-cache-permintaan-barang.K001"),
        ("cache-private-permintaan-barang.K001", "private-cache-private-permintaan-barang.K001"),
    ] {
        let message = format!("The rule permintaan-barang.* does not allow the channel {channel}; use {instead}");
        is_refused(&mut client, channel, &message).await;
    }
    for channel in ["private-permintaan-barang.K001", "private-cache-permintaan-barang.K001x", "permintaan-barang"] {
        client.subscribe(channel).await;
        if channel.contains("cache") {
            client.next_event("pusher:cache_miss").await;
        }
    }
    client.join("presence-permintaan-barang.K001", "siti").await;
    assert_eq!(server.metric("gema_policy_refusals_total", None).await, 5.0);
    // Nobody hears what is for members only, and whoever would publish it learns where.
    let refused = "The rule permintaan-barang.* does not allow the channel permintaan-barang.K001; use private-permintaan-barang.K001";
    assert_eq!(publish(&server, &["permintaan-barang.K001"]).await, (403, refused.to_owned()));
}

#[tokio::test]
async fn however_a_prefix_is_written_the_rule_is_for_the_channel() {
    let server = server_with(&[PRIVATE]).await;
    let mut client = server.connect().await;
    for (channel, instead) in [
        ("PRIVATE-permintaan-barang.K001", "private-permintaan-barang.K001"),
        ("Presence-permintaan-barang.K001", "private-permintaan-barang.K001"),
        ("encrypted-permintaan-barang.K001", "private-permintaan-barang.K001"),
        ("Private-Encrypted-permintaan-barang.K001", "private-permintaan-barang.K001"),
        ("Cache-permintaan-barang.K001", "private-Cache-permintaan-barang.K001"),
        ("cache-encrypted-permintaan-barang.K001", "private-cache-encrypted-permintaan-barang.K001"),
        ("CACHE-Private-PERMINTAAN-BARANG.K001", "private-CACHE-Private-PERMINTAAN-BARANG.K001"),
    ] {
        let message = format!("The rule permintaan-barang.* does not allow the channel {channel}; use {instead}");
        is_refused(&mut client, channel, &message).await;
        assert_eq!(publish(&server, &[channel]).await, (403, message));
    }
    for channel in ["private-Private-permintaan-barang.K001", "encrypted", "privateer-permintaan-barang.K001"] {
        client.subscribe(channel).await;
    }
}

#[tokio::test]
async fn an_event_for_several_channels_is_refused_as_a_whole() {
    let server = server_with(&[PRIVATE]).await;
    let mut client = server.connect().await;
    client.subscribe("news").await;
    assert_eq!(publish(&server, &["news", "permintaan-barang.K001"]).await.0, 403);
    let event = |channel: &str| json!({ "name": "e", "channel": channel, "data": "1" });
    let batch = json!({ "batch": [event("news"), event("permintaan-barang.K001")] }).to_string();
    assert_eq!(server.api().post("/batch_events", &batch).await.status, 403);
    client.nothing_came().await;
}

#[tokio::test]
async fn a_public_event_goes_to_the_members_where_the_rule_says_so() {
    let upgrade = r#"{"match":"permintaan-barang.*","require":"private","on_public_publish":"upgrade"}"#;
    let server = server_with(&[upgrade]).await;
    let mut member = server.connect().await;
    member.subscribe("private-permintaan-barang.K001").await;
    let mut other = server.connect().await;
    other.subscribe("private-permintaan-barang.K002").await;

    let both = ["permintaan-barang.K001", "private-permintaan-barang.K001"];
    for channels in [&both[..], &["Private-permintaan-barang.K001"]] {
        assert_eq!(publish(&server, channels).await.0, 200);
        let frame = member.next().await;
        assert_eq!((&frame["event"], &frame["channel"]), (&json!("e"), &json!(both[1])));
        // Named twice, it is one channel.
        member.nothing_came().await;
    }
    other.nothing_came().await;
}

#[tokio::test]
async fn clients_only_listen_where_the_rule_says_so() {
    let server = server_with(&[r#"{"match":"scada-*","client_events":"deny"}"#]).await;
    let mut clients = [server.connect().await, server.connect().await];
    for client in &mut clients {
        client.subscribe("private-scada-data").await;
        client.subscribe("private-chat").await;
    }
    let [sender, hearer] = &mut clients;
    let whisper = |channel: &str| json!({ "event": "client-e", "channel": channel, "data": "1" });
    sender.send_json(whisper("private-scada-data")).await;
    sender.next_error(None, "The rule scada-* allows no client events on private-scada-data").await;
    sender.send_json(whisper("private-chat")).await;
    let heard: Value = hearer.next().await;
    assert_eq!(heard["channel"], "private-chat");
}

#[tokio::test]
async fn a_subscription_that_is_too_old_is_to_be_authorized_anew() {
    in_time(too_old_is_to_be_authorized_anew).await;
}

/// A rule that lets a subscription become so old, in seconds.
fn ageing(seconds: u32) -> String {
    format!(r#"{{"match":"permintaan-barang.*","max_subscription_age_seconds":{seconds}}}"#)
}

async fn too_old_is_to_be_authorized_anew(age: u32) -> Result<(), String> {
    let server = server_with(&[&ageing(age)]).await;
    let mut clients = [server.connect().await, server.connect().await];
    clients[0].subscribe("private-permintaan-barang.K001").await;
    clients[1].join("presence-permintaan-barang.K001", "siti").await;
    let mut others = [server.connect().await, server.connect().await];
    others[0].subscribe("private-other").await;
    come_and_go(&mut others[1], age).await?;
    for client in &mut clients {
        assert_eq!(client.next_close().await.0, 4200);
    }
    for other in &mut others {
        other.nothing_came().await;
    }
    Ok(())
}

/// A subscription that ends before it is so old, in seconds.
async fn come_and_go(client: &mut Client, age: u32) -> Result<(), String> {
    let coming_and_going = async {
        client.subscribe("private-permintaan-barang.K001").await;
        client.unsubscribe("private-permintaan-barang.K001").await;
        client.settle().await;
    };
    let began = Instant::now();
    within(Duration::from_secs(age.into()), coming_and_going).await?;
    if began.elapsed() < Duration::from_secs(age.into()) { Ok(()) } else { Err("it became too old".to_owned()) }
}

#[tokio::test]
async fn who_leaves_and_comes_back_gets_no_more_time() {
    in_time(who_comes_back_gets_no_more_time).await;
}

async fn who_comes_back_gets_no_more_time(age: u32) -> Result<(), String> {
    let server = server_with(&[&ageing(age)]).await;
    let mut left = server.connect().await;
    come_and_go(&mut left, age).await?;
    let mut late = server.connect().await;
    let mut stays = server.connect().await;
    stays.subscribe("private-permintaan-barang.K001").await;
    assert_eq!(stays.next_close().await.0, 4200);
    // Whoever comes first now has all of the time before him.
    late.subscribe("private-permintaan-barang.K001").await;
    left.subscribe("private-permintaan-barang.K002").await;
    left.send_subscribe("private-permintaan-barang.K001", None).await;
    assert_eq!(left.next_close().await.0, 4200);
    Ok(())
}

#[tokio::test]
async fn a_connection_that_has_left_too_many_channels_comes_back() {
    let server = TestServer::start_with(|config| {
        config.connections.channels_max = 2;
        config.limits.channel_rules = vec![rule(r#"{"match":"K*","max_subscription_age_seconds":3600}"#)];
    })
    .await;
    let mut client = server.connect().await;
    for channel in ["K001", "K002", "K001", "other", "K002", "more"] {
        client.subscribe(channel).await;
        client.unsubscribe(channel).await;
    }
    client.send_subscribe("K003", None).await;
    assert_eq!(client.next_close().await.0, 4200);
}

#[tokio::test]
async fn without_a_rule_the_default_decides() {
    let server = TestServer::start_with(|config| {
        config.limits.channel_rules = vec![rule(r#"{"match":"scada-*"}"#)];
        config.limits.channel_default = Decision::Deny;
    })
    .await;
    let mut client = server.connect().await;
    client.subscribe("scada-realtime").await;
    let message = "No rule allows the channel private-other; the operator may add one that matches other";
    is_refused(&mut client, "private-other", message).await;
    assert_eq!(publish(&server, &["other"]).await.0, 403);
    assert_eq!(publish(&server, &["scada-realtime"]).await.0, 200);
    client.next_event("e").await;
    // Notifications to a user go on.
    client.sign_in(&json!({ "id": "siti" })).await;
    client.subscribe("#server-to-user-siti").await;
}

#[tokio::test]
async fn rules_change_while_the_server_runs() {
    let mut server = server_with(&[]).await;
    let mut client = server.connect().await;
    client.subscribe("permintaan-barang.K001").await;

    server.reload(|config| config.limits.channel_rules = vec![rule(PRIVATE)]).await;

    let mut late = server.connect().await;
    late.send_subscribe("permintaan-barang.K002", None).await;
    assert_eq!(late.next().await["event"], "pusher:subscription_error");
    // Whoever is in already hears nothing more: nobody can publish there any longer.
    assert_eq!(publish(&server, &["permintaan-barang.K001"]).await.0, 403);
    client.nothing_came().await;
}
