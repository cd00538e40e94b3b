#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
// In a build with fewer features, some parts serve only what is absent.
#![cfg_attr(
    not(all(feature = "train", feature = "npz", feature = "pytorch", feature = "tar")),
    allow(dead_code, unused_imports)
)]

pub mod checkpoint;
pub mod data;
pub mod error;
#[cfg(feature = "explain")]
pub mod explain;
pub mod layers;
pub mod models;
#[cfg(feature = "plots")]
pub(crate) mod paint;
pub mod prelude;
#[cfg(feature = "train")]
pub mod probe;
#[cfg(feature = "train")]
pub mod study;
pub mod tasks;
#[cfg(feature = "train")]
pub mod train;

pub use burn;
pub use error::Error;
#[cfg(feature = "mimalloc")]
pub use vitrum_kernels::memory::keep_freed_memory;
