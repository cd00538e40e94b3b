//! JSON of `/v1/embeddings` in OpenAI's form and of `/embed` in TEI's.
#![no_main]

mod requests;

use libfuzzer_sys::fuzz_target;
use vitrum_server::fuzz::Sent;

fuzz_target!(|body: &[u8]| {
    let sent = Sent { query: "", kind: Some("application/json"), body };
    requests::check(&sent, Sent::embeddings);
    requests::check(&sent, Sent::embed);
});
