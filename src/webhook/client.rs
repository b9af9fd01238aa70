//! The HTTP client of webhooks: keeps connections, checks certificates, follows no redirects.
//! `delivery` sends each request with it; `endpoint` signs the request.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use reqwest::Response;
use reqwest::StatusCode;
use reqwest::Url;
use reqwest::header::ACCEPT;
use reqwest::header::CONTENT_TYPE;
use reqwest::header::HeaderMap;
use reqwest::header::HeaderName;
use reqwest::header::HeaderValue;
use reqwest::header::USER_AGENT;
use rustls::ClientConfig;
use rustls::RootCertStore;

use crate::config;
use crate::protocol::webhook::KEY_HEADER;
use crate::protocol::webhook::SIGNATURE_HEADER;
use crate::webhook::endpoint::Request;
use crate::webhook::endpoint::Target;
use crate::webhook::guard;
use crate::webhook::guard::PublicOnly;

/// How long a connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(30);
/// A longer response closes the connection, …
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// … and so does a slower one.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Sends requests.
#[derive(Debug)]
pub(super) struct WebhookClient {
    client: Client,
    public_only: bool,
}

/// Why an endpoint did not accept a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("{}", causes(.0))]
    Failed(reqwest::Error),
    #[error(transparent)]
    Private(#[from] guard::PrivateAddress),
    /// The request can never be sent.
    #[error("its URL or a header cannot be sent")]
    Malformed,
}

impl SendError {
    /// The status of the answer, if there was one.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(status.as_u16()),
            _ => None,
        }
    }

    fn of(error: reqwest::Error) -> Self {
        if error.is_builder() { Self::Malformed } else { Self::Failed(error.without_url()) }
    }
}

impl WebhookClient {
    pub(super) fn new(options: &config::Webhooks) -> Self {
        let public_only = !options.allow_private_addresses;
        let mut client = Client::builder()
            .http1_only()
            // Some receivers look headers up by their capitalized names.
            .http1_title_case_headers()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(options.timeout_seconds.duration())
            .pool_idle_timeout(IDLE)
            .tls_backend_preconfigured(tls());
        if public_only {
            client = client.dns_resolver(Arc::new(PublicOnly));
        }
        let client = client.build().expect("a client that is told everything needs nothing that may be missing");
        Self { client, public_only }
    }

    /// Sends a request once, and returns the status. Every 2xx is a success, whatever the body.
    pub(super) async fn send(&self, request: &Request, target: &Target) -> Result<u16, SendError> {
        let url = Url::parse(target.webhook.url.expose_text()).map_err(|_| SendError::Malformed)?;
        if self.public_only && address(&url).is_some_and(|address| !guard::is_public(address)) {
            return Err(guard::PrivateAddress.into());
        }
        let headers = headers(target, &target.signature(&request.body)).ok_or(SendError::Malformed)?;
        let sent = self.client.post(url).headers(headers).body(request.body.clone()).send().await;
        let answer = sent.map_err(SendError::of)?;
        let status = answer.status();
        read_out(answer).await;
        if status.is_success() { Ok(status.as_u16()) } else { Err(SendError::Status(status)) }
    }
}

/// Reads a short response to its end, so that the connection can be used again.
async fn read_out(mut answer: Response) {
    let to_the_end = async {
        let mut bytes = 0;
        while let Ok(Some(part)) = answer.chunk().await {
            bytes += part.len();
            if bytes > ANSWER_BYTES_MAX {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(ANSWER_TIME, to_the_end).await;
}

/// The address of a URL whose host is an address.
fn address(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

fn headers(target: &Target, signature: &str) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("gema/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in target.webhook.further_headers() {
        let mut value = HeaderValue::from_bytes(value.expose()).ok()?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.as_bytes()).ok()?, value);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(HeaderName::from_bytes(KEY_HEADER.as_bytes()).ok()?, HeaderValue::from_str(&target.key.key).ok()?);
    let name = HeaderName::from_bytes(SIGNATURE_HEADER.as_bytes()).ok()?;
    headers.insert(name, HeaderValue::from_str(signature).ok()?);
    Some(headers)
}

fn tls() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        tracing::warn!(
            "no certificate authorities are found, so no https webhook is sent; install them, or name a file in SSL_CERT_FILE"
        );
    }
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks what is safe")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// The error with its causes, the outermost first.
fn causes(error: &reqwest::Error) -> String {
    let chain = std::iter::successors(Some(error as &dyn Error), |error| (*error).source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
