//! What nodes tell each other over Redis: all of it, in order, once, to whom it concerns, and nothing that is not theirs.

use std::time::Duration;

use futures_util::StreamExt;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use redis::aio::MultiplexedConnection;
use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::node::becomes;
use support::redis_server::TestRedis;
use support::redis_server::run;
use support::sequence::Listener;
use support::sequence::Publisher;
use support::server::APP_ID;
use support::server::TestServer;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const NUMBERS: &str = "numbers";

async fn publisher(server: &TestServer, node: usize, channel: &str, source: &str) -> Publisher {
    Publisher::new(server.address_at(node), server.api_at(node), channel, source).await
}

/// A listener on this node that waits for the end of so many sources.
async fn listener(server: &TestServer, node: usize, channel: &str, sources: usize) -> Listener {
    let mut client = server.connect_at(node).await;
    client.subscribe(channel).await;
    Listener::start(client, sources)
}

fn topic(server: &TestServer, channel: &str) -> String {
    format!("{}:{{{APP_ID}:{channel}}}", server.cluster())
}

#[tokio::test]
async fn the_events_of_two_publishers_on_two_nodes_arrive_in_order_and_once() {
    const EACH: u64 = 5_000;
    const BATCH: u64 = 10;
    let server = TestServer::start_cluster(2).await;
    let mut listeners = Vec::new();
    for node in [0, 1, 0, 1] {
        listeners.push(listener(&server, node, NUMBERS, 2).await);
    }
    let mut single = publisher(&server, 0, NUMBERS, "single").await;
    let mut batches = publisher(&server, 1, NUMBERS, "batches").await;
    tokio::join!(
        async {
            for _ in 0..EACH {
                assert!(single.publish().await);
            }
            single.end().await;
        },
        async {
            for _ in 0..EACH / BATCH {
                batches.publish_batch(BATCH).await;
            }
            batches.end().await;
        },
    );
    for listener in listeners {
        let (mut client, heard) = listener.heard().await;
        heard.assert_exactly("single", &single.accepted);
        heard.assert_exactly("batches", &batches.accepted);
        client.nothing_came().await;
    }
}

#[tokio::test]
async fn client_events_of_one_connection_arrive_in_order_and_once_on_every_node() {
    const EVENTS: usize = 2_000;
    let server = TestServer::start_cluster(2).await;
    let mut sender = server.connect_at(0).await;
    let mut receivers = [server.connect_at(0).await, server.connect_at(1).await];
    for client in receivers.iter_mut().chain([&mut sender]) {
        client.subscribe("private-x").await;
    }
    let events: Vec<String> = (0..EVENTS)
        .map(|number| format!(r#"{{"event":"client-n","data":"{number}","channel":"private-x"}}"#))
        .collect();
    sender.send_together(&events).await;
    sender.nothing_came().await;
    for receiver in &mut receivers {
        assert_eq!(receiver.settle().await, events);
    }
}

#[tokio::test]
async fn who_has_subscribed_on_one_node_gets_what_is_accepted_afterwards_on_another() {
    const ROUNDS: usize = 50;
    let server = TestServer::start_cluster(2).await;
    let (mut one, mut two) = (server.connect_at(0).await, server.connect_at(1).await);
    for round in 0..ROUNDS {
        for (client, other) in [(&mut one, 1), (&mut two, 0)] {
            // Half of the time nobody of the node has heard it before, half of the time it was left just now.
            let channel = format!("news-{other}-{}", round / 2);
            client.subscribe(&channel).await;
            server.api_at(other).publish(&channel, "e", "1").await;
            client.next_event("e").await;
            client.unsubscribe(&channel).await;
        }
    }
    one.nothing_came().await;
    two.nothing_came().await;
}

#[tokio::test]
async fn a_newcomer_in_the_middle_of_a_flood_misses_nothing_behind_its_success() {
    const NEWCOMERS: usize = 20;
    let server = TestServer::start_cluster(2).await;
    let flood = publisher(&server, 0, NUMBERS, "flood").await.flow(Duration::from_millis(1));
    let mut clients = Vec::new();
    for _ in 0..NEWCOMERS {
        let mut client = server.connect_at(1).await;
        client.subscribe(NUMBERS).await;
        clients.push((client, flood.at()));
    }
    flood.goes_on(20).await;
    let flood = flood.stop().await;
    server.quiet().await;
    let last = *flood.accepted.last().unwrap();
    for (client, came_at) in &mut clients {
        let frames = client.settle().await;
        let numbers: Vec<u64> = frames.iter().map(|frame| number(frame, "flood")).collect();
        assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1), "{numbers:?}");
        // The next one may have been accepted already when the client asked.
        assert!(numbers[0] <= *came_at + 1, "the success came before {came_at}, but {} is the first", numbers[0]);
        assert_eq!(numbers.last(), Some(&last));
    }
}

/// The number in a frame of this source.
fn number(frame: &str, source: &str) -> u64 {
    let frame: serde_json::Value = serde_json::from_str(frame).unwrap();
    frame["data"].as_str().unwrap().strip_prefix(&format!("{source}:")).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_node_without_subscribers_of_a_channel_receives_none_of_its_events() {
    const EVENTS: usize = 100;
    let server = TestServer::start_cluster(3).await;
    let mut redis = TestRedis::shared().await.connection().await;
    let (topic, quiet_topic) = (topic(&server, "news"), topic(&server, "nobody"));
    let mut client = server.connect_at(1).await;
    client.subscribe("news").await;
    assert_eq!(listening(&mut redis, &topic).await, 1);
    server.quiet().await;
    let received = async |node| server.figure(node, "gema_cluster_messages_total", r#"direction="in""#).await;
    let before = [received(0).await, received(1).await, received(2).await];
    for _ in 0..EVENTS {
        server.api_at(0).publish("news", "e", "1").await;
        server.api_at(0).publish("nobody", "e", "1").await;
    }
    assert_eq!(client.settle().await.len(), EVENTS);
    server.quiet().await;
    assert_eq!(received(0).await - before[0], 0.0);
    assert_eq!(received(1).await - before[1], EVENTS as f64);
    assert_eq!(received(2).await - before[2], 0.0);
    assert_eq!(listening(&mut redis, &quiet_topic).await, 0);
}

#[tokio::test]
async fn an_answer_for_one_node_goes_to_that_node_alone() {
    let redis = TestRedis::shared().await;
    let server = TestServer::start_cluster(3).await;
    let mut clients = Vec::new();
    for node in 0..3 {
        let mut client = server.connect_at(node).await;
        client.sign_in(&json!({ "id": "7" })).await;
        clients.push(client);
    }
    server.quiet().await;
    let mut ear = listen(redis, &format!("{}:nodes*", server.cluster())).await;
    server.api_at(0).post("/users/7/terminate_connections", "{}").await.ok();
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    while answered.len() < 2 {
        let message = timeout(PATIENCE, ear.next()).await.expect("an answer comes").unwrap();
        let (topic, text) = (message.get_channel_name(), message.get_payload::<String>().unwrap());
        match text.split(' ').nth(1) {
            Some("terminate") => asked.push(topic.to_owned()),
            Some("terminated") => answered.push(topic.to_owned()),
            _ => (),
        }
    }
    assert_eq!(asked, [format!("{}:nodes", server.cluster())]);
    let mut redis = redis.connection().await;
    assert!(answered[0] != asked[0] && answered[0] == answered[1], "{answered:?}");
    assert_eq!(listening(&mut redis, &answered[0]).await, 1);
    for client in &mut clients {
        client.ended().await;
    }
}

/// The topics of messages between nodes: for all, and for each of these nodes.
async fn topics_of_nodes(server: &TestServer, redis: &mut MultiplexedConnection) -> Vec<String> {
    let all = format!("{}:nodes", server.cluster());
    let mut topics: Vec<String> = run(redis, &["PUBSUB", "CHANNELS", &format!("{all}:*")]).await;
    topics.push(all);
    topics
}

/// Nodes that listen to a topic.
async fn listening(redis: &mut MultiplexedConnection, topic: &str) -> u64 {
    let (_, count): (String, u64) = run(redis, &["PUBSUB", "NUMSUB", topic]).await;
    count
}

#[tokio::test]
async fn servers_with_different_names_on_one_redis_do_not_hear_each_other() {
    let servers = [TestServer::start_cluster(2).await, TestServer::start_cluster(2).await];
    let mut members = Vec::new();
    for (number, server) in servers.iter().enumerate() {
        for node in 0..2 {
            let mut client = server.connect_at(node).await;
            client.join("presence-room", &format!("{number}-{node}")).await;
            client.sign_in(&json!({ "id": "7" })).await;
            members.push(client);
        }
    }
    for client in &mut members {
        client.settle().await;
    }
    servers[0].api_at(0).publish("presence-room", "e", "1").await;
    servers[0].api_at(0).post("/users/7/terminate_connections", "{}").await.ok();
    for client in &mut members[..2] {
        client.next_event("e").await;
        // One of them may hear before that the other one has gone.
        while client.next_message().await.is_text() {}
        client.ended().await;
    }
    servers[0].quiet().await;
    for client in &mut members[2..] {
        client.nothing_came().await;
    }
    for (server, count) in servers.iter().zip([0, 2]) {
        server.quiet().await;
        for node in 0..2 {
            let users = server.api_at(node).get("/channels/presence-room/users", &[]).await.ok();
            assert_eq!(users["users"].as_array().unwrap().len(), count, "{users}");
            assert_eq!(server.figure(node, "gema_cluster_nodes", "").await, 2.0);
        }
    }
}

#[tokio::test]
async fn messages_that_are_not_ours_are_counted_by_what_is_wrong_with_them() {
    let server = TestServer::start_cluster(2).await;
    let mut redis = TestRedis::shared().await.connection().await;
    let mut clients = [server.connect_at(0).await, server.connect_at(1).await];
    for client in &mut clients {
        client.subscribe("news").await;
    }
    server.quiet().await;
    let dropped = async |cause: &str| {
        let (name, label) = ("gema_cluster_dropped_total", format!("cause=\"{cause}\""));
        server.figure(0, name, &label).await + server.figure(1, name, &label).await
    };
    let mut topics = topics_of_nodes(&server, &mut redis).await;
    assert_eq!(topics.len(), 3);
    topics.push(topic(&server, "news"));
    let messages = [
        ("version", "gema/2 whatever comes then\n"),
        ("version", "gema/2\nx"),
        ("version", "gema/10 x\n"),
        ("malformed", ""),
        ("malformed", "gema"),
        ("malformed", r#"{"uuid":"soketi","appId":"app-id","channel":"news","data":"{}"}"#),
        ("malformed", "\u{1}\u{0}\u{ff}"),
    ];
    for topic in &topics {
        for (cause, message) in messages {
            let before = dropped(cause).await;
            let listening: u32 = run(&mut redis, &["PUBLISH", topic, message]).await;
            assert_eq!(listening, if topic.contains(":nodes:") { 1 } else { 2 }, "{topic}");
            becomes(cause, PATIENCE, async || dropped(cause).await, before + f64::from(listening)).await;
        }
    }
    for client in &mut clients {
        client.nothing_came().await;
    }
    server.api().publish("news", "e", "1").await;
    for client in &mut clients {
        client.next_event("e").await;
    }
}

#[tokio::test]
async fn a_message_that_redis_delivers_twice_reaches_clients_once() {
    let redis = TestRedis::shared().await;
    let server = TestServer::start_cluster(2).await;
    let mut clients = [server.connect_at(0).await, server.connect_at(1).await];
    for client in &mut clients {
        client.subscribe("news").await;
    }
    let mut ear = listen(redis, &topic(&server, "news")).await;
    server.api_at(0).publish("news", "e", "1").await;
    let message = timeout(PATIENCE, ear.next()).await.unwrap().unwrap();
    for client in &mut clients {
        client.next_event("e").await;
    }
    let mut connection = redis.connection().await;
    let again = redis::cmd("PUBLISH").arg(topic(&server, "news")).arg(message.get_payload_bytes()).to_owned();
    again.query_async::<u64>(&mut connection).await.unwrap();
    server.figure_becomes(1, "gema_cluster_dropped_total", r#"cause="duplicate""#, 1.0).await;
    for client in &mut clients {
        client.nothing_came().await;
    }
}

/// What comes on the topics of this pattern.
async fn listen(redis: &TestRedis, topics: &str) -> impl futures_util::Stream<Item = redis::Msg> + Unpin + use<> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", redis.port())).unwrap();
    let mut ear = client.get_async_pubsub().await.unwrap();
    ear.psubscribe(topics).await.unwrap();
    ear.into_on_message()
}

/// What is poured over the topics of a server while it works.
const POISON: usize = 100_000;
const POISON_SEED: u64 = 20_261_121;

#[tokio::test]
async fn random_messages_on_our_topics_harm_nobody() {
    println!("the poison's seed: {POISON_SEED}");
    let redis = TestRedis::start().await;
    let server = TestServer::start_cluster_on(&redis, 2, |_| ()).await;
    let mut listeners = Vec::new();
    for node in [0, 1] {
        listeners.push(listener(&server, node, NUMBERS, 2).await);
    }
    let mut members = [server.connect_at(0).await, server.connect_at(1).await];
    for (client, id) in members.iter_mut().zip(["ada", "bob"]) {
        client.join("presence-room", id).await;
        client.sign_in(&json!({ "id": id, "watchlist": ["eve"] })).await;
    }
    for client in &mut members {
        client.settle().await;
    }
    let samples = overheard(&redis, &server, &mut members).await;
    let channels = [NUMBERS, "presence-room", "cache-x", "#server-to-user-ada"];
    let mut topics: Vec<String> = channels.iter().map(|channel| topic(&server, channel)).collect();
    topics.extend(topics_of_nodes(&server, &mut redis.connection().await).await);
    let pouring = pour(redis.connection().await, topics, samples);

    let mut publishers = [publisher(&server, 0, NUMBERS, "one").await, publisher(&server, 1, NUMBERS, "two").await];
    let mut flow = publishers.each_mut();
    // With little traffic nothing is proved.
    while !pouring.is_finished() || flow[1].accepted.len() <= 100 {
        for publisher in &mut flow {
            assert!(publisher.publish().await);
        }
    }
    pouring.await.unwrap();
    for publisher in &mut publishers {
        publisher.end().await;
    }
    for listener in listeners {
        let (_, heard) = listener.heard().await;
        for (publisher, source) in publishers.iter().zip(["one", "two"]) {
            heard.assert_exactly(source, &publisher.accepted);
        }
    }
    for (node, client) in members.iter_mut().enumerate() {
        client.nothing_came().await;
        assert_eq!(server.figure(node, "gema_panics_total", "").await, 0.0);
        assert_eq!(server.figure(node, "gema_redis_up", "").await, 1.0);
        assert_eq!(server.figure(node, "gema_cluster_nodes", "").await, 2.0);
        assert!(server.figure(node, "gema_cluster_dropped_total", r#"cause="malformed""#).await > POISON as f64 / 4.0);
    }
}

/// Some real messages of a server, to be spoilt.
async fn overheard(redis: &TestRedis, server: &TestServer, members: &mut [Client; 2]) -> Vec<Vec<u8>> {
    let mut ear = listen(redis, &format!("{}:*", server.cluster())).await;
    members[0].send_json(json!({ "event": "client-a", "data": "1", "channel": "presence-room" })).await;
    members[1].next_event("client-a").await;
    for channel in ["cache-x", "presence-room", "nobody"] {
        server.api_at(0).publish(channel, "e", "1").await;
    }
    server.api_at(1).post("/users/nobody/terminate_connections", "{}").await.ok();
    let mut eve = server.connect_at(0).await;
    eve.join("presence-room", "eve").await;
    eve.sign_in(&json!({ "id": "eve" })).await;
    eve.close().await;
    for client in members {
        client.settle().await;
    }
    // Behind all of it.
    let end = format!("{}:end", server.cluster());
    redis.run::<u64>(&["PUBLISH", &end, ""]).await;
    let mut samples = Vec::new();
    loop {
        let message = timeout(PATIENCE, ear.next()).await.expect("nothing comes").expect("Redis is there");
        if message.get_channel_name() == end {
            break;
        }
        samples.push(message.get_payload_bytes().to_vec());
    }
    assert!(samples.len() >= 5, "the nodes hardly talk: {samples:?}");
    samples
}

fn pour(mut redis: MultiplexedConnection, topics: Vec<String>, samples: Vec<Vec<u8>>) -> JoinHandle<()> {
    const AT_ONCE: usize = 500;
    let mut random = StdRng::seed_from_u64(POISON_SEED);
    tokio::spawn(async move {
        for _ in 0..POISON / AT_ONCE {
            let mut pipe = redis::pipe();
            for _ in 0..AT_ONCE {
                let topic = &topics[random.random_range(0..topics.len())];
                pipe.cmd("PUBLISH").arg(topic).arg(spoilt(&mut random, &samples)).ignore();
            }
            pipe.query_async::<()>(&mut redis).await.unwrap();
        }
    })
}

/// Random bytes, or a real message cut short, or with other bytes at its beginning, where its form is. What a frame
/// says is not changed: a frame cannot tell whether it was meant so.
fn spoilt(random: &mut StdRng, samples: &[Vec<u8>]) -> Vec<u8> {
    let mut message = samples[random.random_range(0..samples.len())].clone();
    match random.random_range(0..4) {
        0 => (0..random.random_range(0..200)).map(|_| random.random()).collect(),
        1 => {
            message.truncate(random.random_range(0..message.len()));
            message
        }
        2 => {
            let head = b"gema/1 ";
            let mut bytes = head.to_vec();
            bytes.extend((0..random.random_range(0..60)).map(|_| random.random::<u8>()));
            bytes
        }
        _ => {
            message.insert(random.random_range(0..8), random.random_range(128..=255));
            message
        }
    }
}
