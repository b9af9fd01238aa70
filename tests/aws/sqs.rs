//! Webhooks by way of SQS.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use futures_util::future::join_all;
use gema::protocol::signature::Signer;
use serde_json::Value;
use serde_json::json;
use support::barrier::Figures;
use support::process::Process;
use support::receiver::Answer;
use support::receiver::Receiver;
use support::server::channel_auth;

use crate::connect;
use crate::front::Front;
use crate::front::Manner;
use crate::gema;
use crate::moto;
use crate::until;

struct Queue {
    client: Client,
    url: String,
}

impl Queue {
    async fn create(name: &str) -> Self {
        let client = Client::new(&moto::settings().await);
        let mut create = client.create_queue().queue_name(name);
        if name.ends_with(".fifo") {
            create = create.attributes(QueueAttributeName::FifoQueue, "true");
        }
        let url = create.send().await.unwrap().queue_url.unwrap();
        let path = url.splitn(4, '/').nth(3).unwrap().to_owned();
        Self { client, url: format!("{}/{path}", moto::url()) }
    }

    /// Its URL behind a front.
    fn url_at(&self, front: &Front) -> String {
        self.url.replace(&moto::url(), &front.url())
    }

    async fn put(&self, text: &str, group: &str) {
        let mut send = self.client.send_message().queue_url(&self.url).message_body(text);
        if self.url.ends_with(".fifo") {
            send = send.message_group_id(group).message_deduplication_id(text.len().to_string());
        }
        send.send().await.unwrap();
    }

    /// Messages that wait, and those that are hidden.
    async fn sizes(&self) -> (u32, u32) {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let mut ask = self.client.get_queue_attributes().queue_url(&self.url);
        for name in &names {
            ask = ask.attribute_names(name.clone());
        }
        let all = ask.send().await.unwrap().attributes.unwrap();
        let [waiting, hidden] = names.map(|name| all[&name].parse().unwrap());
        (waiting, hidden)
    }

    async fn becomes_empty(&self) {
        until("the queue is empty", async || self.sizes().await == (0, 0)).await;
    }
}

/// The program with Soketi's default app, under Soketi's names for the queue.
async fn gema_on(queue_url: &str, receiver: &Receiver, more: &[(&str, &str)]) -> Process {
    let kinds = ["channel_occupied", "channel_vacated", "member_added", "client_event"];
    let webhooks = json!([{ "url": format!("http://{}/", receiver.address), "event_types": kinds }]).to_string();
    let variables = [
        ("SOKETI_QUEUE_DRIVER", "sqs"),
        ("SOKETI_QUEUE_SQS_URL", queue_url),
        ("SOKETI_QUEUE_SQS_REGION", "us-east-1"),
        ("SOKETI_QUEUE_SQS_BATCH_SIZE", "5"),
        ("SOKETI_DEFAULT_APP_WEBHOOKS", &webhooks),
        ("SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES", "true"),
        ("GEMA_WEBHOOKS_LEAVE_DELAY_SECONDS", "0"),
    ];
    gema(&[&variables, more].concat()).await
}

fn occupied(channel: &str) -> Value {
    json!({ "name": "channel_occupied", "channel": channel })
}

#[tokio::test]
async fn events_go_through_the_queue_in_order_and_leave_it() {
    for name in ["order.fifo", "order"] {
        let queue = Queue::create(name).await;
        let mut receiver = Receiver::start().await;
        let front = Front::start(Manner::Pass).await;
        let process = gema_on(&queue.url_at(&front), &receiver, &[("SOKETI_WEBHOOKS_BATCHING", "false")]).await;
        let mut client = connect(&process, "app-key").await;
        let channels: Vec<String> = (0..20).map(|number| format!("news-{number}")).collect();
        for channel in &channels {
            client.subscribe(channel).await;
        }
        let mut events = Vec::new();
        for _ in &channels {
            let request = receiver.next().await;
            assert_eq!(
                request.header("X-Pusher-Signature").unwrap(),
                Signer::new(b"app-secret").sign(&[request.body.as_bytes()])
            );
            events.extend(request.events());
        }
        let expected: Vec<Value> = channels.iter().map(|channel| occupied(channel)).collect();
        if name.ends_with(".fifo") {
            assert_eq!(events, expected);
        } else {
            events.sort_by_key(|event| event["channel"].as_str().unwrap()[5..].parse::<u32>().unwrap());
            assert_eq!(events, expected);
        }
        queue.becomes_empty().await;
        assert_eq!((front.count("SendMessage"), receiver.rest().len()), (20, 0));
        // As Soketi writes it.
        let sent = front.requests().into_iter().find(|request| request.body.contains("MessageBody")).unwrap();
        let sent: Value = serde_json::from_str(&sent.body).unwrap();
        let message: Value = serde_json::from_str(sent["MessageBody"].as_str().unwrap()).unwrap();
        assert_eq!((&message["appId"], &message["appKey"]), (&json!("app-id"), &json!("app-key")));
        assert_eq!(message["payload"]["events"], json!([occupied("news-0")]));
        let group = sent["MessageGroupId"].as_str().unwrap_or_default();
        assert_eq!(group.starts_with("app-id_"), name.ends_with(".fifo"), "{sent}");
        assert_eq!(sent["MessageDeduplicationId"].is_string(), name.ends_with(".fifo"), "{sent}");
    }
}

#[tokio::test]
async fn what_a_node_that_dies_has_put_in_is_delivered_by_another() {
    let queue = Queue::create("crash.fifo").await;
    let mut receiver = Receiver::start().await;
    let front = Front::start(Manner::Pass).await;
    // It never takes anything out.
    front.behave_for("ReceiveMessage", Manner::Hang);
    let mut leaving = gema_on(&queue.url_at(&front), &receiver, &[]).await;
    connect(&leaving, "app-key").await.subscribe("news").await;
    until("the event is in the queue", async || queue.sizes().await.0 >= 1).await;
    leaving.child.kill().await.unwrap();
    assert_eq!(receiver.rest().len(), 0);
    let front = Front::start(Manner::Pass).await;
    let _staying = gema_on(&queue.url_at(&front), &receiver, &[]).await;
    assert_eq!(receiver.next_event().await, occupied("news"));
    queue.becomes_empty().await;
}

#[tokio::test]
async fn a_request_stays_in_the_queue_until_it_is_accepted_or_given_up() {
    let queue = Queue::create("again.fifo").await;
    let mut receiver = Receiver::start_with(&[Answer::Status(500), Answer::Close], Answer::Status(200)).await;
    let front = Front::start(Manner::Pass).await;
    let process = gema_on(&queue.url_at(&front), &receiver, &[]).await;
    connect(&process, "app-key").await.subscribe("news").await;
    let first = receiver.next().await;
    for _ in 0..2 {
        assert_eq!(receiver.next().await.body, first.body);
    }
    queue.becomes_empty().await;
    let figures = Figures::of(process.metrics_address).await;
    assert_eq!(figures.sum("gema_webhook_retries_total", ""), 2.0);
    process.log.line("a webhook is not delivered, and is tried again").await;

    let queue = Queue::create("late.fifo").await;
    let receiver = Receiver::start_with(&[], Answer::Status(500)).await;
    let late = [("GEMA_WEBHOOKS_RETRY_SECONDS", "2")];
    let process = gema_on(&queue.url_at(&front), &receiver, &late).await;
    connect(&process, "app-key").await.subscribe("news").await;
    let line = process.log.line("a webhook is given up, and its events are lost").await;
    assert_eq!(line["app"], "app-id");
    process.terminate();
    process.stopped().await;
}

#[tokio::test]
async fn messages_of_soketi_are_delivered_and_strange_ones_stay_with_a_warning() {
    let queue = Queue::create("foreign.fifo").await;
    let mut receiver = Receiver::start().await;
    let soketis = json!({ "appKey": "app-key", "appId": "app-id", "originalPusherSignature": "x", "payload":
        { "time_ms": 1, "events": [occupied("old"), { "name": "cache_miss", "channel": "cache-x" }] } });
    queue.put("{\"Type\":\"hush\"}", "other").await;
    queue.put(&soketis.to_string(), "app-id_channel_occupied_webhooks").await;
    let front = Front::start(Manner::Pass).await;
    let process = gema_on(&queue.url_at(&front), &receiver, &[]).await;
    // Without the event that nobody wants.
    assert_eq!(receiver.next().await.events(), [occupied("old")]);
    let line =
        process.log.find(|line| line["message"].as_str().unwrap().starts_with("a message in SQS is no webhook")).await;
    assert!(line["level"] == "WARN" && !line.to_string().contains("hush"), "{line}");
    until("only the strange one is left", async || {
        let (waiting, hidden) = queue.sizes().await;
        waiting + hidden == 1
    })
    .await;
}

#[tokio::test]
async fn a_queue_that_is_missing_or_of_another_kind_is_named_with_what_to_do() {
    let standard = Queue::create("plain").await;
    let receiver = Receiver::start().await;
    for (url, remedy) in [
        (format!("{}/123456789012/nowhere", moto::url()), "correct sqs.queue_url, sqs.region or sqs.endpoint"),
        (format!("{}.fifo", standard.url), "correct sqs.queue_url"),
    ] {
        let process = gema_on(&url, &receiver, &[]).await;
        let line = process.log.find(|line| line["message"].as_str().unwrap().starts_with("SQS does not give")).await;
        assert!(line["error"].as_str().unwrap().contains(remedy) && line["queue"] == url, "{line}");
        connect(&process, "app-key").await.subscribe("news").await;
        let line = process.log.find(|line| line["message"].as_str().unwrap().starts_with("SQS does not take")).await;
        assert!(line["error"].as_str().unwrap().contains(remedy), "{line}");
    }
}

#[tokio::test]
async fn while_sqs_takes_nothing_events_wait_and_go_out_when_it_is_back() {
    let manners = [
        Manner::Error(400, "RequestThrottled", "slow down"),
        Manner::Error(403, "AccessDenied", "no"),
        Manner::Hang,
        Manner::Body("[".into()),
    ];
    join_all(manners.into_iter().enumerate().map(async |(number, manner)| {
        let queue = Queue::create(&format!("away-{number}.fifo")).await;
        let mut receiver = Receiver::start().await;
        let front = Front::start(Manner::Pass).await;
        front.behave_for("SendMessage", manner.clone());
        let process = gema_on(&queue.url_at(&front), &receiver, &[]).await;
        let mut client = connect(&process, "app-key").await;
        client.subscribe("news").await;
        process.log.find(|line| line["message"].as_str().unwrap().starts_with("SQS does not take webhooks")).await;
        assert_eq!(receiver.rest().len(), 0, "{manner:?}");
        front.behave(Manner::Pass);
        assert_eq!(receiver.next_event().await, occupied("news"), "{manner:?}");
        process.log.line("SQS takes webhooks again").await;
        // A node that stops meanwhile sends by itself.
        front.behave_for("SendMessage", Manner::Error(400, "RequestThrottled", "slow down"));
        let before = front.count("SendMessage");
        client.subscribe("last").await;
        until("SQS is asked in vain", async || front.count("SendMessage") > before).await;
        process.terminate();
        assert_eq!(receiver.next_event().await, occupied("last"), "{manner:?}");
        process.stopped().await;
    }))
    .await;
}

#[tokio::test]
async fn an_event_too_long_for_sqs_is_sent_without_it() {
    let queue = Queue::create("long.fifo").await;
    let mut receiver = Receiver::start().await;
    let front = Front::start(Manner::Pass).await;
    let process = gema_on(&queue.url_at(&front), &receiver, &[("SOKETI_EVENT_MAX_SIZE_IN_KB", "500")]).await;
    let mut client = connect(&process, "app-key").await;
    let auth = channel_auth(&client.socket_id, "private-x", None);
    client.send_json(json!({ "event": "pusher:subscribe", "data": { "channel": "private-x", "auth": auth } })).await;
    client.next_event("pusher_internal:subscription_succeeded").await;
    assert_eq!(receiver.next_event().await, occupied("private-x"));
    let before = front.count("SendMessage");
    let data = "x".repeat(300_000);
    client.send_json(json!({ "event": "client-x", "channel": "private-x", "data": data })).await;
    let event = receiver.next_event().await;
    assert_eq!((&event["name"], &event["event"]), (&json!("client_event"), &json!("client-x")));
    assert_eq!(front.count("SendMessage"), before);
}
