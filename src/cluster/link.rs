//! The link to the other nodes: made, kept, lost, made again.

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
use crate::cluster::listener::Listener;
use crate::cluster::listener::Subject;
use crate::cluster::orders::Expected;
use crate::cluster::orders::Scripts;
use crate::protocol::envelope::Envelope;
use crate::redis::connection::ANSWER_TIME;
use crate::redis::connection::Connection;
use crate::redis::connection::PING;
use crate::redis::error::fault;
use crate::redis::error::is_full;
use crate::redis::error::is_no_use;
use crate::redis::lease::LEASE_SCRIPT;
use crate::redis::link;
use crate::redis::link::Purpose;
use crate::redis::script;
use crate::registry::remote::command::Command;
use crate::registry::remote::command::Operation;

/// How long a node that is back waits with its events for the others to be back.
const OTHERS_WAIT: Duration = Duration::from_secs(3);
/// How long a node that leaves may take to say what it still has to say.
const FAREWELL: Duration = Duration::from_secs(2);

/// Words to the other nodes that may wait besides the queue.
const WORDS_MAX: usize = 1024;

/// One link.
pub(super) struct Link {
    pub(super) cluster: Arc<Cluster>,
    pub(super) listener: Arc<Listener>,
    pub(super) scripts: Scripts,
    /// Tells and asks.
    pub(super) out: Connection,
    /// Receives what other nodes publish, on a runtime of its own: it blocks while the shards' inboxes are full.
    pub(super) receiver: Connection,
    pub(super) receiver_runtime: Handle,
    /// Hears what views see, over a Redis Cluster.
    pub(super) watching: OnceCell<Connection>,
    telling: mpsc::Receiver<Envelope>,
    /// What has been sent and not been answered.
    under_way: Mutex<Vec<Command>>,
    pub(super) since: Instant,
    /// It is not the first one.
    returns: bool,
    /// Apps that had come when this node's were noted.
    pub(super) noted: AtomicU64,
}

const PURPOSE: Purpose = Purpose {
    absent: "there is no link to Redis",
    lost: "the link to Redis is lost",
    meanwhile: "this node serves its own connections meanwhile",
    acl_advice: None,
};

/// Keeps a link until `stop` is cancelled, then leaves the cluster.
pub(super) async fn keep(cluster: Arc<Cluster>, stop: CancellationToken, receiver: Handle) {
    let open = || async {
        let _tried = cluster.tried.clone().drop_guard();
        Link::open(&cluster, &receiver).await
    };
    let serve = |link| serve(link, &stop);
    link::run(&cluster.options, &PURPOSE, &stop, open, serve).await;
}

async fn serve(mut link: Link, stop: &CancellationToken) -> RedisResult<()> {
    tracing::info!(node = %link.cluster.node(), "linked to the cluster");
    let outcome = link.serve(stop).await;
    link.end();
    outcome
}

impl Link {
    /// Connects, and makes sure that this node hears what it says.
    async fn open(cluster: &Arc<Cluster>, runtime: &Handle) -> RedisResult<Self> {
        let listener = Arc::new(Listener::new(Arc::clone(cluster)));
        let hears = Arc::clone(&listener);
        let mut receiver = Connection::open_on(runtime, &cluster.options, move |push| hears.hear(push)).await?;
        let mut out = Connection::open(&cluster.options, |_| ()).await?;
        let [member, cache, lease] =
            script::load(&mut out, [include_str!("member.lua"), include_str!("cache.lua"), LEASE_SCRIPT]).await?;
        let scripts = Scripts { member, cache, lease, publish: out.publish() };
        let leases = cluster.renew_lease(&scripts, &mut out).await?;
        cluster.know(&leases);
        let control = cluster.names.control();
        receiver.subscribe(std::slice::from_ref(&control)).await?;
        // Before the others can answer the greeting.
        cluster.here.lock().clear();
        let hello = Envelope::Hello(cluster.node(), cluster.node()).encode();
        out.ask_one(cmd(scripts.publish).arg(control).arg(hello).take()).await?;
        let heard = timeout(ANSWER_TIME, listener.greeted.notified()).await;
        heard.map_err(|_| fault("what is published is not heard; does the user's ACL allow these channels?"))?;
        let (tell, telling) = mpsc::channel(WORDS_MAX);
        let mut link = Self {
            cluster: Arc::clone(cluster),
            listener,
            scripts,
            out,
            receiver,
            receiver_runtime: runtime.clone(),
            watching: OnceCell::new(),
            telling,
            under_way: Mutex::default(),
            since: Instant::now(),
            returns: false,
            noted: AtomicU64::new(0),
        };
        link.forget_past().await?;
        link.look_for_soketi().await?;
        *cluster.telling.lock() = Some(tell);
        cluster.tell_leave();
        *cluster.asking.lock() = Some(link.out.clone());
        cluster.meters.connects.inc();
        link.returns = cluster.outgoing.link();
        for app in cluster.apps() {
            app.on_linked(Instant::now());
        }
        Ok(link)
    }

    /// Ends when the link is lost, or when everything has been said after `stop`.
    async fn serve(&mut self, stop: &CancellationToken) -> RedisResult<()> {
        let (_, none) = mpsc::channel(1);
        let telling = std::mem::replace(&mut self.telling, none);
        let (tell_dead, dead) = watch::channel(Vec::new());
        let link = &*self;
        // Before the others are told that this node listens.
        link.watch().await?;
        tokio::select! {
            lost = link.write() => lost.map(|never| match never {}),
            lost = link.tell(telling) => lost.map(|never| match never {}),
            lost = link.ping() => lost.map(|never| match never {}),
            lost = link.keep_watching() => lost.map(|never| match never {}),
            lost = link.keep_lease(tell_dead) => lost.map(|never| match never {}),
            lost = link.tidy_up(dead) => lost.map(|never| match never {}),
            () = link.listener.lost.cancelled() => Err(fault("Redis has ended the connection, or a subscription")),
            left = link.leave(stop) => left,
        }
    }

    /// From now on what is here counts.
    fn end(&self) {
        let cluster = &self.cluster;
        self.listener.lost.cancel();
        *cluster.telling.lock() = None;
        *cluster.asking.lock() = None;
        let peers = cluster.peers();
        cluster.missed.lock().extend(peers);
        cluster.listening.store(false, Ordering::Release);
        cluster.outgoing.unlink(std::mem::take(&mut *self.under_way.lock()));
        cluster.fewer.notify_one();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        cluster.meters.last_lost.set(now.as_secs_f64());
        for app in cluster.apps() {
            app.on_unlinked(Instant::now());
        }
    }

    /// Tells the other nodes what happens here. After a time without a link the events wait for the others,
    /// who may be about to come back, too.
    async fn write(&self) -> RedisResult<Infallible> {
        let outgoing = &self.cluster.outgoing;
        let others = self.others_are_back();
        tokio::pin!(others);
        let mut events_wait = self.returns;
        // Orders that were there when the link was made: once they are done, this node listens to all that matters.
        let mut first = outgoing.waiting().0;
        loop {
            if first == 0 {
                self.say_here();
            }
            tokio::select! {
                () = &mut others, if events_wait => {
                    events_wait = false;
                    let events = std::mem::take(&mut *self.under_way.lock());
                    first += events.len();
                    outgoing.requeue(events);
                }
                () = outgoing.filled() => {
                    let orders = outgoing.take();
                    first = first.saturating_sub(orders.len());
                    self.under_way.lock().extend(orders);
                    self.carry_out(|order| !events_wait || !order.is_event()).await?;
                }
            }
        }
    }

    /// Tells the others once that this node listens to all that matters to it.
    fn say_here(&self) {
        if !self.cluster.listening.swap(true, Ordering::AcqRel) {
            let me = self.cluster.node();
            self.cluster.tell(Envelope::Here(me, me));
            self.cluster.heard_here.notify_one();
        }
    }

    /// Ends when every node that was known listens again, or when they have had time enough.
    async fn others_are_back(&self) {
        let cluster = &self.cluster;
        let back = async {
            loop {
                let heard = cluster.heard_here.notified();
                if cluster.listens() && cluster.all_listen() {
                    return;
                }
                heard.await;
            }
        };
        let bytes = cluster.outgoing.waiting().1;
        if timeout(OTHERS_WAIT, back).await.is_err() && bytes > 0 {
            tracing::warn!(
                bytes,
                "not every node that was there before listens again; it misses the events that waited"
            );
        }
        cluster.missed.lock().clear();
    }

    /// Carries out those orders under way that `now` chooses; the others stay.
    async fn carry_out(&self, now: impl Fn(&Command) -> bool) -> RedisResult<()> {
        let (cluster, mut receiver, mut out) = (&self.cluster, self.receiver.clone(), self.out.clone());
        let (mut listen, mut forget) = (Vec::new(), Vec::new());
        for order in self.under_way.lock().iter().filter(|order| now(order)) {
            let name = cluster.names.topic(&order.app, &order.topic);
            match order.operation {
                Operation::Open(_) => {
                    if let Some(app) = cluster.app(&order.app) {
                        self.listener.add(&name, Subject { app, topic: order.topic.clone() });
                    }
                    forget.retain(|other| *other != name);
                    listen.push(name);
                }
                Operation::Close => forget.push(name),
                _ => (),
            }
        }
        receiver.subscribe(&listen).await?;
        if self.noted.load(Ordering::Relaxed) != cluster.added.load(Ordering::Acquire) {
            self.note_apps().await?;
        }
        // What is here is said only now that everything is heard that comes after it.
        let (mut commands, mut expected) = (Vec::new(), Vec::new());
        for order in self.under_way.lock().iter().filter(|order| now(order)) {
            let before = commands.len();
            let what = cluster.commands(&self.scripts, order, &mut commands);
            expected.push((what, commands.len() - before));
        }
        let answers = out.ask(commands).await?;
        if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err().filter(|error| is_no_use(error))) {
            // All of these are told anew over the next link; who has heard an event knows its number.
            return Err(error.clone());
        }
        let (done, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *self.under_way.lock()).into_iter().partition(|order| now(order));
        *self.under_way.lock() = kept;
        let after = self.conclude(&done, &expected, &answers)?;
        out.ask(after).await?;
        for name in &forget {
            self.listener.remove(name);
        }
        receiver.unsubscribe(&forget).await
    }

    /// Hands the answers to whom they are for; returns what is to be done now.
    fn conclude(
        &self,
        orders: &[Command],
        expected: &[(Expected, usize)],
        answers: &[RedisResult<Value>],
    ) -> RedisResult<Vec<Cmd>> {
        self.cluster.outgoing.complete(orders);
        let (mut answers, mut after) = (answers, Vec::new());
        for (order, (expected, count)) in orders.iter().zip(expected) {
            let (own, rest) = answers.split_at_checked(*count).ok_or(fault("Redis has left out answers"))?;
            answers = rest;
            after.extend(self.cluster.done(order, expected, own));
        }
        Ok(after)
    }

    /// Says to the others what cannot wait for the queue.
    async fn tell(&self, mut telling: mpsc::Receiver<Envelope>) -> RedisResult<Infallible> {
        let (control, mut out) = (self.cluster.names.control(), self.out.clone());
        while let Some(envelope) = telling.recv().await {
            out.ask_one(cmd(self.scripts.publish).arg(&control).arg(envelope.encode()).take()).await?;
        }
        Err(fault("nobody has anything more to say"))
    }

    /// Makes sure that the receiver connections live.
    async fn ping(&self) -> RedisResult<Infallible> {
        let mut receiver = self.receiver.clone();
        loop {
            tokio::time::sleep(PING).await;
            receiver.ask_one(cmd("PING")).await?;
            if let Some(watching) = self.watching.get() {
                watching.clone().ask_one(cmd("PING")).await?;
            }
        }
    }

    /// After `stop`: waits until everything has been said, and leaves the cluster.
    async fn leave(&self, stop: &CancellationToken) -> RedisResult<()> {
        stop.cancelled().await;
        let said = async {
            while self.cluster.outgoing.waiting().0 > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(FAREWELL, said).await.is_err() {
            tracing::warn!("Redis is too slow; the other nodes do not hear the end of what happened here");
        }
        match self.bury(self.cluster.node()).await {
            Err(error) if is_full(&error) => {
                tracing::warn!("Redis is out of memory: what was here counts until another node can remove it");
                Ok(())
            }
            buried => buried,
        }
    }
}
