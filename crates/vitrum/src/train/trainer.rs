//! One update: forward and backward passes over its batches, clipping, optimiser step, moving average.

use burn::module::{Param, ParamId};
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::{Value, json};

use super::TrainError;
use super::backward::{Pass, mix};
use super::clip::{ClipMode, clip, clip_by};
use super::ema::{Ema, EmaConfig};
use super::groups::{GroupConfig, Groups};
use super::objective::{Batch, Objective, Targets, objective_of};
use super::optim::{GradMap, OptimConfig, Optimizer, StateDict};
use super::precision::narrowed;
use super::recipe::Recipe;
use super::schedule::Schedule;
use super::statistics::Statistics;
use crate::checkpoint::apply::{Excuses, Report, collect, fill};
use crate::checkpoint::{HostTensor, TensorMap};
use crate::data::batch;
use crate::layers::linear::Prepared;
use crate::layers::mask::Masks;
use crate::layers::names::{Key, Visit, visit};
use crate::models::stages::Part;
use crate::models::{Inputs, Model, Network};

/// Data that becomes a [`Batch`] on the device.
pub trait IntoBatch {
    /// The batch on `device`.
    ///
    /// # Errors
    /// [`TrainError::Batch`]: the values do not fill their shape.
    fn into_batch(self, device: &Device) -> Result<Batch, TrainError>;
}

impl IntoBatch for Batch {
    fn into_batch(self, _: &Device) -> Result<Batch, TrainError> {
        Ok(self)
    }
}

impl IntoBatch for Examples {
    fn into_batch(self, device: &Device) -> Result<Batch, TrainError> {
        let Examples { images, shape, targets, masks, indexes } = self;
        if let Some(masks) = masks {
            let images = batch::to_tensor(images, shape, DType::F32, device)?;
            return Ok(Batch { inputs: Inputs::Masked(images, masks), targets: Targets::Nothing, indexes });
        }
        let classes = targets.len() / shape[0].max(1);
        if targets.len() != shape[0] * classes {
            let (found, expected) = (vec![targets.len()], vec![shape[0], classes]);
            return Err(TrainError::Targets { found, expected });
        }
        Ok(Batch {
            inputs: Inputs::Images(batch::to_tensor(images, shape, DType::F32, device)?),
            targets: Targets::Soft(Tensor::from_data(TensorData::new(targets, [shape[0], classes]), device)),
            indexes,
        })
    }
}

/// Images and targets of a batch, on the host.
#[derive(Clone, Debug)]
pub struct Examples {
    /// Normalised images, `[B, C, H, W]`, in order.
    pub images: Vec<f32>,
    /// `[B, C, H, W]`.
    pub shape: [usize; 4],
    /// Soft targets, or true values, `[B, K]`, in order.
    pub targets: Vec<f32>,
    /// Masks of the images' patches, for pretraining without targets.
    pub masks: Option<Masks>,
    /// Index of each image in the training set, in order; empty if unknown.
    pub indexes: Vec<u32>,
}

/// The result of an update.
#[derive(Clone, Debug, PartialEq)]
pub struct Updated {
    /// Mean loss of its images, before the update.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of all gradients before clipping, if it was computed.
    pub grad_norm: Option<f64>,
    /// Why the update was skipped: its loss or gradients were not finite.
    pub skipped: Option<String>,
}

/// An update that was begun.
#[must_use]
pub(super) enum Launched<M: Network> {
    /// It is finished.
    Done(Updated),
    /// The device may still compute it.
    Late(Box<Late<M>>),
}

impl<M: Network> Launched<M> {
    /// Whether the device may still compute.
    pub(super) fn is_late(&self) -> bool {
        matches!(self, Self::Late(_))
    }
}

/// An update that was applied before its numbers are known.
pub(super) struct Late<M: Network> {
    /// Losses, and sums of squares of the gradients.
    numbers: Tensor<1>,
    /// How many of the numbers are losses.
    losses: usize,
    /// Before clipping.
    grads: GradMap,
    before: Before<M>,
    lr: f64,
}

/// What an update changes, besides its number.
struct Before<M: Network> {
    model: M,
    optimizer: Optimizer,
    ema: Option<Ema>,
}

fn mean(losses: Vec<f64>) -> f64 {
    let count = losses.len() as f64;
    losses.into_iter().fold(0.0, |sum, loss| sum + loss / count)
}

fn bad_loss(loss: f64) -> String {
    format!("the loss is {loss}")
}

fn bad_gradient(key: &str) -> String {
    format!("the gradient of {key} is not finite")
}

/// The parts of a [`Trainer`] besides model and objective.
#[derive(Clone, Debug)]
pub struct TrainerConfig {
    /// The optimiser.
    pub optim: OptimConfig,
    /// Weight decay and learning-rate scales.
    pub groups: GroupConfig,
    /// The learning rate of each update.
    pub schedule: Schedule,
    /// A moving average of the weights, if one is kept.
    pub ema: Option<EmaConfig>,
    /// How gradients are clipped, and the limit.
    pub clip: Option<(ClipMode, f64)>,
    /// Keep only each link's input, and recompute the rest in the backward pass.
    pub grad_checkpointing: bool,
    /// Float type of forward and backward passes, if it is not the parameters' type.
    pub amp_dtype: Option<DType>,
    /// Seed of dropout.
    pub seed: u64,
}

impl TrainerConfig {
    /// An optimiser at a constant learning rate, with its default betas, and nothing else.
    pub fn new(optim: OptimConfig, lr: f64) -> Self {
        Self {
            optim,
            groups: GroupConfig { weight_decay: 0.0, layer_decay: None, no_weight_decay: Vec::new() },
            schedule: Schedule::constant(lr),
            ema: None,
            clip: None,
            grad_checkpointing: false,
            amp_dtype: None,
            seed: 42,
        }
    }

    /// The parts of a recipe; an epoch has `updates_per_epoch` updates.
    ///
    /// # Errors
    /// An unknown optimiser, schedule or clip mode, or a setting out of range.
    pub fn from_recipe(recipe: &Recipe, updates_per_epoch: u64) -> Result<Self, TrainError> {
        let mode = recipe.clip_mode.parse()?;
        Ok(Self {
            optim: OptimConfig::from_recipe(recipe)?,
            groups: GroupConfig::from(recipe),
            schedule: Schedule::new(recipe, updates_per_epoch)?,
            ema: recipe.model_ema.then(|| EmaConfig::from(recipe)),
            clip: recipe.clip_grad.map(|value| (mode, value)),
            grad_checkpointing: recipe.grad_checkpointing,
            amp_dtype: (recipe.amp_dtype == "bf16").then_some(DType::BF16),
            seed: recipe.seed,
        })
    }
}

/// A model and the state that changes with it.
pub struct Trainer<M: Network = Model> {
    /// `None` only while an update is under way.
    model: Option<M>,
    optimizer: Optimizer,
    groups: Groups,
    schedule: Schedule,
    ema: Option<Ema>,
    clip: Option<(ClipMode, f64)>,
    objective: Box<dyn Objective<M>>,
    grad_checkpointing: bool,
    /// Float type of forward and backward passes, if it is not the parameters' type.
    narrow: Option<DType>,
    seed: u64,
    updates: u64,
    device: Device,
    /// Whether the device computes while the host goes on.
    is_late: bool,
}

impl<M: Network> Trainer<M> {
    /// Trains `model` for the recipe's task, without a teacher. Its frozen parameters must not require gradients. An epoch has
    /// `updates_per_epoch` updates.
    ///
    /// # Errors
    /// An unknown task, optimiser, schedule or clip mode; a setting out of range; bf16 on a device without bf16; or a model
    /// that is not a classifier.
    pub fn new(
        model: M,
        recipe: &Recipe,
        updates_per_epoch: u64,
        device: &Device,
    ) -> Result<Self, TrainError> {
        Self::with_objective(model, objective_of(recipe)?, recipe, updates_per_epoch, device)
    }

    /// [`new`](Trainer::new) with another objective.
    ///
    /// # Errors
    /// As [`new`](Trainer::new), and a model that the objective cannot train.
    pub fn with_objective(
        model: M,
        objective: Box<dyn Objective<M>>,
        recipe: &Recipe,
        updates_per_epoch: u64,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let config = TrainerConfig::from_recipe(recipe, updates_per_epoch)?;
        Self::with_config(model, objective, config, device)
    }

    /// A trainer from its parts.
    ///
    /// # Errors
    /// As [`new`](Trainer::new), [`TrainError::Prepared`], and a model that the objective cannot train.
    pub fn with_config(
        mut model: M,
        objective: Box<dyn Objective<M>>,
        config: TrainerConfig,
        device: &Device,
    ) -> Result<Self, TrainError> {
        check_trainable(&mut model)?;
        objective.check(&model)?;
        if config.amp_dtype.is_some_and(|dtype| !device.supports_dtype(dtype)) {
            return Err(TrainError::NoBf16);
        }
        let model = model.train();
        Ok(Self {
            optimizer: Optimizer::new(config.optim)?,
            groups: Groups::new(&model, &config.groups)?,
            schedule: config.schedule,
            ema: config.ema.map(|ema| Ema::new(&model, ema)),
            clip: config.clip,
            objective,
            grad_checkpointing: config.grad_checkpointing,
            narrow: config.amp_dtype,
            seed: config.seed,
            updates: 0,
            is_late: !vitrum_kernels::has_fast_path(device, DType::F32),
            device: device.clone().autodiff(),
            model: Some(model),
        })
    }

    /// One update with the mean gradient of `batches`. If the loss or a gradient is not finite, only the number of
    /// updates changes.
    ///
    /// # Errors
    /// [`TrainError::NoExamples`]; [`TrainError::Batch`] and [`TrainError::Targets`]: values that do not fill their shape,
    /// or targets of another shape than the objective's; [`TrainError::Input`]: inputs that the model does not take;
    /// [`TrainError::OneValue`]: too small a batch for a batch norm.
    pub fn update<E: IntoBatch>(&mut self, batches: Vec<E>) -> Result<Updated, TrainError> {
        let launched = self.launch(batches)?;
        Ok(self.settle(launched))
    }

    /// The first half of [`update`](Trainer::update). The CPU finishes it. Other devices get all work at once and may
    /// still compute when this returns. The result must go to [`settle`](Trainer::settle) before anything else
    /// happens to the trainer.
    ///
    /// # Errors
    /// As [`update`](Trainer::update).
    pub(super) fn launch<E: IntoBatch>(&mut self, batches: Vec<E>) -> Result<Launched<M>, TrainError> {
        let batches: Vec<Batch> =
            batches.into_iter().map(|examples| self.checked(examples)).collect::<Result<_, _>>()?;
        if batches.is_empty() {
            return Err(TrainError::NoExamples);
        }
        let lr = self.schedule.lr(self.updates);
        let count = batches.len() as f64;
        let (mut losses, mut grads) = (Vec::new(), GradMap::default());
        let mut statistics = Statistics::default();
        for (index, batch) in batches.into_iter().enumerate() {
            let (loss, part) = self.gradients(batch, index, &mut statistics);
            losses.push(loss);
            grads = grads.plus(part);
        }
        statistics.check()?;
        if count > 1.0 {
            grads = grads.scale(1.0 / count);
        }
        self.updates += 1;
        if self.is_late && !grads.is_empty() {
            return self.launch_late(losses, grads, statistics, lr);
        }
        let loss = mean(losses.into_iter().map(|loss| loss.into_scalar::<f64>()).collect());
        let grad_norm = self.clip.map(|_| grads.norm());
        let skipped = match grads.first_non_finite() {
            _ if !loss.is_finite() => Some(bad_loss(loss)),
            Some(key) => Some(bad_gradient(key)),
            None => None,
        };
        if skipped.is_none() {
            let grads = match (self.clip, &self.model) {
                (Some((mode, value)), Some(model)) => clip(grads, model, mode, value).0,
                _ => grads,
            };
            self.apply(grads, statistics, lr)?;
        }
        Ok(Launched::Done(Updated { loss, lr, grad_norm, skipped }))
    }

    /// Whether the device computes while the host goes on.
    pub(super) fn is_late(&self) -> bool {
        self.is_late
    }

    /// Applies an update before its loss and gradients are known, and keeps the state before it.
    fn launch_late(
        &mut self,
        losses: Vec<Tensor<1>>,
        grads: GradMap,
        statistics: Statistics,
        lr: f64,
    ) -> Result<Launched<M>, TrainError> {
        let (count, squares) = (losses.len(), grads.squares());
        let losses = losses.into_iter().map(|loss| loss.cast(DType::F32));
        let numbers = Tensor::cat(losses.chain([squares.clone()]).collect(), 0);
        // Tensors are shared, so this copies nothing.
        let before =
            Before { model: self.live().clone(), optimizer: self.optimizer.clone(), ema: self.ema.clone() };
        let clipped = match self.clip {
            Some((mode, value)) => clip_by(grads.clone(), squares, self.live(), mode, value),
            None => grads.clone(),
        };
        self.apply(clipped, statistics, lr)?;
        Ok(Launched::Late(Box::new(Late { numbers, losses: count, grads, before, lr })))
    }

    /// Waits for an update. One that was not finite is taken back.
    pub(super) fn settle(&mut self, launched: Launched<M>) -> Updated {
        let late = match launched {
            Launched::Done(updated) => return updated,
            Launched::Late(late) => *late,
        };
        let Late { numbers, losses, grads, before, lr } = late;
        let numbers: Vec<f64> = numbers.into_data().iter::<f64>().collect();
        let (losses, squares) = numbers.split_at(losses);
        let loss = mean(losses.to_vec());
        let grad_norm = self.clip.map(|_| squares.iter().sum::<f64>().sqrt());
        let skipped = match grads.suspects(squares).next() {
            _ if !loss.is_finite() => Some(bad_loss(loss)),
            Some(suspect) if suspect.is_bad() => Some(bad_gradient(&suspect.key)),
            Some(suspect) => Some(format!("the gradient of {} is too large", suspect.key)),
            None => None,
        };
        if skipped.is_some() {
            let Before { model, optimizer, ema } = before;
            (self.model, self.optimizer, self.ema) = (Some(model), optimizer, ema);
        }
        Updated { loss, lr, grad_norm, skipped }
    }

    /// Examples as batches on the device, in order.
    pub(super) fn moved<E: IntoBatch>(&self, examples: Vec<E>) -> Result<Vec<Batch>, TrainError> {
        examples.into_iter().map(|examples| examples.into_batch(&self.device)).collect()
    }

    /// A batch on the device that suits model and objective.
    fn checked<E: IntoBatch>(&self, examples: E) -> Result<Batch, TrainError> {
        let batch = examples.into_batch(&self.device)?;
        if batch.inputs.is_empty() {
            return Err(TrainError::NoExamples);
        }
        self.live().check_inputs(&batch.inputs)?;
        self.objective.check_batch(self.live(), &batch)?;
        Ok(batch)
    }

    /// Loss and gradients of one batch, the `index`-th of its update.
    fn gradients(&self, batch: Batch, index: usize, statistics: &mut Statistics) -> (Tensor<1>, GradMap) {
        let model = self.live();
        let narrow = self.narrow.map(|dtype| narrowed(model, dtype));
        let model = narrow.as_ref().unwrap_or(model);
        let pass = Pass {
            model,
            batch,
            dtype: self.narrow.unwrap_or(DType::F32),
            objective: &*self.objective,
            seed: mix(mix(self.seed ^ mix(self.updates)) ^ index as u64),
        };
        let mut grads = GradMap::default();
        let mut take = |gradients| {
            let part = GradMap::collect(model, gradients);
            let part = if self.narrow.is_some() {
                part.map(|grad| grad.value.clone().cast(DType::F32))
            } else {
                part
            };
            grads = std::mem::take(&mut grads).plus(part);
        };
        let loss = match self.grad_checkpointing {
            true => pass.recomputed(statistics, &mut take),
            false => pass.plain(statistics, &mut take),
        };
        (loss, grads)
    }

    /// Applies clipped gradients: first to the parameters, then BatchNorm's statistics, then the moving average.
    fn apply(&mut self, grads: GradMap, statistics: Statistics, lr: f64) -> Result<(), TrainError> {
        let model = self.model.take().expect("a model, except while an update is under way");
        let model = self.optimizer.step(model, &grads, &self.groups, lr)?;
        let model = statistics.commit(model);
        if let Some(ema) = &mut self.ema {
            ema.update(&model, self.updates);
        }
        self.model = Some(model);
        Ok(())
    }

    fn live(&self) -> &M {
        self.model.as_ref().expect("a model, except while an update is under way")
    }

    /// Updates done, skipped ones included.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The learning rate of the next update.
    pub fn lr(&self) -> f64 {
        self.schedule.lr(self.updates)
    }

    /// Epochs to train.
    pub fn num_epochs(&self) -> usize {
        self.schedule.num_epochs()
    }

    /// The model for evaluation: no autodiff graph, no dropout of any kind, low-rank updates merged.
    pub fn model(&self) -> M {
        self.live().valid().materialize()
    }

    /// The model with the moving average of the weights, for evaluation; `None` if no average is kept.
    pub fn ema_model(&self) -> Option<M> {
        self.ema.as_ref().map(|ema| ema.apply_to(self.live().valid()).materialize())
    }

    /// Gives the schedule the validation score of an epoch.
    pub fn observe(&mut self, epoch: usize, metric: Option<f64>) {
        self.schedule.observe(epoch, metric);
    }

    /// The state to resume from: tensors of the model, its moving average and the optimiser, and numbers.
    pub fn state(&self) -> TrainerState {
        let optimizer = self.optimizer.state_dict();
        TrainerState {
            model: collect(&self.live().valid()).tensors.into_iter().collect(),
            ema: self.ema.as_ref().map(|ema| host_tensors(&ema.state_dict())),
            optimizer: host_tensors(&optimizer),
            numbers: json!({
                "updates": self.updates,
                "optimizer": Value::Object(optimizer.scalars.into_iter().collect()),
                "schedule": Value::Object(self.schedule.state_dict().scalars.into_iter().collect()),
            }),
        }
    }

    /// Resumes from a state of the same model and recipe.
    ///
    /// # Errors
    /// An incomplete state, or the state of another model or optimiser.
    pub fn load_state(&mut self, state: TrainerState) -> Result<(), TrainError> {
        let TrainerState { model, ema, optimizer, numbers } = state;
        let map = TensorMap { tensors: model.into_iter().collect(), ..TensorMap::new("the saved state") };
        let live = self.model.take().expect("a model, except while an update is under way");
        let all = Excuses::default();
        let filled = fill(live, map, DType::F32, &all, &|_, _| None, Report::default());
        self.model = Some(filled.map_err(|error| TrainError::OtherModel(error.to_string()))?.0);
        let inner = self.device.clone().inner();
        let scalars = |name: &str| numbers.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        self.optimizer.load_state_dict(&state_dict(optimizer, scalars("optimizer")), &inner)?;
        self.schedule.load_state_dict(&state_dict(Vec::new(), scalars("schedule")))?;
        match (&mut self.ema, ema) {
            (Some(ema), Some(saved)) => ema.load_state_dict(&state_dict(saved, Default::default()))?,
            (Some(_), None) => return Err(TrainError::OtherModel("the saved run has no average".into())),
            (None, _) => {}
        }
        self.updates = numbers
            .get("updates")
            .and_then(Value::as_u64)
            .ok_or_else(|| TrainError::OtherModel("the saved state has no number of updates".into()))?;
        Ok(())
    }
}

/// The saved state of a [`Trainer`].
#[derive(Clone, Debug, PartialEq)]
pub struct TrainerState {
    /// Parameters under timm's keys and layouts.
    pub model: Vec<(String, HostTensor)>,
    /// Their moving average.
    pub ema: Option<Vec<(String, HostTensor)>>,
    /// The optimiser's state.
    pub optimizer: Vec<(String, HostTensor)>,
    /// Counts, and the schedule's history.
    pub numbers: Value,
}

/// Refuses weights that are prepared for inference.
fn check_trainable<M: Network>(model: &mut M) -> Result<(), TrainError> {
    let form = |prepared: &Prepared| match prepared {
        Prepared::Int8(_) => "in int8",
        Prepared::Packed(weight) if weight.is_bf16() => "rounded to bf16",
        Prepared::Narrow(_) => "rounded to bf16",
        Prepared::Packed(_) => "packed",
    };
    let linear = model.linears().into_iter().find_map(|(name, layer)| Some((name, form(layer.prepared()?))));
    let found = linear.or_else(|| Some((packed_conv(model)?, "packed")));
    match found {
        Some((layer, form)) => Err(TrainError::Prepared { layer, form }),
        None => Ok(()),
    }
}

/// The name of a convolution whose kernel is packed.
fn packed_conv<M: Network>(model: &mut M) -> Option<String> {
    struct Named(ParamId, Option<String>);
    impl Visit for Named {
        fn float<const R: usize>(&mut self, key: &Key, param: &Param<Tensor<R>>) {
            if param.id == self.0 {
                self.1 = key.name.strip_suffix(".weight").map(Into::into);
            }
        }
    }
    let mut packed = None;
    model.visit_parts(&mut |part| match part {
        Part::Conv(conv) if packed.is_none() && conv.is_packed() => packed = Some(conv.weight.id),
        _ => {}
    });
    let mut named = Named(packed?, None);
    visit(model, &mut named);
    named.1
}

fn host_tensors(state: &StateDict) -> Vec<(String, HostTensor)> {
    let host = |(name, data): (&String, &TensorData)| {
        let shape = data.shape().to_vec();
        let tensor = match data.dtype() {
            DType::F64 => HostTensor::from_f64(shape, &data.iter::<f64>().collect::<Vec<_>>()),
            _ => HostTensor::from_f32(shape, &data.iter::<f32>().collect::<Vec<_>>()),
        };
        (name.clone(), tensor.expect("a tensor's values fill its shape"))
    };
    state.tensors.iter().map(host).collect()
}

fn state_dict(tensors: Vec<(String, HostTensor)>, scalars: serde_json::Map<String, Value>) -> StateDict {
    let data = |tensor: &HostTensor| {
        let shape = tensor.shape().to_vec();
        match tensor.dtype() {
            crate::checkpoint::Dtype::F64 => TensorData::new(tensor.to_f64(), shape),
            _ => TensorData::new(tensor.to_f32(), shape),
        }
    };
    StateDict {
        tensors: tensors.iter().map(|(name, tensor)| (name.clone(), data(tensor))).collect(),
        scalars: scalars.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{Examples, Trainer};
    use crate::models::{Config, Model, ModelConfig};
    use crate::train::Recipe;

    fn trainer(is_late: bool, clip_mode: &str) -> Trainer<Model> {
        let device = Device::flex();
        let config = ModelConfig::named("test_vit").unwrap().with("img_size", 32.into()).unwrap();
        let recipe = Recipe {
            lr: Some(1e-3),
            warmup_epochs: 0.0,
            clip_grad: Some(0.1),
            clip_mode: clip_mode.into(),
            model_ema: true,
            model_ema_decay: 0.5,
            ..Recipe::default()
        };
        let mut trainer = Trainer::new(config.init(&device, 3).unwrap(), &recipe, 10, &device).unwrap();
        trainer.is_late = is_late;
        trainer
    }

    fn examples(classes: usize, seed: usize, spoilt: bool) -> Vec<Examples> {
        let shape = [2, 3, 32, 32];
        let pixel = |i: usize| ((i * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0;
        let mut images: Vec<f32> = (0..shape.iter().product()).map(pixel).collect();
        if spoilt {
            images[5] = f32::NAN;
        }
        let mut targets = vec![0.0; 2 * classes];
        (targets[seed % classes], targets[classes + 1]) = (1.0, 1.0);
        vec![Examples { images, shape, targets, masks: None, indexes: Vec::new() }]
    }

    fn largest_difference(a: &Trainer<Model>, b: &Trainer<Model>) -> f64 {
        let (a, b) = (a.state(), b.state());
        let parts = [(a.model, b.model), (a.optimizer, b.optimizer), (a.ema.unwrap(), b.ema.unwrap())];
        let of_part = |(a, b): (Vec<(String, _)>, Vec<(String, _)>)| -> f64 {
            assert_eq!(a.len(), b.len());
            a.iter().zip(&b).fold(0.0, |most: f64, ((name, a), (other, b))| {
                assert_eq!(name, other);
                let (a, b): (Vec<f64>, Vec<f64>) =
                    (crate::checkpoint::HostTensor::to_f64(a), crate::checkpoint::HostTensor::to_f64(b));
                assert!(a.iter().chain(&b).all(|x| x.is_finite()), "{name}");
                a.iter().zip(&b).fold(most, |most, (a, b)| most.max((a - b).abs()))
            })
        };
        parts.into_iter().map(of_part).fold(0.0, f64::max)
    }

    /// Updates that are applied before their numbers are known end where others end. A bad one changes nothing.
    #[test]
    fn late_updates_are_those_of_the_cpu() {
        for clip_mode in ["norm", "value", "agc"] {
            let [mut now, mut late] = [false, true].map(|is_late| trainer(is_late, clip_mode));
            let classes = now.model().config().num_classes();
            for (seed, spoilt) in [(1, false), (2, false), (3, true), (4, false)] {
                let [a, b] = [&mut now, &mut late]
                    .map(|trainer| trainer.update(examples(classes, seed, spoilt)).unwrap());
                assert_eq!(a.skipped, b.skipped, "{clip_mode}");
                assert_eq!(a.skipped.is_some(), spoilt, "{clip_mode}");
                if !spoilt {
                    let norms = (a.grad_norm.unwrap(), b.grad_norm.unwrap());
                    assert!((a.loss - b.loss).abs() < 1e-4, "{clip_mode}: {a:?} {b:?}");
                    assert!((norms.0 - norms.1).abs() < 1e-3 * norms.0, "{clip_mode}: {norms:?}");
                }
            }
            assert_eq!(now.updates(), late.updates());
            let difference = largest_difference(&now, &late);
            assert!(difference < 1e-4, "{clip_mode}: {difference}");
        }
    }
}
