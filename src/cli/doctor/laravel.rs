//! Laravel's `.env`: the address, the app and the broadcaster that it names.
//! `doctor` reads it first; the other steps use what it names.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::cli::doctor::cause::Cause;
use crate::cli::doctor::names::Names;
use crate::cli::doctor::report::Step;
use crate::config;
use crate::config::Secret;

/// The name of this step.
const STEP: &str = "env";

/// Variables that belong to Laravel's broadcasting. In a container they are in the environment, without a file.
#[rustfmt::skip]
const OURS: [&str; 10] = [
    "PUSHER_", "VITE_PUSHER_", "MIX_PUSHER_", "REVERB_", "VITE_REVERB_", "BROADCAST_", "REDIS_HOST", "REDIS_PORT",
    "REDIS_PREFIX", "APP_",
];

/// Laravel's variables.
#[derive(Debug, Default)]
pub(super) struct Laravel {
    variables: BTreeMap<String, String>,
    /// The file, for messages.
    file: String,
}

/// The variable that switches broadcasting, and its value.
pub(super) struct Broadcaster<'a> {
    pub(super) variable: &'static str,
    pub(super) value: &'a str,
}

impl Laravel {
    /// Reads the file, or `.env` here with the variables of the environment above it. `None` if there is neither.
    pub(super) fn read(path: Option<&PathBuf>, environment: &BTreeMap<String, String>) -> (Option<Self>, Vec<Step>) {
        let file = path.map_or(Path::new(".env"), PathBuf::as_path);
        let of_process = |name: &str| path.is_none() && OURS.iter().any(|ours| name.starts_with(ours));
        let mut variables = match fs::read(file) {
            Ok(bytes) => config::dotenv_variables(&String::from_utf8_lossy(&bytes), environment),
            Err(error) if path.is_none() && error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                let detail = format!("{}: {error}", file.display());
                return (None, vec![Step::failed(STEP, Cause::EnvUnreadable, detail)]);
            }
        };
        variables.extend(
            environment.iter().filter(|(name, _)| of_process(name)).map(|(name, value)| (name.clone(), value.clone())),
        );
        // Not PUSHER_APP_ID and the like: gema's own environment may have them, too.
        let marks = ["BROADCAST_", "PUSHER_HOST", "VITE_PUSHER_", "MIX_PUSHER_", "VITE_REVERB_", "APP_KEY"];
        let is_laravels = |name: &String| marks.iter().any(|mark| name.starts_with(mark));
        if !variables.keys().any(is_laravels) {
            let reason = match variables.is_empty() {
                true => "no .env of Laravel is here; --env names one".to_owned(),
                false => format!("{} names no broadcasting; --env names another file", file.display()),
            };
            return (None, vec![Step::skipped(STEP, reason)]);
        }
        let steps = cached(file).map(|cache| Step::failed(STEP, Cause::EnvCached, cache.display().to_string()));
        (Some(Self { variables, file: file.display().to_string() }), steps.into_iter().collect())
    }

    /// A value; Laravel's `null` is none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(name).map(|value| value.trim())?;
        Some(value).filter(|value| !["", "null", "(null)", "empty", "(empty)"].contains(value))
    }

    /// The value of a name that begins as [`Laravel::names`] says.
    pub(super) fn of_app(&self, rest: &str) -> Option<&str> {
        self.get(&format!("{}_{rest}", self.names().start()))
    }

    /// The secret of the app.
    pub(super) fn secret(&self) -> Option<Secret> {
        self.of_app("APP_SECRET").map(Secret::new)
    }

    /// The names of the app and of its address: those of the broadcaster, or of the app that is there.
    pub(super) fn names(&self) -> Names {
        let has_reverb_alone = self.get("PUSHER_APP_KEY").is_none() && self.get("REVERB_APP_KEY").is_some();
        match self.broadcaster().value {
            "reverb" => Names::Reverb,
            "pusher" => Names::Pusher,
            _ if has_reverb_alone => Names::Reverb,
            _ => Names::Pusher,
        }
    }

    /// The broadcaster; Laravel's own default is `null`.
    pub(super) fn broadcaster(&self) -> Broadcaster<'_> {
        let names = ["BROADCAST_CONNECTION", "BROADCAST_DRIVER"];
        let set = names.into_iter().find_map(|variable| Some(Broadcaster { variable, value: self.get(variable)? }));
        set.unwrap_or(Broadcaster { variable: names[0], value: "null" })
    }

    /// Whether Laravel publishes through the HTTP API.
    fn uses_api(&self) -> bool {
        ["pusher", "reverb"].contains(&self.broadcaster().value)
    }

    /// The beginnings that the names of Laravel's Redis channels may have: the one that is set, or those that Laravel
    /// makes of the application's name, before and since version 12.
    pub(super) fn redis_prefixes(&self) -> Vec<String> {
        if let Some(prefix) = self.get("REDIS_PREFIX") {
            return vec![prefix.to_owned()];
        }
        let name = self.get("APP_NAME").unwrap_or("laravel");
        vec![format!("{}_database_", slug(name, '_')), format!("{}-database-", slug(name, '-'))]
    }

    /// The origin of Laravel's pages.
    pub(super) fn page_origin(&self) -> Option<String> {
        let url = reqwest::Url::parse(self.get("APP_URL")?).ok()?;
        Some(url.origin().ascii_serialization()).filter(|origin| origin != "null")
    }

    /// The results of the checks that need nothing but the file and gema's own configuration. `listens` tells whether
    /// gema listens to Laravel's events in Redis, if that is known.
    pub(super) fn check(&self, listens: Option<bool>) -> Vec<Step> {
        let mut steps = Vec::new();
        let Broadcaster { variable, value } = self.broadcaster();
        let is = match self.get(variable) {
            Some(_) => format!("{variable}={value}"),
            None => format!("{variable} is not set"),
        };
        let wrong = match value {
            "log" => Some(Cause::BroadcastLog),
            "null" => Some(Cause::BroadcastNull),
            "redis" if listens == Some(false) => Some(Cause::BroadcastRedis),
            "pusher" | "reverb" | "redis" => None,
            _ => Some(Cause::BroadcastOther),
        };
        steps.extend(wrong.map(|cause| Step::failed(STEP, cause, &*is)));
        if value == "redis" && listens.is_none() {
            let reason = "Laravel publishes to Redis; whether gema listens there is in its configuration: --config";
            steps.push(Step::skipped(STEP, reason));
        }
        let names = ["APP_ID", "APP_KEY", "APP_SECRET"].into_iter().filter(|name| self.of_app(name).is_none());
        let missing: Vec<String> = names.map(|name| format!("{}_{name}", self.names().start())).collect();
        // A publisher through Redis needs no app.
        if !missing.is_empty() && value != "redis" {
            steps.push(Step::failed(STEP, Cause::EnvIncomplete, format!("{} is missing", missing.join(", "))));
        }
        if self.of_app("HOST").is_none() && self.uses_api() {
            steps.push(Step::failed(STEP, Cause::EnvNoHost, ""));
        }
        if steps.is_empty() {
            let app = self.of_app("APP_ID").map_or(String::new(), |id| format!(", app {id}"));
            steps.push(Step::passed(STEP, format!("{}: {is}{app}", self.file)));
        }
        steps
    }
}

/// Laravel's cached configuration, if `.env` was changed after it was made.
fn cached(env: &Path) -> Option<PathBuf> {
    let cache = env.with_file_name("bootstrap").join("cache/config.php");
    let changed = |file: &Path| fs::metadata(file).and_then(|file| file.modified()).ok();
    (changed(&cache)? < changed(env)?).then_some(cache)
}

/// A text in lower case, with `separator` between its words, as `Str::slug` makes it.
fn slug(text: &str, separator: char) -> String {
    let mut slug = String::new();
    for letter in text.to_lowercase().chars() {
        match letter {
            letter if letter.is_alphanumeric() => slug.push(letter),
            ' ' | '-' | '_' if !slug.ends_with(separator) => slug.push(separator),
            _ => (),
        }
    }
    slug.trim_matches(separator).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laravel(pairs: &[(&str, &str)]) -> Laravel {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Laravel { variables: pairs.iter().map(pair).collect(), file: ".env".to_owned() }
    }

    #[test]
    fn laravel_makes_a_prefix_of_the_applications_name() {
        let prefixes = |pairs: &[(&str, &str)]| laravel(pairs).redis_prefixes();
        assert_eq!(prefixes(&[("APP_NAME", "My Shop")]), ["my_shop_database_", "my-shop-database-"]);
        assert_eq!(prefixes(&[]), ["laravel_database_", "laravel-database-"]);
        assert_eq!(prefixes(&[("APP_NAME", "x"), ("REDIS_PREFIX", "p:")]), ["p:"]);
    }

    #[test]
    fn a_page_has_the_origin_of_the_applications_address() {
        assert_eq!(laravel(&[("APP_URL", "https://shop.example/x")]).page_origin().unwrap(), "https://shop.example");
        assert_eq!(laravel(&[("APP_URL", "null")]).page_origin(), None);
    }
}
