//! The page's way in: the upgrade through the proxy, the key, the origin, and a ping.
//! `doctor` runs it on the route of the pages.

use std::time::Duration;
use std::time::Instant;

use futures_util::SinkExt;
use futures_util::StreamExt;
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::cli::doctor::cause::Cause;
use crate::cli::doctor::exchange;
use crate::cli::doctor::exchange::Answer;
use crate::cli::doctor::exchange::Fault;
use crate::cli::doctor::exchange::NoSocket;
use crate::cli::doctor::exchange::Socket;
use crate::cli::doctor::report::Step;
use crate::cli::doctor::route::ANSWER_TIME;
use crate::cli::doctor::route::Route;

/// A key that no app has, for a test without one.
const NO_KEY: &str = "gema-doctor";
/// Why steps behind a refused connection are skipped.
const REFUSED: &str = "the server refuses the connection before";
/// A ping as a client sends it.
const PING: &str = r#"{"event":"pusher:ping","data":{}}"#;

/// The page whose connection is tested.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub(super) key: Option<&'a str>,
    pub(super) origin: Option<&'a str>,
    /// Ids of apps, for the case that one is used as a key.
    pub(super) ids: Vec<String>,
    /// Keys of gema's configuration, if it is known.
    pub(super) keys: Vec<String>,
    /// Waits as long as a page may be silent.
    pub(super) is_patient: bool,
}

/// Tests a connection as a page opens it.
pub(super) async fn check(route: &Route, page: &Page<'_>) -> Vec<Step> {
    let path = path(route, page.key.unwrap_or(NO_KEY));
    let mut steps = Vec::new();
    let (mut socket, answer) = match exchange::open_socket(route, &path, page.origin).await {
        Ok(opened) => opened,
        Err(why) => {
            let (cause, detail) = fault_of_upgrade(&why);
            steps.push(Step::failed("upgrade", cause, detail));
            let rest = ["connect", "origin", "idle"];
            steps.extend(rest.map(|name| Step::skipped(name, "there is no WebSocket to test it on")));
            return steps;
        }
    };
    steps.push(check_headers(route, page, &answer).await);
    match greeting(&mut socket).await {
        Ok(greeting) if page.key.is_some() => {
            steps.push(ping(&mut socket, &greeting.socket_id).await);
            steps.push(match page.origin {
                Some(origin) => Step::passed("origin", format!("pages of {origin} may connect")),
                None => Step::skipped("origin", "the origin of the pages is not known; --origin names it"),
            });
            steps.push(idle(socket, greeting.activity_timeout, page.is_patient, answer.proxy()).await);
        }
        Ok(_) => steps.push(Step::passed("connect", format!("the key {NO_KEY} is taken"))),
        Err(refused) if refused.code == 4005 => {
            let (cause, detail) = fault_of_path(route, &path, &refused).await;
            steps.push(Step::failed("connect", cause, detail));
            steps.extend(["origin", "idle"].map(|name| Step::skipped(name, REFUSED)));
        }
        Err(refused) => steps.extend(refusal_steps(&refused, page)),
    }
    steps
}

fn path(route: &Route, key: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("{}/app/{key}?protocol=7&client=gema-doctor&version={version}", route.target.prefix)
}

fn fault_of_upgrade(why: &NoSocket) -> Fault {
    let answer = match why {
        NoSocket::Failed(error) => return (Cause::ProxyNoUpgrade, error.clone()),
        NoSocket::Refused(answer) => answer,
    };
    match answer.status {
        429 if answer.is_gemas() => (Cause::HandshakeRate, answer.body.clone()),
        400 | 426 if answer.is_gemas() => (Cause::ProxyNoUpgrade, answer.body.clone()),
        _ => answer
            .fault_of_the_way(Cause::ProxyNoApp)
            .unwrap_or_else(|| (Cause::UnexpectedAnswer, format!("{}: {}", answer.describe(), answer.body))),
    }
}

/// Whether a proxy that took part in the handshake passes its headers on. gema serves a handshake without them, so it
/// is asked with a second one that has nothing else: one without its key.
async fn check_headers(route: &Route, page: &Page<'_>, answer: &Answer) -> Step {
    let Some(proxy) = answer.proxy() else { return Step::passed("upgrade", "a WebSocket opens") };
    let path = path(route, page.key.unwrap_or(NO_KEY));
    let headers = [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-version", "13")];
    match exchange::get(route, &path, &headers).await {
        Ok(answer) if answer.status == 426 && answer.is_gemas() => {
            let detail =
                format!("Upgrade and Connection do not come through {proxy}; gema does without, others do not");
            Step::failed("upgrade", Cause::ProxyNoUpgrade, detail)
        }
        _ => Step::passed("upgrade", format!("a WebSocket opens through {proxy}")),
    }
}

/// The first message of an accepted connection.
struct Greeting {
    socket_id: String,
    activity_timeout: Duration,
}

/// The first message of a refused one.
struct Refused {
    code: u64,
    message: String,
}

async fn greeting(socket: &mut Socket) -> Result<Greeting, Refused> {
    let text = timeout(ANSWER_TIME, next_text(socket)).await.ok().flatten().unwrap_or_default();
    let message: Value = serde_json::from_str(&text).unwrap_or_default();
    if message["event"] == "pusher:connection_established" {
        let data: Value = message["data"].as_str().and_then(|data| serde_json::from_str(data).ok()).unwrap_or_default();
        let seconds = data["activity_timeout"].as_u64().unwrap_or_default();
        let socket_id = data["socket_id"].as_str().unwrap_or_default().to_owned();
        return Ok(Greeting { socket_id, activity_timeout: Duration::from_secs(seconds) });
    }
    let data = &message["data"];
    Err(Refused {
        code: data["code"].as_u64().unwrap_or_default(),
        message: data["message"].as_str().unwrap_or_default().to_owned(),
    })
}

/// The next message with text; `None` when the connection ends.
async fn next_text(socket: &mut Socket) -> Option<String> {
    loop {
        match socket.next().await?.ok()? {
            Message::Text(text) => return Some(text.as_str().to_owned()),
            Message::Close(_) => return None,
            _ => (),
        }
    }
}

async fn ping(socket: &mut Socket, socket_id: &str) -> Step {
    let sent = socket.send(Message::text(PING)).await;
    let pong = async {
        while let Some(text) = next_text(socket).await {
            if text.contains("pusher:pong") {
                return true;
            }
        }
        false
    };
    if sent.is_ok() && timeout(ANSWER_TIME, pong).await.unwrap_or_default() {
        return Step::passed("connect", format!("the key is right: socket {socket_id}, and a ping is answered"));
    }
    Step::failed("connect", Cause::NoAnswer, "no pong to a ping")
}

/// Why the path of a connection is unknown to gema, which tells a plain request more.
async fn fault_of_path(route: &Route, path: &str, refused: &Refused) -> Fault {
    let answer = exchange::get(route, path, &[]).await.unwrap_or_default();
    let fault = answer.fault_of_the_way(Cause::ProxyRewritesPath);
    fault.unwrap_or_else(|| (Cause::ProxyRewritesPath, format!("{} {}", refused.code, refused.message)))
}

/// The steps of a connection that the server refuses: everything before the refusal is right.
fn refusal_steps(refused: &Refused, page: &Page<'_>) -> Vec<Step> {
    let Refused { code, message } = refused;
    let skipped = |name| Step::skipped(name, REFUSED);
    if *code == 4009 {
        let detail = match page.origin {
            Some(origin) => origin.to_owned(),
            None => "no origin was sent; --origin names that of the pages".to_owned(),
        };
        let origin = Step::failed("origin", Cause::OriginNotAllowed, detail);
        return vec![Step::passed("connect", "the key is right"), origin, skipped("idle")];
    }
    let said = format!("{code} {message}");
    let step = match code {
        4001 if page.key.is_none() => {
            Step::skipped("connect", "no key is known: .env, or gema's configuration by --config")
        }
        4001 => unknown_key(page),
        4000 => Step::failed("connect", Cause::TlsRequired, ""),
        4003 => Step::failed("connect", Cause::AppDisabled, ""),
        4004 => Step::failed("connect", Cause::ConnectionQuota, ""),
        4100 if message.contains("address") => Step::failed("connect", Cause::AddressFull, ""),
        4100 if message == "Over capacity" => Step::failed("connect", Cause::ServerFull, ""),
        4100..=4299 => Step::failed("connect", Cause::ServerUnavailable, said),
        0 => Step::failed("connect", Cause::NoAnswer, "no first message"),
        _ => Step::failed("connect", Cause::UnexpectedAnswer, said),
    };
    vec![step, skipped("origin"), skipped("idle")]
}

fn unknown_key(page: &Page<'_>) -> Step {
    let key = page.key.unwrap_or_default();
    if page.ids.iter().any(|id| id == key) {
        return Step::failed("connect", Cause::AppIdAsKey, key);
    }
    let known = match page.keys.as_slice() {
        [] => String::new(),
        keys => format!("; gema's configuration has {}", keys.join(", ")),
    };
    Step::failed("connect", Cause::UnknownKey, format!("{key}{known}"))
}

/// Whether a connection lives until the client would send its first ping. That takes as long as it is, so only a
/// patient operator gets it.
async fn idle(mut socket: Socket, silence: Duration, is_patient: bool, proxy: Option<&str>) -> Step {
    let seconds = silence.as_secs();
    if !is_patient {
        let through = proxy.map_or(String::new(), |proxy| format!(" through {proxy}"));
        return Step::skipped(
            "idle",
            format!("not tested; --patient keeps a connection{through} silent for {seconds} s"),
        );
    }
    let began = Instant::now();
    let ended = timeout(silence, async { while next_text(&mut socket).await.is_some() {} }).await;
    match ended {
        Err(_) => Step::passed("idle", format!("a silent connection lives for {seconds} s, then clients ping")),
        Ok(()) => {
            let detail = format!("after {} s; clients ping after {seconds} s", began.elapsed().as_secs());
            Step::failed("idle", Cause::ProxyIdleTimeout, detail)
        }
    }
}
