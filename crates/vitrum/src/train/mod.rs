//! Recipe → loop → checkpoint.
//!
//! Reading order: [`recipe`] holds what a run depends on, [`mod@fit`] is the loop, [`trainer`] makes one update.
//! [`optim`], [`groups`], [`clip`], [`schedule`], [`ema`] and [`objective`] do the mathematics of an update,
//! [`backward`] runs forward and backward passes, [`precision`] sets their float type, [`statistics`] keeps BatchNorm's
//! statistics, [`distill`] adds a teacher, [`regression`] has the losses of numbers, [`pretext`] that of masked patches. [`build`] makes the model.
//! [`task`] names what a model is trained for, [`evaluate`] runs a model over a dataset, a
//! [`judge`](mod@judge) turns its logits into [`score`]s. [`resume`] keeps a run on disk, [`log`] writes its records.

pub mod backward;
pub mod build;
pub mod clip;
pub mod distill;
pub mod ema;
mod error;
pub mod evaluate;
pub mod evidence;
pub mod fit;
pub mod groups;
mod job;
pub mod judge;
mod lock;
pub mod log;
pub mod objective;
pub mod optim;
pub mod precision;
pub mod pretext;
pub mod recipe;
pub mod regression;
pub mod resume;
mod run;
pub mod schedule;
pub mod score;
pub mod statistics;
pub mod task;
pub mod trainer;

pub use error::TrainError;
pub use fit::{Fit, fit};
pub use job::{Job, NoRequests, Outcome, Requests};
pub use judge::{Judge, judge};
pub use recipe::Recipe;
pub use run::{open_data, seconds_per_update};
pub use task::Task;
