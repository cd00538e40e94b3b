//! Fine-tuning of the whole model, as a method beside the probes: a run of [`Fit`] with its folder.

use std::path::PathBuf;
use std::time::Instant;

use super::error::ProbeError;
use super::row::Row;
use crate::train::log::Watch;
use crate::train::{Fit, Job, Requests};

/// Trains by the job's recipe. Returns the row of its best validation, and the run's folder. `images` is the number of
/// training images, `classes` that of the classes.
///
/// # Errors
/// [`ProbeError::Train`], [`ProbeError::Stopped`], and [`ProbeError::NoScore`] for a recipe that does not validate.
pub fn finetune(
    job: &Job,
    images: usize,
    classes: usize,
    watch: &mut dyn Watch,
    requests: &dyn Requests,
) -> Result<(Row, PathBuf), ProbeError> {
    let start = Instant::now();
    let outcome = Fit::new(job).requests(requests).run(watch)?;
    let (run, finished) = (outcome.folder.path().to_path_buf(), &outcome.finished);
    if let Some(checkpoint) = outcome.stopped {
        return Err(ProbeError::Stopped { epochs: finished.epochs, checkpoint });
    }
    let score = |name: &str| finished.best.as_ref().and_then(|best| best.get(name));
    let top1 = score("top1").ok_or_else(|| ProbeError::NoScore { run: run.clone() })?;
    let recipe = &job.recipe;
    let decay = recipe.layer_decay.map_or_else(String::new, |decay| format!(" layer_decay={decay}"));
    let row = Row {
        method: "finetune",
        setting: format!("epochs={} lr={}{decay}", recipe.epochs, recipe.peak_lr()),
        top1,
        top1_std: None,
        top5: score("top5").filter(|_| classes > 5),
        top5_std: None,
        draws: 1,
        images,
        seconds: start.elapsed().as_secs_f64(),
    };
    Ok((row, run))
}
