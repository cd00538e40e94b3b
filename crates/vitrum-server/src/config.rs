//! What a server may do, and what it is to serve.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Uri;
use vitrum::checkpoint::load::{LoadOptions, Loaded, load};
use vitrum::data::DecodeOptions;
use vitrum::prelude::Device;

use crate::queue::Limits as QueueLimits;

/// The limits and habits of a server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// Images of a pass.
    pub max_batch: usize,
    /// How long the first request of a batch waits for others.
    pub max_batch_delay: Duration,
    /// Images that wait for a model, and images that wait to be decoded.
    pub max_queue: usize,
    /// From the arrival of a request to the beginning of its pass.
    pub queue_timeout: Duration,
    /// Bytes of a request's body.
    pub payload_limit: usize,
    /// Size limits of images, and whether EXIF turns them.
    pub decode: DecodeOptions,
    /// Images of one request. At most `max_batch` and `max_queue` of them count.
    pub max_client_batch: usize,
    /// The key that requests must bring, if any.
    pub api_key: Option<ApiKey>,
    /// Origins whose pages may ask this server; `*` is any.
    pub cors_origins: Vec<String>,
    /// From the request to stop to the end of the last answer.
    pub drain_timeout: Duration,
    /// Passes of a model at a time.
    pub workers: usize,
    /// Threads of a model, divided among its workers; 0: all of the machine.
    pub threads: usize,
    /// For the head of a request, and for the next one of a connection.
    pub header_timeout: Duration,
    /// For the body of a request.
    pub body_timeout: Duration,
    /// Open connections. Further ones wait to be accepted.
    pub max_connections: usize,
    /// For an explanation or a reconstruction, with its wait.
    pub explain_timeout: Duration,
    /// An address of their own for `/metrics` and `/health`; then the other one has no `/metrics`.
    pub metrics_address: Option<SocketAddr>,
    /// The collector of OpenTelemetry that takes traces, such as `http://localhost:4318`. Needs the feature `otlp`.
    pub otlp_endpoint: Option<String>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            max_batch: 32,
            max_batch_delay: Duration::ZERO,
            max_queue: 512,
            queue_timeout: Duration::from_secs(10),
            payload_limit: 10_000_000,
            decode: DecodeOptions::default(),
            max_client_batch: 32,
            api_key: None,
            cors_origins: Vec::new(),
            drain_timeout: Duration::from_secs(30),
            workers: 1,
            threads: 0,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            max_connections: 1024,
            explain_timeout: Duration::from_secs(60),
            metrics_address: None,
            otlp_endpoint: None,
        }
    }
}

/// A key that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(pub String);

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// A setting that a server cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {found}, expected {expected}")]
pub struct ConfigError {
    /// The setting.
    pub what: &'static str,
    /// Its value.
    pub found: String,
    /// What it may be.
    pub expected: &'static str,
}

/// Most workers and threads; more is taken for a mistake.
const MOST_THREADS: usize = 4096;

impl ServerConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// The first one that is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let counts = [
            ("max_batch", self.max_batch),
            ("max_queue", self.max_queue),
            ("max_client_batch", self.max_client_batch),
            ("payload_limit", self.payload_limit),
            ("max_connections", self.max_connections),
        ];
        for (what, value) in counts {
            if value == 0 {
                return Err(ConfigError { what, found: "0".into(), expected: "at least 1" });
            }
        }
        if !(1..=MOST_THREADS).contains(&self.workers) {
            let found = self.workers.to_string();
            return Err(ConfigError { what: "workers", found, expected: "from 1 to 4096" });
        }
        if self.threads > MOST_THREADS {
            let found = self.threads.to_string();
            return Err(ConfigError { what: "threads", found, expected: "at most 4096" });
        }
        if self.api_key.as_ref().is_some_and(|key| key.0.is_empty()) {
            return Err(ConfigError { what: "api_key", found: "empty".into(), expected: "a text" });
        }
        for origin in &self.cors_origins {
            if axum::http::HeaderValue::from_str(origin).is_err() || origin.is_empty() {
                let expected = "an origin such as https://example.org, or *";
                return Err(ConfigError { what: "cors_origins", found: origin.clone(), expected });
            }
        }
        self.otlp_endpoint.as_deref().map_or(Ok(()), check_collector)
    }

    /// Most images of one request.
    pub fn max_images(&self) -> usize {
        self.max_client_batch.min(self.queue_limits().max_request())
    }

    /// The limits of each model's queue.
    pub fn queue_limits(&self) -> QueueLimits {
        QueueLimits { max_batch: self.max_batch, max_queue: self.max_queue, max_delay: self.max_batch_delay }
    }

    /// Threads of each worker.
    pub fn threads_of_worker(&self) -> usize {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if self.threads == 0 { all } else { self.threads };
        (threads / self.workers).max(1)
    }
}

/// Checks the address of a collector.
fn check_collector(endpoint: &str) -> Result<(), ConfigError> {
    let expected = match endpoint.parse::<Uri>() {
        _ if !cfg!(feature = "otlp") => "none: this build is without the feature `otlp`",
        Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) => return Ok(()),
        _ => "an address such as http://localhost:4318",
    };
    Err(ConfigError { what: "otlp_endpoint", found: endpoint.to_string(), expected })
}

/// An error of a loader.
pub type LoadFailure = Box<dyn Error + Send + Sync>;

/// Loads a model, for the first time and again.
pub type Loader = dyn Fn() -> Result<Loaded, LoadFailure> + Send + Sync;

/// A model to serve: its name in requests, and how it is loaded.
#[derive(Clone)]
pub struct ModelSpec {
    /// Letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Loads it onto the CPU.
    pub loader: Arc<Loader>,
}

impl std::fmt::Debug for ModelSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelSpec").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ModelSpec {
    /// A model with a loader of its own.
    ///
    /// # Errors
    /// A name that no request can say.
    pub fn new(
        name: impl Into<String>,
        loader: impl Fn() -> Result<Loaded, LoadFailure> + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        let name = name.into();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > 128 || !name.chars().all(is_plain) {
            let expected = "1 to 128 letters, digits, '.', '_' and '-'";
            return Err(ConfigError { what: "name of a model", found: format!("'{name}'"), expected });
        }
        Ok(Self { name, loader: Arc::new(loader) })
    }

    /// A model as [`load`] takes it: a folder, a name, `hf:ORG/NAME` or `demo`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_source(name: impl Into<String>, source: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let source = source.into();
        Self::new(name, move || Ok(load(&LoadOptions::new(source.clone()), &Device::flex())?))
    }
}
