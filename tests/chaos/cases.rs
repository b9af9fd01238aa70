//! Short histories for the judge: sound ones, and one for each fault that it has to find.

use crate::check::CLIENTS;
use crate::check::check;
use crate::history::Entry;
use crate::history::Event;
use crate::history::History;
use crate::history::How;
use crate::history::Kind;
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

/// A history that a test writes by hand.
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
        self.history.windows.push(Window { node: Some(node), from, until, why: String::new(), kind: Kind::Link });
    }

    #[track_caller]
    fn is_sound(&mut self) {
        self.then(What::Settled);
        assert_eq!(check(&self.history).broken, Vec::<String>::new());
    }

    /// The judge says this, and nothing else.
    #[track_caller]
    fn is_broken(&mut self, words: &str) {
        self.then(What::Settled);
        let broken = check(&self.history).broken;
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
    story.history.windows.push(Window { node: None, from, until, why: String::new(), kind: Kind::Members });
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
fn a_node_that_stops_without_redis_takes_along_what_waits() {
    for (seconds, sound) in [(0, true), (10, false)] {
        let mut story = Story::begin();
        story.accepted(1);
        story.heard(1, 1);
        story.history.stops.push((HERE, story.at));
        let from = story.at + seconds * SECOND;
        story.window(HERE.node, from, from + SECOND);
        if sound { story.is_sound() } else { story.is_broken("connection 2") }
    }
}

#[test]
fn what_waits_for_redis_is_not_missed_by_a_connection_that_ends_before_it_is_back() {
    for (seconds, sound) in [(30, true), (3, false)] {
        let mut story = Story::begin();
        story.accepted(1);
        story.heard(1, 1);
        story.window(HERE.node, story.at, story.at + seconds * SECOND);
        story.passes(29);
        story.closes(2);
        story.went(1, "bob");
        if sound { story.is_sound() } else { story.is_broken("connection 2") }
    }
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
fn who_sees_the_others_leave_in_the_end_was_right_before() {
    let mut story = Story::begin();
    story.then(What::Settled);
    story.closes(2);
    story.went(1, "bob");
    story.closes(1);
    assert_eq!(check(&story.history).broken, Vec::<String>::new());
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

/// A page, connection 1, sends events to the others on its channel; its node has confirmed them.
fn whispers(story: &mut Story, number: u32) -> Event {
    let event = Event { publisher: CLIENTS + 1, number };
    story.then(What::Sent { event, app: 0, channels: vec!["orders".into()], to: Some(HERE) });
    story.then(What::Accepted { event, by: Some(HERE) });
    story.then(What::Heard { connection: 2, channel: "orders".into(), event });
    event
}

fn posted(story: &mut Story, kind: &str, channel: &str, user: Option<&str>, event: Option<Event>) {
    let (kind, channel, user) = (kind.into(), channel.into(), user.map(Name::from));
    story.then(What::Posted { app: 0, kind, channel, user, event });
}

/// Those about Ada and Bob.
fn all_are_posted(story: &mut Story) {
    for channel in ["orders", "presence-room"] {
        posted(story, "channel_occupied", channel, None, None);
    }
    for user in ["ada", "bob"] {
        posted(story, "member_added", "presence-room", Some(user), None);
    }
}

#[test]
fn webhooks_come_at_least_once_and_in_order() {
    let mut story = Story::begin();
    all_are_posted(&mut story);
    let events = [1, 2, 3].map(|number| whispers(&mut story, number));
    // A repetition.
    for number in [0, 1, 0, 1, 2] {
        posted(&mut story, "client_event", "orders", None, Some(events[number]));
    }
    story.is_sound();
    let mut story = Story::begin();
    all_are_posted(&mut story);
    let events = [1, 2].map(|number| whispers(&mut story, number));
    for number in [1, 0] {
        posted(&mut story, "client_event", "orders", None, Some(events[number]));
    }
    story.is_broken("came after number 2");
    let mut story = Story::begin();
    all_are_posted(&mut story);
    whispers(&mut story, 1);
    story.is_broken("no webhook about Event { publisher: 1000001, number: 1 }");
}

#[test]
fn webhooks_of_a_killed_node_or_in_a_lost_redis_may_be_lost() {
    let mut story = Story::begin();
    all_are_posted(&mut story);
    whispers(&mut story, 1);
    story.history.deaths.push((HERE, story.at + SECOND));
    story.is_sound();
    let mut story = Story::begin();
    all_are_posted(&mut story);
    whispers(&mut story, 1);
    let (from, until) = (story.at, story.at + SECOND);
    story.history.windows.push(Window { node: None, from, until, why: String::new(), kind: Kind::Loss });
    story.is_sound();
}

#[test]
fn webhooks_wait_in_memory_while_redis_takes_nothing() {
    for sound in [true, false] {
        let mut story = Story::begin();
        all_are_posted(&mut story);
        let from = story.at;
        whispers(&mut story, 1);
        story.passes(20);
        if sound {
            let (node, until) = (None, story.at);
            story.history.windows.push(Window { node, from, until, why: String::new(), kind: Kind::Members });
        }
        story.history.deaths.push((HERE, story.at));
        if sound { story.is_sound() } else { story.is_broken("no webhook about") }
    }
}

#[test]
fn webhooks_end_with_the_truth() {
    let mut story = Story::begin();
    all_are_posted(&mut story);
    story.closes(2);
    story.went(1, "bob");
    story.is_broken("webhooks end with (0, \"presence-room\", Some(\"bob\")) there: true");
    let mut story = Story::begin();
    all_are_posted(&mut story);
    posted(&mut story, "channel_vacated", "orders", None, None);
    story.is_broken("webhooks end with (0, \"orders\", None) there: false");
    let mut story = Story::begin();
    posted(&mut story, "channel_occupied", "orders", None, None);
    posted(&mut story, "channel_occupied", "presence-room", None, None);
    posted(&mut story, "member_added", "presence-room", Some("ada"), None);
    story.is_broken("no webhook says that (0, \"presence-room\", Some(\"bob\")) is there");
}

#[test]
fn nobody_gets_a_copy_of_what_they_send() {
    let mut story = Story::begin();
    let event = whispers(&mut story, 1);
    story.then(What::Heard { connection: 1, channel: "orders".into(), event });
    story.is_broken("came back to its own sender");
}

/// A view of `orders` for ten seconds.
fn views(story: &mut Story) -> Time {
    let until = story.at + 10 * SECOND;
    let channel = Name::from("private-group");
    story.then(What::Opened { connection: 3, app: 0, place: HERE });
    story.then(What::Asked { connection: 3, channel: channel.clone(), user: None });
    let channels = vec!["orders".into(), "stock".into()];
    story.then(What::Granted { connection: 3, channel: channel.clone(), channels, until });
    story.then(What::Joined { connection: 3, channel, members: Vec::new() });
    until
}

fn viewed(story: &mut Story, number: u32) {
    story.then(What::Heard { connection: 3, channel: "private-group".into(), event: event(number) });
}

#[test]
fn a_view_gets_what_it_is_granted_until_the_grant_ends() {
    let mut story = Story::begin();
    views(&mut story);
    story.arrives(1);
    viewed(&mut story, 1);
    story.passes(20);
    story.arrives(2);
    story.is_sound();
    let mut story = Story::begin();
    views(&mut story);
    story.passes(20);
    story.arrives(1);
    viewed(&mut story, 1);
    story.is_broken("was sent after the end of the grant");
    let mut story = Story::begin();
    views(&mut story);
    story.arrives(1);
    story.arrives(2);
    viewed(&mut story, 2);
    story.is_broken("connection 3 at Place { node: 0, life: 1 } on private-group misses");
}

/// A known user who hears the first event, is cut off, and comes back.
fn returns(how: How) -> Story {
    let mut story = Story::begin();
    let log = || Name::from("private-log");
    let send = |story: &mut Story, number| {
        story.then(What::Sent { event: event(number), app: 0, channels: vec![log()], to: Some(HERE) });
        story.then(What::Accepted { event: event(number), by: Some(HERE) });
    };
    for connection in [3, 4] {
        story.then(What::Opened { connection, app: 0, place: THERE });
        story.joins(connection, "private-log", Some("eve"), &[]);
        if connection == 3 {
            send(&mut story, 1);
            story.then(What::Heard { connection, channel: log(), event: event(1) });
            story.then(What::Closed { connection, how });
            send(&mut story, 2);
        }
    }
    story
}

fn gap(story: &mut Story, connection: u32, missed: Option<u64>) {
    story.then(What::Gap { connection, channel: "private-log".into(), missed });
}

/// Events that are published on the channel with a history, and heard by nobody so far.
fn logged(story: &mut Story, numbers: std::ops::Range<u32>) {
    for number in numbers {
        story.then(What::Sent { event: event(number), app: 0, channels: vec!["private-log".into()], to: Some(HERE) });
        story.then(What::Accepted { event: event(number), by: Some(HERE) });
    }
}

fn hears_logged(story: &mut Story, connection: u32, numbers: std::ops::Range<u32>) {
    for number in numbers {
        story.then(What::Heard { connection, channel: "private-log".into(), event: event(number) });
    }
}

/// The user of `returns` connects once more.
fn is_back(story: &mut Story, connection: u32) {
    story.then(What::Opened { connection, app: 0, place: THERE });
    story.joins(connection, "private-log", Some("eve"), &[]);
}

/// The user of `returns` is cut off, and misses these events.
fn is_cut_off(story: &mut Story, connection: u32, missed: std::ops::Range<u32>) {
    story.then(What::Closed { connection, how: How::Dropped });
    logged(story, missed);
}

#[test]
fn a_replay_has_its_last_event_unless_a_gap_counts_it() {
    for (told, heard, sound) in [
        (None, 3..6, true),
        (None, 3..5, false),
        (Some(Some(1)), 3..5, true),
        (Some(Some(1)), 3..4, false),
        (Some(None), 3..4, true),
    ] {
        let mut story = returns(How::Dropped);
        hears_logged(&mut story, 4, 2..3);
        story.passes(20);
        is_cut_off(&mut story, 4, 3..6);
        is_back(&mut story, 5);
        if let Some(missed) = told {
            gap(&mut story, 5, missed);
        }
        hears_logged(&mut story, 5, heard);
        story.passes(20);
        if sound { story.is_sound() } else { story.is_broken("misses Event { publisher: 7, number: ") }
    }
}

#[test]
fn a_later_gap_tells_nothing_of_an_earlier_replay() {
    let mut story = returns(How::Dropped);
    story.passes(20);
    gap(&mut story, 4, None);
    story.passes(20);
    story.is_broken("misses Event { publisher: 7, number: 2 }");
}

#[test]
fn who_is_cut_off_again_at_once_is_owed_the_same() {
    for (heard, sound) in [(2..5, true), (3..5, false)] {
        let mut story = returns(How::Dropped);
        is_cut_off(&mut story, 4, 3..4);
        // Neither this answer nor the connection arrives.
        story.then(What::Opened { connection: 5, app: 0, place: HERE });
        story.then(What::Asked { connection: 5, channel: "private-log".into(), user: Some("eve".into()) });
        is_cut_off(&mut story, 5, 4..5);
        is_back(&mut story, 6);
        hears_logged(&mut story, 6, heard);
        story.passes(20);
        if sound { story.is_sound() } else { story.is_broken("misses Event { publisher: 7, number: 2 }") }
    }
}

#[test]
fn a_gap_explains_what_was_missed_around_a_disaster_and_nothing_else() {
    for (is_disaster, later, sound) in [(true, 1, true), (false, 1, false), (true, 40, false)] {
        let mut story = returns(How::Clean);
        let from = story.at;
        logged(&mut story, 3..4);
        if is_disaster {
            story.window(1, from, story.at);
        }
        story.passes(later);
        gap(&mut story, 4, None);
        logged(&mut story, 4..5);
        hears_logged(&mut story, 4, 4..5);
        if sound { story.is_sound() } else { story.is_broken("misses Event { publisher: 7, number: 3 }") }
    }
}

#[test]
fn a_node_that_stops_brings_its_webhooks_to_redis() {
    for sound in [true, false] {
        let mut story = Story::begin();
        all_are_posted(&mut story);
        whispers(&mut story, 1);
        story.history.stops.push((HERE, story.at));
        if sound {
            story.window(0, story.at, story.at);
        }
        if sound { story.is_sound() } else { story.is_broken("no webhook about") }
    }
}

#[test]
fn who_returns_gets_what_was_missed_or_a_gap() {
    let mut story = returns(How::Dropped);
    story.then(What::Heard { connection: 4, channel: "private-log".into(), event: event(2) });
    story.passes(20);
    story.is_sound();
    let mut story = returns(How::ByServer(None));
    gap(&mut story, 4, Some(1));
    story.passes(20);
    story.is_sound();
    let mut story = returns(How::ByServer(None));
    story.passes(20);
    story.is_broken("misses Event { publisher: 7, number: 2 }");
    let mut story = returns(How::Clean);
    story.passes(20);
    story.is_sound();
}

#[test]
fn a_disaster_excuses_a_missed_event_only_shortly_after_the_return() {
    for (seconds, sound) in [(1, true), (20, false)] {
        let mut story = returns(How::Dropped);
        story.passes(seconds);
        story.window(1, story.at, story.at + SECOND);
        story.passes(40);
        if sound { story.is_sound() } else { story.is_broken("misses Event { publisher: 7, number: 2 }") }
    }
}

#[test]
fn a_node_that_stops_without_redis_decides_alone() {
    let mut story = Story::begin();
    all_are_posted(&mut story);
    posted(&mut story, "member_removed", "presence-room", Some("bob"), None);
    story.history.stops.push((THERE, story.at));
    story.is_broken("Some(\"bob\")) there: false");
    let mut story = Story::begin();
    all_are_posted(&mut story);
    posted(&mut story, "member_removed", "presence-room", Some("bob"), None);
    story.history.stops.push((THERE, story.at));
    story.window(1, story.at, story.at + SECOND);
    story.is_sound();
}

#[test]
fn a_subscription_may_succeed_after_the_client_has_left() {
    let mut story = Story::begin();
    let stock = || Name::from("stock");
    story.then(What::Asked { connection: 1, channel: stock(), user: None });
    story.leaves(1, "stock");
    story.then(What::Sent { event: event(1), app: 0, channels: vec![stock()], to: Some(HERE) });
    story.then(What::Joined { connection: 1, channel: stock(), members: Vec::new() });
    story.then(What::Heard { connection: 1, channel: stock(), event: event(1) });
    story.is_sound();
    let mut story = Story::begin();
    story.then(What::Joined { connection: 1, channel: stock(), members: Vec::new() });
    story.is_broken("nobody has asked for");
}

#[test]
fn a_node_that_stops_without_redis_sends_webhooks_past_what_waits_there() {
    for (sound, is_full, later) in [(true, true, 0), (false, false, 0), (false, true, 20)] {
        let mut story = Story::begin();
        all_are_posted(&mut story);
        let events = [1, 2].map(|number| whispers(&mut story, number));
        let (from, until) = (0, story.at + SECOND);
        if is_full {
            story.history.windows.push(Window { node: None, from, until, why: String::new(), kind: Kind::Members });
        }
        story.history.stops.push((HERE, story.at));
        story.passes(later);
        for number in [1, 0] {
            posted(&mut story, "client_event", "orders", None, Some(events[number]));
        }
        if sound { story.is_sound() } else { story.is_broken("came after number 2") }
    }
}
