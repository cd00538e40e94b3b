//! One error for callers who do not care which edge it came from.

/// Any error of this library. Each edge (decoding, checkpoints, datasets, model names) has its own
/// typed error; this one only wraps them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {}
