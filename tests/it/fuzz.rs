//! The properties of the fuzz targets, on their seeds and on mutations of them. See tests/fuzz/Cargo.toml.

#[path = "../fuzz/properties.rs"]
mod properties;

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::sample::select;
use proptest::test_runner::TestRunner;

/// Mutations of each target's seeds: about a second's work.
const MUTATIONS: u32 = 3000;

#[test]
fn however_its_bytes_are_split_a_stream_of_frames_means_the_same() {
    holds("frames", properties::frames);
}

#[test]
fn a_clients_message_is_read_in_one_way_only() {
    holds("client_messages", properties::client_messages);
}

#[test]
fn no_body_gets_an_event_past_the_limits() {
    holds("api_bodies", properties::api_bodies);
}

#[test]
fn whatever_is_published_in_redis_is_fit_for_clients() {
    holds("broadcasts", properties::broadcasts);
}

#[test]
fn a_request_is_believed_with_its_own_signature_only() {
    holds("query_strings", properties::query_strings);
}

#[test]
fn what_another_node_says_means_one_thing_only() {
    holds("envelopes", properties::envelopes);
}

#[test]
fn whatever_redis_answers_is_fit_for_clients() {
    holds("redis_answers", properties::redis_answers);
}

#[test]
fn a_compressed_message_means_what_zlib_says() {
    holds("compressed_messages", properties::compressed_messages);
}

#[test]
fn offers_of_extensions_are_read_as_a_second_reader_reads_them() {
    holds("extension_offers", properties::extension_offers);
}

#[test]
fn flow_rules_do_with_strange_data_what_a_second_reader_expects() {
    holds("flow_rules", |input| properties::flow::flow_rules(input, |_| true));
}

#[test]
fn a_proxy_header_names_the_client_that_stands_in_it() {
    holds("proxy_headers", properties::readers::proxy_headers);
}

#[test]
fn the_variables_of_an_env_file_can_be_written_again() {
    holds("dotenv", properties::readers::dotenv);
}

#[test]
fn however_they_arrive_the_operations_of_nats_are_the_same() {
    holds("nats_wire", properties::readers::nats_wire);
}

#[test]
fn settings_of_any_format_are_the_same_as_json() {
    holds("settings", properties::readers::settings);
}

#[test]
fn a_row_of_a_database_makes_an_app_and_no_text_about_it_shows_its_secret() {
    holds("app_rows", properties::readers::app_rows);
}

fn holds(target: &str, property: fn(&[u8])) {
    let seeds = seeds(target);
    for seed in &seeds {
        property(seed);
    }
    let config = ProptestConfig { cases: MUTATIONS, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&mutated(seeds), |input| {
        property(&input);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{target}: {error}"));
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(!seeds.is_empty(), "{target} has no seeds");
    seeds
}

/// A seed in which some pieces are replaced: by nothing, by other bytes, or by pieces of another seed.
fn mutated(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let piece = (select(seeds.clone()), any::<Index>(), 0..16_usize).prop_map(|(seed, start, length)| {
        let start = start.index(seed.len() + 1);
        seed[start..(start + length).min(seed.len())].to_vec()
    });
    let bytes = prop_oneof![
        Just(Vec::new()),
        vec(any::<u8>(), 1..4),
        vec(select(b"\"\\{}[],:&=%+. 09aA".to_vec()), 1..4),
        piece
    ];
    let edits = vec((any::<Index>(), 0..8_usize, bytes), 1..6);
    (select(seeds), edits).prop_map(|(mut seed, edits)| {
        for (start, length, bytes) in edits {
            let start = start.index(seed.len() + 1);
            seed.splice(start..(start + length).min(seed.len()), bytes);
        }
        seed
    })
}
