//! Reverb's limit for the messages of a connection: so many in so many seconds.
//! `reverb` translates it; gema counts client events by the second.

use std::collections::BTreeMap;

use crate::config::settings::values::boolean;
use crate::config::sources::soketi::{Setting, Translation, unquoted};

pub(super) const ENABLED: &str = "REVERB_APP_RATE_LIMITING_ENABLED";
pub(super) const ATTEMPTS: &str = "REVERB_APP_RATE_LIMIT_MAX_ATTEMPTS";
pub(super) const SECONDS: &str = "REVERB_APP_RATE_LIMIT_DECAY_SECONDS";
pub(super) const TERMINATE: &str = "REVERB_APP_RATE_LIMIT_TERMINATE";

/// Reverb's default of both numbers.
const DEFAULT: u32 = 60;

/// The variables of the limit that are set.
pub(super) struct RateLimit<'a>(BTreeMap<&'a str, Setting<'a>>);

impl<'a> RateLimit<'a> {
    /// Those of the limit among `variables`.
    pub(super) fn of(variables: impl Iterator<Item = (&'a str, Setting<'a>)>) -> Self {
        Self(variables.filter(|(name, _)| [ENABLED, ATTEMPTS, SECONDS, TERMINATE].contains(name)).collect())
    }

    pub(super) fn translate(&self, translation: &mut Translation) {
        let is_on = self.is_true(ENABLED, translation);
        let is_final = self.is_true(TERMINATE, translation);
        let (attempts, seconds) = (self.number(ATTEMPTS, 0, translation), self.number(SECONDS, 1, translation));
        let Some(enabled) = self.0.get(ENABLED).filter(|_| is_on) else {
            let idle =
                [(ATTEMPTS, attempts != Some(DEFAULT)), (SECONDS, seconds != Some(DEFAULT)), (TERMINATE, is_final)];
            for setting in idle.iter().filter(|(_, counts)| *counts).filter_map(|(name, _)| self.0.get(name)) {
                let text = format!("has no effect, because {ENABLED} is not true");
                translation.warnings.push(setting.subject.fault(text));
            }
            return;
        };
        if let Some(setting) = self.0.get(TERMINATE).filter(|_| is_final) {
            let text = "has no effect, because gema refuses what comes too fast, and leaves the connection open";
            translation.warnings.push(setting.subject.fault(text));
        }
        let (Some(attempts), Some(seconds)) = (attempts, seconds) else { return };
        let rate = attempts.div_ceil(seconds);
        let Setting { subject, origin, .. } = enabled;
        translation.set(subject, "limits.max_client_events_per_second", origin.value(i64::from(rate)));
        if seconds > 1 {
            let text = format!(
                "means {rate} per second and connection, because gema counts client events by the second, not {attempts} \
                 in {seconds} s; set GEMA_LIMITS_MAX_CLIENT_EVENTS_PER_SECOND for another limit"
            );
            translation.warnings.push(subject.fault(text));
        }
    }

    fn is_true(&self, name: &str, translation: &mut Translation) -> bool {
        let Some(Setting { subject, value, .. }) = self.0.get(name) else { return false };
        boolean(unquoted(value)).unwrap_or_else(|| {
            translation.faults.push(subject.fault(format!("is {value:?}; it must be true or false")));
            false
        })
    }

    /// The number, or Reverb's default; `None` with a fault if it is none.
    fn number(&self, name: &str, least: u32, translation: &mut Translation) -> Option<u32> {
        let Some(Setting { subject, value, .. }) = self.0.get(name) else { return Some(DEFAULT) };
        let number = unquoted(value).trim().parse().ok().filter(|number| *number >= least);
        if number.is_none() {
            let text = format!("is {value:?}; it must be a whole number, {least} or more");
            translation.faults.push(subject.fault(text));
        }
        number
    }
}
