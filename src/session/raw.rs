//! Raw clients: pages with a bare `WebSocket` that do not speak the protocol. They join the channels that the app lists
//! for them, and what they send is ignored. `Session::open` calls it.

use std::time::Instant;

use crate::node::Node;
use crate::protocol::code::Close;
use crate::protocol::code::CloseCode;
use crate::protocol::grant::SubscribeError;
use crate::protocol::message::Subscribe;
use crate::session::Session;
use crate::session::refuse::subscribe_cause;

impl Session {
    /// Joins these channels, or ends the session. Their events come through the shard's inbox.
    pub(super) fn join_raw(&mut self, node: &Node, channels: Vec<String>) -> Result<(), Close> {
        self.app.meters.raw_opened();
        let now = Instant::now();
        for channel in channels {
            let Err(error) = self.join_one(&channel, now) else { continue };
            self.count_refusal(subscribe_cause(&error), Some(&channel), &error);
            self.end(node, false, now);
            let code = match error {
                SubscribeError::ServerFull => CloseCode::OverCapacity,
                _ => CloseCode::Unauthorized,
            };
            return Err(Close { code, reason: error.to_string().into() });
        }
        Ok(())
    }

    /// Joins a channel as a client would that has asked for it, without a signature.
    fn join_one(&mut self, channel: &str, now: Instant) -> Result<(), SubscribeError> {
        let Err(index) = self.find(channel) else { return Ok(()) };
        let subscribe = Subscribe { channel: channel.to_owned(), auth: None, channel_data: None };
        let grant = self.grant_lasting(&subscribe, usize::MAX, now)?;
        self.join(grant, index, now).map(drop)
    }
}
