//! AWS that is away, slow, or not as the operator believes.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use support::process::Process;

use crate::connect;
use crate::dynamodb::Table;
use crate::dynamodb::gema_at;
use crate::front::Front;
use crate::front::Manner;
use crate::gema;
use crate::moto;
use crate::refused;
use crate::until;

/// The line about a store that does not answer.
async fn away(process: &Process) -> serde_json::Value {
    process.log.find(|line| line["message"].as_str().unwrap().starts_with("the app store does not answer")).await
}

#[tokio::test]
async fn a_table_that_is_missing_or_has_no_index_is_named_with_what_to_do() {
    let table = Table::create_with("without_index", false).await;
    table.put("a", &[]).await;
    for (table, reason, remedy) in [
        ("nowhere", "ResourceNotFoundException", "correct dynamodb.table, dynamodb.region or dynamodb.endpoint"),
        ("without_index", "AppKeyIndex", "add the global secondary index AppKeyIndex"),
    ] {
        let process = gema_at(table, &moto::url(), &[]).await;
        let line = away(&process).await;
        let found = line["reason"].as_str().unwrap();
        assert!(found.contains(reason) && found.contains(remedy), "{line}");
        assert_eq!(line["place"], format!("table {table} at {}", moto::url()));
        // Nobody concludes that an app is not there.
        assert_eq!(refused(&process, "a-key").await, 4100);
    }
}

#[tokio::test]
async fn what_aws_refuses_is_told_with_the_remedy() {
    for (manner, reason, remedy) in [
        (
            Manner::Error(400, "UnrecognizedClientException", "The security token is invalid"),
            "Unrecog",
            "AWS_ACCESS_KEY_ID",
        ),
        (Manner::Error(400, "ExpiredTokenException", "expired"), "ExpiredToken", "renew the credentials"),
        (Manner::Error(400, "AccessDeniedException", "not authorized"), "AccessDenied", "allow dynamodb:GetItem"),
        (
            Manner::Error(400, "InvalidSignatureException", "Credential should be scoped to a valid region"),
            "scoped to a valid region",
            "the region",
        ),
        (Manner::Error(400, "ThrottlingException", "Rate exceeded"), "Throttling", "raise the quota"),
        (Manner::Error(500, "Odd", LONG), "Odd", ""),
        (Manner::Close, "", ""),
        (Manner::Body("not json".into()), "", ""),
        (Manner::Body("{\"Item\":7}".into()), "", ""),
        (Manner::Body(deep()), "longer or deeper", ""),
        (Manner::Long(9 * 1024 * 1024), "longer or deeper", ""),
    ] {
        let front = Front::start(manner.clone()).await;
        let process = gema_at("apps", &front.url(), &[]).await;
        let line = away(&process).await;
        let found = line["reason"].as_str().unwrap();
        assert!(found.contains(reason) && found.contains(remedy) && !found.is_empty(), "{manner:?}: {line}");
        assert!(found.len() < 600 && !found.contains("hush"), "{line}");
        assert_eq!(refused(&process, "a-key").await, 4100, "{manner:?}");
        process.terminate();
        process.stopped().await;
    }
}

const LONG: &str = "long long long long long long long long long long long long long long long long long long long \
                    long long long long long long long long long long long long long long long long long long long \
                    long long long long long long long long long long long long long long long long long long long";

/// An item of the depth that a stack does not bear.
fn deep() -> Arc<str> {
    let depth = 200_000;
    format!("{{\"Item\":{{\"a\":{}{}}}}}", "{\"L\":[".repeat(depth), "]}".repeat(depth)).into()
}

#[tokio::test]
async fn without_credentials_the_log_says_how_to_give_some() {
    let endpoint = moto::url();
    let process = Process::start(&[
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("SOKETI_APP_MANAGER_DRIVER", "dynamodb"),
        ("SOKETI_APP_MANAGER_DYNAMODB_ENDPOINT", &endpoint),
    ])
    .await;
    let line = away(&process).await;
    assert!(line["reason"].as_str().unwrap().contains("set AWS_ACCESS_KEY_ID"), "{line}");
}

#[tokio::test]
async fn a_store_that_hangs_or_throttles_costs_known_apps_nothing_and_is_asked_again() {
    let table = Table::create("hanging").await;
    table.put("a", &[]).await;
    let front = Front::start(Manner::Pass).await;
    let process = gema_at("hanging", &front.url(), &[("GEMA_APP_STORE_TIMEOUT_SECONDS", "2")]).await;
    let mut client = connect(&process, "a-key").await;
    for manner in [Manner::Hang, Manner::Error(400, "ThrottlingException", "Rate exceeded"), Manner::Close] {
        front.behave(manner.clone());
        until("the outage is noticed", async || refused(&process, "x-key").await == 4100).await;
        let began = Instant::now();
        connect(&process, "a-key").await;
        assert!(began.elapsed() < Duration::from_secs(10), "{manner:?}");
        // Not a flood of attempts.
        let before = front.count("GetItem");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let attempts = front.count("GetItem") - before;
        assert!(attempts <= 10, "{manner:?}: {attempts}");
        front.behave(Manner::Pass);
        until("it is asked again", async || refused(&process, "x-key").await == 4001).await;
    }
    client.nothing_came().await;
}

#[tokio::test]
async fn gemas_own_names_work_as_well() {
    Table::create("own.names").await.put("a", &[]).await;
    let process = gema(&[
        ("GEMA_APP_STORE_DRIVER", "dynamodb"),
        ("GEMA_DYNAMODB_TABLE", "own.names"),
        ("GEMA_DYNAMODB_ENDPOINT", &moto::url()),
    ])
    .await;
    connect(&process, "a-key").await;
}
