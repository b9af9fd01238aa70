//! The tables of events: which kind of row an event is, and which problem a warning is.
//! `live` and `problems` look here.

use crate::watch::record::Record;

/// The kinds of rows, by the beginning of the event's sentence.
const KINDS: &[(&str, &str)] = &[
    ("connected", "connect"),
    ("disconnected", "disconnect"),
    ("closed by the server", "disconnect"),
    ("subscribed", "subscribe"),
    ("unsubscribed", "unsubscribe"),
    ("signed in", "sign_in"),
    ("published", "publish"),
    ("client event", "client_event"),
    ("webhook delivered", "webhook"),
    ("webhook not accepted", "webhook"),
];

/// The kind of the row of an event.
pub(super) fn kind(record: &Record) -> &'static str {
    if is_refusal(record) {
        return "refusal";
    }
    if record.target.starts_with("gema::webhook") {
        return "webhook";
    }
    KINDS.iter().find(|(text, _)| record.text == *text).map_or("log", |(_, kind)| kind)
}

/// Whether the event has another one with data beside it, where the page shows data.
pub(super) fn has_data(record: &Record) -> bool {
    ["publish", "client_event"].contains(&kind(record))
}

/// Whether the event is the log's line of a refusal.
pub(super) fn is_refusal(record: &Record) -> bool {
    record.target == "gema::refusal" && record.field("cause").is_some()
}

/// A problem that is no refusal: the beginning of its sentence, its code, and the remedy.
type Problem = (&'static str, &'static str, &'static str);

const PROBLEMS: &[Problem] = &[
    ("there is no link to Redis", "redis_absent", REDIS),
    ("the link to Redis is lost", "redis_lost", REDIS),
    ("there is no link to NATS", "nats_absent", NATS),
    ("the link to NATS is lost", "nats_lost", NATS),
    ("the other nodes miss an event", "nats_payload", "raise max_payload in the configuration of nats-server"),
    ("the other nodes miss", "outage_drops", OUTAGE),
    (
        "NATS refuses a command",
        "nats_refuses",
        "look at error; the user of NATS needs the rights in docs/several-nodes.md",
    ),
    ("NATS stores nothing more", "nats_memory", JETSTREAM),
    ("JetStream has no memory left", "nats_memory", JETSTREAM),
    ("NATS does not tell what is on the other nodes", "nats_query", NATS),
    ("Redis is out of memory", "redis_memory", "raise Redis' maxmemory, or give gema a Redis of its own"),
    (
        "Redis refuses a command",
        "redis_refuses",
        "look at error; the user of redis.username needs the rights in docs/several-nodes.md",
    ),
    (
        "Redis refuses something that webhooks need",
        "redis_refuses_webhooks",
        "look at error; give the user of redis.username the rights for streams",
    ),
    ("Redis does not tell what is on the other nodes", "redis_query", REDIS),
    ("the link is too slow", "redis_slow", "look at the latency of Redis or NATS, and at the network between"),
    (
        "a Soketi server uses the same Redis",
        "soketi_in_redis",
        "set redis.key_prefix or cluster.name here to another value, or stop Soketi",
    ),
    ("a node is dead", "node_dead", "look at the node's log and at its machine; its clients have gone to the others"),
    (
        "the other nodes took this one for dead",
        "node_taken_for_dead",
        "look whether this machine was suspended, or Redis or NATS too slow",
    ),
    ("not every node", "node_silent", "look whether one of the nodes hangs: Status shows when each was last seen"),
    ("views see what is published on this node only", "views_local", "look at advice"),
    (
        "a webhook is not delivered",
        "webhook_failed",
        "look at error: the endpoint must answer with 2xx within webhooks.timeout_seconds",
    ),
    (
        "a webhook is given up",
        "webhook_lost",
        "correct the endpoint; raise webhooks.retry_seconds to keep events for longer",
    ),
    (
        "SQS does not take webhooks",
        "sqs_put",
        "look at error; the account needs sqs:SendMessage on the queue of sqs.queue_url",
    ),
    (
        "SQS does not give webhooks back",
        "sqs_take",
        "look at error; the account needs sqs:ReceiveMessage, DeleteMessage and ChangeMessageVisibility",
    ),
    ("a message in SQS is no webhook", "sqs_foreign", "give gema a queue of its own in sqs.queue_url"),
    (
        "no time is left to send these events to webhooks",
        "webhook_left",
        "raise server.drain_seconds, or set webhooks.driver = \"redis\" so that events outlive a restart",
    ),
    (
        "a connection could not be accepted",
        "accept_failed",
        "raise the limit of open files: LimitNOFILE= of systemd, ulimit -n of a shell",
    ),
    (
        "an event from Redis is dropped",
        "ingest_dropped",
        "look at channel; ingest.prefixes must name the app, and the event must keep to its limits",
    ),
    (
        "Laravel's events in Redis have no app now",
        "ingest_no_app",
        "name an existing app behind the = of ingest.prefixes",
    ),
    ("a message in Redis is", "ingest_dropped", "look at channel"),
    (
        "the app store",
        "store_away",
        "look at reason, at the database and at app_store.driver's section: host, port, username, password, table",
    ),
    ("lines of the log are lost", "log_lost", "let the log's reader keep up, or set log.level = \"info\""),
    ("these values have changed, but take effect with a restart only", "restart_needed", "restart this node"),
    (
        "the configuration has not changed",
        "config_faults",
        "correct what the lines before name, then send SIGHUP again",
    ),
    (
        "connections.connections_max is more than",
        "files_limit",
        "raise the limit of open files, or lower connections.connections_max",
    ),
    (
        "a WebSocket handshake came over HTTP/1.0 or without",
        "bare_handshake",
        "let the proxy pass Upgrade and Connection over HTTP/1.1: proxy_http_version 1.1; and the two headers",
    ),
    ("the link to Redis for limits per second is lost", "limiter_local", REDIS),
];

const REDIS: &str = "look whether Redis runs and whether redis.host, redis.port and redis.password are right";

const NATS: &str = "look whether NATS runs with JetStream, and whether nats.servers and its credentials are right";

const JETSTREAM: &str = "raise max_memory_store in the configuration of nats-server, or find out who fills it";

const OUTAGE: &str = "look at Redis or NATS; a greater cluster.buffer_seconds keeps more, cluster.outage = \"buffer\" drops \
                      nothing and refuses publishers";

/// The code and the remedy of a warning that is no refusal. Warnings that are not listed share the code of their module,
/// and bring their remedy in the sentence.
pub(super) fn problem(record: &Record) -> (String, &'static str) {
    let known = PROBLEMS.iter().find(|(text, ..)| record.text.starts_with(text));
    known.map_or_else(
        || {
            let module = record.target.split("::").nth(1).unwrap_or("gema");
            (format!("{module}_warning"), "")
        },
        |(_, code, remedy)| ((*code).to_owned(), remedy),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// All source of a folder, with the texts that go over several lines as one.
    fn read_all(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read_all(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("watch/kinds.rs") {
                let source = fs::read_to_string(&path).unwrap();
                text.extend(source.split("\\\n").map(|part| part.trim_start()));
            }
        }
    }

    #[test]
    fn each_sentence_is_one_that_the_log_has() {
        let mut source = String::new();
        read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut source);
        let sentences = KINDS.iter().map(|(text, _)| *text).chain(PROBLEMS.iter().map(|(text, ..)| *text));
        let unknown: Vec<_> = sentences.filter(|text| !source.contains(&format!("\"{text}"))).collect();
        assert_eq!(unknown, [""; 0]);
    }
}
