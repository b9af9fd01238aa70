//! The report: a line for each step, as text or JSON.
//! `doctor` adds what each step returns.

use std::io;
use std::io::Write;

use serde_json::Value;
use serde_json::json;

use crate::cli::doctor::cause::Cause;
use crate::cli::doctor::names::Names;

/// The result of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is as it should be.
    Passed(String),
    /// It could not be tested, or does not apply; the reason.
    Skipped(String),
    /// The cause, and what exactly was found. The detail may be empty.
    Failed(Cause, String),
}

/// A step with its result. One that finds several faults is there several times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) outcome: Outcome,
}

impl Step {
    pub(super) fn passed(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Passed(text.into()) }
    }

    pub(super) fn skipped(name: &'static str, reason: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Skipped(reason.into()) }
    }

    pub(super) fn failed(name: &'static str, cause: Cause, detail: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Failed(cause, detail.into()) }
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(..))
    }

    fn is_skipped(&self) -> bool {
        matches!(self.outcome, Outcome::Skipped(_))
    }

    /// A line; two for a failed step. `name` is that of the step, or of several.
    fn text(&self, name: &str, laravels: Names) -> String {
        match &self.outcome {
            Outcome::Passed(text) => format!("✓ {name:<10} {}", visible(text)),
            Outcome::Skipped(reason) => format!("– {name:<10} {}", visible(reason)),
            Outcome::Failed(cause, detail) => {
                let detail = visible(detail);
                let gap = if detail.is_empty() { "" } else { ": " };
                let (label, sentence, fix) =
                    (cause.name(), laravels.put_into(cause.sentence()), laravels.put_into(cause.remedy()));
                format!("✗ {name:<10} {sentence}{gap}{detail} [{label}]\n  {:<10} {fix}", "fix")
            }
        }
    }

    fn json(&self, subject: &Subject, laravels: Names) -> Value {
        let (step, Subject { address, side }) = (self.name, subject);
        match &self.outcome {
            Outcome::Passed(text) => {
                json!({ "step": step, "address": address, "side": side, "state": "passed", "text": text })
            }
            Outcome::Skipped(reason) => {
                json!({ "step": step, "address": address, "side": side, "state": "skipped", "text": reason })
            }
            Outcome::Failed(cause, detail) => json!({
                "step": step,
                "address": address,
                "side": side,
                "state": "failed",
                "cause": cause.name(),
                "text": laravels.put_into(cause.sentence()),
                "detail": detail,
                "fix": laravels.put_into(cause.remedy()),
            }),
        }
    }
}

/// The subject of some steps: an address and who uses it; neither for those of the machine.
#[derive(Debug, Clone, Default)]
pub(super) struct Subject {
    pub(super) address: Option<String>,
    /// `pages`, `laravel` or `both`.
    pub(super) side: Option<&'static str>,
}

impl Subject {
    pub(super) fn new(address: String, side: &'static str) -> Self {
        Self { address: Some(address), side: Some(side) }
    }

    fn text(&self) -> String {
        let side = match self.side {
            Some("pages") => "pages",
            Some("laravel") => "Laravel",
            _ => "pages and Laravel",
        };
        self.address.as_ref().map_or("this machine".to_owned(), |address| format!("{} for {side}", visible(address)))
    }
}

/// Everything that was found so far. Text is printed at once, JSON at the end.
#[derive(Debug)]
pub(super) struct Report {
    as_json: bool,
    /// For texts about Laravel's variables.
    laravels: Names,
    subject: Subject,
    steps: Vec<Value>,
    failed: usize,
}

impl Report {
    pub(super) fn new(as_json: bool, laravels: Names) -> Self {
        Self { as_json, laravels, subject: Subject::default(), steps: Vec::new(), failed: 0 }
    }

    /// The next steps are about this.
    pub(super) fn begin(&mut self, subject: Subject) -> io::Result<()> {
        self.subject = subject;
        if self.as_json { Ok(()) } else { print(&format!("\n{}", self.subject.text())) }
    }

    /// Adds the results of a step.
    pub(super) fn add(&mut self, steps: impl IntoIterator<Item = Step>) -> io::Result<()> {
        let steps: Vec<Step> = steps.into_iter().collect();
        self.failed += steps.iter().filter(|step| step.has_failed()).count();
        self.steps.extend(steps.iter().map(|step| step.json(&self.subject, self.laravels)));
        if !self.as_json {
            // Steps that are skipped for the same reason share a line.
            for same in steps.chunk_by(|one, other| one.outcome == other.outcome && one.is_skipped()) {
                let names: Vec<&str> = same.iter().map(|step| step.name).collect();
                let colon = if same.len() > 1 { ":" } else { "" };
                print(&same[0].text(&format!("{}{colon}", names.join(", ")), self.laravels))?;
            }
        }
        Ok(())
    }

    /// Prints the end. Returns whether no step has failed.
    pub(super) fn end(self) -> io::Result<bool> {
        match self.failed {
            failed if self.as_json => print(&format!("{:#}", json!({ "ok": failed == 0, "steps": self.steps })))?,
            0 => print("\nEverything that was tested is right.")?,
            1 => print("\n1 fault was found.")?,
            failed => print(&format!("\n{failed} faults were found."))?,
        }
        Ok(self.failed == 0)
    }
}

/// A text of the server or of a file without characters that a terminal would obey.
fn visible(text: &str) -> String {
    let is_obeyed = |letter: char| letter.is_control() || ('\u{202a}'..='\u{202e}').contains(&letter);
    text.replace(is_obeyed, "\u{fffd}")
}

fn print(text: &str) -> io::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        // The reader has seen enough, as in `gema doctor | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_has_a_line_for_the_cause_and_one_for_the_fix() {
        let step = Step::failed("port", Cause::PortClosed, "127.0.0.1:1");
        let text = step.text(step.name, Names::Pusher);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "✗ port       nothing listens on this port: 127.0.0.1:1 [port_closed]");
        assert_eq!(lines[1], format!("  fix        {}", Cause::PortClosed.remedy()));
        assert_eq!(step.json(&Subject::default(), Names::Pusher)["cause"], "port_closed");
    }

    #[test]
    fn a_text_of_the_server_moves_no_cursor() {
        for step in [
            Step::passed("ready", "a\u{1b}[2Jb\nc"),
            Step::skipped("ready", "a\u{1b}[2Jb\nc"),
            Step::failed("ready", Cause::ServerDegraded, "a\u{1b}[2Jb\nc"),
        ] {
            let text = step.text(step.name, Names::Pusher);
            assert!(text.contains("a\u{fffd}[2Jb\u{fffd}c") && !text.contains('\u{1b}'), "{text:?}");
        }
    }
}
