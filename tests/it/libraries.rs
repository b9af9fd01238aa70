//! The official client libraries that do not run here, of Java, Swift and .NET: a day with each, in the words that its
//! code writes, and with what it needs of each answer.

use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::server::TestServer;
use support::server::channel_auth;
use support::server::user_auth;
use tokio_tungstenite::tungstenite::Message;

/// A field of a message, if it is there.
type Field<'a> = (&'a str, Option<&'a str>);

/// How a library writes what it asks for.
struct Library {
    query: &'static str,
    sub_protocol: Option<&'static str>,
    /// `data` in the library's own order of keys.
    ask: fn(event: &str, data: &[Field<'_>]) -> String,
    /// A client event, with its data.
    trigger: fn(channel: &str) -> (String, String),
    /// The event that asks whether the server is there. Without one it pings by frames.
    ping: Option<&'static str>,
}

/// What is there, as an object.
fn object(data: &[Field<'_>]) -> String {
    let present = data.iter().filter_map(|(key, value)| value.map(|value| format!("\"{key}\":{}", json!(value))));
    format!("{{{}}}", present.collect::<Vec<_>>().join(","))
}

const JAVA: Library = Library {
    query: "client=java-client&protocol=5&version=2.4.4",
    sub_protocol: None,
    ask: |event, data| format!(r#"{{"event":"{event}","data":{}}}"#, object(data)),
    // The data of an event is text.
    trigger: |channel| {
        let data = r#"{"at":"https://a.example/"}"#;
        (format!(r#"{{"event":"client-x","channel":"{channel}","data":{}}}"#, json!(data)), data.to_owned())
    },
    ping: Some(r#"{"event": "pusher:ping"}"#),
};

const SWIFT: Library = Library {
    query: "client=pusher-websocket-swift&version=10.1.10&protocol=7",
    sub_protocol: Some("pusher-channels-protocol-7"),
    // Its writer of JSON escapes each slash, and has keys in any order.
    ask: |event, data| format!(r#"{{"data":{},"event":"{event}"}}"#, object(data).replace('/', r"\/")),
    trigger: |channel| {
        let message = r#"{"data":{"at":"https:\/\/a.example\/"},"channel":"CHANNEL","event":"client-x"}"#;
        (message.replace("CHANNEL", channel), r#"{"at":"https:\/\/a.example\/"}"#.to_owned())
    },
    ping: None,
};

const DOT_NET: Library = Library {
    query: "protocol=5&client=pusher-dotnet-client&version=2.1.0",
    sub_protocol: None,
    // A signed subscription has both keys, also without data.
    ask: |event, data| match data {
        [(_, channel), (_, auth @ Some(_)), (_, channel_data)] => format!(
            r#"{{"event":"{event}","data":{{"channel":{},"auth":{},"channel_data":{}}}}}"#,
            json!(channel),
            json!(auth),
            json!(channel_data)
        ),
        data => format!(r#"{{"event":"{event}","data":{}}}"#, object(data)),
    },
    trigger: |channel| {
        let data = r#"{"at":"https://a.example/"}"#;
        (format!(r#"{{"event":"client-x","channel":"{channel}","data":{data}}}"#), data.to_owned())
    },
    ping: None,
};

impl Library {
    async fn subscribe(&self, client: &mut Client, channel: &str, channel_data: Option<&str>) -> Value {
        let auth = channel_auth(&client.socket_id, channel, channel_data);
        let is_signed = channel.starts_with("private-") || channel.starts_with("presence-");
        let data = [("channel", Some(channel)), ("auth", is_signed.then_some(&*auth)), ("channel_data", channel_data)];
        client.send(&(self.ask)("pusher:subscribe", &data)).await;
        let answer = client.next().await;
        assert_eq!(
            (&answer["event"], &answer["channel"]),
            (&json!("pusher_internal:subscription_succeeded"), &json!(channel))
        );
        // Text, or Swift reports no success.
        serde_json::from_str(answer["data"].as_str().unwrap()).unwrap()
    }

    async fn is_answered(&self, client: &mut Client) {
        match self.ping {
            Some(ping) => {
                client.send(ping).await;
                assert_eq!(client.next_text().await, r#"{"event":"pusher:pong","data":"{}"}"#);
            }
            None => {
                client.send_message(Message::Ping("".into())).await;
                assert_eq!(client.next_message().await, Message::Pong("".into()));
            }
        }
    }
}

async fn a_day_with(library: &Library) {
    let server = TestServer::start_with(|config| config.limits.enable_client_messages = true).await;
    let headers: Vec<_> = library.sub_protocol.map(|name| ("sec-websocket-protocol", name)).into_iter().collect();
    let mut client = server.open_with(&format!("/app/app-key?{}", library.query), &headers).await;
    client.established().await;
    let mut other = server.connect().await;
    other.subscribe("private-desk").await;

    assert_eq!(library.subscribe(&mut client, "news", None).await, json!({}));
    assert_eq!(library.subscribe(&mut client, "private-desk", None).await, json!({}));
    let ada = r#"{"user_id":"ada/1","user_info":{"face":"https://a.example/😀"}}"#;
    let found = library.subscribe(&mut client, "presence-room", Some(ada)).await;
    let hash = json!({ "ada/1": { "face": "https://a.example/😀" } });
    assert_eq!(found["presence"], json!({ "count": 1, "ids": ["ada/1"], "hash": hash }));
    library.is_answered(&mut client).await;

    let (message, data) = (library.trigger)("private-desk");
    client.send(&message).await;
    let heard = other.next().await;
    assert_eq!(heard, json!({ "event": "client-x", "channel": "private-desk", "data": data }));

    let user_data = r#"{"id":"ada/1","user_info":{"name":"Ada"}}"#;
    let auth = user_auth(&client.socket_id, user_data);
    client.send(&(library.ask)("pusher:signin", &[("auth", Some(&auth)), ("user_data", Some(user_data))])).await;
    let answer = client.next().await;
    let answered: Value = serde_json::from_str(answer["data"].as_str().unwrap()).unwrap();
    assert_eq!((&answer["event"], &answered["user_data"]), (&json!("pusher:signin_success"), &json!(user_data)));
    // .NET looks for a channel that has the message.
    assert_eq!(answer.get("channel"), None);
    library.subscribe(&mut client, "#server-to-user-ada/1", None).await;

    client.send(&(library.ask)("pusher:unsubscribe", &[("channel", Some("news"))])).await;
    library.is_answered(&mut client).await;
    server.api().publish("news", "e", "1").await;
    server.api().publish("presence-room", "e", "2").await;
    assert_eq!(client.next_text().await, r#"{"event":"e","data":"2","channel":"presence-room"}"#);
    client.close().await;
}

#[tokio::test]
async fn a_day_with_the_library_of_java() {
    a_day_with(&JAVA).await;
}

#[tokio::test]
async fn a_day_with_the_library_of_swift() {
    a_day_with(&SWIFT).await;
}

#[tokio::test]
async fn a_day_with_the_library_of_dot_net() {
    a_day_with(&DOT_NET).await;
}
