//! Logging in and out: a token becomes a cookie.
//! The page's first request is a login.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::HeaderValue;
use axum::http::Request;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use crate::dashboard::Dashboard;
use crate::dashboard::access::COOKIE;
use crate::dashboard::answer;
use crate::dashboard::answer::Failure;
use crate::http::Client;
use crate::watch::now_ms;

#[derive(Deserialize)]
struct Login {
    token: String,
}

/// `POST /dashboard/api/login`.
pub(super) async fn login(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Result<Response, Failure> {
    let headers = request.headers().clone();
    // Before anything is counted: another page could use up the attempts of its visitor's address.
    dashboard.check_not_foreign(&client, &headers)?;
    let Login { token } = answer::read(request).await?;
    dashboard.warn_of_untrusted_proxy(&client, &headers);
    let role = dashboard.attempt(&token, &client, &headers)?;
    let cookie = dashboard.tokens.cookie(role, now_ms() / 1000).unwrap_or_default();
    let mut response = answer::json(&json!({ "role": role.name() }));
    dashboard.set_cookie(&cookie, None, &client, (&headers, response.headers_mut()));
    Ok(response)
}

/// `POST /dashboard/api/logout`.
pub(super) async fn logout(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Result<Response, Failure> {
    let headers = request.headers().clone();
    dashboard.check_origin(&client, &headers)?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    dashboard.set_cookie("", Some(0), &client, (&headers, response.headers_mut()));
    Ok(response)
}

impl Dashboard {
    fn set_cookie(
        &self,
        value: &str,
        max_age: Option<u64>,
        client: &Client,
        (request, response): (&HeaderMap, &mut HeaderMap),
    ) {
        let prefix = self.api.path_prefix();
        // Only the API needs it. An application on the same host may have a /dashboard of its own.
        let mut cookie = format!("{COOKIE}={value}; HttpOnly; SameSite=Strict; Path={prefix}/dashboard/api");
        if let Some(seconds) = max_age {
            cookie.push_str(&format!("; Max-Age={seconds}"));
        }
        if self.api.is_secure(client, request) {
            cookie.push_str("; Secure");
        }
        if let Ok(value) = HeaderValue::from_str(&cookie) {
            response.insert(header::SET_COOKIE, value);
        }
    }
}
