//! Bodies of `/predictions/{model}` in TorchServe's form.
#![no_main]

mod requests;

use libfuzzer_sys::fuzz_target;
use vitrum_server::fuzz::Sent;

fuzz_target!(|body: &[u8]| {
    let json = Sent { query: "", kind: Some("application/json"), body };
    requests::check(&json, Sent::torchserve);
    let form = Sent { kind: Some("multipart/form-data; boundary=b"), ..json };
    requests::check(&form, Sent::torchserve);
});
