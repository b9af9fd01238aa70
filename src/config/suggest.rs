//! "Did you mean": the known name that is nearest to an unknown one.

/// The end of a sentence about the unknown `name`: a question, or `otherwise` where nothing is near.
pub(super) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>, otherwise: &str) -> String {
    let nearest = known
        .into_iter()
        .map(|candidate| (candidate, nearness(candidate, name)))
        // Of equals the first, as the main port comes before the metrics port.
        .min_by(|(_, a), (_, b)| b.total_cmp(a));
    match nearest {
        Some((candidate, nearness)) if nearness > 0.8 => format!("did you mean {candidate}?"),
        _ => otherwise.to_owned(),
    }
}

/// From 0 to 1. In another section only the very same key is near.
fn nearness(candidate: &str, name: &str) -> f64 {
    let ((place, wanted), (other_place, key)) = (split(name), split(candidate));
    let wanted = if is_variable(name) { wanted.to_owned() } else { snake_case(wanted) };
    match place == other_place {
        true if key.ends_with(&format!("_{wanted}")) => 0.95,
        true => strsim::jaro_winkler(key, &wanted),
        false if key == wanted => 0.9,
        false => 0.0,
    }
}

/// `server.port` as `server` and `port`, `SOKETI_PORT` as `SOKETI` and `PORT`.
fn split(name: &str) -> (&str, &str) {
    let parts = if is_variable(name) { name.split_once('_') } else { name.rsplit_once('.') };
    parts.unwrap_or(("", name))
}

fn is_variable(name: &str) -> bool {
    !name.contains(|letter: char| letter.is_ascii_lowercase())
}

/// `maxConnections` as `max_connections`.
pub(super) fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() && !snake.ends_with('_') {
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
    fn the_nearest_key_is_proposed() {
        let known = ["server", "server.port", "server.host", "metrics.port", "limits.max_connections"];
        let meant = |name| did_you_mean(name, known, "-");
        assert_eq!(meant("server.prot"), "did you mean server.port?");
        assert_eq!(meant("port"), "did you mean server.port?");
        assert_eq!(meant("sever"), "did you mean server?");
        assert_eq!(meant("server.maxConnections"), "did you mean limits.max_connections?");
        assert_eq!(meant("server.xyz"), "-");
    }

    #[test]
    fn the_nearest_variable_is_proposed() {
        let known = ["SOKETI_PORT", "SOKETI_CHANNEL_LIMITS_MAX_NAME_LENGTH", "GEMA_CONNECTIONS_PING_SECONDS"];
        let meant = |name| did_you_mean(name, known, "-");
        assert_eq!(meant("SOKETI_PROT"), "did you mean SOKETI_PORT?");
        assert_eq!(meant("GEMA_PORT"), "did you mean SOKETI_PORT?");
        assert_eq!(meant("SOKETI_CHANNEL_MAX_NAME_LENGTH"), "did you mean SOKETI_CHANNEL_LIMITS_MAX_NAME_LENGTH?");
        assert_eq!(meant("GEMA_PING_SECONDS"), "did you mean GEMA_CONNECTIONS_PING_SECONDS?");
        assert_eq!(meant("SOKETI_FOO"), "-");
    }

    #[test]
    fn camel_case_becomes_snake_case() {
        assert_eq!(snake_case("maxPresenceMemberSizeInKb"), "max_presence_member_size_in_kb");
        assert_eq!(snake_case("enabled"), "enabled");
    }
}
