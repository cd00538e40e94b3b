//! What a trained model is for.

pub mod classify;
pub mod embed;
pub mod evaluate;

pub use classify::{Classifier, Prediction};
pub use embed::Embedder;
