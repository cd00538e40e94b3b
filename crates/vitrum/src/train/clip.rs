//! Clipping of gradients.
