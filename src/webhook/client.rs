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
use reqwest::header::HeaderMap;
use reqwest::header::HeaderName;
use reqwest::header::HeaderValue;
use rustls::ClientConfig;
use rustls::RootCertStore;

use crate::config;
use crate::protocol::webhook::KEY_HEADER;
use crate::protocol::webhook::SIGNATURE_HEADER;
use crate::webhook::endpoint::Request;
use crate::webhook::endpoint::Target;
use crate::webhook::guard;
use crate::webhook::guard::PublicOnly;
#[cfg(feature = "aws")]
use crate::webhook::lambda::Functions;
#[cfg(feature = "aws")]
use crate::webhook::lambda::InvokeError;

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
    #[cfg(feature = "aws")]
    functions: Functions,
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
    #[cfg(feature = "aws")]
    #[error(transparent)]
    Function(#[from] InvokeError),
}

impl SendError {
    /// The status of the answer, if there was one.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(status.as_u16()),
            _ => None,
        }
    }

    /// Whether the same request fails again, however often it is sent.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Malformed => true,
            #[cfg(feature = "aws")]
            Self::Function(error) => error.is_final(),
            _ => false,
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
        Self {
            client,
            public_only,
            #[cfg(feature = "aws")]
            functions: Functions::new(options.timeout_seconds.duration(), public_only),
        }
    }

    /// Sends a request once, and returns the status. Every 2xx is a success, whatever the body.
    pub(super) async fn send(&self, request: &Request, target: &Target) -> Result<u16, SendError> {
        let headers = headers(target, &target.signature(&request.body));
        #[cfg(feature = "aws")]
        if let Some(function) = &target.webhook.lambda {
            return Ok(self.functions.invoke(function, &headers, request).await?);
        }
        let url = Url::parse(target.webhook.url.expose_text()).map_err(|_| SendError::Malformed)?;
        if self.public_only && address(&url).is_some_and(|address| !guard::is_public(address)) {
            return Err(guard::PrivateAddress.into());
        }
        let headers = header_map(&headers).ok_or(SendError::Malformed)?;
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

/// The headers of a request, each once. The operator's replace `Accept` and `User-Agent`.
fn headers(target: &Target, signature: &str) -> Vec<(String, String)> {
    let of_operator = target.webhook.further_headers().map(|(name, value)| (name, value.expose_text()));
    let of_operator: Vec<_> = of_operator.collect();
    let defaults = [("Accept", "application/json"), ("User-Agent", concat!("gema/", env!("CARGO_PKG_VERSION")))];
    let is_free = |name: &str| !of_operator.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
    let fixed =
        [("Content-Type", "application/json"), (KEY_HEADER, target.key.key.as_str()), (SIGNATURE_HEADER, signature)];
    let all = defaults.into_iter().filter(|(name, _)| is_free(name)).chain(of_operator.iter().copied()).chain(fixed);
    all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn header_map(headers: &[(String, String)]) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        map.insert(HeaderName::from_bytes(name.as_bytes()).ok()?, value);
    }
    Some(map)
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
