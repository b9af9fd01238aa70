//! Asking for channels and users, and throwing users out (Pusher HTTP API).

use axum::body::Body;
use axum::extract::Path;
use axum::extract::State;
use axum::http::HeaderName;
use axum::http::Request;
use axum::response::IntoResponse;
use axum::response::Response;
use serde_json::json;

use crate::http::Api;
use crate::http::answer;
use crate::http::answer::Refusal;
use crate::http::auth::Signed;
use crate::limiter::Allowance;
use crate::protocol::channel::ChannelName;
use crate::protocol::request;

/// Tells how many connections have been closed; the body is Pusher's, which has no room for it.
const CONNECTIONS_CLOSED: HeaderName = HeaderName::from_static("x-connections-closed");

/// `GET /apps/{app_id}/channels`.
pub(super) async fn list(State(api): State<Api>, Path(app_id): Path<String>, request: Request<Body>) -> Response {
    api.signed(request, &app_id, async |signed| {
        let allowance = admit(signed).await?;
        let prefix = signed.parameter("filter_by_prefix").unwrap_or_default();
        let channels = signed.app.channel_list(prefix, signed.info()).await?;
        Ok(answer::within(allowance, answer::json(&json!({ "channels": channels }))))
    })
    .await
}

/// `GET /apps/{app_id}/channels/{channel}`.
pub(super) async fn one(
    State(api): State<Api>,
    Path((app_id, channel)): Path<(String, String)>,
    request: Request<Body>,
) -> Response {
    api.signed(request, &app_id, async |signed| {
        let allowance = admit(signed).await?;
        let facts = signed.app.channel_facts(&name(signed, &channel)?, signed.info()).await?;
        Ok(answer::within(allowance, answer::json(&facts)))
    })
    .await
}

/// `GET /apps/{app_id}/channels/{channel}/users`.
pub(super) async fn users(
    State(api): State<Api>,
    Path((app_id, channel)): Path<(String, String)>,
    request: Request<Body>,
) -> Response {
    api.signed(request, &app_id, async |signed| {
        let allowance = admit(signed).await?;
        let users = signed.app.channel_users(&name(signed, &channel)?).await?;
        let users: Vec<_> = users.iter().map(|id| json!({ "id": id })).collect();
        Ok(answer::within(allowance, answer::json(&json!({ "users": users }))))
    })
    .await
}

/// `POST /apps/{app_id}/users/{user_id}/terminate_connections`.
pub(super) async fn terminate(
    State(api): State<Api>,
    Path((app_id, user_id)): Path<(String, String)>,
    request: Request<Body>,
) -> Response {
    api.signed(request, &app_id, async |signed| terminated(signed, &user_id).await).await
}

/// The same as Python's library asks for it: without the app's id, which its key stands for.
pub(super) async fn terminate_by_key(
    State(api): State<Api>,
    Path(user_id): Path<String>,
    request: Request<Body>,
) -> Response {
    let Some(key) = request.uri().query().and_then(request::auth_key) else {
        return Refusal::Unauthorized("Missing parameter: auth_key".to_owned()).into_response();
    };
    match api.0.node.find_by_key(&key).await {
        Ok(Some(app)) => api.signed_for(app, request, async |signed| terminated(signed, &user_id).await).await,
        Ok(None) => api.refused_without_app(Refusal::Unauthorized("Unknown auth_key".to_owned())),
        Err(error) => api.refused_without_app(error.into()),
    }
}

async fn terminated(signed: &Signed, user_id: &str) -> Result<(Response, usize), Refusal> {
    let closed = signed.app.terminate(user_id).await?;
    let (mut response, length) = answer::empty_object();
    response.headers_mut().insert(CONNECTIONS_CLOSED, closed.into());
    Ok((response, length))
}

async fn admit(signed: &Signed) -> Result<Option<Allowance>, Refusal> {
    signed.app.take_read_request().await.map_err(|too_fast| {
        let message = match too_fast.retry_after {
            Some(wait) => format!("The app asks more often than it may, try again in {} ms", wait.as_millis()),
            None => "The app may ask for nothing: its max_read_requests_per_second is 0".to_owned(),
        };
        Refusal::TooMany { message, too_fast }
    })
}

fn name(signed: &Signed, channel: &str) -> Result<ChannelName, Refusal> {
    Ok(ChannelName::parse(channel, signed.app.rules().said.limits.max_channel_name_length)?)
}
