//! AWS: apps in DynamoDB, and webhooks by way of SQS and to functions of Lambda. The program runs against moto, which
//! the tests start, and against a server that hangs, throttles and answers nonsense.

#![expect(clippy::disallowed_methods, reason = "tests spawn tasks of their own")]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod dynamodb;
mod faults;
mod front;
mod lambda;
mod moto;
mod sqs;

use std::time::Duration;
use std::time::Instant;

use support::client::Client;
use support::client::PATIENCE;
use support::process::Process;

/// Credentials as an operator gives them. Nobody asks the machine for its role.
const CREDENTIALS: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "hush"), ("AWS_EC2_METADATA_DISABLED", "true")];

/// The program with these credentials and variables.
async fn gema(variables: &[(&str, &str)]) -> Process {
    Process::start(&[&CREDENTIALS[..], &[("GEMA_METRICS_ENABLED", "true")], variables].concat()).await
}

async fn open(process: &Process, key: &str) -> Client {
    Client::open(process.address, &format!("/app/{key}?protocol=7"), &[]).await
}

async fn connect(process: &Process, key: &str) -> Client {
    let mut client = open(process, key).await;
    client.established().await;
    client
}

/// The close code for somebody with this key.
async fn refused(process: &Process, key: &str) -> u16 {
    let mut client = open(process, key).await;
    assert_eq!(client.next().await["event"], "pusher:error");
    client.next_close().await.0
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
