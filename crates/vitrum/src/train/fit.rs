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
use super::job::{Flow, Job, NoRequests, Outcome, Requests};
use super::judge::{Judge, judge_of};
use super::log::Watch;
use super::objective::Objective;
use super::run::Run;
use crate::data::train_set::TrainValSets;
use crate::models::Model;

/// Trains until the end of the recipe, or until `watch` breaks. See [`Fit`] for data, loss and scores of your own.
///
/// # Errors
/// [`TrainError`]: an invalid recipe, an I/O error, or a loss that stays NaN or infinite.
pub fn fit(job: &Job, watch: &mut dyn Watch) -> Result<Outcome, TrainError> {
    Fit::new(job).run(watch)
}

/// A run with parts of your own.
///
/// ```no_run
/// # use vitrum::train::{Fit, Job, Recipe, TrainError};
/// # use vitrum::data::train_set::TrainValSets;
/// # use vitrum::train::log::Event;
/// # use std::ops::ControlFlow;
/// # fn run(sets: TrainValSets) -> Result<(), TrainError> {
/// let job = Job::new(Recipe { model: "vit_tiny_patch16_224".into(), ..Recipe::default() });
/// let outcome = Fit::new(&job).data(sets).run(&mut |event: &Event| match event {
///     Event::Epoch(epoch) if epoch.score("top1") > Some(97.0) => ControlFlow::Break(()),
///     _ => ControlFlow::Continue(()),
/// })?;
/// # Ok(())
/// # }
/// ```
pub struct Fit<'a> {
    job: &'a Job,
    data: Option<TrainValSets>,
    judge: Option<Box<dyn Judge>>,
    objective: Option<Box<dyn Objective<Model>>>,
    requests: &'a dyn Requests,
}

impl<'a> Fit<'a> {
    /// The run of a job: the recipe's data, its task's judge and objective, no requests.
    pub fn new(job: &'a Job) -> Self {
        Self { job, data: None, judge: None, objective: None, requests: &NoRequests }
    }

    /// Training and validation images in place of the recipe's `data` and `val_data`, which may be empty.
    #[must_use]
    pub fn data(self, sets: TrainValSets) -> Self {
        Self { data: Some(sets), ..self }
    }

    /// Another judge of validations. The recipe's `eval_metric` is one of its scores.
    ///
    /// The plateau schedule knows the directions of the task's own scores. Of any other score, it assumes that smaller
    /// is better if the name contains "loss", and that larger is better otherwise; a judge that says the opposite is
    /// refused ([`TrainError::PlateauMetric`]).
    #[must_use]
    pub fn judge(self, judge: Box<dyn Judge>) -> Self {
        Self { judge: Some(judge), ..self }
    }

    /// Another loss. The recipe's loss and distillation are not used then.
    #[must_use]
    pub fn objective(self, objective: Box<dyn Objective<Model>>) -> Self {
        Self { objective: Some(objective), ..self }
    }

    /// Requests from outside, asked after every update and every batch of a validation.
    #[must_use]
    pub fn requests(self, requests: &'a dyn Requests) -> Self {
        Self { requests, ..self }
    }

    /// The job, whose recipe names the data.
    fn named(&self) -> Job {
        let mut job = self.job.clone();
        if let Some(sets) = self.data.as_ref().filter(|_| job.recipe.data.is_empty()) {
            job.recipe.data = sets.train.set().path().display().to_string();
        }
        job
    }

    /// Trains until the end of the recipe, until `watch` breaks, or until a request to stop.
    ///
    /// # Errors
    /// As [`fit`], and those of the judge and the objective.
    pub fn run(self, watch: &mut dyn Watch) -> Result<Outcome, TrainError> {
        let job = self.named();
        let judge = match self.judge {
            Some(judge) => judge,
            None => judge_of(&self.job.recipe)?,
        };
        let mut run = Run::begin(&job, self.data, judge, self.objective, watch, self.requests)?;
        while run.has_epochs() {
            let stops = run.train_epoch()? == Flow::Stops
                || run.validate_epoch()? == Flow::Stops
                || run.end_epoch()? == Flow::Stops;
            if stops {
                return run.stop();
            }
        }
        run.finish()
    }
}
