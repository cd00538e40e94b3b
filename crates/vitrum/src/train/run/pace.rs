//! The speed of a run, measured before it begins. Nothing is written.

use std::time::{Duration, Instant};

use super::{data, objective, sampler};
use crate::data::train_loader::TrainBatch;
use crate::data::train_set::TrainValSets;
use crate::train::TrainError;
use crate::train::build::{build, freeze};
use crate::train::job::Job;
use crate::train::recipe::Recipe;
use crate::train::task::Task;
use crate::train::trainer::Trainer;

/// Updates that are measured at most.
const MOST: usize = 8;

/// The training and validation images of a recipe, as a run opens them.
///
/// # Errors
/// [`TrainError`] for data that cannot be read.
pub fn open_data(recipe: &Recipe) -> Result<TrainValSets, TrainError> {
    data::open(recipe)
}

/// Seconds of an update of a job on these images, loading included: the median of a few real updates, after one that does
/// not count. Measures for about `limit`, at least two updates.
///
/// # Errors
/// Those of a run that begins.
pub fn seconds_per_update(job: &Job, sets: &TrainValSets, limit: Duration) -> Result<f64, TrainError> {
    let recipe = &job.recipe;
    let num_classes = recipe.num_classes.unwrap_or(sets.classes.len());
    let classes = (recipe.task()? != Task::Pretrain).then_some(num_classes);
    let (model, mut built) = build(recipe, classes, &job.device, job.offline)?;
    let loader = data::train_loader(recipe, sets, &built.preprocess)?;
    let (model, _) = freeze(model, recipe)?;
    let objective = objective::objective(job, num_classes, &sets.classes, &mut built)?;
    let sampler = sampler(recipe, &model)?;
    let mixup = data::mixup(recipe, num_classes, true)?;
    let updates = loader.batches_per_epoch().div_ceil(recipe.grad_accum_steps).max(1) as u64;
    let mut trainer = Trainer::with_objective(model, objective, recipe, updates, &job.device)?;
    let mut batches = (0..).flat_map(|epoch| loader.epoch(epoch, 0));
    let mixed = |batch: &TrainBatch, number: usize| {
        data::examples(batch, sampler.as_ref(), &mixup, recipe.seed, [0, number as u64])
    };
    let (first, mut measured) = (Instant::now(), Vec::new());
    for number in 0..=MOST {
        let began = Instant::now();
        let mut examples = Vec::new();
        for micro in 0..recipe.grad_accum_steps {
            let Some(batch) = batches.next().transpose()? else { break };
            examples.push(mixed(&batch, number * recipe.grad_accum_steps + micro)?);
        }
        trainer.update(examples)?;
        // The first update prepares what the others use again.
        if number > 0 {
            measured.push(began.elapsed().as_secs_f64());
        }
        if measured.len() >= 2 && first.elapsed() >= limit {
            break;
        }
    }
    measured.sort_by(f64::total_cmp);
    Ok(measured[measured.len() / 2])
}
