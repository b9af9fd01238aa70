//! The sentence at the top of the page: the worst of what is wrong, or that all is well.
//! `dashboard` fills in the situation each second.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

/// How well things are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Nothing to do.
    #[default]
    Ok,
    /// Degraded, going on.
    Warn,
    /// Somebody is without service, or events are lost.
    Bad,
}

impl Level {
    /// The name on the page.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// The sentence, and what it is made of, for pages in other languages.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Glance {
    /// How well things are.
    pub level: Level,
    /// The rule that has decided.
    pub code: &'static str,
    /// The numbers and names in the sentence.
    pub values: Map<String, Value>,
    /// The sentence in English.
    pub text: String,
}

/// The situation that the rules look at.
#[derive(Debug, Clone, Default)]
pub struct Situation {
    /// Nodes that serve, this one included.
    pub nodes: usize,
    /// The names of nodes that do not report any more.
    pub lost: Vec<String>,
    /// This node closes its connections.
    pub is_draining: bool,
    /// WebSocket connections of all nodes.
    pub connections: u64,
    /// As many as there may be on this node; 0 without a limit.
    pub connections_max: u64,
    /// Connections of this node.
    pub connections_here: u64,
    /// Events accepted each second, on all nodes.
    pub events: f64,
    /// The program in which the nodes meet, for people.
    pub meets_in: &'static str,
    /// For how many seconds it has been away, if it is needed.
    pub redis_away: Option<u64>,
    /// How much of the buffer for other nodes is used, from 0 to 1.
    pub buffer: f64,
    /// Events that the other nodes miss since it is away. `None` where publishers are refused instead.
    pub missed: Option<u64>,
    /// The database with the apps does not answer.
    pub is_store_away: bool,
    /// Events each second that did not reach their readers.
    pub drops: f64,
    /// Events for webhooks that wait, and how many may.
    pub webhooks: (u64, u64),
    /// The newest problem that is an error and not resolved.
    pub error: Option<String>,
    /// The most frequent refusal of the last minute in words, and how often.
    pub refused: Option<(String, u64)>,
}

/// The share of a limit from which on it is worth a sentence.
const NEARLY_FULL: f64 = 0.9;
/// Refusals a minute from which on they are worth a sentence: one page that is wrong tries that often.
const REFUSALS_MIN: u64 = 3;

/// The sentence for these situation. The rules stand in order: the first that applies decides.
pub fn glance(situation: &Situation) -> Glance {
    const RULES: [fn(&Situation) -> Option<Glance>; 12] = [
        buffer_full,
        missed,
        server_full,
        store_away,
        redis_away,
        lost_nodes,
        drops,
        errors,
        draining,
        nearly_full,
        webhooks,
        refusals,
    ];
    RULES.iter().find_map(|rule| rule(situation)).unwrap_or_else(|| all_well(situation))
}

fn glance_of(level: Level, code: &'static str, values: Value, text: String) -> Glance {
    let Value::Object(values) = values else { return Glance { level, code, values: Map::new(), text } };
    Glance { level, code, values, text }
}

fn buffer_full(situation: &Situation) -> Option<Glance> {
    let seconds = situation.redis_away.filter(|_| situation.buffer >= 1.0 && situation.missed.is_none())?;
    let text = format!(
        "{} has been away for {}. The buffer is full, so publishers are refused until it is back.",
        situation.meets_in,
        time(seconds)
    );
    Some(glance_of(Level::Bad, "buffer_full", json!({ "seconds": seconds, "program": situation.meets_in }), text))
}

fn missed(situation: &Situation) -> Option<Glance> {
    let (seconds, events) = (situation.redis_away?, situation.missed.filter(|&events| events > 0)?);
    let text = format!(
        "{} has been away for {}. Each node serves its own pages; those on other nodes miss {} events of this one.",
        situation.meets_in,
        time(seconds),
        grouped(events)
    );
    Some(glance_of(
        Level::Bad,
        "outage_local",
        json!({ "seconds": seconds, "program": situation.meets_in, "events": events }),
        text,
    ))
}

fn server_full(situation: &Situation) -> Option<Glance> {
    let Situation { connections_here, connections_max, .. } = *situation;
    (connections_max > 0 && connections_here >= connections_max).then(|| {
        let (here, max) = (grouped(connections_here), grouped(connections_max));
        let text = format!("This node is full: {here} of {max} connections. Further pages are refused.");
        glance_of(Level::Bad, "server_full", json!({ "connections": connections_here, "max": connections_max }), text)
    })
}

fn store_away(situation: &Situation) -> Option<Glance> {
    situation.is_store_away.then(|| {
        let text = "The database with the apps does not answer. Apps in use go on; others cannot connect.";
        glance_of(Level::Bad, "store_away", json!({}), text.to_owned())
    })
}

fn redis_away(situation: &Situation) -> Option<Glance> {
    let seconds = situation.redis_away?;
    let percent = (situation.buffer * 100.0).ceil();
    let text = format!(
        "{} has been away for {}. Events don't cross between nodes; nothing is lost yet ({percent} % of the buffer \
         used).",
        situation.meets_in,
        time(seconds)
    );
    Some(glance_of(
        Level::Bad,
        "redis_away",
        json!({ "seconds": seconds, "program": situation.meets_in, "percent": percent }),
        text,
    ))
}

fn lost_nodes(situation: &Situation) -> Option<Glance> {
    let name = situation.lost.first()?;
    let (lost, all) = (situation.lost.len(), situation.lost.len() + situation.nodes);
    let text = match lost {
        1 => format!("1 of {all} nodes does not report any more: {name}."),
        _ => format!("{lost} of {all} nodes do not report any more: {}.", situation.lost.join(", ")),
    };
    Some(glance_of(Level::Bad, "nodes_lost", json!({ "lost": lost, "nodes": all, "names": situation.lost }), text))
}

fn drops(situation: &Situation) -> Option<Glance> {
    (situation.drops > 0.0).then(|| {
        let text =
            format!("{}/s events do not reach their pages, because these read too slowly.", rate(situation.drops));
        glance_of(Level::Warn, "drops", json!({ "drops": situation.drops }), text)
    })
}

fn errors(situation: &Situation) -> Option<Glance> {
    let error = situation.error.as_ref()?;
    Some(glance_of(Level::Bad, "error", json!({ "sentence": error }), format!("Somebody must act: {error}.")))
}

fn draining(situation: &Situation) -> Option<Glance> {
    situation.is_draining.then(|| {
        let left = situation.connections_here;
        let text = format!("This node is closing: {} connections are left.", grouped(left));
        glance_of(Level::Warn, "draining", json!({ "connections": left }), text)
    })
}

fn nearly_full(situation: &Situation) -> Option<Glance> {
    let Situation { connections_here: here, connections_max: max, .. } = *situation;
    (max > 0 && here as f64 >= NEARLY_FULL * max as f64).then(|| {
        let text = format!("This node is nearly full: {} of {} connections.", grouped(here), grouped(max));
        glance_of(Level::Warn, "nearly_full", json!({ "connections": here, "max": max }), text)
    })
}

fn webhooks(situation: &Situation) -> Option<Glance> {
    let (waiting, max) = situation.webhooks;
    (max > 0 && waiting as f64 >= NEARLY_FULL * max as f64).then(|| {
        let text = format!("Webhooks do not get through: {} events wait.", grouped(waiting));
        glance_of(Level::Warn, "webhooks_waiting", json!({ "waiting": waiting, "max": max }), text)
    })
}

fn refusals(situation: &Situation) -> Option<Glance> {
    let (sentence, count) = situation.refused.as_ref().filter(|(_, count)| *count >= REFUSALS_MIN)?;
    let text = format!("{} refusals in the last minute, most of them because {sentence}.", grouped(*count));
    Some(glance_of(Level::Warn, "refusals", json!({ "count": count, "sentence": sentence }), text))
}

fn all_well(situation: &Situation) -> Glance {
    let (nodes, connections, events) = (situation.nodes, situation.connections, situation.events);
    let nodes_text = if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") };
    let pages = if connections == 1 { "1 page".to_owned() } else { format!("{} pages", grouped(connections)) };
    let text = format!("All well: {nodes_text}, {pages} connected, {} events/s.", rate(events));
    glance_of(Level::Ok, "all_well", json!({ "nodes": nodes, "connections": connections, "events": events }), text)
}

/// `1,204`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `38`, or `0.4` below ten.
fn rate(per_second: f64) -> String {
    match per_second {
        small if small > 0.0 && small < 9.95 && small.fract() != 0.0 => format!("{small:.1}"),
        large => grouped(large.round() as u64),
    }
}

/// `42 s`, `3 min`, `2 h`
fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(change: impl FnOnce(&mut Situation)) -> (&'static str, &'static str, String) {
        let mut situation = Situation {
            meets_in: "Redis",
            nodes: 2,
            connections: 1204,
            connections_here: 600,
            connections_max: 1000,
            events: 38.0,
            webhooks: (0, 100),
            ..Situation::default()
        };
        change(&mut situation);
        let Glance { level, code, text, .. } = glance(&situation);
        (level.name(), code, text)
    }

    fn is(change: impl FnOnce(&mut Situation), level: &str, code: &str, text: &str) {
        let said = said(change);
        assert_eq!((said.0, said.1, &*said.2), (level, code, text));
    }

    #[test]
    fn each_rule_has_its_sentence() {
        is(|_| (), "ok", "all_well", "All well: 2 nodes, 1,204 pages connected, 38 events/s.");
        is(
            |situation| (situation.nodes, situation.connections, situation.events) = (1, 1, 0.42),
            "ok",
            "all_well",
            "All well: 1 node, 1 page connected, 0.4 events/s.",
        );
        is(
            |situation| (situation.redis_away, situation.buffer) = (Some(42), 0.18),
            "bad",
            "redis_away",
            "Redis has been away for 42 s. Events don't cross between nodes; nothing is lost yet (18 % of the buffer used).",
        );
        is(
            |situation| (situation.redis_away, situation.buffer) = (Some(180), 1.0),
            "bad",
            "buffer_full",
            "Redis has been away for 3 min. The buffer is full, so publishers are refused until it is back.",
        );
        is(
            |situation| (situation.redis_away, situation.buffer, situation.missed) = (Some(4), 1.0, Some(0)),
            "bad",
            "redis_away",
            "Redis has been away for 4 s. Events don't cross between nodes; nothing is lost yet (100 % of the buffer \
             used).",
        );
        is(
            |situation| (situation.redis_away, situation.buffer, situation.missed) = (Some(180), 1.0, Some(1204)),
            "bad",
            "outage_local",
            "Redis has been away for 3 min. Each node serves its own pages; those on other nodes miss 1,204 events of \
             this one.",
        );
        is(
            |situation| situation.connections_here = 1000,
            "bad",
            "server_full",
            "This node is full: 1,000 of 1,000 connections. Further pages are refused.",
        );
        is(
            |situation| situation.connections_here = 900,
            "warn",
            "nearly_full",
            "This node is nearly full: 900 of 1,000 connections.",
        );
        is(
            |situation| situation.is_store_away = true,
            "bad",
            "store_away",
            "The database with the apps does not answer. Apps in use go on; others cannot connect.",
        );
        is(
            |situation| situation.lost = vec!["web-3".to_owned()],
            "bad",
            "nodes_lost",
            "1 of 3 nodes does not report any more: web-3.",
        );
        is(
            |situation| situation.lost = vec!["web-3".to_owned(), "web-4".to_owned()],
            "bad",
            "nodes_lost",
            "2 of 4 nodes do not report any more: web-3, web-4.",
        );
    }

    #[test]
    fn rules_that_are_less_serious_have_sentences_too() {
        is(
            |situation| situation.drops = 12.0,
            "warn",
            "drops",
            "12/s events do not reach their pages, because these read too slowly.",
        );
        is(
            |situation| situation.error = Some("the app store cannot be used".to_owned()),
            "bad",
            "error",
            "Somebody must act: the app store cannot be used.",
        );
        is(
            |situation| situation.is_draining = true,
            "warn",
            "draining",
            "This node is closing: 600 connections are left.",
        );
        is(
            |situation| situation.webhooks = (95, 100),
            "warn",
            "webhooks_waiting",
            "Webhooks do not get through: 95 events wait.",
        );
        is(
            |situation| situation.refused = Some(("a subscription's signature is wrong".to_owned(), 12)),
            "warn",
            "refusals",
            "12 refusals in the last minute, most of them because a subscription's signature is wrong.",
        );
        is(
            |situation| situation.refused = Some(("a subscription's signature is wrong".to_owned(), 2)),
            "ok",
            "all_well",
            "All well: 2 nodes, 1,204 pages connected, 38 events/s.",
        );
    }

    #[test]
    fn the_worst_decides() {
        let everything = |situation: &mut Situation| {
            situation.redis_away = Some(5000);
            situation.drops = 1.0;
            situation.lost = vec!["a".to_owned()];
            situation.refused = Some(("x".to_owned(), 100));
        };
        assert_eq!(said(everything).1, "redis_away");
        assert!(said(everything).2.starts_with("Redis has been away for 83 min."));
        let text = said(|situation| situation.redis_away = Some(7200)).2;
        assert!(text.starts_with("Redis has been away for 2 h."), "{text}");
        let text = said(|situation| (situation.redis_away, situation.meets_in) = (Some(7200), "NATS")).2;
        assert!(text.starts_with("NATS has been away for 2 h."), "{text}");
    }
}
