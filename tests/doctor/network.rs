//! From the name to the certificate.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::process::Command;

use gema::config::Tls;
use rcgen::CertificateParams;
use rcgen::KeyPair;
use support::certificates::Authority;
use support::certificates::file;
use support::process::Process;
use support::redis_server::free_port;
use tokio::net::TcpListener;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;

use crate::Case;
use crate::Diagnosis;
use crate::configuration;
use crate::gema;

#[tokio::test]
async fn a_name_without_an_address_is_named() {
    let diagnosis = Case::empty().url("https://nowhere.invalid").diagnose().await;
    diagnosis.names(&[("name", "name_not_resolved")]).says("nowhere.invalid");
}

#[tokio::test]
async fn a_closed_port_is_told_from_a_server_that_does_not_run() {
    let server = gema(&[]).await;
    let closed = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let case = || Case::empty().url(&format!("http://{closed}"));
    let diagnosis = case().config(&configuration(server.address, "")).diagnose().await;
    diagnosis.names(&[("port", "port_closed")]);
    diagnosis.says(&format!("{closed}; but a server answers on port {}", server.address.port()));
    let diagnosis = case().config(&configuration(closed, "")).diagnose().await;
    diagnosis.names(&[("port", "server_not_running")]).says(&format!("nothing listens on {closed}"));
}

/// A listener whose queue is full: the system answers nothing.
#[tokio::test]
async fn a_port_that_does_not_answer_is_named() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(tokio::spawn(TcpStream::connect(address)));
    }
    // Those that fit have been taken; the others try on.
    while waiting.iter().filter(|connecting| connecting.is_finished()).count() < 2 {
        tokio::task::yield_now().await;
    }
    let diagnosis = Case::empty().url(&format!("http://{address}")).diagnose().await;
    diagnosis.names(&[("port", "port_silent")]).says(&address.to_string());
}

#[tokio::test]
async fn tls_to_a_plain_port_is_named_and_the_rest_tested_without() {
    let server = gema(&[]).await;
    let case = Case::empty().url(&format!("https://{}", server.address)).config(&configuration(server.address, ""));
    case.diagnose().await.names(&[("tls", "tls_on_plain_port")]).passes(&["connect", "signature"]);
    let diagnosis = Case::empty().laravel(server.address, "PUSHER_SCHEME=https").diagnose().await;
    diagnosis.names(&[("tls", "env_other_scheme")]).passes(&["connect", "signature"]);
    diagnosis.says(&format!("PUSHER_SCHEME is https, but port {} speaks http", server.address.port()));
}

#[tokio::test]
async fn plain_http_to_a_tls_port_is_named_and_the_rest_tested_with_it() {
    let authority = Authority::self_signed();
    let server = secure(&authority.issue(), "127.0.0.1").await;
    let trusting = || Case::empty().variable("SSL_CERT_FILE", &file(&authority.pem));
    let case = trusting().url(&format!("http://{}", server.address)).config(&configuration(server.address, ""));
    case.diagnose().await.names(&[("tls", "plain_on_tls_port")]).passes(&["connect", "signature"]);
    let diagnosis = trusting().laravel(server.address, "").diagnose().await;
    diagnosis.names(&[("tls", "env_other_scheme")]).passes(&["connect", "signature"]);
    diagnosis.says(&format!("PUSHER_SCHEME is http, but port {} speaks https", server.address.port()));
}

#[tokio::test]
async fn a_port_that_speaks_neither_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    Case::empty().url(&format!("https://{address}")).diagnose().await.names(&[("tls", "tls_failed")]);
}

/// A server with this certificate.
async fn secure(tls: &Tls, host: &str) -> Process {
    gema(&[
        ("GEMA_SERVER_HOST", host),
        ("GEMA_TLS_CERT_PATH", &tls.cert_path),
        ("GEMA_TLS_KEY_PATH", &tls.key_path),
        ("GEMA_TLS_CA_PATH", &tls.ca_path),
    ])
    .await
}

/// The diagnosis of a server with this certificate, where one authority is trusted.
async fn of_certificate(tls: &Tls, host: &str, trusted: &Authority) -> Diagnosis {
    let server = secure(tls, host).await;
    let case = Case::empty().url(&format!("https://{}", server.address)).config(&configuration(server.address, ""));
    case.variable("SSL_CERT_FILE", &file(&trusted.pem)).diagnose().await
}

#[tokio::test]
async fn a_good_certificate_is_right() {
    let root = Authority::self_signed();
    of_certificate(&root.issue(), "127.0.0.1", &root).await.names(&[]).passes(&["tls", "connect", "signature"]);
    let between = root.intermediate();
    let tls = Tls { ca_path: file(&between.pem), ..between.issue() };
    of_certificate(&tls, "127.0.0.1", &root).await.names(&[]).passes(&["tls", "connect", "signature"]);
}

#[tokio::test]
async fn each_fault_of_a_certificate_is_named_and_hides_nothing() {
    let (root, namesake) = (Authority::self_signed(), Authority::self_signed());
    let stranger = Authority::self_signed_as("a stranger");
    let between = root.intermediate();
    let whole = Tls { ca_path: file(&between.pem), ..between.issue() };
    let here = "127.0.0.1";
    for (tls, host, trusted, cause, words) in [
        (root.issue_until(2001), here, &root, "certificate_expired", "it ended at 2001-01-01"),
        (root.issue_between(2090, 2091), here, &root, "certificate_not_yet_valid", "it begins at 2090-01-01"),
        (root.issue(), "127.0.0.2", &root, "certificate_name", "not for 127.0.0.2"),
        (between.issue(), here, &root, "certificate_chain", "CN=between"),
        (whole.clone(), here, &stranger, "certificate_untrusted", "CN=between"),
        (whole, here, &namesake, "certificate_untrusted", "an authority of the same name is trusted"),
        (self_signed(), here, &root, "certificate_self_signed", ""),
    ] {
        let diagnosis = of_certificate(&tls, host, trusted).await;
        diagnosis.names(&[("tls", cause)]).says(words).passes(&["upgrade", "connect", "apps"]);
        // A stranger could use it.
        diagnosis.says("nothing signed is sent to a server with a wrong certificate");
    }
}

fn self_signed() -> Tls {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Tls { cert_path: file(&certificate.pem()), key_path: file(&key.serialize_pem()), ..Tls::default() }
}

#[tokio::test]
async fn too_few_open_files_are_named() {
    let server = Process::start_with_files(1000).await;
    let diagnosis = Case::empty().config(&configuration(server.address, "")).diagnose().await;
    diagnosis.names(&[("files", "open_files")]).says("the running server may open 1000").passes(&["signature"]);
    let server = gema(&[]).await;
    let more = "[connections]\nconnections_max = 2000000000";
    let diagnosis = Case::empty().config(&configuration(server.address, more)).diagnose().await;
    diagnosis.names(&[("files", "open_files")]).says("connections.connections_max is 2000000000");
}

/// The help names the command and its options.
#[test]
fn the_help_explains_it() {
    let help = |words: &[&str]| {
        let output = Command::new(support::process::program()).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(help(&["--help"]).contains("doctor"), "{}", help(&["--help"]));
    for option in ["--url", "--env", "--config", "--origin", "--patient", "--json"] {
        assert!(help(&["doctor", "--help"]).contains(option), "{option}");
    }
}
