//! `terminate_connections`: closes a user's connections. A user id may hold anything, and not every library escapes it,
//! so the id is whatever stands between `/users/` and `/terminate_connections`.
//! `http` routes to it.

use axum::Extension;
use axum::body::Body;
use axum::extract::OriginalUri;
use axum::extract::State;
use axum::http::HeaderName;
use axum::http::Request;
use axum::http::Uri;
use axum::response::Response;
use percent_encoding::percent_decode_str;

use crate::http::Api;
use crate::http::Client;
use crate::http::auth::AlternativePath;
use crate::http::auth::Signed;
use crate::http::not_found;
use crate::http::response;
use crate::http::response::Refusal;
use crate::protocol::request;
use crate::refusal::Cause;
use crate::refusal::LazyText;
use crate::refusal::Subject;

/// The number of closed connections; Pusher's body has no field for it.
const CONNECTIONS_CLOSED: HeaderName = HeaderName::from_static("x-connections-closed");
/// The end of the path.
const SUFFIX: &str = "/terminate_connections";

/// The app and user that a path names.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    /// The app's id, as it stands in the path.
    app_id: Option<&'a str>,
    /// The user's id, as it stands in the path.
    user_id: &'a str,
    /// The path, up to its end.
    path: &'a str,
    query: &'a str,
}

impl<'a> Target<'a> {
    /// Parses `/apps/{app_id}/users/{user_id}/terminate_connections`, or the same without the app, as Python's library
    /// requests it.
    fn read(path_and_query: &'a str) -> Option<Self> {
        let whole = |end: usize| (end + SUFFIX.len() == path_and_query.len()).then_some(end);
        let end = path_and_query.rfind(&format!("{SUFFIX}?")).or_else(|| whole(path_and_query.rfind(SUFFIX)?))?;
        let (path, query) = path_and_query.split_at(end + SUFFIX.len());
        let (app_id, rest) = match path.strip_prefix("/apps/") {
            Some(rest) => rest.split_once('/').map(|(app_id, rest)| (Some(app_id), rest))?,
            None => (None, path.strip_prefix('/')?),
        };
        let user_id = rest.strip_prefix("users/")?.strip_suffix(SUFFIX).filter(|user_id| !user_id.is_empty())?;
        Some(Self { app_id, user_id, path, query: query.strip_prefix('?').unwrap_or_default() })
    }

    /// The possible ids, the likeliest first: a library that escapes nothing sends a literal `%20`.
    fn user_ids(&self) -> Vec<String> {
        let decoded = decode(self.user_id);
        let as_it_stands = (decoded != self.user_id).then(|| self.user_id.to_owned());
        std::iter::once(decoded).chain(as_it_stands).collect()
    }

    /// The path with backslashes, if JavaScript's `URL` may have turned them into slashes after signing.
    fn with_backslashes(&self) -> Option<String> {
        let start = self.path.strip_suffix(SUFFIX)?.strip_suffix(self.user_id)?;
        self.user_id.contains('/').then(|| format!("{start}{}{SUFFIX}", self.user_id.replace('/', "\\")))
    }
}

/// `POST /apps/{app_id}/users/{user_id}/terminate_connections`, or the same without the app, which the key identifies.
pub(super) async fn terminate(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Response {
    let path_and_query = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let Some(target) = Target::read(&path_and_query) else { return not_found::respond(&api, &client, &request) };
    let user_ids = target.user_ids();
    let alternative_path = target.with_backslashes();
    let alternative_id = decode(target.user_id).replace('/', "\\");
    let request = match with_target(request, &target, alternative_path) {
        Ok(request) => request,
        Err(request) => return not_found::respond(&api, &client, &request),
    };
    let close = async |signed: &Signed<'_>| match signed.by_alternative_path {
        true => close_connections(signed, &[alternative_id]).await,
        false => close_connections(signed, &user_ids).await,
    };
    let Some(app_id) = target.app_id else {
        let Some(key) = request::auth_key(target.query) else {
            let refusal = Refusal::new(Cause::ApiUnsigned, "Missing parameter: auth_key");
            return api.refuse(&client.subject(&api, request.headers()), refusal);
        };
        return match api.0.node.load_by_key(&key).await {
            Ok(Some(app)) => api.signed_for(&app, &client, request, close).await,
            Ok(None) => {
                let explain = LazyText(|| api.0.node.explain_key(&key));
                let subject = Subject { detail: Some(&explain), ..client.subject(&api, request.headers()) };
                api.refuse(&subject, Refusal::new(Cause::ApiUnknownKey, "Unknown auth_key"))
            }
            Err(error) => api.refuse(&client.subject(&api, request.headers()), error.into()),
        };
    };
    api.signed(&client, request, &decode(app_id), close).await
}

/// The request with the user id's question marks in its path, not in its query, and with the other path that may be
/// signed.
fn with_target(
    mut request: Request<Body>,
    target: &Target<'_>,
    other_path: Option<String>,
) -> Result<Request<Body>, Box<Request<Body>>> {
    if target.user_id.contains('?') {
        let parsed = format!("{}?{}", target.path.replace('?', "%3F"), target.query).parse::<Uri>();
        let Ok(uri) = parsed else { return Err(request.into()) };
        if let Some(OriginalUri(original)) = request.extensions().get() {
            let prefix = original.path().strip_suffix(request.uri().path()).unwrap_or_default();
            let Ok(original) = format!("{prefix}{uri}").parse() else { return Err(request.into()) };
            request.extensions_mut().insert(OriginalUri(original));
        }
        *request.uri_mut() = uri;
    }
    if let Some(path) = other_path {
        request.extensions_mut().insert(AlternativePath(path));
    }
    Ok(request)
}

/// Closes the connections of the first of these users that has any.
async fn close_connections(signed: &Signed<'_>, user_ids: &[String]) -> Result<(Response, usize), Refusal> {
    let mut closed = 0;
    for user_id in user_ids {
        closed = signed.app.terminate(user_id).await?;
        if closed > 0 {
            break;
        }
    }
    let (mut response, length) = response::empty_object();
    response.headers_mut().insert(CONNECTIONS_CLOSED, closed.into());
    Ok((response, length))
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_whatever_stands_in_between() {
        let users = |path: &str| Target::read(path).map(|target| target.user_ids());
        assert_eq!(users("/apps/a/users/b/terminate_connections?q"), Some(vec!["b".to_owned()]));
        assert_eq!(users("/apps/a/users/b/c?d/terminate_connections?q"), Some(vec!["b/c?d".to_owned()]));
        assert_eq!(users("/users/%20/terminate_connections?q"), Some(vec![" ".to_owned(), "%20".to_owned()]));
        let whole = "/apps/users/users/terminate_connections/terminate_connections";
        assert_eq!(users(whole), Some(vec!["terminate_connections".to_owned()]));
        for path in
            ["/apps/a/users/b", "/apps/a/users//terminate_connections", "/apps/a/users/b/terminate_connections/"]
        {
            assert_eq!(users(path), None, "{path}");
        }
    }
}
