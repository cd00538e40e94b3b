//! A file called set.tar with any content: samples or an error.
#![no_main]

mod dataset;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| dataset::read("set.tar", bytes));
