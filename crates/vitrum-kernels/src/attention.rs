//! Attention that never stores the `[B, A, Q, K]` weights.
//!
//! Queries, keys and values are rows in memory: of one tensor (a packed projection), of two, or of three. All forms use
//! the same code.
//!
//! The forward pass takes blocks of [`QUERIES`] queries of one head. It computes scores for [`KEYS`] keys at a time,
//! keeps a running maximum and sum for the softmax (arXiv:2205.14135), and multiplies the weights with the values while
//! they are in cache. The backward pass goes head by head. It recomputes the weights of a tile from the row maxima and
//! sums.
//!
//! Scores are stored transposed, `[key, query]`. Maxima, exponentials and sums of sixteen queries then run in vector
//! registers without sums across lanes. Keys are read where the projection left them, and the second product writes its
//! rows in the order of the context. Only queries are transposed, once per block, and in the backward pass also the
//! gradient of the context.
//!
//! Best of several rounds in µs, `f32`, two threads of a shared Cascade Lake machine; so each number is a lower bound,
//! not a fair mean. The first three columns are the forward pass, the last three forward and backward:
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
//! At 197 tokens and one thread, products take 57 % of the forward time, softmax and transposition 36 %. Two variants
//! were worse: one store per transposed number with rows copied by `memcpy` (11 % slower in all), and sums of 577 terms
//! in one chain (error 1.2e-6 of the largest number instead of 6.6e-7). The sizes below were reasoned, not searched.
//! With AVX2, tiles of 6 x 2 vectors instead of 4 x 3 (see `product`) made PiT-S 1.12 times and ViT-S 1.07 times as fast.

mod backward;
mod call;
mod forward;
mod inputs;
mod pairs;
pub(crate) mod portable;
mod tile;
mod windows;

pub(crate) use backward::{Saved, backward};
pub(crate) use call::Operands;
pub(crate) use forward::forward;
pub use inputs::{AttentionForm, AttentionInputs, Projections};
pub(crate) use pairs::forward_bf16;
pub use windows::Windows;

/// Most queries per block: four AVX-512 registers of `f32`, so that keys are read once per block. 197 tokens (a ViT at
/// 224 pixels) make blocks of 48 and 64.
const QUERIES: usize = 64;
/// Keys per tile: scores take 32 KB in `f32`, values of 64 columns another 32 KB. They stay in the second-level cache
/// and mostly in the first.
const KEYS: usize = 128;
/// Rows of scratch are padded to a multiple of this many numbers, the longest vector.
const PAD: usize = 16;
