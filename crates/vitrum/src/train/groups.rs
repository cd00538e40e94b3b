//! Weight decay and learning-rate scale of each parameter.
//!
//! The rules are timm's `param_groups_weight_decay` and `param_groups_layer_decay` with each family's
//! matcher; layer-wise decay is from BEiT (arXiv:2106.08254).

use std::collections::BTreeMap;

use super::TrainError;
use super::recipe::Recipe;
use crate::layers::names::{shapes, wildcard};
use crate::models::{Depth, Network};

/// How one parameter is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Its weight decay.
    pub weight_decay: f64,
    /// Factor on the schedule's learning rate.
    pub lr_scale: f64,
    /// Its layer: 0 is the embedding, then the blocks, then the head.
    pub layer: usize,
}

/// Settings of groups.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupConfig {
    /// Weight decay of parameters that decay.
    pub weight_decay: f64,
    /// Ratio of a layer's learning rate to the next layer's; `None`: the same rate for all.
    pub layer_decay: Option<f64>,
    /// Keys without weight decay, besides one-dimensional parameters, tokens and positions; `*` matches any text.
    pub no_weight_decay: Vec<String>,
}

impl From<&Recipe> for GroupConfig {
    fn from(recipe: &Recipe) -> Self {
        Self {
            weight_decay: recipe.weight_decay,
            layer_decay: recipe.layer_decay,
            no_weight_decay: recipe.no_weight_decay.clone(),
        }
    }
}

/// The group of every parameter of a model, by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Groups {
    by_key: BTreeMap<String, Group>,
}

impl Groups {
    /// Groups of all parameters of `model`, including frozen ones. Reads no parameter values.
    ///
    /// # Errors
    /// [`TrainError::NoLayers`]: `layer_decay` for a model whose [`depth`](Network::depth) names no layers.
    pub fn new<M: Network>(model: &M, config: &GroupConfig) -> Result<Self, TrainError> {
        let found: Vec<(String, usize)> =
            shapes(model).into_iter().map(|(key, shape)| (key.name, shape.len())).collect();
        let layers = numbered(found.iter().map(|(key, _)| model.depth(key)));
        if let Some(decay) = config.layer_decay
            && !layers.keys().any(|depth| matches!(depth, Depth::Layer(_)))
        {
            return Err(TrainError::NoLayers { decay });
        }
        let last = layers.values().max().copied().unwrap_or(0);
        let group = |(key, rank): (String, usize)| {
            let layer = layers[&model.depth(&key)];
            let decays =
                rank > 1 && model.decays(&key) && !config.no_weight_decay.iter().any(|p| wildcard(p, &key));
            let lr_scale = config.layer_decay.map_or(1.0, |decay| decay.powi((last - layer) as i32));
            let weight_decay = if decays { config.weight_decay } else { 0.0 };
            (key, Group { weight_decay, lr_scale, layer })
        };
        Ok(Self { by_key: found.into_iter().map(group).collect() })
    }

    /// The group of the parameter with this key.
    pub fn get(&self, key: &str) -> Option<&Group> {
        self.by_key.get(key)
    }

    /// Keys and groups, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Group)> {
        self.by_key.iter().map(|(key, group)| (key.as_str(), group))
    }
}

impl FromIterator<(String, Group)> for Groups {
    fn from_iter<I: IntoIterator<Item = (String, Group)>>(groups: I) -> Self {
        Self { by_key: groups.into_iter().collect() }
    }
}

/// Numbers the depths from 0. The closing norm shares the number of the depth before it (timm's `MATCH_PREV_GROUP`).
fn numbered(depths: impl Iterator<Item = Depth>) -> BTreeMap<Depth, usize> {
    let mut layers: BTreeMap<Depth, usize> = depths.map(|depth| (depth, 0)).collect();
    let mut next = 0;
    for (depth, layer) in &mut layers {
        match depth {
            Depth::Close if next > 0 => *layer = next - 1,
            _ => {
                *layer = next;
                next += 1;
            }
        }
    }
    layers
}
