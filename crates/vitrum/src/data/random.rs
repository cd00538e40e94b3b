//! Random numbers that depend only on their purpose.
//!
//! A picture's augmentation depends on (seed, epoch, picture, repeat), a batch's mixing and masks on (seed, epoch, batch), an
//! epoch's order on (seed, epoch). Nothing depends on the number of threads or on earlier draws. So a resumed run
//! draws the same numbers.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The generator of every random choice.
pub type DataRng = ChaCha8Rng;

/// Purposes of random numbers; each has its own streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Purpose {
    Sample = 1,
    Batch = 2,
    Order = 3,
    Split = 4,
    Probe = 5,
    Mask = 6,
    ValMask = 7,
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

/// The generator of the masks of one batch.
pub fn mask_rng(seed: u64, epoch: u64, batch: u64) -> DataRng {
    stream(seed, Purpose::Mask, [epoch, batch, 0])
}

/// The generator of the mask of one validation picture, the same in every epoch.
pub fn val_mask_rng(seed: u64, index: u64) -> DataRng {
    stream(seed, Purpose::ValMask, [index, 0, 0])
}

/// The generator of the images of one class that a probe learns from.
pub fn probe_rng(seed: u64, class: u64) -> DataRng {
    stream(seed, Purpose::Probe, [class, 0, 0])
}

/// ChaCha's key holds all inputs: they fit into 256 bits, so no two streams are equal.
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
