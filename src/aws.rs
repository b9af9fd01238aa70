//! AWS: how long its services may take, which TLS they speak, how much they may answer, and what their errors mean.
//! `store` and `webhook` make their clients with it. Only in builds with the feature `aws`.

mod answer;

use std::error::Error;
use std::fmt;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::Region;
use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::error::SdkError;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

pub(crate) use answer::BoundedAnswer;

/// The pause before the second attempt at a request, at most.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest time for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Characters of an error that AWS answers.
const MESSAGE_CHARS_MAX: usize = 300;

/// Where a service is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) region: &'a str,
    /// Empty for AWS' own.
    pub(crate) endpoint: &'a str,
}

/// The settings of a client that makes so many attempts at a request; one that is throttled is repeated after a pause.
/// Credentials come from AWS' own variables, profiles and roles, at the first request.
pub(crate) async fn settings(place: Place<'_>, attempt: Duration, attempts: u32) -> SdkConfig {
    let tls = Provider::Rustls(CryptoMode::Ring);
    let times =
        TimeoutConfig::builder().connect_timeout(attempt.min(CONNECT_MAX)).operation_attempt_timeout(attempt).build();
    let settings = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(Region::new(place.region.to_owned()))
        .http_client(aws_smithy_http_client::Builder::new().tls_provider(tls).build_https())
        .timeout_config(times)
        .retry_config(RetryConfig::standard().with_max_attempts(attempts).with_initial_backoff(PAUSE));
    match place.endpoint {
        "" => settings.load().await,
        endpoint => settings.endpoint_url(endpoint).load().await,
    }
}

/// Why a request has no result, with a remedy if the error is known.
#[derive(Debug)]
pub(crate) struct AwsError {
    /// AWS' name of the error, if AWS has answered with one.
    pub(crate) code: Option<String>,
    text: String,
    remedy: Option<&'static str>,
}

/// An error of AWS by its code, and what to do about it.
pub(crate) type Remedy = (&'static str, &'static str);

/// Errors of every service, by the beginnings of their codes. The first that fits counts.
const REMEDIES: &[Remedy] = &[
    ("AccessDenied", "allow it in the policy of these credentials"),
    ("UnrecognizedClient", CREDENTIALS),
    ("InvalidClientTokenId", CREDENTIALS),
    ("InvalidSignature", CREDENTIALS),
    ("SignatureDoesNotMatch", CREDENTIALS),
    ("IncompleteSignature", CREDENTIALS),
    ("InvalidAccessKeyId", CREDENTIALS),
    ("ExpiredToken", "renew the credentials, with AWS_SESSION_TOKEN"),
    ("Throttling", THROTTLED),
    ("RequestThrottled", THROTTLED),
    ("RequestLimitExceeded", THROTTLED),
    ("TooManyRequests", THROTTLED),
    ("ProvisionedThroughputExceeded", THROTTLED),
];

const CREDENTIALS: &str =
    "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the region, and the clock of this machine";
const NO_CREDENTIALS: &str =
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine or the container a role";
const THROTTLED: &str = "it is tried again more slowly; raise the quota if this lasts";

impl AwsError {
    /// The error with its remedy, which is one of `own` or of those for every service.
    pub(crate) fn new<E, R>(error: &SdkError<E, R>, own: &[Remedy]) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
        R: fmt::Debug + 'static,
    {
        let code = error.code().map(str::to_owned);
        let text = match (error, &code) {
            (SdkError::ServiceError(_), Some(code)) => {
                format!("{code}: {}", error.message().unwrap_or("without a reason"))
            }
            (SdkError::TimeoutError(_), _) => "no answer in time".to_owned(),
            _ => causes(error),
        };
        let known = |(begins, _): &&Remedy| code.as_ref().is_some_and(|code| code.starts_with(begins));
        let remedy = own.iter().chain(REMEDIES).find(known).map(|(_, remedy)| *remedy);
        let remedy = remedy.or_else(|| (code.is_none() && text.contains("redential")).then_some(NO_CREDENTIALS));
        Self { code, text: text.chars().take(MESSAGE_CHARS_MAX).collect(), remedy }
    }

    /// Gives the error a remedy, in place of its own.
    pub(crate) fn with_remedy(self, remedy: &'static str) -> Self {
        Self { remedy: Some(remedy), ..self }
    }

    /// Whether AWS' sentence has this in it.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.text.contains(text)
    }
}

impl fmt::Display for AwsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        self.remedy.map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

/// The innermost causes of an error, without those that say no more than that there was one.
fn causes(error: &(dyn Error + 'static)) -> String {
    let chain: Vec<String> =
        std::iter::successors(Some(error), |error| (*error).source()).map(ToString::to_string).collect();
    let own = chain.len().min(chain.len().saturating_sub(2).max(1));
    chain[own.min(chain.len() - 1)..].join(": ")
}
