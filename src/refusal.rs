//! Refusals: one function counts and logs each of them. `refusal/cause.rs` is the table of causes.
//! Every module that refuses something calls [`Refusals::add`].
//!
//! `GET /metrics` counts each refusal. The log shows the first of a cause and app as a warning, and the following ones
//! as a number; at `debug` each has a line. `telemetry` limits the lines per second.

mod cause;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

pub use cause::Cause;
pub(crate) use table::cause_table;

use crate::metrics::Metrics;
use crate::protocol::socket_id::SocketId;

/// From the first warning to the next line about the same cause and app, with the number meanwhile.
const FIRST_PERIOD: Duration = Duration::from_secs(10);
/// Like `FIRST_PERIOD`, but when it goes on: often enough to notice, and the log does not fill up.
const NEXT_PERIOD: Duration = Duration::from_secs(60);
/// Apps per cause that are counted apart; further ones count together.
const APPS_MAX: usize = 1024;
/// Like `APPS_MAX`, within a second for the operator's page.
const NEW_APPS_MAX: usize = 10_000;
/// Characters of a client's text that a line shows.
const SHOWN_MAX: usize = 200;
/// Bytes of a detail that a line shows.
const DETAIL_BYTES_MAX: usize = 1000;

/// The subject of a refusal, as far as it is known.
#[derive(Clone, Copy, Default)]
pub struct Subject<'a> {
    /// The app's id; empty if it concerns no app of this server.
    pub app: &'a str,
    /// The channel.
    pub channel: Option<&'a str>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The connection.
    pub socket_id: Option<SocketId>,
    /// The page of the connection.
    pub origin: Option<&'a str>,
    /// The difference from an acceptable request, for the operator. Formatted only if a line is written. Never a
    /// secret, a signature or the content of an event or member.
    pub detail: Option<&'a dyn fmt::Display>,
}

/// A text that is only built when it is formatted.
pub struct LazyText<F>(pub F);

impl<F: Fn() -> String> fmt::Display for LazyText<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&(self.0)())
    }
}

/// Counts and logs the refusals of this node.
#[derive(Debug)]
pub struct Refusals {
    metrics: Arc<Metrics>,
    /// By cause, then by app.
    suppressed: Vec<Mutex<HashMap<Box<str>, Suppressed>>>,
    /// The numbers since the last [`Self::take_new`], by cause, then by app; empty if nobody takes them.
    new: Vec<Mutex<HashMap<Box<str>, u64>>>,
}

/// New refusals of a cause and app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRefusals {
    /// The cause.
    pub cause: Cause,
    /// The app's id, or nothing.
    pub app: Box<str>,
    /// How many.
    pub count: u64,
}

/// A cause and app whose further lines are suppressed.
#[derive(Debug)]
struct Suppressed {
    /// When the next line is due.
    until: Instant,
    /// Refusals since the last line.
    count: u64,
}

/// One log line. Texts of clients are strings, which the log quotes.
macro_rules! line {
    ($level:ident, $cause:expr, $subject:expr, $repeated:expr) => {
        tracing::$level!(
            cause = $cause.name(),
            code = $cause.code(),
            app = $subject.app,
            channel = $subject.channel.map(cut),
            address = $subject.address.map(display),
            socket_id = $subject.socket_id.map(display),
            origin = $subject.origin.map(cut),
            detail = $subject.detail.map(|detail| Detail::of(detail).0),
            remedy = $cause.remedy(),
            repeated = $repeated,
            "{}",
            $cause.sentence()
        )
    };
}

impl Refusals {
    /// No refusals so far.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, suppressed: Cause::ALL.iter().map(|_| Mutex::default()).collect(), new: Vec::new() }
    }

    /// From now on the numbers are there for [`Self::take_new`], which somebody must call each second.
    pub fn counted_anew(mut self) -> Self {
        self.new = Cause::ALL.iter().map(|_| Mutex::default()).collect();
        self
    }

    /// The refusals since the last call.
    pub fn take_new(&self) -> Vec<NewRefusals> {
        let mut taken = Vec::new();
        for (&cause, new) in Cause::ALL.iter().zip(&self.new) {
            let new = std::mem::take(&mut *new.lock());
            taken.extend(new.into_iter().map(|(app, count)| NewRefusals { cause, app, count }));
        }
        taken
    }

    /// Counts a refusal and logs it.
    pub fn add(&self, cause: Cause, subject: &Subject<'_>) {
        self.metrics.refused(subject.app, cause.name(), cause.code_label());
        if let Some(new) = self.new.get(cause as usize) {
            count_new(&mut new.lock(), subject.app);
        }
        // Decided before the line is formatted, since a detail may take locks of its own.
        match self.is_due(cause, subject.app, Instant::now()) {
            Some(repeated) => line!(warn, cause, subject, (repeated > 0).then_some(repeated)),
            None => line!(debug, cause, subject, None::<u64>),
        }
    }

    /// Whether a refusal is logged as a warning, with the number since the last one.
    fn is_due(&self, cause: Cause, app: &str, now: Instant) -> Option<u64> {
        let mut apps = self.suppressed[cause as usize].lock();
        let app = if apps.len() < APPS_MAX || apps.contains_key(app) { app } else { "" };
        if let Some(known) = apps.get_mut(app) {
            return known.count_one(now);
        }
        apps.insert(app.into(), Suppressed { until: now + FIRST_PERIOD, count: 0 });
        Some(0)
    }

    /// Logs the numbers of suppressed lines that are due. Call it about once a second.
    pub fn tick(&self, now: Instant) {
        self.report(|suppressed| suppressed.until <= now, now);
    }

    /// Logs all numbers of suppressed lines, before the process ends.
    pub fn flush(&self) {
        self.report(|_| true, Instant::now());
    }

    fn report(&self, is_due: impl Fn(&Suppressed) -> bool, now: Instant) {
        for (&cause, apps) in Cause::ALL.iter().zip(&self.suppressed) {
            let mut due = Vec::new();
            apps.lock().retain(|app, suppressed| {
                if !is_due(suppressed) {
                    return true;
                }
                if suppressed.count > 0 {
                    due.push((app.clone(), suppressed.count));
                }
                suppressed.until = now + NEXT_PERIOD;
                std::mem::take(&mut suppressed.count) > 0
            });
            for (app, count) in due {
                line!(warn, cause, Subject { app: &app, ..Subject::default() }, Some(count));
            }
        }
    }
}

/// Counts a refusal of an app, or of none if there are too many apps.
fn count_new(new: &mut HashMap<Box<str>, u64>, app: &str) {
    let app = if new.len() < NEW_APPS_MAX || new.contains_key(app) { app } else { "" };
    match new.get_mut(app) {
        Some(count) => *count += 1,
        None => {
            new.insert(app.into(), 1);
        }
    }
}

impl Suppressed {
    /// Counts a refusal. If a line is due, returns the number of suppressed ones before it.
    fn count_one(&mut self, now: Instant) -> Option<u64> {
        if now < self.until {
            self.count += 1;
            return None;
        }
        self.until = now + NEXT_PERIOD;
        Some(std::mem::take(&mut self.count))
    }
}

/// A client's text, cut to a length that can be logged.
fn cut(name: &str) -> &str {
    let end = name.char_indices().nth(SHOWN_MAX).map_or(name.len(), |(end, _)| end);
    &name[..end]
}

/// The beginning of a text.
struct Detail(String);

impl Detail {
    fn of(detail: &dyn fmt::Display) -> Self {
        let mut shown = Self(String::new());
        // Fails when the limit is reached.
        let _ = write!(shown, "{detail}");
        shown
    }
}

impl fmt::Write for Detail {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let rest = DETAIL_BYTES_MAX - self.0.len();
        if text.len() <= rest {
            self.0.push_str(text);
            return Ok(());
        }
        let end = (0..=rest).rev().find(|&end| text.is_char_boundary(end)).unwrap_or_default();
        self.0.push_str(&text[..end]);
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_is_cut_between_characters() {
        assert_eq!(Detail::of(&format_args!("{} of {}", 1, 2)).0, "1 of 2");
        let long = "é".repeat(DETAIL_BYTES_MAX);
        assert_eq!(Detail::of(&format_args!("{}{long}{long}", 1)).0.len(), DETAIL_BYTES_MAX - 1);
        assert_eq!(Detail::of(&format_args!("{long}{long}")).0.len(), DETAIL_BYTES_MAX);
    }

    fn refusals() -> Refusals {
        Refusals::new(Arc::new(Metrics::new("soketi_", 6001, false)))
    }

    #[test]
    fn new_refusals_are_taken_once_and_only_where_somebody_takes_them() {
        let add = |refusals: &Refusals, app: &str| {
            refusals.add(Cause::ConnectOrigin, &Subject { app, ..Subject::default() });
        };
        let refusals = refusals();
        add(&refusals, "a");
        assert_eq!(refusals.take_new(), []);
        let refusals = refusals.counted_anew();
        ["a", "b", "a"].into_iter().for_each(|app| add(&refusals, app));
        let mut new = refusals.take_new();
        new.sort_by_key(|new| new.app.clone());
        let new: Vec<(&str, u64)> = new.iter().map(|new| (&*new.app, new.count)).collect();
        assert_eq!(new, [("a", 2), ("b", 1)]);
        assert_eq!(refusals.take_new(), []);
        (0..NEW_APPS_MAX + 5).for_each(|number| add(&refusals, &format!("{number}")));
        assert_eq!(refusals.take_new().len(), NEW_APPS_MAX + 1);
    }

    #[test]
    fn a_cause_and_an_app_get_a_line_now_and_a_number_later() {
        let (refusals, now) = (refusals(), Instant::now());
        let due = |app: &str, at: Instant| refusals.is_due(Cause::ConnectOrigin, app, at);
        assert_eq!(due("a", now), Some(0));
        (0..5).for_each(|_| assert_eq!(due("a", now), None));
        assert_eq!(due("b", now), Some(0));
        assert_eq!(due("a", now + FIRST_PERIOD), Some(5));
        assert_eq!(due("a", now + FIRST_PERIOD * 2), None);
        assert_eq!(due("a", now + FIRST_PERIOD + NEXT_PERIOD), Some(1));
    }

    #[test]
    fn quiet_causes_are_forgotten_and_apps_are_bounded() {
        let (refusals, now) = (refusals(), Instant::now());
        let entries = || refusals.suppressed[Cause::ConnectOrigin as usize].lock().len();
        for app in 0..APPS_MAX * 2 {
            refusals.is_due(Cause::ConnectOrigin, &app.to_string(), now);
        }
        assert_eq!(entries(), APPS_MAX + 1);
        refusals.tick(now + FIRST_PERIOD);
        // Only the entry that stands for the others has a number left.
        assert_eq!(entries(), 1);
        refusals.tick(now + FIRST_PERIOD + NEXT_PERIOD);
        assert_eq!(entries(), 0);
    }

    #[test]
    fn each_cause_has_a_name_of_its_own_and_a_remedy() {
        let mut names: Vec<&str> = Cause::ALL.iter().map(|cause| cause.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Cause::ALL.len());
        assert!(Cause::ALL.iter().enumerate().all(|(place, &cause)| cause as usize == place));
        assert!(Cause::ALL.iter().all(|cause| !cause.sentence().is_empty() && !cause.remedy().is_empty()));
    }
}
