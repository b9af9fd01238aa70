//! Who sends a request: the signature over method, path and query (Pusher HTTP API, "Request signing").

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use axum::body::Body;
use axum::body::Bytes;
use axum::body::HttpBody;
use axum::http::Request;
use axum::response::IntoResponse;
use axum::response::Response;
use http_body_util::BodyExt;
use http_body_util::LengthLimitError;
use http_body_util::Limited;

use crate::http::Api;
use crate::http::answer::Refusal;
use crate::metrics::Cause;
use crate::node::App;
use crate::protocol::signature::Signer;
use crate::protocol::signature::body_md5;

/// A request whose signature has been checked.
pub(super) struct Signed {
    pub(super) app: Arc<App>,
    pub(super) body: Bytes,
    query: String,
}

impl Signed {
    /// The first value of a query parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        form_urlencoded::parse(self.query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Values of `info`, as a list or as PHP's array; empty when nothing is asked for.
    pub(super) fn info(&self) -> String {
        let asked = form_urlencoded::parse(self.query.as_bytes())
            .filter(|(key, _)| key == "info" || array_name(key).is_some_and(|name| name == "info"));
        asked.map(|(_, value)| value.into_owned()).collect::<Vec<_>>().join(",")
    }
}

impl Api {
    /// Reads a request, checks its signature for the app with this id, and lets `answer` answer it.
    pub(super) async fn signed(
        &self,
        request: Request<Body>,
        app_id: &str,
        answer: impl FnOnce(&Signed) -> Result<(Response, usize), Refusal>,
    ) -> Response {
        match self.0.node.app_by_id(app_id).cloned() {
            Some(app) => self.signed_for(app, request, answer).await,
            None => Refusal::NotFound("Unknown app".to_owned()).into_response(),
        }
    }

    /// The same for an app that is known already.
    pub(super) async fn signed_for(
        &self,
        app: Arc<App>,
        request: Request<Body>,
        answer: impl FnOnce(&Signed) -> Result<(Response, usize), Refusal>,
    ) -> Response {
        let meters = Arc::clone(&app.meters);
        let outcome = match self.check(app, request).await {
            Ok(signed) => answer(&signed).map(|answered| (answered, signed.body.len())),
            Err(refusal) => Err(refusal),
        };
        match outcome {
            Ok(((response, sent), received)) => {
                meters.http_calls.inc();
                meters.http_received_bytes.inc_by(received as u64);
                meters.http_transmitted_bytes.inc_by(sent as u64);
                response
            }
            Err(refusal) => {
                meters.refused(Cause::Request);
                tracing::debug!(%refusal, "request refused");
                refusal.into_response()
            }
        }
    }

    async fn check(&self, app: Arc<App>, request: Request<Body>) -> Result<Signed, Refusal> {
        let (parts, body) = request.into_parts();
        let body = self.read(body).await?;
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let path = parts.uri.path();
        let path = path.strip_prefix(&*self.0.path_prefix).filter(|rest| rest.starts_with('/')).unwrap_or(path);
        let claim = Claim { method: parts.method.as_str(), path, query: &query, body: &body };
        claim.check(&app, self.0.timestamp_tolerance_seconds, SystemTime::now())?;
        if !app.enabled {
            return Err(Refusal::Forbidden("App disabled".to_owned()));
        }
        Ok(Signed { app, body, query })
    }

    /// Reads a body, limited in size while it comes, and in time.
    async fn read(&self, body: Body) -> Result<Bytes, Refusal> {
        let max = self.0.request_bytes_max;
        let too_large = || Refusal::TooLarge(format!("The request body exceeds the allowed maximum ({max} bytes)"));
        if body.size_hint().lower() > max as u64 {
            return Err(too_large());
        }
        let time = self.0.request_time;
        match tokio::time::timeout(time, Limited::new(body, max).collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => Err(Refusal::bad("The request body could not be read")),
            Err(_) => Err(Refusal::Timeout(time)),
        }
    }
}

/// A request and what it claims about itself.
struct Claim<'a> {
    method: &'a str,
    /// As sent, without a configured prefix.
    path: &'a str,
    query: &'a str,
    body: &'a [u8],
}

type Parameters<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

impl Claim<'_> {
    /// The checks in Pusher's order, with the wording of its own signing gem.
    fn check(&self, app: &App, tolerance_seconds: u64, now: SystemTime) -> Result<(), Refusal> {
        let refuse = |message: &str| Err(Refusal::Unauthorized(message.to_owned()));
        let mut parameters: Parameters<'_> = form_urlencoded::parse(self.query.as_bytes()).collect();
        for (key, _) in &mut parameters {
            if key.bytes().any(|byte| byte.is_ascii_uppercase()) {
                key.to_mut().make_ascii_lowercase();
            }
        }
        let find = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| &**value);
        let Some(key) = find("auth_key") else { return refuse("Missing parameter: auth_key") };
        let Some(signer) = app.keys.signer(key) else { return refuse("Unknown auth_key") };
        match find("auth_version") {
            None => return refuse("Version required"),
            Some("1.0") => (),
            Some(_) => return refuse("Version not supported"),
        }
        let Some(timestamp) = find("auth_timestamp").and_then(|text| text.parse().ok()) else {
            return refuse("Timestamp required");
        };
        check_timestamp(timestamp, tolerance_seconds, now)?;
        let Some(signature) = find("auth_signature").map(str::to_owned) else {
            return refuse("Missing parameter: auth_signature");
        };
        let claimed_md5 = find("body_md5").map(str::to_owned);
        self.check_signature(signer, parameters, &signature)?;
        match claimed_md5 {
            None if !self.body.is_empty() => refuse("Missing parameter: body_md5"),
            Some(claimed) if claimed != body_md5(self.body) => refuse("Invalid body_md5"),
            _ => Ok(()),
        }
    }

    /// Libraries sign the path as they built it, and send it escaped; PHP signs an array as a list.
    fn check_signature(&self, signer: &Signer, mut parameters: Parameters<'_>, signature: &str) -> Result<(), Refusal> {
        parameters.retain(|(key, _)| key != "auth_signature");
        parameters.sort_by(|(left, _), (right, _)| left.cmp(right));
        let decoded_path = percent_encoding::percent_decode_str(self.path).decode_utf8_lossy();
        let plain = joined(&parameters);
        let is_signed = |path: &str, query: &str| {
            signer.verify(&[self.method.as_bytes(), b"\n", path.as_bytes(), b"\n", query.as_bytes()], signature)
        };
        if is_signed(self.path, &plain) || (decoded_path != self.path && is_signed(&decoded_path, &plain)) {
            return Ok(());
        }
        if let Some(collapsed) = collapsed(&parameters)
            && (is_signed(self.path, &collapsed) || is_signed(&decoded_path, &collapsed))
        {
            return Ok(());
        }
        let signed = format!("{}\n{}\n{plain}", self.method, self.path);
        let signed = signed.escape_debug();
        Err(Refusal::Unauthorized(format!(
            "Invalid signature: you should have sent HmacSHA256Hex(\"{signed}\", your_secret_key), but you sent {signature:?}"
        )))
    }
}

fn check_timestamp(timestamp: i64, tolerance_seconds: u64, now: SystemTime) -> Result<(), Refusal> {
    let server = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let apart = timestamp.abs_diff(i64::try_from(server).unwrap_or(i64::MAX));
    if apart < tolerance_seconds {
        return Ok(());
    }
    let shown = |seconds: u64| {
        // Years beyond 9999 cannot be shown.
        let time = UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799));
        humantime::format_rfc3339_seconds(time)
    };
    let given = u64::try_from(timestamp).unwrap_or_default();
    Err(Refusal::Unauthorized(format!(
        "Timestamp expired: Given timestamp ({}) not within {tolerance_seconds}s of server time ({})",
        shown(given),
        shown(server)
    )))
}

fn joined(parameters: &Parameters<'_>) -> String {
    let mut text = String::with_capacity(192);
    for (key, value) in parameters {
        let separator = if text.is_empty() { "" } else { "&" };
        let _ = write!(text, "{separator}{key}={value}"); // writing to a string cannot fail
    }
    text
}

/// `info[0]=a&info[1]=b` as `info=a,b`; `None` when there is no such key.
fn collapsed(parameters: &Parameters<'_>) -> Option<String> {
    parameters.iter().any(|(key, _)| array_name(key).is_some()).then_some(())?;
    let mut lists: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
    for (key, value) in parameters {
        let name = array_name(key);
        match lists.last_mut() {
            Some((last, list)) if name == Some(last) => *list = format!("{list},{value}").into(),
            _ => lists.push((name.unwrap_or(key).to_owned().into(), value.clone())),
        }
    }
    lists.sort_by(|(left, _), (right, _)| left.cmp(right));
    Some(joined(&lists))
}

/// `info` of `info[0]`.
fn array_name(key: &str) -> Option<&str> {
    let (name, index) = key.strip_suffix(']')?.split_once('[')?;
    index.bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
}

/// The key that a request without an app id in its path is signed with.
pub(super) fn auth_key(query: Option<&str>) -> Option<Cow<'_, str>> {
    form_urlencoded::parse(query?.as_bytes())
        .find(|(key, _)| key.eq_ignore_ascii_case("auth_key"))
        .map(|(_, value)| value)
}
