//! An app from a row of a database, checked like one from a file. Tables hold values that Soketi lets pass, so a detail
//! that is wrong costs that detail and not the app. `store` calls it.

use config::{Map, Value, ValueKind};
use serde_json::Value as Json;

use crate::config::build;
use crate::config::build::Build;
use crate::config::fault::{Fault, FaultList};
use crate::config::schema;
use crate::config::settings::allowed_origins;
use crate::config::settings::apps;
use crate::config::settings::flow_rules;
use crate::config::settings::history_rules;
use crate::config::settings::webhooks;
use crate::config::settings::webhooks::LeftOut;
use crate::config::warnings;
use crate::config::{App, AppEntry, Limits, RawClients};

/// Limits that bound sizes and times, and rules for floods and histories, which protect nobody. A row whose value for one of them cannot be
/// used is served with that of `[limits]`. Nothing stands in for the others: they protect by what they say.
#[rustfmt::skip]
const REPLACED: [&str; 14] = [
    "max_presence_members_per_channel", "max_presence_member_size_in_kb", "max_presence_user_id_length",
    "max_channel_name_length", "max_event_channels_at_once", "max_event_name_length", "max_event_payload_in_kb",
    "max_event_batch_size", "max_watchlist_size", "cache_ttl_seconds", "user_authentication_timeout_seconds",
    "flow_rules", "history_rules", "history_bytes_max",
];

/// Without doubt nobody may hear what was meant for others.
const WITHOUT_RAW: &str = "meanwhile the app has no raw clients";

/// An app of a row, with warnings about the row.
#[derive(Debug)]
pub struct RowApp {
    /// The app.
    pub app: App,
    /// About values that have no effect or are probably not meant.
    pub warnings: Vec<Fault>,
    /// The webhooks that the app is without.
    pub left_out: Vec<LeftOut>,
}

impl App {
    /// The app of a row, columns by name; what the row lacks comes from `limits`. Otherwise every fault,
    /// with the names of table and column as its key.
    ///
    /// ```
    /// use gema::config::{App, Limits};
    /// use serde_json::json;
    ///
    /// let row = json!({ "id": 7, "key": "k", "secret": "s", "enabled": 1, "max_connections": null });
    /// let app = App::from_row("apps", row.as_object().unwrap(), &Limits::default()).unwrap().app;
    /// assert_eq!((app.id.as_str(), app.limits.max_connections), ("7", -1));
    /// ```
    pub fn from_row(table: &str, row: &serde_json::Map<String, Json>, limits: &Limits) -> Result<RowApp, Vec<Fault>> {
        let known = schema::app_fields();
        let mut fields = Map::new();
        for (column, value) in row {
            let field = AppEntry::field(column);
            // A row is found by its one key.
            let Some(like) = known.get(&field).filter(|_| field != "keys") else { continue };
            if let Some(kind) = meant(&field, value, like) {
                fields.insert(field, Value::new(None, kind));
            }
        }
        let mut found = Vec::new();
        let (entry, build) = loop {
            let mut faults = match check(table, fields.clone()) {
                Ok(checked) => break checked,
                Err(faults) => faults,
            };
            if leave_out_raw_clients(table, &mut fields, &mut faults, &mut found) {
                continue;
            }
            // A mistake in a rule is deep in its list.
            let key = |field: &str| format!("{table}.{field}");
            let is_of = |fault: &Fault, field: &str| {
                fault.subject.key == key(field) || fault.subject.key.starts_with(&format!("{}.", key(field)))
            };
            let replaced = REPLACED.iter().find(|field| faults.iter().any(|fault| is_of(fault, field)));
            let Some(field) = replaced.filter(|field| fields.remove(**field).is_some()) else {
                return Err(faults);
            };
            found.extend(faults.into_iter().filter(|fault| is_of(fault, field)).map(|fault| meanwhile(fault, field)));
        };
        let mut app = entry.resolve(limits);
        found.extend(settle_flow_rules(table, &entry, &mut app, limits));
        found.extend(settle_history_rules(table, &entry, &mut app, limits));
        if let Some(text) = app.limits.raw_conflict() {
            found.push(Fault::new(format!("{table}.raw_clients"), format!("{text}; {WITHOUT_RAW}")));
            app.limits.raw_clients = RawClients::default();
        }
        found.extend(build.warnings);
        found.extend(webhooks::warnings(&app.id, &app.webhooks));
        found.extend(warnings::of_keys(&app));
        Ok(RowApp { app, warnings: found, left_out: build.left_out.unwrap_or_default() })
    }
}

/// Takes raw clients that cannot be served out of a row, with their faults. Returns whether there were any.
fn leave_out_raw_clients(
    table: &str,
    fields: &mut Map<String, Value>,
    faults: &mut Vec<Fault>,
    found: &mut Vec<Fault>,
) -> bool {
    let of_raw = |fault: &mut Fault| fault.subject.key.starts_with(&format!("{table}.raw_clients"));
    let before = found.len();
    let left_out = faults.extract_if(.., of_raw);
    found.extend(left_out.map(|fault| fault.subject.fault(format!("{}; {WITHOUT_RAW}", fault.text))));
    let is_any = found.len() > before;
    if is_any {
        fields.insert("raw_clients".to_owned(), Value::new(None, ValueKind::Table(Map::new())));
    }
    is_any
}

fn check(table: &str, fields: Map<String, Value>) -> Result<(AppEntry, Build), Vec<Fault>> {
    let (mut entry, mut build) = build::row(table, fields)?;
    if let Some(origins) = &mut entry.allowed_origins {
        build.warnings.extend(allowed_origins::drop_odd(table, origins));
    }
    let mut faults = FaultList::default();
    apps::validate_alone(table, &entry, &mut faults);
    if faults.0.is_empty() { Ok((entry, build)) } else { Err(faults.0) }
}

/// A fault of a value that is replaced.
fn meanwhile(Fault { subject, text, .. }: Fault, field: &str) -> Fault {
    subject.fault(format!("{text}; meanwhile limits.{field} holds"))
}

/// Checks the flow rules of a row, with the limits that hold for its app. With a mistake in them the app has those of
/// `limits`.
fn settle_flow_rules(table: &str, entry: &AppEntry, app: &mut App, limits: &Limits) -> Vec<Fault> {
    let mut faults = FaultList::default();
    let of_rules = if entry.channel_rules.is_some() { table } else { "limits" };
    let place = format!("{table}.flow_rules");
    if entry.flow_rules.is_some() {
        flow_rules::of_rules(&place, &app.limits, &mut faults);
        flow_rules::of_encrypted(table, of_rules, &app.limits, &mut faults);
        if faults.0.is_empty() {
            return flow_rules::warnings(&place, &app.limits.flow_rules);
        }
        app.limits.flow_rules.clone_from(&limits.flow_rules);
        faults.0 = faults.0.into_iter().map(|fault| meanwhile(fault, "flow_rules")).collect();
    }
    if entry.channel_rules.is_some() {
        flow_rules::of_encrypted("limits", of_rules, &app.limits, &mut faults);
    }
    faults.0
}

/// Checks the history rules of a row. With a mistake in them the app has those of `limits`.
fn settle_history_rules(table: &str, entry: &AppEntry, app: &mut App, limits: &Limits) -> Vec<Fault> {
    let Some(rules) = &entry.history_rules else { return Vec::new() };
    let mut faults = FaultList::default();
    history_rules::of_rules(&format!("{table}.history_rules"), rules, &mut faults);
    if faults.0.is_empty() {
        return history_rules::row_warnings(table, &app.limits);
    }
    app.limits.history_rules.clone_from(&limits.history_rules);
    faults.0.into_iter().map(|fault| meanwhile(fault, "history_rules")).collect()
}

/// A column's value as a setting like this one; none if it is not set. As with Soketi, empty is not set, and MySQL has
/// what JSON and decimals say as text.
fn meant(field: &str, value: &Json, like: &Json) -> Option<ValueKind> {
    let text = match value {
        Json::Null => return None,
        Json::String(text) if like.is_string() => return (!text.is_empty()).then(|| text.as_str().into()),
        Json::String(text) => text.trim(),
        value => return list_or_plain(field, value, like),
    };
    let number = || text.parse::<f64>().ok().filter(|number| number.fract() == 0.0 && number.abs() < 1e15);
    match like {
        _ if text.is_empty() || text == "null" => None,
        Json::Bool(_) => Some(match text {
            "t" | "T" | "y" | "Y" => true.into(),
            "f" | "F" | "n" | "N" => false.into(),
            text => number().map_or_else(|| text.into(), |number| (number as i64).into()),
        }),
        Json::Number(_) => Some(number().map_or_else(|| text.into(), |number| (number as i64).into())),
        Json::Array(_) => match serde_json::from_str::<Json>(text) {
            Ok(list) => list_or_plain(field, &list, like),
            Err(_) => Some(text.into()),
        },
        _ => Some(text.into()),
    }
}

/// The same of a value of JSON. A list that PHP has made may be a group, and a list of texts may have empty lines.
fn list_or_plain(field: &str, value: &Json, like: &Json) -> Option<ValueKind> {
    if !like.is_array() || field == "webhooks" {
        return Some(plain(value));
    }
    if let Json::String(text) = value {
        // The text of a list, where the list itself belongs.
        let list = serde_json::from_str::<Json>(text).ok().filter(|list| list.is_array() || list.is_object());
        let own = || (!text.is_empty()).then(|| plain(value));
        return list.map_or_else(own, |list| list_or_plain(field, &list, like));
    }
    let Some(items) = webhooks::items(value.clone()) else {
        // A group is no list, and must not pass for a text.
        return Some(if value.is_object() { ValueKind::Table(Map::new()) } else { plain(value) });
    };
    if field.ends_with("_rules") {
        // None at all is an answer, too: it takes the rules of [limits] away.
        return Some(plain(&items.into()));
    }
    let items: Vec<Json> = items.into_iter().filter(|item| !item.is_null() && item != "").collect();
    (!items.is_empty()).then(|| plain(&items.into()))
}

fn plain(value: &Json) -> ValueKind {
    match value {
        Json::Bool(truth) => ValueKind::Boolean(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => ValueKind::I64(number),
            (_, Some(number)) => ValueKind::U64(number),
            _ => ValueKind::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => ValueKind::String(text.clone()),
        other => ValueKind::String(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::fault::sentences;
    use crate::flow::rule::FlowRule;
    use crate::history::rule::HistoryRule;

    fn read(columns: &Json) -> Result<RowApp, Vec<Fault>> {
        let mut row = json!({ "id": "a", "key": "k", "secret": "hush" }).as_object().unwrap().clone();
        row.extend(columns.as_object().unwrap().clone());
        App::from_row("apps", &row, &Limits { max_event_batch_size: 77, ..Limits::default() })
    }

    fn app(columns: &Json) -> Result<App, Vec<String>> {
        read(columns).map(|read| read.app).map_err(|faults| sentences(&faults))
    }

    #[test]
    fn soketis_columns_are_understood_whatever_their_types() {
        for (number, truth) in [(json!(3), json!(1)), (json!("3"), json!("true")), (json!(3.0), json!(true))] {
            let found = app(&json!({
                "max_connections": number,
                "enabled": json!(0),
                "enable_client_messages": truth,
                "enable_user_authentication": truth,
                "max_backend_events_per_sec": number,
                "max_client_events_per_sec": number,
                "max_read_req_per_sec": number,
                "max_event_payload_in_kb": "0.5",
                "created_at": "2024-01-01",
            }))
            .unwrap();
            let limits = &found.limits;
            assert!(!found.enabled && limits.enable_client_messages && limits.enable_user_authentication);
            assert_eq!((limits.max_connections, limits.max_backend_events_per_second), (3, 3));
            assert_eq!((limits.max_client_events_per_second, limits.max_read_requests_per_second), (3, 3));
            assert_eq!((limits.event_bytes_max(), limits.max_event_batch_size), (512, 77));
        }
    }

    #[test]
    fn null_and_empty_are_not_set() {
        let found = app(&json!({ "max_event_batch_size": null, "enabled": "", "allowed_origins": null })).unwrap();
        assert!(found.enabled);
        assert_eq!(found.limits.max_event_batch_size, 77);
    }

    #[test]
    fn a_row_that_makes_no_app_is_told_by_table_and_column() {
        for (columns, begins) in [
            (json!({ "secret": "" }), "apps.secret is missing"),
            (json!({ "key": null }), "apps.key is missing"),
            (json!({ "key": "a b" }), "apps.key is \"a b\""),
            (json!({ "max_connections": "many" }), "apps.max_connections is \"many\"; it must be a whole number"),
            (json!({ "allowed_origins": { "a": 1 } }), "apps.allowed_origins is "),
            (json!({ "enabled": "perhaps" }), "apps.enabled is \"perhaps\"; it must be true or false"),
            (json!({ "secret": true }), "apps.secret must be text"),
        ] {
            let faults = app(&columns).unwrap_err();
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(faults[0].starts_with(begins) && !faults[0].contains("hush"), "{faults:?}");
        }
    }
    #[test]
    fn a_size_that_cannot_be_used_is_that_of_the_limits() {
        for (column, value, says) in [
            ("max_event_batch_size", json!(0), "apps.max_event_batch_size must be at least 1; meanwhile limits."),
            ("max_event_payload_in_kb", json!("0.00"), "apps.max_event_payload_in_kb is 0; it must be more than 0"),
            ("max_event_payload_in_kb", json!(1e9), "apps.max_event_payload_in_kb is 1000000000; it must be"),
            ("max_channel_name_length", json!(-1), "apps.max_channel_name_length is -1; it must be a whole number"),
            ("max_presence_member_size_in_kb", json!("big"), "apps.max_presence_member_size_in_kb is \"big\"; it must"),
            ("cache_ttl_seconds", json!(-5), "apps.cache_ttl_seconds is -5; it must be between 0 and"),
        ] {
            let read = read(&json!({ column: value, "max_connections": 7 })).unwrap();
            let warnings = sentences(&read.warnings);
            assert!(warnings.len() == 1 && warnings[0].starts_with(says), "{warnings:?}");
            assert!(warnings[0].ends_with(&format!("; meanwhile limits.{column} holds")), "{warnings:?}");
            let limits = Limits { max_event_batch_size: 77, max_connections: 7, ..Limits::default() };
            assert_eq!(read.app.limits, limits, "{column}");
        }
    }

    #[test]
    fn columns_say_yes_and_no_and_numbers_in_the_ways_of_databases() {
        for (word, truth) in
            [("t", true), ("Y", true), ("1.00", true), ("on", true), ("f", false), ("n", false), ("0.0", false)]
        {
            assert_eq!(app(&json!({ "enabled": word })).unwrap().enabled, truth, "{word}");
        }
        let found = app(&json!({ "max_connections": " 12.00", "max_read_req_per_sec": 5.0 })).unwrap();
        assert_eq!((found.limits.max_connections, found.limits.max_read_requests_per_second), (12, 5));
    }

    #[test]
    fn a_list_may_be_empty_or_numbered_in_phps_way() {
        for nothing in [json!("[]"), json!("{}"), json!([]), json!("[null, \"\"]"), json!(" "), json!("\"\"")] {
            assert_eq!(app(&json!({ "allowed_origins": nothing })).unwrap().limits.allowed_origins, ["*"], "{nothing}");
        }
        for list in [json!("{\"0\":\"a.example\",\"2\":null}"), json!(["a.example"]), json!("a.example")] {
            let found = app(&json!({ "allowed_origins": list })).unwrap();
            assert_eq!(found.limits.allowed_origins, ["a.example"], "{list}");
        }
        for none in [json!("{}"), json!("[]"), json!({})] {
            assert_eq!(app(&json!({ "channel_rules": none })).unwrap().limits.channel_rules, []);
        }
    }

    #[test]
    fn an_origin_that_no_page_comes_from_is_left_out_and_never_lets_everybody_in() {
        let odd = "https://app.example.com/";
        let found = read(&json!({ "allowed_origins": ["app.example.com", odd, "file://"] })).unwrap();
        assert_eq!(found.app.limits.allowed_origins, ["app.example.com", "file://"]);
        assert!(found.warnings.len() == 1 && found.warnings[0].text.starts_with("has \"https:"), "{found:?}");
        assert_eq!(found.warnings[0].subject.key, "apps.allowed_origins");
        for only in [json!([odd]), json!(odd), json!(format!("[\"{odd}\"]"))] {
            let found = read(&json!({ "allowed_origins": only })).unwrap();
            assert!(found.app.limits.allowed_origins.is_empty() && found.warnings.len() == 1, "{found:?}");
        }
    }

    #[test]
    fn flow_rules_of_a_row_count_unless_one_of_them_is_wrong() {
        let of_limits: Vec<FlowRule> = serde_json::from_str(r#"[{"match":"*","sample":{"every":9}}]"#).unwrap();
        let limits = Limits { flow_rules: of_limits.clone(), ..Limits::default() };
        let read = |columns: &Json| {
            let mut row = json!({ "id": "a", "key": "k", "secret": "hush" }).as_object().unwrap().clone();
            row.extend(columns.as_object().unwrap().clone());
            let read = App::from_row("apps", &row, &limits).unwrap();
            (read.app.limits.flow_rules, sentences(&read.warnings))
        };
        let good = json!([{ "match": "a", "conflate": { "window_ms": 250 } }]);
        for column in [good.clone(), json!(good.to_string()), json!({ "0": good[0] })] {
            let (rules, warnings) = read(&json!({ "flow_rules": column }));
            assert_eq!((rules[0].conflate.as_ref().unwrap().window_ms, warnings), (250, vec![]), "{column}");
        }
        for none in [json!([]), json!("[]"), json!("{}")] {
            assert_eq!(read(&json!({ "flow_rules": none })), (vec![], vec![]), "{none}");
        }
        assert_eq!(read(&json!({ "flow_rules": null })), (of_limits.clone(), vec![]));
        let aggregate = json!([{ "match": "a.*", "aggregate": { "value": "v", "window_ms": 1000 } }]);
        let encrypted = json!([{ "match": "a.b", "require": "encrypted" }]);
        for (columns, says) in [
            (json!({ "flow_rules": [{ "match": "a" }, good[0]] }), "apps.flow_rules.0 does not say what becomes of"),
            (json!({ "flow_rules": "none" }), "apps.flow_rules must be a list of rules"),
            (
                json!({ "flow_rules": [{ "match": "a", "sample": { "every": 0 } }] }),
                "apps.flow_rules.0.sample.every is 0",
            ),
            (json!({ "flow_rules": [{ "match": "a", "smaple": 1 }] }), "apps.flow_rules.0.smaple is not a setting"),
            (json!({ "flow_rules": aggregate, "channel_rules": encrypted }), "apps.flow_rules.0.aggregate cannot read"),
        ] {
            let (rules, warnings) = read(&columns);
            assert_eq!(rules, of_limits, "{columns}");
            assert!(warnings.iter().all(|text| text.ends_with("; meanwhile limits.flow_rules holds")), "{warnings:?}");
            assert!(warnings[0].starts_with(says), "{warnings:?}");
        }
    }

    #[test]
    fn history_rules_of_a_row_count_unless_one_of_them_is_wrong() {
        let of_limits: Vec<HistoryRule> = serde_json::from_str(r#"[{"match":"*","seconds":9}]"#).unwrap();
        let limits = Limits { history_rules: of_limits.clone(), ..Limits::default() };
        let read = |columns: &Json| {
            let mut row = json!({ "id": "a", "key": "k", "secret": "hush" }).as_object().unwrap().clone();
            row.extend(columns.as_object().unwrap().clone());
            let read = App::from_row("apps", &row, &limits).unwrap();
            (read.app.limits, sentences(&read.warnings))
        };
        let good = json!([{ "match": "a", "seconds": "60", "replay": { "last": 5 } }]);
        for column in [good.clone(), json!(good.to_string()), json!({ "0": good[0] })] {
            let (limits, warnings) = read(&json!({ "history_rules": column, "history_bytes_max": "1048576" }));
            let rule = &limits.history_rules[0];
            assert_eq!((rule.seconds, rule.last(), limits.history_bytes_max), (60, 5, 1_048_576), "{column}");
            assert_eq!(warnings, Vec::<String>::new());
        }
        for none in [json!([]), json!("[]"), json!("{}")] {
            assert_eq!(read(&json!({ "history_rules": none })).0.history_rules, [], "{none}");
        }
        assert_eq!(read(&json!({ "history_rules": null })).0.history_rules, of_limits);
        for (wrong, says) in [
            (json!([{ "match": "a" }, good[0]]), "0.seconds is missing; it is how long an event is kept"),
            (json!([{ "match": "a", "seconds": 3601 }]), "0.seconds is 3601; it must be between 1 and 3600"),
            (json!([{ "match": "a", "seconds": 5, "replay": "last" }]), "0.replay is \"last\"; it must be"),
        ] {
            let (limits, warnings) = read(&json!({ "history_rules": wrong }));
            assert_eq!(limits.history_rules, of_limits, "{wrong}");
            assert!(
                warnings.iter().all(|text| text.ends_with("; meanwhile limits.history_rules holds")),
                "{warnings:?}"
            );
            assert!(warnings[0].starts_with(&format!("apps.history_rules.{says}")), "{warnings:?}");
        }
        let (limits, warnings) = read(&json!({ "history_bytes_max": 7 }));
        assert_eq!(
            (limits.history_bytes_max, warnings.len()),
            (Limits::default().history_bytes_max, 1),
            "{warnings:?}"
        );
        let twice = json!([good[0], { "match": "A", "seconds": 1 }]);
        let (_, warnings) = read(&json!({ "history_rules": twice, "history_bytes_max": 4096 }));
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[0].starts_with("apps.history_rules.1 never decides"), "{warnings:?}");
        assert!(warnings[1].starts_with("apps.history_rules.0.bytes_max is 1048576, but all channels"), "{warnings:?}");
    }

    #[test]
    fn raw_clients_of_a_row_are_a_group_and_none_if_it_cannot_be_served() {
        let all = Limits {
            raw_clients: RawClients { channels: vec!["all".to_owned()], accept_id: false },
            ..Limits::default()
        };
        let read = |columns: &Json| {
            let mut row = json!({ "id": "a", "key": "k", "secret": "hush" }).as_object().unwrap().clone();
            row.extend(columns.as_object().unwrap().clone());
            let read = App::from_row("apps", &row, &all).unwrap();
            (read.app.limits.raw_clients, sentences(&read.warnings))
        };
        let group = json!({ "channels": ["scada"], "accept_id": true });
        for value in [group.clone(), json!(group.to_string())] {
            let (found, warnings) = read(&json!({ "raw_clients": value }));
            assert_eq!((found.channels, found.accept_id, warnings.len()), (vec!["scada".to_owned()], true, 0));
        }
        for (value, channels) in [(json!(null), 1), (json!(""), 1), (json!({}), 0), (json!("[]"), 0), (json!([]), 0)] {
            let (found, warnings) = read(&json!({ "raw_clients": value }));
            assert_eq!((found.channels.len(), warnings.len()), (channels, 0), "{value}");
        }
        for (columns, says) in [
            (
                json!({ "raw_clients": { "channels": ["private-a", "b"] } }),
                ".channels lists \"private-a\", which is not",
            ),
            (json!({ "raw_clients": "[{" }), " must be a group of settings"),
            (json!({ "raw_clients": { "chanels": ["b"] } }), ".chanels is not a setting"),
            (json!({ "raw_clients": { "channels": [] } }), ".channels lists no channel"),
            (json!({ "enable_user_authentication": true }), " has no use beside enable_user_authentication"),
            (json!({ "channel_default": "deny" }), " lists a channel that channel_rules forbid"),
        ] {
            let (found, warnings) = read(&columns);
            assert!(!found.is_on() && warnings.len() == 1, "{columns}: {warnings:?}");
            assert!(warnings[0].starts_with(&format!("apps.raw_clients{says}")), "{warnings:?}");
            assert!(warnings[0].ends_with("; meanwhile the app has no raw clients"), "{warnings:?}");
        }
    }

    #[test]
    fn a_webhook_that_cannot_be_used_is_left_out_and_the_others_stay() {
        let good = json!({ "url": "https://x.example/hush", "event_types": ["cache_miss", "odd"], "id": 7 });
        for (wrong, says) in [
            (json!({ "url": "https://y.example:8443/hush" }), "event_types is missing; list the events"),
            (json!({ "url": "hush", "event_types": [] }), "url must be a whole URL"),
            (json!({ "event_types": [] }), "url is missing"),
            (json!({ "lambda_function": "f g", "event_types": [] }), "lambda_function "),
            (json!({ "url": "http://z", "event_types": [], "filter": ["zzz"] }), "filter must be a group"),
            (json!({ "url": "http://z", "event_types": [], "headers": { "X Y": "hush" } }), "headers has \"X Y\""),
        ] {
            for webhooks in [json!([wrong, good]), json!(json!([wrong, good]).to_string())] {
                let read = read(&json!({ "webhooks": webhooks })).unwrap();
                assert_eq!((read.app.webhooks.len(), read.left_out.len()), (1, 1), "{wrong}");
                let why = &read.left_out[0].why;
                assert!(why.starts_with(&format!("apps.webhooks.0.{says}")) && !why.contains("hush"), "{why}");
                assert_eq!(read.warnings.len(), 2, "{:?}", read.warnings);
            }
        }
        let left_out = read(&json!({ "webhooks": [{ "url": "https://y.example:8443/hush" }] })).unwrap().left_out;
        assert_eq!(left_out[0].endpoint, "y.example:8443");
        for webhooks in [json!("[{"), json!({ "url": "http://x" }), json!(7)] {
            let read = read(&json!({ "webhooks": webhooks })).unwrap();
            assert_eq!((read.app.webhooks.len(), read.left_out.len()), (0, 1));
            assert!(read.left_out[0].why.starts_with("apps.webhooks must be a list of webhooks"), "{read:?}");
        }
    }
}
