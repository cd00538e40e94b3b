//! Pictures of what enters the model and of its answers, in a build with the feature `plots`.

use crate::data::preprocess::Preprocess;
#[cfg(feature = "plots")]
use crate::tasks::reconstruct::VIEWS;
use crate::tasks::reconstruct::Views;
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

/// Draws four pictures of each image: original, masked, predicted, pasted.
#[cfg(feature = "plots")]
pub(super) fn draw_views(
    logger: &mut Logger,
    name: &str,
    views: &Views,
    preprocess: &Preprocess,
) -> Result<(), LogError> {
    use crate::train::log::pictures::{Caption, sheet};
    let captions: Vec<Caption> =
        VIEWS.iter().map(|view| Caption { lines: vec![(*view).into()], wrong: false }).collect();
    // Two images in a row.
    let captions: Vec<Caption> = captions.iter().cycle().take(views.shape[0]).cloned().collect();
    logger.picture(name, &sheet(&pixels(&views.values, views.shape, preprocess), &captions, 8)?)
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
pub(super) fn draw_views(_: &mut Logger, _: &str, _: &Views, _: &Preprocess) -> Result<(), LogError> {
    Ok(())
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
