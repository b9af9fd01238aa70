//! Requests to the signed API: read within limits, and let in only with the signature of their app.

use std::sync::Arc;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use axum::body::Body;
use axum::body::Bytes;
use axum::body::HttpBody;
use axum::extract::OriginalUri;
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
use crate::protocol::request::Claim;
use crate::protocol::request::Clock;
use crate::protocol::request::InfoRequest;
use crate::protocol::request::SignedQuery;

/// A request whose signature has been checked.
pub(super) struct Signed {
    pub(super) app: Arc<App>,
    pub(super) body: Bytes,
    /// The path that was signed is that of [`SignedPath`].
    pub(super) by_other_path: bool,
    query: SignedQuery,
}

/// Another path that a library may have signed.
#[derive(Debug, Clone)]
pub(super) struct SignedPath(pub(super) String);

impl Signed {
    /// The first value of a query parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.parameter(name)
    }

    /// The attributes that it asks for.
    pub(super) fn info(&self) -> InfoRequest {
        self.query.info()
    }
}

impl Api {
    /// Reads a request, checks its signature for the app with this id, and lets `answer` answer it.
    pub(super) async fn signed(
        &self,
        request: Request<Body>,
        app_id: &str,
        answer: impl AsyncFnOnce(&Signed) -> Result<(Response, usize), Refusal>,
    ) -> Response {
        match self.0.node.find_by_id(app_id).await {
            Ok(Some(app)) => self.signed_for(app, request, answer).await,
            Ok(None) => self.refused_without_app(Refusal::NotFound("Unknown app".to_owned())),
            Err(error) => self.refused_without_app(error.into()),
        }
    }

    /// Refuses a request for no app that is known.
    pub(super) fn refused_without_app(&self, refusal: Refusal) -> Response {
        self.0.node.metrics().refused_without_app(Cause::Request);
        refusal.into_response()
    }

    /// The same for an app that is known already.
    pub(super) async fn signed_for(
        &self,
        app: Arc<App>,
        request: Request<Body>,
        answer: impl AsyncFnOnce(&Signed) -> Result<(Response, usize), Refusal>,
    ) -> Response {
        let meters = Arc::clone(&app.meters);
        let outcome = match self.check(app, request).await {
            Ok(signed) => answer(&signed).await.map(|answered| (answered, signed.body.len())),
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
                // The sentence itself may quote a signature.
                tracing::debug!(status = %refusal.status(), "request refused");
                refusal.into_response()
            }
        }
    }

    async fn check(&self, app: Arc<App>, request: Request<Body>) -> Result<Signed, Refusal> {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default();
        // Without the prefix, which the router has taken off; Soketi wants it signed.
        let claim = Claim { method: parts.method.as_str(), path: parts.uri.path(), query };
        let whole = parts.extensions.get::<OriginalUri>().map(|uri| Claim { path: uri.path(), ..claim });
        let whole = whole.filter(|whole| whole.path != claim.path);
        let now_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let tolerance_seconds = self.0.timestamp_tolerance_seconds;
        let check = |claim: Claim<'_>| claim.check(&app.rules().keys, Clock { now_seconds, tolerance_seconds });
        let signed = check(claim).or_else(|error| whole.and_then(|whole| check(whole).ok()).ok_or(error));
        let other = parts.extensions.get::<SignedPath>().filter(|_| signed.is_err());
        let other = other.and_then(|SignedPath(path)| check(Claim { path, ..claim }).ok());
        let by_other_path = other.is_some();
        let signed = other.map_or(signed, Ok)?;
        let body = self.read(body).await?;
        signed.check_body(&body)?;
        if !app.rules().said.enabled {
            return Err(Refusal::Forbidden("App disabled".to_owned()));
        }
        Ok(Signed { app, body, by_other_path, query: signed })
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
