//! What all routes share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use serde::Serialize;
use utoipa::ToSchema;
use vitrum::data::RgbImage;
use vitrum::explain::Cancel;

use crate::config::{ModelSpec, ServerConfig};
use crate::error::ApiError;
use crate::images::{Decoder, Prepared};
use crate::lane::Lane;
use crate::models::{Models, ModelsError};
use crate::served::{Answer, Job, Served, Wants};
use crate::telemetry::Telemetry;

/// Models, limits and numbers of a server. Clones are the same server.
#[derive(Clone)]
pub struct App(Arc<Inner>);

/// The parts of an [`App`].
pub struct Inner {
    /// Limits and habits.
    pub config: ServerConfig,
    /// The models.
    pub models: Models,
    /// Decodes images.
    pub decoder: Decoder,
    /// Numbers for Prometheus.
    pub telemetry: Telemetry,
    /// Explanations and reconstructions.
    pub lane: Lane,
    /// Traces of requests, if a collector takes them.
    #[cfg(feature = "otlp")]
    pub traces: Option<crate::otlp::Traces>,
    is_draining: AtomicBool,
}

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// What took how long, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Timing {
    /// Decoding and preprocessing, with the wait for it.
    pub decode: f64,
    /// The wait for the pass.
    pub queue: f64,
    /// The pass, for the whole batch.
    pub compute: f64,
}

impl App {
    /// Loads the models.
    ///
    /// # Errors
    /// [`ModelsError`].
    pub fn new(config: ServerConfig, specs: Vec<ModelSpec>) -> Result<Self, ModelsError> {
        let models = Models::load(specs, &config)?;
        let at_a_time = std::thread::available_parallelism().map_or(1, usize::from);
        let decoder = Decoder::new(at_a_time, config.max_queue, config.decode.clone(), config.max_images());
        Ok(Self(Arc::new(Inner {
            #[cfg(feature = "otlp")]
            traces: config.otlp_endpoint.as_deref().and_then(crate::otlp::Traces::start_or_tell),
            config,
            models,
            decoder,
            telemetry: Telemetry::default(),
            lane: Lane::default(),
            is_draining: AtomicBool::new(false),
        })))
    }
}

#[cfg(feature = "otlp")]
impl App {
    /// Sends the traces that wait.
    pub async fn end_traces(&self) {
        let app = self.clone();
        let end = move || app.traces.as_ref().map(crate::otlp::Traces::end);
        if let Err(error) = tokio::task::spawn_blocking(end).await {
            tracing::error!("the last traces were not sent: {error}");
        }
    }
}

impl Inner {
    /// Whether the server takes requests.
    pub fn is_ready(&self) -> bool {
        !self.is_draining.load(Ordering::Acquire)
    }

    /// From now on the server is not ready.
    pub fn begin_draining(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// The deadline of a request that comes now.
    pub fn deadline(&self) -> Instant {
        after(self.config.queue_timeout)
    }

    /// Decodes an image and does the work on it, when no other such work runs. The work is cancelled when its client leaves
    /// and when its deadline passes.
    ///
    /// # Errors
    /// Those of the work, an image that cannot be read, a full lane, a passed deadline.
    pub async fn at_length<T: Send + 'static>(
        &self,
        file: Bytes,
        work: impl FnOnce(&RgbImage, &Cancel) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let deadline = after(self.config.explain_timeout);
        let _place = self.lane.place()?;
        let image = self.decoder.image(file, deadline).await?;
        self.lane.run(deadline, move |cancel| work(&image, cancel)).await
    }

    /// Decodes images and asks the model.
    ///
    /// # Errors
    /// Images that cannot be read, a full queue, a passed deadline.
    pub async fn ask(
        &self,
        served: &Arc<Served>,
        files: Vec<Bytes>,
        wants: Wants,
    ) -> Result<(Answer, Timing), ApiError> {
        let deadline = self.deadline();
        let prepared = self.decoder.prepare(files, served, deadline).await?;
        self.telemetry.decoded(prepared.took);
        self.compute(served, prepared, wants, deadline).await
    }

    /// Asks the model about pixels.
    ///
    /// # Errors
    /// A full queue, a passed deadline.
    pub async fn compute(
        &self,
        served: &Arc<Served>,
        Prepared { pixels, images, took }: Prepared,
        wants: Wants,
        deadline: Instant,
    ) -> Result<(Answer, Timing), ApiError> {
        if wants.logits && served.num_classes() == 0 {
            let (name, can) = (served.name(), served.can().join(", "));
            return Err(ApiError::Parameter(format!("model '{name}' has no classes; it can {can}")));
        }
        let ticket = served.submit(Job { pixels, images, wants }, deadline)?;
        let reply = ticket.wait().await?;
        self.telemetry.answered(served.name(), images, reply.batch, reply.waited, reply.computed);
        let ms = |time: Duration| 1000.0 * time.as_secs_f64();
        let timing = Timing { decode: ms(took), queue: ms(reply.waited), compute: ms(reply.computed) };
        #[cfg(feature = "otlp")]
        crate::otlp::answered(served.name(), images, reply.batch, timing);
        Ok((reply.answer, timing))
    }
}

/// So much later. Beyond the end of time there is nothing: at most a year.
fn after(time: Duration) -> Instant {
    Instant::now() + time.min(Duration::from_secs(365 * 24 * 3600))
}
