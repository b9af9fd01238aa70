//! NATS, where the nodes meet in it.

use support::certificates::file;
use support::nats_server::TestNats;
use support::redis_server::free_port;

use crate::Case;
use crate::Diagnosis;
use crate::configuration;
use crate::gema;

async fn with(port: u16, lines: &str) -> Diagnosis {
    let server = gema(&[]).await;
    let more =
        format!("[cluster]\ndriver = \"nats\"\nname = \"doctors\"\n[nats]\nservers = [\"127.0.0.1:{port}\"]\n{lines}");
    Case::empty().config(&configuration(server.address, &more)).diagnose().await
}

#[tokio::test]
async fn a_nats_that_does_all_passes_and_one_that_is_away_is_named() {
    let nats = TestNats::start_with("of-nats").await;
    with(nats.port(), "token = \"of-nats\"").await.names(&[]).passes(&["nats"]).says("does what gema needs");
    let diagnosis = with(nats.port(), "token = \"hush\"").await;
    diagnosis.names(&[("nats", "nats_password")]).says("check nats.user and nats.password, or nats.token");
    assert!(!diagnosis.text.contains("hush"));
    with(free_port(), "").await.names(&[("nats", "nats_unreachable")]).says("127.0.0.1:");
}

#[tokio::test]
async fn a_nats_without_jetstream_is_named() {
    let nats = TestNats::start_like("", &["--jetstream=false"]).await;
    with(nats.port(), "").await.names(&[("nats", "nats_no_jetstream")]).says("start nats-server with -js");
}

#[tokio::test]
async fn missing_rights_are_named() {
    const USER: &str = "user = \"gema\"\npassword = \"of-nats\"";
    for rights in [r#"publish: "doctors.>", subscribe: "shop.>""#, r#"publish: "shop.>", subscribe: "doctors.>""#] {
        let users =
            format!("authorization {{ users: [{{ user: gema, password: of-nats, permissions: {{ {rights} }} }}] }}");
        let nats = TestNats::start_like("", &["-c", &file(&users)]).await;
        with(nats.port(), USER).await.names(&[("nats", "nats_rights")]);
    }
}

#[tokio::test]
async fn a_nats_whose_certificate_nobody_vouches_for_is_named() {
    let of = |name| format!("{}/tests/redis_kinds/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let nats = TestNats::start_like("", &["--tls", "--tlscert", &of("redis.pem"), "--tlskey", &of("redis.key")]).await;
    with(nats.port(), "tls = true").await.names(&[("nats", "nats_failed")]).says("SSL_CERT_FILE may name a file");
    with(nats.port(), "tls = true\ntls_verify = false").await.names(&[]).passes(&["nats"]);
}
