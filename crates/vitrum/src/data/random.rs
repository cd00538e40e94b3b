//! Random numbers that depend on what they are for, and on nothing else.
//!
//! A picture's augmentation is a function of (seed, epoch, picture, repeat), a batch's mixing of (seed, epoch,
//! batch), an epoch's order of (seed, epoch): never of the number of threads, nor of what was drawn before. A run
//! that stops and goes on therefore draws the same numbers.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The generator behind every random choice.
pub type DataRng = ChaCha8Rng;

/// What random numbers are for; each purpose has its own streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Purpose {
    Sample = 1,
    Batch = 2,
    Order = 3,
    Split = 4,
}

/// The generator of one picture's augmentation in one epoch.
pub fn sample_rng(seed: u64, epoch: u64, index: u64, repeat: u64) -> DataRng {
    stream(seed, Purpose::Sample, [epoch, index, repeat])
}

/// The generator of one batch's mixing.
pub fn batch_rng(seed: u64, epoch: u64, batch: u64) -> DataRng {
    stream(seed, Purpose::Batch, [epoch, batch, 0])
}

/// The generator of one epoch's order.
pub fn order_rng(seed: u64, epoch: u64) -> DataRng {
    stream(seed, Purpose::Order, [epoch, 0, 0])
}

/// The generator of a split into parts.
pub fn split_rng(seed: u64) -> DataRng {
    stream(seed, Purpose::Split, [0, 0, 0])
}

/// ChaCha's key is made of all that the numbers depend on: 256 bits hold it whole, so that no two streams are alike.
fn stream(seed: u64, purpose: Purpose, [a, b, c]: [u64; 3]) -> DataRng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&a.to_le_bytes());
    key[16..24].copy_from_slice(&b.to_le_bytes());
    key[24..].copy_from_slice(&c.to_le_bytes());
    let mut rng = DataRng::from_seed(key);
    rng.set_stream(purpose as u64);
    rng
}
