//! What models are used for.

mod evaluate;
mod front;
mod mask;
mod photos;
