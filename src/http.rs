//! HTTP on both ports: the signed API, the WebSocket upgrade and health on the main one, metrics on the other.
//! `server::listen` passes each request to [`Routes::answer`].

mod auth;
mod channels;
mod events;
mod forwarded;
mod head;
mod health;
mod idempotency;
mod lookup;
mod not_found;
mod response;
mod terminate;
mod upgrade;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::BoxError;
use axum::Router;
use axum::body::Body;
use axum::body::Bytes;
use axum::body::HttpBody;
use axum::http::HeaderMap;
use axum::http::HeaderName;
use axum::http::HeaderValue;
use axum::http::Method;
use axum::http::Request;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;
use axum::routing::any;
use axum::routing::get;
use axum::routing::post;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tower_http::cors::AllowOrigin;
use tower_http::cors::CorsLayer;

pub use response::tls_required;
pub use upgrade::Client;

use crate::config;
use crate::http::forwarded::TrustedProxies;
use crate::node::Node;
use crate::refusal::Cause;
use crate::registry::address::ShardIndex;
use crate::tasks::Tasks;

/// The state that the handlers of one shard share.
#[derive(Debug, Clone)]
pub struct Api(Arc<ApiState>);

#[derive(Debug)]
struct ApiState {
    node: Arc<Node>,
    shard: ShardIndex,
    tasks: Tasks,
    path_prefix: String,
    trusted_proxies: TrustedProxies,
    request_bytes_max: usize,
    request_time: Duration,
    timestamp_tolerance_seconds: u64,
    accept_traffic_memory_percent: f64,
    cors: config::Http,
}

/// The routes of a port.
#[derive(Debug, Clone)]
pub struct Routes {
    api: Api,
    requests: Router,
    /// Like `requests`, with CORS headers for pages of other origins.
    cross_origin: Router,
    /// Whether it is the main port, with WebSockets and the API.
    is_main: bool,
}

impl Routes {
    /// Answers a request.
    pub async fn answer<B>(&self, mut request: Request<B>, client: &Client) -> Response
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let headers = request.headers();
        if let Err(refusal) = head::check(request.version(), headers) {
            return response::closing(self.api.refuse(&client.subject(&self.api, headers), refusal));
        }
        let is_upgrade = self.is_main && upgrade::is_requested(request.method(), headers);
        let is_below = head::strip_prefix(&mut request, &self.api.0.path_prefix);
        if is_upgrade {
            // A WebSocket client learns after the upgrade that its path is wrong.
            let path = is_below.then(|| request.uri().path());
            return match self.api.upgrade(path, &request, client) {
                Ok(upgrade) => upgrade.accept(&self.api).await,
                Err(response) => *response,
            };
        }
        if !is_below {
            not_found::count_refusal(&self.api, client, &request, Cause::PathNotFound);
            return response::outside_prefix(&self.api.0.path_prefix);
        }
        if !self.is_main {
            return self.route(request, client).await;
        }
        let lookup = match self.api.lookup(&request, client) {
            Ok(lookup) => lookup,
            Err(refusal) => return refusal.into_response(),
        };
        let response = self.route(request, client).await;
        self.api.refund_lookup(lookup, &response);
        response
    }

    async fn route<B>(&self, mut request: Request<B>, client: &Client) -> Response
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let router = if request.headers().contains_key(header::ORIGIN) {
            self.cross_origin.clone()
        } else if let Some(id) = self.publishing_app(&request) {
            return events::publish_to(&self.api, client, &id, request.map(Body::new)).await;
        } else {
            self.requests.clone()
        };
        request.extensions_mut().insert(client.clone());
        let Ok(response) = TowerToHyperService::new(router).call(request).await;
        response
    }

    /// The app of `POST /apps/{app_id}/events`, which most requests are: the router would cost a tenth of such a
    /// request.
    fn publishing_app<B>(&self, request: &Request<B>) -> Option<String> {
        if !self.is_main || request.method() != Method::POST {
            return None;
        }
        let id = request.uri().path().strip_prefix("/apps/")?.strip_suffix("/events")?;
        (!id.contains(['/', '%'])).then(|| id.to_owned())
    }
}

impl Api {
    /// The handlers of a shard, with their settings and the shard's tasks. Upgraded connections go to this shard.
    pub fn new(
        node: Arc<Node>,
        (shard, tasks): (ShardIndex, &Tasks),
        server: &config::Server,
        http: &config::Http,
    ) -> Self {
        Self(Arc::new(ApiState {
            node,
            shard,
            tasks: tasks.clone(),
            path_prefix: server.path_prefix.clone(),
            trusted_proxies: TrustedProxies(server.trusted_proxies.clone()),
            request_bytes_max: http.request_bytes_max,
            request_time: http.request_seconds.duration(),
            timestamp_tolerance_seconds: http.timestamp_tolerance_seconds,
            accept_traffic_memory_percent: server.accept_traffic_memory_percent,
            cors: http.clone(),
        }))
    }

    /// The node that these handlers serve.
    pub fn node(&self) -> &Arc<Node> {
        &self.0.node
    }

    /// The beginning of every path.
    pub fn path_prefix(&self) -> &str {
        &self.0.path_prefix
    }

    /// The client's address, from trusted proxies where there are any.
    pub fn client_address(&self, client: &Client, headers: &HeaderMap) -> IpAddr {
        self.0.trusted_proxies.client(client.address().ip(), headers)
    }

    /// The peer, if it forwards for others and is not trusted.
    pub fn untrusted_proxy(&self, client: &Client, headers: &HeaderMap) -> Option<IpAddr> {
        self.0.trusted_proxies.untrusted(client.address().ip(), headers)
    }

    /// Whether the client uses TLS: to us, or to a trusted proxy.
    pub fn is_secure(&self, client: &Client, headers: &HeaderMap) -> bool {
        client.is_secure() || self.0.trusted_proxies.is_secure(client.address().ip(), headers)
    }

    /// The routes of the main port.
    pub fn main_port(&self) -> Routes {
        let requests = Router::new()
            .route("/app/{key}", get(upgrade::upgrade_expected))
            .route("/apps/{app_id}/events", post(events::publish))
            .route("/apps/{app_id}/batch_events", post(events::publish_batch))
            .route("/apps/{app_id}/channels", get(channels::list))
            .route("/apps/{app_id}/channels/{channel}", get(channels::one))
            .route("/apps/{app_id}/channels/{channel}/users", get(channels::users))
            .route("/apps/{app_id}/users/{*user}", post(terminate::terminate))
            .route("/users/{*user}", post(terminate::terminate))
            .route("/", get(health::alive))
            .route("/health/live", get(health::alive))
            // Reverb's and laravel-websockets' paths.
            .route("/up", get(health::alive))
            .route("/health", get(health::alive))
            .route("/ready", get(health::ready))
            .route("/accept-traffic", get(health::accept_traffic));
        self.port(requests, true, Router::new())
    }

    /// The routes of the metrics port; `dashboard` has those of the operator's page, if there is one.
    pub fn metrics_port(&self, metrics: bool, dashboard: Option<Router>) -> Routes {
        let requests = Router::new()
            .route("/", get(health::alive))
            .route("/ready", get(health::ready))
            .route("/usage", get(health::usage));
        let requests = if metrics { requests.route("/metrics", get(health::metrics)) } else { requests };
        let off = || {
            let off = any(not_found::no_dashboard);
            let off = Router::new().route("/dashboard", off.clone()).route("/dashboard/{*rest}", off);
            off.with_state(self.clone())
        };
        self.port(requests, false, dashboard.unwrap_or_else(off))
    }

    /// The routes of `own` take no part in CORS: no page of another origin has anything to do there.
    fn port(&self, requests: Router<Self>, is_main: bool, own: Router) -> Routes {
        let requests =
            requests.fallback(not_found::no_such_path).method_not_allowed_fallback(not_found::no_such_method);
        let requests = requests.with_state(self.clone());
        let cross_origin = requests.clone().layer(self.cors()).merge(own.clone());
        Routes { api: self.clone(), requests: requests.merge(own), cross_origin, is_main }
    }

    fn cors(&self) -> CorsLayer {
        let cors = &self.0.cors;
        let origins: Vec<HeaderValue> = cors.cors_origins.iter().filter_map(|origin| origin.parse().ok()).collect();
        let origins = match &*origins {
            [any] if any == "*" => AllowOrigin::any(),
            _ => AllowOrigin::list(origins.into_iter().filter(|origin| origin != "*")),
        };
        let methods: Vec<Method> = cors.cors_methods.iter().filter_map(|method| method.parse().ok()).collect();
        let headers: Vec<HeaderName> = cors.cors_headers.iter().filter_map(|header| header.parse().ok()).collect();
        CorsLayer::new().allow_origin(origins).allow_methods(methods).allow_headers(headers)
    }
}
