//! Somebody on a presence channel who writes down what they are told.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::node::Node;
use crate::pace;

/// Longer than any test.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// A member that listens until it is dropped.
pub struct Observer {
    name: String,
    view: Arc<Mutex<View>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct View {
    present: BTreeSet<String>,
    /// How often each user was announced to come, and to go.
    news: BTreeMap<String, (u32, u32)>,
    /// What it was told although it cannot be.
    faults: Vec<String>,
}

impl Observer {
    pub async fn start(node: &Node, channel: &str, user_id: &str) -> Self {
        let mut client = node.connect().await;
        let presence = client.join(channel, user_id).await;
        let present = presence["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
        let view = Arc::new(Mutex::new(View { present, ..View::default() }));
        let task = tokio::spawn(listen(client, Arc::clone(&view)));
        Self { name: user_id.to_owned(), view, task }
    }

    /// Waits until exactly these are there, whatever their order.
    pub async fn sees(&self, users: &[String], patience: Duration) {
        let users: BTreeSet<String> = users.iter().cloned().collect();
        let until = pace::now() + patience;
        loop {
            self.assert_sane();
            let present = self.view.lock().unwrap().present.clone();
            if present == users {
                return;
            }
            let (missing, gone): (Vec<_>, Vec<_>) =
                (users.difference(&present).collect(), present.difference(&users).collect());
            assert!(pace::now() < until, "{} misses {missing:?} and still sees {gone:?} after {patience:?}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How often a user was announced to come, and to go, since the observer came.
    pub fn news_of(&self, user: &str) -> (u32, u32) {
        self.assert_sane();
        self.view.lock().unwrap().news.get(user).copied().unwrap_or_default()
    }

    pub fn all_news(&self) -> BTreeMap<String, (u32, u32)> {
        self.assert_sane();
        self.view.lock().unwrap().news.clone()
    }

    fn assert_sane(&self) {
        let view = self.view.lock().unwrap();
        assert!(view.faults.is_empty(), "{}: {:#?}", self.name, view.faults);
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(mut client: Client, view: Arc<Mutex<View>>) {
    loop {
        let frame = client.next_within(SILENCE_MAX).await;
        view.lock().unwrap().hear(&frame);
    }
}

impl View {
    fn hear(&mut self, frame: &Value) {
        let data: Value = serde_json::from_str(frame["data"].as_str().unwrap()).unwrap_or_default();
        let user = data["user_id"].as_str().unwrap_or_default().to_owned();
        let news = self.news.entry(user.clone()).or_default();
        let possible = match frame["event"].as_str().unwrap() {
            "pusher_internal:member_added" => {
                news.0 += 1;
                self.present.insert(user)
            }
            "pusher_internal:member_removed" => {
                news.1 += 1;
                self.present.remove(&user)
            }
            _ => false,
        };
        if !possible {
            self.faults.push(format!("cannot be, or comes twice: {frame}"));
        }
    }
}
