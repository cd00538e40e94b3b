//! What models are used for.

mod photos;
