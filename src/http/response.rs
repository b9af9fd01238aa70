//! Responses: JSON for success, a plain sentence for a refusal.
//! Every handler builds its response here.

use std::time::Duration;

use axum::body::Body;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::http::HeaderName;
use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;
use serde::Serialize;

use crate::limiter::Allowance;
use crate::limiter::TooFast;
use crate::node::InfoError;
use crate::node::PublishError;
use crate::protocol::channel::NameError;
use crate::protocol::policy::PolicyError;
use crate::protocol::publish::BodyError;
use crate::protocol::request::ClaimError;
use crate::refusal::Cause;
use crate::store::StoreError;

/// A rate limit and the rest of it, named as by Soketi, which sends them with successes only.
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");

const EMPTY_OBJECT: &[u8] = b"{}";

/// The answer to a publisher whose events were accepted.
#[derive(Debug)]
pub(super) struct Published {
    /// The rate limit, if there is one.
    pub(super) allowance: Option<Allowance>,
    /// A JSON object.
    pub(super) body: Bytes,
}

/// A refused request: the cause, which has the status, and the message for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) cause: Cause,
    message: String,
    /// The channel that it concerns, if there is one.
    pub(super) channel: Option<String>,
    /// The text for the log, if it differs from the message.
    detail: Option<&'static str>,
    too_fast: Option<TooFast>,
}

impl Refusal {
    pub(super) fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), channel: None, detail: None, too_fast: None }
    }

    /// Adds the channel that it concerns.
    pub(super) fn about(self, channel: impl Into<String>) -> Self {
        Self { channel: Some(channel.into()), ..self }
    }

    /// Adds a different text for the log.
    fn with_detail(self, detail: &'static str) -> Self {
        Self { detail: Some(detail), ..self }
    }

    /// The text for the log.
    pub(super) fn detail(&self) -> String {
        self.detail.map_or_else(|| self.sentence(), str::to_owned)
    }

    /// Adds the rate limit that was exceeded.
    pub(super) fn too_fast(self, too_fast: TooFast) -> Self {
        Self { too_fast: Some(too_fast), ..self }
    }

    /// The message in one line, even if it quotes what the client sent.
    fn sentence(&self) -> String {
        self.message.replace(char::is_control, " ")
    }

    fn status(&self) -> StatusCode {
        let status = self.cause.code().and_then(|code| StatusCode::from_u16(code).ok());
        status.unwrap_or(StatusCode::BAD_REQUEST)
    }

    fn retry_after(&self) -> Option<Duration> {
        match self.too_fast {
            Some(too_fast) => too_fast.retry_after,
            None => {
                let is_temporary =
                    self.status() == StatusCode::SERVICE_UNAVAILABLE || self.cause == Cause::ApiIdempotencyRunning;
                is_temporary.then_some(Duration::from_secs(1))
            }
        }
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Self::new(Cause::ApiChannel, error.to_string())
    }
}

impl From<ClaimError> for Refusal {
    fn from(error: ClaimError) -> Self {
        let cause = match error {
            ClaimError::UnknownKey => Cause::ApiUnknownKey,
            ClaimError::BadSignature { .. } => Cause::ApiSignature,
            ClaimError::OtherBody => Cause::ApiOtherBody,
            ClaimError::Expired { .. } | ClaimError::Milliseconds { .. } => Cause::ApiExpired,
            _ => Cause::ApiUnsigned,
        };
        Self::new(cause, error.to_string())
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        let message = error.to_string();
        match error.cause() {
            BodyError::DataTooLarge(_) => Self::new(Cause::ApiEventTooLarge, message),
            BodyError::Channel(_) => Self::new(Cause::ApiChannel, message),
            // The parser quotes the body, which must not get into the log.
            BodyError::Invalid(_) => Self::new(Cause::ApiBody, message).with_detail("it is not valid"),
            _ => Self::new(Cause::ApiBody, message),
        }
    }
}

impl From<InfoError> for Refusal {
    fn from(error: InfoError) -> Self {
        Self::new(Cause::ApiInfo, error.to_string())
    }
}

impl From<PolicyError> for Refusal {
    fn from(error: PolicyError) -> Self {
        Self::new(Cause::ApiForbidden, error.to_string()).about(error.channel().to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(_: StoreError) -> Self {
        // The cause is for the operator; the store logs it.
        Self::new(Cause::ApiUnavailable, "The app cannot be looked up now, try again")
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        let message = error.to_string();
        match error {
            PublishError::Overloaded => Self::new(Cause::ApiOverload, message),
            PublishError::CutOff => Self::new(Cause::ApiCutOff, message),
            PublishError::TooFast(too_fast) => Self::new(Cause::ApiEventRate, message).too_fast(too_fast),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = text(self.status(), self.sentence());
        if let Some(wait) = self.retry_after() {
            // Rounded up to whole seconds: an earlier attempt would be refused again.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(too_fast) = self.too_fast {
            set_rate_headers(too_fast.allowance, response.headers_mut());
        }
        response
    }
}

/// A plain sentence.
pub(super) fn text(status: StatusCode, message: impl Into<Body>) -> Response {
    respond(status, "text/plain; charset=utf-8", message.into())
}

/// A JSON object with status 200, which is what every official library takes for success.
pub(super) fn json(value: &impl Serialize) -> (Response, usize) {
    object(encoded(value).into())
}

fn encoded(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("answers always become JSON")
}

/// `{}` with status 200.
pub(super) fn empty_object() -> (Response, usize) {
    object(Bytes::from_static(EMPTY_OBJECT))
}

fn object(json: Bytes) -> (Response, usize) {
    let length = json.len();
    (respond(StatusCode::OK, "application/json", json.into()), length)
}

impl Published {
    /// An answer without attributes.
    pub(super) fn plain(allowance: Option<Allowance>) -> Self {
        Self { allowance, body: Bytes::from_static(EMPTY_OBJECT) }
    }

    /// An answer with attributes.
    pub(super) fn with(allowance: Option<Allowance>, attributes: &impl Serialize) -> Self {
        Self { allowance, body: encoded(attributes).into() }
    }

    /// The response, with the length of its body.
    pub(super) fn into_answer(self) -> (Response, usize) {
        with_rate_limit(self.allowance, object(self.body))
    }
}

/// Adds the rate limit's headers to a response, if there is a limit. All of it is available again after a second, which
/// Soketi states as a fraction of a second.
pub(super) fn with_rate_limit(allowance: Option<Allowance>, answer: (Response, usize)) -> (Response, usize) {
    let (mut response, length) = answer;
    if let Some(allowance) = allowance {
        set_rate_headers(allowance, response.headers_mut());
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    (response, length)
}

fn set_rate_headers(allowance: Allowance, headers: &mut HeaderMap) {
    headers.insert(LIMIT, allowance.limit.into());
    headers.insert(REMAINING, allowance.remaining.into());
}

/// A response of any kind.
pub(super) fn respond(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The response to plain HTTP on a port with TLS.
pub fn tls_required() -> Response {
    text(StatusCode::BAD_REQUEST, "This port speaks TLS: use https:// and wss://")
}

/// The response to a path outside `server.path_prefix`.
pub(super) fn outside_prefix(prefix: &str) -> Response {
    text(StatusCode::NOT_FOUND, format!("Not found: every path begins with {prefix} here (server.path_prefix)"))
}

/// Closes the connection after this response, because the next request's begin is unclear.
pub(super) fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
