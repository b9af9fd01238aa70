//! Databases that are away, hang, come back, or let nobody in.

use std::time::Duration;
use std::time::Instant;

use gema::config::Seconds;
use gema::store::StoreError;
use support::certificates::Authority;
use tokio::task::JoinSet;

use crate::TestStore;
use crate::has_max;
use crate::is_unavailable;
use crate::servers::KINDS;
use crate::servers::Kind;
use crate::servers::PATIENCE;
use crate::servers::Server;
use crate::servers::set_password;
use crate::small_table;

const NOT_ASKED: &str = "gema_app_store_errors_total{cause=\"too_many\"}";

#[tokio::test]
async fn known_apps_outlive_their_database_and_the_unknown_are_not_denied() {
    for kind in KINDS {
        let mut server = Server::own(kind).await;
        small_table(&server, "apps").await;
        let mut config = server.config("apps");
        config.app_store.cache_seconds = Seconds(0.01);
        let store = TestStore::new(&config);
        assert!(has_max(5)(&store.by_key("a-key").await), "{kind:?}");
        server.kill();
        store.until("stranger", is_unavailable).await;
        let ids = ["a".to_owned(), "stranger".to_owned()];
        let answers = store.refresh(&ids).await;
        assert!(has_max(5)(&answers[0].1) && is_unavailable(&answers[1].1), "{kind:?} {answers:?}");
        assert!(has_max(5)(&store.by_id("a").await) && has_max(5)(&store.by_key("a-key").await));
        assert!(store.metric("gema_app_store_lookups_total{from=\"stale\"}") >= 1);
        assert_eq!(store.metric("gema_app_store_up"), 0);
        server.restart().await;
        server.run("UPDATE apps SET max_connections = 6").await;
        store.until("a", has_max(6)).await;
        store.until("stranger", |answer| matches!(answer, Ok(None))).await;
        assert_eq!(store.metric("gema_app_store_up"), 1);
    }
}

#[tokio::test]
async fn what_is_stale_is_not_served_for_ever() {
    for kind in KINDS {
        let server = Server::own(kind).await;
        small_table(&server, "apps").await;
        let mut config = server.config("apps");
        config.app_store.cache_seconds = Seconds(0.01);
        config.app_store.stale_seconds = Seconds(0.5);
        let store = TestStore::new(&config);
        assert!(has_max(5)(&store.by_id("a").await), "{kind:?}");
        server.kill();
        store.until("a", is_unavailable).await;
    }
}

#[tokio::test]
async fn a_database_that_hangs_holds_nobody_longer_than_the_time_for_a_lookup() {
    for kind in KINDS {
        let server = Server::own(kind).await;
        small_table(&server, "apps").await;
        let mut config = server.config("apps");
        config.app_store.cache_seconds = Seconds(0.01);
        config.app_store.timeout_seconds = Seconds(1.0);
        let store = TestStore::new(&config);
        store.until("a", has_max(5)).await;
        server.pause();
        let began = Instant::now();
        let mut lookups = JoinSet::new();
        for number in 0..50 {
            let store = std::sync::Arc::clone(&store);
            lookups.spawn(async move { store.by_key(&format!("stranger-{number}")).await });
        }
        assert!(lookups.join_all().await.iter().all(is_unavailable), "{kind:?}");
        assert!(has_max(5)(&store.by_id("a").await), "{kind:?}");
        // Everybody at once, not one after the other; with room for a slow machine.
        assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
        server.resume();
        server.run("UPDATE apps SET max_connections = 6").await;
        store.until("a", has_max(6)).await;
    }
}

/// Anybody can make up keys. What they cost is theirs: apps that are known go on being read, and nobody believes that the
/// database is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_strangers_is_no_outage() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        small_table(server, "flooded").await;
        let mut config = server.config("flooded");
        config.app_store.cache_seconds = Seconds(0.01);
        config.app_store.connections_max = 3;
        let store = TestStore::new(&config);
        store.until("a", has_max(5)).await;
        server.run("UPDATE flooded SET max_connections = 6").await;
        let mut lookups = JoinSet::new();
        for number in 0..4000 {
            let store = std::sync::Arc::clone(&store);
            lookups.spawn(async move { store.by_key(&format!("stranger-{number}")).await });
        }
        let until = Instant::now() + PATIENCE;
        while store.metric(NOT_ASKED) == 0 {
            assert!(Instant::now() < until, "all strangers are looked up");
            tokio::task::yield_now().await;
        }
        // Read anew while they wait.
        store.until("a", has_max(6)).await;
        let answers = lookups.join_all().await;
        let busy = answers.iter().filter(|answer| matches!(answer, Err(StoreError::Busy))).count();
        assert!(answers.iter().all(|answer| matches!(answer, Ok(None) | Err(StoreError::Busy))), "{kind:?}");
        assert!(busy > 0 && store.metric(NOT_ASKED) == busy as u64, "{kind:?} {busy}");
        assert_eq!(store.metric("gema_app_store_errors_total{cause=\"unavailable\"}"), 0);
        assert_eq!(store.metric("gema_app_store_up"), 1);
        assert!(has_max(6)(&store.by_key("a-key").await));
    }
}

/// A question that was never put tells nothing about the database.
#[tokio::test]
async fn strangers_that_wait_in_vain_are_no_outage_and_leave_connections_to_the_known() {
    for kind in KINDS {
        let server = Server::own(kind).await;
        small_table(&server, "crowding").await;
        let mut config = server.config("crowding");
        config.app_store.cache_seconds = Seconds(0.01);
        config.app_store.connections_max = 2;
        config.app_store.timeout_seconds = Seconds(20.0);
        let store = TestStore::new(&config);
        store.until("a", has_max(5)).await;
        // A stranger's lookup hangs, and so does none of the others.
        let mut session = server.session().await;
        let lock = if kind == Kind::Mysql { "LOCK TABLES crowding WRITE" } else { "BEGIN; LOCK TABLE crowding" };
        session.run(lock).await;
        let mut lookups = JoinSet::new();
        for number in 0..10 {
            let store = std::sync::Arc::clone(&store);
            lookups.spawn(async move { store.by_key(&format!("stranger-{number}")).await });
        }
        server.until_waiting("key").await;
        let known = std::sync::Arc::clone(&store);
        let refreshed = tokio::spawn(async move { known.refresh(&["a".to_owned()]).await });
        // Whoever is known is asked for at once, though strangers wait; the lock is all that keeps the answer back.
        server.until_waiting("id").await;
        drop(session);
        assert!(has_max(5)(&refreshed.await.unwrap()[0].1), "{kind:?}");
        assert!(lookups.join_all().await.iter().all(|answer| matches!(answer, Ok(None))), "{kind:?}");
    }
}

#[tokio::test]
async fn a_locked_table_is_no_unknown_app() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        small_table(server, "locked").await;
        let mut config = server.config("locked");
        config.app_store.timeout_seconds = Seconds(0.5);
        let store = TestStore::new(&config);
        let mut session = server.session().await;
        let lock = if kind == Kind::Mysql { "LOCK TABLES locked WRITE" } else { "BEGIN; LOCK TABLE locked" };
        session.run(lock).await;
        let error = store.by_id("a").await.unwrap_err().to_string();
        assert!(error.contains("app_store.timeout_seconds"), "{kind:?} {error}");
        drop(session);
        store.until("a", has_max(5)).await;
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_taken_only_where_it_is_said_so() {
    let tls = Authority::self_signed().issue();
    for kind in KINDS {
        let server = Server::own_over_tls(kind, &tls).await;
        small_table(&server, "apps").await;
        let mut config = server.config("apps");
        (config.mysql.tls, config.postgres.tls) = (true, true);
        let answer = TestStore::new(&config).by_key("a-key").await;
        assert!(is_unavailable(&answer), "{kind:?} {answer:?}");
        (config.mysql.tls_verify, config.postgres.tls_verify) = (false, false);
        let answer = TestStore::new(&config).by_key("a-key").await;
        assert!(has_max(5)(&answer), "{kind:?} {answer:?}");
    }
}

#[tokio::test]
async fn whoever_is_not_let_in_says_why_and_denies_no_app() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        small_table(server, "closed").await;
        let mut wrong = server.config("closed");
        set_password(&mut wrong, "hush");
        let missing = server.config("nowhere");
        let mut nobody = server.config("closed");
        (nobody.mysql.port, nobody.postgres.port) = (1, 1);
        // Never without TLS, if the operator wants it.
        let mut tls = server.config("closed");
        (tls.mysql.tls, tls.postgres.tls) = (true, true);
        for (config, reason) in [
            (wrong, if kind == Kind::Mysql { "Access denied" } else { "password authentication failed" }),
            (missing, "nowhere"),
            (nobody, "refused"),
            (tls, "TLS"),
        ] {
            let store = TestStore::new(&config);
            let answer = store.by_key("a-key").await;
            assert!(is_unavailable(&answer), "{kind:?} {answer:?}");
            let error = answer.unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains("hush"), "{kind:?} {reason}: {error}");
            assert_eq!(store.metric("gema_app_store_errors_total{cause=\"unavailable\"}"), 1);
        }
    }
}

#[tokio::test]
async fn connections_that_were_ended_are_replaced_without_a_fault() {
    for kind in KINDS {
        let mut server = Server::own(kind).await;
        small_table(&server, "apps").await;
        let store = TestStore::new(&server.config("apps"));
        assert!(has_max(5)(&store.by_id("a").await));
        server.kill();
        server.restart().await;
        assert!(store.by_id("b").await.unwrap().is_none(), "{kind:?}");
        assert_eq!(store.metric("gema_app_store_errors_total{cause=\"unavailable\"}"), 0);
    }
}

#[tokio::test]
async fn without_its_link_a_store_is_unavailable() {
    let server = Server::shared(KINDS[1]).await;
    small_table(server, "ending").await;
    let TestStore { store, stop, .. } = TestStore::new(&server.config("ending"));
    assert!(has_max(5)(&store.by_id("a").await));
    drop(stop);
    while !is_unavailable(&store.by_id(&format!("b{}", rand::random::<u64>())).await) {}
    assert!(has_max(5)(&store.by_id("a").await));
}
