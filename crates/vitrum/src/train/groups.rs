//! Which parameters decay, and how fast each learns.
