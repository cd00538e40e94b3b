#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod data;
pub mod error;
pub mod layers;
pub mod models;
pub mod prelude;
pub mod tasks;
pub mod train;

pub use burn;
pub use error::Error;
