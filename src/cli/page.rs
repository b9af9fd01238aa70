//! A token of the operator's page for one run.
//! `gema start --dashboard` makes it.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use crate::config::Dashboard;
use crate::config::Secret;

/// A token that was made for this run; `None` where the configuration has one.
pub(super) struct Token(Option<String>);

/// Adds an operator's token for this run, unless the configuration has one.
pub(super) fn add_token(settings: &mut Dashboard) -> Token {
    if !settings.operator_token.is_empty() {
        return Token(None);
    }
    let token: String = rand::random::<[u8; 16]>().iter().map(|byte| format!("{byte:02x}")).collect();
    settings.operator_token = Secret::new(token.as_str());
    Token(Some(token))
}

impl Token {
    /// Prints the page's URL to the terminal; the log must not have the token.
    pub(super) fn print(&self, metrics: SocketAddr, prefix: &str) {
        let host: IpAddr = match metrics.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            host => host,
        };
        let url = format!("http://{}{prefix}/dashboard", SocketAddr::new(host, metrics.port()));
        match &self.0 {
            Some(token) => eprintln!("The operator's page: {url}#token={token}"),
            None => eprintln!("The operator's page: {url} (log in with dashboard.operator_token)"),
        }
    }
}
