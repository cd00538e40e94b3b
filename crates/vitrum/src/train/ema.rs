//! A moving average of the weights, as timm's `ModelEmaV3`.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use vitrum_kernels::optim::{Lerp, Slot, update};

use super::optim::{StateDict, StateError, flat, like, unflat};
use super::recipe::Recipe;
use crate::layers::names::{Key, Map, Visit, map, visit};

/// Settings of the moving average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmaConfig {
    /// Weight of the old average in an update.
    pub decay: f64,
    /// Smallest weight of the old average during the warm-up.
    pub min_decay: f64,
    /// Through the update after this one, the average equals the weights.
    pub update_after_step: u64,
    /// Whether the weight grows from 0: `1 - (1 + step / gamma)^-power`, at most `decay`.
    pub use_warmup: bool,
    /// See `use_warmup`.
    pub warmup_gamma: f64,
    /// See `use_warmup`.
    pub warmup_power: f64,
}

impl Default for EmaConfig {
    /// timm's defaults.
    fn default() -> Self {
        Self {
            decay: 0.9999,
            min_decay: 0.0,
            update_after_step: 0,
            use_warmup: false,
            warmup_gamma: 1.0,
            warmup_power: 2.0 / 3.0,
        }
    }
}

impl From<&Recipe> for EmaConfig {
    fn from(recipe: &Recipe) -> Self {
        Self { decay: recipe.model_ema_decay, use_warmup: recipe.model_ema_warmup, ..Self::default() }
    }
}

impl EmaConfig {
    /// The weight of the old average at update `step`, counted from 1.
    pub fn decay_at(&self, step: u64) -> f64 {
        let step = step.saturating_sub(self.update_after_step).saturating_sub(1);
        match (step, self.use_warmup) {
            (0, _) => 0.0,
            (_, false) => self.decay,
            (step, true) => {
                let grown = 1.0 - (1.0 + step as f64 / self.warmup_gamma).powf(-self.warmup_power);
                grown.min(self.decay).max(self.min_decay)
            }
        }
    }
}

/// The average of a model's trained parameters and of BatchNorm's statistics, as in timm. Types narrower than f32 are
/// averaged in f32. Frozen parameters are not averaged: [`apply_to`](Ema::apply_to) leaves them unchanged.
#[derive(Clone, Debug)]
pub struct Ema {
    config: EmaConfig,
    values: BTreeMap<String, (Vec<usize>, Tensor<1>)>,
}

impl Ema {
    /// An average that starts with the model's weights.
    pub fn new<M: Module>(model: &M, config: EmaConfig) -> Self {
        Self { config, values: trained(model).into_iter().collect() }
    }

    /// Adds the weights after update `step`, counted from 1.
    ///
    /// A parameter new to the average starts with its own value.
    pub fn update<M: Module>(&mut self, model: &M, step: u64) {
        let weight = 1.0 - self.config.decay_at(step);
        let mut labels = Vec::new();
        let mut slots = Vec::new();
        for (key, (shape, value)) in trained(model) {
            let param = match self.values.remove(&key) {
                Some((old, average)) if old == shape => average,
                _ => value.clone(),
            };
            slots.push(Slot { param, grad: value, state: [], rule: Lerp { weight } });
            labels.push((key, shape));
        }
        let averages = update(slots).into_iter().map(|slot| slot.param);
        self.values.extend(labels.into_iter().zip(averages).map(|((key, shape), x)| (key, (shape, x))));
    }

    /// `model` with averages in place of its parameters. Everything else stays, including its autodiff state.
    pub fn apply_to<M: Module>(&self, model: M) -> M {
        map(model, &mut Filler { values: &self.values })
    }

    /// The averages, by key.
    pub fn state_dict(&self) -> StateDict {
        let mut state = StateDict::default();
        for (key, (shape, value)) in &self.values {
            state.insert(key.clone(), shape, value);
        }
        state
    }

    /// Restores saved averages.
    ///
    /// # Errors
    /// [`StateError`] if a key is missing, or a tensor's shape or type differs; nothing is changed then.
    pub fn load_state_dict(&mut self, state: &StateDict) -> Result<(), StateError> {
        let mut values = BTreeMap::new();
        for (key, (shape, old)) in &self.values {
            let value = state.tensor(key, shape, old.dtype(), &old.device())?;
            values.insert(key.clone(), (shape.clone(), value));
        }
        self.values = values;
        Ok(())
    }

    /// The device of the averages.
    pub fn device(&self) -> Option<Device> {
        self.values.values().next().map(|(_, value)| value.device())
    }
}

/// Keys, shapes and flattened values of the averaged tensors.
fn trained<M: Module>(model: &M) -> Vec<(String, (Vec<usize>, Tensor<1>))> {
    let mut trained = Trained(Vec::new());
    visit(model, &mut trained);
    trained.0
}

struct Trained(Vec<(String, (Vec<usize>, Tensor<1>))>);

impl Visit for Trained {
    fn float<const R: usize>(&mut self, key: &Key, param: &Param<Tensor<R>>) {
        let value = param.base();
        if value.is_autodiff() && !value.is_require_grad() && !key.is_statistic {
            return;
        }
        let shape = value.dims().to_vec();
        let value = flat(value);
        let wide = matches!(value.dtype(), DType::F32 | DType::F64);
        let value = if wide { value } else { value.cast(DType::F32) };
        self.0.push((key.name.clone(), (shape, value)));
    }
}

struct Filler<'a> {
    values: &'a BTreeMap<String, (Vec<usize>, Tensor<1>)>,
}

impl Map for Filler<'_> {
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        let Some((_, value)) = self.values.get(&key.name) else { return param };
        let (id, old, mapper) = param.consume();
        let value = unflat::<R>(value.clone().cast(old.dtype()), old.dims());
        Param::from_mapped_value(id, like(value, &old), mapper)
    }
}
