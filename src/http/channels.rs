//! The queries of the API: channels and users (Pusher HTTP API).
//! `http` routes to them.

use axum::Extension;
use axum::body::Body;
use axum::extract::Path;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use serde_json::json;

use crate::http::Api;
use crate::http::Client;
use crate::http::auth::Signed;
use crate::http::response;
use crate::http::response::Refusal;
use crate::limiter::Allowance;
use crate::protocol::channel::ChannelName;
use crate::refusal::Cause;

/// `GET /apps/{app_id}/channels`.
pub(super) async fn list(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    Path(app_id): Path<String>,
    request: Request<Body>,
) -> Response {
    api.signed(&client, request, &app_id, async |signed| {
        let allowance = admit(signed).await?;
        let prefix = signed.parameter("filter_by_prefix").unwrap_or_default();
        let channels = signed.app.channel_list(prefix, signed.info()).await?;
        Ok(response::with_rate_limit(allowance, response::json(&json!({ "channels": channels }))))
    })
    .await
}

/// `GET /apps/{app_id}/channels/{channel}`.
pub(super) async fn one(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    Path((app_id, channel)): Path<(String, String)>,
    request: Request<Body>,
) -> Response {
    api.signed(&client, request, &app_id, async |signed| {
        let allowance = admit(signed).await?;
        let info = signed.app.channel_info(&name(signed, &channel)?, signed.info()).await?;
        Ok(response::with_rate_limit(allowance, response::json(&info)))
    })
    .await
}

/// `GET /apps/{app_id}/channels/{channel}/users`.
pub(super) async fn users(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    Path((app_id, channel)): Path<(String, String)>,
    request: Request<Body>,
) -> Response {
    api.signed(&client, request, &app_id, async |signed| {
        let allowance = admit(signed).await?;
        let users = signed.app.channel_users(&name(signed, &channel)?).await?;
        let users: Vec<_> = users.iter().map(|id| json!({ "id": id })).collect();
        Ok(response::with_rate_limit(allowance, response::json(&json!({ "users": users }))))
    })
    .await
}

async fn admit(signed: &Signed<'_>) -> Result<Option<Allowance>, Refusal> {
    signed.rules.take_read_request().await.map_err(|too_fast| {
        let message = match too_fast.retry_after {
            Some(wait) => format!("The app asks more often than it may, try again in {} ms", wait.as_millis()),
            None => "The app may ask for nothing: its max_read_requests_per_second is 0".to_owned(),
        };
        Refusal::new(Cause::ApiReadRate, message).too_fast(too_fast)
    })
}

fn name(signed: &Signed<'_>, channel: &str) -> Result<ChannelName, Refusal> {
    Ok(ChannelName::parse(channel, signed.rules.limits().max_channel_name_length)?)
}
