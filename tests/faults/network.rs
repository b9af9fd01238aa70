//! Redis is there, but the way to it is slow, deaf or broken.

use std::time::Duration;
use std::time::Instant;

use support::bus::TestBus;
use support::node::ANSWERED_MAX;
use support::node::BACK_MAX;
use support::node::Cluster;
use support::node::GONE_MAX;
use support::node::NOTICED_MAX;
use support::node::eventually;
use support::node::in_time;
use support::node::know_each_other;
use support::observer::Observer;
use support::proxy::Proxy;

use crate::traffic::NUMBERS;
use crate::traffic::PAUSE;
use crate::traffic::ROOM;
use crate::traffic::names;

pub async fn a_slow_bus_does_not_slow_local_delivery() {
    /// In each direction, so 500 ms for a question and its answer.
    const DELAY: Duration = Duration::from_millis(250);
    const EVENTS: usize = 200;
    let bus = TestBus::start().await;
    let proxy = Proxy::start(bus.port()).await;
    let [here, there] = Cluster::on(&bus).over(proxy.port()).nodes().await;
    proxy.delay(DELAY);
    let listeners = [here.listener(NUMBERS, 1).await, there.listener(NUMBERS, 1).await];
    let mut local = in_time("a subscription", ANSWERED_MAX, here.subscribed("local")).await;

    let flow = here.publisher(NUMBERS, "one").await.flow(PAUSE);
    let mut took = Vec::new();
    for _ in 0..EVENTS {
        let began = Instant::now();
        here.api().publish("local", "e", "1").await;
        local.next_event("e").await;
        took.push(began.elapsed());
    }
    took.sort();
    let (median, worst) = (took[EVENTS / 2], took[EVENTS - 1]);
    println!("local delivery while Redis takes 500 ms: median {median:?}, worst {worst:?}");
    assert!(median < DELAY, "local delivery waits for Redis: median {median:?}");

    let observers = [Observer::start(&here, ROOM, "here").await, Observer::start(&there, ROOM, "there").await];
    let _member = in_time("a join", ANSWERED_MAX, here.member(ROOM, "ada")).await;
    for observer in &observers {
        observer.sees(&names(&["here", "there", "ada"]), BACK_MAX).await;
    }
    for node in [&here, &there] {
        assert_eq!(node.figures().await.sum("gema_redis_up", ""), 1.0, "slow is not away");
        let mut users = names(&["ada", "here", "there"]);
        users.sort();
        assert_eq!(node.users(ROOM).await, users);
    }
    let mut publisher = flow.stop().await;
    publisher.end().await;
    assert!(publisher.refused.is_empty(), "{:?}", publisher.refused);
    for listener in listeners {
        listener.heard().await.1.assert_exactly("one", &publisher.accepted);
    }
}

pub async fn a_half_open_link_is_noticed_and_replaced() {
    let bus = TestBus::start().await;
    let proxy = Proxy::start(bus.port()).await;
    let cluster = Cluster::on(&bus).with("GEMA_CLUSTER_BUFFER_SECONDS", "60");
    let (cut_off, other) = (cluster.over(proxy.port()).node().await, cluster.node().await);
    know_each_other([&cut_off, &other]).await;
    let listeners = [cut_off.listener(NUMBERS, 2).await, other.listener(NUMBERS, 2).await];
    let observers = [Observer::start(&cut_off, ROOM, "here").await, Observer::start(&other, ROOM, "there").await];
    let _members = [cut_off.member(ROOM, "ada").await, other.member(ROOM, "bob").await];
    let everybody = names(&["here", "there", "ada", "bob"]);
    for observer in &observers {
        observer.sees(&everybody, BACK_MAX).await;
    }
    let flows =
        [cut_off.publisher(NUMBERS, "cut off").await.flow(PAUSE), other.publisher(NUMBERS, "other").await.flow(PAUSE)];
    for flow in &flows {
        flow.goes_on(20).await;
    }

    // What the other one publishes from here on until the link works again may miss this node, and so may what is on
    // its way just now; that is the window in which a node that has lost Redis is told nothing.
    let connections = proxy.connections();
    let window_begins = listeners[0].at("other");
    proxy.freeze();
    cut_off.bus_is(false, NOTICED_MAX).await;
    cut_off.serves_locally("local").await;
    other.bus_is(true, ANSWERED_MAX).await;
    let comer = in_time("a join", ANSWERED_MAX, cut_off.member(ROOM, "comer")).await;
    // It tries again and again.
    eventually("a new connection is tried", BACK_MAX, async || proxy.connections() > connections).await;
    proxy.thaw();
    cut_off.bus_is(true, BACK_MAX).await;
    know_each_other([&cut_off, &other]).await;
    other.reaches(&cut_off, "x").await;
    let window_ends = flows[1].at();

    let everybody = [everybody, names(&["comer"])].concat();
    for observer in &observers {
        observer.sees(&everybody, GONE_MAX).await;
        assert_eq!(observer.news_of("bob").1, 0);
        assert_eq!(observer.news_of("comer"), (1, 0));
    }
    let mut publishers = Vec::new();
    for flow in flows {
        flow.goes_on(20).await;
        let mut publisher = flow.stop().await;
        publisher.end().await;
        assert!(publisher.refused.is_empty(), "{:?}", publisher.refused);
        publishers.push(publisher);
    }
    let [at_cut_off, at_other] = listeners;
    let (_, heard) = at_other.heard().await;
    heard.assert_exactly("cut off", &publishers[0].accepted);
    heard.assert_exactly("other", &publishers[1].accepted);
    let (_, heard) = at_cut_off.heard().await;
    heard.assert_exactly("cut off", &publishers[0].accepted);
    let missing = heard.missing("other", &publishers[1].accepted);
    println!("a node with a half-open link has missed {} of {} events", missing.len(), window_ends - window_begins);
    let window = window_begins..window_ends;
    assert!(missing.iter().all(|number| window.contains(number)), "not within {window:?}: {missing:?}");
    drop(comer);
}

pub async fn links_that_are_cut_again_and_again_lose_doubles_and_reorder_nothing_that_was_published_over_them() {
    const CUTS: usize = 5;
    let bus = TestBus::start().await;
    let proxy = Proxy::start(bus.port()).await;
    let cluster = Cluster::on(&bus).with("GEMA_CLUSTER_BUFFER_SECONDS", "60");
    let (shaky, other) = (cluster.over(proxy.port()).node().await, cluster.node().await);
    know_each_other([&shaky, &other]).await;
    // So that the cuts meet something on its way.
    proxy.delay(Duration::from_millis(20));
    let listener = other.listener(NUMBERS, 1).await;
    let observers = [Observer::start(&shaky, ROOM, "here").await, Observer::start(&other, ROOM, "there").await];
    let flow = shaky.publisher(NUMBERS, "shaky").await.flow(PAUSE);
    let mut members = Vec::new();
    let mut expected = names(&["here", "there"]);
    for cut in 0..CUTS {
        flow.goes_on(40).await;
        let connects = shaky.figures().await.sum("gema_redis_connects_total", "");
        proxy.cut();
        for (node, name) in [(&shaky, "a"), (&other, "b")] {
            let user = format!("{name}{cut}");
            members.push(in_time("a join", ANSWERED_MAX, node.member(ROOM, &user)).await);
            expected.push(user);
        }
        shaky.becomes("gema_redis_connects_total", "", BACK_MAX, |now| now > connects).await;
        shaky.bus_is(true, BACK_MAX).await;
    }
    for observer in &observers {
        observer.sees(&expected, BACK_MAX).await;
        assert!(observer.all_news().values().all(|news| *news == (1, 0)), "{:?}", observer.all_news());
    }
    let mut publisher = flow.stop().await;
    publisher.end().await;
    assert!(publisher.refused.is_empty(), "{:?}", publisher.refused);
    listener.heard().await.1.assert_exactly("shaky", &publisher.accepted);
}

pub async fn a_node_that_is_cut_off_for_longer_than_its_lease_doubles_nothing_when_it_is_back() {
    const RECEIVED: (&str, &str) = ("gema_cluster_messages_total", r#"direction="in""#);
    let bus = TestBus::start().await;
    let proxy = Proxy::start(bus.port()).await;
    let cluster = Cluster::on(&bus).with("GEMA_CLUSTER_BUFFER_SECONDS", "60");
    let (cut_off, other) = (cluster.over(proxy.port()).node().await, cluster.node().await);
    know_each_other([&cut_off, &other]).await;
    let listener = other.listener(NUMBERS, 1).await;
    proxy.delay(Duration::from_secs(1));
    let flow = cut_off.publisher(NUMBERS, "cut off").await.flow(PAUSE);
    flow.goes_on(200).await;
    // The link is cut while the answers to what Redis has just done are on their way.
    let received = other.figures().await.sum(RECEIVED.0, RECEIVED.1);
    other.becomes(RECEIVED.0, RECEIVED.1, BACK_MAX, |now| now > received).await;
    proxy.freeze();
    proxy.cut();
    other.becomes("gema_cluster_nodes", "", GONE_MAX, |nodes| nodes == 1.0).await;
    proxy.delay(Duration::ZERO);
    proxy.thaw();
    cut_off.bus_is(true, BACK_MAX).await;
    let mut publisher = flow.stop().await;
    publisher.end().await;
    assert!(publisher.refused.is_empty(), "{:?}", publisher.refused);
    listener.heard().await.1.assert_exactly("cut off", &publisher.accepted);
    assert!(
        other.figures().await.sum("gema_cluster_dropped_total", r#"cause="duplicate""#) > 0.0,
        "nothing came twice"
    );
}
