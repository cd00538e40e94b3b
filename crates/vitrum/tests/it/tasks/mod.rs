//! What models are used for.

mod front;
mod photos;
