//! Optimisers, as in torch and timm.
//!
//! An optimiser works on flattened tensors on the device without autodiff. [`GradMap`] collects the gradients of a
//! model by key. [`Optimizer::step`] takes the parameters out of the model, updates them, and puts them back. State
//! is kept by key too, so a resumed run continues bit for bit.
//!
//! Names, meanings and defaults are those of timm 1.0's `create_optimizer_v2`. Differences: `muon` iterates in
//! the parameters' own type, timm in bf16; `lars_moco` is not in timm.

mod adafactor;
mod elementwise;
mod grads;
mod lamb;
mod lars;
mod muon;
mod state;

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde_json::Value;

pub use grads::{Grad, GradMap};
pub use state::{StateDict, StateError};

use super::groups::{Group, Groups};
use super::recipe::Recipe;
use crate::layers::names::{Key, Layout, Map, map, shapes};

/// Name of an optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptimName {
    /// AdamW (arXiv:1711.05101) as in torch.
    AdamW,
    /// Adam (arXiv:1412.6980) as in torch; decay is added to the gradient.
    Adam,
    /// AdamW with Nesterov momentum, as timm's `NAdamW` (arXiv:1910.05446).
    NAdamW,
    /// SGD with Nesterov momentum, as torch's `SGD`.
    Sgd,
    /// SGD with plain momentum.
    Momentum,
    /// LAMB (arXiv:1904.00962) as in timm.
    Lamb,
    /// LARS (arXiv:1708.03888) as in timm: it scales the steps of parameters with weight decay.
    Lars,
    /// LARS as in MoCo v3 and MAE: it scales the steps of parameters of more than one dimension.
    LarsMoco,
    /// Lion (arXiv:2302.06675) as in timm.
    Lion,
    /// Adafactor (arXiv:1804.04235) as in timm, with the schedule's learning rate.
    Adafactor,
    /// Muon as in timm: matrices are orthogonalised, the rest uses AdamW.
    Muon,
    /// Muon with Nesterov momentum; the rest uses NAdamW.
    NMuon,
}

impl OptimName {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::AdamW,
        Self::Adam,
        Self::NAdamW,
        Self::Sgd,
        Self::Momentum,
        Self::Lamb,
        Self::Lars,
        Self::LarsMoco,
        Self::Lion,
        Self::Adafactor,
        Self::Muon,
        Self::NMuon,
    ];

    /// timm's name; `lars_moco` is our own.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AdamW => "adamw",
            Self::Adam => "adam",
            Self::NAdamW => "nadamw",
            Self::Sgd => "sgd",
            Self::Momentum => "momentum",
            Self::Lamb => "lamb",
            Self::Lars => "lars",
            Self::LarsMoco => "lars_moco",
            Self::Lion => "lion",
            Self::Adafactor => "adafactor",
            Self::Muon => "muon",
            Self::NMuon => "nmuon",
        }
    }

    /// Default betas. Adafactor has none; without betas, it keeps no average of steps.
    fn default_betas(self) -> Option<[f64; 2]> {
        match self {
            Self::Adafactor => None,
            Self::Lion => Some([0.9, 0.99]),
            Self::Muon | Self::NMuon => Some([0.9, 0.95]),
            _ => Some([0.9, 0.999]),
        }
    }

    fn default_eps(self) -> f64 {
        match self {
            Self::Lamb => 1e-6,
            Self::LarsMoco => 0.0,
            Self::Adafactor => 1e-30,
            Self::Muon | Self::NMuon => 1e-7,
            _ => 1e-8,
        }
    }
}

impl std::str::FromStr for OptimName {
    type Err = OptimError;

    fn from_str(name: &str) -> Result<Self, OptimError> {
        let lower = name.to_lowercase();
        Self::ALL.into_iter().find(|known| known.as_str() == lower).ok_or_else(|| OptimError::UnknownName {
            name: name.into(),
            nearest: nearest(&lower, &Self::ALL.map(Self::as_str)),
        })
    }
}

/// The most similar names, nearest first.
pub(crate) fn nearest(name: &str, known: &[&str]) -> Vec<String> {
    let mut rated: Vec<(f64, &str)> =
        known.iter().map(|known| (strsim::jaro_winkler(name, known), *known)).collect();
    rated.sort_by(|a, b| b.0.total_cmp(&a.0));
    rated.into_iter().take(3).map(|(_, known)| known.to_string()).collect()
}

/// An error of an optimiser.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OptimError {
    /// No optimiser has this name.
    #[error("opt: unknown optimiser '{name}'\nhint: did you mean {}?", .nearest.join(", "))]
    UnknownName {
        /// The requested name.
        name: String,
        /// Similar names, nearest first.
        nearest: Vec<String>,
    },
    /// An invalid number.
    #[error("{field} {reason}")]
    Field {
        /// The recipe's key.
        field: &'static str,
        /// The rest of a sentence that begins with the key.
        reason: String,
    },
    /// The model or the groups have no parameter for this gradient.
    #[error(
        "gradient of '{key}': no such parameter in the {place}\nhint: groups are made from the model that is trained"
    )]
    UnknownKey {
        /// The parameter.
        key: String,
        /// `model` or `groups`.
        place: &'static str,
    },
    /// The gradient's shape differs from its parameter's.
    #[error("gradient of '{key}': expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The parameter.
        key: String,
        /// Its shape.
        expected: Vec<usize>,
        /// The gradient's.
        found: Vec<usize>,
    },
    /// The saved state does not fit this optimiser and model.
    #[error("optimiser: {0}")]
    State(#[from] StateError),
}

/// An optimiser and its hyperparameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimConfig {
    /// Its name.
    pub name: OptimName,
    /// Momentum of `sgd`, `momentum`, `lars` and `muon`.
    pub momentum: f64,
    /// Betas; `None`: the optimiser's own.
    pub betas: Option<[f64; 2]>,
    /// Epsilon; `None`: the optimiser's own.
    pub eps: Option<f64>,
}

impl OptimConfig {
    /// The optimiser with timm's defaults.
    pub fn new(name: OptimName) -> Self {
        Self { name, momentum: 0.9, betas: None, eps: None }
    }

    /// The optimiser of a recipe.
    ///
    /// # Errors
    /// [`OptimError::UnknownName`], and [`OptimError::Field`] for invalid numbers.
    pub fn from_recipe(recipe: &Recipe) -> Result<Self, OptimError> {
        let betas = match recipe.opt_betas.as_deref() {
            None => None,
            Some([first, second]) => Some([*first, *second]),
            Some(other) => {
                return refuse("opt_betas", format!("has {} numbers, expected 2", other.len()));
            }
        };
        let name = recipe.opt.parse()?;
        let config = Self { name, momentum: recipe.momentum, betas, eps: recipe.opt_eps };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), OptimError> {
        if let Some(beta) = self.betas.iter().flatten().find(|beta| !(0.0..1.0).contains(*beta)) {
            return refuse("opt_betas", format!("has {beta}, expected numbers of at least 0 and below 1"));
        }
        if let Some(eps) = self.eps.filter(|eps| !(eps.is_finite() && *eps >= 0.0)) {
            return refuse("opt_eps", format!("is {eps}, expected a number of at least 0"));
        }
        if !(0.0..1.0).contains(&self.momentum) {
            return refuse("momentum", format!("is {}, expected at least 0 and below 1", self.momentum));
        }
        if self.name == OptimName::Sgd && self.momentum == 0.0 {
            return refuse("momentum", "is 0, but `sgd` uses Nesterov\nhint: opt = \"momentum\"".into());
        }
        Ok(())
    }

    fn betas(&self) -> [f64; 2] {
        self.betas.or(self.name.default_betas()).unwrap_or([0.0; 2])
    }

    fn eps(&self) -> f64 {
        self.eps.unwrap_or(self.name.default_eps())
    }
}

fn refuse<T>(field: &'static str, reason: String) -> Result<T, OptimError> {
    Err(OptimError::Field { field, reason })
}

/// State of one parameter: number of its updates, and tensors by name with their shapes.
#[derive(Clone, Debug, Default)]
struct Kept {
    step: u64,
    tensors: BTreeMap<String, (Vec<usize>, Tensor<1>)>,
}

impl Kept {
    /// Takes the tensor of this name, or zeros. [`put`](Kept::put) returns it.
    fn take(&mut self, name: &str, shape: &[usize], like: &Tensor<1>) -> Tensor<1> {
        let n = shape.iter().product::<usize>();
        let fresh = || Tensor::zeros([n], (&like.device(), like.dtype()));
        self.tensors.remove(name).map_or_else(fresh, |(_, tensor)| tensor)
    }

    fn put(&mut self, name: &str, shape: &[usize], tensor: Tensor<1>) {
        self.tensors.insert(name.into(), (shape.to_vec(), tensor));
    }
}

/// A parameter during a step.
struct Item {
    key: String,
    /// Shape in memory.
    shape: Vec<usize>,
    layout: Layout,
    param: Tensor<1>,
    grad: Tensor<1>,
    group: Group,
    kept: Kept,
}

/// An optimiser with its state.
#[derive(Clone, Debug)]
pub struct Optimizer {
    config: OptimConfig,
    updates: u64,
    kept: BTreeMap<String, Kept>,
}

impl Optimizer {
    /// A fresh optimiser.
    ///
    /// # Errors
    /// [`OptimError::Field`] for invalid numbers.
    pub fn new(config: OptimConfig) -> Result<Self, OptimError> {
        config.check()?;
        Ok(Self { config, updates: 0, kept: BTreeMap::new() })
    }

    /// The optimiser's configuration.
    pub fn config(&self) -> &OptimConfig {
        &self.config
    }

    /// Steps taken.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Updates the parameters that have a gradient, each with `lr` times its group's scale. A parameter keeps its
    /// id, its device and whether it is trained. Parameters without a gradient, and their state, stay unchanged.
    ///
    /// # Errors
    /// [`OptimError`] if model, gradients, groups and state do not match. Then nothing is updated, but the model is
    /// lost.
    pub fn step<M: Module>(
        &mut self,
        model: M,
        grads: &GradMap,
        groups: &Groups,
        lr: f64,
    ) -> Result<M, OptimError> {
        self.check(&model, grads, groups)?;
        let mut taker = Taker { grads, taken: Vec::new() };
        let model = map(model, &mut taker);
        self.updates += 1;
        let items = taker.taken.into_iter().map(|taken| self.item(taken, groups)).collect();
        let mut moved = BTreeMap::new();
        for item in self.moved(items, lr) {
            moved.insert(item.key.clone(), (item.shape, item.param));
            self.kept.insert(item.key, item.kept);
        }
        Ok(map(model, &mut Putter { moved }))
    }

    fn item(&mut self, taken: Taken<'_>, groups: &Groups) -> Item {
        let Taken { grad, shape, param } = taken;
        let mut kept = self.kept.remove(&grad.key).unwrap_or_default();
        kept.step += 1;
        let group = *groups.get(&grad.key).expect("the step's check found every group");
        let (key, layout) = (grad.key.clone(), grad.layout);
        Item { key, shape, layout, param, grad: grad.value.clone(), group, kept }
    }

    fn moved(&self, items: Vec<Item>, lr: f64) -> Vec<Item> {
        let config = &self.config;
        match config.name {
            OptimName::AdamW => elementwise::adam(config, items, lr, true, false),
            OptimName::Adam => elementwise::adam(config, items, lr, false, false),
            OptimName::NAdamW => elementwise::adam(config, items, lr, true, true),
            OptimName::Sgd => elementwise::momentum(config, items, lr, true),
            OptimName::Momentum => elementwise::momentum(config, items, lr, false),
            OptimName::Lion => elementwise::lion(config, items, lr),
            OptimName::Lamb => lamb::step(config, items, lr, self.updates),
            OptimName::Lars => lars::step(config, items, lr, lars::Form::Timm),
            OptimName::LarsMoco => lars::step(config, items, lr, lars::Form::Moco),
            OptimName::Adafactor => adafactor::step(config, items, lr),
            OptimName::Muon => muon::step(config, items, lr, false),
            OptimName::NMuon => muon::step(config, items, lr, true),
        }
    }

    /// Checks that everything fits, before the first update.
    fn check<M: Module>(&self, model: &M, grads: &GradMap, groups: &Groups) -> Result<(), OptimError> {
        let shapes: BTreeMap<String, Vec<usize>> =
            shapes(model).into_iter().map(|(key, shape)| (key.name, shape)).collect();
        for grad in grads.iter() {
            let unknown = |place| OptimError::UnknownKey { key: grad.key.clone(), place };
            let expected = shapes.get(&grad.key).ok_or_else(|| unknown("model"))?;
            groups.get(&grad.key).ok_or_else(|| unknown("groups"))?;
            if *expected != grad.shape {
                let (expected, found) = (expected.clone(), grad.shape.clone());
                return Err(OptimError::Shape { key: grad.key.clone(), expected, found });
            }
            self.check_kept(grad)?;
        }
        Ok(())
    }

    /// Every state tensor must have the parameter's shape, except Adafactor's rows and columns.
    fn check_kept(&self, grad: &Grad) -> Result<(), OptimError> {
        let Some(kept) = self.kept.get(&grad.key) else { return Ok(()) };
        for (name, (shape, tensor)) in &kept.tensors {
            let expected = match adafactor::factored_shape(name, &grad.shape, grad.layout) {
                Some(expected) => expected,
                None => grad.shape.clone(),
            };
            if *shape != expected {
                let found = shape.clone();
                return Err(StateError::Shape { name: name_of(name, &grad.key), expected, found }.into());
            }
            let (expected, found) = (grad.value.dtype(), tensor.dtype());
            if expected != found {
                return Err(StateError::Type { name: name_of(name, &grad.key), expected, found }.into());
            }
        }
        Ok(())
    }

    /// The whole state: tensors under `NAME/KEY` (`exp_avg/blocks.0.attn.qkv.weight`), and numbers of steps.
    pub fn state_dict(&self) -> StateDict {
        let mut state = StateDict::default();
        let steps = self.kept.iter().map(|(key, kept)| (key.clone(), Value::from(kept.step))).collect();
        state.scalars.insert("optimizer".into(), self.config.name.as_str().into());
        state.scalars.insert("updates".into(), self.updates.into());
        state.scalars.insert("steps".into(), Value::Object(steps));
        for (key, kept) in &self.kept {
            for (name, (shape, tensor)) in &kept.tensors {
                state.insert(name_of(name, key), shape, tensor);
            }
        }
        state
    }

    /// Restores a saved state. Its tensors go to `device`, which is without autodiff.
    ///
    /// # Errors
    /// [`StateError`] if it is incomplete or belongs to another optimiser; nothing is changed then. The next step
    /// checks it against the model.
    pub fn load_state_dict(&mut self, state: &StateDict, device: &Device) -> Result<(), StateError> {
        let missing = |name: &str| StateError::Missing { name: name.into() };
        let scalar = |name: &str| state.scalars.get(name).ok_or_else(|| missing(name));
        let found = scalar("optimizer")?.as_str().unwrap_or_default();
        let expected = self.config.name.as_str();
        if found != expected {
            return Err(StateError::OtherOptimizer { expected: expected.into(), found: found.into() });
        }
        let updates = scalar("updates")?.as_u64().ok_or_else(|| missing("updates"))?;
        let mut kept: BTreeMap<String, Kept> = BTreeMap::new();
        for (key, step) in scalar("steps")?.as_object().ok_or_else(|| missing("steps"))? {
            let step = step.as_u64().ok_or_else(|| missing("steps"))?;
            kept.insert(key.clone(), Kept { step, tensors: BTreeMap::new() });
        }
        for (name, data) in &state.tensors {
            let place = name.split_once('/').and_then(|(name, key)| Some((name, kept.get_mut(key)?)));
            let Some((short, kept)) = place else {
                return Err(StateError::Unexpected { name: name.clone() });
            };
            let tensor = state.tensor(name, data.shape(), data.dtype(), device)?;
            kept.put(short, data.shape(), tensor);
        }
        self.kept = kept;
        self.updates = updates;
        Ok(())
    }
}

/// Name of a tensor in a state.
fn name_of(name: &str, key: &str) -> String {
    format!("{name}/{key}")
}

/// Flattens a tensor, on the device without autodiff.
pub(crate) fn flat<const R: usize>(tensor: Tensor<R>) -> Tensor<1> {
    let tensor = tensor.inner();
    let n = tensor.dims().iter().product::<usize>();
    tensor.reshape([n])
}

/// The inverse of [`flat`], except for the device.
pub(crate) fn unflat<const R: usize>(tensor: Tensor<1>, shape: [usize; R]) -> Tensor<R> {
    tensor.reshape(shape)
}

/// `value` with the autodiff state of `old`: with or without autodiff, trained or not.
pub(crate) fn like<const R: usize>(value: Tensor<R>, old: &Tensor<R>) -> Tensor<R> {
    let Some(strategy) = old.gradient_checkpointing_strategy() else { return value };
    let value = Tensor::from_inner(value).with_gradient_checkpointing_strategy(strategy);
    value.set_require_grad(old.is_require_grad())
}

/// A parameter taken out of its model.
struct Taken<'a> {
    grad: &'a Grad,
    shape: Vec<usize>,
    param: Tensor<1>,
}

/// Takes out parameters that have a gradient and leaves one number in their place. The step then holds the only
/// reference to their buffers.
struct Taker<'a> {
    grads: &'a GradMap,
    taken: Vec<Taken<'a>>,
}

impl Map for Taker<'_> {
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        let Some(grad) = self.grads.get(&key.name) else { return param };
        let (id, value, mapper) = param.consume();
        let inner = value.device().inner();
        let place = like(Tensor::zeros([1; R], (&inner, value.dtype())), &value);
        let shape = value.dims().to_vec();
        self.taken.push(Taken { grad, shape, param: flat(value) });
        Param::from_mapped_value(id, place, mapper)
    }
}

/// Puts parameters back.
struct Putter {
    moved: BTreeMap<String, (Vec<usize>, Tensor<1>)>,
}

impl Map for Putter {
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        let Some((shape, value)) = self.moved.remove(&key.name) else { return param };
        let shape: [usize; R] = shape.try_into().expect("taken from a parameter of this rank");
        let (id, place, mapper) = param.consume();
        Param::from_mapped_value(id, like(unflat(value, shape), &place), mapper)
    }
}
