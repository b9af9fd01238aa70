//! Pages with official libraries: processes of Node and Python that print what their libraries tell them.

use std::collections::HashMap;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;

use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use tokio::sync::watch;

use crate::history::Connection;
use crate::history::How;
use crate::history::Name;
use crate::history::What;
use crate::page::Phase;
use crate::publisher;
use crate::world::APPS;
use crate::world::World;

/// Of so many official clients, one is in Python.
const PYTHON: usize = 5;

/// Several clients of one library, which are one process.
pub struct Official {
    command: Command,
    pages: usize,
    /// The channels that each joins.
    channels: usize,
    world: Arc<World>,
    phase: watch::Receiver<Phase>,
}

impl Official {
    /// So many clients in all.
    pub fn all(count: usize, world: &Arc<World>, phase: &watch::Receiver<Phase>) -> Vec<Self> {
        let python = count / PYTHON;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let channels = world.channels.len();
        let mut node = Command::new("node");
        node.arg(folder.join("chaos_pages.js"));
        let mut own = Command::new(interpreter(&folder));
        own.arg(folder.join("python/chaos_pages.py")).env("PYTHONPATH", folder.join(".venv/packages"));
        // Pysher has no user on a channel with a history.
        let kinds = [(node, count - python, channels), (own, python, channels - 1)];
        let made = kinds.into_iter().filter(|(_, pages, _)| *pages > 0).map(|(mut command, pages, channels)| {
            assert!(folder.join("node_modules").exists(), "tests/clients/run installs pusher-js and Pysher");
            command.arg(plan(world, pages)).stdin(Stdio::piped()).stdout(Stdio::piped());
            Self { command, pages, channels, world: Arc::clone(world), phase: phase.clone() }
        });
        made.collect()
    }

    /// The channels that they join.
    pub fn wants(&self) -> usize {
        self.pages * self.channels
    }

    /// Until everybody goes.
    pub async fn run(mut self) {
        let mut child = self.command.spawn().expect("tests/run needs node and python3");
        let mut stdin = ChildStdin::from_std(child.stdin.take().unwrap()).unwrap();
        let reader = Reader { world: Arc::clone(&self.world), connections: HashMap::new() };
        let reading = tokio::task::spawn_blocking(move || reader.run(child));
        loop {
            let phase = *self.phase.borrow_and_update();
            let word = match phase {
                Phase::Restless => "restless\n",
                Phase::Calm => "calm\n",
                Phase::Over => "over\n",
            };
            // A process that has ended is a fault that the reader finds.
            let _ = stdin.write_all(word.as_bytes()).await;
            if phase == Phase::Over || self.phase.changed().await.is_err() {
                break;
            }
        }
        reading.await.unwrap();
    }
}

/// Python with Pysher.
fn interpreter(folder: &Path) -> PathBuf {
    let own = folder.join(".venv/bin/python");
    if own.exists() { own } else { "python3".into() }
}

fn plan(world: &World, pages: usize) -> String {
    let apps = APPS.map(|app| json!({ "key": app.key, "secret": app.secret }));
    let (host, port) = (world.nginx.address.ip(), world.nginx.address.port());
    json!({ "seed": world.seed, "pages": pages, "host": host, "port": port, "apps": apps, "channels": world.channels })
        .to_string()
}

/// Reads what a process prints.
struct Reader {
    world: Arc<World>,
    /// By the process's own number of the socket, with the app.
    connections: HashMap<u64, (Connection, usize)>,
}

impl Reader {
    /// Until the process has ended.
    fn run(mut self, mut child: Child) {
        let mut over = false;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let Ok(line) = line else { break };
            if self.take(&line).is_none() {
                self.world.recorder.fault(format!("an official client prints {line}"));
            }
            over = self.connections.is_empty();
        }
        let status = child.wait().unwrap();
        if !status.success() || !over {
            self.world.recorder.fault(format!("official clients ended with {status}"));
        }
    }

    /// Takes down one line, if it can be understood.
    fn take(&mut self, line: &str) -> Option<()> {
        let line: Value = serde_json::from_str(line).ok()?;
        let recorder = &self.world.recorder;
        let what = line["what"].as_str()?;
        if what == "note" {
            recorder.note(line["text"].as_str()?);
            return Some(());
        }
        let socket = line["socket"].as_u64()?;
        if what == "opened" {
            let app = usize::try_from(line["app"].as_u64()?).ok()?;
            let place = self.world.places.named(line["upstream"].as_str()?)?;
            let connection = recorder.connection();
            self.connections.insert(socket, (connection, app));
            recorder.record(What::Opened { connection, app, place });
            return Some(());
        }
        if what == "closed" {
            let how = match line["how"].as_str()? {
                "clean" => How::Clean,
                "dropped" => How::Dropped,
                _ => How::ByServer(line["code"].as_u64().and_then(|code| u16::try_from(code).ok())),
            };
            let (connection, _) = self.connections.remove(&socket)?;
            recorder.record(What::Closed { connection, how });
            return Some(());
        }
        // A thread of Python may be a moment late.
        let Some((connection, app)) = self.connections.get(&socket).copied() else { return Some(()) };
        recorder.record(seen(connection, app, what, &line)?);
        Some(())
    }
}

/// Something that a client has seen or done on a channel.
fn seen(connection: Connection, app: usize, what: &str, line: &Value) -> Option<What> {
    let name = |value: &Value| value.as_str().map(Name::from);
    let channel = name(&line["channel"])?;
    let user = name(&line["user"]);
    Some(match what {
        "asked" => What::Asked { connection, channel, user },
        "left" => What::Left { connection, channel },
        "joined" => {
            let members = line["members"].as_array()?.iter().map(name).collect::<Option<_>>()?;
            What::Joined { connection, channel, members }
        }
        "came" => What::MemberCame { connection, channel, user: user? },
        "went" => What::MemberWent { connection, channel, user: user? },
        "gap" => What::Gap { connection, channel, missed: line["missed"].as_u64() },
        "heard" => match publisher::event(app, line["data"].as_str()?) {
            Some(event) => What::Heard { connection, channel, event },
            None => What::Strange { connection, text: line.to_string() },
        },
        "strange" => What::Strange { connection, text: line.to_string() },
        _ => return None,
    })
}
