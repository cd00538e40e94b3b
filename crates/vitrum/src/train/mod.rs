//! Recipe → loop → checkpoint.
//!
//! Reading order: [`recipe`] says what a run depends on, [`mod@fit`] is the loop, [`trainer`] one update of it;
//! [`optim`], [`groups`], [`clip`], [`schedule`], [`ema`] and [`objective`] are its mathematics, [`backward`] its way
//! forth and back, [`precision`] in which numbers, [`statistics`] what BatchNorm learns; [`build`] makes the model, [`evaluate`] judges it; [`resume`] keeps a run on disk, [`log`] tells
//! of it.

pub mod backward;
pub mod build;
pub mod clip;
pub mod ema;
mod error;
pub mod evaluate;
pub mod evidence;
pub mod fit;
pub mod groups;
mod lock;
pub mod log;
pub mod objective;
pub mod optim;
pub mod precision;
pub mod recipe;
pub mod resume;
mod run;
pub mod schedule;
pub mod statistics;
pub mod trainer;

pub use error::TrainError;
pub use fit::{Job, NoRequests, Outcome, Requests, fit};
pub use recipe::Recipe;
