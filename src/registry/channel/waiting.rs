//! Decides whether a joiner must wait for the other nodes, and which update of the members ends the wait.

use std::sync::Arc;

use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::Topic;
use crate::protocol::identity::Member;
use crate::registry::channel::Channel;
use crate::registry::inbox::ShardMessage;
use crate::registry::members::LocalUser;
use crate::registry::remote::channel::RemoteChannel;
use crate::registry::remote::command::MemberUpdate;
use crate::registry::remote::command::Operation;
use crate::registry::remote::joiners::PendingUpdate;
use crate::registry::remote::message::UpdateOutcome;
use crate::registry::scope::Scope;
use crate::registry::subscription::Joiner;

impl Channel {
    /// Keeps a joiner that has to wait; returns one that can join at once. `is_new` means that the roster has to change.
    pub(super) fn wait_if_needed(&mut self, joiner: Joiner, is_new: bool, scope: &mut Scope<'_>) -> Option<Joiner> {
        let Some(remote) = self.remote.as_deref_mut().filter(|_| scope.is_linked()) else { return Some(joiner) };
        let mut pending = None;
        if !remote.topic.is_opening() {
            if let (Some(members), Some(member)) = (&mut self.members, &joiner.member)
                && let Some(local) = members.local.get_mut(&member.user_id)
            {
                if is_new {
                    add_user(remote, &self.name, (&member.user_id, local), joiner.rules.members_max, scope);
                }
                pending = local.update;
            }
            if pending.is_none() && !waits_for_view(&joiner, &self.name, scope) {
                return Some(joiner);
            }
        }
        scope.needs_reconcile = true;
        self.wait(joiner, pending);
        None
    }

    /// Keeps a joiner until the update of this number is in the roster, or until the topic and its view are open.
    fn wait(&mut self, joiner: Joiner, update: Option<u64>) {
        let remote = self.remote_mut();
        remote.counts.are_announced = joiner.rules.counted;
        remote.joiners.wait(joiner, update);
    }

    /// Lets in the joiners that have waited for nothing but the topic and their views.
    pub(crate) fn admit_arriving(&mut self, scope: &mut Scope<'_>) {
        if self.remote_mut().topic.is_opening() {
            return;
        }
        for joiner in std::mem::take(&mut self.remote_mut().joiners.arriving) {
            let pending = |member: &Member| self.members.as_ref()?.local.get(&member.user_id)?.update;
            let update = joiner.member.as_ref().and_then(pending);
            if update.is_some() || waits_for_view(&joiner, &self.name, scope) {
                self.wait(joiner, update);
            } else {
                self.admit(joiner, scope);
            }
        }
    }

    /// Lets in the joiners whose updates are in the roster.
    pub(super) fn admit_updated(&mut self, scope: &mut Scope<'_>) {
        loop {
            let (Some(members), Some(remote)) = (&mut self.members, &mut self.remote) else { return };
            if remote.topic.is_opening() {
                return;
            }
            let Some((number, update)) = remote.joiners.pop_applied(members.roster.version()) else { return };
            let PendingUpdate { user_id, joiners, .. } = update;
            if let Some(local) = members.local.get_mut(&user_id) {
                local.update.take_if(|last| *last == number);
            }
            for joiner in joiners {
                if waits_for_view(&joiner, &self.name, scope) {
                    self.wait(joiner, None);
                    scope.needs_reconcile = true;
                } else {
                    self.admit(joiner, scope);
                }
            }
        }
    }

    /// Refuses the joiners of these users: the channel is full.
    pub(super) fn refuse(&mut self, users: &[Arc<str>], scope: &mut Scope<'_>) {
        let (Some(members), Some(remote)) = (&mut self.members, &mut self.remote) else { return };
        for joiner in remote.joiners.refuse(users) {
            if let Some(member) = &joiner.member {
                members.remove(scope.node(), &member.user_id, joiner.address);
            }
            scope.app.views.remove(&self.name, joiner.address, scope);
            scope.inboxes.put_to(joiner.address, |slot| ShardMessage::Refused(slot, self.name.clone()));
        }
    }

    /// Tells the other nodes about a user here after a change of its connections.
    pub(super) fn update_user(&mut self, user_id: &str, scope: &Scope<'_>) {
        let (Some(members), Some(remote)) = (&mut self.members, &mut self.remote) else { return };
        if remote.topic.is_opening() {
            return;
        }
        let user_id: Arc<str> = user_id.into();
        match members.local.get_mut(&user_id) {
            Some(local) => add_user(remote, &self.name, (&user_id, local), usize::MAX, scope),
            None => remove_user(remote, &self.name, user_id, scope),
        }
    }

    /// Tells the other nodes about each user whose place in the roster differs from its connections here.
    pub(super) fn update_all_users(&mut self, scope: &Scope<'_>) {
        let (Some(members), Some(remote)) = (&mut self.members, &mut self.remote) else { return };
        let node = scope.node();
        for user_id in members.roster.users_on(node) {
            if !members.local.contains_key(&user_id) {
                remove_user(remote, &self.name, user_id, scope);
            }
        }
        for (user_id, local) in &mut members.local {
            if members.roster.since(node, user_id) != Some(local.info().1) && local.update.is_none() {
                add_user(remote, &self.name, (user_id, local), usize::MAX, scope);
            }
        }
    }

    /// The command to update a member has ended.
    pub(crate) fn on_updated(&mut self, update: &MemberUpdate, outcome: UpdateOutcome, scope: &mut Scope<'_>) {
        let remote = self.remote.get_or_insert_default();
        let MemberUpdate { number, user_id, .. } = update;
        match outcome {
            UpdateOutcome::Applied(version) => {
                remote.joiners.on_applied(*number, version);
                if let Some(local) = self.members.as_mut().and_then(|members| members.local.get_mut(user_id)) {
                    local.on_updated(*number, version);
                }
            }
            UpdateOutcome::Full => {
                self.refuse(std::slice::from_ref(user_id), scope);
                if self.remote_mut().joiners.remove_update(*number, user_id) {
                    // The later update may still succeed, but nobody waits any more.
                    self.update_user(user_id, scope);
                }
            }
            UpdateOutcome::Failed => {
                remote.joiners.on_applied(*number, 0);
                remote.topic.reopen_later(scope);
                match &update.user_info {
                    Some(_) => self.add_local_user(user_id, scope),
                    None => self.remove_local_user(user_id, scope),
                }
            }
        }
        self.admit_updated(scope);
    }
}

/// Commands to add a user of this node, or to change its `user_info`.
fn add_user(
    remote: &mut RemoteChannel,
    name: &ChannelName,
    (user_id, local): (&Arc<str>, &mut LocalUser),
    members_max: usize,
    scope: &Scope<'_>,
) {
    let (user_info, since) = local.info();
    let (number, user_info) = (remote.joiners.next_update(), Some(Arc::clone(user_info)));
    let update = MemberUpdate { number, user_id: Arc::clone(user_id), user_info, since, members_max };
    scope.command(Topic::Channel(name.clone()), Operation::UpdateMember(update));
    local.on_update(number);
    remote.joiners.add_update(number, Arc::clone(user_id));
}

/// Commands to remove a user of this node.
fn remove_user(remote: &mut RemoteChannel, name: &ChannelName, user_id: Arc<str>, scope: &Scope<'_>) {
    let number = remote.joiners.next_update();
    let update = MemberUpdate { number, user_id, user_info: None, since: 0, members_max: 0 };
    scope.command(Topic::Channel(name.clone()), Operation::UpdateMember(update));
}

/// Whether events of other nodes do not come yet for the joiner's view.
fn waits_for_view(joiner: &Joiner, name: &ChannelName, scope: &Scope<'_>) -> bool {
    joiner.view.is_some() && scope.is_linked() && scope.app.views.is_waiting(name, joiner.address)
}
