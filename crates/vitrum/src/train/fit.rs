//! The training loop.
//!
//! ```text
//! epoch = { update } → validation of the model and of its average → summary → checkpoint
//! ```
//!
//! Everything random is a function of the seed and of the position in the run. Every checkpoint holds that position and
//! all state. A run that is stopped after any update and resumed therefore ends with the same weights, bit for bit, as
//! one that never stopped.

use super::TrainError;
use super::job::{Flow, Job, Outcome, Requests};
use super::judge::{Judge, judge_of};
use super::log::Watch;
use super::run::Run;

/// Trains until the end of the recipe, or until a request to stop.
///
/// # Errors
/// [`TrainError`]: an invalid recipe, an I/O error, or a loss that stays NaN or infinite.
pub fn fit(job: &Job, watch: &mut dyn Watch, requests: &dyn Requests) -> Result<Outcome, TrainError> {
    fit_with(job, judge_of(&job.recipe)?, watch, requests)
}

/// Trains as [`fit`], with a judge of your own for validation. The recipe's `eval_metric` is one of its scores.
///
/// # Errors
/// As [`fit`], and those of the judge. [`TrainError::PlateauMetric`]: the plateau schedule assumes the opposite
/// direction of the score. It knows the directions of the task's own scores. Of any other score, it assumes that
/// smaller is better if the name contains "loss", and that larger is better otherwise.
pub fn fit_with(
    job: &Job,
    judge: Box<dyn Judge>,
    watch: &mut dyn Watch,
    requests: &dyn Requests,
) -> Result<Outcome, TrainError> {
    let mut run = Run::begin(job, judge, watch, requests)?;
    while run.has_epochs() {
        if run.train_epoch()? == Flow::Stops || run.validate_epoch()? == Flow::Stops {
            return run.stop();
        }
        run.end_epoch()?;
    }
    run.finish()
}
