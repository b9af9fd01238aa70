//! Acting: publish an event, disconnect a user, drain the node, change the log. Only operators may.
//! The page's panel *Try* asks, and scripts do.

use std::time::Duration;
use std::time::Instant;

use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;
use tracing::level_filters::LevelFilter;

use crate::dashboard::Dashboard;
use crate::dashboard::access::Actor;
use crate::dashboard::answer;
use crate::dashboard::answer::Failure;
use crate::dashboard::connections;
use crate::dashboard::request::Action;
use crate::node::Publication;
use crate::protocol::code::TERMINATED;
use crate::protocol::publish::PublisherEvent;
use crate::registry::connections::Wanted;
use crate::registry::inbox::ShardMessage;
use crate::watch::filter;
use crate::watch::now_ms;
use crate::watch::verbosity::Detour;

/// Minutes that a change of the log may last.
const LOG_MINUTES_MAX: u64 = 24 * 60;
/// Characters of a name in the log.
const SHOWN_CHARS_MAX: usize = 200;

#[derive(Deserialize)]
pub(super) struct Publish {
    app: String,
    channel: String,
    event: String,
    data: Value,
    #[serde(default)]
    except: Option<String>,
}

/// `POST /dashboard/api/publish`.
pub(super) async fn publish(
    Action { dashboard, actor: Actor { role, address }, body: wanted }: Action<Publish>,
) -> Result<Response, Failure> {
    let app = dashboard.app(&wanted.app)?;
    let rules = app.rules_for_request();
    // As with Pusher's libraries, data that is no text is sent as JSON in a text.
    let data = match wanted.data {
        Value::String(text) => text,
        data => data.to_string(),
    };
    let mut body = json!({ "name": wanted.event, "channel": wanted.channel, "data": data });
    if let Some(except) = wanted.except.filter(|except| !except.is_empty()) {
        body["socket_id"] = except.into();
    }
    let body = body.to_string();
    // An operator's event is checked like a publisher's.
    let event = PublisherEvent::parse(body.as_bytes(), rules.publish_limits());
    let mut event = event.map_err(|error| Failure::bad(format!("{error}.")))?;
    let redirected = event.redirect(|channel| rules.destination(channel));
    redirected.map_err(|error| Failure::new(StatusCode::FORBIDDEN, format!("{error}.")))?;
    let admitted = dashboard.node().admit(&rules, 1).await;
    admitted.map_err(|error| Failure::new(StatusCode::SERVICE_UNAVAILABLE, format!("{error}.")).retry_after(1))?;
    let channel = event.channels[0].clone();
    let mut nodes = vec![json!({ "node": dashboard.id(), "sockets": app.subscribers(&channel) })];
    if let Some(cluster) = dashboard.node().cluster() {
        let others = cluster.subscriptions_by_node(&app.id, &channel).await;
        nodes.extend(others.iter().map(|(node, sockets)| json!({ "node": node.to_string(), "sockets": sockets })));
    }
    let publication = Publication { name: &event.name, data: &event.data, except: event.except };
    app.publish(&rules, &channel, &publication, Instant::now());
    tracing::info!(
        role, %address, app = wanted.app, channel = channel.as_str(), event = &*event.name,
        "an operator publishes an event"
    );
    Ok(answer::json(&json!({
        "channel": channel.as_str(),
        "nodes": nodes,
        "thinned_by": rules.thinned_by(&channel, &event.name),
    })))
}

#[derive(Deserialize)]
pub(super) struct Disconnect {
    app: String,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    socket: Option<String>,
}

/// `POST /dashboard/api/disconnect`.
pub(super) async fn disconnect(
    Action { dashboard, actor: Actor { role, address }, body: wanted }: Action<Disconnect>,
) -> Result<Response, Failure> {
    let app = dashboard.app(&wanted.app)?;
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (user, socket) = (some(wanted.user), some(wanted.socket));
    let (shown_user, shown_socket) = (user.as_deref().map(cut), socket.as_deref().map(cut));
    let closed = match (&user, &socket) {
        (Some(user), None) => {
            let closed = app.terminate(user).await;
            closed.map_err(|error| Failure::new(StatusCode::SERVICE_UNAVAILABLE, format!("{error}.")).retry_after(1))?
        }
        (None, Some(socket)) => {
            let question = json!({ "path": "close", "app": wanted.app, "socket": socket });
            let (own, (others, failed)) =
                tokio::join!(dashboard.close_own_socket(&wanted.app, socket.clone()), dashboard.ask_all(&question));
            let closed = others.iter().filter_map(|answer| answer["closed"].as_u64());
            let closed = closed.fold(own, u64::saturating_add);
            // The connection may be on a node that lets no operator act.
            match failed.into_iter().map(|(_, failure)| failure).find(Failure::is_forbidden) {
                Some(forbidden) if closed == 0 => return Err(forbidden),
                _ => closed,
            }
        }
        _ => return Err(Failure::bad("Name either a user or a socket to disconnect.")),
    };
    let (app, user, socket) = (&*wanted.app, shown_user, shown_socket);
    tracing::info!(role, %address, app, user, socket, closed, "an operator closes connections");
    Ok(answer::json(&json!({ "closed": closed })))
}

impl Dashboard {
    /// Closes a connection of this node. Returns how many there were.
    pub(super) async fn close_own_socket(&self, app: &str, socket: String) -> u64 {
        let wanted = Wanted { app: Some(app.to_owned()), socket: Some(socket), ..Wanted::default() };
        let (found, _) = connections::find(self.node(), wanted, 1).await;
        for connection in &found {
            let close = ShardMessage::Close(connection.place.slot, TERMINATED);
            self.node().inboxes().send(connection.place.shard.into(), close);
        }
        found.len() as u64
    }
}

/// The beginning of a name that somebody has sent, for the log.
fn cut(name: &str) -> &str {
    let end = name.char_indices().nth(SHOWN_CHARS_MAX).map_or(name.len(), |(end, _)| end);
    &name[..end]
}

#[derive(Deserialize)]
pub(super) struct Drain {
    node: String,
}

/// `POST /dashboard/api/drain`.
pub(super) async fn drain(
    Action { dashboard, actor: Actor { role, address }, body: Drain { node } }: Action<Drain>,
) -> Result<Response, Failure> {
    tracing::info!(role, %address, node = cut(&node), "an operator drains a node");
    match node == dashboard.id() {
        true => dashboard.drain.cancel(),
        false => drop(dashboard.ask(&node, &json!({ "path": "drain" })).await?),
    }
    Ok(answer::respond(StatusCode::ACCEPTED, &json!({ "node": node })))
}

#[derive(Deserialize)]
pub(super) struct Log {
    level: String,
    #[serde(default)]
    minutes: Option<u64>,
    #[serde(default)]
    app: Option<String>,
    #[serde(default)]
    channel: Option<String>,
    #[serde(default)]
    user: Option<String>,
}

/// `POST /dashboard/api/log`.
pub(super) async fn log(
    Action { dashboard, actor: Actor { role, address }, body: wanted }: Action<Log>,
) -> Result<Response, Failure> {
    let level = match &*wanted.level {
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return Err(Failure::bad("level is info, debug or trace.")),
    };
    let minutes = wanted.minutes.unwrap_or(10);
    if !(1..=LOG_MINUTES_MAX).contains(&minutes) {
        return Err(Failure::bad(format!("minutes is from 1 to {LOG_MINUTES_MAX}.")));
    }
    let Some(verbosity) = &dashboard.verbosity else {
        return Err(Failure::new(StatusCode::CONFLICT, "This process writes no log of its own."));
    };
    let time = Duration::from_secs(minutes * 60);
    let some = |name: &str, text: Option<String>| match text.filter(|text| !text.is_empty()) {
        Some(text) => answer::short_pattern(name, text).map(|text| Some(filter::one_star_each(&text))),
        None => Ok(None),
    };
    let (app, channel, user) = (some("app", wanted.app)?, some("channel", wanted.channel)?, some("user", wanted.user)?);
    let log_level = &*wanted.level;
    tracing::info!(role, %address, log_level, minutes, app, channel, user, "an operator changes the log for a time");
    verbosity.set_detour(Detour { level, until: Instant::now() + time, app, channel, user });
    Ok(answer::json(&json!({ "until_ms": now_ms() + minutes * 60_000 })))
}
