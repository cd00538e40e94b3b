//! Tests of the server, on the built-in model.

mod batching;
mod cancel;
mod embed;
mod errors;
mod explain;
mod hostile;
mod infer;
mod kinds;
mod metrics;
mod model;
mod predict;
mod queue;
mod reconstruct;
mod schedules;
mod server;
mod socket;
mod support;
#[cfg(feature = "otlp")]
mod traces;
