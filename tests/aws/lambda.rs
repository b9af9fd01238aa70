//! Webhooks to functions of AWS Lambda.

use futures_util::future::join_all;
use gema::protocol::signature::Signer;
use serde_json::Value;
use serde_json::json;
use support::barrier::Figures;
use support::process::Process;

use crate::connect;
use crate::front::Front;
use crate::front::Manner;
use crate::front::Request;
use crate::gema;
use crate::moto;
use crate::until;

/// The program with Soketi's default app and this webhook, which comes on when a channel has its first subscriber.
async fn gema_with(mut webhook: Value, more: &[(&str, &str)]) -> Process {
    webhook["event_types"] = json!(["channel_occupied"]);
    let webhooks = json!([webhook]).to_string();
    gema(&[&[("SOKETI_DEFAULT_APP_WEBHOOKS", webhooks.as_str())], more].concat()).await
}

fn function(front: &Front, more: &Value) -> Value {
    let mut lambda = json!({ "client_options": { "endpoint": front.url() } });
    lambda.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "lambda_function": "hooks", "lambda": lambda, "headers": { "X-Mine": "1", "accept": "text/plain" } })
}

async fn occupy(process: &Process, channel: &str) {
    connect(process, "app-key").await.subscribe(channel).await;
}

async fn invocations(front: &Front, count: usize) -> Vec<Request> {
    until("the function is invoked", async || front.requests().len() >= count).await;
    front.requests()
}

#[tokio::test]
async fn a_function_gets_the_body_and_the_headers_of_a_webhook() {
    for (is_asynchronous, kind) in [(false, "RequestResponse"), (true, "Event")] {
        let front = Front::start(Manner::Body("null".into())).await;
        let lambda = json!({ "async": is_asynchronous, "region": "ap-southeast-3" });
        let process = gema_with(function(&front, &lambda), &[]).await;
        occupy(&process, "news").await;
        let request = invocations(&front, 1).await.remove(0);
        assert!(request.head.starts_with("POST /2015-03-31/functions/hooks/invocations HTTP/1.1"), "{request:?}");
        assert_eq!(request.header("x-amz-invocation-type"), Some(kind));
        let authorization = request.header("authorization").unwrap();
        assert!(authorization.contains("Credential=test/") && authorization.contains("/ap-southeast-3/lambda/"));
        let event: Value = serde_json::from_str(&request.body).unwrap();
        assert_eq!(event["payload"]["events"], json!([{ "name": "channel_occupied", "channel": "news" }]));
        // The signature is of the payload as it is written.
        let body = request.body.strip_prefix("{\"payload\":").unwrap().split(",\"headers\":").next().unwrap();
        let headers = &event["headers"];
        assert_eq!(headers["X-Pusher-Signature"], Signer::new(b"app-secret").sign(&[body.as_bytes()]));
        assert_eq!((&headers["X-Pusher-Key"], &headers["X-Mine"]), (&json!("app-key"), &json!("1")));
        assert_eq!((&headers["accept"], &headers["Accept"]), (&json!("text/plain"), &Value::Null));
        until("it is counted", async || {
            Figures::of(process.metrics_address).await.sum("gema_webhook_requests_total", "delivered") >= 1.0
        })
        .await;
    }
}

#[tokio::test]
async fn a_function_that_fails_or_is_throttled_gets_the_same_event_again() {
    let manners = [
        Manner::Function("Unhandled"),
        Manner::Error(429, "TooManyRequestsException", "Rate Exceeded."),
        Manner::Error(500, "ServiceException", "odd"),
        Manner::Close,
        Manner::Hang,
    ];
    join_all(manners.into_iter().map(async |manner| {
        let front = Front::start(manner.clone()).await;
        let more = [("GEMA_WEBHOOKS_TIMEOUT_SECONDS", "1")];
        let process = gema_with(function(&front, &json!({})), &more).await;
        occupy(&process, "news").await;
        let line = process.log.line("a webhook is not delivered, and is tried again").await;
        assert_eq!(line["host"], "hooks", "{manner:?}");
        front.behave(Manner::Body("null".into()));
        let before = invocations(&front, 1).await.len();
        let requests = invocations(&front, before + 1).await;
        assert_eq!(requests[0].body, requests.last().unwrap().body, "{manner:?}");
    }))
    .await;
}

#[tokio::test]
async fn what_can_never_be_invoked_is_given_up_with_its_reason() {
    let front = Front::start(Manner::Error(413, "RequestTooLargeException", "too large")).await;
    let process = gema_with(function(&front, &json!({})), &[]).await;
    occupy(&process, "news").await;
    let line = process.log.line("a webhook is given up, and its events are lost").await;
    assert!(line["error"].as_str().unwrap().contains("RequestTooLargeException"), "{line}");
    assert_eq!(front.requests().len(), 1);
}

#[tokio::test]
async fn a_function_that_is_missing_is_named_with_what_to_do() {
    let webhook = json!({ "lambda_function": "nowhere", "lambda": { "client_options": { "endpoint": moto::url() } } });
    let process = gema_with(webhook, &[]).await;
    occupy(&process, "news").await;
    let line = process.log.line("a webhook is not delivered, and is tried again").await;
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("ResourceNotFound") && error.contains("correct lambda_function or lambda.region"), "{line}");
}

#[tokio::test]
async fn an_app_may_bring_credentials_but_no_private_address_where_those_are_refused() {
    let front = Front::start(Manner::Body("null".into())).await;
    let own = json!({ "client_options": { "endpoint": front.url(),
        "credentials": { "accessKeyId": "own", "secretAccessKey": "hush" } } });
    let process = gema_with(function(&front, &own), &[]).await;
    occupy(&process, "news").await;
    let request = invocations(&front, 1).await.remove(0);
    assert!(request.header("authorization").unwrap().contains("Credential=own/"), "{request:?}");
    let private = [("GEMA_WEBHOOKS_ALLOW_PRIVATE_ADDRESSES", "false")];
    let process = gema_with(function(&front, &own), &private).await;
    occupy(&process, "news").await;
    let line = process.log.line("a webhook is not delivered, and is tried again").await;
    assert!(line["error"].as_str().unwrap().contains("webhooks.allow_private_addresses"), "{line}");
    assert_eq!(front.requests().len(), 1);
    assert!(!format!("{:?}", process.log.lines()).contains("hush"));
}
