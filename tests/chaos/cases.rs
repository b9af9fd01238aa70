//! Short histories for the judge: sound ones, and one for each fault that it has to find.

use crate::check::check;
use crate::history::Entry;
use crate::history::Event;
use crate::history::History;
use crate::history::How;
use crate::history::Name;
use crate::history::Place;
use crate::history::SECOND;
use crate::history::Time;
use crate::history::What;
use crate::history::Window;

/// Between two entries.
const TICK: Time = SECOND / 10;

const HERE: Place = Place { node: 0, life: 1 };
const THERE: Place = Place { node: 1, life: 1 };

/// What is written down as it happens.
struct Story {
    history: History,
    at: Time,
}

impl Story {
    /// Ada, connection 1, and Bob, connection 2, on two nodes, are on two channels.
    fn begin() -> Self {
        let mut story = Self { history: History::default(), at: 0 };
        story.comes(1, HERE, "ada", &["ada"]);
        story.comes(2, THERE, "bob", &["ada", "bob"]);
        story.came(1, "bob");
        story
    }

    fn then(&mut self, what: What) {
        self.at += TICK;
        self.history.entries.push(Entry { at: self.at, what });
    }

    fn passes(&mut self, seconds: u64) {
        self.at += seconds * SECOND;
    }

    fn comes(&mut self, connection: u32, place: Place, user: &str, members: &[&str]) {
        self.then(What::Opened { connection, app: 0, place });
        self.joins(connection, "orders", None, &[]);
        self.joins(connection, "presence-room", Some(user), members);
    }

    fn joins(&mut self, connection: u32, channel: &str, user: Option<&str>, members: &[&str]) {
        self.then(What::Asked { connection, channel: channel.into(), user: user.map(Name::from) });
        let members = members.iter().copied().map(Name::from).collect();
        self.then(What::Joined { connection, channel: channel.into(), members });
    }

    fn came(&mut self, connection: u32, user: &str) {
        self.then(What::MemberCame { connection, channel: "presence-room".into(), user: user.into() });
    }

    fn went(&mut self, connection: u32, user: &str) {
        self.then(What::MemberWent { connection, channel: "presence-room".into(), user: user.into() });
    }

    /// One publisher's events on `orders`, over the first node.
    fn sent(&mut self, number: u32) {
        let channels = vec!["orders".into()];
        self.then(What::Sent { event: event(number), app: 0, channels, to: Some(HERE) });
    }

    fn accepted(&mut self, number: u32) {
        self.sent(number);
        self.then(What::Accepted { event: event(number), by: Some(HERE) });
    }

    fn heard(&mut self, connection: u32, number: u32) {
        self.then(What::Heard { connection, channel: "orders".into(), event: event(number) });
    }

    /// Accepted and heard by both.
    fn arrives(&mut self, number: u32) {
        self.accepted(number);
        self.heard(1, number);
        self.heard(2, number);
    }

    fn leaves(&mut self, connection: u32, channel: &str) {
        self.then(What::Left { connection, channel: channel.into() });
    }

    fn closes(&mut self, connection: u32) {
        self.then(What::Closed { connection, how: How::Clean });
    }

    fn window(&mut self, node: usize, from: Time, until: Time) {
        self.history.windows.push(Window { node: Some(node), from, until, why: String::new(), events: true });
    }

    #[track_caller]
    fn is_sound(&mut self) {
        self.then(What::Settled);
        assert_eq!(check(&self.history), Vec::<String>::new());
    }

    /// The judge says this, and nothing else.
    #[track_caller]
    fn is_broken(&mut self, words: &str) {
        self.then(What::Settled);
        let broken = check(&self.history);
        assert!(broken.len() == 1 && broken[0].contains(words), "{broken:#?} instead of {words:?}");
    }
}

fn event(number: u32) -> Event {
    Event { publisher: 7, number }
}

#[test]
fn a_sound_history_has_no_faults() {
    let mut story = Story::begin();
    (1..4).for_each(|number| story.arrives(number));
    story.closes(2);
    story.went(1, "bob");
    story.comes(3, HERE, "eve", &["ada", "eve"]);
    story.came(1, "eve");
    story.is_sound();
}

#[test]
fn an_event_that_is_overtaken_for_good_is_missed() {
    let mut story = Story::begin();
    story.accepted(1);
    story.heard(1, 1);
    story.arrives(2);
    story.closes(2);
    story.went(1, "bob");
    story.is_broken("connection 2 at Place { node: 1, life: 1 } on orders misses Event { publisher: 7, number: 1 }");
}

#[test]
fn the_last_event_may_not_be_missing_in_the_end() {
    let mut story = Story::begin();
    story.arrives(1);
    story.accepted(2);
    story.heard(2, 2);
    story.is_broken("connection 1 at Place { node: 0, life: 1 } on orders misses");
}

#[test]
fn an_event_may_be_on_its_way_when_a_connection_ends() {
    let mut story = Story::begin();
    story.arrives(1);
    story.accepted(2);
    story.heard(1, 2);
    story.closes(2);
    story.went(1, "bob");
    story.is_sound();
}

#[test]
fn an_event_that_had_much_time_is_missed_by_a_connection_that_has_ended() {
    let mut story = Story::begin();
    story.accepted(1);
    story.heard(1, 1);
    story.passes(20);
    story.closes(2);
    story.went(1, "bob");
    story.is_broken("connection 2");
}

#[test]
fn what_was_sent_before_a_subscription_succeeded_is_not_missed() {
    let mut story = Story::begin();
    story.then(What::Opened { connection: 3, app: 0, place: THERE });
    story.then(What::Asked { connection: 3, channel: "orders".into(), user: None });
    story.arrives(1);
    story.then(What::Joined { connection: 3, channel: "orders".into(), members: Vec::new() });
    story.arrives(2);
    story.heard(3, 2);
    story.is_sound();
}

#[test]
fn a_node_without_redis_misses_what_others_accept_and_not_its_own() {
    for (node, sound) in [(1, true), (0, true), (2, false)] {
        let mut story = Story::begin();
        let from = story.at;
        story.accepted(1);
        story.heard(1, 1);
        // Until then it waits on the way out, and the other node is away, too.
        story.window(node, from, story.at);
        if node == 0 {
            story.window(1, story.at + 3 * SECOND, story.at + 4 * SECOND);
        }
        story.arrives(2);
        if sound { story.is_sound() } else { story.is_broken("connection 2") }
    }
    let mut story = Story::begin();
    let from = story.at;
    story.accepted(1);
    story.heard(2, 1);
    story.window(0, from, story.at);
    story.arrives(2);
    story.is_broken("connection 1");
}

#[test]
fn a_time_in_which_only_members_change_late_explains_no_missing_event() {
    let mut story = Story::begin();
    story.accepted(1);
    story.heard(1, 1);
    let (from, until) = (0, story.at);
    story.history.windows.push(Window { node: None, from, until, why: String::new(), events: false });
    story.arrives(2);
    story.is_broken("connection 2");
}

#[test]
fn a_killed_node_takes_along_what_it_has_just_accepted() {
    let mut story = Story::begin();
    story.accepted(1);
    story.heard(1, 1);
    story.history.deaths.push((HERE, story.at));
    story.is_sound();
    let mut story = Story::begin();
    story.accepted(1);
    story.heard(1, 1);
    story.history.deaths.push((HERE, story.at + 10 * SECOND));
    story.is_broken("connection 2");
}

#[test]
fn nothing_comes_twice_or_out_of_order() {
    let mut story = Story::begin();
    story.arrives(1);
    story.heard(2, 1);
    story.is_broken("came twice");
    let mut story = Story::begin();
    (1..3).for_each(|number| story.accepted(number));
    for (connection, number) in [(1, 1), (1, 2), (2, 2), (2, 1)] {
        story.heard(connection, number);
    }
    story.is_broken("came after number 2");
}

#[test]
fn events_of_two_nodes_have_no_order() {
    let mut story = Story::begin();
    story.accepted(1);
    story.sent(2);
    story.then(What::Accepted { event: event(2), by: Some(THERE) });
    for (connection, number) in [(1, 1), (1, 2), (2, 2), (2, 1)] {
        story.heard(connection, number);
    }
    story.is_sound();
}

#[test]
fn what_was_refused_or_never_sent_does_not_arrive() {
    let mut story = Story::begin();
    story.sent(1);
    story.then(What::Refused { event: event(1), status: 503 });
    story.heard(1, 1);
    story.is_broken("was refused with 503");
    let mut story = Story::begin();
    story.heard(1, 9);
    story.is_broken("was never sent");
}

#[test]
fn what_nobody_answered_may_arrive_or_not() {
    let mut story = Story::begin();
    story.sent(1);
    story.heard(1, 1);
    story.sent(2);
    story.is_sound();
}

#[test]
fn nobody_hears_other_apps_or_channels() {
    let mut story = Story::begin();
    story.then(What::Sent { event: event(1), app: 1, channels: vec!["orders".into()], to: None });
    story.then(What::Accepted { event: event(1), by: Some(HERE) });
    story.heard(1, 1);
    story.is_broken("is of another app");
    let mut story = Story::begin();
    story.then(What::Sent { event: event(1), app: 0, channels: vec!["stock".into()], to: None });
    story.heard(1, 1);
    story.is_broken("is of other channels");
}

#[test]
fn nothing_comes_before_a_subscription_or_long_after_it() {
    let mut story = Story::begin();
    story.then(What::Opened { connection: 3, app: 0, place: HERE });
    story.then(What::Asked { connection: 3, channel: "orders".into(), user: None });
    story.arrives(1);
    story.heard(3, 1);
    story.is_broken("before its subscription");
    let mut story = Story::begin();
    story.leaves(2, "orders");
    story.accepted(1);
    story.heard(1, 1);
    story.heard(2, 1);
    story.passes(6);
    story.arrives(2);
    story.is_broken("was sent long after the client had left");
}

#[test]
fn what_an_earlier_subscription_still_gets_is_not_of_the_next_one() {
    let mut story = Story::begin();
    story.leaves(2, "orders");
    story.then(What::Asked { connection: 2, channel: "orders".into(), user: None });
    story.arrives(1);
    story.then(What::Joined { connection: 2, channel: "orders".into(), members: Vec::new() });
    story.arrives(2);
    story.is_sound();
}

#[test]
fn each_coming_and_going_is_announced_once() {
    let mut story = Story::begin();
    story.came(1, "bob");
    story.is_broken("bob came twice");
    let mut story = Story::begin();
    story.closes(2);
    story.went(1, "bob");
    story.went(1, "bob");
    story.is_broken("bob went twice");
}

#[test]
fn nobody_is_forgotten_or_seen_for_ever() {
    let mut story = Story::begin();
    story.closes(2);
    story.is_broken("ends with the members {\"ada\", \"bob\"}, and there are {\"ada\"}");
    let mut story = Story::begin();
    story.comes(3, HERE, "eve", &["ada", "bob", "eve"]);
    story.came(1, "eve");
    story.is_broken("connection 2 at Place { node: 1, life: 1 } on presence-room ends with the members");
    let mut story = Story::begin();
    story.then(What::Opened { connection: 3, app: 0, place: HERE });
    story.joins(3, "presence-room", Some("eve"), &["ada", "bob"]);
    story.came(1, "eve");
    story.came(2, "eve");
    story.came(3, "eve");
    story.is_broken("eve is not in the list that it got");
}

#[test]
fn nobody_is_announced_for_nothing() {
    let mut story = Story::begin();
    story.passes(100);
    story.went(1, "bob");
    story.came(1, "bob");
    story.is_broken("bob went, and was there all the time");
    let mut story = Story::begin();
    story.passes(100);
    let from = story.at;
    story.went(1, "bob");
    story.came(1, "bob");
    story.window(1, from, story.at);
    story.is_sound();
    let mut story = Story::begin();
    story.closes(2);
    story.went(1, "bob");
    story.passes(100);
    story.came(1, "bob");
    story.went(1, "bob");
    story.is_broken("bob came, and was not there for long");
}
