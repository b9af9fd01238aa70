//! Subscribing and unsubscribing, with the checks of signature and rules; signing in, and terminating users.
//! `Session` calls it; `http::terminate` closes users' connections.

use std::sync::Arc;
use std::time::Instant;

use crate::node::App;
use crate::node::PublishError;
use crate::node::Rules;
use crate::protocol::channel::ChannelName;
use crate::protocol::code::WATCHLIST_LIMIT;
use crate::protocol::event;
use crate::protocol::grant::Grant;
use crate::protocol::grant::SubscribeError;
use crate::protocol::grant::Verifier;
use crate::protocol::identity::KnownUser;
use crate::protocol::identity::User;
use crate::protocol::message::Subscribe;
use crate::protocol::socket_id::SocketId;
use crate::registry::Full;
use crate::registry::Unsubscribe;
use crate::registry::address::Address;

impl App {
    /// Checks the right to join a channel.
    pub fn grant(&self, rules: &Rules, verifier: Verifier<'_>, subscribe: &Subscribe) -> Result<Grant, SubscribeError> {
        let stars = self.cluster.as_ref().is_none_or(|cluster| cluster.has_patterns());
        let limits = rules.subscribe_limits(stars);
        let grant = verifier.grant(subscribe, limits)?;
        if let Some(user) = grant.user().filter(|_| rules.history().of_channel(grant.channel()).is_some()) {
            // Places of users are remembered by their ids. That of a sign-in has a bound of its own.
            let is_signed_in = verifier.user.is_some_and(|signed_in| signed_in.id == user.id);
            if !is_signed_in {
                user.check(limits.member).map_err(SubscribeError::from)?;
            }
        }
        let allowed = rules.limits().policy().subscribe(&rules.ruled(grant.channel()));
        allowed.inspect_err(|why| self.count_forbidden("subscribe", why))?;
        Ok(grant)
    }

    /// Joins a channel with a connection that is raw or not. The answer comes through the shard's inbox.
    pub fn join(&self, grant: Grant, address: Address, raw: bool, now: Instant) -> Result<(), SubscribeError> {
        self.state.join(grant, address, self.rules().join_rules(raw), now).map_err(|full| match full {
            Full::Members => SubscribeError::Full,
            Full::Channels => SubscribeError::ServerFull,
        })
    }

    /// A connection on these channels has signed in.
    pub fn identify<'c>(
        &self,
        channels: impl Iterator<Item = &'c ChannelName>,
        (address, socket_id): (Address, SocketId),
        user: &User,
        now: Instant,
    ) {
        let user = KnownUser { id: Arc::clone(&user.id), socket_id };
        for channel in channels {
            self.state.identify(channel, address, &user, now);
        }
    }

    /// Leaves a channel.
    pub fn leave(&self, unsubscribe: &Unsubscribe<'_>, now: Instant) {
        self.state.leave(unsubscribe, self.rules().limits().enable_subscription_count, now);
    }

    /// Binds a connection to a user. The answers come through the shard's inbox. Returns the user with the watchlist
    /// cut to its limit.
    pub fn sign_in(&self, address: Address, user_data: &str, mut user: User, before: Option<&User>) -> User {
        let mut answers = vec![event::signin_success(user_data)];
        let rules = self.rules();
        let limits = rules.limits();
        let limit = limits.max_watchlist_size;
        if !limits.enable_watchlist {
            user.watchlist.clear();
        } else if user.watchlist.len() > limit {
            user.watchlist.truncate(limit);
            let message = format!("Watchlist limit exceeded. Only the first {limit} user IDs are accepted.");
            answers.push(event::error(Some(WATCHLIST_LIMIT), &message));
        }
        self.state.sign_in(address, &user, before, answers);
        user
    }

    /// Ends a sign-in.
    pub fn sign_out(&self, address: Address, user: &User) {
        self.state.sign_out(address, user);
    }

    /// Closes all connections of a user, on all nodes or on none. Returns how many.
    pub async fn terminate(&self, user_id: &str) -> Result<u64, PublishError> {
        let Some(cluster) = &self.cluster else { return Ok(self.state.terminate(user_id) as u64) };
        cluster.terminate(&self.state, user_id).await.ok_or(PublishError::CutOff)
    }
}
