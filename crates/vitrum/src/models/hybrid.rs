//! Hybrid — Dosovitskiy et al. 2020, "An image is worth 16x16 words", arXiv:2010.11929, section 3.1.
//!
//! ```text
//! image [B, C, H, W] → backbone [B, H'·W', F] → patches of the map [B, N, D] → Vision Transformer
//! ```
//!
//! Difference from the plain Vision Transformer ([`vit`](super::vit)): patches are cells of a convolutional network's last
//! feature map in place of pixels. The paper's backbone is a BiT with norms behind the convolutions; any family that
//! makes feature maps will do.

use burn::module::Module;
use burn::tensor::Device;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use super::bit::BitConfig;
use super::limits::refuse;
use super::network::{
    Backbone, Chain, Classify, Config, Depth, Features, Input, Inputs, Level, Network, Want,
};
use super::shapes::Walk;
use super::stages::Visitor;
use super::vit::{Vit, VitConfig};
use super::{ConfigError, Model, ModelConfig};
use crate::layers::Linear;
use crate::layers::init::Draw;
use crate::layers::names::{Boxed, Flat};
use crate::layers::observe::{Observer, Within};
use burn::tensor::Tensor;

/// How a hybrid is built: the fields of a Vision Transformer, whose patches are cells of the feature map, and the
/// backbone. The default is R50+ViT-B/16 at 224 pixels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HybridConfig {
    /// The Vision Transformer. On disk its fields stand at the same level as the others. `img_size` and `in_chans` are
    /// those of the image.
    #[serde(flatten)]
    pub vit: VitConfig,
    /// The network whose last feature map is cut into patches. Its image is the hybrid's, and it has no head.
    pub backbone: Box<ModelConfig>,
}

impl Default for HybridConfig {
    fn default() -> Self {
        Self {
            vit: VitConfig { patch_size: [1, 1], ..VitConfig::default() },
            backbone: Box::new(BitConfig::of_hybrid().into()),
        }
    }
}

impl<'de> Deserialize<'de> for HybridConfig {
    /// Absent fields are those of the default; patches are one cell.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Map::<String, Value>::deserialize(deserializer)?;
        let usual = Self::default();
        // Before it is read: a nest of hybrids would take long.
        if fields.get("backbone").and_then(|backbone| backbone.get("family")) == Some(&json!(FAMILY)) {
            return Err(D::Error::custom(no_maps(FAMILY)));
        }
        let backbone = match fields.remove("backbone") {
            Some(backbone) => serde_json::from_value(backbone).map(Box::new).map_err(D::Error::custom)?,
            None => usual.backbone,
        };
        fields.entry("patch_size").or_insert_with(|| json!(usual.vit.patch_size));
        let vit: VitConfig = serde_json::from_value(Value::Object(fields)).map_err(D::Error::custom)?;
        // The image is the hybrid's, so that equal models have equal configurations.
        let config = Self { vit, backbone };
        let backbone = config.own_backbone().map_err(D::Error::custom)?;
        Ok(Self { backbone: Box::new(backbone), ..config })
    }
}

impl HybridConfig {
    /// The backbone for the hybrid's images, without a head.
    fn own_backbone(&self) -> Result<ModelConfig, ConfigError> {
        self.backbone.with_all([
            ("img_size", json!(self.vit.img_size)),
            ("in_chans", json!(self.vit.in_chans)),
            ("num_classes", json!(0)),
        ])
    }

    /// The Vision Transformer on feature maps.
    ///
    /// # Errors
    /// A backbone without feature maps, and one of other images.
    pub fn encoder(&self) -> Result<VitConfig, ConfigError> {
        let backbone = self.own_backbone()?;
        backbone.validate()?;
        let Some(grid) = backbone.map_grid() else {
            return Err(no_maps(backbone.family()));
        };
        Ok(VitConfig { img_size: grid, in_chans: backbone.num_features(), ..self.vit.clone() })
    }

    /// [`encoder`](Self::encoder) of a valid configuration.
    fn valid_encoder(&self) -> VitConfig {
        self.encoder().unwrap_or_else(|error| panic!("an invalid configuration of a hybrid: {error}"))
    }
}

/// This family's name, in configurations.
const FAMILY: &str = "hybrid";

/// The error of a backbone of another kind than maps need.
fn no_maps(family: &str) -> ConfigError {
    ConfigError::Field { field: "backbone", reason: format!("is a {family}, which makes no feature maps") }
}

/// The backbone; `patch_embed.proj` is the Vision Transformer's.
#[derive(Module, Debug)]
pub struct HybridEmbed {
    /// Images to feature maps.
    pub backbone: Boxed<Model>,
}

/// A hybrid. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct Hybrid {
    /// Images to feature maps.
    pub patch_embed: HybridEmbed,
    /// The Vision Transformer inside.
    pub vit: Flat<Vit>,
    #[module(skip)]
    config: HybridConfig,
}

impl Hybrid {
    /// How this model is built.
    pub fn config(&self) -> &HybridConfig {
        &self.config
    }

    /// Images `[B, C, H, W]` to tokens with positions: `([B, T, D], grid)`.
    fn embed(&self, inputs: Inputs, watch: &mut dyn Observer) -> (Tensor<3>, [usize; 2]) {
        let backbone =
            self.patch_embed.backbone.backbone().expect("the configuration was checked to make maps");
        let inside = &mut Within::new(watch, format_args!("patch_embed.backbone"));
        let map = backbone.features(inputs, Want::Last, inside).last().map(); // [B, F, H', W']
        self.vit.embed(map, watch)
    }
}

impl Backbone for Hybrid {
    fn has_class_token(&self) -> bool {
        self.config.vit.class_token
    }

    fn features(&self, inputs: Inputs, want: Want<'_>, watch: &mut dyn Observer) -> Features {
        let x = self.embed(inputs, watch); // [B, T, D]
        self.vit.features_of(x, want, 1, watch)
    }

    fn embedding(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
        self.vit.embedding(features, watch)
    }

    fn positions(&self) -> Option<Level> {
        self.vit.positions()
    }
}

impl Classify for Hybrid {
    fn num_classes(&self) -> usize {
        self.config.vit.num_classes
    }

    fn head(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
        self.vit.head(features, watch)
    }
}

impl Chain for Hybrid {
    fn links(&self) -> usize {
        self.vit.links()
    }

    fn first(&self, inputs: Inputs, watch: &mut dyn Observer) -> Features {
        let (x, grid) = self.embed(inputs, watch);
        Level::of_image(x, self.config.vit.num_prefix_tokens(), grid).into()
    }

    fn link(&self, index: usize, x: Features, watch: &mut dyn Observer) -> Features {
        self.vit.link(index, x, watch)
    }

    fn last(&self, x: Features, watch: &mut dyn Observer) -> Features {
        self.vit.last(x, watch)
    }
}

impl Network for Hybrid {
    /// The backbone's, then those of the Vision Transformer.
    fn linears(&self) -> Vec<(String, &Linear)> {
        let of_backbone = self.patch_embed.backbone.linears().into_iter().map(within_backbone);
        of_backbone.chain(self.vit.linears()).collect()
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let of_backbone = self.patch_embed.backbone.linears_mut().into_iter().map(within_backbone);
        of_backbone.chain(self.vit.linears_mut()).collect()
    }

    fn visit_parts(&mut self, visit: &mut Visitor<'_>) {
        self.patch_embed.backbone.visit_parts(visit);
        self.vit.visit_parts(visit);
    }

    fn depth(&self, key: &str) -> Depth {
        self.vit.depth(key)
    }

    fn decays(&self, key: &str) -> bool {
        match key.strip_prefix(BACKBONE) {
            Some(key) => self.patch_embed.backbone.decays(key),
            None => self.vit.decays(key),
        }
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

/// Before the keys of the backbone.
pub(crate) const BACKBONE: &str = "patch_embed.backbone.";

fn within_backbone<T>((name, layer): (String, T)) -> (String, T) {
    (format!("{BACKBONE}{name}"), layer)
}

impl Config for HybridConfig {
    type Model = Hybrid;

    fn validate(&self) -> Result<(), ConfigError> {
        let encoder = self.encoder()?;
        let ([h, w], map, patch) = (self.vit.img_size, encoder.img_size, encoder.patch_size);
        if map[0] < patch[0] || map[1] < patch[1] {
            let ([rows, columns], [p, q]) = (map, patch);
            return refuse(
                "img_size",
                format!("is {h}x{w}: its feature map of {rows}x{columns} holds no patch of {p}x{q}"),
            );
        }
        encoder.validate()
    }

    fn build(&self, device: &Device) -> Hybrid {
        let backbone = self.own_backbone().expect("a valid configuration");
        let mut maps = backbone.build(device);
        maps.drop_head();
        Hybrid {
            patch_embed: HybridEmbed { backbone: Boxed::new(maps) },
            vit: Flat::new(self.valid_encoder().build(device)),
            config: Self { backbone: Box::new(backbone), ..self.clone() },
        }
    }

    fn input(&self) -> Input {
        self.vit.input()
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        let (map, vit) = (self.own_backbone()?.walk()?, self.encoder()?.walk()?);
        let unread = vit.macs - vit.macs_read;
        let mut steps = map.steps;
        let is_inside = |name: &str| !matches!(name, "image" | "global_pool") && !name.starts_with("head.");
        for step in steps.iter_mut().filter(|step| step.name != "image") {
            step.name = format!("{BACKBONE}{}", step.name);
        }
        steps.retain(|step| is_inside(step.name.strip_prefix(BACKBONE).unwrap_or("stem")));
        steps.extend(vit.steps.into_iter().filter(|step| step.name != "image"));
        Ok(Walk::new(steps, unread, map.held.max(vit.held)))
    }

    fn heads(&self) -> &'static [&'static str] {
        &["head"]
    }

    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        match key.strip_prefix(BACKBONE) {
            Some(key) => self.backbone.first(key, shape),
            None => self.valid_encoder().first(key, shape),
        }
    }
}
