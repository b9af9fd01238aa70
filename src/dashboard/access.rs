//! Access: a token or a cookie for each path, an operator to act, and no page of another origin.
//! `request` lets in whoever asks a handler of the API, by [`Dashboard::authorize`] or
//! [`Dashboard::authorize_operator`].

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::http::HeaderMap;
use axum::http::Request;
use axum::http::StatusCode;
use axum::http::header;

use crate::dashboard::Dashboard;
use crate::dashboard::answer::Failure;
use crate::dashboard::tokens::Attempt;
use crate::dashboard::tokens::Role;
use crate::http::Client;
use crate::refusal::Cause;
use crate::refusal::Subject;
use crate::watch::now_ms;

/// Cookies of our name that are tried. A browser sends one.
const COOKIES_MAX: usize = 4;

/// The cookie's name.
pub(super) const COOKIE: &str = "gema_dashboard";

/// One who acts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Actor {
    pub(super) role: &'static str,
    pub(super) address: IpAddr,
}

impl Dashboard {
    /// The role of whoever asks, who may look.
    pub(super) fn authorize<B>(&self, client: &Client, request: &Request<B>) -> Result<Role, Failure> {
        let headers = request.headers();
        if let Some(token) = bearer(headers) {
            return self.attempt(token, client, headers);
        }
        let role = cookies(headers).find_map(|cookie| self.tokens.role_of_cookie(cookie, now_ms() / 1000));
        role.ok_or_else(|| {
            let text = "Log in first: POST /dashboard/api/login, or send Authorization: Bearer with dashboard.token.";
            Failure::new(StatusCode::UNAUTHORIZED, text)
        })
    }

    /// Like `authorize`, for what only an operator may do, and for no page of another origin. Returns who acts, for the
    /// log.
    pub(super) fn authorize_operator<B>(&self, client: &Client, request: &Request<B>) -> Result<Actor, Failure> {
        let role = self.authorize(client, request)?;
        self.check_origin(client, request.headers())?;
        if role < Role::Operator {
            self.refuse(Cause::DashboardRole, client, request.headers());
            let text = "Only an operator may do that. Log in with dashboard.operator_token.";
            return Err(Failure::new(StatusCode::FORBIDDEN, text));
        }
        Ok(Actor { role: role.name(), address: self.api.client_address(client, request.headers()) })
    }

    /// Refuses a request to act that a page of another origin has made with the browser's cookie.
    pub(super) fn check_origin(&self, client: &Client, headers: &HeaderMap) -> Result<(), Failure> {
        if bearer(headers).is_some() || is_own_page(headers) {
            return Ok(());
        }
        Err(self.refuse_origin(client, headers))
    }

    /// Refuses a request that a browser has made for a page of another origin. Scripts name no origin.
    pub(super) fn check_not_foreign(&self, client: &Client, headers: &HeaderMap) -> Result<(), Failure> {
        let is_browser = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
        match is_browser && !is_own_page(headers) {
            true => Err(self.refuse_origin(client, headers)),
            false => Ok(()),
        }
    }

    fn refuse_origin(&self, client: &Client, headers: &HeaderMap) -> Failure {
        self.refuse(Cause::DashboardOrigin, client, headers);
        let text = "This request did not come from the dashboard's own page. Let the proxy pass the headers Host and \
                    Origin; scripts send Authorization: Bearer.";
        Failure::new(StatusCode::FORBIDDEN, text)
    }

    /// Tries a token.
    pub(super) fn attempt(&self, token: &str, client: &Client, headers: &HeaderMap) -> Result<Role, Failure> {
        match self.tokens.attempt(token, self.api.client_address(client, headers), Instant::now()) {
            Attempt::Right(role) => Ok(role),
            Attempt::Wrong => {
                self.refuse(Cause::DashboardToken, client, headers);
                let text = "This token is wrong. Use the value of dashboard.token or dashboard.operator_token.";
                Err(Failure::new(StatusCode::UNAUTHORIZED, text))
            }
            Attempt::TooMany(wait) => {
                self.refuse(Cause::DashboardAttempts, client, headers);
                let seconds = wait.as_secs() + 1;
                let text = format!("Too many wrong tokens came from this address. Try again in {seconds} s.");
                Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, text).retry_after(seconds))
            }
        }
    }

    /// Warns once of a proxy that is not trusted: wrong tokens of one then lock out all who come through it.
    pub(super) fn warn_of_untrusted_proxy(&self, client: &Client, headers: &HeaderMap) {
        let Some(proxy) = self.api.untrusted_proxy(client, headers) else { return };
        if !self.is_proxy_logged.swap(true, Ordering::Relaxed) {
            let advice = "name the proxy in server.trusted_proxies, or let it forward no X-Forwarded-For";
            tracing::warn!(%proxy, advice, "all who use the operator's page through this proxy count as one address");
        }
    }

    fn refuse(&self, cause: Cause, client: &Client, headers: &HeaderMap) {
        let address = Some(self.api.client_address(client, headers));
        self.node().refusals().add(cause, &Subject { address, ..Subject::default() });
    }
}

/// The token of `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The values of our cookie.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| *name == COOKIE).map(|(_, value)| value).take(COOKIES_MAX)
}

/// Whether a browser says that the request is from a page of this host.
fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match (text("sec-fetch-site"), text("origin"), text("host")) {
        (Some(site), ..) => site == "same-origin",
        (None, Some(origin), Some(host)) => {
            origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_the_own_page_may_act_with_a_cookie() {
        for (pairs, is_own) in [
            (&[("host", "a.example:9601"), ("origin", "http://a.example:9601")][..], true),
            (&[("host", "a.example"), ("origin", "https://A.example")], true),
            (&[("host", "a.example"), ("origin", "https://evil.example")], false),
            (&[("host", "a.example"), ("origin", "https://a.example.evil.example")], false),
            (&[("host", "a.example"), ("origin", "null")], false),
            (&[("host", "a.example")], false),
            (&[("host", "a.example"), ("sec-fetch-site", "same-origin")], true),
            (&[("host", "a.example"), ("origin", "http://a.example"), ("sec-fetch-site", "cross-site")], false),
            (&[("host", "a.example"), ("origin", "http://a.example"), ("sec-fetch-site", "same-site")], false),
        ] {
            assert_eq!(is_own_page(&headers(pairs)), is_own, "{pairs:?}");
        }
    }

    #[test]
    fn our_cookie_is_found_among_others() {
        let found = |value| cookies(&headers(&[("cookie", value)])).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(found("a=1; gema_dashboard=viewer.x; b=2"), ["viewer.x"]);
        assert_eq!(found("xgema_dashboard=viewer.x"), [""; 0]);
    }
}
