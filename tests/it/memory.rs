//! Memory of a peak is given back to the system.

use std::time::Duration;
use std::time::Instant;

use futures_util::future::join_all;
use support::http::Api;
use support::process::Process;
use support::server::APP_ID;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Bytes of a body; the largest that is read by default is a little larger.
const BODY: usize = 9_000_000;
/// Far longer than it takes, on a machine that is busy with other tests.
const GIVEN_BACK: Duration = Duration::from_secs(120);

#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_of_a_peak_is_given_back() {
    let server = Process::start(&[("GEMA_SERVER_WORKERS", "2"), ("GEMA_HTTP_REQUEST_SECONDS", "600")]).await;
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    };
    let body = format!(r#"{{"name":"e","channel":"c","data":"{}"}}"#, "x".repeat(BODY));
    let api = Api::new(server.address, APP_ID, "app-key", "app-secret");
    let path = format!("/apps/{APP_ID}/events");
    let query = api.signed_query("POST", &path, &[], &body);
    let length = body.len();
    let head = format!("POST {path}?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    let before = resident();
    let all = (0..30).map(async |_| {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body.as_bytes()[..length - 1]).await.unwrap();
        stream
    });
    let mut streams = join_all(all).await;
    // The rest may be on its way.
    let until = Instant::now() + GIVEN_BACK;
    while resident() <= before + 20 * BODY {
        assert!(Instant::now() < until, "the bodies are not in memory: {before}, {}", resident());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let peak = resident();
    for stream in &mut streams {
        stream.write_all(b"}").await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413", "an event is smaller");
    }
    drop(streams);
    let until = Instant::now() + GIVEN_BACK;
    while resident() > before * 3 / 2 {
        assert!(Instant::now() < until, "{before} bytes before, {peak} at the peak, {} left", resident());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
