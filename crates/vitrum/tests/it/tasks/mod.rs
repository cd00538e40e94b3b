//! What models are used for.

mod evaluate;
mod front;
mod photos;
