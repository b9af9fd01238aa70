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
