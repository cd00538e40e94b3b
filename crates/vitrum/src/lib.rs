//! Vision Transformers in Rust: from real checkpoints to right answers on real images.
//!
//! Reading order: [`data`] turns a file into pixels, [`layers`] and [`models`] turn pixels into
//! logits, [`checkpoint`] fills a model with pretrained weights, [`tasks`] puts the three together.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod data;
pub mod error;
pub mod layers;
pub mod models;
pub mod tasks;
pub mod train;

pub use error::Error;

/// Compiles the README's example as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
