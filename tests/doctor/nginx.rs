//! nginx with the server block of a test.

use std::net::SocketAddr;

use support::nginx::MAIN;
use support::nginx::Nginx;
use support::nginx::temporary_paths;

/// One whose server block has these lines behind `listen`.
pub async fn start(lines: &str) -> Nginx {
    Nginx::start(|folder, address| {
        let temporary = temporary_paths(folder);
        format!(
            "worker_processes 1;\n{MAIN}\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}\nserver {{\n\
             listen {address};\n{lines}\n}}\n}}\n"
        )
    })
    .await
}

/// The lines that pass a WebSocket on.
pub const UPGRADE: &str = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
                           proxy_set_header Connection \"upgrade\"; proxy_set_header Host $http_host;";

/// A location that passes everything on to this server.
pub fn location(path: &str, server: SocketAddr, more: &str) -> String {
    format!("location {path} {{ proxy_pass http://{server}; {more} }}\n")
}

/// The address of its pages.
pub fn url(nginx: &Nginx) -> String {
    format!("http://{}", nginx.address)
}
