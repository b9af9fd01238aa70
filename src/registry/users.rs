//! The signed-in users of one app, and who watches them.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;

use crate::protocol::code::Close;
use crate::protocol::event;
use crate::protocol::frame::Frame;
use crate::protocol::identity::User;
use crate::registry::AppState;
use crate::registry::address::Address;
use crate::registry::inbox::Inboxes;
use crate::registry::inbox::Letter;
use crate::registry::inbox::Sleepers;

/// Users with at least one connection that is signed in, and the connections that watch a user.
#[derive(Debug, Default)]
pub(super) struct Users {
    online: HashMap<Arc<str>, HashSet<Address>>,
    watchers: HashMap<Arc<str>, HashSet<Address>>,
}

impl Users {
    /// How many there are.
    pub(super) fn online(&self) -> usize {
        self.online.len()
    }

    fn watch(&mut self, user: &User, address: Address) {
        for id in &user.watchlist {
            self.watchers.entry(Arc::clone(id)).or_default().insert(address);
        }
    }

    fn unwatch(&mut self, user: &User, address: Address) {
        for id in &user.watchlist {
            remove(&mut self.watchers, id, address);
        }
    }

    fn tell_watchers(&self, id: &str, online: bool, inboxes: &Inboxes, sleepers: &mut Sleepers) {
        let Some(watchers) = self.watchers.get(id) else { return };
        let (came, went) = if online { (Some(id), None) } else { (None, Some(id)) };
        let Some(frame) = event::watchlist_events(came, went) else { return };
        for &watcher in watchers {
            inboxes.put_to(watcher, |slot| Letter::Send(slot, frame.clone()), sleepers);
        }
    }

    /// Who of a watchlist is online and who is not.
    fn watched(&self, user: &User) -> Option<Frame> {
        let ids = || user.watchlist.iter().map(|id| &**id);
        let is_online = |id: &&str| self.online.contains_key(*id);
        event::watchlist_events(ids().filter(is_online), ids().filter(|id| !is_online(id)))
    }
}

/// Takes one connection out of a user's set. True when it was the last one.
fn remove(sets: &mut HashMap<Arc<str>, HashSet<Address>>, id: &str, address: Address) -> bool {
    let Some(set) = sets.get_mut(id) else { return false };
    let last = set.remove(&address) && set.is_empty();
    if last {
        sets.remove(id);
    }
    last
}

impl AppState {
    /// Binds a connection to a user. The answers and the state of the watchlist go into the connection's
    /// inbox, in line with later news of the watched users. `before` is what the connection's last sign-in said.
    pub fn sign_in(&self, address: Address, user: &User, before: Option<&User>, answers: Vec<Frame>) {
        let mut sleepers = Sleepers::default();
        {
            let mut users = self.users.lock();
            if let Some(before) = before {
                users.unwatch(before, address);
            }
            let connections = users.online.entry(Arc::clone(&user.id)).or_default();
            let first = connections.is_empty();
            connections.insert(address);
            if first {
                users.tell_watchers(&user.id, true, &self.inboxes, &mut sleepers);
            }
            users.watch(user, address);
            for frame in answers.into_iter().chain(users.watched(user)) {
                self.inboxes.put_to(address, |slot| Letter::Send(slot, frame), &mut sleepers);
            }
        }
        sleepers.wake(&self.inboxes);
    }

    /// Ends what [`AppState::sign_in`] began.
    pub fn sign_out(&self, address: Address, user: &User) {
        let mut sleepers = Sleepers::default();
        {
            let mut users = self.users.lock();
            users.unwatch(user, address);
            if remove(&mut users.online, &user.id, address) {
                users.tell_watchers(&user.id, false, &self.inboxes, &mut sleepers);
            }
        }
        sleepers.wake(&self.inboxes);
    }

    /// Closes every connection signed in as this user.
    pub fn terminate(&self, user_id: &str, close: &Close) {
        let mut sleepers = Sleepers::default();
        let addresses: Vec<Address> = {
            let users = self.users.lock();
            users.online.get(user_id).map(|set| set.iter().copied().collect()).unwrap_or_default()
        };
        for &address in &addresses {
            self.inboxes.put_to(address, |slot| Letter::Close(slot, close.clone()), &mut sleepers);
        }
        sleepers.wake(&self.inboxes);
    }
}
