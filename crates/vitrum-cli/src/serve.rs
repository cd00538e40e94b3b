//! `vitrum serve`: models behind HTTP.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tracing_subscriber::EnvFilter;
use vitrum::checkpoint::load::Loaded;
use vitrum_server::{ApiKey, App, ConfigError, Drained, ModelSpec, Server, ServerConfig};

use crate::args::{DeviceArgs, DeviceName, ModelArgs, PreprocessArgs, ServeArgs};
use crate::device::{self, Work};
use crate::hints;
use crate::model;
use crate::output::complain;
use crate::talk::Talk;

/// Endings of files of weights, which are no part of a model's name.
const WEIGHTS: [&str; 5] = ["safetensors", "npz", "pth", "pt", "bin"];

/// OpenTelemetry's variable for the collector of all programs.
const COLLECTOR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The variable for the models.
const MODELS: &str = "VITRUM_MODEL";

/// Runs the command, until a signal ends it.
pub fn run(args: &ServeArgs, talk: Talk) -> Result<()> {
    log(args.json_output, talk)?;
    if args.json_output {
        panics_as_lines();
    }
    // In a log of JSON lines there is no other text.
    let talk = Talk { quiet: talk.quiet || args.json_output, ..talk };
    let config = config(args)?;
    config.check().map_err(in_flags)?;
    device::prepare(&DeviceArgs { device: DeviceName::Cpu, threads: args.threads }, Work::Cpu)?;
    let specs = models(args).iter().map(|asked| spec(asked, args, talk)).collect::<Result<Vec<_>>>()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting threads")?;
    let served = runtime.block_on(serve(config, specs, args.json_output, talk));
    // An explanation that is not done is left behind.
    runtime.shutdown_background();
    served
}

async fn serve(config: ServerConfig, specs: Vec<ModelSpec>, is_json: bool, talk: Talk) -> Result<()> {
    let server = Server::bind(config, specs).await.map_err(|error| match error {
        vitrum_server::ServeError::Models(vitrum_server::models::ModelsError::Twice(name)) => {
            anyhow::anyhow!("two models have the name '{name}'\nhint: NAME=MODEL gives another one")
        }
        other => other.into(),
    })?;
    // Before this line a signal ends the process, also in the midst of a download.
    let signals = Signals::install()?;
    let models = server.app().models.names().join(", ");
    let address = server.address();
    if let Some(address) = server.metrics_address() {
        match is_json {
            true => tracing::info!(%address, "serving metrics"),
            false => talk.say(format_args!("metrics on http://{address}/metrics")),
        }
    }
    match is_json {
        true => tracing::info!(%address, models, "serving"),
        false => talk.say(format_args!("serving {models} on http://{address}")),
    }
    let app = server.app().clone();
    tell_manager(Moment::Ready);
    let drained = server.serve(signals.until_stop(app)).await;
    match drained {
        Drained::All => tracing::info!("all requests were answered"),
        Drained::Cut(connections) => {
            tracing::warn!(connections, "the drain timeout passed before all were answered")
        }
    }
    Ok(())
}

/// The models of the arguments, or of the variable, which divides them by commas.
fn models(args: &ServeArgs) -> Vec<String> {
    match (args.models.as_slice(), std::env::var(MODELS)) {
        ([one], Ok(all)) if *one == all && !Path::new(one).exists() => {
            let models = all.split(',').map(str::trim).filter(|model| !model.is_empty());
            models.map(str::to_string).collect()
        }
        (models, _) => models.to_vec(),
    }
}

/// What a manager of services wants to know.
#[derive(Clone, Copy)]
enum Moment {
    /// The models are loaded, the port is open.
    Ready,
    /// The server ends.
    Stopping,
}

/// Tells systemd, if it started this process and wants to know (`Type=notify`).
#[cfg(target_os = "linux")]
fn tell_manager(moment: Moment) {
    let state = match moment {
        Moment::Ready => sd_notify::NotifyState::Ready,
        Moment::Stopping => sd_notify::NotifyState::Stopping,
    };
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("systemd was not told: {error}");
    }
}

#[cfg(not(target_os = "linux"))]
fn tell_manager(_moment: Moment) {}

/// What is written on stderr while the server runs: warnings, with `-v` or as JSON also every request. The environment
/// variable `VITRUM_LOG` says it in detail (`vitrum_server=debug`).
fn log(is_json: bool, talk: Talk) -> Result<()> {
    let level = match talk {
        Talk { quiet: true, .. } => "error",
        Talk { verbose: 0, .. } if !is_json => "warn",
        Talk { verbose: 0 | 1, .. } => "info",
        Talk { .. } => "debug",
    };
    let filter = match std::env::var("VITRUM_LOG") {
        Ok(asked) => EnvFilter::try_new(asked).context("VITRUM_LOG")?,
        Err(_) => EnvFilter::try_new(format!("{level},hyper=warn,h2=warn"))?,
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let begun = match is_json {
        true => log.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
        false => log.with_ansi(false).with_target(false).try_init(),
    };
    begun.map_err(|error| anyhow::anyhow!("the log cannot begin: {error}"))
}

/// Puts panics into the log; those of decoders are errors of images.
fn panics_as_lines() {
    std::panic::set_hook(Box::new(|info| {
        if !vitrum::data::decode::is_guarded() {
            tracing::error!("{info}");
        }
    }));
}

/// The error with the flag in place of the setting.
fn in_flags(error: ConfigError) -> anyhow::Error {
    let flag = match error.what {
        "max_batch" => "--max-batch-size",
        "max_queue" => "--max-queue",
        "max_client_batch" => "--max-client-batch-size",
        "payload_limit" => "--payload-limit",
        "max_connections" => "--max-connections",
        "workers" => "--workers",
        "threads" => "--threads",
        "api_key" => "--api-key",
        "cors_origins" => "--cors-allow-origin",
        "otlp_endpoint" => "--otlp-endpoint",
        _ => return error.into(),
    };
    anyhow::anyhow!("{flag} is {}, expected {}", error.found, error.expected)
}

/// The server's limits from the flags.
fn config(args: &ServeArgs) -> Result<ServerConfig> {
    let (queue, requests) = (&args.queue, &args.requests);
    let seconds = Duration::from_secs;
    Ok(ServerConfig {
        address: address(&args.host, args.port)?,
        max_batch: queue.max_batch_size,
        max_batch_delay: Duration::from_millis(queue.max_batch_delay_ms),
        max_queue: queue.max_queue,
        queue_timeout: Duration::from_millis(queue.queue_timeout_ms),
        payload_limit: requests.payload_limit,
        decode: model::decode_options(&requests.images(), !args.no_exif),
        max_client_batch: requests.max_client_batch_size,
        api_key: args.api_key.clone().map(ApiKey),
        cors_origins: args.cors_allow_origin.clone(),
        drain_timeout: seconds(requests.drain_timeout),
        workers: args.workers,
        threads: args.threads,
        header_timeout: seconds(requests.header_timeout),
        body_timeout: seconds(requests.body_timeout),
        max_connections: requests.max_connections,
        explain_timeout: Duration::from_millis(queue.explain_timeout_ms),
        metrics_address: args.metrics_port.map(|port| address(&args.host, port)).transpose()?,
        otlp_endpoint: collector(args.otlp_endpoint.as_deref())?,
    })
}

/// The collector of traces: the flag's, or the one that OpenTelemetry's own variable names for every program.
fn collector(asked: Option<&str>) -> Result<Option<String>> {
    let common = std::env::var(COLLECTOR).ok().filter(|endpoint| !endpoint.is_empty());
    if cfg!(feature = "otlp") {
        return Ok(asked.map(str::to_string).or(common));
    }
    if asked.is_some() {
        bail!(
            "--otlp-endpoint: this program was built without the feature `otlp`\n\
             hint: cargo install vitrum-cli --features otlp"
        );
    }
    if common.is_some() {
        tracing::warn!(
            "{COLLECTOR} is set, but this program was built without the feature `otlp`: it sends no traces"
        );
    }
    Ok(None)
}

fn address(host: &str, port: u16) -> Result<SocketAddr> {
    let found = (host, port).to_socket_addrs().with_context(|| format!("--host {host}"))?.next();
    found.with_context(|| format!("--host {host} has no address"))
}

/// A model from `MODEL` or `NAME=MODEL`.
fn spec(asked: &str, args: &ServeArgs, talk: Talk) -> Result<ModelSpec> {
    let (name, source) = named(asked);
    if source.is_empty() {
        bail!("'{asked}' names no model\nhint: MODEL or NAME=MODEL");
    }
    let model = model_args(source, args);
    let (is_json, batch) = (args.json_output, args.queue.max_batch_size);
    let load = move || -> Result<Loaded> {
        let (loaded, _) = model::loaded(&model, &PreprocessArgs::default(), talk)?;
        model::check_batch(&loaded.model, batch).context("--max-batch-size")?;
        if is_json {
            tell(&loaded);
        }
        Ok(loaded)
    };
    // The server does not know the hints.
    let loader = move || load().map_err(|error| hints::explained(&error).into());
    Ok(ModelSpec::new(name, loader)?)
}

/// Puts the notes on a model into the log.
fn tell(loaded: &Loaded) {
    loaded.notes.iter().for_each(|note| tracing::info!(model = loaded.name, "{note}"));
}

/// The name of a model in requests, and the model. Without a name it is the last part of the path.
fn named(asked: &str) -> (String, &str) {
    if let Some((name, source)) = asked.split_once('=')
        && !name.contains(['/', '\\', ':'])
        && !Path::new(asked).exists()
    {
        return (name.to_string(), source);
    }
    let path = PathBuf::from(asked.strip_prefix("hf:").unwrap_or(asked));
    let path = if path.file_name().is_some() { path } else { path.canonicalize().unwrap_or(path) };
    let is_weights = path.extension().is_some_and(|ending| WEIGHTS.iter().any(|known| ending == *known));
    let last = if is_weights { path.file_stem() } else { path.file_name() };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let last = last.map_or("model".into(), |last| last.to_string_lossy());
    (last.chars().map(|c| if is_plain(c) { c } else { '-' }).collect(), asked)
}

/// The model flags of other commands, with their defaults.
fn model_args(source: &str, args: &ServeArgs) -> ModelArgs {
    ModelArgs {
        model: source.to_string(),
        checkpoint: None,
        weight_set: None,
        keys: None,
        num_classes: None,
        img_size: None,
        patch_size: None,
        in_chans: None,
        gp: None,
        pos_resize: None,
        precision: args.precision,
        model_kwargs: Vec::new(),
        answer: None,
        allow_missing: Vec::new(),
        allow_unexpected: Vec::new(),
        seed: 42,
        offline: args.offline,
        device: DeviceArgs { device: DeviceName::Cpu, threads: args.threads },
    }
}

/// Loads all models anew; those that fail stay as they are.
#[cfg(unix)]
async fn reload(app: App) {
    match tokio::task::spawn_blocking(move || app.models.reload(None)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!("a model was not loaded anew: {error}"),
        Err(error) => tracing::error!("a model was not loaded anew: {error}"),
    }
}

/// The signals to a server. The second one to stop ends the process at once.
#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn install() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let install = |kind| signal(kind).context("installing handlers of signals");
        Ok(Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
            hangup: install(SignalKind::hangup())?,
        })
    }

    /// Ready when the server is to stop. Until then it reloads when asked.
    async fn until_stop(mut self, app: App) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hangup.recv() => { tokio::spawn(reload(app.clone())); }
            }
        }
        tell_manager(Moment::Stopping);
        tokio::spawn(async move {
            let code = tokio::select! {
                _ = self.terminate.recv() => 143,
                _ = self.interrupt.recv() => 130,
            };
            complain("stopped before all requests were answered");
            std::process::exit(code);
        });
    }
}

/// The signal to stop: Ctrl-C.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn install() -> Result<Self> {
        Ok(Self)
    }

    async fn until_stop(self, _app: App) {
        if tokio::signal::ctrl_c().await.is_err() {
            complain("Ctrl-C cannot be awaited; the server runs until the process ends");
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models() {
        let cases = [
            ("demo", ("demo", "demo")),
            ("small=hf:timm/vit.a1", ("small", "hf:timm/vit.a1")),
            (
                "hf:timm/vit_tiny_patch16_224.augreg",
                ("vit_tiny_patch16_224.augreg", "hf:timm/vit_tiny_patch16_224.augreg"),
            ),
            ("runs/x/model/", ("model", "runs/x/model/")),
            ("w/my weights.safetensors", ("my-weights", "w/my weights.safetensors")),
            ("dir/a=b/model", ("model", "dir/a=b/model")),
        ];
        for (asked, (name, source)) in cases {
            assert_eq!(named(asked), (name.to_string(), source), "{asked}");
        }
    }
}
