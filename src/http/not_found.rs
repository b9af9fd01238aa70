//! Requests for unknown paths and methods.
//! The router falls back to it.

use axum::Extension;
use axum::body::Body;
use axum::extract::OriginalUri;
use axum::extract::State;
use axum::http::Request;
use axum::http::StatusCode;
use axum::response::Response;

use crate::http::Api;
use crate::http::Client;
use crate::http::response;
use crate::refusal::Cause;
use crate::refusal::LazyText;
use crate::refusal::Subject;

/// No such path.
pub(super) async fn no_such_path(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Response {
    respond(&api, &client, &request)
}

/// Like `no_such_path`, but for a handler that finds the path wrong.
pub(super) fn respond(api: &Api, client: &Client, request: &Request<Body>) -> Response {
    count_refusal(api, client, request, Cause::PathNotFound);
    response::text(StatusCode::NOT_FOUND, "Not found")
}

/// The operator's page, which is switched off.
pub(super) async fn no_dashboard(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Response {
    count_refusal(&api, &client, &request, Cause::PathNotFound);
    let text = "There is no operator's page here. Set dashboard.token to 16 characters or more to have one.";
    response::text(StatusCode::NOT_FOUND, text)
}

/// A known path with another method.
pub(super) async fn no_such_method(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> StatusCode {
    count_refusal(&api, &client, &request, Cause::MethodNotAllowed);
    StatusCode::METHOD_NOT_ALLOWED
}

/// Counts and logs such a request.
pub(super) fn count_refusal<B>(api: &Api, client: &Client, request: &Request<B>, cause: Cause) {
    let uri = request.extensions().get::<OriginalUri>().map_or(request.uri(), |uri| &uri.0);
    // Without the query, which may hold a signature.
    let detail = LazyText(|| {
        let path: String = uri.path().chars().take(100).collect();
        format!("{} {path}", request.method())
    });
    let subject = Subject { detail: Some(&detail), ..client.subject(api, request.headers()) };
    api.0.node.refusals().add(cause, &subject);
}
