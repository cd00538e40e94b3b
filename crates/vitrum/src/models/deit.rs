//! DeiT — Touvron et al. 2020, "Training data-efficient image transformers & distillation through attention",
//! arXiv:2012.12877.
//!
//! Differences from the plain Vision Transformer ([`vit`](super::vit)):
//!
//! - a distillation token after the class token, with its own row in the position table;
//! - a second head on that token: it learns from a teacher, the first one from labels;
//! - the answer is the mean of both heads (section 5.2), or one of them ([`DeitAnswer`]).
//!
//! DeiT's models without the token, and those of DeiT III (arXiv:2204.07118), are plain Vision Transformers.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::network::{
    Backbone, Chain, Classify, Config, Depth, Features, Input, Inputs, Level, Network, Want,
};
use super::shapes::{Step, Walk, long};
use super::stages::Visitor;
use super::vit::{GlobalPool, Vit, VitConfig};
use crate::layers::drop::dropout;
use crate::layers::init::{Draw, TABLE};
use crate::layers::names::Flat;
use crate::layers::observe::Observer;
use crate::layers::{Linear, parameter};

/// The head that gives the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeitAnswer {
    /// The mean of both, as in timm and the paper.
    #[default]
    Mean,
    /// The head on the class token.
    Class,
    /// The head on the distillation token.
    Dist,
}

impl DeitAnswer {
    /// The answer of two values: of the class token, 0, and of the distillation token, 1. Without both it is the first.
    pub(super) fn of(self, has_both: bool, value: impl Fn(usize) -> Tensor<2>) -> Tensor<2> {
        match (self, has_both) {
            (Self::Mean, true) => (value(0) + value(1)) / 2.0, // timm's order of operations
            (Self::Dist, true) => value(1),
            (Self::Class, _) | (_, false) => value(0),
        }
    }
}

/// The logits of the heads that are there, on their tokens.
pub(super) fn logits_of(
    heads: [&Option<Linear>; 2],
    token: impl Fn(usize) -> Tensor<2>,
    watch: &mut dyn Observer,
) -> Vec<Tensor<2>> {
    let heads = ["head", "head_dist"].into_iter().zip(heads).enumerate();
    let logits = heads.filter_map(|(index, (name, head))| {
        Some(watch.vectors(format_args!("{name}"), head.as_ref()?.forward(token(index))))
    });
    logits.collect()
}

/// How a DeiT is built: the fields of a Vision Transformer and these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeitConfig {
    /// The Vision Transformer. On disk its fields stand at the same level as the others.
    #[serde(flatten)]
    pub vit: VitConfig,
    /// The second head (`head_dist`). transformers' `DeiTForImageClassification` has the token without it.
    #[serde(default = "yes")]
    pub head_dist: bool,
    /// The head that gives the answer. Without a second head it is the first.
    #[serde(default)]
    pub answer: DeitAnswer,
}

fn yes() -> bool {
    true
}

impl Default for DeitConfig {
    /// DeiT-B/16 distilled, at 224 pixels, 1000 classes.
    fn default() -> Self {
        Self { vit: VitConfig::default(), head_dist: true, answer: DeitAnswer::Mean }
    }
}

impl DeitConfig {
    /// The Vision Transformer's configuration with one more token.
    pub fn encoder(&self) -> VitConfig {
        VitConfig { more_tokens: 1, ..self.vit.clone() }
    }

    /// Whether there is a second head.
    pub fn has_both_heads(&self) -> bool {
        self.head_dist && self.vit.num_classes > 0
    }
}

/// A DeiT. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct Deit {
    /// The Vision Transformer inside.
    pub vit: Flat<Vit>,
    /// `[1, 1, D]`.
    pub dist_token: Param<Tensor<3>>,
    /// `D -> K`, on the distillation token.
    pub head_dist: Option<Linear>,
    #[module(skip)]
    config: DeitConfig,
}

impl Deit {
    /// Prefix tokens that the heads read: class and distillation token.
    const READ: usize = 2;

    /// How this model is built.
    pub fn config(&self) -> &DeitConfig {
        &self.config
    }

    /// A token of the prefix, `[B, T, D] -> [B, D]`, after the dropout before the heads.
    fn token(&self, tokens: &Tensor<3>, index: usize) -> Tensor<2> {
        dropout(tokens.clone().narrow(1, index, 1).squeeze_dim(1), self.config.vit.drop_rate)
    }
}

impl Backbone for Deit {
    fn has_class_token(&self) -> bool {
        true
    }

    fn features(&self, inputs: Inputs, want: Want<'_>, watch: &mut dyn Observer) -> Features {
        let x = self.vit.embed_with(inputs.images(), Some(&self.dist_token), watch); // [B, 2 + N, D]
        self.vit.features_of(x, want, Self::READ, watch)
    }

    /// The mean of both tokens; the class token if there is only one head.
    fn embedding(&self, features: Features, _: &mut dyn Observer) -> Tensor<2> {
        let tokens = features.last().tokens;
        self.config.answer.of(self.config.head_dist, |index| self.token(&tokens, index))
    }

    fn positions(&self) -> Option<Level> {
        self.vit.positions()
    }
}

impl Classify for Deit {
    fn num_classes(&self) -> usize {
        self.config.vit.num_classes
    }

    fn logits_of_heads(&self, features: Features, watch: &mut dyn Observer) -> Vec<Tensor<2>> {
        let tokens = features.last().tokens;
        logits_of([&self.vit.head, &self.head_dist], |index| self.token(&tokens, index), watch)
    }

    fn head(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
        if self.config.vit.num_classes == 0 && self.vit.pre_logits.is_some() {
            return self.vit.head(features, watch); // transformers' pooler
        }
        if self.config.vit.num_classes == 0 {
            return self.embedding(features, watch);
        }
        let logits = self.logits_of_heads(features, watch);
        self.config.answer.of(logits.len() == 2, |index| logits[index].clone())
    }
}

impl Chain for Deit {
    fn links(&self) -> usize {
        self.vit.links()
    }

    fn first(&self, inputs: Inputs, watch: &mut dyn Observer) -> Features {
        let (x, grid) = self.vit.embed_with(inputs.images(), Some(&self.dist_token), watch);
        Level::of_image(x, self.config.encoder().num_prefix_tokens(), grid).into()
    }

    fn link(&self, index: usize, x: Features, watch: &mut dyn Observer) -> Features {
        self.vit.link_of(index, x, Some(Self::READ), watch)
    }

    fn last(&self, x: Features, watch: &mut dyn Observer) -> Features {
        self.vit.last(x, watch)
    }
}

impl Network for Deit {
    fn linears(&self) -> Vec<(String, &Linear)> {
        self.vit.linears()
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        self.vit.linears_mut()
    }

    fn visit_parts(&mut self, visit: &mut Visitor<'_>) {
        self.vit.visit_parts(visit);
    }

    fn depth(&self, key: &str) -> Depth {
        if key == "dist_token" { Depth::Stem } else { self.vit.depth(key) }
    }

    fn decays(&self, key: &str) -> bool {
        key != "dist_token" && self.vit.decays(key)
    }

    fn heads(&self) -> &'static [&'static str] {
        self.config.heads()
    }

    fn chain(&self) -> Option<&dyn Chain> {
        Some(self)
    }

    fn backbone(&self) -> Option<&dyn Backbone> {
        Some(self)
    }

    fn classify(&self) -> Option<&dyn Classify> {
        Some(self)
    }
}

impl Config for DeitConfig {
    type Model = Deit;

    fn validate(&self) -> Result<(), ConfigError> {
        let encoder = self.encoder();
        encoder.validate()?;
        for (field, right, reason) in [
            (
                "class_token",
                encoder.class_token,
                "is false; a DeiT's heads read class and distillation token",
            ),
            (
                "global_pool",
                encoder.global_pool == GlobalPool::Token,
                "is not `token`, which a DeiT's heads read",
            ),
            ("reg_tokens", encoder.reg_tokens == 0, "is not 0; a DeiT has no registers"),
            ("no_embed_class", !encoder.no_embed_class, "is true; a DeiT's tokens have positions"),
            ("fc_norm", !encoder.use_fc_norm(), "is true; a DeiT's norm stands before its heads"),
            (
                "representation_size",
                encoder.representation_size.is_none() || encoder.num_classes == 0,
                "is set; a DeiT has no hidden layer before its heads",
            ),
        ] {
            if !right {
                return Err(ConfigError::Field { field, reason: reason.into() });
            }
        }
        Ok(())
    }

    fn build(&self, device: &Device) -> Deit {
        let VitConfig { embed_dim: d, num_classes: k, .. } = self.vit;
        Deit {
            vit: Flat::new(self.encoder().build(device)),
            dist_token: parameter([1, 1, d], device),
            head_dist: self.has_both_heads().then(|| Linear::new(d, k, true, device)),
            config: self.clone(),
        }
    }

    fn input(&self) -> Input {
        self.vit.input()
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        self.validate()?;
        let Walk { mut steps, held, .. } = self.encoder().walk()?;
        let [d, k] = [self.vit.embed_dim, self.vit.num_classes].map(long);
        let step = |name: &str, what: String, shape: Vec<usize>, params, macs| Step {
            name: name.into(),
            what,
            shape,
            params,
            macs,
            repeat: 1,
        };
        let [rows, columns] = self.vit.grid();
        let behind = steps.iter().position(|step| step.name == "cls_token").map_or(0, |at| at + 1);
        let shape = vec![rows * columns + Deit::READ, self.vit.embed_dim];
        steps.insert(behind, step("dist_token", "distillation token behind it".into(), shape, d, 0));
        if self.has_both_heads() {
            let what = format!("linear {d} → {k}, on the distillation token");
            steps.push(step("head_dist", what, vec![self.vit.num_classes], d * k + k, d * k));
        }
        let unread = super::vit::unread_behind(&self.encoder(), &steps, Deit::READ);
        Ok(Walk::new(steps, unread, held))
    }

    fn heads(&self) -> &'static [&'static str] {
        if self.head_dist { &["head", "head_dist"] } else { &["head"] }
    }

    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        match key.rsplit_once('.') {
            None if key == "dist_token" => Some(TABLE),
            Some(("head_dist", part)) => self.vit.weight_init.head(part, shape),
            _ => self.encoder().first(key, shape),
        }
    }
}
