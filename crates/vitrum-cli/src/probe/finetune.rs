//! The method `finetune`: from the flags of `vitrum probe` to a run of training.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use vitrum::models::Precision;
use vitrum::probe::{ProbeError, Row};
use vitrum::train::Job;
use vitrum::train::recipe::{ImgSize, Overlay, Recipe};

use crate::args::{LogFormat, ProbeArgs, Tui, pair};
use crate::device::{self, Work};
use crate::progress::watcher;
use crate::signals::Signals;
use crate::talk::Talk;

/// The end of a run.
pub enum Ended {
    /// Its row and its folder.
    Done(Row, PathBuf),
    /// A signal stopped it after it had saved.
    Stopped,
}

/// The job, with a recipe that is checked.
pub fn job(args: &ProbeArgs) -> Result<Job> {
    let recipe = recipe(args)?;
    recipe.check()?;
    Ok(Job {
        device: device::prepare(&args.model.device, Work::Any)?,
        offline: args.model.offline,
        command: std::env::args().collect(),
        ..Job::new(recipe)
    })
}

/// The recipe of fine-tuning on the same images, with the overrides.
fn recipe(args: &ProbeArgs) -> Result<Recipe> {
    let (model, parts, preprocess) = (&args.model, &args.parts, &args.preprocess);
    for (flag, given) in [
        ("--weight-set", model.weight_set.is_some()),
        ("--num-classes", model.num_classes.is_some()),
        ("--patch-size", model.patch_size.is_some()),
        ("--pos-resize", model.pos_resize.is_some()),
        ("--precision", model.precision != Precision::F32),
        ("--answer", model.answer.is_some()),
        ("--allow-missing", !model.allow_missing.is_empty()),
        ("--allow-unexpected", !model.allow_unexpected.is_empty()),
    ] {
        if given {
            bail!(
                "{flag} does not go with --method finetune\nhint: write the model so with `vitrum checkpoint convert`"
            );
        }
    }
    let text = |path: &PathBuf| path.display().to_string();
    let numbers =
        |values: &[f32]| (!values.is_empty()).then(|| values.iter().map(|&value| f64::from(value)).collect());
    let fields = model.model_kwargs.iter().filter_map(|(key, value)| pair(&format!("{key}={value}")));
    let device = model.device.device.to_string();
    let (name, pretrained) = match &model.checkpoint {
        // The built-in model is neither a name of the catalogue nor a place.
        None if model.model == vitrum::checkpoint::demo::NAME => {
            (Recipe::default().model, Some(model.model.clone()))
        }
        weights => (model.model.clone(), weights.as_ref().map(text)),
    };
    let recipe = Recipe {
        data: text(&args.data),
        val_data: parts.val_data.as_ref().map(text),
        train_split: parts.train_split.clone(),
        val_split: parts.val_split.clone(),
        val_fraction: parts.val_fraction,
        fraction: parts.fraction,
        class_map: parts.class_map.clone(),
        image_dir: parts.image_dir.clone(),
        workers: parts.workers,
        max_bad: parts.max_bad,
        model: name,
        pretrained,
        keys: model.keys.as_ref().map(text),
        img_size: model.img_size.map(|size| ImgSize(size.0)),
        in_chans: model.in_chans,
        model_kwargs: fields.collect(),
        crop_pct: preprocess.crop_pct,
        crop_mode: preprocess.crop_mode.clone(),
        interpolation: preprocess.interpolation.clone(),
        mean: numbers(&preprocess.mean),
        std: numbers(&preprocess.std),
        seed: model.seed,
        output: args.output.clone(),
        experiment: Some("finetune".into()),
        device,
        ..Recipe::finetune()
    };
    let mut given = Overlay::new();
    if let Some(gp) = model.gp {
        given.insert("gp".into(), toml::Value::try_from(gp).context("--gp")?);
    }
    let recipe = recipe.with(&given, "command line")?;
    let overrides = args.recipe_overrides.iter().filter_map(|(key, value)| pair(&format!("{key}={value}")));
    Ok(recipe.with(&overrides.collect(), "--recipe-overrides")?)
}

/// Trains.
pub fn run(job: &Job, images: usize, classes: usize, talk: Talk) -> Result<Ended> {
    let signals = Signals::install().context("listening to signals")?;
    let mut watch = watcher(Tui::Off, LogFormat::Text, talk.quiet, signals.stop_flag())?;
    let ended = vitrum::probe::finetune(job, images, classes, &mut *watch, &signals);
    drop(watch);
    match ended {
        Ok((row, folder)) => Ok(Ended::Done(row, folder)),
        Err(ProbeError::Stopped { checkpoint, .. }) => {
            let path = checkpoint.display();
            talk.say(format_args!("stopped; saved {path}; continue with vitrum finetune --resume {path}"));
            Ok(Ended::Stopped)
        }
        Err(error) => Err(error.into()),
    }
}
