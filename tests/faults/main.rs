//! gema's promises while nodes, Redis and the network between them fail: real processes, each test with a Redis of its
//! own, or with a NATS of its own where `GEMA_TEST_BUS=nats` is in the environment. The tests mostly wait, so all of them run at the same time, however few cores there are. The command line is that
//! of other tests: `cargo test --test faults outages::`.

#![expect(clippy::disallowed_methods, reason = "tests spawn tasks of their own")]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod crashes;
mod disasters;
mod full;
mod local;
mod network;
mod nodes;
mod outages;
mod traffic;
mod webhooks;

use std::process::ExitCode;
use std::thread;

use libtest_mimic::Arguments;
use libtest_mimic::Trial;
use support::bus;

/// Tests that are left out over NATS, by the beginnings of their names, with the reason.
const NOT_OVER_NATS: [(&str, &str); 8] = [
    ("full::", "Redis has a bound of its memory"),
    ("webhooks::", "nodes agree in Redis on who announces"),
    ("local::a_node_reports_what_the_others_miss", "it reads what Redis publishes"),
    ("local::pages_of_other_nodes_get_a_gap", "there is no history over NATS"),
    ("local::beyond_a_thousand_channels", "there is no history over NATS"),
    ("nodes::a_large_node_is_buried", "it reads the leases in Redis"),
    ("nodes::a_node_without_subscribers", "it asks Redis who listens"),
    ("outages::a_redis_without_memory", "Redis has a bound of its memory"),
];

macro_rules! tests {
    ($($module:ident: $($name:ident),* $(,)?;)*) => {
        vec![$($(test(concat!(stringify!($module), "::", stringify!($name)), $module::$name)),*),*]
    };
}

fn main() -> ExitCode {
    let tests = tests();
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(tests.len());
    libtest_mimic::run(&arguments, tests).exit_code()
}

fn tests() -> Vec<Trial> {
    tests! {
        nodes:
            a_killed_node_is_gone_everywhere_and_its_members_leave_once,
            a_node_that_was_stopped_comes_back_with_its_members,
            a_large_node_is_buried_by_one_that_still_lives,
            a_node_without_subscribers_stops_listening_after_a_while,
            a_node_that_stops_while_it_waits_for_others_sends_what_it_has_accepted;
        outages:
            when_the_bus_comes_back_empty_nothing_is_lost_and_everybody_is_where_they_were,
            what_changes_while_the_bus_is_away_is_told_when_it_is_back,
            a_bus_with_another_password_is_one_that_is_away,
            a_bus_that_does_not_answer_is_noticed_and_holds_nobody_up,
            however_many_channels_a_node_listens_to_it_misses_nothing_that_was_accepted_in_the_meantime,
            a_node_that_was_there_before_the_bus_keeps_nobody_waiting,
            a_redis_without_memory_harms_nobody_and_the_lists_are_right_afterwards,
            a_server_starts_without_the_bus_and_becomes_one_when_it_comes,
            beyond_the_time_of_the_buffer_publishers_are_told_to_come_back,
            beyond_the_bytes_of_the_buffer_publishers_are_told_to_come_back,
            a_strict_node_is_not_ready_without_the_bus;
        full:
            nodes_that_could_not_renew_their_leases_do_not_take_each_other_for_dead,
            a_node_that_stops_meanwhile_leaves_nobody_behind,
            what_was_refused_is_told_when_there_is_room_again,
            who_has_found_redis_again_gets_what_it_has_stored_before_what_it_cannot_store;
        local:
            beyond_the_time_of_the_buffer_nobody_is_refused_and_what_is_dropped_is_counted,
            beyond_the_bytes_of_the_buffer_the_oldest_events_give_way,
            a_node_reports_what_the_others_miss_before_the_rest_comes,
            pages_of_other_nodes_get_a_gap_where_a_rule_keeps_track,
            beyond_a_thousand_channels_a_gap_has_no_number;
        network:
            a_slow_bus_does_not_slow_local_delivery,
            a_half_open_link_is_noticed_and_replaced,
            links_that_are_cut_again_and_again_lose_doubles_and_reorder_nothing_that_was_published_over_them,
            a_node_that_is_cut_off_for_longer_than_its_lease_doubles_nothing_when_it_is_back;
        webhooks:
            a_node_that_slept_takes_no_endpoint_back,
            a_killed_node_loses_no_webhook_that_waits_in_redis,
            a_node_that_was_taken_for_dead_tells_what_it_still_has,
            who_goes_to_another_node_while_one_is_stopped_was_never_gone,
            what_only_a_killed_node_had_is_told_to_have_ended_once,
            nodes_that_could_not_renew_their_leases_tell_nothing_twice,
            without_redis_each_node_decides_by_itself_and_nothing_is_told_twice_when_it_is_back;
        crashes:
            however_nodes_crash_every_observer_ends_with_the_truth;
        disasters:
            however_the_bus_fails_every_observer_ends_with_the_truth,
            however_the_way_to_the_bus_fails_every_observer_ends_with_the_truth,
            however_long_a_node_sleeps_every_observer_ends_with_the_truth;
    }
}

/// A test on a runtime of its own, and on a thread with its name, which a panic tells.
fn test<F: Future<Output = ()> + 'static>(name: &'static str, test: fn() -> F) -> Trial {
    let is_left_out = bus::is_nats() && NOT_OVER_NATS.iter().any(|(start, _)| name.starts_with(start));
    let run = move || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    let trial = Trial::test(name, move || {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(())
    });
    trial.with_ignored_flag(is_left_out)
}
