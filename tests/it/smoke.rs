//! The way of one event, end to end.

use gema::config::Config;
use gema::server::Server;
use support::server::TestServer;

#[tokio::test]
async fn a_published_event_reaches_its_subscriber() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.subscribe("scada-realtime").await;
    server.api().publish("scada-realtime", "scada.data.received", r#"{"value":1}"#).await;
    assert_eq!(
        client.next_text().await,
        r#"{"event":"scada.data.received","data":"{\"value\":1}","channel":"scada-realtime"}"#
    );
    client.nothing_came().await;
}

#[tokio::test]
async fn whoever_leaves_has_heard_of_everybody_who_left_before() {
    const USERS: usize = 60;
    // One node: whoever leaves does not wait to hear who has left elsewhere.
    let server = TestServer::start_single().await;
    let mut clients = Vec::new();
    for user in 0..USERS {
        let mut client = server.connect().await;
        client.join("presence-room", &user.to_string()).await;
        clients.push(client);
    }
    for client in &mut clients {
        client.unsubscribe("presence-room").await;
        client.send(r#"{"event":"pusher:ping","data":{}}"#).await;
    }
    let mut removed = 0;
    for client in &mut clients {
        loop {
            match client.next().await["event"].as_str() {
                Some("pusher:pong") => break,
                Some("pusher_internal:member_removed") => removed += 1,
                other => assert_eq!(other, Some("pusher_internal:member_added")),
            }
        }
    }
    assert_eq!(removed, USERS * (USERS - 1) / 2);
}

#[tokio::test]
async fn a_port_that_another_gema_listens_on_stops_the_start() {
    let server = TestServer::start().await;
    let mut config = Config::default();
    config.server.host = server.address().ip();
    config.server.port = server.address().port();
    config.metrics.port = 0;
    let error = Server::start(&config).await.expect_err("two servers share a port").to_string();
    assert!(error.contains("server.port") && error.contains("cannot be bound"), "{error}");
}
