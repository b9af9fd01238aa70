//! nginx of Debian with the server block of a test.

use std::fs;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use support::client::PATIENCE;
use support::process::signal;
use support::redis_server::free_port;
use tokio::net::TcpStream;

/// A running nginx. Ends with the test.
pub struct Nginx {
    child: Child,
    pub address: SocketAddr,
    folder: PathBuf,
}

impl Nginx {
    /// One whose server block has these lines behind `listen`.
    pub async fn start(lines: &str) -> Self {
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            // Somebody else may have taken the port in between.
            if let Some(nginx) = Self::try_start(lines).await {
                return nginx;
            }
        }
        panic!("nginx does not start on any of {TRIES} ports");
    }

    async fn try_start(lines: &str) -> Option<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("doctor-nginx-{}", address.port()));
        fs::create_dir_all(&folder).unwrap();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|name| format!("{name}_temp_path {}/{name};", folder.display())).join("\n");
        let text = format!(
            "worker_processes 1;\npid nginx.pid;\nerror_log error.log notice;\nevents {{}}\nhttp {{\naccess_log off;\n\
             {temporary}\nserver {{\nlisten {address};\n{lines}\n}}\n}}\n"
        );
        fs::write(folder.join("nginx.conf"), text).unwrap();
        let child = Command::new("nginx")
            .args(["-p", folder.to_str().unwrap(), "-c", "nginx.conf", "-e", "error.log", "-g", "daemon off;"])
            .stderr(Stdio::null())
            .spawn()
            .expect("tests/run installs nginx");
        let nginx = Self { child, address, folder };
        let until = Instant::now() + PATIENCE;
        while !nginx.log().contains("start worker process ") || TcpStream::connect(address).await.is_err() {
            if nginx.log().contains("bind() to") {
                return None;
            }
            assert!(Instant::now() < until, "nginx does not listen: {}", nginx.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some(nginx)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn log(&self) -> String {
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

/// The lines that pass a WebSocket on.
pub const UPGRADE: &str = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
                           proxy_set_header Connection \"upgrade\"; proxy_set_header Host $http_host;";

/// A location that passes everything on to this server.
pub fn location(path: &str, server: SocketAddr, more: &str) -> String {
    format!("location {path} {{ proxy_pass http://{server}; {more} }}\n")
}
