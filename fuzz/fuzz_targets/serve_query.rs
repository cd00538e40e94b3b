//! Parameters in the address.
#![no_main]

mod requests;

use libfuzzer_sys::fuzz_target;
use vitrum_server::fuzz::Sent;

fuzz_target!(|input: &[u8]| {
    let Ok(query) = std::str::from_utf8(input) else { return };
    let sent = Sent { query, kind: Some("image/png"), body: b"no image" };
    requests::check(&sent, Sent::predict);
    requests::check(&sent, Sent::explain);
    requests::check(&sent, Sent::embed);
    requests::check(&sent, Sent::reconstruct);
});
