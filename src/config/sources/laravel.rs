//! Values for keys that nothing else sets: Laravel's variables, and the names of Soketi's default app.
//! `load` completes the merged settings with them.

use config::{Map, Value, ValueKind};

use crate::config::origin::Origin;
use crate::config::tree::{Group, setting};

type Fields<'a> = Vec<(&'a str, Value)>;

/// The drivers with which a database has the apps.
const DATABASES: [&str; 5] = ["mysql", "mariadb", "postgres", "postgresql", "pgsql"];

/// Gives those keys of `fallbacks` a value that have none. Soketi's default app has its names where
/// no file has apps.
pub(in crate::config) fn complete(root: &mut Group, fallbacks: &[(&'static str, Value)], files_have_apps: bool) {
    let below = |place: &str| -> Fields<'_> {
        fallbacks.iter().filter_map(|(key, value)| Some((key.strip_prefix(place)?, value.clone()))).collect()
    };
    // Nor are apps that a database has instead.
    if !selects(root, "app_store", &DATABASES) {
        first_app(root, below("apps.0."), true);
    }
    if !files_have_apps {
        let names = [("id", "app-id"), ("key", "app-key"), ("secret", "app-secret")];
        first_app(root, names.map(|(field, text)| (field, Value::new(None, text))).to_vec(), false);
    }
    // A node that needs no Redis ignores that of Laravel.
    if needs_redis(root) {
        redis(root, below("redis."));
    }
}

/// The setting that names an app, or says that a database has the apps.
pub(in crate::config) fn app_of(root: &Group) -> Option<String> {
    let store = setting(root, "app_store", "driver").filter(|_| selects(root, "app_store", &DATABASES));
    let app = || match &root.get("apps")?.kind {
        ValueKind::Array(apps) => apps.iter().find_map(|app| match &app.kind {
            ValueKind::Table(fields) => {
                ["id", "key", "secret"].iter().find_map(|name| fields.get(*name).filter(|value| is_set(value)))
            }
            _ => None,
        }),
        _ => None,
    };
    let value = store.or_else(app)?;
    Some(Origin::of(value).map_or_else(|| "the configuration".to_owned(), |origin| origin.to_string()))
}

/// The value of a field of the first app.
pub(in crate::config) fn of_first_app<'a>(root: &'a Group, field: &str) -> Option<&'a Value> {
    let ValueKind::Array(apps) = &root.get("apps")?.kind else { return None };
    let ValueKind::Table(app) = &apps.first()?.kind else { return None };
    app.get(field).filter(|value| value.kind != ValueKind::Nil)
}

/// Gives `key` the value unless it has one, which is returned then.
pub(in crate::config) fn put(root: &mut Group, key: &str, value: Value) -> Option<Value> {
    if let Some(field) = key.strip_prefix("apps.0.") {
        first_app(root, vec![(field, value)], true);
        return None;
    }
    let (section, field) = key.split_once('.')?;
    let none = || Value::new(None, ValueKind::Table(Map::new()));
    let ValueKind::Table(table) = &mut root.entry(section.to_owned()).or_insert_with(none).kind else { return None };
    let before = table.get(field).filter(|before| before.kind != ValueKind::Nil).cloned();
    put_missing(table, field, value);
    before
}

/// Gives the first app those of `fields` that it lacks; without an app, makes one if `make` says so.
fn first_app(root: &mut Group, fields: Fields<'_>, make: bool) {
    let none = || Value::new(None, ValueKind::Array(Vec::new()));
    if make && !fields.is_empty() {
        root.entry("apps".to_owned()).or_insert_with(none);
    }
    let Some(Value { kind: ValueKind::Array(apps), .. }) = root.get_mut("apps") else { return };
    if make && apps.is_empty() && !fields.is_empty() {
        apps.push(Value::new(None, ValueKind::Table(Map::new())));
    }
    let Some(Value { kind: ValueKind::Table(app), .. }) = apps.first_mut() else { return };
    for (field, value) in fields {
        put_missing(app, field, value);
    }
}

/// Whether the driver of `section` is one of these.
fn selects(root: &Group, section: &str, drivers: &[&str]) -> bool {
    let driver = setting(root, section, "driver").map(|driver| &driver.kind);
    matches!(driver, Some(ValueKind::String(driver)) if drivers.contains(&driver.as_str()))
}

fn needs_redis(root: &Group) -> bool {
    ["cluster", "limiter", "webhooks"].iter().any(|section| selects(root, section, &["redis"]))
        || setting(root, "ingest", "prefixes").is_some_and(is_set)
}

/// Laravel's variables describe one server: they complete its settings, and never contradict them.
fn redis(root: &mut Group, mut fields: Fields<'_>) {
    let none = || Value::new(None, ValueKind::Table(Map::new()));
    let ValueKind::Table(redis) = &mut root.entry("redis".to_owned()).or_insert_with(none).kind else { return };
    // As in Laravel a URL wins over the rest.
    fields.sort_by_key(|(field, _)| *field != "url");
    for (field, value) in fields {
        let others: &[&str] = match field {
            "url" => &["host", "port", "db", "username", "password", "sentinels", "cluster_nodes"],
            "host" | "port" => &["url", "sentinels", "cluster_nodes"],
            "db" => &["url", "cluster_nodes"],
            _ => &["url"],
        };
        if !others.iter().any(|other| redis.get(*other).is_some_and(is_set)) {
            put_missing(redis, field, value);
        }
    }
}

fn is_set(value: &Value) -> bool {
    match &value.kind {
        ValueKind::Nil => false,
        ValueKind::String(text) => !text.is_empty(),
        ValueKind::Array(items) => !items.is_empty(),
        _ => true,
    }
}

fn put_missing(table: &mut Group, field: &str, value: Value) {
    let own = table.entry(field.to_owned()).or_insert_with(|| Value::new(None, ValueKind::Nil));
    if own.kind == ValueKind::Nil {
        *own = value;
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Loaded, Origin, load};

    fn load_with(variables: &[(&str, &str)]) -> Loaded {
        load_for("redis", variables)
    }

    fn load_for(driver: &str, variables: &[(&str, &str)]) -> Loaded {
        let environment = [("SOKETI_HOST", "127.0.0.1"), ("SOKETI_ADAPTER_DRIVER", driver)];
        let variables = environment.iter().chain(variables);
        load(&[], variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).unwrap()
    }

    fn variable(origin: &Origin) -> &str {
        let Origin::Variable(name) = origin else { panic!("{origin} is no variable") };
        name
    }

    /// The variables of Redis' keys.
    fn origins(loaded: &Loaded) -> Vec<(&str, &str)> {
        let of_redis = loaded.origins.iter().filter(|(key, _)| key.starts_with("redis."));
        of_redis.map(|(key, origin)| (key.as_str(), variable(origin))).collect()
    }

    #[test]
    fn laravels_redis_counts_where_nothing_else_says_it() {
        let loaded = load_with(&[
            ("REDIS_HOST", "laravel"),
            ("REDIS_PORT", "6380"),
            ("REDIS_PASSWORD", "0012"),
            ("REDIS_USERNAME", "null"),
            ("REDIS_DB", "2"),
            ("SOKETI_DB_REDIS_HOST", "soketi"),
        ]);
        let redis = &loaded.config.redis;
        assert_eq!((redis.host.as_str(), redis.port, redis.db, redis.username.as_str()), ("soketi", 6380, 2, ""));
        assert_eq!(redis.password.expose(), b"0012");
        assert_eq!(loaded.origins["redis.port"].to_string(), "REDIS_PORT");
    }

    #[test]
    fn laravels_url_wins_over_its_other_variables_only() {
        let laravels = [("REDIS_URL", "redis://a:1"), ("REDIS_HOST", "b"), ("REDIS_PASSWORD", "hush")];
        assert_eq!(origins(&load_with(&laravels)), [("redis.url", "REDIS_URL")]);
        let own = [&laravels[..], &[("SOKETI_DB_REDIS_PORT", "2")]].concat();
        assert_eq!(
            origins(&load_with(&own)),
            [
                ("redis.host", "REDIS_HOST"),
                ("redis.password", "REDIS_PASSWORD"),
                ("redis.port", "SOKETI_DB_REDIS_PORT")
            ]
        );
        let own = [&laravels[..], &[("GEMA_REDIS_URL", "redis://c")]].concat();
        assert_eq!(origins(&load_with(&own)), [("redis.url", "GEMA_REDIS_URL")]);
    }

    #[test]
    fn laravels_redis_never_contradicts_sentinels_or_a_cluster() {
        let laravels = [("REDIS_URL", "redis://a"), ("REDIS_HOST", "b"), ("REDIS_DB", "2"), ("REDIS_PASSWORD", "hush")];
        let sentinels = [&laravels[..], &[("GEMA_REDIS_SENTINELS", "s:1, t:2")]].concat();
        let loaded = load_with(&sentinels);
        assert_eq!(loaded.config.redis.sentinels, ["s:1", "t:2"]);
        assert_eq!((loaded.config.redis.db, loaded.config.redis.host.as_str()), (2, "127.0.0.1"));
        let nodes = [&laravels[..], &[("GEMA_REDIS_CLUSTER_NODES", r#"["c:1"]"#)]].concat();
        assert_eq!(
            origins(&load_with(&nodes)),
            [("redis.cluster_nodes", "GEMA_REDIS_CLUSTER_NODES"), ("redis.password", "REDIS_PASSWORD")]
        );
    }

    #[test]
    fn laravels_redis_is_not_looked_at_by_a_node_that_needs_none() {
        let loaded = load_for("local", &[("REDIS_URL", "tcp://predis"), ("REDIS_HOST", "/run/redis.sock")]);
        assert_eq!(origins(&loaded), []);
        assert_eq!(loaded.warnings, [""; 0]);
    }
}
