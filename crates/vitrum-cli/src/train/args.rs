//! `vitrum train`, `vitrum finetune` and `vitrum distill` as typed.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use vitrum::train::recipe::{self, Overlay, Recipe};
use vitrum::train::resume::Resume;

use super::flags::RecipeFlags;
use crate::progress::{LogFormat, Tui};

/// `vitrum train`, `vitrum finetune`, `vitrum distill`.
#[derive(Debug, Args)]
#[command(
    after_help = "DATA: a folder of class folders (train/, val/), labels.csv or .tsv, cifar-10-batches-bin or\n\
cifar-100-binary, MNIST idx(.gz) files, a .tar of class folders, WebDataset shards, or demo.\n\n\
Every value comes from the defaults, then the files of -c in their order, then the flags.\n\
Recipes that are built in: demo, cifar/cifar10_test_vit_patch4, cifar/cifar10_vit_tiny_patch4,\n\
cifar/cifar100_vit_tiny_patch4,\n\
finetune/small_folder, finetune/linear_probe, imagenet/deit_small, imagenet/deit_small_distilled,\n\
imagenet/augreg_s16_300ep, imagenet/bigvision_s16_90ep, imagenet/vit_b16_paper_scratch, imagenet/vit_b16_finetune_384.\n\n\
Exit codes: 0 done, 1 run-time error, 2 usage, 75 stopped after saving: go on with --resume auto.\n\n\
Examples:\n  \
vitrum train demo\n  \
vitrum train flowers/ -m vit_tiny_patch16_224 --epochs 30 -b 64 --lr 5e-4 --model-ema\n  \
vitrum train imagenet/ -c imagenet/deit_small --show-recipe"
)]
pub struct TrainArgs {
    /// Training images.
    #[arg(value_name = "DATA", conflicts_with = "data")]
    pub positional: Option<String>,
    /// A recipe: a TOML file, or the name of one that is built in; a later one goes over an earlier one.
    #[arg(short, long = "config", alias = "recipe", value_name = "FILE|NAME")]
    pub config: Vec<String>,
    /// Print the recipe that would be run, as TOML, and stop.
    #[arg(long)]
    pub show_recipe: bool,
    /// Check the recipe, build the model's shapes, print the recipe, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Go on where a run stopped. Alone: this run's newest checkpoint; auto: the same, or start anew where there is
    /// none; PATH: a run's folder, its checkpoints, or one of them.
    #[arg(long, value_name = "PATH|auto", num_args = 0..=1, default_missing_value = "",
          value_parser = |text: &str| text.parse::<Resume>(),
          aliases = ["resume-from-checkpoint", "resume_from_checkpoint"])]
    pub resume: Option<Resume>,
    /// Resume although arguments changed that the numbers depend on.
    #[arg(long)]
    pub allow_changed_args: bool,
    /// Full screen.
    #[arg(long, value_enum, default_value_t = Tui::Off)]
    pub tui: Tui,
    /// Lines of the log.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Threads of the processor; 0 takes all.
    #[arg(long, env = "VITRUM_THREADS", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// Never touch the network; use what is in the cache.
    #[arg(long, env = "HF_HUB_OFFLINE", value_parser = clap::builder::FalseyValueParser::new())]
    pub offline: bool,
    /// The recipe's keys.
    #[command(flatten)]
    pub recipe: RecipeFlags,
}

/// The run that was asked for: `base`, or the arguments of the run that is resumed by its path; over it the files in
/// their order, then the flags. Whether it is a run is not checked.
pub fn resolve(args: &TrainArgs, base: Recipe) -> Result<Recipe> {
    let mut recipe = base;
    if let Some(Resume::Path(path)) = &args.resume
        && let Some(file) = args_of_run(path)
    {
        recipe = recipe.with(&recipe::read(&file)?, &file.display().to_string())?;
    }
    // What a newcomer types first means the recipe that was made for it.
    let is_demo = args.positional.as_deref() == Some("demo") && !matches!(args.resume, Some(Resume::Path(_)));
    let is_first_run = is_demo && args.config.is_empty() && !args.recipe.given.contains_key("model");
    let mut layers = Vec::new();
    if is_first_run {
        layers.push(("demo", recipe::builtin("demo")?));
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
        // Defaults of fine-tuning that mean nothing where one layer learns.
        (recipe.layer_decay, recipe.drop_path) = (None, 0.0);
    }
    for (origin, layer) in &layers {
        recipe = recipe.with(layer, origin)?;
    }
    Ok(recipe)
}

/// A file, or a recipe that is built in.
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

/// `args.toml` of the run that a path leads into: a run's folder, its checkpoints, or one of them.
fn args_of_run(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().take(3).map(|folder| folder.join("args.toml")).find(|file| file.is_file())
}
