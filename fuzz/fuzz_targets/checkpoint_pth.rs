//! What PyTorch writes: reading and converting.
#![no_main]

mod checkpoint;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| checkpoint::read_as("checkpoint.pth", data));
