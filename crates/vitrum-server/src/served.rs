//! A model that answers: packed weights behind a queue, its labels, and its explanations.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use utoipa::ToSchema;
use vitrum::Error;
use vitrum::checkpoint::card::ProblemType;
use vitrum::checkpoint::load::{Loaded, ModelError};
use vitrum::data::{Preprocess, RgbImage, batch};
use vitrum::explain::{ExplainError, Explainer, Query};
use vitrum::models::{Config, Model, Network};
use vitrum::prelude::{Device, Tensor};
use vitrum::tasks::Reconstructor;
use vitrum::tasks::classify::{Prediction, rows, sigmoid, softmax, top_k};
use vitrum::tasks::embed::pooled;

use crate::batcher::{Batcher, BatcherError, Ticket};
use crate::config::ServerConfig;
use crate::error::NOT_FINITE;
use crate::queue::Refusal;

/// What a request wants to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Logits, or the numbers of a regression.
    pub logits: bool,
    /// The input of the classifier.
    pub embedding: bool,
}

impl Wants {
    /// Logits alone.
    pub const LOGITS: Self = Self { logits: true, embedding: false };
    /// The embedding alone.
    pub const EMBEDDING: Self = Self { logits: false, embedding: true };
}

/// The images of a request.
#[derive(Debug)]
pub struct Job {
    /// `[N, C, H, W]`, normalised.
    pub pixels: Vec<f32>,
    /// `N`.
    pub images: usize,
    /// What is asked.
    pub wants: Wants,
}

/// What the model says of a request's images. What was not asked is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// `[N][K]`.
    pub logits: Vec<Vec<f64>>,
    /// `[N][D]`, not normalised.
    pub embeddings: Vec<Vec<f64>>,
}

/// A class or a number of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Ranked {
    /// Its index.
    pub index: usize,
    /// Its name, or its index if it has none.
    pub label: String,
    /// The probability, or the number of a regression.
    pub prob: f64,
}

impl From<Prediction> for Ranked {
    fn from(prediction: Prediction) -> Self {
        Self { index: prediction.index, label: prediction.name(), prob: prediction.prob }
    }
}

/// A model that cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeModelError {
    /// Loading failed.
    #[error("{0}")]
    Load(Box<dyn std::error::Error + Send + Sync>),
    /// The library refuses the model.
    #[error(transparent)]
    Model(#[from] Error),
    /// Nothing says how images are prepared.
    #[error("how images are prepared for this model is not known")]
    NoPreprocess,
    /// The first pass failed.
    #[error("the first pass failed: {0}")]
    FirstPass(String),
    /// No threads.
    #[error(transparent)]
    Threads(#[from] BatcherError),
}

/// A model that answers.
pub struct Served {
    name: String,
    family: &'static str,
    params: u64,
    preprocess: Preprocess,
    labels: Option<Vec<String>>,
    problem: ProblemType,
    num_classes: usize,
    width: usize,
    has_attention: bool,
    explainer: Option<Explainer>,
    reconstructor: Option<Reconstructor>,
    batcher: Batcher<Job, Answer>,
}

impl Served {
    /// Packs a loaded model, starts its threads, and computes a first image.
    ///
    /// # Errors
    /// [`ServeModelError`].
    pub fn start(name: &str, loaded: Loaded, config: &ServerConfig) -> Result<Self, ServeModelError> {
        loaded.model.as_backbone().map_err(ModelError::from).map_err(Error::from)?;
        let preprocess = loaded.preprocess.clone().ok_or(ServeModelError::NoPreprocess)?;
        preprocess.check().map_err(Error::from)?;
        let model = loaded.model.clone().pack();
        let num_classes = model.classify().map_or(0, |classify| classify.num_classes());
        let device = Device::flex();
        let first = first_pass(&model, &preprocess, num_classes > 0, &device)?;
        let width = first.embeddings.first().map_or(0, Vec::len);
        let walk = model.config().walk().map_err(Error::from)?;
        let (family, params) = (model.family(), walk.params);
        let problem = loaded.card.as_ref().map(|card| card.problem).unwrap_or_default();
        let labels = loaded.labels.clone();
        let reconstructor = match loaded.model.reconstruct() {
            Some(_) => Some(Reconstructor::new(loaded.clone(), device.clone())?),
            None => None,
        };
        let explainer = explainer(loaded, &device)?;
        let has_attention = match &explainer {
            Some(explainer) => has_attention(explainer)?,
            None => false,
        };
        let shape = preprocess.input_size;
        let compute = Arc::new(move |jobs: Vec<Job>| answer(&model, &device, shape, &jobs));
        let limits = config.queue_limits();
        let batcher = Batcher::start(name, limits, config.workers, config.threads_of_worker(), compute)?;
        Ok(Self {
            name: name.to_string(),
            family,
            params,
            preprocess,
            labels,
            problem,
            num_classes,
            width,
            has_attention,
            explainer,
            reconstructor,
            batcher,
        })
    }

    /// Its name in requests.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its family.
    pub fn family(&self) -> &'static str {
        self.family
    }

    /// Number of parameters.
    pub fn params(&self) -> u64 {
        self.params
    }

    /// How images are prepared.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// `C`, `H` and `W` of its input.
    pub fn input(&self) -> [usize; 3] {
        self.preprocess.input_size
    }

    /// `K`; 0 without a head.
    pub fn num_classes(&self) -> usize {
        self.num_classes
    }

    /// `D`, the width of an embedding.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whether its outputs are numbers, not classes.
    pub fn is_regression(&self) -> bool {
        self.problem == ProblemType::Regression
    }

    /// Whether attention can be shown.
    pub fn has_attention(&self) -> bool {
        self.has_attention
    }

    /// Its explanations. A model in int8 or bf16 has none.
    pub fn explainer(&self) -> Option<&Explainer> {
        self.explainer.as_ref()
    }

    /// Its predictions of masked patches, if it has a decoder.
    pub fn reconstructor(&self) -> Option<&Reconstructor> {
        self.reconstructor.as_ref()
    }

    /// Images that wait.
    pub fn waiting(&self) -> usize {
        self.batcher.waiting()
    }

    /// What requests may ask of it.
    pub fn can(&self) -> Vec<&'static str> {
        let can = [
            ("predict", self.num_classes > 0),
            ("embed", true),
            ("explain", self.explainer.is_some()),
            ("reconstruct", self.reconstructor.is_some()),
        ];
        can.into_iter().filter(|(_, can)| *can).map(|(what, _)| what).collect()
    }

    /// Queues a job.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn submit(&self, job: Job, deadline: Instant) -> Result<Ticket<Answer>, Refusal> {
        let images = job.images;
        self.batcher.submit(job, images, deadline)
    }

    /// Takes no more jobs, computes those that wait, and ends the threads.
    pub fn drain(&self) {
        self.batcher.drain();
    }

    /// The name of a class, or its index.
    pub fn label(&self, index: usize) -> String {
        let label = self.labels.as_ref().and_then(|labels| labels.get(index));
        label.cloned().unwrap_or_else(|| index.to_string())
    }

    /// Softmax, the sigmoid of each class if an image may have several, or the numbers of a regression.
    pub fn scores(&self, logits: &[f64]) -> Vec<f64> {
        match self.problem {
            ProblemType::Regression => logits.to_vec(),
            ProblemType::MultiLabel => logits.iter().map(|logit| sigmoid(*logit)).collect(),
            _ => softmax(logits),
        }
    }

    /// The `k` most probable classes, most probable first; all numbers of a regression, in their order.
    pub fn ranked(&self, logits: &[f64], k: usize) -> Vec<Ranked> {
        let scores = self.scores(logits);
        let order = match self.is_regression() {
            true => (0..scores.len()).collect(),
            false => top_k(&scores, k),
        };
        let ranked = |index: usize| Ranked { index, label: self.label(index), prob: scores[index] };
        order.into_iter().map(ranked).collect()
    }
}

/// A vector divided by its length; zeros stay.
pub fn unit(vector: &[f64]) -> Vec<f32> {
    let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    vector.iter().map(|value| (value / length) as f32).collect()
}

/// The answer to a grey image: a model that cannot answer is not served.
fn first_pass(
    model: &Model,
    preprocess: &Preprocess,
    logits: bool,
    device: &Device,
) -> Result<Answer, ServeModelError> {
    let pixels = preprocess.apply(&grey(preprocess)?).map_err(Error::from)?;
    let job = Job { pixels, images: 1, wants: Wants { logits, embedding: true } };
    let answer = answer(model, device, preprocess.input_size, &[job]).pop();
    let missing = || Err("no answer".to_string());
    answer.unwrap_or_else(missing).map_err(ServeModelError::FirstPass)
}

/// A grey image of the model's size.
fn grey(preprocess: &Preprocess) -> Result<RgbImage, Error> {
    let [_, height, width] = preprocess.input_size;
    let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
    Ok(RgbImage::filled(side(width), side(height), [128; 3])?)
}

/// Explanations, if the weights are in f32.
fn explainer(loaded: Loaded, device: &Device) -> Result<Option<Explainer>, ServeModelError> {
    match Explainer::new(loaded, device.clone()) {
        Ok(explainer) => Ok(Some(explainer)),
        Err(Error::Explain(ExplainError::Prepared { .. })) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn has_attention(explainer: &Explainer) -> Result<bool, ServeModelError> {
    let view = explainer.view(&grey(explainer.preprocess())?)?;
    match explainer.attention(&view, Query::Answer) {
        Ok(_) => Ok(true),
        Err(Error::Explain(ExplainError::NoAttention { .. })) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// One pass for all jobs that want logits, and one for those that want embeddings.
fn answer(model: &Model, device: &Device, shape: [usize; 3], jobs: &[Job]) -> Vec<Result<Answer, String>> {
    let logits = |x| model.logits(x).map(rows).map_err(|error| error.to_string());
    let embeddings = |x| pooled(model, x).map(rows).map_err(|error| error.to_string());
    let logits = of_those(model, device, shape, jobs, |wants| wants.logits, logits);
    let embeddings = of_those(model, device, shape, jobs, |wants| wants.embedding, embeddings);
    let both = |(logits, embeddings)| Ok(Answer { logits: logits?, embeddings: embeddings? });
    logits.into_iter().zip(embeddings).map(both).collect()
}

type Rows = Vec<Vec<f64>>;

/// The rows of each job: those of a pass over the jobs that want them, none for the others.
fn of_those(
    model: &Model,
    device: &Device,
    [channels, height, width]: [usize; 3],
    jobs: &[Job],
    wants: impl Fn(Wants) -> bool,
    compute: impl Fn(Tensor<4>) -> Result<Rows, String>,
) -> Vec<Result<Rows, String>> {
    let those: Vec<&Job> = jobs.iter().filter(|job| wants(job.wants)).collect();
    let images: usize = those.iter().map(|job| job.images).sum();
    if images == 0 {
        return vec![Ok(Rows::new()); jobs.len()];
    }
    let mut values = Vec::with_capacity(images * channels * height * width);
    those.iter().for_each(|job| values.extend_from_slice(&job.pixels));
    let pixels = batch::to_tensor(values, [images, channels, height, width], model.dtype(), device);
    let mut rows = match pixels.map_err(|error| error.to_string()).and_then(compute) {
        Ok(rows) => rows.into_iter(),
        Err(why) => return vec![Err(why); jobs.len()],
    };
    let of_job = |job: &Job| {
        if !wants(job.wants) {
            return Ok(Rows::new());
        }
        let own: Rows = rows.by_ref().take(job.images).collect();
        let is_finite = own.len() == job.images && own.iter().flatten().all(|value| value.is_finite());
        // The values of one request cannot spoil the answers of the others.
        if is_finite { Ok(own) } else { Err(NOT_FINITE.to_string()) }
    };
    jobs.iter().map(of_job).collect()
}
