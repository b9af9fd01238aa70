//! Causes for which Laravel is refused.

use std::fs;

use crate::Case;
use crate::configuration;
use crate::gema;

const OTHER_APP: &str = "[[apps]]\nid = \"staging\"\nkey = \"staging-key\"\nsecret = \"staging-secret\"\n";

#[tokio::test]
async fn a_wrong_secret_is_named() {
    let server = gema(&[]).await;
    let case = Case::empty().laravel(server.address, "PUSHER_APP_SECRET=old-secret");
    let diagnosis = case.diagnose().await;
    diagnosis.names(&[("signature", "wrong_secret")]).passes(&["connect", "apps", "clock"]);
}

#[tokio::test]
async fn the_secret_of_another_app_is_named_with_the_app() {
    let server = gema(&[]).await;
    let case = Case::empty().laravel(server.address, "PUSHER_APP_SECRET=staging-secret");
    let diagnosis = case.config(&(configuration(server.address, "") + OTHER_APP)).diagnose().await;
    diagnosis.names(&[("signature", "other_apps_secret")]).says("the secret of app staging, not of app app-id");
}

#[tokio::test]
async fn the_key_of_another_app_is_named_with_the_app() {
    let server = gema(&[("SOKETI_DEFAULT_APP_KEY", "old-key")]).await;
    let config = configuration(server.address, "") + OTHER_APP;
    let case = Case::empty().laravel(server.address, "PUSHER_APP_KEY=staging-key\nVITE_PUSHER_APP_KEY=old-key");
    let diagnosis = case.config(&config).diagnose().await;
    diagnosis.names(&[("signature", "unknown_key")]).passes(&["connect"]);
    diagnosis.says("app app-id has no key staging-key; it is a key of app staging");
}

#[tokio::test]
async fn a_configuration_that_the_server_does_not_run_with_is_named() {
    let server = gema(&[]).await;
    let config = configuration(server.address, "").replace("app-id", "new-app");
    Case::empty().config(&config).diagnose().await.names(&[("signature", "unknown_app")]).says("new-app");
}

#[tokio::test]
async fn an_app_that_asks_too_often_is_named() {
    let server = gema(&[("SOKETI_DEFAULT_APP_MAX_READ_REQ_PER_SEC", "0")]).await;
    Case::empty()
        .laravel(server.address, "")
        .diagnose()
        .await
        .names(&[("signature", "read_rate")])
        .passes(&["connect"]);
}

#[tokio::test]
async fn a_wrong_clock_is_named_and_hides_no_wrong_secret() {
    // Loaded directly: the program of that name would stay between the test and the server.
    let folders = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let library = folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|file| file.exists());
    let library = library.expect("tests/run installs it").display().to_string();
    for (offset, words) in [("+20m", "s ahead of"), ("-20m", "s behind"), ("+2m", "s ahead of")] {
        let variables = [("LD_PRELOAD", &*library), ("FAKETIME", offset), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        let server = gema(&variables).await;
        let diagnosis = Case::empty().laravel(server.address, "").diagnose().await;
        diagnosis.names(&[("clock", "clock_off")]).says(words).passes(&["apps", "signature"]);
        let diagnosis = Case::empty().laravel(server.address, "PUSHER_APP_SECRET=old-secret").diagnose().await;
        diagnosis.names(&[("signature", "wrong_secret"), ("clock", "clock_off")]);
    }
}
