//! What a model looks at, and why it answers as it does.
//!
//! ```text
//! attention               of every layer and head                             maps
//! rollout                 through all layers, without a class                 arXiv:2005.00928
//! relevance               through all layers, weighted by gradients           arXiv:2103.15679
//! Grad-CAM                channels weighted by their gradients                arXiv:1610.02391
//! integrated gradients    of pixels, from a baseline to the image             arXiv:1703.01365
//! occlusion               what the score loses behind a moving square         arXiv:1311.2901
//! colours, similarity     principal components and cosines of patch features  arXiv:2304.07193
//! filters, positions, distances                                               arXiv:2010.11929, figures 7 and 11
//! ```
//!
//! No method asks for names of layers. The model tells an observer where its attention lies (tokens, windows, coarser
//! grids); gradients are taken between the links of its [`Chain`](crate::models::Chain).

mod attention;
mod cam;
mod cancel;
mod features;
mod figures;
mod flow;
mod gradient;
mod occlusion;
#[cfg(feature = "plots")]
pub mod page;
#[cfg(feature = "plots")]
pub mod picture;

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use serde::Serialize;

pub use attention::{AttentionMaps, LayerAttention, Query, RolloutOptions};
pub use cam::CamOptions;
pub use cancel::Cancel;
pub use features::PatchColours;
pub use figures::{Distances, Filters};
pub use flow::Fusion;
pub use gradient::{Baseline, IntegratedGradients, IntegrationOptions};
pub use occlusion::OcclusionOptions;

use crate::Error;
use crate::checkpoint::card::ProblemType;
use crate::checkpoint::load::{LoadOptions, Loaded, ModelError, load};
use crate::data::{Preprocess, RgbImage, batch};
use crate::layers::observe::Silent;
use crate::models::{Backbone, Classify, Model, Network, Want};
use crate::tasks::attention::between_cells;
use crate::tasks::classify::{Prediction, preprocess_of, rows, sigmoid, softmax, top_k};

/// An explanation that cannot be given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// The model has no attention weights to show.
    #[error("a {family} without attention: it has no attention maps, rollout or relevance")]
    NoAttention {
        /// The model's family.
        family: &'static str,
    },
    /// The model has no classes.
    #[error("{model} has no classes, so there is no score to explain")]
    NoClasses {
        /// The model as it was asked for.
        model: String,
    },
    /// No class has this number or name.
    #[error("no class '{asked}'; {}", classes(*.count, .nearest))]
    NoClass {
        /// The number or name.
        asked: String,
        /// Number of classes.
        count: usize,
        /// Similar names.
        nearest: Vec<String>,
    },
    /// Several classes fit the name.
    #[error("several classes match '{asked}': {}", found.join(", "))]
    SeveralClasses {
        /// The name.
        asked: String,
        /// The classes, at most eight of them.
        found: Vec<String>,
    },
    /// A model whose weights are prepared for inference has no gradients.
    #[error("a model in {precision} has no gradients; expected one in f32")]
    Prepared {
        /// How the weights are prepared.
        precision: String,
    },
    /// A number that is out of range.
    #[error("{what} is {found}, expected {expected}")]
    Range {
        /// The option.
        what: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// A block gives no patches, because the head reads none.
    #[error("block {block} gives no patches: the head reads the tokens in front alone")]
    NoPatches {
        /// The block, from 0.
        block: usize,
    },
    /// [`Cancel`] ended the explanation.
    #[error("the explanation was cancelled")]
    Cancelled,
    /// The model has no such table.
    #[error("a {family} has no {what}")]
    Missing {
        /// The model's family.
        family: &'static str,
        /// What it lacks.
        what: &'static str,
    },
}

/// The classes that there are, in words.
fn classes(count: usize, nearest: &[String]) -> String {
    let numbers = format!("classes have the numbers 0 to {}", count.saturating_sub(1));
    if nearest.is_empty() { numbers } else { format!("similar names: {}; {numbers}", nearest.join(", ")) }
}

/// A number for each cell of a grid over an image, row by row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeatMap {
    /// Rows and columns.
    pub grid: [usize; 2],
    /// The numbers. Negative ones speak against the class, if the method has any.
    pub values: Vec<f32>,
}

impl HeatMap {
    /// The least and the largest number.
    pub fn range(&self) -> [f32; 2] {
        let fold = |f: fn(f32, f32) -> f32| self.values.iter().copied().reduce(f).unwrap_or(0.0);
        [fold(f32::min), fold(f32::max)]
    }

    /// The number at a position of the image, from 0 to 1, bilinear between the centres of cells.
    pub fn at(&self, y: f32, x: f32) -> f32 {
        between_cells(&self.values, self.grid, y, x)
    }

    /// The map, if all its numbers are finite.
    fn finite(self) -> Result<Self, Error> {
        if self.values.iter().all(|value| value.is_finite()) {
            Ok(self)
        } else {
            Err(Error::NotFinite { image: 0 })
        }
    }
}

/// An image as the model sees it.
#[derive(Clone, Debug)]
pub struct View {
    /// Resized and cropped.
    pub image: RgbImage,
    /// The same, normalised, `[1, C, H, W]`.
    pub pixels: Tensor<4>,
}

/// A loaded model with what explanations need. Clones share the model.
#[derive(Clone, Debug)]
pub struct Explainer {
    loaded: Arc<Loaded>,
    preprocess: Preprocess,
    device: Device,
    /// The model on the device that records gradients. Its parameters get none.
    recording: Arc<Model>,
    cancel: Cancel,
}

impl Explainer {
    /// A model from a folder, a name with weights, or `hf:ORG/NAME`, on the CPU.
    ///
    /// # Errors
    /// Faulty files, or a card without preprocessing.
    pub fn load(source: impl AsRef<Path>) -> Result<Self, Error> {
        let device = Device::flex();
        Self::new(load(&LoadOptions::new(source.as_ref()), &device)?, device)
    }

    /// An explainer of a loaded model. It must not be prepared for inference ([`Model::pack`]).
    ///
    /// # Errors
    /// [`ExplainError::Prepared`]; [`Error::NoPreprocess`] if the preprocessing is unknown, [`Error::Preprocess`] if it is
    /// invalid; [`ModelError::Cannot`] if the model makes no features.
    pub fn new(loaded: Loaded, device: Device) -> Result<Self, Error> {
        loaded.model.as_backbone().map_err(ModelError::from)?;
        for (count, name) in [(loaded.model.quantized_layers(), "int8"), (loaded.model.bf16_layers(), "bf16")]
        {
            if count > 0 {
                return Err(ExplainError::Prepared { precision: name.into() }.into());
            }
        }
        let preprocess = preprocess_of(&loaded)?;
        let recording = recording(&loaded.model);
        Ok(Self { loaded: Arc::new(loaded), preprocess, device, recording, cancel: Cancel::default() })
    }

    /// The same explainer, whose methods end with [`ExplainError::Cancelled`] once `cancel` says so. They ask before each
    /// pass, and Grad-CAM before each block; a pass that has begun is computed to its end.
    #[must_use]
    pub fn cancelled_by(&self, cancel: Cancel) -> Self {
        Self { cancel, ..self.clone() }
    }

    /// The model with all that came with it.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.loaded.model
    }

    /// The preprocessing of images.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// The image as the model sees it.
    ///
    /// # Errors
    /// An image that cannot be preprocessed.
    pub fn view(&self, image: &RgbImage) -> Result<View, Error> {
        let images = std::slice::from_ref(image);
        let pixels = batch::of_images(images, &self.preprocess, self.model().dtype(), &self.device)?;
        Ok(View { image: self.preprocess.transform(image)?, pixels })
    }

    /// Whether the model has classes, so that a score can be explained.
    pub fn has_classes(&self) -> bool {
        self.model().classify().is_some_and(|classify| classify.num_classes() > 0)
    }

    /// The `k` best classes of a view; for a model of numbers, all of them.
    ///
    /// # Errors
    /// [`ExplainError::NoClasses`], [`Error::NotFinite`].
    pub fn answers(&self, view: &View, k: usize) -> Result<Vec<Prediction>, Error> {
        let scores = self.scores(view.pixels.clone())?.pop().unwrap_or_default();
        let prediction = |index: usize| Prediction {
            index,
            label: self.label(index).map(str::to_string),
            prob: scores[index],
        };
        Ok(top_k(&scores, k).into_iter().map(prediction).collect())
    }

    /// The name of a class.
    pub fn label(&self, index: usize) -> Option<&str> {
        self.loaded.labels.as_ref()?.get(index).map(String::as_str)
    }

    /// The class of a number or a name. A part of a name is enough if one class alone has it; upper and lower case are the
    /// same.
    ///
    /// # Errors
    /// [`ExplainError::NoClasses`], [`ExplainError::NoClass`], [`ExplainError::SeveralClasses`].
    pub fn class(&self, asked: &str) -> Result<usize, Error> {
        let count = self.classify()?.num_classes();
        if let Ok(index) = asked.parse::<usize>()
            && index < count
        {
            return Ok(index);
        }
        let names = self.loaded.labels.as_deref().unwrap_or_default();
        Ok(class_of(asked, count, names)?)
    }

    /// Softmax, or the sigmoid of each class, or the numbers of a regression, of images `[B, C, H, W]`.
    fn scores(&self, pixels: Tensor<4>) -> Result<Vec<Vec<f64>>, Error> {
        let rows = self.logits(pixels)?;
        let problem = self.loaded.card.as_ref().map(|card| card.problem).unwrap_or_default();
        let score = |row: Vec<f64>| match problem {
            ProblemType::Regression => row,
            ProblemType::MultiLabel => row.into_iter().map(sigmoid).collect(),
            _ => softmax(&row),
        };
        Ok(rows.into_iter().map(score).collect())
    }

    /// Logits of images `[B, C, H, W]`, in f64.
    fn logits(&self, pixels: Tensor<4>) -> Result<Vec<Vec<f64>>, Error> {
        self.classify()?;
        self.cancel.check()?;
        let rows = rows(self.model().logits(pixels).map_err(ModelError::from)?);
        match rows.iter().position(|row| !row.iter().all(|logit| logit.is_finite())) {
            Some(image) => Err(Error::NotFinite { image }),
            None => Ok(rows),
        }
    }

    /// The model as a classifier with classes.
    fn classify(&self) -> Result<&dyn Classify, Error> {
        let no_classes = || ExplainError::NoClasses { model: self.loaded.name.clone() };
        let found = self.model().classify().filter(|classify| classify.num_classes() > 0);
        found.ok_or_else(|| no_classes().into())
    }

    /// The model as a classifier on the recording device, for a pass.
    fn recording(&self) -> Result<&dyn Classify, Error> {
        self.classify()?;
        self.cancel.check()?;
        Ok(self.recording.as_classifier().map_err(ModelError::from)?)
    }

    /// The model as a backbone, for a pass.
    fn backbone(&self) -> Result<&dyn Backbone, Error> {
        self.cancel.check()?;
        Ok(self.model().as_backbone().map_err(ModelError::from)?)
    }

    fn check_class(&self, class: usize) -> Result<(), Error> {
        let count = self.classify()?.num_classes();
        match class < count {
            true => Ok(()),
            false => {
                Err(ExplainError::NoClass { asked: class.to_string(), count, nearest: Vec::new() }.into())
            }
        }
    }

    /// The features of the last level, with the numbers of tokens that the head reads: 1 for a token that it reads, else 0.
    fn read_by_head(&self, view: &View) -> Result<flow::Tokens, Error> {
        let features = self.backbone()?.features(view.pixels.clone().into(), Want::Last, &mut Silent);
        let level = features.last();
        let recording = self.recording.as_backbone().map_err(ModelError::from)?;
        gradient::read_tokens(recording, level)
    }
}

/// The model on the device that records gradients.
fn recording(model: &Model) -> Arc<Model> {
    Arc::new(model.clone().train().no_grad())
}

/// The class of a name.
fn class_of(asked: &str, count: usize, names: &[String]) -> Result<usize, ExplainError> {
    let lower = asked.to_lowercase();
    let is_same = |name: &String| name.to_lowercase() == lower;
    if let Some(index) = names.iter().position(is_same) {
        return Ok(index);
    }
    let found: Vec<usize> =
        (0..names.len()).filter(|at| names[*at].to_lowercase().contains(&lower)).collect();
    match found[..] {
        [only] => Ok(only),
        [] => Err(ExplainError::NoClass { asked: asked.into(), count, nearest: nearest(&lower, names) }),
        _ => {
            let found = found.iter().take(8).map(|at| format!("{at} {}", names[*at])).collect();
            Err(ExplainError::SeveralClasses { asked: asked.into(), found })
        }
    }
}

/// The three most similar names.
fn nearest(asked: &str, names: &[String]) -> Vec<String> {
    let mut scored: Vec<(f64, &String)> =
        names.iter().map(|name| (strsim::jaro_winkler(asked, &name.to_lowercase()), name)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).filter(|(score, _)| *score > 0.7).map(|(_, name)| name.clone()).collect()
}

/// Numbers of a tensor as f32.
fn host<const R: usize>(x: Tensor<R>) -> Vec<f32> {
    x.cast(DType::F32).into_data().iter::<f32>().collect()
}
