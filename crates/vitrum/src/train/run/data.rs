//! Loaders from the recipe's data keys.

use std::path::PathBuf;
use std::sync::Arc;

use crate::data::RgbImage;
use crate::data::augment::geometry::PadMode;
use crate::data::augment::{MixConfig, MixMode, Mixup, TrainTransform, TrainTransformConfig};
use crate::data::dataset::{ClassMap, Target};
use crate::data::decode::DecodeOptions;
use crate::data::loader::{Loader, LoaderOptions, MaxBad};
use crate::data::preprocess::Preprocess;
use crate::data::random::{DataRng, batch_rng};
use crate::data::train_loader::{TrainBatch, TrainLoader, TrainLoaderOptions};
use crate::data::train_set::{TrainDataOptions, TrainValSets};
use crate::models::{Config, catalogue};
use crate::tasks::MaskSampler;
use crate::train::TrainError;
use crate::train::recipe::Recipe;
use crate::train::task::Task;
use crate::train::trainer::Examples;

/// Training and validation images.
pub(super) fn open(recipe: &Recipe) -> Result<TrainValSets, TrainError> {
    let side = match recipe.img_size {
        Some(size) => size.0[0].max(size.0[1]) as u32,
        None => {
            catalogue::entry(&recipe.model).map_or(224, |entry| entry.config.input().image().size[0] as u32)
        }
    };
    let options = TrainDataOptions {
        val_data: recipe.val_data.clone().map(PathBuf::from),
        train_split: recipe.train_split.clone(),
        val_split: recipe.val_split.clone(),
        val_fraction: recipe.val_fraction,
        fraction: recipe.fraction,
        class_map: recipe.class_map.as_ref().map(ClassMap::open).transpose()?,
        allow_empty_classes: recipe.num_classes.is_some(),
        image_dir: recipe.image_dir.clone(),
        targets: recipe.task()?.targets(),
        target_columns: recipe.target_columns.clone(),
        seed: recipe.seed,
        demo_size: side,
        decode: DecodeOptions::timm(),
        cache: recipe.cache,
        sequential: recipe.sequential,
        shuffle_buffer: recipe.shuffle_buffer,
        ..TrainDataOptions::new(&recipe.data)
    };
    Ok(TrainValSets::open(&options)?)
}

/// Refuses training images whose targets are of another kind than the task's.
pub(super) fn check_targets(sets: &TrainValSets, task: Task) -> Result<(), TrainError> {
    let (set, expected) = (sets.train.set(), task.targets());
    let kind = |index: u32| set.target(index).map_or(expected, Target::kind);
    match sets.train.indexes().iter().find(|&&index| kind(index) != expected) {
        Some(&index) => {
            Err(TrainError::Target { name: set.name(index).into(), found: kind(index), expected })
        }
        None => Ok(()),
    }
}

/// Augmented training batches.
pub(super) fn train_loader(
    recipe: &Recipe,
    sets: &TrainValSets,
    preprocess: &Preprocess,
) -> Result<TrainLoader, TrainError> {
    let transform = TrainTransform::new(&TrainTransformConfig {
        preprocess: preprocess.clone(),
        no_aug: recipe.no_aug,
        crop_pad: recipe.crop_pad,
        crop_pad_mode: PadMode::of_name(&recipe.crop_pad_mode)?,
        scale: recipe.scale,
        ratio: recipe.ratio,
        hflip: recipe.hflip,
        vflip: recipe.vflip,
        color_jitter: recipe.color_jitter,
        color_jitter_prob: recipe.color_jitter_prob,
        grayscale_prob: recipe.grayscale_prob,
        gaussian_blur_prob: recipe.gaussian_blur_prob,
        aa: recipe.aa.clone(),
        reprob: recipe.reprob,
        remode: recipe.remode.clone(),
        recount: recipe.recount,
        train_interpolation: recipe.train_interpolation.clone(),
    })?;
    let options = TrainLoaderOptions {
        batch_size: recipe.batch_size,
        workers: workers(recipe),
        seed: recipe.seed,
        repeats: recipe.aug_repeats,
        drop_last: sets.train.len() >= recipe.batch_size,
        max_bad: MaxBad::of_number(recipe.max_bad),
        overfit_batches: recipe.overfit_batches,
        ..TrainLoaderOptions::default()
    };
    let work = move |image: &RgbImage, rng: &mut DataRng| {
        transform.apply(image, rng).map_err(|error| error.to_string())
    };
    Ok(TrainLoader::new(sets.train.clone(), Arc::new(work), preprocess.input_size, options)?)
}

/// Mixing of a batch's images and labels, and label smoothing; with `on` false, only label smoothing.
pub(super) fn mixup(recipe: &Recipe, num_classes: usize, on: bool) -> Result<Mixup, TrainError> {
    let config = MixConfig {
        mixup: if on { recipe.mixup } else { 0.0 },
        cutmix: if on { recipe.cutmix } else { 0.0 },
        cutmix_minmax: recipe.cutmix_minmax.filter(|_| on),
        mixup_prob: recipe.mixup_prob,
        mixup_switch_prob: recipe.mixup_switch_prob,
        mixup_mode: MixMode::of_name(&recipe.mixup_mode)?,
        smoothing: recipe.smoothing,
    };
    // Pretraining has no classes, and mixes nothing.
    Ok(Mixup::new(config, num_classes.max(1))?)
}

/// A batch as it enters the model: with masks from `sampler`, or mixed. `place` is its epoch and its number.
pub(super) fn examples(
    batch: &TrainBatch,
    sampler: Option<&MaskSampler>,
    mixup: &Mixup,
    seed: u64,
    place: [u64; 2],
) -> Result<Examples, TrainError> {
    let [epoch, number] = place;
    let (mut images, indexes) = (batch.values.clone(), batch.indexes.clone());
    let (targets, masks) = match sampler {
        Some(sampler) => (Vec::new(), Some(sampler.of_batch(batch.len(), epoch, number))),
        None => {
            let mut rng = batch_rng(seed, epoch, number);
            (mixup.apply_targets(&mut images, batch.shape, &batch.targets, &mut rng)?, None)
        }
    };
    Ok(Examples { images, shape: batch.shape, targets, masks, indexes })
}

/// Validation batches, in order.
pub(super) fn val_loader(
    recipe: &Recipe,
    sets: &TrainValSets,
    preprocess: &Preprocess,
) -> Result<Loader, TrainError> {
    let options = LoaderOptions {
        batch_size: recipe.validation_batch_size.unwrap_or(recipe.batch_size),
        workers: workers(recipe),
        max_bad: MaxBad::of_number(recipe.max_bad),
        ..LoaderOptions::default()
    };
    Ok(Loader::new(sets.val.source()?, preprocess.clone(), options)?)
}

fn workers(recipe: &Recipe) -> usize {
    if recipe.workers > 0 {
        recipe.workers
    } else {
        std::thread::available_parallelism().map_or(1, usize::from)
    }
}
