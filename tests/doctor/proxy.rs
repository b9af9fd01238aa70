//! nginx with each setting that breaks it.

use crate::Case;
use crate::gema;
use crate::nginx;
use crate::nginx::UPGRADE;
use crate::nginx::location;

#[tokio::test]
async fn dropped_headers_are_named() {
    let server = gema(&[]).await;
    // nginx' defaults, with which gema serves a WebSocket all the same.
    let nginx = nginx::start(&location("/", server.address, "")).await;
    let diagnosis = Case::empty().laravel(nginx.address, "").diagnose().await;
    diagnosis.names(&[("upgrade", "proxy_no_upgrade")]).says("Upgrade and Connection do not come through nginx");
    diagnosis.passes(&["connect", "signature"]);
    // Without its key it is no handshake any more.
    let nginx = nginx::start(&location("/", server.address, "proxy_set_header Sec-WebSocket-Key \"\";")).await;
    let diagnosis = Case::empty().laravel(nginx.address, "").diagnose().await;
    diagnosis.names(&[("upgrade", "proxy_no_upgrade")]).says("A WebSocket upgrade is expected here");
    diagnosis.passes(&["signature"]);
}

#[tokio::test]
async fn paths_that_are_not_forwarded_are_named() {
    let server = gema(&[]).await;
    // Laravel's own answers: a page, or "not found".
    let laravel = "location / { default_type text/html; return 404 '<!DOCTYPE html><title>Not Found</title>'; }";
    let nginx = nginx::start(&format!("{}{laravel}", location("/apps/", server.address, UPGRADE))).await;
    let diagnosis = Case::empty().laravel(nginx.address, "").diagnose().await;
    diagnosis.names(&[("upgrade", "proxy_no_app")]).says("HTTP 404, text/html, from nginx").passes(&["signature"]);
    let laravel = laravel.replace("404", "200");
    let nginx = nginx::start(&format!("{}{laravel}", location("/app/", server.address, UPGRADE))).await;
    let diagnosis = Case::empty().laravel(nginx.address, "").diagnose().await;
    diagnosis.names(&[("apps", "proxy_no_apps")]).says("HTTP 200, text/html, from nginx").passes(&["connect"]);
}

#[tokio::test]
async fn a_rewritten_path_is_named() {
    let server = gema(&[]).await;
    let address = server.address;
    // With a slash behind the port nginx takes the location's name away.
    let lines = format!(
        "location /app/ {{ proxy_pass http://{address}/; {UPGRADE} }}\nlocation /apps/ {{ proxy_pass http://{address}/; }}"
    );
    let nginx = nginx::start(&lines).await;
    let diagnosis = Case::empty().laravel(nginx.address, "").diagnose().await;
    diagnosis.names(&[("connect", "proxy_rewrites_path"), ("apps", "proxy_rewrites_path")]);
    // Paths that gema knows, but not the one that was signed.
    let lines = format!(
        "{}location /apps/ {{ rewrite ^(.*)/channels$ $1/channels/ break; proxy_pass http://{address}; }}",
        location("/app/", address, UPGRADE)
    );
    let nginx = nginx::start(&lines).await;
    let diagnosis = Case::empty().laravel(nginx.address, "").diagnose().await;
    assert!(
        [&[("apps", "proxy_rewrites_path")][..], &[("signature", "proxy_rewrites_path")]]
            .contains(&&*diagnosis.failed()),
        "{}",
        diagnosis.text
    );
    let lines = format!(
        "{}location /apps/ {{ rewrite ^/apps/[^/]+/(.*)$ /apps/app-id/$1 break; proxy_pass http://{address}; }}",
        location("/app/", address, UPGRADE)
    );
    let nginx = nginx::start(&lines).await;
    let diagnosis = Case::empty().laravel(nginx.address, "PUSHER_APP_ID=shop").diagnose().await;
    diagnosis.names(&[("signature", "proxy_rewrites_path")]);
    diagnosis.says("/apps/shop/channels arrives as /apps/app-id/channels").passes(&["connect", "apps"]);
    let lines = format!(
        "{}location /apps/ {{ rewrite ^(.*)$ $1?from=nginx break; proxy_pass http://{address}; }}",
        location("/app/", address, UPGRADE)
    );
    let nginx = nginx::start(&lines).await;
    let diagnosis = Case::empty().laravel(nginx.address, "").diagnose().await;
    diagnosis.names(&[("signature", "proxy_rewrites_path")]).says("the query arrives with other parameters");
}

#[tokio::test]
async fn a_missing_prefix_is_named() {
    let server = gema(&[("GEMA_SERVER_PATH_PREFIX", "/live")]).await;
    let nginx = nginx::start(&location("/", server.address, UPGRADE)).await;
    let diagnosis = Case::empty().laravel(nginx.address, "").diagnose().await;
    diagnosis.names(&[("connect", "path_prefix"), ("apps", "path_prefix")]).says("every path begins with /live");
    let case = Case::empty().env("BROADCAST_CONNECTION=pusher\nPUSHER_APP_ID=app-id\nPUSHER_APP_KEY=app-key\nPUSHER_APP_SECRET=app-secret\nPUSHER_HOST=");
    let diagnosis = case.url(&format!("{}/live", nginx::url(&nginx))).diagnose().await;
    diagnosis.names(&[("env", "env_no_host")]).passes(&["connect", "signature"]);
}

#[tokio::test]
async fn a_proxy_whose_server_is_away_is_named() {
    let away = ([127, 0, 0, 1], support::redis_server::free_port()).into();
    let nginx = nginx::start(&location("/", away, UPGRADE)).await;
    let diagnosis = Case::empty().laravel(nginx.address, "").diagnose().await;
    diagnosis.names(&[("upgrade", "proxy_bad_gateway"), ("apps", "proxy_bad_gateway")]).says("HTTP 502");
}

#[tokio::test]
async fn a_redirect_is_named_with_its_address() {
    let nginx = nginx::start("location / { return 301 https://$host$request_uri; }").await;
    let diagnosis = Case::empty().laravel(nginx.address, "").diagnose().await;
    diagnosis
        .names(&[("upgrade", "proxy_redirects"), ("apps", "proxy_redirects")])
        .says("HTTP 301 to https://127.0.0.1/app");
}

#[tokio::test]
async fn an_answer_of_somebody_else_is_named() {
    let nginx = nginx::start("location / { return 418 tea; }").await;
    let diagnosis = Case::empty().laravel(nginx.address, "").diagnose().await;
    diagnosis.names(&[("upgrade", "unexpected_answer"), ("apps", "unexpected_answer")]).says("HTTP 418");
}

#[tokio::test]
async fn an_idle_timeout_below_the_clients_ping_is_named() {
    let server = gema(&[("GEMA_CONNECTIONS_ACTIVITY_TIMEOUT_SECONDS", "20")]).await;
    let nginx = nginx::start(&location("/", server.address, &format!("{UPGRADE} proxy_read_timeout 5s;"))).await;
    let diagnosis = Case::empty().laravel(nginx.address, "").words(&["--patient"]).diagnose().await;
    diagnosis.names(&[("idle", "proxy_idle_timeout")]).says("clients ping after 20 s").passes(&["connect"]);
}

#[tokio::test]
async fn a_proxy_that_is_not_trusted_is_named_where_tls_is_required() {
    let server = gema(&[("GEMA_LIMITS_REQUIRE_TLS", "true")]).await;
    let nginx = nginx::start(&location("/", server.address, UPGRADE)).await;
    let diagnosis = Case::empty().laravel(nginx.address, "").diagnose().await;
    diagnosis.names(&[("connect", "tls_required")]).passes(&["upgrade", "signature"]);
}
