//! AWS on this machine: moto, one for all tests. Each has tables and queues of its own.

use std::io::BufRead;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;

use aws_config::BehaviorVersion;
use aws_config::Region;
use aws_config::SdkConfig;
use aws_sdk_dynamodb::config::Credentials;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

static MOTO: OnceLock<(Child, SocketAddr)> = OnceLock::new();

/// Its address.
pub fn address() -> SocketAddr {
    MOTO.get_or_init(start).1
}

/// Its URL.
pub fn url() -> String {
    format!("http://{}", address())
}

/// It ends with the test process, which holds its standard input.
fn start() -> (Child, SocketAddr) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws");
    let own = folder.join(".venv/bin/python");
    let (python, packages) = match own.exists() {
        true => (own, None),
        false => ("python3".into(), Some(folder.join(".venv/packages"))),
    };
    let mut command = Command::new(python);
    command.envs(packages.map(|packages| ("PYTHONPATH", packages))).arg(folder.join("start.py"));
    // Without them moto would look for a role of this machine.
    command.envs([("AWS_ACCESS_KEY_ID", "moto"), ("AWS_SECRET_ACCESS_KEY", "moto")]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let port: u16 =
        port.trim().parse().expect("moto does not start; install it with tests/venv tests/aws requirements.txt");
    (child, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Settings of the tests' own clients.
pub async fn settings() -> SdkConfig {
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .endpoint_url(url())
        .credentials_provider(Credentials::for_tests())
        .http_client(
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https(),
        )
        .load()
        .await
}
