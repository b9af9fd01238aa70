//! The answers of the page's API: JSON, or an error with a sentence that says what to do.
//! Every handler of `dashboard` answers with these.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::body::Bytes;
use axum::extract::Query;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::Request;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;
use http_body_util::BodyExt;
use http_body_util::Limited;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::json;

use crate::dashboard::Dashboard;
use crate::http::Client;
use crate::watch::filter;

/// Bytes of a request to act: an event with a frame around it.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// How long a request's body may take.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Why a request is not carried out.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    message: String,
    retry_after: Option<u64>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(super) fn is_forbidden(&self) -> bool {
        self.status == StatusCode::FORBIDDEN
    }

    pub(super) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = respond(self.status, &json!({ "error": self.message }));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// A JSON answer with status 200.
pub(super) fn json(value: &impl Serialize) -> Response {
    respond(StatusCode::OK, value)
}

/// A JSON answer. Nobody may keep it: it is about people, and about this moment.
pub(super) fn respond(status: StatusCode, value: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(value).expect("answers always become JSON");
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Lets no browser show an answer in a frame of another page.
pub(super) async fn forbid_frames(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    let policy = headers.entry(header::CONTENT_SECURITY_POLICY);
    policy.or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    response
}

/// As many values as fit into so many bytes, in their order.
pub(super) fn within<T: Serialize>(values: impl IntoIterator<Item = T>, bytes_max: usize) -> Vec<Value> {
    let mut bytes = 0;
    let values = values.into_iter().map(|value| json!(value));
    let fits = |value: &Value| {
        // With the comma.
        bytes += value.to_string().len() + 1;
        bytes <= bytes_max
    };
    values.take_while(fits).collect()
}

/// Reads a body that is JSON.
pub(super) async fn read<T: DeserializeOwned>(request: Request<Body>) -> Result<T, Failure> {
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let body: Bytes = match tokio::time::timeout(BODY_TIME, body).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(_)) => {
            return Err(Failure::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("The body could not be read, or has more than {BODY_BYTES_MAX} bytes."),
            ));
        }
        Err(_) => return Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "The body did not come in time.")),
    };
    // The error may quote the body, which may hold a token.
    serde_json::from_slice(&body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Failure::bad(format!("The body is not the JSON that this path takes (line {line}, column {column})."))
    })
}

/// The parameters of a URL. Handlers read them after they have let the asker in.
pub(super) fn parameters<T: DeserializeOwned>(request: &Request<Body>) -> Result<T, Failure> {
    let parameters = Query::try_from_uri(request.uri());
    let Query(parameters) =
        parameters.map_err(|_| Failure::bad("A parameter is missing or wrong; docs/dashboard-api.md lists all."))?;
    Ok(parameters)
}

/// A filter or a pattern of a URL, which must not be longer than anybody writes.
pub(super) fn short_pattern(name: &str, text: String) -> Result<String, Failure> {
    match text.len() > filter::BYTES_MAX {
        true => Err(Failure::bad(format!("{name} may have {} bytes.", filter::BYTES_MAX))),
        false => Ok(text),
    }
}

/// No such path.
pub(super) async fn no_such_path(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Response {
    // Without a token nobody learns which paths there are.
    match dashboard.authorize(&client, &request) {
        Ok(_) => Failure::not_found("There is no such path; docs/dashboard-api.md lists all.").into_response(),
        Err(failure) => failure.into_response(),
    }
}

/// A known path with another method.
pub(super) async fn no_such_method() -> Response {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "This path takes another method: GET to look, POST to act.")
        .into_response()
}
