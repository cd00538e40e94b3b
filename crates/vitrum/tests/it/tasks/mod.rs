//! What models are used for.

mod evaluate;
mod photos;
