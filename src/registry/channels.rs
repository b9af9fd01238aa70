//! The channels of one app, in parts with a lock each. `node` and `session` call the methods of [`AppState`] here.

mod nodes;
mod publish;
mod table;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::Topic;
use crate::protocol::frame::Frame;
use crate::protocol::grant::Grant;
use crate::registry::AppState;
use crate::registry::address::Address;
use crate::registry::channel::Activity;
use crate::registry::channel::Channel;
use crate::registry::channels::table::ChannelTable;
use crate::registry::channels::table::Entry;
use crate::registry::remote::command::Operation;
use crate::registry::scope::Scope;
use crate::registry::subscription::Full;
use crate::registry::subscription::JoinRules;
use crate::registry::subscription::Joiner;
use crate::registry::subscription::Unsubscribe;

/// All channels of an app.
#[derive(Debug, Default)]
pub(super) struct Channels {
    pub(super) table: ChannelTable,
    /// Channels that announce their number of subscribers later.
    count_later: Mutex<Vec<ChannelName>>,
    /// Channels that have to be reconciled with the other nodes.
    needs_reconcile: Mutex<Vec<ChannelName>>,
    /// The number of sweeps, each through one part.
    sweeps: AtomicUsize,
}

/// The answer to a question about a channel.
#[derive(Debug, Default)]
pub struct ChannelInfo {
    /// Connections subscribed.
    pub subscriptions: usize,
    /// Distinct users on a presence channel.
    pub users: usize,
    /// The event that a cache channel stores, and how long it still is.
    pub cached: Option<(Frame, Duration)>,
    /// How busy it is, where there is an operator's page.
    pub activity: Option<Activity>,
}

impl AppState {
    /// Runs `f` under the lock of the channel called `name`, and does afterwards what it leaves to do.
    fn change<R>(&self, name: &ChannelName, now: Instant, f: impl FnOnce(&mut Entry<'_>, &mut Scope<'_>) -> R) -> R {
        let mut scope = Scope::new(self, now);
        let outcome = self.channels.table.with(name.as_str(), |entry| f(entry, &mut scope));
        if scope.count_later {
            self.channels.count_later.lock().push(name.clone());
        }
        if scope.needs_reconcile {
            self.channels.needs_reconcile.lock().push(name.clone());
        }
        scope.inboxes.wake();
        outcome
    }

    /// Like [`Self::change`], for a channel that must exist.
    pub(super) fn change_channel(
        &self,
        name: &ChannelName,
        now: Instant,
        f: impl FnOnce(&mut Channel, &mut Scope<'_>),
    ) {
        self.change(name, now, |entry, scope| {
            if let Some(channel) = entry.get() {
                f(channel, scope);
            }
        });
    }

    /// Joins a channel. The answer, the member list and the cached event go into the connection's inbox, in line with
    /// the channel's events.
    pub fn join(&self, grant: Grant, address: Address, rules: JoinRules, now: Instant) -> Result<(), Full> {
        let (name, member, view, user) = grant.into_parts();
        self.change(&name, now, |entry, scope| {
            let channel = open_entry(entry, &name, scope).ok_or(Full::Channels)?;
            if member.as_ref().is_some_and(|member| !channel.has_capacity(member, rules.members_max)) {
                return Err(Full::Members);
            }
            channel.join(Joiner { address, member, view, user, rules, came: now }, scope);
            Ok(())
        })
    }

    /// Leaves a channel that was joined; `counted` as in [`JoinRules`]. The shard learns it in line with the channel's
    /// events.
    pub fn leave(&self, unsubscribe: &Unsubscribe<'_>, counted: bool, now: Instant) {
        let name = unsubscribe.channel;
        self.change(name, now, |entry, scope| {
            let Some(channel) = entry.get() else { return };
            channel.leave(unsubscribe, counted, scope);
            if channel.is_idle(scope) {
                entry.remove();
            }
        });
    }

    /// The state of one channel.
    pub fn channel(&self, name: &str, now: Instant) -> ChannelInfo {
        self.channels.table.with(name, |entry| {
            let Some(channel) = entry.get() else { return ChannelInfo::default() };
            let cached = channel.cached(now).map(|(cached, frame)| (frame, cached.until - now));
            let (subscriptions, users, activity) = (channel.subscriptions(), channel.users(), channel.activity());
            ChannelInfo { subscriptions, users, cached, activity }
        })
    }

    /// The occupied channels whose names start with `prefix`, without users' own channels.
    pub fn channels(&self, prefix: &str) -> Vec<(ChannelName, ChannelInfo)> {
        let info = |channel: &Channel| {
            let name = &channel.name;
            let (subscriptions, users) = (channel.subscriptions(), channel.users());
            let is_listed = subscriptions > 0 && name.as_str().starts_with(prefix) && name.user().is_none();
            let activity = channel.activity();
            is_listed.then(|| (name.clone(), ChannelInfo { subscriptions, users, cached: None, activity }))
        };
        self.channels.table.collect(info)
    }

    /// The number of channels, also of those that nobody has joined and that keep an event.
    pub fn channel_count(&self) -> usize {
        self.channels.table.len()
    }

    /// The ids of a presence channel's members.
    pub fn members(&self, name: &str) -> Vec<Arc<str>> {
        self.channels.table.with(name, |entry| {
            let members = entry.get().and_then(|channel| channel.members.as_ref());
            members.map_or_else(Vec::new, |members| members.roster.iter().map(|(id, _)| Arc::clone(id)).collect())
        })
    }

    /// The members of a presence channel with their `user_info` as JSON, for the operator.
    pub fn members_with_info(&self, name: &str) -> Vec<(Arc<str>, Arc<str>)> {
        self.channels.table.with(name, |entry| {
            let members = entry.get().and_then(|channel| channel.members.as_ref());
            let both = |(id, info): (&Arc<str>, &Arc<str>)| (Arc::clone(id), Arc::clone(info));
            members.map_or_else(Vec::new, |members| members.roster.iter().map(both).collect())
        })
    }

    /// Announces postponed numbers of subscribers, reconciles channels and users with the other nodes, and sweeps one
    /// part of the channels. Call it about once a second.
    pub fn tick(&self, now: Instant) {
        let count_later = std::mem::take(&mut *self.channels.count_later.lock());
        for name in count_later {
            self.change_channel(&name, now, |channel, scope| channel.announce_stale_count(scope));
        }
        let mut needs_reconcile = std::mem::take(&mut *self.channels.needs_reconcile.lock());
        needs_reconcile.sort_unstable();
        needs_reconcile.dedup();
        for name in needs_reconcile {
            self.change(&name, now, |entry, scope| {
                let Some(channel) = entry.get() else { return };
                channel.reconcile(scope);
                if channel.is_idle(scope) {
                    scope.command(Topic::Channel(name.clone()), Operation::Close);
                    entry.remove();
                }
            });
        }
        self.tick_users();
        self.tick_node_flows(now);
        self.tick_views(now);
        let scope = Scope::new(self, now);
        self.channels.table.retain(self.channels.sweeps.fetch_add(1, Ordering::Relaxed), |channel| {
            let is_idle = channel.is_idle(&scope);
            if is_idle {
                scope.command(Topic::Channel(channel.name.clone()), Operation::Close);
            }
            !is_idle
        });
        scope.inboxes.wake();
    }
}

/// The channel called `name`, if there may be one. A new one opens its topic, if there is a link.
fn open_entry<'a>(entry: &'a mut Entry<'_>, name: &ChannelName, scope: &mut Scope<'_>) -> Option<&'a mut Channel> {
    if scope.app.total.is_full() {
        return entry.get();
    }
    Some(entry.get_or_insert_with(|| {
        let mut channel = Channel::new(name.clone(), scope);
        if scope.is_linked() {
            channel.open(scope);
        }
        channel
    }))
}
