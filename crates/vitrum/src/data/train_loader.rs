//! Augmented batches in an order that is a function of (seed, epoch) alone.
