//! Nobody gets a frame of a channel that they were not let into at that moment: random users, channels, grants, rules
//! and events against a model, in which everybody gets all that they may have as well.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use gema::config::Config;
use gema::protocol::pattern::base;
use gema::protocol::policy::ChannelRule;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use serde_json::json;
use support::client::Client;
use support::server::TestServer;

/// Events times receivers that are decided at the least.
const CASES: usize = 10_000;
const USERS: usize = 8;
const CHANGES: usize = 12;
const EVENTS: usize = 60;

const CLINICS: [&str; 3] = ["K001", "K002", "k001"];
const KINDS: [&str; 6] = ["", "cache-", "private-", "private-cache-", "presence-", "private-encrypted-"];

/// A clinic's page, or one of the warehouse that sees a group.
struct User {
    client: Client,
    /// What the application lets it into.
    clinic: &'static str,
    /// What it has joined, with the patterns that it sees besides.
    joined: BTreeMap<String, Vec<&'static str>>,
}

fn rules(upgrade: bool) -> Vec<ChannelRule> {
    let on_public = if upgrade { "upgrade" } else { "reject" };
    let rule = format!(r#"{{"match":"permintaan-barang.*","require":"private","on_public_publish":"{on_public}"}}"#);
    vec![serde_json::from_str(&rule).unwrap()]
}

fn is_public(channel: &str) -> bool {
    !channel.starts_with("private-") && !channel.starts_with("presence-")
}

fn is_protected(channel: &str) -> bool {
    base(channel).to_lowercase().starts_with("permintaan-barang.")
}

fn any_channel(random: &mut StdRng) -> String {
    let pick = |random: &mut StdRng, of: &[&str]| of[random.random_range(0..of.len())].to_owned();
    let stem = pick(random, &["permintaan-barang.", "PERMINTAAN-barang.", "scada."]);
    let mut name = pick(random, &KINDS) + &stem + &pick(random, &CLINICS);
    if random.random_bool(0.1) {
        name = pick(random, &KINDS) + &name;
    }
    name
}

impl User {
    /// Joins, leaves, or tries to get where it may not. What is answered must be what the model says.
    async fn change(&mut self, random: &mut StdRng) {
        let channel = any_channel(random);
        if self.joined.contains_key(&channel) {
            self.client.unsubscribe(&channel).await;
            self.joined.remove(&channel);
            self.client.settle().await;
            return;
        }
        let presence = channel.starts_with("presence-");
        let member = presence.then(|| json!({ "user_id": self.clinic }).to_string());
        // The application signs what belongs to the clinic; for the rest the page brings what it has.
        let own = channel.ends_with(self.clinic);
        if own || is_public(&channel) {
            self.client.send_subscribe(&channel, member.as_deref()).await;
        } else {
            let stolen = support::server::channel_auth("1.1", &channel, member.as_deref());
            let data = json!({ "channel": channel, "auth": stolen, "channel_data": member });
            self.client.send_json(json!({ "event": "pusher:subscribe", "data": data })).await;
        }
        let may = if is_public(&channel) { !is_protected(&channel) } else { own };
        assert_eq!(self.is_in(&channel).await, may, "{channel} for {}", self.clinic);
        if may {
            self.joined.insert(channel, Vec::new());
        }
    }

    /// A page of the warehouse is granted some clinics.
    async fn see(&mut self, random: &mut StdRng) {
        let channel = format!("private-gudang.{}", random.random_range(0..3));
        if self.joined.contains_key(&channel) {
            return;
        }
        let all = ["permintaan-barang.K001", "permintaan-barang.*", "scada.K002", "*.k001"];
        let patterns: Vec<&str> = all.into_iter().filter(|_| random.random_bool(0.4)).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let grant = json!({ "grant": patterns, "exp": now + 3600 }).to_string();
        self.client.send_subscribe(&channel, Some(&grant)).await;
        assert!(self.is_in(&channel).await, "{channel}");
        self.joined.insert(channel, patterns);
    }

    async fn is_in(&mut self, channel: &str) -> bool {
        let succeeded = |text: &String| {
            let frame: Value = serde_json::from_str(text).unwrap();
            frame["event"] == "pusher_internal:subscription_succeeded" && frame["channel"] == channel
        };
        self.client.settle().await.iter().any(succeeded)
    }

    /// The channels under which it gets an event of this one.
    fn gets(&self, channel: &str) -> Vec<String> {
        let own = self.joined.contains_key(channel).then(|| channel.to_owned());
        let shown = self.joined.iter().filter(|(own, patterns)| {
            let sees = |pattern: &&str| matches(pattern, base(channel));
            **own != channel && !channel.starts_with("private-encrypted-") && patterns.iter().any(sees)
        });
        own.into_iter().chain(shown.map(|(own, _)| own.clone())).collect()
    }
}

/// A star stands at the beginning or at the end.
fn matches(pattern: &str, name: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end),
        (_, Some(start)) => name.starts_with(start),
        _ => name == pattern,
    }
}

/// Where the rules send an event, if anywhere.
fn destination(channel: &str, upgrade: bool) -> Option<String> {
    match is_protected(channel) && is_public(channel) {
        true => upgrade.then(|| format!("private-{channel}")),
        false => Some(channel.to_owned()),
    }
}

/// Publishes, and compares what everybody got with what they should have got.
async fn publish(server: &TestServer, users: &mut [User], upgrade: bool, first: usize, random: &mut StdRng) {
    let mut expected: Vec<BTreeSet<(usize, String)>> = vec![BTreeSet::new(); users.len()];
    for number in first..first + EVENTS {
        let channel = any_channel(random);
        let to = destination(&channel, upgrade);
        let body = json!({ "name": "e", "channel": channel, "data": number.to_string() }).to_string();
        let status = server.api().post("/events", &body).await.status;
        assert_eq!(status, if to.is_some() { 200 } else { 403 }, "{channel}");
        for (user, expected) in users.iter().zip(&mut expected) {
            expected.extend(to.iter().flat_map(|to| user.gets(to)).map(|channel| (number, channel)));
        }
    }
    for (user, expected) in users.iter_mut().zip(expected) {
        let mut got = BTreeSet::new();
        for text in user.client.settle().await {
            let frame: Value = serde_json::from_str(&text).unwrap();
            if frame["event"] == "e" {
                let number: usize = frame["data"].as_str().unwrap().parse().unwrap();
                let is_new = got.insert((number, frame["channel"].as_str().unwrap().to_owned()));
                assert!(is_new, "twice: {text}");
            }
        }
        assert_eq!(got, expected, "{:?}", user.joined);
    }
}

#[tokio::test]
async fn everybody_gets_what_they_were_let_into_and_nothing_else() {
    let seed = std::env::var("GEMA_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("to see the same again: GEMA_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let set = |upgrade: bool| move |config: &mut Config| config.limits.channel_rules = rules(upgrade);
    let mut server = TestServer::start_with(set(false)).await;
    let mut users = Vec::new();
    for number in 0..USERS {
        let client = server.connect().await;
        users.push(User { client, clinic: CLINICS[number % CLINICS.len()], joined: BTreeMap::new() });
    }
    let mut upgrade = false;
    for first in (0..CASES.div_ceil(USERS)).step_by(EVENTS) {
        for _ in 0..CHANGES {
            let user = &mut users[random.random_range(0..USERS)];
            if random.random_bool(0.2) { user.see(&mut random).await } else { user.change(&mut random).await }
        }
        if random.random_bool(0.3) {
            upgrade = !upgrade;
            server.reload(set(upgrade)).await;
        }
        // What the others have told of their coming and going, and what was remembered, is no event of now.
        for user in &mut users {
            user.client.settle().await;
        }
        publish(&server, &mut users, upgrade, first, &mut random).await;
    }
}
