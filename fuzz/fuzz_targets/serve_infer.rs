//! Requests of KServe's protocol: an empty line, a line with the length of the JSON document or nothing, and the document
//! with binary tensors behind it.
#![no_main]

mod requests;

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use vitrum_server::served::Served;
use vitrum_server::{App, ModelSpec, ServerConfig};

/// The built-in model: it says which inputs and outputs there are, and computes nothing.
fn served() -> &'static Arc<Served> {
    static SERVED: OnceLock<Arc<Served>> = OnceLock::new();
    SERVED.get_or_init(|| {
        let spec = ModelSpec::of_source("demo", "demo").expect("a plain name");
        let app = App::new(ServerConfig::default(), vec![spec]).expect("the built-in model");
        app.models.get(None).expect("one model")
    })
}

fuzz_target!(|input: &[u8]| {
    let served = served();
    let Some(sent) = requests::sent(input) else { return };
    match requests::bounded(input.len(), || sent.infer(served)) {
        None => {}
        Some(Err(error)) => requests::check_refusal(&error),
        Some(Ok(images)) => assert!(images <= sent.body.len()),
    }
});
