//! Flow rules against a model. The model judges what comes out of a channel by the sentences that describe the
//! rules, not by the way the engine works. Each test makes up thousands of histories: rules, events, silences, late calls, joiners.
//!
//! A failure prints the seed and the shortest history that was found. It is repeated with
//! `GEMA_FLOW_SEED=… cargo test --test flow NAME`; `GEMA_FLOW_HISTORIES=…` runs more histories.

#![expect(clippy::disallowed_methods, reason = "a seed comes by the environment, to repeat a failure")]
#![expect(clippy::neg_cmp_op_on_partial_ord, reason = "what is no number fails, too")]
#![expect(clippy::too_many_lines, clippy::too_many_arguments, reason = "a judge follows its sentences in order")]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod extremes;
mod generate;
mod history;
mod judge;
mod judge_aggregate;
mod judge_conflate;
mod judge_rate;
mod judge_sample;
mod nodes;
mod numbers;
mod run;
mod stored;

use generate::Kinds;
use run::hold;
use run::hold_on_two_nodes;

#[test]
fn conflate_delivers_the_newest_of_each_key_and_window() {
    hold("conflate", |rng| generate::history(rng, &Kinds::one(generate::conflate)));
}

#[test]
fn merge_loses_no_field_within_a_window() {
    hold("merge", |rng| generate::history(rng, &Kinds::one(generate::merge)));
}

#[test]
fn aggregate_has_the_figures_of_each_window() {
    hold("aggregate", |rng| generate::history(rng, &Kinds::one(generate::aggregate)));
}

#[test]
fn aggregate_of_lists_has_the_figures_of_each_reading() {
    hold("aggregate of lists", |rng| generate::history(rng, &Kinds::one(generate::aggregate_lists)));
}

#[test]
fn aggregate_as_a_map_has_all_keys_of_a_window() {
    hold("map", |rng| generate::history(rng, &Kinds::one(generate::aggregate_map)));
}

#[test]
fn rate_keeps_to_its_bucket_and_delivers_the_newest() {
    hold("rate", |rng| generate::history(rng, &Kinds::one(generate::rate_latest)));
}

#[test]
fn rate_drops_what_is_over() {
    hold("rate, drop", |rng| generate::history(rng, &Kinds::one(generate::rate_drop)));
}

#[test]
fn sample_delivers_one_of_so_many_and_the_last() {
    hold("sample", |rng| generate::history(rng, &Kinds::one(generate::sample)));
}

#[test]
fn joiners_see_the_snapshot_and_then_what_is_live() {
    hold("snapshot", |rng| generate::history(rng, &Kinds::with_snapshot(generate::any)));
}

#[test]
fn what_passes_takes_along_what_is_pending() {
    hold("except", |rng| generate::history(rng, &Kinds::one(generate::any).passing()));
}

#[test]
fn each_event_of_a_channel_has_one_rule() {
    hold("several rules", |rng| generate::history(rng, &Kinds::several()));
}

#[test]
fn a_reload_loses_nothing() {
    hold("reload", |rng| generate::history(rng, &Kinds::reloaded()));
}

#[test]
fn figures_of_several_nodes_are_merged_and_not_repeated() {
    nodes::hold("figures of several nodes");
}

#[test]
fn two_nodes_end_with_the_same_values() {
    hold_on_two_nodes("two nodes", |rng| generate::history(rng, &Kinds::one(generate::conflate_or_rate)));
}
