//! safetensors: reading, converting, inferring a configuration.
#![no_main]

mod checkpoint;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| checkpoint::read_as("checkpoint.safetensors", data));
