//! Answers: JSON for what went well, one plain sentence for what did not.

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
use crate::store::StoreError;

/// A limit per second, and what is left of it: as Soketi calls them, which sends them with what it accepts only.
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");

/// Why a request is refused: the status, and what the client did wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Unauthorized(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NotFound(String),
    #[error("The request did not come within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("{0}")]
    TooLarge(String),
    #[error("{message}")]
    TooMany { message: String, too_fast: TooFast },
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    NotImplemented(String),
}

impl Refusal {
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::BadRequest(message.into())
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Timeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooMany { too_fast, .. } => too_fast.retry_after,
            Self::Unavailable(_) => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

impl From<ClaimError> for Refusal {
    fn from(error: ClaimError) -> Self {
        Self::Unauthorized(error.to_string())
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error.cause() {
            BodyError::DataTooLarge(_) => Self::TooLarge(error.to_string()),
            _ => Self::BadRequest(error.to_string()),
        }
    }
}

impl From<InfoError> for Refusal {
    fn from(error: InfoError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

impl From<PolicyError> for Refusal {
    fn from(error: PolicyError) -> Self {
        Self::Forbidden(error.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(_: StoreError) -> Self {
        // What the database says is the operator's business, and in the log.
        Self::Unavailable("The app cannot be looked up now, try again".to_owned())
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        let message = error.to_string();
        match error {
            PublishError::Overloaded | PublishError::CutOff => Self::Unavailable(message),
            PublishError::TooFast(too_fast) => Self::TooMany { message, too_fast },
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        // One line, whatever the client sent that is repeated in it.
        let sentence = self.to_string().replace(char::is_control, " ");
        let mut response = text(self.status(), sentence);
        if let Some(wait) = self.retry_after() {
            // Whole seconds, rounded up: coming back too early would be refused again.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if let Self::TooMany { too_fast, .. } = self {
            tell(too_fast.allowance, response.headers_mut());
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
    let bytes = serde_json::to_vec(value).expect("answers always become JSON");
    let length = bytes.len();
    (respond(StatusCode::OK, "application/json", bytes.into()), length)
}

/// `{}` with status 200.
pub(super) fn empty_object() -> (Response, usize) {
    (respond(StatusCode::OK, "application/json", Bytes::from_static(b"{}").into()), 2)
}

/// The answer, with what is left of the limit that it was within, if there is one. A second later all of it is there
/// again, which Soketi says in a fraction of a second.
pub(super) fn within(allowance: Option<Allowance>, answer: (Response, usize)) -> (Response, usize) {
    let (mut response, length) = answer;
    if let Some(allowance) = allowance {
        tell(allowance, response.headers_mut());
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    (response, length)
}

fn tell(allowance: Allowance, headers: &mut HeaderMap) {
    headers.insert(LIMIT, allowance.limit.into());
    headers.insert(REMAINING, allowance.remaining.into());
}

/// An answer of any kind.
pub(super) fn respond(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// For requests without TLS to a port that speaks nothing else.
pub fn tls_is_needed() -> Response {
    text(StatusCode::BAD_REQUEST, "This port speaks TLS: use https:// and wss://")
}

/// For paths that lead nowhere.
pub(super) async fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "Not found")
}

/// For paths outside the configured prefix.
pub(super) fn not_below(prefix: &str) -> Response {
    text(StatusCode::NOT_FOUND, format!("Not found: every path begins with {prefix} here (server.path_prefix)"))
}

/// The answer to a request that leaves open where the next one begins.
pub(super) fn last(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
