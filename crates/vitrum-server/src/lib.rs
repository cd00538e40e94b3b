#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod app;
pub mod batcher;
pub mod config;
pub mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
pub mod images;
pub mod lane;
mod layers;
pub mod models;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod queue;
mod routes;
pub mod served;
mod server;
pub mod telemetry;
mod threads;
mod upload;

pub use app::App;
pub use config::{ApiKey, ConfigError, LoadFailure, ModelSpec, ServerConfig};
pub use routes::{metrics_router, router};
pub use server::{Drained, ServeError, Server};
