//! How each endpoint fares, for the operator's page.
//! `dashboard` asks for it.

use crate::webhook::Webhooks;
use crate::webhook::attempts::Attempts;
use crate::webhook::endpoint::Endpoint;

/// Letters of a segment of a path that is shown: longer ones, and those with digits, may be tokens.
const SEGMENT_MAX: usize = 20;

/// An endpoint, as the operator sees it.
#[derive(Debug, Clone)]
pub struct EndpointReport {
    /// The app's id.
    pub app: String,
    /// The URL without what may be a token, or the function.
    pub url: String,
    /// Events that wait.
    pub waiting: usize,
    /// The answer to the last attempt, if there was one.
    pub last_status: Option<u16>,
    /// When that was, in milliseconds since 1970.
    pub last_ms: Option<u64>,
    /// When the next attempt is due, if one is.
    pub next_try_ms: Option<u64>,
    /// Requests that were accepted.
    pub delivered: u64,
    /// Requests that were not.
    pub failed: u64,
    /// Events that were given up.
    pub given_up: u64,
    /// Why the last attempt failed, if it did.
    pub error: Option<String>,
}

impl Endpoint {
    fn shown(&self) -> String {
        let webhook = &self.target().webhook;
        if webhook.lambda.is_some() { webhook.identity().into_owned() } else { shown(webhook.url.expose_text()) }
    }

    fn report(&self) -> EndpointReport {
        let Attempts { last_status, last_ms, next_try_ms, delivered, failed, given_up, error } =
            self.attempts.lock().clone();
        EndpointReport {
            app: self.app.to_string(),
            url: self.shown(),
            waiting: self.backlog().events,
            last_status,
            last_ms,
            next_try_ms,
            delivered,
            failed,
            given_up,
            error,
        }
    }
}

impl Webhooks {
    /// How each endpoint of this process fares, at most `max` of them.
    pub fn reports(&self, max: usize) -> Vec<EndpointReport> {
        self.endpoints().iter().take(max).map(|endpoint| endpoint.report()).collect()
    }
}

/// The scheme, the host, and those segments of the path that look like words. The rest may be a token.
fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let is_word = |segment: &str| {
        segment.len() <= SEGMENT_MAX && segment.bytes().all(|byte| byte.is_ascii_lowercase() || b"-_.".contains(&byte))
    };
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let segments: String =
        segments.map(|segment| if is_word(segment) { format!("/{segment}") } else { "/…".to_owned() }).collect();
    format!("{scheme}://{host}{segments}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_what_may_be_a_token() {
        for (url, text) in [
            ("https://shop.example/webhooks/soketi", "https://shop.example/webhooks/soketi"),
            ("https://user:hush@shop.example:8443/in?token=hush#x", "https://shop.example:8443/in"),
            ("https://hooks.example/services/T00000/hushhushhushhushhushhush", "https://hooks.example/services/…/…"),
            ("http://10.0.0.1", "http://10.0.0.1"),
        ] {
            assert_eq!(shown(url), text);
        }
    }
}
