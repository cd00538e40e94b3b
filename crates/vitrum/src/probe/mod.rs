//! What are a model's features worth? The same features, read by several methods.
//!
//! [`features()`] runs the frozen model once over the training and the validation images of a dataset, and keeps the result
//! on disk. [`Knn`] asks the nearest training images, [`Ridge`] solves the ViT paper's few-shot regression, [`Linear`]
//! trains MAE's linear probe. [`finetune()`] trains the whole model. Each gives [`Row`]s of one table.
//!
//! ```no_run
//! use vitrum::data::train_set::{TrainDataOptions, TrainValSets};
//! use vitrum::prelude::*;
//! use vitrum::probe::{FeatureOptions, Knn, Linear, Probe, Ridge, features};
//!
//! fn main() -> Result<(), Error> {
//!     let embedder = Embedder::load("model/")?.pack();
//!     let sets = TrainValSets::open(&TrainDataOptions::new("flowers/"))?;
//!     let found = features(&embedder, &sets, &FeatureOptions::default(), &mut |_, _| {})?;
//!     let probe = Probe {
//!         knn: Some(Knn::default()),
//!         ridge: Some(Ridge::default()),
//!         linear: Some(Linear::default()),
//!     };
//!     for row in probe.rows(&found, embedder.device(), &mut |_| {})? {
//!         println!("{} {}: {:.1} %", row.method, row.setting, row.top1);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! The validation images choose nothing: `l2` of the regression is chosen on training images that are held out, the linear
//! probe is scored after its last epoch. Fine-tuning alone reports its best epoch, as training does.

mod cache;
#[cfg(feature = "plots")]
pub mod chart;
mod error;
mod features;
mod finetune;
mod fingerprint;
pub mod knn;
pub mod linear;
mod pool;
pub mod ridge;
mod row;

pub use error::ProbeError;
pub use features::{FeatureOptions, FeatureSet, Features, Part, features};
pub use finetune::finetune;
pub use fingerprint::fingerprint;
pub use knn::{Knn, Metric};
pub use linear::Linear;
pub use pool::{Pool, pooled_as};
pub use ridge::{Ridge, Shots};
pub use row::{Row, Tally};

use burn::tensor::{Device, Tensor};

/// The methods on frozen features, in the order of the table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probe {
    /// Nearest neighbours.
    pub knn: Option<Knn>,
    /// Few-shot regression.
    pub ridge: Option<Ridge>,
    /// The linear probe.
    pub linear: Option<Linear>,
}

impl Probe {
    /// Refuses invalid options, before any work. `images` is the number of training images.
    ///
    /// # Errors
    /// [`ProbeError::Option`], [`ProbeError::TooManyNeighbours`].
    pub fn check(&self, images: usize) -> Result<(), ProbeError> {
        self.knn.as_ref().map_or(Ok(()), |knn| knn.check(images))?;
        self.ridge.as_ref().map_or(Ok(()), Ridge::check)?;
        self.linear.as_ref().map_or(Ok(()), Linear::check)
    }

    /// All rows. `watch` is told each method before it begins.
    ///
    /// # Errors
    /// [`ProbeError`] of the first method that fails.
    pub fn rows(
        &self,
        features: &Features,
        device: &Device,
        watch: &mut dyn FnMut(&str),
    ) -> Result<Vec<Row>, ProbeError> {
        let mut rows = Vec::new();
        if let Some(knn) = &self.knn {
            watch("knn");
            rows.extend(knn.rows(features, device)?);
        }
        if let Some(ridge) = &self.ridge {
            watch("ridge");
            rows.extend(ridge.rows(features)?);
        }
        if let Some(linear) = &self.linear {
            watch("linear");
            rows.extend(linear.rows(features, device)?);
        }
        Ok(rows)
    }
}

/// The product `[M, K] [K, N] -> [M, N]`, on the layers' own kernel.
fn product(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    vitrum_kernels::linear(a, b, None)
}
