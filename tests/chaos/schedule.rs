//! Who suffers when: a list that is the same for the same seed.

use std::collections::HashMap;
use std::time::Duration;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use support::receiver::Answer;

pub const NODES: usize = 3;

/// Something that happens to a part of the server, and how it ends by itself.
#[rustfmt::skip]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL; another process takes the place after this time.
    Kill { node: usize, away: Duration },
    /// SIGTERM, and another process at once, which logs there.
    Restart { node: usize, log: Log },
    /// SIGSTOP, and SIGCONT.
    Stop { node: usize, time: Duration },
    /// The connections between the node and Redis end, and may be opened again.
    Cut { node: usize },
    /// Nothing passes between the node and Redis.
    Partition { node: usize, time: Duration },
    /// What passes between the node and Redis takes longer, in each direction.
    Slow { node: usize, delay: Duration, time: Duration },
    /// Redis ends, and comes back empty.
    RedisKill { away: Duration },
    /// It does nothing, and its connections stay.
    RedisStop { time: Duration },
    /// Redis has no memory left: it passes on what is published, and refuses what is written.
    RedisFull { time: Duration },
    /// The node reads its files anew, after a change that it may take or must not take.
    Reload { node: usize, good: bool },
    /// The clock of one node is wrong by so many seconds.
    Clock { seconds: i32, time: Duration },
    /// The node may open no more files.
    Files { node: usize, time: Duration },
    /// The applications answer webhooks like this.
    Hooks { answer: Answer, time: Duration },
    /// nginx reads its configuration anew.
    NginxReload,
    /// SIGKILL to nginx and its workers; another one takes the place after this time.
    NginxKill { away: Duration },
}

/// Where a node logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    File,
    /// A disk that is full.
    Full,
    /// Somebody who does not read.
    Blocked,
}

/// The node whose clock can be wrong.
pub const WITH_A_CLOCK: usize = NODES - 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub at: Duration,
    pub action: Action,
}

/// Two actions on one part do not overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Node(usize),
    Way(usize),
    Speed(usize),
    Redis,
    Clock,
    Hooks,
    Nginx,
}

impl Action {
    fn part(&self) -> Part {
        match self {
            Self::Kill { node, .. }
            | Self::Restart { node, .. }
            | Self::Stop { node, .. }
            | Self::Reload { node, .. }
            | Self::Files { node, .. } => Part::Node(*node),
            Self::Cut { node } | Self::Partition { node, .. } => Part::Way(*node),
            // What was on its way when a link is cut is sent again.
            Self::Slow { node, .. } => Part::Speed(*node),
            Self::RedisKill { .. } | Self::RedisStop { .. } | Self::RedisFull { .. } => Part::Redis,
            Self::Clock { .. } => Part::Clock,
            Self::Hooks { .. } => Part::Hooks,
            Self::NginxReload | Self::NginxKill { .. } => Part::Nginx,
        }
    }

    /// How long it lasts.
    fn time(&self) -> Duration {
        match self {
            Self::Kill { away: time, .. }
            | Self::Stop { time, .. }
            | Self::Partition { time, .. }
            | Self::Slow { time, .. }
            | Self::RedisKill { away: time }
            | Self::NginxKill { away: time }
            | Self::RedisStop { time }
            | Self::RedisFull { time }
            | Self::Clock { time, .. }
            | Self::Files { time, .. }
            | Self::Hooks { time, .. } => *time,
            Self::Restart { .. } | Self::Cut { .. } | Self::Reload { .. } | Self::NginxReload => Duration::ZERO,
        }
    }
}

/// The shortest and the longest time between the beginnings of two actions, in milliseconds.
const BETWEEN: std::ops::Range<u64> = 300..4000;
/// A part rests so long between two actions on it.
const REST: Duration = Duration::from_secs(2);

/// What happens in this time; no action lasts longer than `longest`.
pub fn schedule(seed: u64, length: Duration, longest: Duration) -> Vec<Step> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut steps = Vec::new();
    let mut busy: HashMap<Part, Duration> = HashMap::new();
    let mut at = Duration::ZERO;
    // Where little happens, little excuses what is missing.
    let pace = random.random_range(1..=4);
    loop {
        at += Duration::from_millis(random.random_range(BETWEEN) * pace);
        if at >= length {
            return steps;
        }
        let action = action(&mut random, longest);
        let until = busy.entry(action.part()).or_default();
        if *until <= at {
            *until = at + action.time() + REST;
            steps.push(Step { at, action });
        }
    }
}

fn action(random: &mut StdRng, longest: Duration) -> Action {
    let node = random.random_range(0..NODES);
    let time = Duration::from_millis(random.random_range(100..longest.as_millis() as u64));
    let delay = Duration::from_millis(random.random_range(20..250));
    let log = *[Log::File, Log::File, Log::Full, Log::Blocked].choose(random).expect("there are some");
    let seconds = *[-300, -7, 7, 300].choose(random).expect("there are some");
    let answers = [Answer::Status(500), Answer::Hang, Answer::Close];
    let answer = *answers.choose(random).expect("there are some");
    let good = random.random_bool(0.5);
    let actions = [
        (3, Action::Kill { node, away: time / 2 }),
        (3, Action::Restart { node, log }),
        (3, Action::Stop { node, time }),
        (4, Action::Cut { node }),
        (2, Action::Partition { node, time }),
        (3, Action::Slow { node, delay, time }),
        (1, Action::RedisKill { away: time / 2 }),
        (1, Action::RedisStop { time }),
        (1, Action::RedisFull { time }),
        (1, Action::Reload { node, good }),
        (1, Action::Clock { seconds, time }),
        (1, Action::Files { node, time }),
        (2, Action::Hooks { answer, time }),
        (1, Action::NginxReload),
        (1, Action::NginxKill { away: time / 4 }),
    ];
    actions.choose_weighted(random, |(weight, _)| *weight).expect("there are actions").1.clone()
}

#[test]
fn the_same_seed_gives_the_same_schedule() {
    let minute = Duration::from_secs(60);
    let plan = |seed| schedule(seed, minute, Duration::from_secs(5));
    assert_eq!(plan(7), plan(7));
    assert_ne!(plan(7), plan(8));
    assert!(plan(7).len() > 4, "{:#?}", plan(7));
    assert!(plan(7).windows(2).all(|two| two[0].at <= two[1].at));
}
