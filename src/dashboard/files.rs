//! The files of the page, embedded in the program. They hold no data, so they are served without a login.
//! A new file in `src/dashboard/page` needs a line in the table here; a test compares the two.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::LazyLock;

use axum::Extension;
use axum::body::Body;
use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::HeaderName;
use axum::http::HeaderValue;
use axum::http::Request;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;

use crate::dashboard::Dashboard;
use crate::dashboard::answer;
use crate::dashboard::answer::Failure;
use crate::http::Client;
use crate::protocol::signature::body_md5;

macro_rules! files {
    ($($name:literal)*) => {
        &[$(($name, include_bytes!(concat!("page/", $name)))),*]
    };
}

/// Each file of the folder with its name and content.
const FILES: &[(&str, &[u8])] = files! {
    "api.js"
    "apps.js"
    "causes_id.js"
    "channels.js"
    "connections.js"
    "dom.js"
    "echo.js"
    "fixes.js"
    "format.js"
    "history.js"
    "icon.svg"
    "index.html"
    "live.js"
    "login.js"
    "node.js"
    "now.js"
    "overview.js"
    "page.css"
    "page.js"
    "parts.js"
    "plot.js"
    "probe.js"
    "problems.js"
    "row.js"
    "settings.js"
    "store.js"
    "suggest.js"
    "try.js"
    "words.js"
    "words_a.js"
    "words_n.js"
};

/// Scripts and styles from here only, and no frame around the page. The connection test goes to the public URL, which
/// may be anywhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self' ws: wss: http: https:; frame-ancestors 'none'; base-uri 'none'; \
                      form-action 'none'";

/// A file, ready to be served.
struct Served {
    content: &'static [u8],
    kind: &'static str,
    tag: HeaderValue,
}

static SERVED: LazyLock<HashMap<&'static str, Served>> = LazyLock::new(|| {
    let served = |(name, content): &(&'static str, &'static [u8])| {
        let tag = HeaderValue::from_str(&format!("\"{}\"", body_md5(content))).ok()?;
        Some((*name, Served { content, kind: kind(name), tag }))
    };
    FILES.iter().filter_map(served).collect()
});

fn kind(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, end)| end) {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "json" => "application/json",
        _ => "application/octet-stream",
    }
}

/// `GET /dashboard`.
pub(super) async fn index(headers: HeaderMap) -> Response {
    serve("index.html", &headers)
}

/// `GET /dashboard/`, from which the page would not find its files.
pub(super) async fn slash() -> Response {
    (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, HeaderValue::from_static("../dashboard"))]).into_response()
}

/// `GET /dashboard/{file}`, and whatever has no route of its own.
pub(super) async fn file(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(client): Extension<Client>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response {
    if name.contains('/') {
        return answer::no_such_path(State(dashboard), Extension(client), request).await;
    }
    serve(&name, request.headers())
}

fn serve(name: &str, headers: &HeaderMap) -> Response {
    let Some(file) = SERVED.get(name) else {
        return Failure::not_found("There is no such file; the page is at /dashboard.").into_response();
    };
    let is_known = headers.get_all(header::IF_NONE_MATCH).iter().any(|tag| *tag == file.tag);
    let body = if is_known { Body::empty() } else { Body::from(Bytes::from_static(file.content)) };
    let mut response = Response::new(body);
    *response.status_mut() = if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let constant = [
        (header::CONTENT_TYPE, file.kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in constant {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response.headers_mut().insert(header::ETAG, file.tag.clone());
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_has_each_file_of_the_folder() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/dashboard/page");
        let entries = std::fs::read_dir(folder).unwrap();
        let found: BTreeSet<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let listed: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(found, listed);
    }
}
