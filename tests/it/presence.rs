//! Channels whose subscribers see each other.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;
use proptest::test_runner::RngAlgorithm;
use proptest::test_runner::TestRng;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::client::PATIENCE;
use support::server::TestServer;
use support::server::channel_auth;

const ROOM: &str = "presence-foobar";

fn added(user_id: &str) -> String {
    let data = json!({ "user_id": user_id, "user_info": { "name": user_id } }).to_string();
    format!(r#"{{"event":"pusher_internal:member_added","data":{},"channel":"{ROOM}"}}"#, json!(data))
}

fn removed(user_id: &str) -> String {
    let data = json!({ "user_id": user_id }).to_string();
    format!(r#"{{"event":"pusher_internal:member_removed","data":{},"channel":"{ROOM}"}}"#, json!(data))
}

/// The data that `Client::join` sends.
fn channel_data(user_id: &str) -> String {
    json!({ "user_id": user_id, "user_info": { "name": user_id } }).to_string()
}

/// Joins with any `channel_data`; returns the `presence` object.
async fn join_with(client: &mut Client, channel: &str, channel_data: &str) -> Value {
    client.send_subscribe(channel, Some(channel_data)).await;
    client.next_event("pusher_internal:subscription_succeeded").await["presence"].clone()
}

/// The distinct users, as the back end is told.
async fn users(server: &TestServer, channel: &str) -> Vec<String> {
    let answer = server.api().get(&format!("/channels/{channel}/users"), &[]).await.ok();
    answer["users"].as_array().unwrap().iter().map(|user| user["id"].as_str().unwrap().to_owned()).collect()
}

// G-105, G-106, G-107
#[tokio::test]
async fn the_success_lists_everybody_the_newcomer_included() {
    let server = TestServer::start().await;
    let mut first = server.connect().await;
    let channel_data = r#"{"user_id":"10","user_info":{"name":"Mr. Channels"}}"#;
    first.send_subscribe(ROOM, Some(channel_data)).await;
    assert_eq!(
        first.next_text().await,
        r#"{"event":"pusher_internal:subscription_succeeded","data":"{\"presence\":{\"count\":1,\"ids\":[\"10\"],\"hash\":{\"10\":{\"name\":\"Mr. Channels\"}}}}","channel":"presence-foobar"}"#
    );
    let mut second = server.connect().await;
    second.send_subscribe(ROOM, Some(r#"{"user_id":"11"}"#)).await;
    assert_eq!(
        second.next_text().await,
        r#"{"event":"pusher_internal:subscription_succeeded","data":"{\"presence\":{\"count\":2,\"ids\":[\"10\",\"11\"],\"hash\":{\"10\":{\"name\":\"Mr. Channels\"},\"11\":null}}}","channel":"presence-foobar"}"#
    );
    // Another connection of a user is not another id; an id may be anything that JSON can hold.
    let odd = "a\"b\\c/é😀\u{2028}";
    let mut third = server.connect().await;
    join_with(&mut third, ROOM, &json!({ "user_id": odd, "user_info": odd }).to_string()).await;
    let presence = join_with(&mut server.connect().await, ROOM, channel_data).await;
    assert_eq!(presence["count"], 3);
    assert_eq!(presence["ids"], json!(["10", "11", odd]));
    assert_eq!(presence["hash"], json!({ "10": { "name": "Mr. Channels" }, "11": null, odd: odd }));
}

// G-108, G-109, G-115
#[tokio::test]
async fn user_info_of_any_type_comes_back_with_the_same_value() {
    let server = TestServer::start().await;
    let mut observer = server.connect().await;
    observer.join(ROOM, "observer").await;
    let infos = [
        r#"{"name":"Zoë 😀","url":"a\/b","nested":{"a":[1,2.50,{}]}}"#,
        r#"[1,"2",null]"#,
        "true",
        "12345678901234567890.10",
        r#""text \"quoted\" \u00e9 \\ with spaces""#,
        "{}",
        "[]",
        "null",
        r#"{ "spaced" : [ 1.0 ] }"#,
    ];
    for (number, info) in infos.iter().enumerate() {
        let user_id = format!("user-{number}");
        let channel_data = format!(r#"{{"user_id":"{user_id}","user_info":{info},"other":"dropped"}}"#);
        let mut client = server.connect().await;
        let presence = join_with(&mut client, ROOM, &channel_data).await;
        let info: Value = serde_json::from_str(info).unwrap();
        assert_eq!(presence["hash"][&user_id], info);
        let notice = observer.next_event("pusher_internal:member_added").await;
        assert_eq!(notice, json!({ "user_id": user_id, "user_info": info }));
        client.close().await;
        observer.next_event("pusher_internal:member_removed").await;
    }
    let mut client = server.connect().await;
    let presence = join_with(&mut client, ROOM, r#"{"user_id":"without"}"#).await;
    assert_eq!(presence["hash"]["without"], Value::Null);
    assert_eq!(
        observer.next_text().await,
        r#"{"event":"pusher_internal:member_added","data":"{\"user_id\":\"without\",\"user_info\":null}","channel":"presence-foobar"}"#
    );
}

// G-110, G-111
#[tokio::test]
async fn a_numeric_user_id_is_a_string_with_the_same_digits_everywhere() {
    let server = TestServer::start().await;
    let mut observer = server.connect().await;
    observer.join(ROOM, "observer").await;
    for digits in ["10", "12345678901234567890", "-1", "1.50"] {
        let mut client = server.connect().await;
        let presence = join_with(&mut client, ROOM, &format!(r#"{{"user_id": {digits} }}"#)).await;
        assert_eq!(
            presence,
            json!({ "count": 2, "ids": ["observer", digits], "hash": { "observer": { "name": "observer" }, digits: null } })
        );
        assert_eq!(
            observer.next_text().await,
            format!(
                r#"{{"event":"pusher_internal:member_added","data":"{{\"user_id\":\"{digits}\",\"user_info\":null}}","channel":"presence-foobar"}}"#
            )
        );
        assert_eq!(users(&server, ROOM).await, ["observer", digits]);
        client.send_json(json!({ "event": "client-a", "data": "1", "channel": ROOM })).await;
        assert_eq!(observer.next().await["user_id"], digits);
        client.close().await;
        assert_eq!(observer.next_text().await, removed(digits));
    }
    // A number and the same digits as a string are the same user.
    join_with(&mut server.connect().await, ROOM, r#"{"user_id":"10"}"#).await;
    observer.next_event("pusher_internal:member_added").await;
    observer.next_event("pusher_internal:member_removed").await;
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    join_with(&mut one, ROOM, r#"{"user_id":"10"}"#).await;
    assert_eq!(join_with(&mut two, ROOM, r#"{"user_id":10}"#).await["count"], 2);
}

// G-112, G-113
#[tokio::test]
async fn channel_data_without_a_usable_user_id_is_refused_however_well_it_is_signed() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let useless = [
        "{}",
        r#"{"user_info":{"name":"x"}}"#,
        r#"{"user_id":""}"#,
        r#"{"user_id":null}"#,
        r#"{"user_id":true}"#,
        r#"{"user_id":{}}"#,
        r#"{"user_id":{"id":"10"}}"#,
        r#"{"user_id":["10"]}"#,
        r#"{"id":"10"}"#,
        "nonsense",
        r#"{"user_id":"10""#,
        r#"{"user_id":"10"} x"#,
        r#"{'user_id':'10'}"#,
        r#"{"user_id":01}"#,
        r#""10""#,
        r#"["10"]"#,
        r#"[{"user_id":"10"}]"#,
        "10",
        "null",
        " ",
    ];
    for channel_data in useless {
        client.send_subscribe(ROOM, Some(channel_data)).await;
        client.next_refusal(ROOM, "AuthError", 401, "Invalid channel_data").await;
    }
    // Not a string at all, and signed as if it had been left out.
    for channel_data in [json!({ "user_id": "10" }), json!(10), Value::Null] {
        let auth = channel_auth(&client.socket_id, ROOM, None);
        let data = json!({ "auth": auth, "channel": ROOM, "channel_data": channel_data });
        client.send_json(json!({ "event": "pusher:subscribe", "data": data })).await;
        client.next_refusal(ROOM, "AuthError", 401, "Invalid channel_data").await;
    }
    assert_eq!(users(&server, ROOM).await, Vec::<String>::new());
    assert_eq!(client.join(ROOM, "10").await["count"], 1);
}

// G-114, G-115, G-116
#[tokio::test]
async fn the_first_connection_of_a_user_is_announced_and_the_second_is_not() {
    let server = TestServer::start().await;
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    one.join(ROOM, "one").await;
    two.join(ROOM, "two").await;
    assert_eq!(one.settle().await, [added("two")]);
    let mut first = server.connect().await;
    first.join(ROOM, "ada").await;
    assert_eq!(
        one.next_text().await,
        r#"{"event":"pusher_internal:member_added","data":"{\"user_id\":\"ada\",\"user_info\":{\"name\":\"ada\"}}","channel":"presence-foobar"}"#
    );
    assert_eq!(two.settle().await, [added("ada")]);
    first.nothing_came().await;
    // The second tells other things about the user, which hold from now on; nobody is told so.
    let mut second = server.connect().await;
    let presence = join_with(&mut second, ROOM, r#"{"user_id":"ada","user_info":{"name":"Countess"}}"#).await;
    assert_eq!(presence["ids"], json!(["one", "two", "ada"]));
    assert_eq!(presence["hash"]["ada"], json!({ "name": "Countess" }));
    for client in [&mut one, &mut two, &mut first, &mut second] {
        client.nothing_came().await;
    }
}

#[tokio::test]
async fn the_newest_user_info_holds_and_then_the_newest_that_remains() {
    newest_info_holds(&TestServer::start().await, 1).await;
}

/// Tabs of one user tell different things about it, on nodes in turn.
pub async fn newest_info_holds(server: &TestServer, nodes: usize) {
    let mut observer = server.connect_at(0).await;
    observer.join(ROOM, "observer").await;
    let mut tabs = Vec::new();
    for (number, name) in ["a", "b", "a", "c"].into_iter().enumerate() {
        let mut tab = server.connect_at(number % nodes).await;
        let channel_data = json!({ "user_id": "ada", "user_info": { "name": name } }).to_string();
        let presence = join_with(&mut tab, ROOM, &channel_data).await;
        assert_eq!(presence["hash"]["ada"], json!({ "name": name }), "tab {number}");
        newcomers_hear_of(name, server, nodes).await;
        tabs.push(Some(tab));
    }
    for (leaves, name) in [(3, "a"), (2, "b"), (0, "b")] {
        let mut tab = tabs[leaves].take().unwrap();
        tab.unsubscribe(ROOM).await;
        tab.settle().await;
        newcomers_hear_of(name, server, nodes).await;
    }
    let about_ada: Vec<String> = observer.settle().await.into_iter().filter(|text| text.contains("ada")).collect();
    let data = json!({ "user_id": "ada", "user_info": { "name": "a" } }).to_string();
    let added = json!({ "event": "pusher_internal:member_added", "data": data, "channel": ROOM });
    assert_eq!(about_ada.iter().map(|text| serde_json::from_str(text).unwrap()).collect::<Vec<Value>>(), [added]);
}

/// Whoever joins now, on whichever node, gets this name of ada.
async fn newcomers_hear_of(name: &str, server: &TestServer, nodes: usize) {
    for node in 0..nodes {
        let mut newcomer = server.connect_at(node).await;
        let presence = newcomer.join(ROOM, "newcomer").await;
        assert_eq!(presence["hash"]["ada"], json!({ "name": name }), "on node {node}");
        newcomer.close().await;
    }
}

// G-117, G-118, G-119
#[tokio::test]
async fn the_last_connection_of_a_user_to_go_is_announced_at_once_however_it_goes() {
    // Webhooks wait whether the user comes back; members are told at once.
    let leave_delay = gema::config::Seconds(2.0 * PATIENCE.as_secs_f64());
    let server = TestServer::start_with(|config| config.webhooks.leave_delay_seconds = leave_delay).await;
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    one.join(ROOM, "one").await;
    two.join(ROOM, "two").await;
    one.next_event("pusher_internal:member_added").await;
    for way in ["unsubscribe", "close", "cut"] {
        let (mut first, mut second) = (server.connect().await, server.connect().await);
        first.join(ROOM, "ada").await;
        second.join(ROOM, "ada").await;
        for observer in [&mut one, &mut two] {
            assert_eq!(observer.settle().await, [added("ada")]);
        }
        for (client, is_last) in [(first, false), (second, true)] {
            let began = Instant::now();
            let mut client = client;
            match way {
                "unsubscribe" => {
                    client.unsubscribe(ROOM).await;
                    client.nothing_came().await;
                }
                "close" => client.close().await,
                _ => {
                    // As when a cable is pulled, except that the peer's kernel still says so.
                    client.tcp().set_zero_linger().unwrap();
                    drop(client);
                    while users_with_connections(&server).await != (2 + u64::from(!is_last), 2 + u64::from(!is_last)) {
                        assert!(began.elapsed() < PATIENCE, "the connection is still there");
                    }
                }
            }
            for observer in [&mut one, &mut two] {
                if is_last {
                    assert_eq!(observer.next_text().await, removed("ada"));
                }
                observer.nothing_came().await;
            }
        }
    }
    assert_eq!(users(&server, ROOM).await, ["one", "two"]);
}

/// Users and connections of the room.
async fn users_with_connections(server: &TestServer) -> (u64, u64) {
    let info = [("info", "user_count,subscription_count")];
    let facts = server.api().get(&format!("/channels/{ROOM}"), &info).await.ok();
    (facts["user_count"].as_u64().unwrap(), facts["subscription_count"].as_u64().unwrap())
}

// G-121
#[tokio::test]
async fn a_full_channel_takes_more_connections_but_no_more_members() {
    let server = TestServer::start().await;
    let mut members = Vec::new();
    for number in 0..100 {
        let mut client = server.connect().await;
        assert_eq!(client.join(ROOM, &number.to_string()).await["count"], number + 1);
        members.push(client);
    }
    let mut late = server.connect().await;
    late.send_subscribe(ROOM, Some(&channel_data("late"))).await;
    late.next_refusal(ROOM, "LimitReached", 403, "Presence channel member limit reached").await;
    assert_eq!(late.join(ROOM, "7").await["count"], 100);
    late.unsubscribe(ROOM).await;
    late.settle().await;
    members.pop().unwrap().close().await;
    server.quiet().await;
    assert_eq!(late.join(ROOM, "late").await["count"], 100);
    assert_eq!(members[98].settle().await, [added("99"), removed("99"), added("late")]);
}

// G-122
#[tokio::test]
async fn user_info_has_a_largest_size() {
    let server = TestServer::start_with(|config| config.limits.max_presence_member_size_in_kb = 1.0).await;
    let mut client = server.connect().await;
    // As JSON, with its two quotes.
    for (letter, number) in [("x", 1022), ("é", 511)] {
        let with = |info: String| format!(r#"{{"user_id":"ada","user_info":"{info}","ignored":"{info}"}}"#);
        let largest = letter.repeat(number);
        client.send_subscribe(ROOM, Some(&with(format!("{largest}x")))).await;
        let message = "The user_info of a presence member must not exceed 1024 bytes";
        client.next_refusal(ROOM, "LimitReached", 413, message).await;
        assert_eq!(join_with(&mut client, ROOM, &with(largest.clone())).await["hash"]["ada"], largest);
        client.unsubscribe(ROOM).await;
    }
}

// G-122
#[tokio::test]
async fn user_info_counts_as_the_letters_that_its_escapes_stand_for() {
    let server = TestServer::start_with(|config| config.limits.max_presence_member_size_in_kb = 1.0).await;
    let mut client = server.connect().await;
    // PHP writes a letter of two, three or four bytes as six or twelve, and a slash as two.
    for (escape, letter) in [("\\u00e9", "é"), ("\\u0e01", "ก"), ("\\ud83d\\ude00", "😀"), ("\\/", "/")] {
        let with = |info: &str| format!(r#"{{ "user_id": "ada", "user_info": {{ "n": "{info}" }} }}"#);
        let largest = 1024 - r#"{"n":""}"#.len();
        let (number, rest) = (largest / letter.len(), "x".repeat(largest % letter.len()));
        client.send_subscribe(ROOM, Some(&with(&format!("{}{rest}x", escape.repeat(number))))).await;
        let message = "The user_info of a presence member must not exceed 1024 bytes";
        client.next_refusal(ROOM, "LimitReached", 413, message).await;
        let presence = join_with(&mut client, ROOM, &with(&format!("{}{rest}", escape.repeat(number)))).await;
        assert_eq!(presence["hash"]["ada"], json!({ "n": format!("{}{rest}", letter.repeat(number)) }));
        client.unsubscribe(ROOM).await;
    }
    // The same of who has signed in.
    let info = "\\u00e9".repeat(500);
    client.send_sign_in(&format!(r#"{{"id":"ada","user_info":"{info}"}}"#)).await;
    client.next_event("pusher:signin_success").await;
    client.send_subscribe(ROOM, None).await;
    let presence = client.next_event("pusher_internal:subscription_succeeded").await["presence"].clone();
    assert_eq!(presence["hash"]["ada"], "é".repeat(500));
}

// G-123
#[tokio::test]
async fn a_user_id_has_at_most_128_characters() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    for letter in ["x", "é", "7"] {
        let longest = letter.repeat(128);
        client.send_subscribe(ROOM, Some(&channel_data(&format!("{longest}{letter}")))).await;
        let message = "The user_id of a presence member must not exceed 128 characters";
        client.next_refusal(ROOM, "LimitReached", 413, message).await;
        assert_eq!(client.join(ROOM, &longest).await["ids"], json!([longest]));
        client.unsubscribe(ROOM).await;
    }
}

// G-124, G-125, G-126
#[tokio::test]
async fn a_sign_in_stands_in_for_channel_data_that_is_left_out() {
    let server = TestServer::start().await;
    let (mut signed_in, mut stranger) = (server.connect().await, server.connect().await);
    signed_in.sign_in(&json!({ "id": "ada", "user_info": { "name": "Countess" }, "other": 1 })).await;
    signed_in.send_subscribe(ROOM, None).await;
    let presence = signed_in.next_event("pusher_internal:subscription_succeeded").await["presence"].clone();
    assert_eq!(presence, json!({ "count": 1, "ids": ["ada"], "hash": { "ada": { "name": "Countess" } } }));

    stranger.send_subscribe(ROOM, None).await;
    stranger.next_refusal(ROOM, "AuthError", 401, "Invalid channel_data").await;
    stranger.send_subscribe(ROOM, Some("")).await;
    stranger.next_refusal(ROOM, "AuthError", 401, "Invalid channel_data").await;

    signed_in.unsubscribe(ROOM).await;
    assert_eq!(
        join_with(&mut signed_in, ROOM, r#"{"user_id":"another","user_info":5}"#).await,
        json!({ "count": 1, "ids": ["another"], "hash": { "another": 5 } })
    );
    stranger.join(ROOM, "stranger").await;
    assert_eq!(signed_in.settle().await, [added("stranger")]);
    signed_in.send_json(json!({ "event": "client-a", "data": "1", "channel": ROOM })).await;
    assert_eq!(stranger.next().await["user_id"], "another");
    signed_in.close().await;
    assert_eq!(stranger.settle().await, [removed("another")]);
}

/// What one connection does next.
#[derive(Debug, Clone, Copy)]
enum Step {
    Join(u8),
    Leave,
    /// Close, and come back as a new connection.
    Reconnect,
}

/// Connections of one case; more than users, so that some users have several.
const CONNECTIONS: usize = 5;
const USERS: u8 = 4;

/// Rounds of steps. The steps of one round are sent without waiting, those of one connection in one write.
fn rounds() -> impl Strategy<Value = Vec<Vec<(usize, Step)>>> {
    let step = prop_oneof![6 => (0..USERS).prop_map(Step::Join), 5 => Just(Step::Leave), 1 => Just(Step::Reconnect)];
    vec(vec((0..CONNECTIONS, step), 1..16), 1..4)
}

/// What a connection knows of the room, by what it was told.
#[derive(Debug, Default)]
struct View {
    /// The members it has been told of; `None` before its first success.
    told: Option<BTreeSet<String>>,
}

impl View {
    /// Takes one frame. `answers` are the users that the connection joins as, in order, `None` for a refusal.
    fn hear(&mut self, frame: &str, answers: &mut impl Iterator<Item = Option<String>>) {
        let frame: Value = serde_json::from_str(frame).unwrap();
        let data = || serde_json::from_str::<Value>(frame["data"].as_str().unwrap()).unwrap();
        match frame["event"].as_str().unwrap() {
            "pusher:error" => assert_eq!(answers.next(), Some(None), "{frame}"),
            "pusher_internal:subscription_succeeded" => {
                let presence = data()["presence"].take();
                let ids: Vec<String> = serde_json::from_value(presence["ids"].clone()).unwrap();
                let members: BTreeSet<String> = ids.iter().cloned().collect();
                let keys: BTreeSet<String> = presence["hash"].as_object().unwrap().keys().cloned().collect();
                assert_eq!((members.len(), presence["count"].as_u64()), (ids.len(), Some(ids.len() as u64)));
                assert_eq!(keys, members);
                let user_id = answers.next().expect("a success that nobody asked for").expect("a refusal was due");
                assert!(members.contains(&user_id), "{user_id} is not in its own list {members:?}");
                self.told = Some(members);
            }
            "pusher_internal:member_added" => {
                let members = self.told.as_mut().expect("a notice before the success");
                let user_id = data()["user_id"].as_str().unwrap().to_owned();
                assert!(members.insert(user_id), "told twice: {frame}, {members:?}");
            }
            "pusher_internal:member_removed" => {
                let members = self.told.as_mut().expect("a notice before the success");
                assert!(members.remove(data()["user_id"].as_str().unwrap()), "never told: {frame}, {members:?}");
            }
            other => panic!("{other} was not expected"),
        }
    }
}

/// One connection of a case: the socket, what it was told, and as whom it is on the channel.
struct Visitor {
    client: Client,
    view: View,
    member: Option<String>,
}

/// Sends the steps of one round and hears the answers; returns when all of its own have come.
async fn take(visitor: &mut Visitor, server: &TestServer, channel: &str, steps: &[Step]) {
    let mut batch = Vec::new();
    let mut answers = Vec::new();
    for &step in steps {
        match (step, &visitor.member) {
            (Step::Join(user), present) => {
                let user_id = format!("user-{user}");
                let channel_data = channel_data(&user_id);
                let auth = channel_auth(&visitor.client.socket_id, channel, Some(&channel_data));
                let data = json!({ "auth": auth, "channel": channel, "channel_data": channel_data });
                batch.push(json!({ "event": "pusher:subscribe", "data": data }).to_string());
                answers.push(present.is_none().then(|| user_id.clone()));
                visitor.member.get_or_insert(user_id);
            }
            (Step::Leave, present) => {
                batch.push(json!({ "event": "pusher:unsubscribe", "data": { "channel": channel } }).to_string());
                if present.is_none() {
                    answers.push(None);
                }
                visitor.member = None;
            }
            (Step::Reconnect, _) => {
                visitor.client.send_together(&std::mem::take(&mut batch)).await;
                answers.clear();
                std::mem::replace(&mut visitor.client, server.connect().await).close().await;
                (visitor.view, visitor.member) = (View::default(), None);
            }
        }
    }
    visitor.client.send_together(&batch).await;
    let mut answers = answers.into_iter();
    for frame in visitor.client.settle().await {
        visitor.view.hear(&frame, &mut answers);
    }
    assert_eq!(answers.next(), None, "an answer is missing");
}

/// Plays all rounds on one channel. After each, every member knows exactly who is there, and so does the back end.
/// The connections are those of the case before; they are returned for the next one.
async fn play(
    server: &TestServer,
    channel: &str,
    rounds: Vec<Vec<(usize, Step)>>,
    mut clients: Vec<Client>,
) -> Vec<Client> {
    while clients.len() < CONNECTIONS {
        clients.push(server.connect().await);
    }
    let visitor = |client| Visitor { client, view: View::default(), member: None };
    let mut visitors: Vec<Visitor> = clients.into_iter().map(visitor).collect();
    for round in rounds {
        let mut steps: BTreeMap<usize, Vec<Step>> = BTreeMap::new();
        for (index, step) in round {
            steps.entry(index).or_default().push(step);
        }
        let none = Vec::new();
        let taking = visitors.iter_mut().enumerate();
        let taking = taking.map(|(index, visitor)| take(visitor, server, channel, steps.get(&index).unwrap_or(&none)));
        futures_util::future::join_all(taking).await;

        let present: BTreeSet<String> = visitors.iter().filter_map(|visitor| visitor.member.clone()).collect();
        let connections = visitors.iter().filter(|visitor| visitor.member.is_some()).count();
        // What the others did may still be on its way to one who is done.
        let rest = futures_util::future::join_all(visitors.iter_mut().map(|visitor| visitor.client.settle())).await;
        for (visitor, rest) in visitors.iter_mut().zip(rest) {
            for frame in rest {
                assert!(visitor.member.is_some(), "told after it had left: {frame}");
                visitor.view.hear(&frame, &mut std::iter::empty());
            }
            if visitor.member.is_some() {
                assert_eq!(visitor.view.told.as_ref(), Some(&present));
            }
        }
        let listed = users(server, channel).await;
        assert_eq!((listed.len(), BTreeSet::from_iter(listed)), (present.len(), present.clone()));
        let info = [("info", "user_count,subscription_count")];
        let facts = server.api().get(&format!("/channels/{channel}"), &info).await.ok();
        let (occupied, users) = (connections > 0, present.len());
        assert_eq!(facts, json!({ "occupied": occupied, "user_count": users, "subscription_count": connections }));
    }
    for visitor in &mut visitors {
        if visitor.member.is_some() {
            visitor.client.unsubscribe(channel).await;
        }
    }
    futures_util::future::join_all(visitors.iter_mut().map(|visitor| visitor.client.settle())).await;
    visitors.into_iter().map(|visitor| visitor.client).collect()
}

// G-106, G-114, G-116, G-117, G-118, G-119, G-120
#[test]
fn everybody_hears_of_each_member_exactly_once_however_connections_come_and_go() {
    holds(TestServer::start());
}

/// Plays random cases on the server that this starts.
pub fn holds(start: impl Future<Output = TestServer>) {
    let seed: u64 = std::env::var("GEMA_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("to see the same cases again: GEMA_TEST_SEED={seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(start);
    let config = Config { cases: 200, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let case = Cell::new(0);
    let clients = Cell::new(Vec::new());
    let outcome = TestRunner::new_with_rng(config, random).run(&rounds(), |rounds| {
        case.set(case.get() + 1);
        let channel = format!("presence-{}", case.get());
        // A case that fails takes its connections along, and the next one opens new ones.
        clients.set(runtime.block_on(play(&server, &channel, rounds, clients.take())));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
