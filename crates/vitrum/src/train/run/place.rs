//! The folder of a run, and how it resumes from a checkpoint.

use std::path::{Path, PathBuf};

use super::RunState;
use crate::train::TrainError;
use crate::train::job::Job;
use crate::train::log::RunFolder;
use crate::train::recipe::Recipe;
use crate::train::resume::{Part, Parts, Resume, ResumeError, Store, StoreOptions, changed, load};
use crate::train::score::Better;
use crate::train::trainer::{Trainer, TrainerState};

fn store_options(recipe: &Recipe, better: Better) -> StoreOptions {
    StoreOptions { keep_last: recipe.checkpoint_hist, lower_is_better: better == Better::Lower }
}

/// The run's folder, its checkpoints, and the checkpoint to resume from. `better` is the direction of the score that
/// chooses the best checkpoint.
///
/// A new run does not start among the checkpoints of another run: the best of them would become the new run's model.
pub(super) fn place(job: &Job, better: Better) -> Result<(RunFolder, Store, Option<PathBuf>), TrainError> {
    let (folder, found) = find(job)?;
    let store = Store::open(folder.checkpoints(), store_options(&job.recipe, better))?;
    if found.is_none()
        && let Some(other) = store.latest()?
    {
        return Err(TrainError::OtherRun { path: folder.path().to_path_buf(), step: other.step });
    }
    Ok((folder, store, found))
}

fn find(job: &Job) -> Result<(RunFolder, Option<PathBuf>), TrainError> {
    let recipe = &job.recipe;
    let name = recipe.experiment.clone().unwrap_or_else(|| name_of(&recipe.model));
    let own = recipe.output.join(&recipe.task).join(&name);
    let (folder, found) = match &job.resume {
        None => return Ok((RunFolder::create(&recipe.output, &recipe.task, &name, recipe.exist_ok)?, None)),
        Some(Resume::Path(path)) => {
            let found = Resume::Path(path.clone()).find(&own.join("checkpoints"))?;
            let run = found.as_ref().and_then(|found| found.path.ancestors().nth(2)).map(PathBuf::from);
            (RunFolder::open(&run.unwrap_or(own))?, found)
        }
        Some(resume) => {
            let found = resume.find(&own.join("checkpoints"))?;
            match found {
                Some(found) => (RunFolder::open(&own)?, Some(found)),
                None => return Ok((RunFolder::create(&recipe.output, &recipe.task, &name, true)?, None)),
            }
        }
    };
    Ok((folder, found.map(|found| found.path)))
}

/// The default name of a run: the last part of the model's name or path.
fn name_of(model: &str) -> String {
    let last = model.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or(model);
    if last.is_empty() || last.starts_with('.') { "run".into() } else { last.into() }
}

/// Loads a checkpoint of the same run into the trainer.
pub(super) fn restore(
    path: &Path,
    job: &Job,
    fingerprints: &[String; 2],
    trainer: &mut Trainer,
) -> Result<RunState, TrainError> {
    let mut loaded = load(path)?;
    let state = match loaded.parts.get("state") {
        Some(Part::Json(state)) => state.clone(),
        _ => return Err(TrainError::OtherModel(format!("{}: no state.json", path.display()))),
    };
    let wrong = |what: &str, error: serde_json::Error| {
        TrainError::OtherModel(format!("{}: state.json: {what}: {error}", path.display()))
    };
    let old: Recipe = serde_json::from_value(state["recipe"].clone()).map_err(|e| wrong("recipe", e))?;
    let changes = changed(&old, &job.recipe);
    if !changes.is_empty() && !job.allow_changed_args {
        return Err(ResumeError::Changed { run: path.to_path_buf(), step: loaded.step, changes }.into());
    }
    let data = [&state["data"]["train"], &state["data"]["val"]];
    if data.iter().zip(fingerprints).any(|(old, new)| old.as_str() != Some(new)) && !job.allow_changed_args {
        return Err(TrainError::ChangedData { path: path.to_path_buf() });
    }
    let progress = serde_json::from_value(state["progress"].clone()).map_err(|e| wrong("progress", e))?;
    trainer.load_state(take_state(&mut loaded.parts, path, job.recipe.model_ema)?)?;
    Ok(progress)
}

/// The trainer's part of a checkpoint.
pub(super) fn take_state(parts: &mut Parts, path: &Path, ema: bool) -> Result<TrainerState, TrainError> {
    let state = parts.take_json("state", path)?;
    Ok(TrainerState {
        model: parts.take_tensors("model", path)?.into_iter().collect(),
        ema: if ema { Some(parts.take_tensors("model_ema", path)?.into_iter().collect()) } else { None },
        optimizer: parts.take_tensors("optim", path)?.into_iter().collect(),
        numbers: state["trainer"].clone(),
    })
}
