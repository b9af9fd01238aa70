//! Signed requests: finds the app, has `protocol::request` check the signature, and reads the body within limits.
//! The handlers of the API call [`Api::signed`].

use std::sync::Arc;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use axum::body::Body;
use axum::body::Bytes;
use axum::body::HttpBody;
use axum::extract::OriginalUri;
use axum::http::HeaderName;
use axum::http::Request;
use axum::http::request::Parts;
use axum::response::IntoResponse;
use axum::response::Response;
use http_body_util::BodyExt;
use http_body_util::LengthLimitError;
use http_body_util::Limited;

use crate::http::Api;
use crate::http::Client;
use crate::http::response::Refusal;
use crate::node::App;
use crate::node::Rules;
use crate::protocol::request;
use crate::protocol::request::Claim;
use crate::protocol::request::Clock;
use crate::protocol::request::InfoRequest;
use crate::protocol::request::SignedQuery;
use crate::refusal::Cause;
use crate::refusal::LazyText;
use crate::refusal::Subject;

/// The header with an idempotency key.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A request whose signature has been checked.
pub(super) struct Signed<'a> {
    pub(super) app: &'a Arc<App>,
    /// The app's rules when the request had come.
    pub(super) rules: Arc<Rules>,
    pub(super) body: Bytes,
    /// The signature is for the path of [`AlternativePath`].
    pub(super) by_alternative_path: bool,
    query: SignedQuery,
    /// The values of the header `Idempotency-Key`; most requests have none.
    header_keys: Vec<String>,
}

/// Another path that a library may have signed.
#[derive(Debug, Clone)]
pub(super) struct AlternativePath(pub(super) String);

impl Signed<'_> {
    /// The first value of a query parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.parameter(name)
    }

    /// The values of the header `Idempotency-Key`.
    pub(super) fn header_keys(&self) -> impl Iterator<Item = &str> {
        self.header_keys.iter().map(String::as_str)
    }

    /// The attributes that the request asks for.
    pub(super) fn info(&self) -> InfoRequest {
        self.query.info()
    }
}

impl Api {
    /// Reads a request, checks its signature for the app with this id, and calls `answer`.
    pub(super) async fn signed(
        &self,
        from: &Client,
        request: Request<Body>,
        app_id: &str,
        answer: impl AsyncFnOnce(&Signed<'_>) -> Result<(Response, usize), Refusal>,
    ) -> Response {
        match self.0.node.load_by_id(app_id).await {
            Ok(Some(app)) => self.signed_for(&app, from, request, answer).await,
            Ok(None) => {
                let refusal = Refusal::new(Cause::ApiUnknownApp, "Unknown app");
                let explain = LazyText(|| self.0.node.explain_id(app_id));
                self.refuse(&Subject { detail: Some(&explain), ..from.subject(self, request.headers()) }, refusal)
            }
            Err(error) => self.refuse(&from.subject(self, request.headers()), error.into()),
        }
    }

    /// Refuses, counts and logs a request.
    pub(super) fn refuse(&self, subject: &Subject<'_>, refusal: Refusal) -> Response {
        let detail = LazyText(|| refusal.detail());
        let detail = subject.detail.unwrap_or(&detail);
        let subject = Subject { channel: refusal.channel.as_deref(), detail: Some(detail), ..*subject };
        self.0.node.refusals().add(refusal.cause, &subject);
        refusal.into_response()
    }

    /// Like `signed`, but for an app that has been found.
    pub(super) async fn signed_for(
        &self,
        app: &Arc<App>,
        from: &Client,
        request: Request<Body>,
        answer: impl AsyncFnOnce(&Signed<'_>) -> Result<(Response, usize), Refusal>,
    ) -> Response {
        let (parts, body) = request.into_parts();
        let outcome = match self.check(app, &parts, body).await {
            Ok(signed) => answer(&signed).await.map(|response| (response, signed.body.len())),
            Err(refusal) => Err(refusal),
        };
        match outcome {
            Ok(((response, sent), received)) => {
                if from.take_counted_handshake() {
                    // A backend that opens a connection per request is no flood of handshakes.
                    self.0.node.addresses().refund_handshake(from.address().ip(), Instant::now());
                }
                app.meters.http_calls.inc();
                app.meters.http_received_bytes.inc_by(received as u64);
                app.meters.http_transmitted_bytes.inc_by(sent as u64);
                response
            }
            Err(refusal) => {
                let explain = LazyText(|| self.explain(app, &parts, &refusal));
                let subject = Subject { app: &app.id, detail: Some(&explain), ..from.subject(self, &parts.headers) };
                self.refuse(&subject, refusal.clone())
            }
        }
    }

    /// Checks the signature and reads the body.
    async fn check<'a>(&self, app: &'a Arc<App>, parts: &Parts, body: Body) -> Result<Signed<'a>, Refusal> {
        let now_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let tolerance_seconds = self.0.timestamp_tolerance_seconds;
        let check = |claim: Claim<'_>| claim.check(&app.rules().keys, Clock { now_seconds, tolerance_seconds });
        let (claim, whole) = claims(parts);
        let query = check(claim).or_else(|error| whole.and_then(|whole| check(whole).ok()).ok_or(error));
        let other = parts.extensions.get::<AlternativePath>().filter(|_| query.is_err());
        let other = other.and_then(|AlternativePath(path)| check(Claim { path, ..claim }).ok());
        let by_alternative_path = other.is_some();
        let query = other.map_or(query, Ok)?;
        let body = self.read(body).await?;
        query.check_body(&body)?;
        // Not before: the body may take long.
        let rules = app.rules_for_request();
        if !rules.settings.enabled {
            return Err(Refusal::new(Cause::ApiDisabled, "App disabled"));
        }
        let header_keys = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let header_keys = header_keys.map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned()).collect();
        Ok(Signed { app, rules, body, by_alternative_path, query, header_keys })
    }

    /// The difference from a valid request, for the log.
    fn explain(&self, app: &App, parts: &Parts, refusal: &Refusal) -> String {
        let (claim, whole) = claims(parts);
        let key = request::auth_key(claim.query).unwrap_or_default();
        match refusal.cause {
            Cause::ApiUnknownKey => self.0.node.explain_key(&key),
            Cause::ApiSignature => self.0.node.explain_signature(app, &key, |signer| {
                claim.is_made_by(signer) || whole.is_some_and(|whole| whole.is_made_by(signer))
            }),
            _ => refusal.detail(),
        }
    }

    /// Reads a body within limits of size and time.
    async fn read(&self, body: Body) -> Result<Bytes, Refusal> {
        let max = self.0.request_bytes_max;
        let too_large = || {
            let message = format!("The request body exceeds the allowed maximum ({max} bytes)");
            Refusal::new(Cause::ApiBodyTooLarge, message)
        };
        if body.size_hint().lower() > max as u64 {
            return Err(too_large());
        }
        let time = self.0.request_time;
        match tokio::time::timeout(time, Limited::new(body, max).collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => Err(Refusal::new(Cause::ApiBody, "The request body could not be read")),
            Err(_) => {
                let message = format!("The request did not come within {} s", time.as_secs());
                Err(Refusal::new(Cause::ApiTimeout, message))
            }
        }
    }
}

/// The claims of a request: with the path below the prefix, and with the whole path, which Soketi expects to be signed.
fn claims(parts: &Parts) -> (Claim<'_>, Option<Claim<'_>>) {
    let query = parts.uri.query().unwrap_or_default();
    let claim = Claim { method: parts.method.as_str(), path: parts.uri.path(), query };
    let whole = parts.extensions.get::<OriginalUri>().map(|uri| Claim { path: uri.path(), ..claim });
    (claim, whole.filter(|whole| whole.path != claim.path))
}
