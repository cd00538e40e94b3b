//! From the command line to the recipe of a run.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use vitrum::train::Task;
use vitrum::train::recipe::{self, Overlay, Recipe};
use vitrum::train::resume::Resume;

use crate::args::TrainArgs;

/// The recipe of the requested run. It starts from `base`, or from the arguments of the run resumed by its path.
/// Then come the files in their order, then the flags. Does not check the recipe.
pub fn resolve(args: &TrainArgs, base: Recipe) -> Result<Recipe> {
    let mut recipe = base;
    if let Some(Resume::Path(path)) = &args.resume
        && let Some(file) = args_of_run(path)
    {
        recipe = recipe.with(&recipe::read(&file)?, &file.display().to_string())?;
    }
    // `vitrum train demo` alone uses the recipe `demo`.
    let is_demo = args.positional.as_deref() == Some("demo") && !matches!(args.resume, Some(Resume::Path(_)));
    let names_a_model = ["model", "pretrained"].iter().any(|key| args.recipe.given.contains_key(*key));
    let is_first_run = is_demo && args.config.is_empty() && !names_a_model;
    let mut layers = Vec::new();
    if is_first_run {
        let name = if recipe.task == Task::Pretrain.name() { "pretrain/demo_mae" } else { "demo" };
        layers.push((name, recipe::builtin(name)?));
    }
    for name in &args.config {
        layers.push((name, overlay(name)?));
    }
    let mut given = args.recipe.given.clone();
    if let Some(data) = args.positional.as_ref().filter(|_| !is_first_run) {
        given.insert("data".into(), data.clone().into());
    }
    layers.push(("command line", given));
    if layers.iter().any(|(_, layer)| layer.get("linear_probe") == Some(&true.into())) {
        // Only one layer learns, so these defaults of fine-tuning have no effect.
        (recipe.layer_decay, recipe.drop_path) = (None, 0.0);
    }
    for (origin, layer) in &layers {
        recipe = recipe.with(layer, origin)?;
    }
    Ok(recipe)
}

/// A file, or a built-in recipe.
fn overlay(name: &str) -> Result<Overlay> {
    let path = Path::new(name);
    if path.is_dir() {
        bail!("{name}: a folder; want a TOML file or the name of a recipe");
    }
    if path.exists() {
        return Ok(recipe::read(path)?);
    }
    Ok(recipe::builtin(name)?)
}

/// `args.toml` of the run at a path: a run's folder, its checkpoints, or one of them.
fn args_of_run(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().take(3).map(|folder| folder.join("args.toml")).find(|file| file.is_file())
}
