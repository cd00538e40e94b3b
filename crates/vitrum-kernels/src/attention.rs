//! Attention without the `[B, A, Q, K]` weights.
//!
//! Queries, keys and values are rows somewhere in memory: of one tensor (a packed projection), of two, or of three. All
//! forms run through the same code.
//!
//! Forward, for each block of [`QUERIES`] queries of one head: scores are computed for [`KEYS`] keys at a time, with the
//! softmax's running maximum and sum (arXiv:2205.14135), and multiplied with the values while they are in cache.
//! Backward, for each head: the weights of a tile are computed again from the row maxima and sums.
//!
//! Scores are held transposed, `[key, query]`: maxima, exponentials and sums of sixteen queries then run in vector
//! registers with nothing to add up across lanes, keys are read where the projection left them, and the second product
//! finds its output rows as the context wants them. Only queries (and in the backward pass the incoming gradient) are
//! transposed, once per block.
//!
//! Best of several rounds in µs, `f32`, two threads of a Cascade Lake machine that others were using (so these are
//! lower bounds of each, not a fair mean); forward, then forward and backward:
//!
//! | B, T, D, heads | this | reference | torch 2.15 | this | reference | torch |
//! |---|---|---|---|---|---|---|
//! | 1, 197, 192, 3 | 247 | 2204 | 317 | 1127 | 4849 | 2784 |
//! | 8, 197, 192, 3 | 4104 | 21732 | 3952 | 16377 | 115646 | 25925 |
//! | 1, 197, 384, 6 | 829 | 3607 | 552 | 3300 | 13384 | 3204 |
//! | 1, 197, 768, 12 | 1378 | 7368 | 1420 | 7568 | 43687 | 9797 |
//! | 8, 197, 768, 12 | 24009 | 143869 | 24744 | 77582 | 441577 | 153457 |
//! | 1, 577, 768, 12 | 23638 | 131520 | 25958 | 83375 | 310713 | 117315 |
//! | 64, 65, 192, 3 | 6358 | 38375 | 3440 | 33481 | 171089 | 56712 |
//!
//! Of one thread's forward time at 197 tokens, products take 57 %, softmax and transposition 36 %. Tried on the way:
//! a store per transposed number and rows copied by `memcpy` (11 % slower in all); sums of 577 terms in one chain
//! (error 1.2e-6 instead of 6.6e-7 of the largest number). The sizes below are reasoned, not searched.

mod backward;
mod call;
mod forward;
mod inputs;
mod pairs;
pub(crate) mod portable;
mod tile;

pub(crate) use backward::{Saved, backward};
pub(crate) use call::Operands;
pub(crate) use forward::forward;
pub use inputs::{AttentionForm, AttentionInputs, Projections};
pub(crate) use pairs::forward_bf16;

/// Queries per block, at most: four AVX-512 registers of `f32`, so that keys are read once per block; 197 tokens (ViT at 224
/// pixels) make blocks of 48 and 64.
const QUERIES: usize = 64;
/// Keys per tile: scores take 32 KB in `f32`, values of 64 columns another 32, which stay in the second-level cache
/// and mostly in the first.
const KEYS: usize = 128;
/// Rows of scratch are padded to this many numbers, the longest vector.
const PAD: usize = 16;
