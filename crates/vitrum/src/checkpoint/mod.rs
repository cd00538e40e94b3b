//! Pretrained weights: files, dialects, cards, reports.

#[cfg(feature = "hub")]
pub mod hub;
