//! Options that Soketi hands on to its Redis client as JSON.
//! `soketi` calls it.

use serde_json::Value as Json;

/// The options that we understand, and the faults of the others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::config) struct Options {
    pub(in crate::config) tls: bool,
    /// Whether any certificate will do.
    pub(in crate::config) unverified: bool,
    /// Names without an effect here.
    pub(in crate::config) idle: Vec<String>,
    /// Ends of sentences, without values: those may be secret.
    pub(in crate::config) faults: Vec<String>,
}

/// Reads options such as `{"tls":{}}`.
pub(in crate::config) fn options(text: &str) -> Options {
    let mut options = Options::default();
    let Ok(Json::Object(given)) = serde_json::from_str(text) else {
        options.faults.push("must be a JSON object, such as {\"tls\":{}}".to_owned());
        return options;
    };
    for (name, value) in &given {
        match (name.as_str(), value) {
            ("tls", Json::Null | Json::Bool(false)) => (),
            ("tls", Json::Bool(true)) => options.tls = true,
            ("tls", Json::Object(details)) => {
                options.tls = true;
                options.unverified = details.get(VERIFY) == Some(&Json::Bool(false));
                let others = details.iter().filter(|detail| !is_about_trust(*detail));
                options.faults.extend(others.map(|(detail, _)| {
                    format!(
                        "has tls.{detail}, which gema does not know: it trusts the system's certificate authorities; \
                         add yours to them, and write {{\"tls\":{{}}}} or set GEMA_REDIS_TLS"
                    )
                }));
            }
            (option, _) if is_idle(option) => options.idle.push(name.clone()),
            _ => options.faults.push(match own_variable(name) {
                Some(variable) => format!("has {name}, which is set elsewhere; remove it there and set {variable}"),
                None => {
                    format!("has {name}, which gema does not know; remove it, see [redis] and GEMA_REDIS_* for what it knows")
                }
            }),
        }
    }
    options
}

/// Node's name for checking a server's certificate.
const VERIFY: &str = "rejectUnauthorized";

/// Whether a detail of TLS says only whether the server's certificate is checked.
pub(in crate::config) fn is_about_trust((name, value): (&String, &Json)) -> bool {
    name == VERIFY && value.is_boolean()
}

/// Options that tell how hard a connection is tried, not where it leads or how it is protected.
#[rustfmt::skip]
const IDLE: [&str; 25] = [
    "autoResendUnfulfilledCommands", "autoResubscribe", "commandTimeout", "connectTimeout", "connectionName",
    "disconnectTimeout", "dropBufferSupport", "enableAutoPipelining", "enableOfflineQueue", "enableReadyCheck",
    "family", "keepAlive", "lazyConnect", "maxLoadingRetryTime", "maxRetriesPerRequest", "noDelay",
    "retryDelayOnClusterDown", "retryDelayOnFailover", "retryDelayOnTryAgain", "scaleReads", "sentinelCommandTimeout",
    "sentinelMaxConnections", "showFriendlyErrorStack", "slotsRefreshTimeout", "updateSentinels",
];

/// Whether an option has no effect here.
pub(in crate::config) fn is_idle(option: &str) -> bool {
    IDLE.contains(&option)
}

/// The variable for what ioredis calls `option`.
fn own_variable(option: &str) -> Option<&'static str> {
    Some(match option {
        "host" => "GEMA_REDIS_HOST",
        "port" => "GEMA_REDIS_PORT",
        "path" => "GEMA_REDIS_URL to unix:// and the path",
        "db" => "GEMA_REDIS_DB",
        "username" => "GEMA_REDIS_USERNAME",
        "password" => "GEMA_REDIS_PASSWORD",
        "keyPrefix" => "GEMA_REDIS_KEY_PREFIX",
        "sentinels" => "GEMA_REDIS_SENTINELS",
        "sentinelPassword" => "GEMA_REDIS_SENTINEL_PASSWORD",
        "name" => "GEMA_REDIS_SENTINEL_MASTER",
        "tls" => "GEMA_REDIS_TLS",
        _ => return None,
    })
}

/// `host:port` for each element of an array such as `[{"host":"redis-1","port":6379}]`; none if it is
/// something else.
pub(in crate::config) fn nodes(text: &str, port: u16) -> Option<Vec<String>> {
    let nodes: Vec<Json> = serde_json::from_str(text).ok()?;
    nodes.iter().map(|element| node(element, port)).collect()
}

fn node(element: &Json, port: u16) -> Option<String> {
    if let Some(text) = element.as_str() {
        return Some(text.to_owned());
    }
    let fields = element.as_object().filter(|fields| fields.keys().all(|name| name == "host" || name == "port"))?;
    let host = fields.get("host")?.as_str()?;
    let port = match fields.get("port") {
        None => port.to_string(),
        Some(Json::String(port)) => port.clone(),
        Some(port) => port.as_u64()?.to_string(),
    };
    Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_options_tls_counts() {
        for (text, tls) in
            [("{}", false), (r#"{"tls":null}"#, false), (r#"{"tls":{}}"#, true), (r#"{"tls":true}"#, true)]
        {
            assert_eq!(options(text), Options { tls, ..Options::default() }, "{text}");
        }
    }

    #[test]
    fn other_options_are_named_with_what_to_set_and_never_shown() {
        assert!(options(r#"{"tls":{"rejectUnauthorized":false}}"#).unverified);
        assert!(!options(r#"{"tls":{"rejectUnauthorized":true}}"#).unverified);
        let found = options(r#"{"password":"hush","tls":{"ca":"hush"},"natMap":1,"sentinels":[]}"#).faults;
        assert_eq!(found.len(), 4, "{found:#?}");
        assert_eq!(found[0], "has password, which is set elsewhere; remove it there and set GEMA_REDIS_PASSWORD");
        assert!(found[1].starts_with("has tls.ca, which gema does not know"), "{found:#?}");
        assert!(found[2].starts_with("has natMap, which gema does not know; remove it"), "{found:#?}");
        assert!(found[3].ends_with("GEMA_REDIS_SENTINELS"), "{found:#?}");
        assert!(!found.concat().contains("hush"));
        for text in ["hush", "[]", "1"] {
            assert_eq!(options(text).faults, ["must be a JSON object, such as {\"tls\":{}}"]);
        }
    }

    #[test]
    fn what_only_says_how_hard_to_try_is_idle() {
        let found = options(r#"{"lazyConnect":true,"maxRetriesPerRequest":null}"#);
        assert_eq!(found.idle, ["lazyConnect", "maxRetriesPerRequest"]);
        assert!(found.faults.is_empty() && !found.tls);
    }

    #[test]
    fn nodes_become_host_and_port() {
        let text = r#"[{"host":"a","port":1},{"host":"b","port":"2"},{"host":"c"},{"host":"::1","port":4},"d:5"]"#;
        assert_eq!(nodes(text, 3).unwrap(), ["a:1", "b:2", "c:3", "[::1]:4", "d:5"]);
        for text in
            ["a:1", "{}", r#"[{"port":1}]"#, r#"[{"host":"a","port":null}]"#, r#"[{"host":"a","password":"p"}]"#]
        {
            assert_eq!(nodes(text, 3), None, "{text}");
        }
    }
}
