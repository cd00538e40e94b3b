//! What a model is used for: classifying, embedding, evaluating, predicting masked patches.

pub mod attention;
pub mod classify;
pub mod embed;
pub mod evaluate;
pub mod mask;
pub mod reconstruct;

pub use attention::AttentionMap;
pub use classify::{Classifier, Prediction};
pub use embed::{Embedder, nearest};
pub use mask::{MaskKind, MaskSampler};
pub use reconstruct::Reconstructor;
