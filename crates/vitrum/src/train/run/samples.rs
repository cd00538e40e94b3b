//! Pictures of what enters the model and of its answers, in a build with the feature `plots`.

use crate::data::preprocess::Preprocess;
use crate::train::evaluate::Evaluated;
use crate::train::judge::Judge;
use crate::train::log::{LogError, Logger};
use crate::train::task::Task;
use crate::train::trainer::Examples;

/// Draws the first batch of training, with its targets.
#[cfg(feature = "plots")]
pub(super) fn draw_targets(
    logger: &mut Logger,
    task: Task,
    first: &Examples,
    preprocess: &Preprocess,
    names: &[String],
) -> Result<(), LogError> {
    use crate::train::log::pictures::mosaic;
    let captions = super::captions::of_rows(task, &first.targets, names);
    let sheet = mosaic(&pixels(&first.images, first.shape, preprocess), &captions)?;
    logger.picture("train_batch0", &sheet)
}

/// Draws a batch of validation, with the model's answers.
#[cfg(feature = "plots")]
pub(super) fn draw_answers(
    logger: &mut Logger,
    seen: &Evaluated<'_, dyn Judge>,
    preprocess: &Preprocess,
    names: &[String],
) -> Result<(), LogError> {
    use crate::train::log::pictures::mosaic;
    let captions = super::captions::of_answers(&seen.answers, names);
    let sheet = mosaic(&pixels(&seen.batch.values, seen.batch.shape, preprocess), &captions)?;
    logger.picture("val_pred0", &sheet)
}

#[cfg(feature = "plots")]
fn pixels<'a>(
    values: &'a [f32],
    shape: [usize; 4],
    preprocess: &'a Preprocess,
) -> crate::train::log::pictures::Pixels<'a> {
    crate::train::log::pictures::Pixels { values, shape, mean: &preprocess.mean, std: &preprocess.std }
}

#[cfg(not(feature = "plots"))]
pub(super) fn draw_targets(
    _: &mut Logger,
    _: Task,
    _: &Examples,
    _: &Preprocess,
    _: &[String],
) -> Result<(), LogError> {
    Ok(())
}

#[cfg(not(feature = "plots"))]
pub(super) fn draw_answers(
    _: &mut Logger,
    _: &Evaluated<'_, dyn Judge>,
    _: &Preprocess,
    _: &[String],
) -> Result<(), LogError> {
    Ok(())
}
