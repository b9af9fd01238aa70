//! Many users join one presence channel at once, then all leave it. Every two users meet once, so that there are
//! exactly N(N-1)/2 notices of joining and as many of leaving.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::client::{State, Subscription};
use crate::clock::{self, SECOND};
use crate::fanout;
use crate::hub::{Hub, Nobody, Receiver};
use crate::meter::Usage;
use crate::options::{PresenceOptions, bounded};
use crate::report::Report;

const CHANNEL: &str = "presence-bench";
/// After so long without a notice no more will come.
const PATIENCE: u64 = 5 * SECOND;
/// A moment more, in case that there come too many.
const SURPLUS_S: f64 = 0.3;
/// The name of the event stands at the beginning of the frame, or of its end in servers that sort keys; member
/// data is shorter than this.
const HEAD_BYTES: usize = 400;
/// Requests written between two looks at what came.
const BURST: usize = 16;

/// Counts notices.
#[derive(Default)]
struct Notices {
    added: u64,
    removed: u64,
    last: u64,
}

impl Receiver for Notices {
    fn text(&mut self, _client: usize, text: &[u8], now: u64) -> bool {
        let head = &text[..text.len().min(HEAD_BYTES)];
        let names = |name: &[u8]| head.windows(name.len()).any(|window| window == name);
        if names(b"member_added") {
            self.added += 1;
        } else if names(b"member_removed") {
            self.removed += 1;
        } else {
            return false;
        }
        self.last = now;
        true
    }
}

/// Everybody connects, joins, leaves.
pub(crate) fn run(options: &PresenceOptions) -> Result<Report> {
    let PresenceOptions { server, users } = options;
    bounded(*users, 0.0)?;
    let process = server.process()?;
    process.reset_peak();
    let mut report = Report::default();
    report.put("scenario", "presence").put("label", server.label.as_str());
    report.put("server", server.target()?.address.to_string()).put("users", *users);
    report.put("rss_kib_before", process.known().then(|| process.rss_kib()));

    let mut hub = Hub::new(&server.target()?)?;
    hub.auto_subscribe = false;
    let established = hub.open_all((0..*users).map(user), State::Established, server.pace(), &mut Nobody)?;
    let expected = (established * established.saturating_sub(1) / 2) as u64;
    let deadline = clock::now() + server.limit_s * SECOND;

    let mut crowd = Crowd { hub, notices: Notices::default(), deadline };
    let connected = Usage::now(process, 0);
    let begin = clock::now();
    crowd.each(State::Established, Hub::subscribe)?;
    crowd.wait(begin, |crowd| crowd.notices.added >= expected && crowd.count(State::Subscribing) == 0)?;
    let join_s = crowd.notices.last.saturating_sub(begin) as f64 / SECOND as f64;
    let joined = Usage::now(process, 0);
    let members = crowd.count(State::Ready);
    report.put("joined", members).put("rss_kib_joined", process.known().then(|| process.rss_kib()));

    let begin = clock::now();
    let unsubscribe = json!({ "event": "pusher:unsubscribe", "data": { "channel": CHANNEL } }).to_string();
    crowd.each(State::Ready, |hub, client| hub.clients[client].send_text(unsubscribe.as_bytes()))?;
    crowd.wait(begin, |crowd| crowd.notices.removed >= expected)?;
    let leave_s = crowd.notices.last.saturating_sub(begin) as f64 / SECOND as f64;
    let left = Usage::now(process, 0);
    crowd.hub.poll_for(SURPLUS_S, &mut crowd.notices)?;

    report
        .put("member_added", crowd.notices.added)
        .put("member_added_expected", expected)
        .put("member_removed", crowd.notices.removed)
        .put("member_removed_expected", expected);
    phase(&mut report, "join", join_s, members, crowd.notices.added);
    phase(&mut report, "leave", leave_s, members, crowd.notices.removed);
    if process.known() {
        for (name, cpu) in [("join", joined.server_cpu_since(&connected)), ("leave", left.server_cpu_since(&joined))] {
            report.measured(&format!("{name}_server_cpu_s"), cpu);
            report.measured(&format!("{name}_server_cpu_us_per_{name}"), cpu * 1e6 / members as f64);
        }
        report.put("rss_kib_peak", process.rss_kib_peak());
    }
    report.measured("tool_cpu_s", left.own_cpu_since(&connected));
    crowd.hub.report(&mut report);
    fanout::leave(&mut crowd.hub, process, 0.5, &mut report)?;
    Ok(report)
}

fn user(n: usize) -> Subscription {
    let data = json!({ "user_id": format!("user-{n:06}"), "user_info": { "name": format!("User number {n}") } });
    Subscription { channel: CHANNEL.to_owned(), data: Some(data.to_string()) }
}

fn phase(report: &mut Report, name: &str, seconds: f64, users: usize, notices: u64) {
    report
        .measured(&format!("{name}_s"), seconds)
        .measured(&format!("{name}s_per_s"), users as f64 / seconds)
        .measured(&format!("{name}_deliveries_per_s"), notices as f64 / seconds);
}

/// All users and the notices that they received.
struct Crowd {
    hub: Hub,
    notices: Notices,
    deadline: u64,
}

impl Crowd {
    fn count(&self, state: State) -> usize {
        self.hub.clients.iter().filter(|client| client.state == state).count()
    }

    /// Does this with everybody who is in a state, reading all along: a server that cannot write stops.
    fn each(&mut self, state: State, mut act: impl FnMut(&mut Hub, usize)) -> Result<()> {
        for client in 0..self.hub.clients.len() {
            if self.hub.clients[client].state == state {
                act(&mut self.hub, client);
            }
            if client % BURST == 0 {
                self.hub.poll(Duration::ZERO, &mut self.notices)?;
            }
        }
        Ok(())
    }

    fn wait(&mut self, begin: u64, complete: impl Fn(&Self) -> bool) -> Result<()> {
        while !complete(self) && clock::now() < self.deadline.min(self.notices.last.max(begin) + PATIENCE) {
            self.hub.poll(Duration::from_millis(50), &mut self.notices)?;
        }
        Ok(())
    }
}
