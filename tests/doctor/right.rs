//! Where everything is right, no step fails.

use support::redis_server::TestRedis;
use support::redis_server::cluster_name;

use crate::Case;
use crate::configuration;
use crate::gema;
use crate::nginx;
use crate::nginx::UPGRADE;
use crate::nginx::location;

#[tokio::test]
async fn with_laravels_file_alone_the_way_of_an_event_is_right() {
    let server = gema(&[]).await;
    let diagnosis = Case::empty().laravel(server.address, "APP_URL=https://shop.example").diagnose().await;
    diagnosis.names(&[]).passes(&[
        "env",
        "name",
        "port",
        "upgrade",
        "connect",
        "origin",
        "apps",
        "signature",
        "clock",
        "ready",
    ]);
    diagnosis.says("Everything that was tested is right.");
}

#[tokio::test]
async fn with_gemas_configuration_redis_and_the_limits_are_right_too() {
    let redis = TestRedis::start_with("of-redis").await;
    let (name, port) = (cluster_name(), redis.port().to_string());
    let server = gema(&[
        ("GEMA_CLUSTER_DRIVER", "redis"),
        ("GEMA_CLUSTER_NAME", &name),
        ("GEMA_REDIS_PORT", &port),
        ("GEMA_REDIS_PASSWORD", "of-redis"),
        ("GEMA_INGEST_PREFIXES", "shop_database_=app-id"),
    ])
    .await;
    let more = format!(
        "[cluster]\ndriver = \"redis\"\nname = \"{name}\"\n[redis]\nport = {port}\npassword = \"of-redis\"\n\
         [ingest]\nprefixes = [\"shop_database_=app-id\"]"
    );
    let env = format!("APP_NAME=Shop\nBROADCAST_CONNECTION=redis\nREDIS_HOST=127.0.0.1\nREDIS_PORT={port}");
    let case = Case::empty().config(&configuration(server.address, &more)).env(&env);
    let diagnosis = case.diagnose().await;
    diagnosis.names(&[]).passes(&["env", "config", "redis", "ingest", "files", "signature"]);
}

#[tokio::test]
async fn through_a_proxy_it_is_right_and_a_patient_test_waits_as_long_as_a_client() {
    let server = gema(&[("GEMA_CONNECTIONS_ACTIVITY_TIMEOUT_SECONDS", "1")]).await;
    let nginx = nginx::start(&location("/", server.address, UPGRADE)).await;
    let diagnosis = Case::empty().laravel(nginx.address, "").words(&["--patient"]).diagnose().await;
    diagnosis.names(&[]).passes(&["upgrade", "connect", "idle", "apps", "signature"]);
    diagnosis.says("a WebSocket opens through nginx");
    // The second handshake of the test is a refusal of gema's, and says so.
    let line = server.log.about("websocket_key").await;
    assert!(line["detail"].as_str().unwrap().starts_with("a test of gema doctor, no fault: "), "{line}");
}

#[tokio::test]
async fn pages_and_laravel_may_have_different_addresses() {
    let server = gema(&[]).await;
    let nginx = nginx::start(&location("/app/", server.address, UPGRADE)).await;
    let diagnosis = Case::empty().laravel(server.address, "").url(&nginx::url(&nginx)).diagnose().await;
    diagnosis.names(&[]).passes(&["upgrade", "connect", "apps", "signature"]);
    diagnosis.says(&format!("http://{} for pages\n", nginx.address));
    diagnosis.says(&format!("http://{} for Laravel\n", server.address));
}
