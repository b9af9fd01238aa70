//! `gema doctor` names what is wrong: each cause is brought about with the real program, nginx, Redis and certificates.

#![expect(clippy::disallowed_methods, reason = "tests spawn tasks of their own")]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod api;
mod environment;
mod nats;
mod network;
mod nginx;
mod page;
mod proxy;
mod redis;
mod right;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gema::cli::doctor::Cause;
use serde_json::Value;
use support::process::Process;
use support::process::program;
use tokio::process::Command;

/// The place of an operator: a folder with Laravel's `.env` or gema's configuration, and the words of the command.
pub struct Case {
    folder: PathBuf,
    words: Vec<String>,
    variables: Vec<(String, String)>,
}

/// The answer of `gema doctor`.
pub struct Diagnosis {
    code: i32,
    /// As with `--json`.
    steps: Vec<Value>,
    /// As without.
    text: String,
}

impl Case {
    /// An empty folder.
    pub fn empty() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("doctor-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self { folder, words: Vec::new(), variables: Vec::new() }
    }

    /// Laravel's `.env` for a server at this address, with other lines behind.
    pub fn laravel(self, address: SocketAddr, more: &str) -> Self {
        let (host, port) = (address.ip(), address.port());
        self.env(&format!(
            "BROADCAST_CONNECTION=pusher\nPUSHER_APP_ID=app-id\nPUSHER_APP_KEY=app-key\nPUSHER_APP_SECRET=app-secret\n\
             PUSHER_HOST={host}\nPUSHER_PORT={port}\nPUSHER_SCHEME=http\n{more}\n"
        ))
    }

    /// Laravel's `.env`.
    pub fn env(self, text: &str) -> Self {
        fs::write(self.folder.join(".env"), text).unwrap();
        self
    }

    /// Laravel's cached configuration, made so long before `.env` was written last.
    pub fn cache_of_laravel(self, before: Duration) -> Self {
        let folder = self.folder.join("bootstrap/cache");
        fs::create_dir_all(&folder).unwrap();
        let written = fs::metadata(self.folder.join(".env")).unwrap().modified().unwrap();
        let cache = fs::File::create(folder.join("config.php")).unwrap();
        cache.set_modified(written - before).unwrap();
        self
    }

    /// gema's configuration.
    pub fn config(self, text: &str) -> Self {
        fs::write(self.folder.join("gema.toml"), text).unwrap();
        self.words(&["--config", "gema.toml"])
    }

    pub fn url(self, url: &str) -> Self {
        self.words(&["--url", url])
    }

    pub fn words(mut self, words: &[&str]) -> Self {
        self.words.extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs the command, once for scripts and once for people: both must say the same.
    pub async fn diagnose(self) -> Diagnosis {
        let (code, json) = self.run(&["--json"]).await;
        let json: Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
        let (text_code, text) = self.run(&[]).await;
        assert_eq!((code, json["ok"].as_bool()), (text_code, Some(code == 0)), "{json:#}\n{text}");
        let _ = fs::remove_dir_all(&self.folder);
        assert!(!text.contains("-secret") && !json.to_string().contains("-secret"), "{text}");
        Diagnosis { code, steps: json["steps"].as_array().unwrap().clone(), text }
    }

    /// The exit code and the output.
    async fn run(&self, words: &[&str]) -> (i32, String) {
        let mut command = Command::new(program());
        command.arg("doctor").args(&self.words).args(words).current_dir(&self.folder).env_clear();
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let output = command.output().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }
}

impl Diagnosis {
    /// The steps that failed, each with its cause.
    fn failed(&self) -> Vec<(&str, &str)> {
        let failed = self.steps.iter().filter(|step| step["state"] == "failed");
        failed.map(|step| (step["step"].as_str().unwrap(), step["cause"].as_str().unwrap())).collect()
    }

    /// Exactly these steps failed, in this order, each with its cause; and the text for people names cause and fix.
    #[track_caller]
    pub fn names(&self, expected: &[(&str, &str)]) -> &Self {
        assert_eq!(self.failed(), expected, "{}", self.text);
        assert_eq!(self.code, i32::from(!expected.is_empty()), "{}", self.text);
        for (step, name) in expected {
            let cause = Cause::ALL.iter().find(|cause| cause.name() == *name).expect("there is such a cause");
            let line = format!("✗ {step:<10} {}", cause.sentence());
            // Where Laravel has Reverb's names, so have the texts.
            let ours = self.text.replace("REVERB_", "PUSHER_").replace("CONNECTION=reverb", "CONNECTION=pusher");
            assert!(ours.lines().any(|text| text.starts_with(&line)), "{line}\n{}", self.text);
            assert!(ours.contains(&format!("\n  fix        {}\n", cause.remedy())), "{}", self.text);
        }
        self
    }

    /// This step is right.
    #[track_caller]
    pub fn passes(&self, names: &[&str]) -> &Self {
        for name in names {
            let passed = self.steps.iter().any(|step| step["step"] == *name && step["state"] == "passed");
            assert!(passed, "{name} is not right\n{}", self.text);
        }
        self
    }

    /// The text for people has this.
    #[track_caller]
    pub fn says(&self, words: &str) -> &Self {
        assert!(self.text.contains(words), "no {words:?} in\n{}", self.text);
        self
    }
}

/// A configuration for a server at this address.
pub fn configuration(address: SocketAddr, more: &str) -> String {
    let (host, port) = (address.ip(), address.port());
    format!(
        "[server]\nhost = \"{host}\"\nport = {port}\n{more}\n[[apps]]\nid = \"app-id\"\nkey = \"app-key\"\nsecret = \"app-secret\"\n"
    )
}

/// A running gema with Soketi's default app and these variables.
pub async fn gema(variables: &[(&str, &str)]) -> Process {
    Process::start(variables).await
}

/// Each cause of the table is expected by a test.
#[test]
fn each_cause_is_brought_about() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/doctor");
    let files = fs::read_dir(folder).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let text: String = files.collect();
    let names = Cause::ALL.iter().map(|cause| cause.name());
    let missing: Vec<&str> = names.filter(|name| !text.contains(&format!("\"{name}\""))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
