//! Bodies of `/predict`, `/explain`, `/embed` and `/reconstruct`: the bytes of an image, a form with parts, or JSON with base64.
#![no_main]

mod requests;

use libfuzzer_sys::fuzz_target;
use vitrum_server::fuzz::Sent;

fuzz_target!(|input: &[u8]| {
    let Some(sent) = requests::sent(input) else { return };
    requests::check(&sent, Sent::predict);
    requests::check(&sent, Sent::explain);
    requests::check(&sent, Sent::embed);
    requests::check(&sent, Sent::reconstruct);
});
