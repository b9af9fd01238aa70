//! Finds the known name that is nearest to a misspelled one: "did you mean …".
//!
//! By its spelling alone a name is only compared with those of its own section. A table, or the name of a database,
//! leads into another section. `sources`, `build` and `webhooks/read` ask it.

/// Names that operators write, with the names that they mean. In any case and with or without underscores.
const MEANT: [(&str, &str); 38] = [
    ("app_id", "appManager.array.apps.0.id"),
    ("app_key", "appManager.array.apps.0.key"),
    ("app_secret", "appManager.array.apps.0.secret"),
    ("cors.allowed_methods", "cors.methods"),
    ("cors.allowed_origins", "cors.origin"),
    ("database.mysql.username", "database.mysql.user"),
    ("database.postgres.username", "database.postgres.user"),
    ("database.redis.database", "database.redis.db"),
    ("database.redis.pass", "database.redis.password"),
    ("database.redis.user", "database.redis.username"),
    ("http_max_payload_size", "httpApi.requestLimitInMb"),
    ("metrics.server_port", "metrics.port"),
    ("ssl.pass", "ssl.passphrase"),
    ("GEMA_HOST", "GEMA_SERVER_HOST"),
    ("GEMA_PORT", "GEMA_SERVER_PORT"),
    ("SOKETI_APP_MAX_CONNECTIONS", "SOKETI_DEFAULT_APP_MAX_CONNS"),
    ("SOKETI_CORS_ALLOWED_HEADERS", "GEMA_HTTP_CORS_HEADERS"),
    ("SOKETI_CORS_ALLOWED_METHODS", "GEMA_HTTP_CORS_METHODS"),
    ("SOKETI_CORS_ALLOWED_ORIGINS", "GEMA_HTTP_CORS_ORIGINS"),
    ("SOKETI_CORS_HEADERS", "GEMA_HTTP_CORS_HEADERS"),
    ("SOKETI_CORS_METHODS", "GEMA_HTTP_CORS_METHODS"),
    ("SOKETI_CORS_ORIGIN", "GEMA_HTTP_CORS_ORIGINS"),
    ("SOKETI_CORS_ORIGINS", "GEMA_HTTP_CORS_ORIGINS"),
    ("SOKETI_DEFAULT_ALLOW_CLIENT_EVENTS", "SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES"),
    ("SOKETI_DEFAULT_APP_ENABLE_CLIENT_EVENTS", "SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES"),
    ("SOKETI_DEFAULT_APP_MAX_BACKEND_EVENTS_PER_SECOND", "SOKETI_DEFAULT_APP_MAX_BACKEND_EVENTS_PER_SEC"),
    ("SOKETI_DEFAULT_APP_MAX_CLIENT_EVENTS_PER_SECOND", "SOKETI_DEFAULT_APP_MAX_CLIENT_EVENTS_PER_SEC"),
    ("SOKETI_DEFAULT_APP_MAX_CONNECTIONS", "SOKETI_DEFAULT_APP_MAX_CONNS"),
    ("SOKETI_DEFAULT_APP_MAX_READ_REQUESTS_PER_SECOND", "SOKETI_DEFAULT_APP_MAX_READ_REQ_PER_SEC"),
    ("SOKETI_DEFAULT_APP_MAX_READ_REQUEST_PER_SECOND", "SOKETI_DEFAULT_APP_MAX_READ_REQ_PER_SEC"),
    ("SOKETI_HTTP_MAX_REQUEST_SIZE", "GEMA_HTTP_REQUEST_BYTES_MAX"),
    ("SOKETI_LOG_LEVEL", "GEMA_LOG_LEVEL"),
    ("SOKETI_MAX_CONNECTIONS", "SOKETI_DEFAULT_APP_MAX_CONNS"),
    ("SOKETI_SSL_CA_PATH", "SOKETI_SSL_CA"),
    ("SOKETI_SSL_CERT_PATH", "SOKETI_SSL_CERT"),
    ("SOKETI_SSL_KEY_PATH", "SOKETI_SSL_KEY"),
    ("SOKETI_SSL_PASSPHRASE", "SOKETI_SSL_PASS"),
    ("SOKETI_USER_AUTHENTICATION", "SOKETI_DEFAULT_APP_USER_AUTHENTICATION"),
];

/// The groups of options that say where a database is, wherever somebody has put them.
const DATABASES: [&str; 3] = ["redis", "mysql", "postgres"];

/// The end of a sentence about the unknown `name`: a question, or `otherwise` where nothing is near.
pub(super) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>, otherwise: &str) -> String {
    match nearest(name, known) {
        Some(candidate) => format!("did you mean {candidate}?"),
        None => otherwise.to_owned(),
    }
}

/// The known name, or group of them, that is probably meant.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    let plain = snake_case(name);
    let meant = MEANT.iter().find(|(wrong, _)| wrong.eq_ignore_ascii_case(&plain)).map(|(_, right)| *right);
    let of_section = || if is_variable(name) { near_variable(name, &known) } else { near_key(name, &known) };
    let found = meant.or_else(of_section).map(str::to_owned);
    found.or_else(|| of_database(name).filter(|moved| known.contains(&moved.as_str())))
}

/// Of the same section: the same in another spelling, or all but a slip of the pen, or the only one of which it is a part.
fn near_key<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let (section, leaf) = split(name);
    let (section, leaf) = (snake_case(section), snake_case(leaf));
    // The groups around keys are names, too.
    let groups = known.iter().flat_map(|key| key.match_indices('.').map(|(dot, _)| &key[..dot]));
    let mut leaves: Vec<(String, &str)> = known
        .iter()
        .copied()
        .chain(groups)
        .filter(|candidate| snake_case(split(candidate).0) == section)
        .map(|candidate| (snake_case(split(candidate).1), candidate))
        .collect();
    leaves.sort_unstable();
    leaves.dedup();
    let by_slip = leaves.iter().filter_map(|(known, candidate)| Some((slip(&leaf, known)?, *candidate)));
    let words: Vec<&str> = leaf.split('_').collect();
    let within = |candidate: &str| {
        let known: Vec<&str> = candidate.split('_').collect();
        known.starts_with(&words) || is_part(&words, &known)
    };
    let around = || only(leaves.iter().filter(|(known, _)| within(known)).map(|(_, candidate)| *candidate));
    by_slip.min_by_key(|(letters, _)| *letters).map(|(_, candidate)| candidate).or_else(around)
}

/// Of the same program, with the same words but for a slip of the pen in one, or the only one that has some more.
fn near_variable<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let words: Vec<&str> = name.split('_').collect();
    let related = || known.iter().filter(|candidate| candidate.split('_').next() == words.first().copied());
    let by_slip = related().filter_map(|candidate| {
        let others: Vec<&str> = candidate.split('_').collect();
        if others.len() != words.len() {
            return (strsim::osa_distance(name, candidate) <= 1).then_some((1, *candidate));
        }
        let mut letters = words.iter().zip(&others).filter(|(one, other)| one != other);
        let (one, other) = letters.next()?;
        letters.next().is_none().then_some((slip(one, other)?, *candidate))
    });
    let around = || only(related().filter(|key| is_part(&words, &key.split('_').collect::<Vec<_>>())).copied());
    by_slip.min_by_key(|(letters, _)| *letters).map(|(_, candidate)| candidate).or_else(around)
}

/// How many letters differ, if so few do that it is a slip of the pen.
pub(super) fn slip(one: &str, other: &str) -> Option<usize> {
    let letters = strsim::osa_distance(one, other);
    let length = one.chars().count().max(other.chars().count());
    // Of three letters or fewer each makes another word.
    (letters <= (length / 4).min(2)).then_some(letters)
}

/// Whether `words` stand in `others` in this order, the last one at the end.
fn is_part(words: &[&str], others: &[&str]) -> bool {
    let mut rest = others.iter();
    words.last() == others.last() && words.iter().all(|word| rest.any(|other| other == word))
}

fn only<'a>(mut candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let first = candidates.next()?;
    candidates.next().is_none().then_some(first)
}

/// `database.redis.host` for `adapter.redis.host`, `SOKETI_DB_REDIS_HOST` for `SOKETI_ADAPTER_REDIS_HOST`.
fn of_database(name: &str) -> Option<String> {
    if is_variable(name) {
        let words: Vec<&str> = name.split('_').collect();
        let at = words.iter().position(|word| DATABASES.iter().any(|database| word.eq_ignore_ascii_case(database)))?;
        return Some(format!("SOKETI_DB_{}", words[at..].join("_")));
    }
    let (section, leaf) = split(name);
    let database = section.rsplit('.').next().filter(|database| DATABASES.contains(database))?;
    Some(format!("database.{database}.{leaf}"))
}

/// `server.port` as `server` and `port`.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

fn is_variable(name: &str) -> bool {
    !name.contains(|letter: char| letter.is_ascii_lowercase())
}

/// `maxConnections` as `max_connections`.
pub(super) fn snake_case(name: &str) -> String {
    if is_variable(name) {
        return name.to_ascii_lowercase();
    }
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() && !snake.ends_with(['_', '.']) {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_of_the_section_is_proposed() {
        let known =
            ["server", "server.port", "server.host", "metrics.port", "limits.max_connections", "appManager.driver"];
        let meant = |name| did_you_mean(name, known, "-");
        assert_eq!(meant("server.prot"), "did you mean server.port?");
        assert_eq!(meant("sever"), "did you mean server?");
        assert_eq!(meant("limits.connections"), "did you mean limits.max_connections?");
        assert_eq!(meant("limits.maxConections"), "did you mean limits.max_connections?");
        assert_eq!(meant("app_manager"), "did you mean appManager?");
        assert_eq!(meant("server.xyz"), "-");
    }

    #[test]
    fn spelling_alone_never_leads_into_another_section() {
        let known =
            ["server.port", "server.host", "metrics.port", "limits.max_connections", "ssl.keyPath", "ssl.caPath"];
        for name in ["port", "adapter.host", "server.maxConnections", "cluster.port", "ssl.enabled", "metrics.host"] {
            assert_eq!(did_you_mean(name, known, "-"), "-", "{name}");
        }
        for name in ["SOKETI_PUBLIC_HOST", "SOKETI_SERVER", "SOKETI_CLUSTER_HOST", "SOKETI_DB", "SOKETI_DB_HOST"] {
            let known = [
                "SOKETI_HOST",
                "SOKETI_METRICS_SERVER_PORT",
                "SOKETI_METRICS_HOST",
                "SOKETI_DB_REDIS_HOST",
                "SOKETI_DB_MYSQL_HOST",
            ];
            assert_eq!(did_you_mean(name, known, "-"), "-", "{name}");
        }
    }

    #[test]
    fn the_nearest_variable_is_proposed() {
        let known = [
            "SOKETI_PORT",
            "SOKETI_METRICS_HOST",
            "SOKETI_METRICS_SERVER_PORT",
            "SOKETI_DB_REDIS_HOST",
            "SOKETI_CHANNEL_LIMITS_MAX_NAME_LENGTH",
            "GEMA_CONNECTIONS_PING_SECONDS",
        ];
        let meant = |name| did_you_mean(name, known, "-");
        assert_eq!(meant("SOKETI_PROT"), "did you mean SOKETI_PORT?");
        assert_eq!(meant("SOKETI_METRICS_PORT"), "did you mean SOKETI_METRICS_SERVER_PORT?");
        assert_eq!(meant("SOKETI_ADAPTER_REDIS_HOST"), "did you mean SOKETI_DB_REDIS_HOST?");
        assert_eq!(meant("SOKETI_CHANNEL_MAX_NAME_LENGTH"), "did you mean SOKETI_CHANNEL_LIMITS_MAX_NAME_LENGTH?");
        assert_eq!(meant("GEMA_PING_SECONDS"), "did you mean GEMA_CONNECTIONS_PING_SECONDS?");
        assert_eq!(meant("SOKETI_FOO"), "-");
    }

    #[test]
    fn camel_case_becomes_snake_case() {
        assert_eq!(snake_case("maxPresenceMemberSizeInKb"), "max_presence_member_size_in_kb");
        assert_eq!(snake_case("appManager.array"), "app_manager.array");
        assert_eq!(snake_case("enabled"), "enabled");
        assert_eq!(snake_case("SOKETI_PORT"), "soketi_port");
    }
}
