#![no_main]

#[path = "../properties.rs"]
#[allow(dead_code)]
mod properties;

// One kind of rule each time, by the length of the input: so it gets further in the same time.
libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::flow::flow_rules(input, |kind| kind == input.len() % 8));
