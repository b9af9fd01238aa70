//! Apps in DynamoDB.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeDefinition;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodb::types::BillingMode;
use aws_sdk_dynamodb::types::GlobalSecondaryIndex;
use aws_sdk_dynamodb::types::KeySchemaElement;
use aws_sdk_dynamodb::types::KeyType;
use aws_sdk_dynamodb::types::Projection;
use aws_sdk_dynamodb::types::ProjectionType;
use aws_sdk_dynamodb::types::ScalarAttributeType;
use gema::protocol::signature::Signer;
use serde_json::json;
use support::barrier::Figures;
use support::http::Api;
use support::process::Process;
use support::receiver::Receiver;

use crate::connect;
use crate::gema;
use crate::moto;
use crate::refused;
use crate::until;

pub struct Table {
    pub client: Client,
    pub name: String,
}

impl Table {
    /// As Soketi's documents make it, without an app.
    pub async fn create(name: &str) -> Self {
        Self::create_with(name, true).await
    }

    pub async fn create_with(name: &str, has_index: bool) -> Self {
        let client = Client::new(&moto::settings().await);
        let key =
            |name: &str| KeySchemaElement::builder().attribute_name(name).key_type(KeyType::Hash).build().unwrap();
        let attribute = |name: &str| {
            let attribute = AttributeDefinition::builder().attribute_name(name);
            attribute.attribute_type(ScalarAttributeType::S).build().unwrap()
        };
        let mut table = client.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
        table = table.key_schema(key("AppId")).attribute_definitions(attribute("AppId"));
        if has_index {
            let all = Projection::builder().projection_type(ProjectionType::All).build();
            let index = GlobalSecondaryIndex::builder().index_name("AppKeyIndex").key_schema(key("AppKey"));
            table = table.attribute_definitions(attribute("AppKey"));
            table = table.global_secondary_indexes(index.projection(all).build().unwrap());
        }
        table.send().await.unwrap();
        Self { client, name: name.to_owned() }
    }

    /// Writes the app with this id, its key and its secret, and these attributes.
    pub async fn put(&self, id: &str, more: &[(&str, AttributeValue)]) {
        let mut put = self.client.put_item().table_name(&self.name);
        for (name, value) in [("AppId", id), ("AppKey", &format!("{id}-key")), ("AppSecret", &format!("{id}-secret"))] {
            put = put.item(name, text(value));
        }
        for (name, value) in more {
            put = put.item(*name, value.clone());
        }
        put.send().await.unwrap();
    }

    pub async fn delete(&self, id: &str) {
        self.client.delete_item().table_name(&self.name).key("AppId", text(id)).send().await.unwrap();
    }
}

pub fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn number(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// The program with the apps of a table at an endpoint, under Soketi's names.
pub async fn gema_at(table: &str, endpoint: &str, more: &[(&str, &str)]) -> Process {
    let variables = [
        ("SOKETI_APP_MANAGER_DRIVER", "dynamodb"),
        ("SOKETI_APP_MANAGER_CACHE_TTL", "1"),
        ("SOKETI_APP_MANAGER_DYNAMODB_TABLE", table),
        ("SOKETI_APP_MANAGER_DYNAMODB_REGION", "us-east-1"),
        ("SOKETI_APP_MANAGER_DYNAMODB_ENDPOINT", endpoint),
    ];
    gema(&[&variables, more].concat()).await
}

fn api(process: &Process, id: &str) -> Api {
    Api::new(process.address, id, &format!("{id}-key"), &format!("{id}-secret"))
}

async fn publish(process: &Process, id: &str) -> u16 {
    api(process, id).post("/events", &json!({ "name": "e", "channel": "news", "data": "1" }).to_string()).await.status
}

#[tokio::test]
async fn apps_of_a_table_are_served_and_changes_reach_living_connections() {
    let table = Table::create("served").await;
    for id in ["a", "b"] {
        table.put(id, &[]).await;
    }
    let process = gema_at("served", &moto::url(), &[]).await;
    let (mut of_a, mut of_b) = (connect(&process, "a-key").await, connect(&process, "b-key").await);
    of_a.subscribe("news").await;
    assert_eq!(publish(&process, "a").await, 200);
    of_a.next_event("e").await;
    assert_eq!((refused(&process, "x-key").await, publish(&process, "x").await), (4001, 404));
    table.delete("b").await;
    assert_eq!(of_b.next_close().await.0, 4003);
    table.put("a", &[("Enabled", AttributeValue::Bool(false))]).await;
    assert_eq!(of_a.next_close().await.0, 4003);
    assert_eq!((refused(&process, "a-key").await, publish(&process, "a").await), (4003, 403));
    table.put("c", &[]).await;
    until("the new app is found", async || publish(&process, "c").await == 200).await;
    connect(&process, "c-key").await;
    process.terminate();
    process.stopped().await;
}

#[tokio::test]
async fn attributes_count_under_soketis_names_and_types() {
    let table = Table::create("attributes").await;
    let mut receiver = Receiver::start().await;
    let webhooks = json!([{ "url": format!("http://{}/", receiver.address), "event_types": ["channel_occupied"] }]);
    let webhook = AttributeValue::M(std::collections::HashMap::from([
        ("url".to_owned(), text(&format!("http://{}/", receiver.address))),
        ("event_types".to_owned(), AttributeValue::L(vec![text("channel_occupied")])),
    ]));
    let binary = |text: &str| AttributeValue::B(Blob::new(text));
    table
        .put(
            "a",
            &[
                ("MaxConnections", number(2)),
                ("EnableClientMessages", binary("true")),
                ("MaxBackendEventsPerSecond", text("-1")),
                ("MaxEventPayloadInKb", AttributeValue::N("0.5".to_owned())),
                ("Webhooks", text(&webhooks.to_string())),
            ],
        )
        .await;
    table.put("b", &[("EnableClientMessages", binary("false")), ("Webhooks", AttributeValue::L(vec![webhook]))]).await;
    let process = gema_at("attributes", &moto::url(), &[]).await;
    for (id, is_allowed) in [("a", true), ("b", false)] {
        let key = format!("{id}-key");
        let (mut one, mut two) = (connect(&process, &key).await, connect(&process, &key).await);
        assert_eq!(receiver.rest().len(), 0);
        for client in [&mut one, &mut two] {
            let signer = Signer::new(format!("{id}-secret").as_bytes());
            let auth = format!("{key}:{}", signer.sign(&[format!("{}:private-x", client.socket_id).as_bytes()]));
            client
                .send_json(json!({ "event": "pusher:subscribe", "data": { "channel": "private-x", "auth": auth } }))
                .await;
            client.next_event("pusher_internal:subscription_succeeded").await;
        }
        assert_eq!(receiver.next_event().await, json!({ "name": "channel_occupied", "channel": "private-x" }));
        one.send_json(json!({ "event": "client-x", "channel": "private-x", "data": "1" })).await;
        match is_allowed {
            true => drop(two.next_event("client-x").await),
            false => assert_eq!(one.next().await["event"], "pusher:error"),
        }
        assert_eq!(if is_allowed { refused(&process, &key).await } else { 4004 }, 4004);
    }
    let large = json!({ "name": "e", "channel": "news", "data": "x".repeat(600) }).to_string();
    assert_eq!(api(&process, "a").post("/events", &large).await.status, 413);
    assert_eq!(api(&process, "b").post("/events", &large).await.status, 200);
}

#[tokio::test]
async fn a_row_that_makes_no_app_is_named_with_its_attribute() {
    let table = Table::create("unusable").await;
    table.put("a", &[("AppSecret", text(""))]).await;
    let process = gema_at("unusable", &moto::url(), &[]).await;
    assert_eq!(refused(&process, "a-key").await, 4100);
    let line = process.log.find(|line| line["message"].as_str().unwrap().contains("unusable.secret is missing")).await;
    assert_eq!(line["level"], "WARN");
    let errors = Figures::of(process.metrics_address).await.sum("gema_app_store_errors_total", "unusable");
    assert!(errors >= 1.0, "{errors}");
}
