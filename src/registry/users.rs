//! The signed-in users of one app, and who watches them.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use crate::protocol::code::TERMINATED;
use crate::protocol::envelope::Change;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Topic;
use crate::protocol::event;
use crate::protocol::frame::Frame;
use crate::protocol::identity::Member;
use crate::protocol::identity::User;
use crate::registry::AppState;
use crate::registry::address::Address;
use crate::registry::inbox::Inboxes;
use crate::registry::inbox::ShardMessage;
use crate::registry::inbox::Sleepers;
use crate::registry::remote::command::Command;
use crate::registry::remote::command::MemberUpdate;
use crate::registry::remote::command::Operation;
use crate::registry::remote::message::LocalTopic;
use crate::registry::remote::message::Snapshot;
use crate::registry::remote::message::UpdateOutcome;
use crate::registry::remote::outgoing::Outgoing;
use crate::registry::remote::roster::Effect;
use crate::registry::remote::roster::Gap;
use crate::registry::remote::roster::Roster;
use crate::registry::shared::DOUBT;

/// Changes of one user that are held back while it is compared who is signed in where.
const HELD_MAX: usize = 1000;

/// Users with at least one connection that is signed in here, and the users that somebody here watches.
#[derive(Debug, Default)]
pub(super) struct Users {
    online: HashMap<Arc<str>, HashSet<Address>>,
    watched: HashMap<Arc<str>, Watched>,
    untold: HashMap<Address, Untold>,
}

/// What a connection still has to hear: who of its watchlist is online.
#[derive(Debug)]
struct Untold {
    watchlist: Vec<Arc<str>>,
    /// Those of them who are not known yet.
    missing: HashSet<Arc<str>>,
}

/// A user that connections of this node watch.
#[derive(Debug, Default)]
struct Watched {
    watchers: HashSet<Address>,
    /// Those who have not been told their watchlist yet.
    waiting: HashSet<Address>,
    /// The nodes that the user is signed in on.
    roster: Roster,
    /// Not known yet.
    opening: bool,
    /// The last order to listen.
    listen: u64,
    /// What was heard in the meantime.
    held: Vec<Change>,
    /// When nodes that have not come back since count as gone.
    settle_at: Option<Instant>,
}

/// What a change under the lock needs.
struct Scope<'a> {
    inboxes: &'a Inboxes,
    outgoing: Option<&'a Outgoing>,
    app: &'a Arc<str>,
    sleepers: Sleepers,
}

impl Scope<'_> {
    fn node(&self) -> NodeId {
        self.outgoing.map_or_else(NodeId::default, Outgoing::node)
    }

    fn is_linked(&self) -> bool {
        self.outgoing.is_some_and(Outgoing::is_linked)
    }

    /// Something that another node is said to have said cannot be true.
    fn doubt(&self) {
        if let Some(outgoing) = self.outgoing {
            outgoing.report_implausible();
        }
    }

    fn order(&self, user_id: &Arc<str>, operation: Operation) {
        if let Some(outgoing) = self.outgoing {
            outgoing.push(Command { app: Arc::clone(self.app), topic: Topic::User(Arc::clone(user_id)), operation });
        }
    }

    fn send(&mut self, address: Address, frame: Frame) {
        self.inboxes.put_to(address, |slot| ShardMessage::Send(slot, frame), &mut self.sleepers);
    }
}

impl Watched {
    fn tell(&self, effect: Option<&Effect>, scope: &mut Scope<'_>) {
        let frame = match effect {
            Some(Effect::Added(member)) => event::watchlist_events(Some(&*member.user_id), None),
            Some(Effect::Removed(user_id)) => event::watchlist_events(None, Some(&**user_id)),
            Some(Effect::Changed) | None => None,
        };
        let Some(frame) = frame else { return };
        for &watcher in &self.watchers {
            scope.send(watcher, frame.clone());
        }
    }

    /// The user is signed in here, or is not.
    fn set(&mut self, user_id: &Arc<str>, online: bool, scope: &mut Scope<'_>) {
        let effect = if online {
            self.roster.add(scope.node(), 0, &member(user_id))
        } else {
            self.roster.remove(scope.node(), user_id)
        };
        self.tell(effect.as_ref(), scope);
    }

    /// Keeps a change until it is known who is signed in where. One that there is no room for comes with the next
    /// comparison, which it causes.
    fn hold(&mut self, change: Change) {
        if self.held.len() < HELD_MAX {
            self.held.push(change);
        }
    }

    fn open(&mut self, user_id: &Arc<str>, scope: &Scope<'_>) {
        if !self.opening {
            self.opening = true;
            let (number, order) = Operation::open();
            self.listen = number;
            scope.order(user_id, order);
        }
    }

    /// `was_held` while it was compared who is signed in where. Such a change has to follow what that has brought, or it
    /// is not true.
    fn hear(&mut self, user_id: &Arc<str>, change: Change, was_held: bool, scope: &mut Scope<'_>) {
        if self.opening {
            return self.hold(change);
        }
        if change.node == scope.node() && change.by != change.node {
            // Somebody takes this node for dead, and has removed what is here.
            return self.open(user_id, scope);
        }
        match self.roster.apply(&change) {
            Ok(effect) => self.tell(effect.as_ref(), scope),
            Err(Gap) if was_held => scope.doubt(),
            Err(Gap) => {
                self.open(user_id, scope);
                self.hold(change);
            }
        }
    }
}

/// A signed-in user as the nodes know it: nothing is told about it.
fn member(user_id: &Arc<str>) -> Member {
    Member { user_id: Arc::clone(user_id), user_info: "{}".into() }
}

fn placement(user_id: &Arc<str>, online: bool) -> Operation {
    let Member { user_id, user_info } = member(user_id);
    let user_info = online.then_some(user_info);
    Operation::UpdateMember(MemberUpdate { number: 0, user_id, user_info, since: 0, members_max: usize::MAX })
}

impl Users {
    /// How many there are.
    pub(super) fn online(&self) -> usize {
        self.online.len()
    }

    /// Whether nobody is signed in here or watched from here.
    pub(super) fn is_idle(&self) -> bool {
        self.online.is_empty() && self.watched.is_empty()
    }

    /// The first connection of a user has come, or the last one has gone.
    fn turn(&mut self, user_id: &Arc<str>, online: bool, scope: &mut Scope<'_>) {
        if scope.is_linked() {
            // Its watchers hear of it when the other nodes do.
            scope.order(user_id, placement(user_id, online));
        } else if let Some(watched) = self.watched.get_mut(user_id) {
            watched.set(user_id, online, scope);
        }
    }

    fn watch(&mut self, address: Address, watchlist: Vec<Arc<str>>, scope: &mut Scope<'_>) {
        let mut missing = HashSet::new();
        for id in &watchlist {
            let watched = self.watched.entry(Arc::clone(id)).or_insert_with(|| {
                let mut watched = Watched::default();
                if scope.is_linked() {
                    watched.open(id, scope);
                } else if self.online.contains_key(id) {
                    watched.roster.add(scope.node(), 0, &member(id));
                }
                watched
            });
            watched.watchers.remove(&address);
            watched.waiting.insert(address);
            if watched.opening {
                missing.insert(Arc::clone(id));
            }
        }
        let is_known = missing.is_empty();
        self.untold.insert(address, Untold { watchlist, missing });
        if is_known {
            self.tell_watchlist(address, scope);
        }
    }

    /// It is known whether a user is online, unless the news of it has shown a gap again.
    fn known(&mut self, user_id: &Arc<str>, scope: &mut Scope<'_>) {
        let Some(watched) = self.watched.get(user_id).filter(|watched| !watched.opening) else { return };
        let mut ready = Vec::new();
        for address in &watched.waiting {
            let Some(untold) = self.untold.get_mut(address) else { continue };
            if untold.missing.remove(user_id) && untold.missing.is_empty() {
                ready.push(*address);
            }
        }
        for address in ready {
            self.tell_watchlist(address, scope);
        }
    }

    fn tell_watchlist(&mut self, address: Address, scope: &mut Scope<'_>) {
        let Some(Untold { watchlist, .. }) = self.untold.remove(&address) else { return };
        let is_online = |id: &&Arc<str>| self.watched.get(*id).is_some_and(|watched| watched.roster.contains(id));
        let (online, offline): (Vec<_>, Vec<_>) = watchlist.iter().partition(is_online);
        let frame = event::watchlist_events(online.into_iter().map(|id| &**id), offline.into_iter().map(|id| &**id));
        if let Some(frame) = frame {
            scope.send(address, frame);
        }
        for id in &watchlist {
            if let Some(watched) = self.watched.get_mut(id) {
                watched.waiting.remove(&address);
                watched.watchers.insert(address);
            }
        }
    }

    fn unwatch<'a>(&mut self, ids: impl Iterator<Item = &'a Arc<str>>, address: Address, scope: &Scope<'_>) {
        self.untold.remove(&address);
        for id in ids {
            let Some(watched) = self.watched.get_mut(id) else { continue };
            watched.watchers.remove(&address);
            watched.waiting.remove(&address);
            if watched.watchers.is_empty() && watched.waiting.is_empty() {
                self.watched.remove(id);
                scope.order(id, Operation::Close);
            }
        }
    }

    fn opened(&mut self, user_id: &Arc<str>, snapshot: &Snapshot, now: Instant, scope: &mut Scope<'_>) {
        let Some(watched) = self.watched.get_mut(user_id) else { return };
        watched.opening = false;
        for effect in watched.roster.merge(snapshot.version, &snapshot.entries, scope.node()) {
            watched.tell(Some(&effect), scope);
        }
        watched.settle_at = watched.roster.has_unconfirmed().then(|| now + DOUBT);
        for change in std::mem::take(&mut watched.held) {
            watched.hear(user_id, change, true, scope);
        }
        let online = self.online.contains_key(user_id);
        if !watched.opening && watched.roster.is_on(scope.node(), user_id) != online {
            scope.order(user_id, placement(user_id, online));
        }
        self.known(user_id, scope);
    }

    /// What is here counts.
    fn settle(&mut self, user_id: &Arc<str>, scope: &mut Scope<'_>) {
        let online = self.online.contains_key(user_id);
        if let Some(watched) = self.watched.get_mut(user_id) {
            watched.opening = false;
            watched.held.clear();
            watched.set(user_id, online, scope);
        }
        self.known(user_id, scope);
    }
}

impl AppState {
    /// Runs `f` under the lock of the users.
    fn change_users<R>(&self, f: impl FnOnce(&mut Users, &mut Scope<'_>) -> R) -> R {
        let (inboxes, outgoing) = (&*self.inboxes, self.outgoing.as_deref());
        let mut scope = Scope { inboxes, outgoing, app: &self.id, sleepers: Sleepers::default() };
        let outcome = f(&mut self.users.lock(), &mut scope);
        scope.sleepers.wake(&self.inboxes);
        outcome
    }

    /// Binds a connection to a user. The answers and the state of the watchlist go into the connection's
    /// inbox, in line with later news of the watched users. `before` is what the connection's last sign-in said.
    pub fn sign_in(&self, address: Address, user: &User, before: Option<&User>, answers: Vec<Frame>) {
        self.change_users(|users, scope| {
            if let Some(before) = before {
                let kept: HashSet<_> = user.watchlist.iter().collect();
                users.unwatch(before.watchlist.iter().filter(|id| !kept.contains(id)), address, scope);
            }
            let connections = users.online.entry(Arc::clone(&user.id)).or_default();
            let first = connections.is_empty();
            connections.insert(address);
            if first {
                users.turn(&user.id, true, scope);
            }
            for frame in answers {
                scope.send(address, frame);
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
                users.turn(&user.id, false, scope);
            }
        });
    }

    /// Closes every connection of this node that is signed in as this user. Returns how many.
    pub fn terminate(&self, user_id: &str) -> usize {
        let mut sleepers = Sleepers::default();
        let addresses: Vec<Address> = {
            let users = self.users.lock();
            users.online.get(user_id).map(|set| set.iter().copied().collect()).unwrap_or_default()
        };
        for &address in &addresses {
            self.inboxes.put_to(address, |slot| ShardMessage::Close(slot, TERMINATED), &mut sleepers);
        }
        sleepers.wake(&self.inboxes);
        addresses.len()
    }
}

/// What the users have to do with other nodes.
impl AppState {
    pub(super) fn local_user(&self, user_id: &Arc<str>) -> LocalTopic {
        let members = if self.is_online(user_id) { vec![(member(user_id), 0)] } else { Vec::new() };
        LocalTopic { members, members_max: usize::MAX, counted: false }
    }

    /// Whether a user is signed in on this node.
    pub fn is_online(&self, user_id: &str) -> bool {
        self.users.lock().online.contains_key(user_id)
    }

    pub(super) fn user_opened(&self, user_id: &Arc<str>, listen: u64, snapshot: Option<&Snapshot>, now: Instant) {
        let awaits = |watched: &Watched| watched.opening && watched.listen == listen;
        self.change_users(|users, scope| match snapshot {
            _ if !users.watched.get(user_id).is_some_and(awaits) => (),
            Some(snapshot) => users.opened(user_id, snapshot, now, scope),
            None => users.settle(user_id, scope),
        });
    }

    pub(super) fn user_updated(&self, update: &MemberUpdate, outcome: UpdateOutcome) {
        if matches!(outcome, UpdateOutcome::Failed) {
            self.change_users(|users, scope| users.settle(&update.user_id, scope));
        }
    }

    pub(super) fn user_changed(&self, user_id: &Arc<str>, change: Change) {
        self.change_users(|users, scope| {
            if let Some(watched) = users.watched.get_mut(user_id) {
                watched.hear(user_id, change, false, scope);
            }
        });
    }

    /// The link is there: tells who is here, and listens to who is watched.
    pub(super) fn open_users(&self) {
        self.change_users(|users, scope| {
            for user_id in users.online.keys().filter(|user_id| !users.watched.contains_key(*user_id)) {
                scope.order(user_id, placement(user_id, true));
            }
            for (user_id, watched) in &mut users.watched {
                watched.open(user_id, scope);
            }
        });
    }

    /// The link is lost: what is here counts.
    pub(super) fn settle_users(&self) {
        self.change_users(|users, scope| {
            let watched: Vec<Arc<str>> = users.watched.keys().cloned().collect();
            for user_id in watched {
                users.settle(&user_id, scope);
            }
        });
    }

    /// Nodes that have not come back in time count as gone.
    pub(super) fn tick_users(&self, now: Instant) {
        if self.outgoing.is_none() {
            return;
        }
        self.change_users(|users, scope| {
            for watched in users.watched.values_mut().filter(|watched| watched.settle_at.is_some_and(|at| at <= now)) {
                watched.settle_at = None;
                for effect in watched.roster.remove_unconfirmed() {
                    watched.tell(Some(&effect), scope);
                }
            }
        });
    }
}
