//! What is remembered, and for how long.

use std::sync::Arc;
use std::time::Instant;

use gema::config::Seconds;
use tokio::task::JoinSet;

use crate::TestStore;
use crate::has_max;
use crate::servers::KINDS;
use crate::servers::Server;
use crate::small_table;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_lookups_of_one_name_are_one_query() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        small_table(server, "crowded").await;
        let store = TestStore::new(&server.config("crowded"));
        // While the table is locked, all of them wait.
        let mut session = server.session().await;
        match session {
            crate::servers::Session::Mysql(_) => session.run("LOCK TABLES crowded WRITE").await,
            crate::servers::Session::Postgres(_) => session.run("BEGIN; LOCK TABLE crowded").await,
        }
        let mut lookups = JoinSet::new();
        for _ in 0..1000 {
            let store = Arc::clone(&store);
            lookups.spawn(async move { store.by_key("nobody").await });
        }
        drop(session);
        for answer in lookups.join_all().await {
            assert!(answer.unwrap().is_none());
        }
        assert_eq!(store.queries(), 1, "{kind:?}");
    }
}

#[tokio::test]
async fn an_app_is_known_by_id_and_key_at_once() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        small_table(server, "known").await;
        let store = TestStore::new(&server.config("known"));
        for _ in 0..3 {
            assert!(has_max(5)(&store.by_key("a-key").await) && has_max(5)(&store.by_id("a").await));
        }
        assert_eq!(store.queries(), 1, "{kind:?}");
        assert_eq!(store.metric("gema_app_store_lookups_total{from=\"cache\"}"), 5);
        assert_eq!(store.metric("gema_app_store_lookups_total{from=\"database\"}"), 1);
    }
}

#[tokio::test]
async fn changes_count_after_the_lifetime_and_not_before() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        small_table(server, "aging").await;
        let long = TestStore::new(&server.config("aging"));
        let mut config = server.config("aging");
        config.app_store.cache_seconds = Seconds(0.05);
        let short = TestStore::new(&config);
        for store in [&long, &short] {
            assert!(has_max(5)(&store.by_id("a").await) && store.by_id("b").await.unwrap().is_none());
        }
        server.run("UPDATE aging SET max_connections = 6; INSERT INTO aging VALUES ('b', 'b-key', 's', 1)").await;
        short.until("a", has_max(6)).await;
        short.until("b", has_max(1)).await;
        assert!(has_max(5)(&long.by_id("a").await), "{kind:?}");
        server.run("DELETE FROM aging").await;
        short.until("a", |answer| matches!(answer, Ok(None))).await;
        assert!(short.by_key("a-key").await.unwrap().is_none());
        assert!(has_max(5)(&long.by_id("a").await));
    }
}

#[tokio::test]
async fn refreshing_reads_many_apps_anew() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        small_table(server, "many").await;
        let rows: Vec<_> = (0..600).map(|number| format!("('n{number}', 'k{number}', 's', 1)")).collect();
        server.run(&format!("INSERT INTO many VALUES {}", rows.join(", "))).await;
        let store = TestStore::new(&server.config("many"));
        let ids: Vec<String> = (0..600).map(|number| format!("n{number}")).chain(["a".to_owned()]).collect();
        assert!(store.refresh(&ids).await.iter().all(|(_, answer)| matches!(answer, Ok(Some(_)))));
        assert_eq!(store.queries(), 2, "{kind:?}");
        let key = if kind == crate::servers::Kind::Mysql { "`key`" } else { "\"key\"" };
        server
            .run(&format!(
                "UPDATE many SET max_connections = 9 WHERE id = 'n1'; DELETE FROM many WHERE id = 'n2'; \
                 UPDATE many SET secret = '' WHERE id = 'n3'; UPDATE many SET {key} = 'new' WHERE id = 'n4'"
            ))
            .await;
        let answers = store.refresh(&ids).await;
        assert_eq!(answers.iter().map(|(id, _)| id).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
        assert!(has_max(1)(&answers[0].1) && has_max(9)(&answers[1].1), "{kind:?}");
        assert!(matches!(answers[2].1, Ok(None)) && answers[3].1.is_err());
        let before = store.queries();
        assert!(has_max(9)(&store.by_key("k1").await), "what was read is known by the key, too");
        assert_eq!(store.queries(), before);
        assert!(store.by_key("k2").await.unwrap().is_none() && store.by_key("k4").await.unwrap().is_none());
        assert_eq!(store.by_key("new").await.unwrap().unwrap().id, "n4");
    }
}

#[tokio::test]
async fn strangers_are_forgotten_and_do_not_push_out_an_app_in_use() {
    let server = Server::shared(KINDS[0]).await;
    small_table(server, "bounded").await;
    let mut config = server.config("bounded");
    config.app_store.cache_entries_max = 100;
    let store = TestStore::new(&config);
    let strangers = || (0..500).map(|number| format!("stranger-{number}"));
    for stranger in strangers() {
        assert!(has_max(5)(&store.by_id("a").await));
        assert!(store.by_id(&stranger).await.unwrap().is_none());
    }
    let before = store.queries();
    assert!((501..550).contains(&before), "the app is known all the time: {before}");
    for stranger in strangers() {
        assert!(store.by_id(&stranger).await.unwrap().is_none());
    }
    assert!(store.queries() - before >= 300, "not all strangers are remembered");
}

/// `cargo test --release --test stores lookup_costs -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn lookup_costs() {
    for kind in KINDS {
        let server = Server::shared(kind).await;
        small_table(server, "measured").await;
        let rows: Vec<_> = (0..1000).map(|number| format!("('n{number}', 'k{number}', 's', 1)")).collect();
        server.run(&format!("INSERT INTO measured VALUES {}", rows.join(", "))).await;
        let store = TestStore::new(&server.config("measured"));
        let began = Instant::now();
        assert!(store.by_key("a-key").await.unwrap().is_some());
        println!("{kind:?}: the first lookup, with connecting: {:?}", began.elapsed());
        let mut took = Vec::new();
        for _ in 0..2 {
            for number in 0..1000 {
                let began = Instant::now();
                assert!(store.by_key(&format!("k{number}")).await.unwrap().is_some());
                took.push(began.elapsed());
            }
        }
        for (what, took) in ["from the database", "from the cache"].iter().zip(took.chunks_mut(1000)) {
            took.sort();
            println!("{kind:?}: {what}: median {:?}, p99 {:?}", took[500], took[990]);
        }
        let ids: Vec<String> = (0..1000).map(|number| format!("n{number}")).collect();
        let began = Instant::now();
        assert_eq!(store.refresh(&ids).await.len(), 1000);
        println!("{kind:?}: refreshing 1,000 apps: {:?}", began.elapsed());
    }
}
