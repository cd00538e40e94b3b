//! Which parameters decay, and how fast each learns.
//!
//! The rules are timm's `param_groups_weight_decay` and `param_groups_layer_decay` with its matcher for Vision
//! Transformers; layer-wise decay is that of BEiT (arXiv:2106.08254).

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use super::recipe::Recipe;
use crate::layers::names::{KeyPath, wildcard};

/// How one parameter is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Its weight decay.
    pub weight_decay: f64,
    /// Its learning rate over the schedule's.
    pub lr_scale: f64,
    /// Its layer: 0 is the embedding, then the blocks, then what follows.
    pub layer: usize,
}

/// What groups are made from.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupConfig {
    /// Weight decay of those that decay.
    pub weight_decay: f64,
    /// Learning rate of a layer over that of the next; `None`: all learn alike.
    pub layer_decay: Option<f64>,
    /// Keys without weight decay, besides all of one dimension, tokens and positions; `*` stands for any text.
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
    /// Groups of all parameters of `model`, also of those that are not trained. Reads no value.
    pub fn new<M: Module>(model: &M, config: &GroupConfig) -> Self {
        let mut ranks = Ranks::default();
        model.visit(&mut ranks);
        let layers = numbered(ranks.found.iter().map(|(key, _)| key.as_str()));
        let last = layers.values().max().copied().unwrap_or(0);
        let group = |(key, rank): (String, usize)| {
            let layer = layers[&place(&key)];
            let decays =
                rank > 1 && !is_token(&key) && !config.no_weight_decay.iter().any(|p| wildcard(p, &key));
            let lr_scale = config.layer_decay.map_or(1.0, |decay| decay.powi((last - layer) as i32));
            let weight_decay = if decays { config.weight_decay } else { 0.0 };
            (key, Group { weight_decay, lr_scale, layer })
        };
        Self { by_key: ranks.found.into_iter().map(group).collect() }
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

/// Tokens and position tables, which do not decay (timm's `no_weight_decay`).
fn is_token(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    matches!(last, "cls_token" | "reg_token" | "dist_token" | "mask_token") || last.starts_with("pos_embed")
}

/// Where a parameter stands in the order of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Before the blocks.
    Embedding,
    /// The block of this index.
    Block(usize),
    /// After the last block, and trained at its pace: the norm.
    WithLastBlock,
    /// What comes after.
    Head,
}

/// timm's `group_matcher`, with `pos_block.I` counted to block I.
fn place(key: &str) -> Place {
    let embedding =
        ["cls_token", "reg_token", "dist_token", "mask_token", "pos_embed", "patch_embed", "norm_pre"];
    if embedding.iter().any(|start| key.starts_with(start)) {
        return Place::Embedding;
    }
    let block = key.strip_prefix("blocks.").or_else(|| key.strip_prefix("pos_block."));
    if let Some(index) = block.and_then(|rest| rest.split('.').next()?.parse().ok()) {
        return Place::Block(index);
    }
    if key.starts_with("norm") { Place::WithLastBlock } else { Place::Head }
}

/// Layers from 0 on, of the places that occur.
fn numbered<'a>(keys: impl Iterator<Item = &'a str>) -> BTreeMap<Place, usize> {
    let mut layers: BTreeMap<Place, usize> = keys.map(|key| (place(key), 0)).collect();
    let mut next = 0;
    for (place, layer) in &mut layers {
        if *place == Place::WithLastBlock && next > 0 {
            *layer = next - 1;
        } else {
            *layer = next;
            next += 1;
        }
    }
    layers
}

/// Keys and numbers of dimensions.
#[derive(Default)]
struct Ranks {
    found: Vec<(String, usize)>,
    path: KeyPath,
}

impl ModuleVisitor for Ranks {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const R: usize>(&mut self, _: &Param<Tensor<R>>) {
        self.found.push((self.path.key(), R));
    }
}
