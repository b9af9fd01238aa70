//! Laravel's `.env` and gema's configuration themselves.

use std::net::SocketAddr;
use std::time::Duration;

use support::redis_server::free_port;

use crate::Case;
use crate::configuration;
use crate::gema;

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let server = gema(&[]).await;
    let case = Case::empty().config(&configuration(server.address, "")).words(&["--env", "nowhere/.env"]);
    case.diagnose().await.names(&[("env", "env_unreadable")]).says("nowhere/.env: No such file").passes(&["signature"]);
}

#[tokio::test]
async fn missing_variables_are_named() {
    let server = gema(&[]).await;
    let (host, port) = (server.address.ip(), server.address.port());
    let env = format!(
        "BROADCAST_CONNECTION=pusher\nPUSHER_APP_ID=app-id\nPUSHER_APP_KEY=app-key\nPUSHER_APP_SECRET=\nPUSHER_HOST={host}\nPUSHER_PORT={port}\nPUSHER_SCHEME=http"
    );
    let diagnosis = Case::empty().env(&env).diagnose().await;
    diagnosis.names(&[("env", "env_incomplete")]).says("PUSHER_APP_SECRET is missing").passes(&["connect", "apps"]);
    let env = "BROADCAST_CONNECTION=pusher\nPUSHER_APP_ID=app-id\nPUSHER_APP_KEY=app-key\nPUSHER_APP_SECRET=app-secret\nPUSHER_HOST=";
    let case = Case::empty().env(env).config(&configuration(server.address, ""));
    case.diagnose().await.names(&[("env", "env_no_host")]).passes(&["signature"]);
}

#[tokio::test]
async fn a_cached_configuration_that_is_older_than_the_file_is_named() {
    let server = gema(&[]).await;
    let case = || Case::empty().laravel(server.address, "");
    let diagnosis = case().cache_of_laravel(Duration::from_secs(60)).diagnose().await;
    diagnosis.names(&[("env", "env_cached")]).says("bootstrap/cache/config.php").passes(&["connect", "signature"]);
    case().cache_of_laravel(Duration::ZERO).diagnose().await.names(&[]);
}

/// In a container Laravel has variables and no file.
#[tokio::test]
async fn without_a_file_the_variables_of_the_environment_count() {
    let server = gema(&[]).await;
    let (host, port) = (server.address.ip().to_string(), server.address.port().to_string());
    let mut case = Case::empty();
    for (name, value) in [
        ("BROADCAST_CONNECTION", "pusher"),
        ("PUSHER_APP_ID", "app-id"),
        ("PUSHER_APP_KEY", "app-key"),
        ("PUSHER_APP_SECRET", "app-secret"),
        ("PUSHER_HOST", &*host),
        ("PUSHER_PORT", &*port),
        ("PUSHER_SCHEME", "http"),
    ] {
        case = case.variable(name, value);
    }
    case.diagnose().await.names(&[]).passes(&["env", "connect", "signature"]);
    let diagnosis = Case::empty().config(&configuration(server.address, "")).diagnose().await;
    diagnosis.names(&[]).says("no .env of Laravel is here; --env names one").passes(&["signature"]);
}

/// gema understands PUSHER_APP_ID and the like, too: they alone are no Laravel.
#[tokio::test]
async fn gemas_own_variables_are_no_laravel() {
    let app = [("PUSHER_APP_ID", "shop"), ("PUSHER_APP_KEY", "shop-key"), ("PUSHER_APP_SECRET", "shop-secret")];
    let server = gema(&app).await;
    let mut case = Case::empty().url(&format!("http://{}", server.address));
    for (name, value) in app {
        case = case.variable(name, value);
    }
    let diagnosis = case.diagnose().await;
    diagnosis.names(&[]).says("app shop: id, key and secret are right").passes(&["config", "connect", "signature"]);
}

#[tokio::test]
async fn a_broadcaster_that_does_not_reach_gema_is_named() {
    let server = gema(&[]).await;
    let broadcaster = async |value: &str| {
        let (host, port) = (server.address.ip(), server.address.port());
        let env = format!(
            "{value}\nPUSHER_APP_ID=app-id\nPUSHER_APP_KEY=app-key\nPUSHER_APP_SECRET=app-secret\nPUSHER_HOST={host}\nPUSHER_PORT={port}\nPUSHER_SCHEME=http"
        );
        Case::empty().env(&env).config(&configuration(server.address, "")).diagnose().await
    };
    let found = broadcaster("BROADCAST_CONNECTION=log").await;
    found.names(&[("env", "broadcast_log")]).says("BROADCAST_CONNECTION=log").passes(&["signature"]);
    broadcaster("BROADCAST_DRIVER=null").await.names(&[("env", "broadcast_null")]);
    broadcaster("").await.names(&[("env", "broadcast_null")]).says("BROADCAST_CONNECTION is not set");
    broadcaster("BROADCAST_CONNECTION=ably").await.names(&[("env", "broadcast_other")]);
    broadcaster("BROADCAST_CONNECTION=redis").await.names(&[("env", "broadcast_redis_without_ingest")]);
}

#[tokio::test]
async fn another_port_than_the_servers_is_named() {
    let server = gema(&[]).await;
    let wrong = (server.address.ip(), free_port()).into();
    let diagnosis = Case::empty().laravel(wrong, "").config(&configuration(server.address, "")).diagnose().await;
    diagnosis.names(&[("port", "env_other_port")]);
    diagnosis.says(&format!("a server answers on port {}", server.address.port())).passes(&["config", "files"]);
}

#[tokio::test]
async fn another_app_than_the_servers_is_named() {
    let server = gema(&[]).await;
    let case =
        Case::empty().laravel(server.address, "PUSHER_APP_ID=old-app").config(&configuration(server.address, ""));
    let diagnosis = case.diagnose().await;
    diagnosis.names(&[("signature", "env_other_app")]).says("old-app; gema's configuration has app-id");
    diagnosis.passes(&["connect", "apps"]);
}

#[tokio::test]
async fn a_fault_of_the_configuration_hides_no_other_step() {
    let server = gema(&[]).await;
    let config = configuration(server.address, "backlog = 0");
    let diagnosis = Case::empty().laravel(server.address, "").config(&config).diagnose().await;
    diagnosis.names(&[("config", "configuration_faults")]).says("server.backlog").passes(&["connect", "signature"]);
}

/// The `.env` of Reverb's installer, for a server at this address; with `PUSHER_*` of another service left over.
fn reverb(address: SocketAddr, more: &str) -> Case {
    let (host, port) = (address.ip(), address.port());
    Case::empty().env(&format!(
        "BROADCAST_CONNECTION=reverb\nPUSHER_APP_KEY=old\nREVERB_APP_ID=app-id\nREVERB_APP_KEY=app-key\n\
         REVERB_APP_SECRET=app-secret\nREVERB_HOST={host}\nREVERB_PORT={port}\nREVERB_SCHEME=http\n\
         VITE_REVERB_APP_KEY=\"${{REVERB_APP_KEY}}\"\nVITE_REVERB_HOST=\"${{REVERB_HOST}}\"\n\
         VITE_REVERB_PORT=\"${{REVERB_PORT}}\"\nVITE_REVERB_SCHEME=\"${{REVERB_SCHEME}}\"\n{more}\n"
    ))
}

#[tokio::test]
async fn reverbs_names_are_tested_as_those_of_pusher_are() {
    let server = gema(&[]).await;
    let right = reverb(server.address, "").diagnose().await;
    right.names(&[]).says("BROADCAST_CONNECTION=reverb, app app-id").passes(&["env", "connect", "signature"]);
    let wrong = reverb(server.address, "REVERB_APP_SECRET=other-secret").diagnose().await;
    wrong.names(&[("signature", "wrong_secret")]).says("set REVERB_APP_SECRET to the secret of the app");
    let wrong = reverb(server.address, "VITE_REVERB_APP_KEY=old").diagnose().await;
    wrong.names(&[("connect", "unknown_key")]).says("set REVERB_APP_KEY, and VITE_REVERB_APP_KEY");
    let wrong = reverb(server.address, "REVERB_SCHEME=https").diagnose().await;
    wrong.names(&[("tls", "env_other_scheme")]).says("REVERB_SCHEME is https");
    let case = reverb(server.address, "REVERB_HOST=").config(&configuration(server.address, ""));
    case.diagnose().await.names(&[("env", "env_no_host")]).says("has no REVERB_HOST");
    let missing = reverb(server.address, "REVERB_APP_SECRET=").diagnose().await;
    missing.names(&[("env", "env_incomplete")]).says("REVERB_APP_SECRET is missing");
    let silent = reverb(server.address, "BROADCAST_CONNECTION=log\nPUSHER_APP_KEY=").diagnose().await;
    silent.names(&[("env", "broadcast_log")]).says("set BROADCAST_CONNECTION=reverb").passes(&["signature"]);
}

/// Where pages go through a proxy and Laravel does not.
#[tokio::test]
async fn laravels_internal_address_of_reverb_is_where_it_publishes() {
    let [server, other] = [gema(&[]).await, gema(&[("SOKETI_DEFAULT_APP_SECRET", "other-secret")]).await];
    let internal = format!(
        "REVERB_INTERNAL_HOST={}\nREVERB_INTERNAL_PORT={}\nREVERB_INTERNAL_SCHEME=http",
        other.address.ip(),
        other.address.port()
    );
    let diagnosis = reverb(server.address, &internal).diagnose().await;
    diagnosis.names(&[("signature", "wrong_secret")]).passes(&["connect"]);
}

#[tokio::test]
async fn a_path_of_reverb_is_part_of_the_address() {
    let server = gema(&[("SOKETI_PATH_PREFIX", "/ws")]).await;
    reverb(server.address, "REVERB_SERVER_PATH=ws").diagnose().await.names(&[]).passes(&["connect", "signature"]);
    reverb(server.address, "").diagnose().await.names(&[("connect", "path_prefix"), ("apps", "path_prefix")]);
}
