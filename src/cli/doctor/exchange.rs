//! One HTTP request, or one WebSocket, on a connection of its own.
//! `socket` and `api` call it.

use std::io;

use http_body_util::BodyExt;
use http_body_util::Empty;
use http_body_util::Limited;
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use hyper::header::HeaderName;
use hyper::header::HeaderValue;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::cli::doctor::cause::Cause;
use crate::cli::doctor::route::ANSWER_TIME;
use crate::cli::doctor::route::Route;
use crate::cli::doctor::route::Stream;

/// The name by which servers and proxies know these requests.
const USER_AGENT: &str = concat!("gema-doctor/", env!("CARGO_PKG_VERSION"));
/// A longer body is cut off.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// An open WebSocket.
pub(super) type Socket = WebSocketStream<Box<dyn Stream>>;

/// An HTTP answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    headers: HeaderMap,
    pub(super) body: String,
}

/// A fault of an answer: the cause, and what exactly was found.
pub(super) type Fault = (Cause, String);

impl Answer {
    /// A header as text.
    pub(super) fn header(&self, name: impl Into<HeaderName>) -> Option<&str> {
        self.headers.get(name.into()).and_then(|value| value.to_str().ok())
    }

    /// Whether gema wrote it: a sentence as plain text, not a page of a proxy or of Laravel.
    pub(super) fn is_gemas(&self) -> bool {
        const STATUSES: [u16; 9] = [400, 401, 403, 404, 408, 413, 426, 429, 503];
        let is_text = self.header(hyper::header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/plain"));
        is_text && STATUSES.contains(&self.status) && self.body.lines().count() == 1 && !self.body.contains('<')
    }

    /// A sign of a proxy: headers that gema does not send.
    pub(super) fn proxy(&self) -> Option<&str> {
        [hyper::header::SERVER, hyper::header::VIA].into_iter().find_map(|name| self.header(name))
    }

    /// The answer in words, without its body.
    pub(super) fn describe(&self) -> String {
        let status = self.status;
        let kind = self.header(hyper::header::CONTENT_TYPE).map_or(String::new(), |kind| format!(", {kind}"));
        let server = self.header(hyper::header::SERVER).map_or(String::new(), |server| format!(", from {server}"));
        format!("HTTP {status}{kind}{server}")
    }

    /// The fault of an answer that gema did not write, or wrote to another request than was sent. `not_forwarded` is
    /// the cause if the proxy keeps the request for itself.
    pub(super) fn fault_of_the_way(&self, not_forwarded: Cause) -> Option<Fault> {
        let is_gemas = self.is_gemas();
        let cause = match self.status {
            301 | 302 | 303 | 307 | 308 => {
                let place = self.header(hyper::header::LOCATION).unwrap_or_default();
                return Some((Cause::ProxyRedirects, format!("HTTP {} to {place}", self.status)));
            }
            404 if is_gemas && self.body.starts_with("Not found: every path begins with") => {
                return Some((Cause::PathPrefix, self.body.clone()));
            }
            404 if is_gemas && self.body == "Not found" => Cause::ProxyRewritesPath,
            405 if self.header(hyper::header::CONTENT_TYPE).is_none() && self.proxy().is_none() => {
                Cause::ProxyRewritesPath
            }
            _ if is_gemas => return None,
            502..=504 => Cause::ProxyBadGateway,
            200 | 403 | 404 | 405 | 419 => not_forwarded,
            _ => Cause::UnexpectedAnswer,
        };
        Some((cause, self.describe()))
    }
}

/// Sends a GET.
pub(super) async fn get(route: &Route, path: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
    timeout(ANSWER_TIME, get_now(route, path, headers)).await.map_err(io::Error::from)?
}

async fn get_now(route: &Route, path: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
    let stream = TokioIo::new(route.open().await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(io::Error::other)?;
    let mut request = hyper::Request::get(path)
        .header(hyper::header::HOST, route.target.authority())
        .header(hyper::header::USER_AGENT, USER_AGENT);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let exchange = async move {
        let (head, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
        // A body that is too long or breaks off is of no interest.
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    };
    let (answer, _) = futures_util::future::join(exchange, connection).await;
    answer
}

/// Why there is no WebSocket.
#[derive(Debug)]
pub(super) enum NoSocket {
    /// The server answered something else.
    Refused(Answer),
    /// The connection failed, or the answer is no handshake.
    Failed(String),
}

/// Opens a WebSocket. The answer is that of the handshake.
pub(super) async fn open_socket(
    route: &Route,
    path: &str,
    origin: Option<&str>,
) -> Result<(Socket, Answer), Box<NoSocket>> {
    let failed = |error: &dyn std::fmt::Display| Box::new(NoSocket::Failed(error.to_string()));
    let stream = route.open().await.map_err(|error| failed(&error))?;
    let scheme = if route.target.tls { "wss" } else { "ws" };
    let url = format!("{scheme}://{}{path}", route.target.authority());
    let mut request = url.into_client_request().map_err(|error| failed(&error))?;
    request.headers_mut().insert(hyper::header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    if let Some(origin) = origin.and_then(|origin| origin.parse().ok()) {
        request.headers_mut().insert(hyper::header::ORIGIN, origin);
    }
    match timeout(ANSWER_TIME, client_async(request, stream)).await {
        Err(_) => Err(failed(&"no answer to the handshake")),
        Ok(Ok((socket, response))) => {
            let headers = response.headers().clone();
            Ok((socket, Answer { status: response.status().as_u16(), headers, body: String::new() }))
        }
        Ok(Err(Error::Http(response))) => {
            let (head, body) = response.into_parts();
            let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
            Err(Box::new(NoSocket::Refused(Answer { status: head.status.as_u16(), headers: head.headers, body })))
        }
        Ok(Err(error)) => Err(failed(&error)),
    }
}
