//! What a study costs before it begins: images, parameters, multiply-accumulates, hours, disk.

use std::collections::BTreeMap;
use std::time::Duration;

use burn::tensor::Device;
use serde::Serialize;

use super::StudyError;
use super::expand::PlannedRun;
use super::plan::Plan;
use crate::data::train_set::TrainValSets;
use crate::models::{Config, ModelConfig};
use crate::train::recipe::{DistillationType, Recipe};
use crate::train::{Job, TrainError, open_data, seconds_per_update};

/// The images of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Training images.
    pub train: usize,
    /// Validation images.
    pub val: usize,
    /// Number of classes, or of values.
    pub classes: usize,
    /// Fingerprints of the training and the validation images.
    pub fingerprints: [String; 2],
}

impl From<&TrainValSets> for Images {
    fn from(sets: &TrainValSets) -> Self {
        Self {
            train: sets.train.len(),
            val: sets.val.len(),
            classes: sets.classes.len(),
            fingerprints: sets.fingerprints(),
        }
    }
}

/// The images of runs. Data that several runs name alike is opened once, and the newest stays open.
#[derive(Debug, Default)]
pub struct Data {
    known: BTreeMap<String, Images>,
    newest: Option<(String, TrainValSets)>,
}

impl Data {
    /// The images of a run.
    ///
    /// # Errors
    /// [`StudyError::Train`] for data that cannot be read.
    pub fn images(&mut self, run: &PlannedRun) -> Result<Images, StudyError> {
        let key = data_key(&run.recipe);
        if let Some(images) = self.known.get(&key) {
            return Ok(images.clone());
        }
        let images = Images::from(&self.sets(run)?);
        self.known.insert(key, images.clone());
        Ok(images)
    }

    /// The sets of a run. Runs of the same data share decoded images.
    ///
    /// # Errors
    /// [`StudyError::Train`] for data that cannot be read.
    pub fn sets(&mut self, run: &PlannedRun) -> Result<TrainValSets, StudyError> {
        let key = data_key(&run.recipe);
        match &self.newest {
            Some((newest, sets)) if *newest == key => Ok(sets.clone()),
            _ => {
                // First of all the memory of the last ones is given back.
                self.newest = None;
                let sets = open_data(&run.recipe).map_err(|error| StudyError::train(&run.id, error))?;
                self.newest = Some((key, sets.clone()));
                Ok(sets)
            }
        }
    }
}

/// Everything that decides on the images of a run.
pub(super) fn data_key(recipe: &Recipe) -> String {
    let table = recipe.to_table();
    let keys = [
        "data",
        "val_data",
        "train_split",
        "val_split",
        "val_fraction",
        "fraction",
        "class_map",
        "image_dir",
        "target_columns",
        "cache",
        "sequential",
        "shuffle_buffer",
        "task",
        "model",
        "img_size",
        "num_classes",
        "seed",
    ];
    // Only drawn sets depend on the model, by its usual size.
    let is_drawn = recipe.data.starts_with("demo") && recipe.img_size.is_none();
    let counts = keys.into_iter().filter(|key| *key != "model" || is_drawn);
    let value = |key: &str| table.get(key).map(ToString::to_string).unwrap_or_default();
    counts.map(|key| format!("{key}={};", value(key))).collect()
}

/// What a run costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Training images.
    pub images: usize,
    /// Epochs, if `max_steps` does not end the run earlier.
    pub epochs: f64,
    /// Updates.
    pub updates: u64,
    /// Images per update.
    pub batch: usize,
    /// Parameters; `None` for a model that is a place of weights.
    pub params: Option<u64>,
    /// Multiply-accumulates of one image, forward; `None` as above.
    pub macs: Option<u64>,
    /// Multiply-accumulates of the whole run: an update needs three times the forward pass, or once it where only the
    /// head learns; validation and a teacher are counted too.
    pub total_macs: f64,
    /// Bytes on disk: checkpoints and the model.
    pub bytes: u64,
    /// Images that go through the model forward only, counted in updates.
    #[serde(skip)]
    forward_updates: f64,
}

impl Cost {
    fn of(plan: &Plan, run: &PlannedRun, images: &Images) -> Result<Self, StudyError> {
        let recipe = &run.recipe;
        let wrong = |source: TrainError| StudyError::train(&run.id, source);
        let classes = recipe.num_classes.unwrap_or(images.classes);
        let walk = match recipe.is_named() {
            true => {
                let config = recipe.model_config(Some(classes)).map_err(|error| wrong(error.into()))?;
                Some(config.walk().map_err(|error| wrong(error.into()))?)
            }
            false => None,
        };
        let batches = match recipe.overfit_batches {
            0 if images.train >= recipe.batch_size => images.train / recipe.batch_size,
            0 => 1,
            few => few,
        };
        let per_epoch = batches.div_ceil(recipe.grad_accum_steps) as u64;
        let all_epochs = (recipe.epochs + recipe.cooldown_epochs) as u64;
        let updates = recipe.max_steps.unwrap_or(u64::MAX).min(per_epoch.saturating_mul(all_epochs));
        let epochs = updates as f64 / per_epoch as f64;
        let batch = recipe.global_batch().min(images.train.max(1));
        // The last epoch is validated in any case, and the best weights once more.
        let validations = (epochs / recipe.val_interval.max(1) as f64).ceil() + 1.0;
        let averages = if recipe.model_ema { 2.0 } else { 1.0 };
        let seen = updates as f64 * batch as f64;
        let (params, macs) = (walk.as_ref().map(|walk| walk.params), walk.as_ref().map(|walk| walk.macs));
        let forward = macs.unwrap_or(0) as f64;
        let times = if recipe.linear_probe { 1.0 } else { 3.0 };
        let teacher = teacher_macs(plan, recipe);
        let validated = validations * averages * images.val as f64;
        let total_macs = seen * (times * forward + teacher) + validated * forward;
        let update = times * forward + teacher;
        let share = if update > 0.0 { forward / update } else { 1.0 / times };
        // Weights, two values of each for the optimiser, and the average of the weights.
        let copies = 3 + u64::from(recipe.model_ema);
        let kept = recipe.checkpoint_hist as u64 + 1;
        let bytes = 4 * params.unwrap_or(0) * (copies * kept + 1);
        let forward_updates = validated * share / batch as f64;
        Ok(Self {
            images: images.train,
            epochs,
            updates,
            batch,
            params,
            macs,
            total_macs,
            bytes,
            forward_updates,
        })
    }

    /// Seconds of the run, at so many seconds for an update.
    fn seconds(&self, update: f64) -> f64 {
        update * (self.updates as f64 + self.forward_updates)
    }
}

/// Multiply-accumulates of the teacher for an image; 0 without one, or where its size is not known.
fn teacher_macs(plan: &Plan, recipe: &Recipe) -> f64 {
    let Some(teacher) =
        recipe.teacher.as_ref().filter(|_| recipe.distillation_type != DistillationType::None)
    else {
        return 0.0;
    };
    let named = teacher.strip_prefix("{run:").and_then(|rest| rest.strip_suffix('}'));
    let walk = match named.and_then(|id| plan.run(id)) {
        Some(run) => run.recipe.model_config(None).ok().and_then(|config| config.walk().ok()),
        None => ModelConfig::named(teacher).ok().and_then(|config| config.walk().ok()),
    };
    walk.map_or(0.0, |walk| walk.macs as f64)
}

/// How fast this machine is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// A few updates of each kind of run are measured.
    Measured,
    /// So many multiply-accumulates per second.
    Assumed(f64),
}

impl Speed {
    /// Multiply-accumulates per second and thread of training small models on a processor: what the runs of
    /// `docs/training.md` reached. It is a guess; measuring is better.
    pub const PER_THREAD: f64 = 3e10;

    /// The guess for the threads of this process.
    pub fn guessed() -> Self {
        Self::Assumed(Self::PER_THREAD * rayon::current_num_threads() as f64)
    }
}

/// The cost of each run of a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Costs {
    /// For each run of the plan.
    pub runs: Vec<Cost>,
    /// Seconds of one update of each run, once they are known.
    pub update_seconds: Vec<Option<f64>>,
}

impl Costs {
    /// Counts; nothing is measured yet.
    ///
    /// # Errors
    /// [`StudyError::Train`] for data that cannot be read.
    pub fn count(plan: &Plan, data: &mut Data) -> Result<Self, StudyError> {
        let cost = |run: &PlannedRun| Cost::of(plan, run, &data.images(run)?);
        let runs: Vec<Cost> = plan.runs.iter().map(cost).collect::<Result<_, _>>()?;
        Ok(Self { update_seconds: vec![None; runs.len()], runs })
    }

    /// Costs that every machine computes alike, for [`Shard`](super::Shard).
    pub fn comparable(&self) -> Vec<f64> {
        self.runs
            .iter()
            .map(|cost| if cost.total_macs > 0.0 { cost.total_macs } else { cost.updates as f64 })
            .collect()
    }

    /// Seconds of a run, if its speed is known.
    pub fn seconds(&self, run: usize) -> Option<f64> {
        self.update_seconds[run].map(|update| self.runs[run].seconds(update))
    }

    /// Finds the speed of these runs. Runs that differ only in seed, data and length are measured once. `told` hears
    /// which run is measured.
    ///
    /// # Errors
    /// [`StudyError::Train`]: a run that cannot train.
    pub fn find_speed<'a>(
        &mut self,
        plan: &Plan,
        chosen: impl IntoIterator<Item = &'a usize>,
        data: &mut Data,
        speed: Speed,
        (device, offline): (&Device, bool),
        told: &mut dyn FnMut(&PlannedRun),
    ) -> Result<(), StudyError> {
        let mut known: BTreeMap<String, f64> = BTreeMap::new();
        for &index in chosen {
            let run = &plan.runs[index];
            let cost = &self.runs[index];
            let seconds = match speed {
                Speed::Assumed(rate) => {
                    cost.macs.map(|_| cost.total_macs / rate / (cost.updates as f64 + cost.forward_updates))
                }
                Speed::Measured => match known.get(&kind(&run.recipe)) {
                    Some(seconds) => Some(*seconds),
                    None => {
                        told(run);
                        let seconds = measure(plan, run, data, device, offline)?;
                        known.insert(kind(&run.recipe), seconds);
                        Some(seconds)
                    }
                },
            };
            self.update_seconds[index] = seconds;
        }
        Ok(())
    }
}

/// Seconds of an update, measured. Models of other runs are not there yet: the run begins from fresh values, and a teacher
/// is counted by its multiply-accumulates.
fn measure(
    plan: &Plan,
    run: &PlannedRun,
    data: &mut Data,
    device: &Device,
    offline: bool,
) -> Result<f64, StudyError> {
    let mut recipe = run.recipe.clone();
    let is_run = |place: &Option<String>| place.as_ref().is_some_and(|place| place.starts_with("{run:"));
    if is_run(&recipe.pretrained) {
        recipe.pretrained = None;
    }
    let mut times = 1.0;
    if is_run(&recipe.teacher) {
        let macs = recipe.model_config(None).ok().and_then(|config| config.walk().ok());
        let own = macs.map_or(0.0, |walk| 3.0 * walk.macs as f64);
        if own > 0.0 {
            times = 1.0 + teacher_macs(plan, &recipe) / own;
        }
        (recipe.teacher, recipe.distillation_type) = (None, DistillationType::None);
    }
    let job = Job { device: device.clone(), offline, ..Job::new(recipe) };
    let sets = data.sets(run)?;
    let seconds = seconds_per_update(&job, &sets, Duration::from_secs(2));
    Ok(times * seconds.map_err(|error| StudyError::train(&run.id, error))?)
}

/// Everything of a recipe that decides on the speed of an update.
fn kind(recipe: &Recipe) -> String {
    let mut table = recipe.to_table();
    let others = [
        "seed",
        "experiment",
        "output",
        "fraction",
        "val_fraction",
        "epochs",
        "max_steps",
        "pretrained",
        "teacher",
        "lr",
        "lr_base",
        "weight_decay",
        "warmup_epochs",
        "warmup_steps",
        "warmup_lr",
        "min_lr",
        "smoothing",
        "distillation_alpha",
        "distillation_tau",
        "val_interval",
        "log_interval",
    ];
    others.iter().for_each(|key| {
        table.remove(*key);
    });
    table.to_string()
}
