//! The link to the other nodes: opens it, carries out the registry's commands over it, and ends it.
//! `Cluster::run` runs it; `lease`, `cleanup` and `views` do their part beside the queue.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use parking_lot::Mutex;
use redis::Cmd;
use redis::RedisResult;
use redis::Value;
use redis::cmd;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::cluster::LinkHandle;
use crate::cluster::commands::Expected;
use crate::cluster::listener::Listener;
use crate::cluster::listener::OpenTopic;
use crate::cluster::pace::Pace;
use crate::cluster::peers::Peers;
use crate::cluster::scripts::Scripts;
use crate::protocol::envelope::Envelope;
use crate::redis::connection::ANSWER_TIME;
use crate::redis::connection::PING;
use crate::redis::connection::RedisConnection;
use crate::redis::error::fault;
use crate::redis::error::is_full;
use crate::redis::error::is_no_use;
use crate::redis::lease::LEASE_SCRIPT;
use crate::redis::link;
use crate::redis::link::Purpose;
use crate::redis::script;
use crate::registry::remote::command::Command;
use crate::registry::remote::command::Operation;

/// How long events wait, after a lost link, for the other nodes to listen again.
const PEERS_WAIT: Duration = Duration::from_secs(3);
/// How long a node that stops may take to publish the rest.
const FLUSH_TIME: Duration = Duration::from_secs(2);
/// Messages for the control topic that may wait.
const CONTROL_MAX: usize = 1024;

/// One link.
pub(super) struct ClusterLink {
    pub(super) cluster: Arc<Cluster>,
    pub(super) listener: Arc<Listener>,
    pub(super) scripts: Scripts,
    /// Sends commands.
    pub(super) out: RedisConnection,
    /// Receives what other nodes publish, on a runtime of its own: it blocks while the shards' inboxes are full.
    pub(super) receiver: RedisConnection,
    pub(super) receiver_runtime: Handle,
    /// Receives events for group views, over a Redis Cluster.
    pub(super) views_receiver: OnceCell<RedisConnection>,
    control: mpsc::Receiver<Envelope>,
    /// Commands that were sent and not answered yet, and events that wait for other nodes to listen.
    in_flight: Mutex<Vec<Command>>,
    pub(super) since: Instant,
    /// There was a link before.
    is_reconnect: bool,
    /// `apps_added` when this node recorded its apps.
    pub(super) apps_recorded: AtomicU64,
}

const PURPOSE: Purpose = Purpose {
    absent: "there is no link to Redis",
    lost: "the link to Redis is lost",
    meanwhile: "this node serves its own connections meanwhile",
    acl_advice: None,
};

/// Keeps a link until `stop` is cancelled, then leaves the cluster.
pub(super) async fn run(cluster: Arc<Cluster>, stop: CancellationToken, receiver: Handle) {
    let open = || async {
        let _tried = cluster.tried.clone().drop_guard();
        ClusterLink::open(&cluster, &receiver).await
    };
    let serve = |link| serve(link, &stop);
    link::run(&cluster.options, &PURPOSE, &stop, open, serve).await;
}

async fn serve(mut link: ClusterLink, stop: &CancellationToken) -> RedisResult<()> {
    tracing::info!(node = %link.cluster.node(), "linked to the cluster");
    let outcome = link.serve(stop).await;
    link.end();
    outcome
}

impl ClusterLink {
    /// Connects, and makes sure that this node receives what it publishes.
    async fn open(cluster: &Arc<Cluster>, runtime: &Handle) -> RedisResult<Self> {
        let listener = Arc::new(Listener::new(Arc::clone(cluster)));
        let on_push = {
            let listener = Arc::clone(&listener);
            move |push| listener.on_push(push)
        };
        let mut receiver = RedisConnection::open_on(runtime, &cluster.options, on_push).await?;
        let mut out = RedisConnection::open(&cluster.options, |_| ()).await?;
        let (member, cache) = (include_str!("member.lua"), include_str!("cache.lua"));
        let (last_events, append, places) =
            (include_str!("last_events.lua"), include_str!("append.lua"), include_str!("places.lua"));
        let sources = [member, cache, last_events, append, places, LEASE_SCRIPT];
        let [member, cache, last_events, append, places, lease] = script::load(&mut out, sources).await?;
        let scripts = Scripts { member, cache, last_events, append, places, lease, publish: out.publish() };
        let leases = cluster.renew_lease(&scripts, &mut out).await?;
        cluster.on_leases(&leases, true);
        let control = cluster.names.control();
        receiver.subscribe(std::slice::from_ref(&control)).await?;
        // Before the others can answer the hello.
        cluster.update_peers(Peers::relinked);
        let hello = Envelope::Hello(cluster.node(), cluster.node()).encode();
        out.ask_one(cmd(scripts.publish).arg(control).arg(hello).take()).await?;
        let received = timeout(ANSWER_TIME, listener.own_hello.notified()).await;
        received.map_err(|_| fault("what is published is not heard; does the user's ACL allow these channels?"))?;
        let (control_sender, control) = mpsc::channel(CONTROL_MAX);
        let mut link = Self {
            cluster: Arc::clone(cluster),
            listener,
            scripts,
            out,
            receiver,
            receiver_runtime: runtime.clone(),
            views_receiver: OnceCell::new(),
            control,
            in_flight: Mutex::default(),
            since: Instant::now(),
            is_reconnect: false,
            apps_recorded: AtomicU64::new(0),
        };
        link.clear_outdated().await?;
        link.warn_of_soketi().await?;
        *cluster.link.lock() = Some(LinkHandle { connection: link.out.clone(), control: control_sender });
        cluster.announce_if_draining();
        cluster.meters.connects.inc();
        link.is_reconnect = cluster.outgoing.link();
        cluster.publish_state();
        Ok(link)
    }

    /// Ends when the link is lost, or after `stop` when everything is published.
    async fn serve(&mut self, stop: &CancellationToken) -> RedisResult<()> {
        let (_, none) = mpsc::channel(1);
        let control = std::mem::replace(&mut self.control, none);
        let (report_crashed, crashed) = watch::channel(Vec::new());
        let link = &*self;
        // Before this node announces that it listens.
        link.subscribe_views().await?;
        tokio::select! {
            lost = link.write() => lost.map(|never| match never {}),
            lost = link.publish_control(control) => lost.map(|never| match never {}),
            lost = link.ping() => lost.map(|never| match never {}),
            lost = link.follow_views() => lost.map(|never| match never {}),
            lost = link.watch_leases(report_crashed) => lost.map(|never| match never {}),
            lost = link.clean_up(crashed) => lost.map(|never| match never {}),
            () = link.listener.lost.cancelled() => Err(fault("Redis has ended the connection, or a subscription")),
            left = link.leave(stop) => left,
        }
    }

    /// From now on this node decides alone.
    fn end(&self) {
        let cluster = &self.cluster;
        self.listener.lost.cancel();
        *cluster.link.lock() = None;
        cluster.is_listening.store(false, Ordering::Release);
        cluster.outgoing.unlink(std::mem::take(&mut *self.in_flight.lock()));
        cluster.peers_changed.notify_waiters();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        cluster.meters.last_lost.set(now.as_secs_f64());
        for app in cluster.apps() {
            app.on_unlinked(Instant::now());
        }
    }

    /// Carries out the registry's commands. After a lost link the events wait until the other nodes listen again, since
    /// they may have lost it, too.
    async fn write(&self) -> RedisResult<Infallible> {
        let outgoing = &self.cluster.outgoing;
        let peers = self.peers_are_back();
        tokio::pin!(peers);
        let mut events_wait = self.is_reconnect;
        // Commands that waited when the link was opened. After them this node listens to all that matters to it.
        let mut first = outgoing.waiting().0;
        let mut pace = Pace::new(Instant::now());
        loop {
            if first == 0 {
                self.announce_listening();
            }
            tokio::select! {
                () = &mut peers, if events_wait => {
                    events_wait = false;
                    let events = std::mem::take(&mut *self.in_flight.lock());
                    first += events.len();
                    outgoing.requeue(events);
                }
                () = outgoing.filled() => {
                    let commands = outgoing.take();
                    let count = commands.len();
                    first = first.saturating_sub(count);
                    self.in_flight.lock().extend(commands);
                    self.carry_out(|command| !events_wait || !command.waits_for_nodes()).await?;
                    if let Some(pause) = pace.pause_after(count, Instant::now()) {
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        }
    }

    /// Announces once that this node listens to all that matters to it.
    fn announce_listening(&self) {
        if !self.cluster.is_listening.swap(true, Ordering::AcqRel) {
            let me = self.cluster.node();
            self.cluster.announce(Envelope::Here(me, me));
            self.cluster.peers_changed.notify_waiters();
        }
    }

    /// Waits until this node and every other one that was known listen again, for a limited time.
    async fn peers_are_back(&self) {
        let cluster = &self.cluster;
        let all_listen =
            |cluster: &Cluster| cluster.is_listening.load(Ordering::Acquire) && cluster.peers.lock().all_listen();
        let bytes = cluster.outgoing.waiting().1;
        if timeout(PEERS_WAIT, cluster.peers_become(all_listen)).await.is_err() && bytes > 0 {
            tracing::warn!(
                bytes,
                "not every node that was there before listens again; it misses the events that waited"
            );
        }
        cluster.update_peers(Peers::stop_awaiting);
    }

    /// Carries out the commands in flight that `is_due` chooses; the others stay.
    async fn carry_out(&self, is_due: impl Fn(&Command) -> bool) -> RedisResult<()> {
        let (cluster, mut receiver, mut out) = (&self.cluster, self.receiver.clone(), self.out.clone());
        let (mut open, mut close) = (Vec::new(), Vec::new());
        for command in self.in_flight.lock().iter().filter(|command| is_due(command)) {
            let name = || cluster.names.topic(&command.app, &command.topic);
            match command.operation {
                Operation::Open { .. } => {
                    let name = name();
                    if let Some(app) = cluster.app(&command.app) {
                        self.listener.add(&name, OpenTopic { app, topic: command.topic.clone() });
                    }
                    close.retain(|other| *other != name);
                    open.push(name);
                }
                Operation::Close => close.push(name()),
                _ => (),
            }
        }
        receiver.subscribe(&open).await?;
        if self.apps_recorded.load(Ordering::Relaxed) != cluster.apps_added.load(Ordering::Acquire) {
            self.record_apps().await?;
        }
        // Only now does this node receive everything that follows the state that it publishes and fetches.
        let (mut commands, mut expected) = (Vec::new(), Vec::new());
        for command in self.in_flight.lock().iter().filter(|command| is_due(command)) {
            let before = commands.len();
            let answer = cluster.encode(&self.scripts, command, &mut commands);
            expected.push((answer, commands.len() - before));
        }
        let answers = out.ask(commands).await?;
        if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err().filter(|error| is_no_use(error))) {
            // All of these are sent again over the next link. Nodes that have an event already know its number.
            return Err(error.clone());
        }
        let (done, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *self.in_flight.lock()).into_iter().partition(|command| is_due(command));
        *self.in_flight.lock() = rest;
        let after = self.conclude(&done, &expected, &answers)?;
        out.ask(after).await?;
        for name in &close {
            self.listener.remove(name);
        }
        receiver.unsubscribe(&close).await
    }

    /// Passes the answers on. Returns what Redis has to do now.
    fn conclude(
        &self,
        commands: &[Command],
        expected: &[(Expected, usize)],
        answers: &[RedisResult<Value>],
    ) -> RedisResult<Vec<Cmd>> {
        self.cluster.outgoing.complete(commands);
        let (mut answers, mut after) = (answers, Vec::new());
        for (command, (expected, count)) in commands.iter().zip(expected) {
            let (own, rest) = answers.split_at_checked(*count).ok_or(fault("Redis has left out answers"))?;
            answers = rest;
            after.extend(self.cluster.on_answers(command, expected, own));
        }
        Ok(after)
    }

    /// Publishes the messages for the control topic, which do not wait for the queue.
    async fn publish_control(&self, mut messages: mpsc::Receiver<Envelope>) -> RedisResult<Infallible> {
        let (control, mut out) = (self.cluster.names.control(), self.out.clone());
        while let Some(envelope) = messages.recv().await {
            out.ask_one(cmd(self.scripts.publish).arg(&control).arg(envelope.encode()).take()).await?;
        }
        Err(fault("nobody has messages for the control topic any more"))
    }

    /// Pings the connections that only receive.
    async fn ping(&self) -> RedisResult<Infallible> {
        let mut receiver = self.receiver.clone();
        loop {
            tokio::time::sleep(PING).await;
            receiver.ask_one(cmd("PING")).await?;
            if let Some(receiver) = self.views_receiver.get() {
                receiver.clone().ask_one(cmd("PING")).await?;
            }
        }
    }

    /// After `stop`: waits until everything is published, and leaves the cluster.
    async fn leave(&self, stop: &CancellationToken) -> RedisResult<()> {
        stop.cancelled().await;
        let published = async {
            while self.cluster.outgoing.waiting().0 > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(FLUSH_TIME, published).await.is_err() {
            tracing::warn!("Redis is too slow; the other nodes do not hear the end of what happened here");
        }
        match self.remove(self.cluster.node()).await {
            Err(error) if is_full(&error) => {
                tracing::warn!("Redis is out of memory: what was here counts until another node can remove it");
                Ok(())
            }
            removed => removed,
        }
    }

    /// Warns of a Soketi server that seems to be meant as a part of this cluster.
    async fn warn_of_soketi(&self) -> RedisResult<()> {
        let topics = self.cluster.names.soketi();
        let answer = self.out.clone().ask_one(cmd("PUBSUB").arg("NUMSUB").arg(&topics[..]).take()).await?;
        let has_subscribers = |value: &Value| matches!(value, Value::Int(count) if *count > 0);
        let is_there = match &answer {
            Value::Array(parts) => parts.iter().any(has_subscribers),
            // From all masters of a Redis Cluster.
            Value::Map(topics) => topics.iter().any(|(_, count)| has_subscribers(count)),
            _ => false,
        };
        if is_there {
            tracing::warn!("a Soketi server uses the same Redis and prefix; it and gema do not hear each other");
        }
        Ok(())
    }
}
