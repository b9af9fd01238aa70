//! Laravel's way in: `/apps` through the proxy, the signature, and the clocks.
//! `doctor` runs it on Laravel's route. It only asks for the channels, which no subscriber sees.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::cli::doctor::cause::Cause;
use crate::cli::doctor::exchange;
use crate::cli::doctor::exchange::Answer;
use crate::cli::doctor::report::Step;
use crate::cli::doctor::route::Route;
use crate::cli::doctor::target::Credentials;
use crate::config::App;
use crate::protocol::signature::Signer;

/// From here on the clocks differ too much. Requests are refused at ten times as much.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// The sentence of gema about a wrong signature, up to the text that should have been signed.
const SHOULD_HAVE_SIGNED: &str = "Invalid signature: you should have sent HmacSHA256Hex(\"";

/// The app that is asked for.
struct Asked<'a> {
    id: &'a str,
    key: &'a str,
    signer: Signer,
}

/// Tests the API with the app's identity. `apps` are those of gema's configuration, if it is known.
pub(super) async fn check(route: &Route, credentials: &Credentials, apps: &[App]) -> Vec<Step> {
    let Credentials { id: Some(id), key: Some(key), secret: Some(secret), .. } = credentials else {
        return check_unsigned(route, credentials, "no app is known: .env, or gema's configuration by --config").await;
    };
    if route.is_certificate_wrong() {
        // The other side may be a stranger, who could use the signature.
        return check_unsigned(route, credentials, "nothing signed is sent to a server with a wrong certificate").await;
    }
    let asked = Asked { id, key, signer: Signer::new(secret.expose()) };
    let now = SystemTime::now();
    let mut answer = match exchange::get(route, &asked.target(route, now), &[]).await {
        Ok(answer) => answer,
        Err(error) => return not_there(&error.to_string()),
    };
    let clock = match server_time(&answer) {
        // Signed anew with the server's time, so that a wrong clock does not hide a wrong secret.
        Some(theirs) if answer.body.starts_with("Timestamp expired") => {
            answer = exchange::get(route, &asked.target(route, theirs), &[]).await.unwrap_or_default();
            apart(now, theirs)
        }
        Some(theirs) => apart(now, theirs),
        None => Step::skipped("clock", "the answer has no time"),
    };
    if let Some((cause, detail)) = answer.fault_of_the_way(Cause::ProxyNoApps).filter(|_| answer.status != 200) {
        return vec![Step::failed("apps", cause, detail), Step::skipped("signature", "no answer of gema"), clock];
    }
    let signature = match () {
        () if answer.status == 200 && answer.body.starts_with("{\"channels\"") => {
            Step::passed("signature", format!("app {id}: id, key and secret are right"))
        }
        () if answer.status == 200 => {
            let step = Step::failed("apps", Cause::ProxyNoApps, answer.describe());
            return vec![step, Step::skipped("signature", "no answer of gema"), clock];
        }
        () => asked.refusal(route, &answer, credentials, apps).await,
    };
    vec![Step::passed("apps", "gema answers"), signature, clock, ready(route).await]
}

/// Whether the server has everything that it needs, by its own account. A proxy need not forward that path.
async fn ready(route: &Route) -> Step {
    let answer = exchange::get(route, &format!("{}/ready", route.target.prefix), &[]).await.unwrap_or_default();
    match (answer.status, answer.body.as_str()) {
        (200, "OK") => Step::passed("ready", "the server has everything that it needs"),
        (200, body) if body.starts_with("OK, degraded: ") => {
            Step::failed("ready", Cause::ServerDegraded, body.trim_start_matches("OK, degraded: "))
        }
        (503, body) if answer.is_gemas() => Step::failed("ready", Cause::ServerUnavailable, body),
        _ => Step::skipped("ready", "this address does not forward /ready"),
    }
}

/// Without a signature, only whether gema is there.
async fn check_unsigned(route: &Route, credentials: &Credentials, reason: &str) -> Vec<Step> {
    let id = credentials.id.as_deref().unwrap_or("gema-doctor");
    let now = SystemTime::now();
    let answer = match exchange::get(route, &format!("{}/apps/{id}/channels", route.target.prefix), &[]).await {
        Ok(answer) => answer,
        Err(error) => return not_there(&error.to_string()),
    };
    let apps = match answer.fault_of_the_way(Cause::ProxyNoApps) {
        Some((cause, detail)) => Step::failed("apps", cause, detail),
        None => Step::passed("apps", "gema answers"),
    };
    let clock = server_time(&answer)
        .map_or_else(|| Step::skipped("clock", "the answer has no time"), |theirs| apart(now, theirs));
    vec![apps, Step::skipped("signature", reason), clock]
}

fn not_there(error: &str) -> Vec<Step> {
    let rest = ["signature", "clock"].map(|name| Step::skipped(name, "no answer of gema"));
    std::iter::once(Step::failed("apps", Cause::UnexpectedAnswer, error)).chain(rest).collect()
}

impl Asked<'_> {
    /// The path as Laravel's library signs it: without a prefix.
    fn path(&self) -> String {
        format!("/apps/{}/channels", self.id)
    }

    /// The path and query of a request of this time.
    fn target(&self, route: &Route, time: SystemTime) -> String {
        self.signed_as(route, &self.path(), time)
    }

    /// The same, but with the signature of another path.
    fn signed_as(&self, route: &Route, signed_path: &str, time: SystemTime) -> String {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let query = format!("auth_key={}&auth_timestamp={seconds}&auth_version=1.0", self.key);
        let signature = self.signer.sign(&[format!("GET\n{signed_path}\n{query}").as_bytes()]);
        format!("{}{}?{query}&auth_signature={signature}", route.target.prefix, self.path())
    }

    /// The fault of a request that gema refuses.
    async fn refusal(&self, route: &Route, answer: &Answer, credentials: &Credentials, apps: &[App]) -> Step {
        let failed = |cause, detail: String| Step::failed("signature", cause, detail);
        let of_laravel = credentials.are_laravels;
        match (answer.status, answer.body.as_str()) {
            (404, "Unknown app") if of_laravel => failed(Cause::EnvOtherApp, other_apps(self.id, apps)),
            (404, "Unknown app") => failed(Cause::UnknownApp, self.id.to_owned()),
            (401, "Unknown auth_key") if self.key == self.id => failed(Cause::AppIdAsKey, self.key.to_owned()),
            (401, "Unknown auth_key") => failed(Cause::UnknownKey, self.foreign_key(apps)),
            (401, body) if body.starts_with(SHOULD_HAVE_SIGNED) => self.wrong_signature(route, answer, apps).await,
            (401, body) if body.starts_with("Timestamp expired") => failed(Cause::ClockOff, String::new()),
            (403, "App disabled") => failed(Cause::AppDisabled, self.id.to_owned()),
            (429, body) => failed(Cause::ReadRate, body.to_owned()),
            (503, body) => failed(Cause::ServerUnavailable, body.to_owned()),
            (status, body) => failed(Cause::UnexpectedAnswer, format!("HTTP {status}: {body}")),
        }
    }

    /// A key that is none of the app's, with the app whose key it is, if the configuration has one.
    fn foreign_key(&self, apps: &[App]) -> String {
        let Self { id, key, .. } = self;
        let owner = apps.iter().find(|app| app.keys.iter().any(|pair| pair.key == *key));
        let owner = owner.map_or(String::new(), |owner| format!("; it is a key of app {}", owner.id));
        format!("app {id} has no key {key}{owner}")
    }

    /// gema tells the text that it expects to be signed. If it is another one than was sent, the proxy has changed the
    /// request; if not, the secret is wrong.
    async fn wrong_signature(&self, route: &Route, answer: &Answer, apps: &[App]) -> Step {
        let text = answer.body.strip_prefix(SHOULD_HAVE_SIGNED).unwrap_or_default();
        let mut parts = text.split("\\n").skip(1);
        let (path, query) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let is_own_query = query.starts_with("auth_key=") && query.matches('&').count() == 2;
        if path != self.path() {
            let detail = format!("{} arrives as {path}", self.path());
            let is_proven = match is_channels(path) {
                true => {
                    let again = self.signed_as(route, path, SystemTime::now());
                    exchange::get(route, &again, &[]).await.is_ok_and(|answer| answer.status == 200)
                }
                false => true,
            };
            if is_proven {
                return Step::failed("signature", Cause::ProxyRewritesPath, detail);
            }
        } else if !is_own_query {
            let detail = "the query arrives with other parameters".to_owned();
            return Step::failed("signature", Cause::ProxyRewritesPath, detail);
        }
        match self.owner(apps) {
            Some(other) => Step::failed(
                "signature",
                Cause::OtherAppsSecret,
                format!("it is the secret of app {other}, not of app {}", self.id),
            ),
            None => Step::failed("signature", Cause::WrongSecret, format!("app {}", self.id)),
        }
    }

    /// The app of the configuration that has this secret.
    fn owner<'a>(&self, apps: &'a [App]) -> Option<&'a str> {
        const TEXT: &[u8] = b"gema doctor";
        let signature = self.signer.sign(&[TEXT]);
        let has =
            |app: &&App| app.keys.iter().any(|pair| Signer::new(pair.secret.expose()).verify(&[TEXT], &signature));
        apps.iter().filter(|app| app.id != self.id).find(has).map(|app| app.id.as_str())
    }
}

/// Whether this is a path to a list of channels. No other one is signed, whatever the other side says that it expects.
fn is_channels(path: &str) -> bool {
    let is_path = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?');
    is_path && path.trim_end_matches('/').ends_with("/channels")
}

fn other_apps(id: &str, apps: &[App]) -> String {
    match apps {
        [] => id.to_owned(),
        apps => {
            let ids: Vec<&str> = apps.iter().map(|app| app.id.as_str()).collect();
            format!("{id}; gema's configuration has {}", ids.join(", "))
        }
    }
}

/// The time of the server: the one that it compares with, or that of its answer.
fn server_time(answer: &Answer) -> Option<SystemTime> {
    let compared = answer.body.split_once("server time (").and_then(|(_, rest)| rest.split_once(')'));
    compared
        .and_then(|(time, _)| humantime::parse_rfc3339(time).ok())
        .or_else(|| httpdate::parse_http_date(answer.header(hyper::header::DATE)?).ok())
}

fn apart(ours: SystemTime, theirs: SystemTime) -> Step {
    let (difference, direction) = match theirs.duration_since(ours) {
        Ok(difference) => (difference, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    let seconds = difference.as_secs();
    if difference < CLOCK_TOLERANCE {
        return Step::passed("clock", "the server has the same time");
    }
    Step::failed("clock", Cause::ClockOff, format!("the server's is {seconds} s {direction} this machine's"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_list_of_channels_is_signed() {
        for path in ["/ws/apps/shop/channels", "/apps/other/channels/", "/channels"] {
            assert!(is_channels(path), "{path}");
        }
        for path in [
            "",
            "/apps/shop/events",
            "/apps/shop/channels/presence-a/users",
            "/apps/shop/users/7/terminate_connections",
            "/apps/shop/events\nauth_key=key\n/apps/shop/channels",
            "/apps/shop/events?x=/channels",
            "apps/shop/channels",
        ] {
            assert!(!is_channels(path), "{path}");
        }
    }
}
