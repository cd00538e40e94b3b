//! Recipe → loop → checkpoint.
//!
//! Reading order: [`recipe`] says what a run depends on, [`optim`], [`schedule`], [`ema`] and [`objective`] are its
//! mathematics, [`fit`] is the loop, [`resume`] keeps it on disk, [`log`] tells of it.

pub mod clip;
pub mod ema;
pub mod fit;
pub mod groups;
pub mod log;
pub mod objective;
pub mod optim;
pub mod recipe;
pub mod resume;
pub mod schedule;
