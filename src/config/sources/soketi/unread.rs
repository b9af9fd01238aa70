//! Names in a file for Soketi that neither it nor gema reads. Soketi ignores them, so the server starts with a warning.
//! It refuses names that are meant for gema alone, and apps that would not be served. `translate` calls it.

use config::{Value, ValueKind};

use crate::config::Config;
use crate::config::fault::Subject;
use crate::config::schema;
use crate::config::sources::soketi;
use crate::config::sources::soketi::Translation;
use crate::config::suggest::{nearest, slip, snake_case};
use crate::config::tree::{Group, sorted};

/// Groups that no file for Soketi has; what stands there is meant for gema.
const OURS: [&str; 6] = ["app_store", "connections", "ingest", "limiter", "limits", "tls"];
/// Groups that Soketi has, too.
const SHARED: [&str; 3] = ["cluster", "metrics", "webhooks"];
/// Fields of an app that Soketi does not have.
#[rustfmt::skip]
const FIELDS: [&str; 16] = [
    "allow_public_client_events", "allowed_origins", "cache_ttl_seconds", "channel_default", "channel_rules",
    "enable_subscription_count", "enable_watchlist", "flow_rules", "history_bytes_max", "history_rules", "keys",
    "max_presence_user_id_length", "max_watchlist_size", "raw_clients", "require_tls",
    "user_authentication_timeout_seconds",
];
/// Where an app belongs that a file names.
const PLACE_OF_APP: &str =
    "write it as \"appManager.array.apps\": [{\"id\": \"…\", \"key\": \"…\", \"secret\": \"…\"}]";

/// Takes what is not ours out of `own`, and tells of it.
pub(in crate::config) fn remove(own: &mut Group, translation: &mut Translation) {
    let known = schema::object(&Config::default());
    let keys = schema::keys();
    let all = || known.keys().chain(&keys).map(String::as_str).chain(soketi::options());
    for (name, mut value) in sorted(std::mem::take(own)) {
        match known.get(&name) {
            None => {
                let subject = Subject::of(&*name, &value);
                note_app(&subject, &value, translation);
                translation.unknown(&subject, nearest(&name, all()).as_deref());
                continue;
            }
            Some(section) => {
                if let (ValueKind::Table(fields), Some(section)) = (&mut value.kind, section.as_object()) {
                    let given = sorted(std::mem::take(fields)).into_iter();
                    fields.extend(given.filter(|(field, value)| {
                        let key = format!("{name}.{field}");
                        let is_slip = section.keys().any(|known| slip(&snake_case(field), known).is_some());
                        // A word of a longer name of ours is no hint, since this is meant for another program.
                        let is_soketis = |meant: &str| soketi::options().any(|option| option == meant);
                        let is_hint = |meant: &String| is_slip || is_soketis(meant) || !keys.contains(meant);
                        let meant = nearest(&key, all()).filter(is_hint);
                        let is_foreign = !section.contains_key(field) && !is_for_us(&name, field, is_slip);
                        if is_foreign && value.kind != ValueKind::Nil {
                            let subject = Subject::of(key, value);
                            note_app(&subject, value, translation);
                            translation.unknown(&subject, meant.as_deref());
                        }
                        !is_foreign
                    }));
                }
            }
        }
        own.insert(name, value);
    }
}

/// Whether an unknown name in one of our groups can only be meant for gema: nobody else has the group, or it is nearly
/// a name of ours in our spelling.
fn is_for_us(section: &str, field: &str, is_slip: bool) -> bool {
    let is_camel = field.contains(|letter: char| letter.is_ascii_uppercase());
    OURS.contains(&section) || (is_slip && !is_camel && !SHARED.contains(&section))
}

/// Whether an unknown field of an app is nearly one that Soketi does not have.
pub(in crate::config) fn is_ours<'a>(field: &str, known: impl Iterator<Item = &'a String>) -> bool {
    near_field(field, known).is_some_and(|meant| FIELDS.contains(&meant.as_str()))
}

/// The field of an app that is nearest to this one.
pub(in crate::config) fn near_field<'a>(field: &str, known: impl Iterator<Item = &'a String>) -> Option<String> {
    // Behind a group's name, since what stands at the top of a file may mean something else.
    let known: Vec<String> = known.map(|known| format!("app.{known}")).collect();
    let meant = nearest(&format!("app.{field}"), known.iter().map(String::as_str))?;
    meant.strip_prefix("app.").map(str::to_owned)
}

/// Remembers a setting that names an app, which counts if the default app would be served in its place.
pub(in crate::config) fn note_app(subject: &Subject, value: &Value, translation: &mut Translation) {
    let last = subject.key.rsplit('.').next().unwrap_or_default();
    if names_app(&snake_case(last), value) {
        translation.unread_apps.push((subject.clone(), PLACE_OF_APP));
    }
}

/// Whether somewhere in a value there are a key or an id, and a secret, other than those that everybody knows.
fn names_app(name: &str, value: &Value) -> bool {
    match &value.kind {
        ValueKind::Table(fields) => {
            let names: Vec<String> = fields.keys().map(|name| snake_case(name)).collect();
            let has = |wanted: &[&str]| names.iter().any(|name| wanted.contains(&name.as_str()));
            let secret = fields.iter().find(|(name, _)| ["secret", "app_secret"].contains(&snake_case(name).as_str()));
            let is_app = has(&["id", "app_id", "key", "app_key"])
                && secret.is_some_and(|(_, secret)| {
                    secret.kind != ValueKind::Nil && secret.kind.to_string() != "app-secret"
                });
            is_app || fields.iter().any(|(name, value)| names_app(&snake_case(name), value))
        }
        ValueKind::Array(items) => items.iter().any(|item| names_app("", item)),
        ValueKind::Nil => false,
        kind => {
            let default = match name {
                "app_id" => "app-id",
                "app_key" => "app-key",
                "app_secret" => "app-secret",
                _ => return false,
            };
            kind.to_string() != default
        }
    }
}
