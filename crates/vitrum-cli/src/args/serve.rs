//! Arguments of `vitrum serve`.

use clap::Args;

use super::common::LimitArgs;
use super::values::parse_precision;

/// `vitrum serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "SIGTERM and SIGINT: no new connections, and what was accepted is answered. SIGHUP: loads the models anew.\n\
                        \n\
                        Examples:\n  \
                        vitrum serve demo\n  \
                        vitrum serve runs/classify/flowers/model --port 9000\n  \
                        vitrum serve small=hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k large=vit/ --api-key KEY\n  \
                        curl --data-binary @cat.jpg 'http://127.0.0.1:8080/predict?top_k=3'"
)]
pub struct ServeArgs {
    /// Models as -m takes them elsewhere, or NAME=MODEL; the first is the default. Commas divide those of the variable.
    #[arg(required = true, env = "VITRUM_MODEL", value_name = "MODEL|NAME=MODEL")]
    pub models: Vec<String>,
    /// Precision of the blocks: f32, bf16 or int8. Models in bf16 and int8 explain nothing.
    #[arg(long, env = "VITRUM_PRECISION", value_name = "f32|bf16|int8", default_value = "f32", value_parser = parse_precision)]
    pub precision: vitrum::models::Precision,
    /// Never use the network for models; use only the cache.
    #[arg(long, env = "HF_HUB_OFFLINE", value_parser = clap::builder::FalseyValueParser::new())]
    pub offline: bool,
    /// Do not turn pictures by their EXIF orientation (as in timm).
    #[arg(long, env = "VITRUM_NO_EXIF", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_exif: bool,
    /// Address to listen on; 0.0.0.0 or :: for all.
    #[arg(long, env = "VITRUM_HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    #[arg(short, long, env = "VITRUM_PORT", default_value_t = 8080)]
    pub port: u16,
    /// Port for /metrics and /health alone, at the same address; then the other port has no /metrics.
    #[arg(long, env = "VITRUM_METRICS_PORT", value_name = "N")]
    pub metrics_port: Option<u16>,
    /// Collector of OpenTelemetry that gets a trace of every request, such as http://localhost:4318. Needs the feature
    /// `otlp`. Without this flag, OTEL_EXPORTER_OTLP_ENDPOINT counts.
    #[arg(long, env = "VITRUM_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Passes of each model at a time; its threads are divided among them.
    #[arg(long, env = "VITRUM_WORKERS", value_name = "N", default_value_t = 1)]
    pub workers: usize,
    /// Threads of each model; 0: all.
    #[arg(long, env = "VITRUM_THREADS", value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// Key that requests must bring as `Authorization: Bearer KEY`. Health, metrics and the pages stay open.
    #[arg(long, env = "VITRUM_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Origins whose pages may ask this server, such as https://example.org; * for any.
    #[arg(long, env = "VITRUM_CORS_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub cors_allow_origin: Vec<String>,
    /// Write the log as JSON lines.
    #[arg(long, env = "VITRUM_JSON_OUTPUT", value_parser = clap::builder::FalseyValueParser::new())]
    pub json_output: bool,
    /// Batches and queue.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// Requests and connections.
    #[command(flatten)]
    pub requests: RequestArgs,
}

/// Batches and queue of each model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Batches")]
pub struct QueueArgs {
    /// Images of a pass at most.
    #[arg(long, env = "VITRUM_MAX_BATCH_SIZE", value_name = "N", default_value_t = 32)]
    pub max_batch_size: usize,
    /// How long the first request of a batch waits for others, in milliseconds.
    #[arg(long, env = "VITRUM_MAX_BATCH_DELAY_MS", value_name = "MS", default_value_t = 0)]
    pub max_batch_delay_ms: u64,
    /// Images that wait; further ones get 429.
    #[arg(long, env = "VITRUM_MAX_QUEUE", value_name = "N", default_value_t = 512)]
    pub max_queue: usize,
    /// From a request to its pass, in milliseconds; then it gets 504.
    #[arg(long, env = "VITRUM_QUEUE_TIMEOUT_MS", value_name = "MS", default_value_t = 10_000)]
    pub queue_timeout_ms: u64,
    /// For an explanation or a reconstruction, with its wait, in milliseconds.
    #[arg(long, env = "VITRUM_EXPLAIN_TIMEOUT_MS", value_name = "MS", default_value_t = 60_000)]
    pub explain_timeout_ms: u64,
}

/// Limits of requests and connections.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct RequestArgs {
    /// Images of a request; at most --max-batch-size of them.
    #[arg(long, env = "VITRUM_MAX_CLIENT_BATCH_SIZE", value_name = "N", default_value_t = 32)]
    pub max_client_batch_size: usize,
    /// Bytes of a request.
    #[arg(long, env = "VITRUM_PAYLOAD_LIMIT", value_name = "BYTES", default_value_t = 10_000_000)]
    pub payload_limit: usize,
    /// Largest number of pixels of an image.
    #[arg(long, env = "VITRUM_MAX_IMAGE_PIXELS", value_name = "N", default_value_t = 89_478_485)]
    pub max_image_pixels: u64,
    /// Longest side of an image, in pixels.
    #[arg(long, env = "VITRUM_MAX_IMAGE_SIDE", value_name = "N", default_value_t = 16_384)]
    pub max_image_side: u32,
    /// Open connections; further ones wait.
    #[arg(long, env = "VITRUM_MAX_CONNECTIONS", value_name = "N", default_value_t = 1024)]
    pub max_connections: usize,
    /// For the head of a request, and between two of a connection, in seconds.
    #[arg(long, env = "VITRUM_HEADER_TIMEOUT", value_name = "S", default_value_t = 30)]
    pub header_timeout: u64,
    /// For the body of a request, in seconds.
    #[arg(long, env = "VITRUM_BODY_TIMEOUT", value_name = "S", default_value_t = 30)]
    pub body_timeout: u64,
    /// From the signal to stop to the last answer, in seconds.
    #[arg(long, env = "VITRUM_DRAIN_TIMEOUT", value_name = "S", default_value_t = 30)]
    pub drain_timeout: u64,
}

impl RequestArgs {
    /// The limits of images.
    pub fn images(&self) -> LimitArgs {
        LimitArgs { max_image_pixels: self.max_image_pixels, max_image_side: self.max_image_side }
    }
}
