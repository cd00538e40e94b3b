//! The names that most programs need: `use vitrum::prelude::*;`.

pub use burn::module::Module;
pub use burn::tensor::{DType, Device, Tensor};

pub use crate::Error;
pub use crate::checkpoint::load::{LoadOptions, Loaded, load};
pub use crate::data::{DecodeOptions, Preprocess, RgbImage};
pub use crate::models::{Config, Model, ModelConfig, Network, Precision};
pub use crate::tasks::{AttentionMap, Classifier, Embedder, Prediction, nearest};
#[cfg(feature = "train")]
pub use crate::train::log::{Event, Watch};
#[cfg(feature = "train")]
pub use crate::train::{Fit, Job, Outcome, Recipe, fit};
