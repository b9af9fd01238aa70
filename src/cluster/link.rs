//! The link to the other nodes: opens it, carries out the registry's commands over it, and ends it.
//! `Cluster::run` runs it; `lease`, `cleanup` and `views` do their part beside the queue.

use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use parking_lot::Mutex;
use redis::RedisError;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::cluster::LinkHandle;
use crate::cluster::bus::Answer;
use crate::cluster::bus::Bus;
use crate::cluster::bus::Outdated;
use crate::cluster::directory::Directory;
use crate::cluster::listener::Listener;
use crate::cluster::over_nats::OverNats;
use crate::cluster::over_redis::OverRedis;
use crate::cluster::pace::Pace;
use crate::cluster::peers::Peers;
use crate::cluster::way::Way;
use crate::link;
use crate::link::Purpose;
use crate::nats::error::NatsError;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Topic;
use crate::redis::link::warn;
use crate::registry::remote::command::Command;
use crate::registry::remote::command::Operation;

/// How long events wait, after a lost link, for the other nodes to listen again.
const PEERS_WAIT: Duration = Duration::from_secs(3);
/// How long a node that stops may take to publish the rest.
const FLUSH_TIME: Duration = Duration::from_secs(2);
/// Messages between nodes that may wait.
const CONTROL_MAX: usize = 1024;

/// One link.
pub(super) struct ClusterLink<B> {
    pub(super) cluster: Arc<Cluster>,
    pub(super) bus: B,
    listener: Arc<Listener>,
    control: mpsc::Receiver<(Envelope, Option<NodeId>)>,
    /// Commands that were sent and not answered yet, and events that wait for other nodes to listen.
    in_flight: Mutex<Vec<Command>>,
    pub(super) since: Instant,
    /// There was a link before.
    is_reconnect: bool,
}

/// The end of a link.
enum Lost<E> {
    /// The bus has failed.
    Failed(E),
    /// This node receives nothing any more, for this reason.
    Silent(String),
}

const REDIS: Purpose = Purpose {
    absent: "there is no link to Redis",
    lost: "the link to Redis is lost",
    meanwhile: "this node serves its own connections meanwhile",
    acl_advice: None,
};

const NATS: Purpose = Purpose { absent: "there is no link to NATS", lost: "the link to NATS is lost", ..REDIS };

/// Keeps a link until `stop` is cancelled, then leaves the cluster.
pub(super) async fn run(cluster: Arc<Cluster>, stop: CancellationToken, receiver: Handle) {
    match &cluster.way {
        Way::Redis(way) => {
            let warn = |event: &'static str, error: &RedisError| warn(&way.options, &REDIS, event, error);
            run_over::<OverRedis>(&cluster, way, (&REDIS, warn), &stop, &receiver).await;
        }
        Way::Nats(way) => {
            let place = way.options.place();
            let warn = |event: &'static str, error: &NatsError| {
                tracing::warn!(place, %error, advice = error.advice(), "{event}; {}", NATS.meanwhile);
            };
            run_over::<OverNats>(&cluster, way, (&NATS, warn), &stop, &receiver).await;
        }
    }
}

async fn run_over<B: Bus<Directory: Into<Directory>>>(
    cluster: &Arc<Cluster>,
    way: &Arc<B::Way>,
    (purpose, warn): (&Purpose, impl Fn(&'static str, &B::Error)),
    stop: &CancellationToken,
    receiver: &Handle,
) {
    let open = || async {
        let _tried = cluster.tried.clone().drop_guard();
        ClusterLink::<B>::open(cluster, way, receiver).await.map_err(Lost::Failed)
    };
    let serve = |link| serve(link, stop);
    let warn = |event: &'static str, lost: &Lost<B::Error>| match lost {
        Lost::Failed(error) => warn(event, error),
        Lost::Silent(_) => tracing::warn!(error = %lost, "{event}; {}", purpose.meanwhile),
    };
    link::run(purpose, stop, warn, open, serve).await;
}

async fn serve<B: Bus>(mut link: ClusterLink<B>, stop: &CancellationToken) -> Result<(), Lost<B::Error>> {
    tracing::info!(node = %link.cluster.node(), "linked to the cluster");
    let outcome = link.serve(stop).await;
    link.end();
    outcome
}

impl<E: Display> Display for Lost<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Silent(reason) => f.write_str(reason),
        }
    }
}

impl<B: Bus<Directory: Into<Directory>>> ClusterLink<B> {
    async fn open(cluster: &Arc<Cluster>, way: &Arc<B::Way>, runtime: &Handle) -> Result<Self, B::Error> {
        let listener = Arc::new(Listener::new(Arc::clone(cluster)));
        let (bus, directory) = B::open(way, &listener, runtime).await?;
        bus.clear(Outdated::Own).await?;
        let (control_sender, control) = mpsc::channel(CONTROL_MAX);
        *cluster.link.lock() = Some(LinkHandle { directory: directory.into(), control: control_sender });
        cluster.announce_if_draining();
        cluster.meters.connects.inc();
        let is_reconnect = cluster.outgoing.link();
        cluster.publish_state();
        let (cluster, in_flight, since) = (Arc::clone(cluster), Mutex::default(), Instant::now());
        Ok(Self { cluster, bus, listener, control, in_flight, since, is_reconnect })
    }
}

impl<B: Bus> ClusterLink<B> {
    /// Ends when the link is lost, or after `stop` when everything is published.
    async fn serve(&mut self, stop: &CancellationToken) -> Result<(), Lost<B::Error>> {
        let (_, none) = mpsc::channel(1);
        let control = std::mem::replace(&mut self.control, none);
        let (report_crashed, crashed) = watch::channel(Vec::new());
        let link = &*self;
        // Before this node announces that it listens.
        link.subscribe_views().await.map_err(Lost::Failed)?;
        let lost = tokio::select! {
            lost = link.write(stop) => lost.map(|never| match never {}),
            lost = link.publish_control(control) => lost,
            lost = link.follow_views() => lost.map(|never| match never {}),
            lost = link.watch_leases(report_crashed) => lost.map(|never| match never {}),
            lost = link.clean_up(crashed) => lost.map(|never| match never {}),
            () = link.listener.lost.cancelled() => return Err(Lost::Silent(link.listener.reason())),
            left = link.leave(stop) => left,
        };
        lost.map_err(Lost::Failed)
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
    /// they may have lost it, too. A node that stops has no time to wait.
    async fn write(&self, stop: &CancellationToken) -> Result<Infallible, B::Error> {
        let outgoing = &self.cluster.outgoing;
        let peers = stop.run_until_cancelled(self.peers_are_back());
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
                _ = &mut peers, if events_wait => {
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
    async fn carry_out(&self, is_due: impl Fn(&Command) -> bool) -> Result<(), B::Error> {
        let in_flight = std::mem::take(&mut *self.in_flight.lock());
        let due = InFlight { of: &self.in_flight, commands: in_flight };
        let commands: Vec<&Command> = due.commands.iter().filter(|command| is_due(command)).collect();
        let answers = self.bus.carry_out(&commands).await?;
        let (done, rest): (Vec<_>, Vec<_>) = due.take().into_iter().partition(|command| is_due(command));
        *self.in_flight.lock() = rest;
        self.cluster.outgoing.complete(&done);
        for (command, answer) in done.iter().zip(answers) {
            self.cluster.pass_on(command, answer);
        }
        Ok(())
    }

    /// Publishes the messages for all nodes, or for one, which do not wait for the queue.
    async fn publish_control(&self, mut messages: mpsc::Receiver<(Envelope, Option<NodeId>)>) -> Result<(), B::Error> {
        while let Some((envelope, to)) = messages.recv().await {
            self.bus.announce(&envelope, to).await?;
        }
        // Not before the link is lost.
        std::future::pending().await
    }

    /// After `stop`: waits until everything is published, and leaves the cluster.
    async fn leave(&self, stop: &CancellationToken) -> Result<(), B::Error> {
        stop.cancelled().await;
        let published = async {
            while self.cluster.outgoing.waiting().0 > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(FLUSH_TIME, published).await.is_err() {
            tracing::warn!("the link is too slow; the other nodes do not hear the end of what happened here");
        }
        self.bus.clear(Outdated::Left).await
    }
}

/// Commands that are being carried out. If that fails or is given up they are in flight as before.
struct InFlight<'a> {
    of: &'a Mutex<Vec<Command>>,
    commands: Vec<Command>,
}

impl InFlight<'_> {
    /// They are carried out.
    fn take(mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.of.lock().append(&mut self.commands);
    }
}

impl Cluster {
    /// Hands the answer to a command to the registry.
    fn pass_on(&self, command: &Command, answer: Answer) {
        let Some(state) = self.app(&command.app) else { return };
        let now = Instant::now();
        let channel = match &command.topic {
            Topic::Channel(name) => Some(name),
            Topic::User(_) => None,
        };
        match (answer, &command.operation, channel) {
            (Answer::Published, ..) => self.meters.published(1),
            (Answer::Opened(snapshot), Operation::Open { number, .. }, _) => {
                state.on_opened(&command.topic, *number, snapshot, now);
            }
            (Answer::Updated(outcome), Operation::UpdateMember(update), _) => {
                state.on_updated(&command.topic, update, outcome, now);
            }
            (Answer::Fetched(events), Operation::FetchEvents { number }, Some(name)) => {
                state.on_fetched(name, *number, events, now);
            }
            (Answer::CaughtUp(answer), Operation::CatchUp { number }, Some(name)) => {
                state.on_caught_up(name, *number, answer, now);
            }
            (Answer::Found(found), Operation::TakePlace { number, user, address, .. }, Some(name)) => {
                state.on_found(name, (*number, user, *address), found, now);
            }
            (Answer::PlacesWritten(false), _, Some(name)) => state.on_places_refused(name, now),
            (Answer::Stored(is_stored), _, Some(name)) => state.on_stored(name, is_stored, now),
            _ => (),
        }
    }
}
