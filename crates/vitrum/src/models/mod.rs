//! One paper, one file.

pub mod vit;
