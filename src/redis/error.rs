//! Errors of Redis: their causes, and remedies for the log.
//! The links call it to decide whether to go on.

use std::io;

use redis::RedisError;

use crate::config;

/// An error of ours on a connection to Redis.
pub fn fault(text: &'static str) -> RedisError {
    io::Error::other(text).into()
}

/// Whether this server cannot serve the connection any more: it was restarted, is a replica now, has left its cluster,
/// has lost the slot, or refuses this user.
pub fn is_no_use(error: &RedisError) -> bool {
    let codes = ["NOSCRIPT", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "NOAUTH", "NOPERM"];
    error.code().is_some_and(|code| codes.contains(&code))
}

/// Whether Redis has no memory left. It still delivers messages that are published.
pub fn is_full(error: &RedisError) -> bool {
    // A Redis before 7.0 answers a script with the second.
    error.code() == Some("OOM") || error.to_string().contains("-OOM command not allowed")
}

/// A remedy for an error whose text helps only those who know Redis well.
pub fn advice(error: &RedisError, options: &config::Redis) -> Option<&'static str> {
    let text = error.to_string();
    let has_all = |parts: &[&str]| parts.iter().all(|part| text.contains(part));
    match () {
        () if has_all(&["unknown command", "HELLO"]) => Some("Redis must be version 6.0 or later"),
        () if has_all(&["unknown command", "SSUBSCRIBE"]) => Some("a Redis Cluster must be version 7.0 or later"),
        () if error.code() == Some("MOVED") && options.cluster_nodes.is_empty() => {
            Some("this is a node of a Redis Cluster; name it in redis.cluster_nodes")
        }
        () if has_all(&["UnknownIssuer"]) => Some(
            "SSL_CERT_FILE may name a file with the authority's certificate; redis.tls_verify = false takes any, which is \
             safe on a network of your own only",
        ),
        () if has_all(&["CertificateRequired"]) => {
            Some("gema has no certificate of its own to show; Redis must run with tls-auth-clients no")
        }
        () => None,
    }
}

/// Whether the key is not, or not yet, where the slot is going.
pub(super) fn is_of_a_moving_slot(error: &RedisError) -> bool {
    error.code().is_some_and(|code| ["ASK", "TRYAGAIN"].contains(&code))
}

/// Whether the connection failed, not one command.
pub(super) fn is_of_the_link(error: &RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.is_connection_dropped() || error.is_unrecoverable_error()
}

/// Whether only the command's own key is wrong. A Redis before 7.0 answers ERR for every error within a script.
pub(super) fn is_of_one_command(error: &RedisError) -> bool {
    let text = error.to_string();
    matches!(error.code(), Some("ERR" | "WRONGTYPE"))
        && !["OOM", "READONLY", "MISCONF"].iter().any(|code| text.contains(code))
}
