//! The signed-in users of one app, and the connections that watch them. `node` signs connections in and out.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use crate::protocol::code::TERMINATED;
use crate::protocol::envelope::Change;
use crate::protocol::envelope::Topic;
use crate::protocol::event;
use crate::protocol::frame::Frame;
use crate::protocol::identity::Member;
use crate::protocol::identity::User;
use crate::registry::AppState;
use crate::registry::address::Address;
use crate::registry::inbox::ShardMessage;
use crate::registry::remote::command::MemberUpdate;
use crate::registry::remote::command::Operation;
use crate::registry::remote::message::LocalTopic;
use crate::registry::remote::message::NodeMessage;
use crate::registry::remote::message::Snapshot;
use crate::registry::remote::roster::Effect;
use crate::registry::remote::roster::Roster;
use crate::registry::remote::topic::RemoteTopic;
use crate::registry::scope::Scope;

/// Users with connections that are signed in here, and the users that connections here watch.
#[derive(Debug, Default)]
pub(super) struct Users {
    online: HashMap<Arc<str>, HashSet<Address>>,
    watched: HashMap<Arc<str>, WatchedUser>,
    pending: HashMap<Address, PendingWatchlist>,
}

/// A watchlist whose state the connection has not got yet.
#[derive(Debug)]
struct PendingWatchlist {
    users: Vec<Arc<str>>,
    /// The users whose topics are still opening.
    missing: HashSet<Arc<str>>,
}

/// A user that connections of this node watch.
#[derive(Debug, Default)]
struct WatchedUser {
    watchers: HashSet<Address>,
    /// Connections with a pending watchlist.
    pending: HashSet<Address>,
    /// The nodes that the user is signed in on.
    roster: Roster,
    topic: RemoteTopic,
}

impl WatchedUser {
    /// Announces a change to the watchers.
    fn announce(&self, effect: Option<&Effect>, scope: &mut Scope<'_>) {
        let frame = match effect {
            Some(Effect::Added(member)) => event::watchlist_events(Some(&*member.user_id), None),
            Some(Effect::Removed(user_id)) => event::watchlist_events(None, Some(&**user_id)),
            Some(Effect::Changed) | None => None,
        };
        let Some(frame) = frame else { return };
        for &watcher in &self.watchers {
            send(watcher, frame.clone(), scope);
        }
    }

    /// The user is signed in here, or not, without the other nodes.
    fn set_online(&mut self, user_id: &Arc<str>, online: bool, scope: &mut Scope<'_>) {
        let effect = if online {
            self.roster.add(scope.node(), 0, &member(user_id))
        } else {
            self.roster.remove(scope.node(), user_id)
        };
        self.announce(effect.as_ref(), scope);
    }

    fn on_change(&mut self, user_id: &Arc<str>, change: Change, scope: &mut Scope<'_>) {
        let effect = self.topic.apply(&mut self.roster, change, &topic(user_id), scope);
        self.announce(effect.as_ref(), scope);
    }
}

fn send(address: Address, frame: Frame, scope: &mut Scope<'_>) {
    scope.inboxes.put_to(address, |slot| ShardMessage::Send(slot, frame));
}

fn topic(user_id: &Arc<str>) -> Topic {
    Topic::User(Arc::clone(user_id))
}

/// A signed-in user as a member of its topic, always with the same `user_info`.
fn member(user_id: &Arc<str>) -> Member {
    Member { user_id: Arc::clone(user_id), user_info: "{}".into() }
}

/// Commands to tell the other nodes whether a user is signed in here.
fn update(user_id: &Arc<str>, online: bool, scope: &Scope<'_>) {
    let Member { user_id, user_info } = member(user_id);
    let (topic, user_info) = (topic(&user_id), online.then_some(user_info));
    let update = MemberUpdate { number: 0, user_id, user_info, since: 0, members_max: usize::MAX };
    scope.command(topic, Operation::UpdateMember(update));
}

impl Users {
    /// Users that are signed in here.
    pub(super) fn online(&self) -> usize {
        self.online.len()
    }

    /// Whether nobody is signed in here or watched from here.
    pub(super) fn is_idle(&self) -> bool {
        self.online.is_empty() && self.watched.is_empty()
    }

    /// The first connection of a user has signed in, or the last one has gone.
    fn set_online(&mut self, user_id: &Arc<str>, online: bool, scope: &mut Scope<'_>) {
        if scope.is_linked() {
            // The watchers get the change when the other nodes do.
            update(user_id, online, scope);
        } else if let Some(watched) = self.watched.get_mut(user_id) {
            watched.set_online(user_id, online, scope);
        }
    }

    fn watch(&mut self, address: Address, watchlist: Vec<Arc<str>>, scope: &mut Scope<'_>) {
        let mut missing = HashSet::new();
        for id in &watchlist {
            let watched = self.watched.entry(Arc::clone(id)).or_insert_with(|| {
                let mut watched = WatchedUser::default();
                if scope.is_linked() {
                    watched.topic.open(&topic(id), scope);
                } else if self.online.contains_key(id) {
                    watched.roster.add(scope.node(), 0, &member(id));
                }
                watched
            });
            watched.watchers.remove(&address);
            watched.pending.insert(address);
            if watched.topic.is_opening() {
                missing.insert(Arc::clone(id));
            }
        }
        let is_known = missing.is_empty();
        self.pending.insert(address, PendingWatchlist { users: watchlist, missing });
        if is_known {
            self.send_watchlist(address, scope);
        }
    }

    /// Sends the watchlists that have waited for this user only, unless its topic is opening again.
    fn on_known(&mut self, user_id: &Arc<str>, scope: &mut Scope<'_>) {
        let Some(watched) = self.watched.get(user_id).filter(|watched| !watched.topic.is_opening()) else { return };
        let mut ready = Vec::new();
        for address in &watched.pending {
            let Some(pending) = self.pending.get_mut(address) else { continue };
            if pending.missing.remove(user_id) && pending.missing.is_empty() {
                ready.push(*address);
            }
        }
        for address in ready {
            self.send_watchlist(address, scope);
        }
    }

    fn send_watchlist(&mut self, address: Address, scope: &mut Scope<'_>) {
        let Some(PendingWatchlist { users, .. }) = self.pending.remove(&address) else { return };
        let is_online = |id: &&Arc<str>| self.watched.get(*id).is_some_and(|watched| watched.roster.contains(id));
        let (online, offline): (Vec<_>, Vec<_>) = users.iter().partition(is_online);
        let frame = event::watchlist_events(online.into_iter().map(|id| &**id), offline.into_iter().map(|id| &**id));
        if let Some(frame) = frame {
            send(address, frame, scope);
        }
        for id in &users {
            if let Some(watched) = self.watched.get_mut(id) {
                watched.pending.remove(&address);
                watched.watchers.insert(address);
            }
        }
    }

    fn unwatch<'a>(&mut self, ids: impl Iterator<Item = &'a Arc<str>>, address: Address, scope: &Scope<'_>) {
        self.pending.remove(&address);
        for id in ids {
            let Some(watched) = self.watched.get_mut(id) else { continue };
            watched.watchers.remove(&address);
            watched.pending.remove(&address);
            if watched.watchers.is_empty() && watched.pending.is_empty() {
                self.watched.remove(id);
                scope.command(topic(id), Operation::Close);
            }
        }
    }

    /// The command of this number has opened a user's topic, or has failed without a snapshot.
    pub(super) fn on_opened(
        &mut self,
        user_id: &Arc<str>,
        number: u64,
        snapshot: Option<&Snapshot>,
        scope: &mut Scope<'_>,
    ) {
        let watched = self.watched.get_mut(user_id).filter(|watched| watched.topic.awaits(number));
        let Some(watched) = watched else { return };
        let Some(snapshot) = snapshot else { return self.reset(user_id, scope) };
        let opening = watched.topic.end_opening();
        for effect in watched.topic.merge(&mut watched.roster, snapshot, scope) {
            watched.announce(Some(&effect), scope);
        }
        for message in opening.buffered {
            if let NodeMessage::Member(change) = message {
                watched.on_change(user_id, change, scope);
            }
        }
        let online = self.online.contains_key(user_id);
        if watched.topic.end_replay(scope) && watched.roster.is_on(scope.node(), user_id) != online {
            update(user_id, online, scope);
        }
        self.on_known(user_id, scope);
    }

    /// A change of a watched user has come.
    pub(super) fn on_change(&mut self, user_id: &Arc<str>, change: Change, scope: &mut Scope<'_>) {
        if let Some(watched) = self.watched.get_mut(user_id) {
            watched.on_change(user_id, change, scope);
        }
    }

    /// The state of the other nodes is unknown: this node decides alone.
    pub(super) fn reset(&mut self, user_id: &Arc<str>, scope: &mut Scope<'_>) {
        let online = self.online.contains_key(user_id);
        if let Some(watched) = self.watched.get_mut(user_id) {
            watched.topic.reset();
            watched.set_online(user_id, online, scope);
        }
        self.on_known(user_id, scope);
    }
}

impl AppState {
    /// Runs `f` under the lock of the users.
    pub(super) fn change_users<R>(&self, f: impl FnOnce(&mut Users, &mut Scope<'_>) -> R) -> R {
        let mut scope = Scope::new(self, Instant::now());
        let outcome = f(&mut self.users.lock(), &mut scope);
        scope.inboxes.wake();
        outcome
    }

    /// Binds a connection to a user. The answers and the state of the watchlist go into the connection's inbox, in line
    /// with later changes of the watched users. `before` is the user of the connection's last sign-in.
    pub fn sign_in(&self, address: Address, user: &User, before: Option<&User>, answers: Vec<Frame>) {
        self.change_users(|users, scope| {
            if let Some(before) = before {
                let both: HashSet<_> = user.watchlist.iter().collect();
                users.unwatch(before.watchlist.iter().filter(|id| !both.contains(id)), address, scope);
            }
            let connections = users.online.entry(Arc::clone(&user.id)).or_default();
            let is_first = connections.is_empty();
            connections.insert(address);
            if is_first {
                users.set_online(&user.id, true, scope);
            }
            for frame in answers {
                send(address, frame, scope);
            }
            if !user.watchlist.is_empty() {
                users.watch(address, user.watchlist.to_vec(), scope);
            }
        });
    }

    /// Ends what [`AppState::sign_in`] began.
    pub fn sign_out(&self, address: Address, user: &User) {
        self.change_users(|users, scope| {
            users.unwatch(user.watchlist.iter(), address, scope);
            let Some(connections) = users.online.get_mut(&user.id) else { return };
            if connections.remove(&address) && connections.is_empty() {
                users.online.remove(&user.id);
                users.set_online(&user.id, false, scope);
            }
        });
    }

    /// Closes the connections of this node that are signed in as a user. Returns how many there are.
    pub fn terminate(&self, user_id: &str) -> usize {
        self.change_users(|users, scope| {
            let addresses = users.online.get(user_id).into_iter().flatten();
            let close = |&address| scope.inboxes.put_to(address, |slot| ShardMessage::Close(slot, TERMINATED));
            addresses.map(close).count()
        })
    }
}

/// The part of the users that other nodes have.
impl AppState {
    /// Whether a user is signed in on this node.
    pub fn is_online(&self, user_id: &str) -> bool {
        self.users.lock().online.contains_key(user_id)
    }

    pub(super) fn local_user(&self, user_id: &Arc<str>) -> LocalTopic {
        let members = if self.is_online(user_id) { vec![(member(user_id), 0)] } else { Vec::new() };
        LocalTopic { members, members_max: usize::MAX, counted: false, snapshot: None }
    }

    /// The link is up: tells the other nodes who is signed in, and opens the topics of watched users.
    pub(super) fn open_users(&self) {
        self.change_users(|users, scope| {
            for user_id in users.online.keys().filter(|user_id| !users.watched.contains_key(*user_id)) {
                update(user_id, true, scope);
            }
            for (user_id, watched) in &mut users.watched {
                watched.topic.open(&topic(user_id), scope);
            }
        });
    }

    /// The link is lost: this node decides alone.
    pub(super) fn unlink_users(&self) {
        self.change_users(|users, scope| {
            let watched: Vec<Arc<str>> = users.watched.keys().cloned().collect();
            for user_id in watched {
                users.reset(&user_id, scope);
            }
        });
    }

    /// Reconciles the watched users with the other nodes.
    pub(super) fn tick_users(&self) {
        if self.outgoing.is_none() {
            return;
        }
        self.change_users(|users, scope| {
            for (user_id, watched) in &mut users.watched {
                for effect in watched.topic.reconcile(Some(&mut watched.roster), &topic(user_id), scope) {
                    watched.announce(Some(&effect), scope);
                }
            }
        });
    }
}
