//! The way of one event, end to end.

use crate::server::TestServer;

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
