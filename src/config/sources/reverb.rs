//! Reverb's variables, and the settings of gema that they mean. They count all together or not at all.
//! `load` reads them when it knows what every other source says.

mod rate_limit;

use std::collections::BTreeMap;

use config::{Value, ValueKind};

use self::rate_limit::RateLimit;
use crate::config::fault::{Fault, Subject};
use crate::config::origin::Origin;
use crate::config::settings::connections::MESSAGE_BYTES;
use crate::config::settings::values::boolean;
use crate::config::sources::laravel;
use crate::config::sources::soketi;
use crate::config::sources::soketi::Means::{Key, Only, Parameter, Untagged};
use crate::config::sources::soketi::{OWN_LINK, Setting, Translation};
use crate::config::sources::variable::Variable;
use crate::config::suggest::nearest;
use crate::config::tree::Group;

/// The port of Reverb where nothing names one. Pages and Laravel know it.
const PORT: i64 = 8080;
/// The variables that name the app.
const APP: [&str; 3] = ["REVERB_APP_ID", "REVERB_APP_KEY", "REVERB_APP_SECRET"];
/// Why intervals of Laravel's packages have no effect.
const FIGURES: &str = "gema's figures are on its metrics port and on the operator's page";

/// The meaning of a variable.
#[derive(Debug, Clone, Copy)]
enum Means {
    /// One that Soketi's variables have, too.
    Common(soketi::Means<'static>),
    /// The start of all paths, with or without slashes around it.
    Path,
    /// Whether there are several nodes.
    Scaling,
    /// How hard Redis is tried, where it is used.
    Redis,
    /// Whose client events are taken.
    ClientEvents,
    /// The largest message of a client, in bytes.
    MessageBytes,
    /// A part of the limit for the messages of a connection.
    RateLimit,
    /// Where clients connect. `gema doctor` reads it.
    OfClients,
}

use Means::{ClientEvents, Common, MessageBytes, OfClients, Path, Redis, Scaling};

/// Every variable of Reverb's `config/reverb.php`, and names that many applications have for the address behind the proxy
/// and for the origins. Those of Redis count for all of Laravel.
const TABLE: [(&str, Means); 30] = [
    ("REVERB_APP_ID", Common(Key("apps.0.id"))),
    ("REVERB_APP_KEY", Common(Key("apps.0.key"))),
    ("REVERB_APP_SECRET", Common(Key("apps.0.secret"))),
    ("REVERB_SERVER", Common(Only(&["reverb"], "Reverb has no other server"))),
    ("REVERB_SERVER_HOST", Common(Key("server.host"))),
    ("REVERB_SERVER_PORT", Common(Key("server.port"))),
    ("REVERB_SERVER_PATH", Path),
    ("REVERB_HOST", OfClients),
    ("REVERB_PORT", OfClients),
    ("REVERB_SCHEME", OfClients),
    ("REVERB_INTERNAL_HOST", OfClients),
    ("REVERB_INTERNAL_PORT", OfClients),
    ("REVERB_INTERNAL_SCHEME", OfClients),
    ("REVERB_ALLOWED_ORIGINS", Common(Key("limits.allowed_origins"))),
    ("REVERB_APP_ALLOWED_ORIGINS", Common(Key("limits.allowed_origins"))),
    ("REVERB_MAX_REQUEST_SIZE", Common(Key("http.request_bytes_max"))),
    ("REVERB_SCALING_ENABLED", Scaling),
    ("REVERB_SCALING_CHANNEL", Common(Untagged("cluster.name"))),
    ("REDIS_TIMEOUT", Redis),
    ("REVERB_PULSE_INGEST_INTERVAL", Common(Parameter("15", FIGURES))),
    ("REVERB_TELESCOPE_INGEST_INTERVAL", Common(Parameter("15", FIGURES))),
    ("REVERB_APP_PING_INTERVAL", Common(Key("connections.ping_seconds"))),
    ("REVERB_APP_ACTIVITY_TIMEOUT", Common(Key("connections.activity_timeout_seconds"))),
    ("REVERB_APP_MAX_CONNECTIONS", Common(Key("limits.max_connections"))),
    ("REVERB_APP_MAX_MESSAGE_SIZE", MessageBytes),
    ("REVERB_APP_ACCEPT_CLIENT_EVENTS_FROM", ClientEvents),
    (rate_limit::ENABLED, Means::RateLimit),
    (rate_limit::ATTEMPTS, Means::RateLimit),
    (rate_limit::SECONDS, Means::RateLimit),
    (rate_limit::TERMINATE, Means::RateLimit),
];

/// The other sources, which decide whether Reverb's variables count.
pub(in crate::config) struct Others<'a> {
    /// The values of files, and of Soketi's and gema's variables.
    pub(in crate::config) root: &'a Group,
    /// Those of Laravel's other variables.
    pub(in crate::config) fallbacks: &'a [(&'static str, Value)],
    /// Laravel's broadcaster.
    pub(in crate::config) broadcaster: Option<&'a str>,
}

/// The values of Reverb's variables; none, with one warning, if another source names the app.
pub(in crate::config) fn read(variables: &[Variable], others: &Others<'_>) -> Translation {
    let given: Vec<Given<'_>> = variables.iter().filter_map(Given::of).collect();
    let mut translation = Translation::default();
    let is_setting = |given: &&Given<'_>| given.means.is_some_and(|means| !matches!(means, OfClients | Redis));
    let settings: Vec<&Given<'_>> = given.iter().filter(is_setting).collect();
    let Some(first) = settings.first() else {
        if laravel::app_of(others.root).is_none() && pushers(others.fallbacks).is_empty() {
            // A misspelt name may be meant to name the app.
            given
                .iter()
                .filter(|given| given.means.is_none())
                .for_each(|given| given.translate(false, &mut translation));
        }
        return translation;
    };
    if let Some(because) = outweighed(&given, others) {
        let more = match settings.len() - 1 {
            0 => "has".to_owned(),
            1 => "and another variable of Reverb have".to_owned(),
            more => format!("and {more} more variables of Reverb have"),
        };
        translation.warnings.push(first.subject().fault(format!("{more} no effect, because {because}")));
        return translation;
    }
    translation.warnings.extend(idle_pusher(others.fallbacks));
    let is_scaled = given.iter().any(|given| given.name() == "REVERB_SCALING_ENABLED" && given.is_true());
    for variable in &given {
        variable.translate(is_scaled, &mut translation);
    }
    RateLimit::of(given.iter().map(|given| (given.name(), given.setting()))).translate(&mut translation);
    complete(&given, &mut translation);
    translation
}

/// Puts values in `root` where it has none, and warns of those that it has.
pub(in crate::config) fn put(root: &mut Group, reverb: &Translation) -> Vec<Fault> {
    let mut warnings = Vec::new();
    for (key, value) in &reverb.values {
        // A limit of the app outweighs that of all apps.
        let of_app = key.strip_prefix("limits.").and_then(|field| {
            let value = laravel::of_first_app(root, field)?;
            Some((format!("apps.0.{field}"), value.clone()))
        });
        let before = laravel::put(root, key, value.clone()).map(|before| (key.clone(), before)).or(of_app);
        let before = before.filter(|(_, before)| !is_same(before, value));
        if let Some(((key, before), subject)) = before.zip(reverb.subjects.get(key)) {
            let other = Subject::of(key, &before);
            // As with Reverb, an option of the command line outweighs without a word.
            if matches!(other.origin, Some(Origin::Option(_))) {
                continue;
            }
            warnings.push(subject.fault(format!("has no effect, because {other} sets it")));
        }
    }
    warnings
}

fn is_same(one: &Value, other: &Value) -> bool {
    one.kind.to_string() == other.kind.to_string()
}

/// A variable with a value.
struct Given<'a> {
    variable: &'a Variable,
    value: String,
    /// `None` for a name that Reverb does not have.
    means: Option<Means>,
    origin: Origin,
    subject: Subject,
}

impl<'a> Given<'a> {
    fn of(variable: &'a Variable) -> Option<Self> {
        let means = TABLE.iter().find(|(name, _)| *name == variable.name).map(|(_, means)| *means);
        let (origin, subject) = (variable.origin(), variable.subject());
        let value = soketi::given(&variable.value)?;
        let value = match value.trim() {
            // Laravel's words for nothing.
            "(null)" | "empty" | "(empty)" => return None,
            "(true)" => "true".to_owned(),
            "(false)" => "false".to_owned(),
            _ => value,
        };
        Some(Self { variable, value, means, origin, subject })
    }

    fn name(&self) -> &'a str {
        &self.variable.name
    }

    fn subject(&self) -> &Subject {
        &self.subject
    }

    fn setting(&self) -> Setting<'_> {
        Setting { subject: &self.subject, origin: &self.origin, value: &self.value }
    }

    fn is_true(&self) -> bool {
        boolean(soketi::unquoted(&self.value)) == Some(true)
    }

    fn translate(&self, is_scaled: bool, translation: &mut Translation) {
        let (subject, value) = (&self.subject, soketi::unquoted(&self.value));
        match self.means {
            Some(Common(means)) => {
                translation.warn_of_quotes(self.setting(), &means);
                translation.apply(self.setting(), &means);
            }
            Some(Path) => {
                let path = value.trim().trim_matches('/');
                if !path.is_empty() {
                    translation.set(subject, "server.path_prefix", self.origin.value(format!("/{path}")));
                }
            }
            Some(Scaling) => match boolean(value) {
                Some(true) => translation.set(subject, "cluster.driver", self.origin.value("redis")),
                Some(false) => (),
                None => translation.faults.push(subject.fault(format!("is {value:?}; it must be true or false"))),
            },
            Some(Redis) if is_scaled => translation.apply(self.setting(), &Parameter("60", OWN_LINK)),
            Some(ClientEvents) => self.client_events(value, translation),
            Some(MessageBytes) => self.message_bytes(value, translation),
            Some(OfClients) => {
                translation.clients.push((self.name().to_owned(), value.to_owned(), self.origin.clone()));
            }
            Some(Redis | Means::RateLimit) => (),
            None => {
                let meant = nearest(self.name(), TABLE.iter().map(|(name, _)| *name));
                let remedy = meant.map(|meant| format!("did you mean {meant}?"));
                translation.unread(subject, "Reverb", remedy.as_deref().unwrap_or("remove it"));
            }
        }
    }

    fn client_events(&self, value: &str, translation: &mut Translation) {
        let set = |translation: &mut Translation, key, value: &str| {
            translation.set(&self.subject, key, self.origin.value(value));
        };
        match value.trim() {
            "members" => set(translation, "limits.enable_client_messages", "true"),
            "all" => {
                set(translation, "limits.enable_client_messages", "true");
                set(translation, "limits.allow_public_client_events", "true");
                let text =
                    "is all, but gema takes client events from subscribers of the channel only; set it to members";
                translation.warnings.push(self.subject.fault(text));
            }
            "none" => set(translation, "limits.enable_client_messages", "false"),
            _ => {
                let text = format!("is {value:?}; it must be members, all or none");
                translation.faults.push(self.subject.fault(text));
            }
        }
    }

    fn message_bytes(&self, value: &str, translation: &mut Translation) {
        const KEY: &str = "connections.message_bytes_max";
        let least = *MESSAGE_BYTES.start();
        match value.trim().parse::<usize>() {
            Ok(bytes) if bytes < least => {
                translation.set(&self.subject, KEY, self.origin.value(least.to_string()));
                let text = format!("is {bytes}, but gema takes messages of {least} bytes at least, so {least} counts");
                translation.warnings.push(self.subject.fault(text));
            }
            _ => translation.set(&self.subject, KEY, self.origin.value(value)),
        }
    }
}

/// Why Reverb's variables do not count, if they do not.
fn outweighed(given: &[Given<'_>], others: &Others<'_>) -> Option<String> {
    let app: BTreeMap<&str, &str> = of_app(given).collect();
    if app.is_empty() {
        return Some(format!("none of {} is set; set them, or gema's own names", APP.join(", ")));
    }
    if let Some(other) = laravel::app_of(others.root) {
        return Some(format!("{other} decides about the app; set gema's own names instead, such as SOKETI_PORT"));
    }
    let pushers = pushers(others.fallbacks);
    let Some((_, first)) = pushers.first() else {
        let other = others.broadcaster.filter(|name| ["pusher", "redis", "ably"].contains(name))?;
        return Some(format!(
            "Laravel's broadcaster is {other}; set BROADCAST_CONNECTION=reverb if Laravel publishes through Reverb"
        ));
    };
    let name = Origin::of(first)?;
    if others.broadcaster != Some("reverb") {
        return Some(format!(
            "{name} names the app; set BROADCAST_CONNECTION=reverb if Laravel publishes through Reverb, or remove them"
        ));
    }
    // An installation that has run with these names has gema's own port.
    let reverbs = |key: &str| {
        let fields = ["apps.0.id", "apps.0.key", "apps.0.secret"].into_iter().zip(APP);
        fields.into_iter().find(|(field, _)| *field == key).and_then(|(_, name)| app.get(name).copied())
    };
    let is_same = pushers.iter().all(|(key, value)| reverbs(key) == Some(value.kind.to_string().as_str()));
    is_same.then(|| format!("{name} names the same app; remove PUSHER_APP_* to configure gema by Reverb's names"))
}

/// The variables that name the app, with their values.
fn of_app<'a>(given: &'a [Given<'_>]) -> impl Iterator<Item = (&'a str, &'a str)> {
    given.iter().filter(|given| APP.contains(&given.name())).map(|given| (given.name(), given.value.as_str()))
}

/// The values of `PUSHER_APP_ID` and the like.
fn pushers<'a>(fallbacks: &'a [(&'static str, Value)]) -> Vec<(&'a str, &'a Value)> {
    fallbacks.iter().filter(|(key, _)| key.starts_with("apps.0.")).map(|(key, value)| (*key, value)).collect()
}

/// The warning about variables for Pusher beside Reverb's.
fn idle_pusher(fallbacks: &[(&'static str, Value)]) -> Option<Fault> {
    let name = Origin::of(pushers(fallbacks).first()?.1)?.to_string();
    let text = "has no effect, because BROADCAST_CONNECTION is reverb, and REVERB_APP_* name the app";
    Some(Fault::new(name, text))
}

/// Adds Reverb's own defaults where they differ from gema's and applications rely on them, and a fault for each part of
/// the app that is missing.
fn complete(given: &[Given<'_>], translation: &mut Translation) {
    let Some(named) = given.iter().find(|given| APP.contains(&given.name())) else { return };
    for (key, kind) in
        [("server.port", ValueKind::I64(PORT)), ("limits.enable_client_messages", ValueKind::Boolean(true))]
    {
        translation.values.entry(key.to_owned()).or_insert_with(|| named.origin.value(kind));
    }
    for name in APP.into_iter().filter(|name| given.iter().all(|given| given.name() != *name)) {
        translation.faults.push(Fault::new(name, format!("is missing; set it beside {}", named.name())));
    }
}
