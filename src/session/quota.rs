//! The quota of the app: whether the connection counts there, and what follows if it does not fit in.
//! `Session` asks after each subscription and sign-in.

use std::ops::ControlFlow;

use crate::node::Node;
use crate::protocol::code::Close;
use crate::refusal::Cause;
use crate::session::Session;

impl Session {
    /// Counts a connection with a public channel that is not authorized: their number is limited.
    pub(super) fn count_unauthorized(&mut self, node: &Node) -> ControlFlow<Close> {
        if self.in_quota || self.unauthorized.is_some() {
            return ControlFlow::Continue(());
        }
        match node.count_unauthorized(&self.app) {
            Ok(unauthorized) => {
                self.unauthorized = Some(unauthorized);
                ControlFlow::Continue(())
            }
            Err(close) => self.app_is_full(close),
        }
    }

    /// Counts the connection towards the app's quota from now on, if it fits in.
    pub(super) fn count_authorized(&mut self, node: &Node) -> ControlFlow<Close> {
        if self.in_quota {
            return ControlFlow::Continue(());
        }
        match node.count_in_quota(&self.app) {
            Ok(()) => {
                self.in_quota = true;
                self.unauthorized = None;
                ControlFlow::Continue(())
            }
            Err(close) => self.app_is_full(close),
        }
    }

    fn app_is_full(&self, close: Close) -> ControlFlow<Close> {
        self.count_refusal(Cause::ConnectAppFull, None, &self.app.quota().unwrap_or_default());
        ControlFlow::Break(close)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::config::Config;
    use crate::metrics::Metrics;
    use crate::protocol::connect::ConnectRequest;
    use crate::registry::address::Address;
    use crate::registry::address::Slot;
    use crate::registry::inbox::Inboxes;

    /// A connection whose socket fails while it is being closed ends twice.
    #[test]
    fn a_session_that_ends_twice_counts_once() {
        let mut config = Config::default();
        config.limits.max_connections = 1;
        let metrics = Arc::new(Metrics::new("soketi_", 6001, false));
        let node = Node::new(&config, Arc::new(Inboxes::new(1)), metrics, None, usize::MAX);
        let request = ConnectRequest {
            key: Some("app-key".to_owned()),
            app_unavailable: false,
            address_full: false,
            protocol: Some("7".to_owned()),
            version: None,
            library: None,
            channels: None,
            origin: None,
            address: Ipv4Addr::LOCALHOST.into(),
            secure: false,
            untrusted_proxy: None,
            has_proxy_header: false,
            claims_tls: false,
        };
        let open = || Session::open(&node, &request, Address { shard: 0, slot: Slot::default() });
        let (mut session, _) = open().unwrap();
        for _ in 0..2 {
            session.end(&node, false, Instant::now());
        }
        let (again, _) = open().unwrap();
        assert!(open().is_err(), "there is room for one");
        drop(again);
    }
}
