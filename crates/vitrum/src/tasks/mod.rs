//! What a model is used for: classifying, embedding, evaluating.

pub mod attention;
pub mod classify;
pub mod embed;
pub mod evaluate;

pub use attention::AttentionMap;
pub use classify::{Classifier, Prediction};
pub use embed::{Embedder, nearest};
