//! nginx of Debian with the configuration of a test.

use std::fs;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::client::PATIENCE;
use crate::process::signal;
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
    child: Child,
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

    async fn try_start(configure: &impl Fn(&Path, SocketAddr) -> String) -> Option<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let folder = std::env::temp_dir().join(format!("gema-nginx-{}-{}", std::process::id(), address.port()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("nginx.conf"), configure(&folder, address)).unwrap();
        let child = Command::new("nginx")
            .args(["-p", folder.to_str().unwrap(), "-c", "nginx.conf", "-e", "error.log", "-g", "daemon off;"])
            .stderr(Stdio::null())
            .spawn()
            .expect("tests/run installs nginx");
        let nginx = Self { child, address, folder };
        let until = Instant::now() + PATIENCE;
        // This is logged before its workers serve.
        while !nginx.log().contains("start worker process ") || TcpStream::connect(address).await.is_err() {
            if nginx.log().contains("bind() to") {
                return None;
            }
            assert!(Instant::now() < until, "nginx does not listen: {}", nginx.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some(nginx)
    }

    /// Reads its configuration anew; returns when another worker has taken over.
    pub async fn reload(&self) {
        let before = self.log().matches("start worker process ").count();
        signal(self.child.id(), "HUP");
        let until = Instant::now() + PATIENCE;
        while self.log().matches("start worker process ").count() == before {
            assert!(Instant::now() < until, "nginx does not reload: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Its log of errors and notices.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Killed, it would leave its workers behind. It ends by itself if it has no port.
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(self.child.id(), "TERM");
        }
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
