//! nginx of Debian with the configuration of a test.

use std::fs;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::client::PATIENCE;
use crate::process::signal;
use crate::process::signal_group;
use crate::redis_server::free_port;

/// The lines that each configuration has at its top.
pub const MAIN: &str = "pid nginx.pid;\nerror_log error.log notice;";

/// The lines for `http` that keep nginx in its folder.
pub fn temporary_paths(folder: &Path) -> String {
    let names = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    names.map(|name| format!("{name}_temp_path {}/{name};", folder.display())).join("\n")
}

/// A running nginx. Ends with the test.
pub struct Nginx {
    child: Mutex<Child>,
    /// Where it listens.
    pub address: SocketAddr,
    folder: PathBuf,
}

impl Nginx {
    /// One with the `nginx.conf` that `configure` makes for its folder and address. Other files are written there by
    /// `configure` itself.
    pub async fn start(configure: impl Fn(&Path, SocketAddr) -> String) -> Self {
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            // Somebody else may have taken the port in between.
            if let Some(nginx) = Self::try_start(&configure).await {
                return nginx;
            }
        }
        panic!("nginx does not start on any of {TRIES} ports");
    }

    /// One with the project's configuration and so many workers. `words` for its address are exchanged in `nginx.conf`.
    pub async fn shipped(workers: usize, words: impl Fn(SocketAddr) -> Vec<(&'static str, String)>) -> Self {
        Self::start(|folder, address| {
            fs::create_dir_all(folder.join("conf.d")).unwrap();
            fs::write(folder.join("conf.d/gema.conf"), shipped("nginx.conf", &words(address))).unwrap();
            let own = [
                ("worker_processes auto;", format!("worker_processes {workers};\n{MAIN}")),
                ("http {", format!("http {{\n{}", temporary_paths(folder))),
                ("/etc/nginx/", format!("{}/", folder.display())),
            ];
            shipped("nginx-main.conf", &own)
        })
        .await
    }

    async fn try_start(configure: &impl Fn(&Path, SocketAddr) -> String) -> Option<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let folder = std::env::temp_dir().join(format!("gema-nginx-{}-{}", std::process::id(), address.port()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("nginx.conf"), configure(&folder, address)).unwrap();
        let nginx = Self { child: Mutex::new(spawn(&folder)), address, folder };
        nginx.serves(0).await.then_some(nginx)
    }

    /// Waits until it has more workers than those of before, and listens; it does not if another has its port.
    async fn serves(&self, before: usize) -> bool {
        let until = Instant::now() + PATIENCE;
        // A worker is logged before it serves.
        while self.workers() <= before || TcpStream::connect(self.address).await.is_err() {
            if self.log().contains("bind() to") {
                return false;
            }
            assert!(Instant::now() < until, "nginx does not listen: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// How many workers have ever been started.
    fn workers(&self) -> usize {
        self.log().matches("start worker process ").count()
    }

    /// Reads its configuration anew; returns when another worker has taken over.
    pub async fn reload(&self) {
        let before = self.workers();
        signal(self.child.lock().unwrap().id(), "HUP");
        let until = Instant::now() + PATIENCE;
        while self.workers() == before {
            assert!(Instant::now() < until, "nginx does not reload: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGKILL to all its processes, as if its machine had ended.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        signal_group(child.id(), "KILL");
        child.wait().unwrap();
    }

    /// Another one at the same address, after it was killed.
    pub async fn restart(&self) {
        let before = self.workers();
        *self.child.lock().unwrap() = spawn(&self.folder);
        assert!(self.serves(before).await, "nginx does not start again: {}", self.log());
    }

    /// Its log of errors and notices.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        // Killed, it would leave its workers behind. It ends by itself if it has no port.
        if matches!(child.try_wait(), Ok(None)) {
            signal(child.id(), "TERM");
        }
        let _ = child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// With its workers in a group of processes of its own.
fn spawn(folder: &Path) -> Child {
    Command::new("nginx")
        .args(["-p", folder.to_str().unwrap(), "-c", "nginx.conf", "-e", "error.log", "-g", "daemon off;"])
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("tests/run installs nginx")
}

/// A file of the project's `config` with some of its words exchanged, each of which must be there.
fn shipped(name: &str, words: &[(&str, String)]) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config").join(name);
    words.iter().fold(fs::read_to_string(file).unwrap(), |text, (word, own)| {
        assert!(text.contains(word), "{name} has no {word}");
        text.replace(word, own)
    })
}
