//! Webhooks of apps that are rows of a table.

use std::time::Duration;

use gema::config::Config;
use gema::config::Seconds;
use gema::config::WebhooksDriver;
use serde_json::Value;
use serde_json::json;
use support::barrier::Figures;
use support::client::PATIENCE;
use support::receiver::ALL;
use support::receiver::Answer;
use support::receiver::Receiver;
use support::redis_server::TestRedis;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::APP_SECRET;

use crate::servers::Kind;
use crate::servers::Server;
use crate::serving::connect;
use crate::serving::gema;
use crate::serving::until;

const ROOM: &str = "presence-room";
/// How long an app is kept that nobody asks for.
const UNUSED_MAX: Duration = Duration::from_secs(60);

fn channel(name: &str) -> Value {
    json!({ "name": name, "channel": ROOM })
}

fn member(name: &str) -> Value {
    json!({ "name": name, "channel": ROOM, "user_id": "7" })
}

/// A table whose only app tells of everything.
async fn telling_table(server: &Server, table: &str, receiver: &Receiver) {
    let webhooks = json!([{ "url": format!("http://{}/", receiver.address), "event_types": ALL }]);
    server
        .run(&format!(
            "CREATE TABLE {table} (id varchar(255) PRIMARY KEY, \"key\" varchar(255), secret varchar(255), webhooks json); \
             INSERT INTO {table} VALUES ('{APP_ID}', '{APP_KEY}', '{APP_SECRET}', '{webhooks}')"
        ))
        .await;
}

// G-277, G-280
#[tokio::test]
async fn who_leaves_an_app_that_nobody_has_asked_for_in_a_long_time_is_told_of() {
    let (server, mut receiver) = (Server::shared(Kind::Postgres).await, Receiver::start().await);
    telling_table(server, "telling", &receiver).await;
    let gema = gema(server, "telling", |_| ()).await;
    let mut client = connect(&gema, APP_KEY).await;
    client.join(ROOM, "7").await;
    receiver.next_events(&[channel("channel_occupied"), member("member_added")]).await;
    tokio::time::sleep(UNUSED_MAX + Duration::from_secs(1)).await;
    client.nothing_came().await;
    client.close().await;
    receiver.next_events(&[member("member_removed"), channel("channel_vacated")]).await;
    gema.drain().await;
}

// G-277, G-280
#[tokio::test]
async fn what_a_node_leaves_behind_is_told_by_one_that_has_not_known_the_app() {
    let (server, redis) = (Server::own(Kind::Postgres).await, TestRedis::start().await);
    let mut receiver = Receiver::start().await;
    telling_table(&server, "dead", &receiver).await;
    let on_redis = |config: &mut Config| {
        redis.configure(config, "dead");
        // Longer than the end of a drain takes, so that the other node is to tell who has left.
        config.webhooks.leave_delay_seconds = Seconds(10.0);
        config.app_store.timeout_seconds = Seconds(1.0);
    };
    let (leaving, staying) = (gema(&server, "dead", on_redis).await, gema(&server, "dead", on_redis).await);
    until("both nodes tell that they live", async || {
        redis.run::<usize>(&["ZCARD", "dead:{webhooks}:leases"]).await == 2
    })
    .await;
    let mut client = connect(&leaving, APP_KEY).await;
    client.join(ROOM, "7").await;
    receiver.next_events(&[channel("channel_occupied"), member("member_added")]).await;

    // What cannot be looked up is looked up again.
    server.pause();
    leaving.drain().await;
    let errors = "gema_app_store_errors_total";
    Figures::become_so(staying.metrics_address(), errors, "unavailable", 2 * PATIENCE, |now| now > 0.0).await;
    server.resume();
    let mut told = [receiver.next_event().await, receiver.next_event().await];
    assert_eq!(told, [member("member_removed"), channel("channel_vacated")]);
    let held: Vec<String> = redis.run(&["KEYS", "*:held"]).await;
    assert_eq!(held, Vec::<String>::new());

    // It has been told once, and begins anew.
    client = connect(&staying, APP_KEY).await;
    client.join(ROOM, "7").await;
    told = [receiver.next_event().await, receiver.next_event().await];
    assert_eq!(told, [channel("channel_occupied"), member("member_added")]);
    staying.drain().await;
}

#[tokio::test]
async fn what_waits_in_redis_goes_out_after_a_restart_although_nobody_asks_for_the_app() {
    let (server, redis) = (Server::shared(Kind::Postgres).await, TestRedis::start().await);
    let mut receiver = Receiver::start_with(&[], Answer::Status(500)).await;
    telling_table(server, "waiting", &receiver).await;
    let on_redis = |config: &mut Config| {
        redis.point(config);
        config.webhooks.driver = WebhooksDriver::Redis;
    };
    let before = gema(server, "waiting", on_redis).await;
    let mut client = connect(&before, APP_KEY).await;
    client.join(ROOM, "7").await;
    receiver.next().await;
    before.drain().await;
    receiver.rest();
    receiver.answer(Answer::Status(200));
    let after = gema(server, "waiting", on_redis).await;
    assert_eq!(receiver.next_event().await, channel("channel_occupied"));
    after.drain().await;
}
