//! Asks a Redis what it has done.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddrV4, TcpStream};

use anyhow::{Context, Result};

/// Scripts that it has run so far.
pub(crate) fn script_calls(address: SocketAddrV4) -> Result<u64> {
    let mut stream = TcpStream::connect(address).context("Redis cannot be reached")?;
    stream.write_all(b"INFO commandstats\r\n")?;
    let mut answer = BufReader::new(stream);
    let mut length = String::new();
    answer.read_line(&mut length)?;
    let length =
        length.trim().strip_prefix('$').and_then(|length| length.parse().ok()).context("no answer of Redis")?;
    let mut text = vec![0; length];
    answer.read_exact(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let scripts = text.lines().filter(|line| line.starts_with("cmdstat_eval"));
    let calls = scripts.filter_map(|line| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok());
    Ok(calls.sum())
}
