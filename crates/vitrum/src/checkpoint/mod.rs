//! Pretrained weights: files, dialects, cards, reports.
//!
//! [`read`](read::read) turns a file or folder into named [`HostTensor`]s; [`dialect`] and [`keys`] give
//! them timm's names, [`convert`] their shapes; [`card`] says what model they belong to and how its images
//! are prepared; [`write`](mod@write) stores them again; [`inspect`](mod@inspect) and [`diff`](mod@diff) describe them. All this keeps tensors in
//! the host's memory and knows nothing of Burn.
//!
//! [`apply`](mod@apply) fills a model's parameters with them and reports every difference; [`load`](load::load) goes all
//! the way from what a user names to a model that answers; `hub` (feature `hub`) fetches what is not here.

pub mod apply;
pub mod card;
pub mod convert;
pub mod demo;
pub mod dialect;
pub mod diff;
pub mod epsilon;
pub mod error;
pub mod family;
pub(crate) mod fields;
pub mod finite;
#[cfg(feature = "hub")]
pub mod hub;
pub mod inspect;
pub mod key_file;
pub mod keys;
pub mod load;
pub mod naming;
pub mod quantize;
pub mod read;
pub mod report;
pub mod resample;
pub mod save;
pub mod suggest;
pub mod tensors;
pub mod write;

pub use crate::data::imagenet;
pub use card::ModelCard;
pub use error::LoadError;
pub use key_file::KeyFile;
pub use naming::Dialect;
pub use read::read;
pub use tensors::{Dtype, HostTensor, TensorError, TensorMap};
