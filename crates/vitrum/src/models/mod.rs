//! Models: one file per paper, and the interface that the rest of the system uses.
//!
//! The list of families below makes [`ModelConfig`] and [`Model`]. A family is a file here (what it computes), a
//! file in [`checkpoint::family`](crate::checkpoint::family) (what its files look like) and a line in the list.

pub mod catalogue;
mod fields;
pub mod input;
pub(crate) mod limits;
pub mod network;
pub mod prepared;
pub mod pretext;
pub mod shapes;
pub mod stages;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Serialize;
use serde_json::Value;

use crate::layers::Linear;
use crate::layers::init::{Draw, NoFirstValue};
pub use fields::read_value;
pub use input::{AnswerError, InputError, Sizes};
pub use network::{
    Backbone, Chain, Classify, Config, Depth, Features, ImageInput, Input, Inputs, Level, Masking, Network,
    PixelScale, Reconstruct, Want,
};
pub use prepared::Precision;
pub(crate) use prepared::{in_parts, is_skipped};
use shapes::Walk;
use stages::Visitor;

/// An invalid configuration, or an unknown name of a model or field.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A field is invalid, alone or together with another.
    #[error("{field} {reason}")]
    Field {
        /// The field's name, as timm spells it.
        field: &'static str,
        /// What is wrong with it; the message begins with the field.
        reason: String,
    },
    /// A field's value is of the wrong kind.
    #[error("{field}: {reason}")]
    Value {
        /// The field's name.
        field: String,
        /// serde's message.
        reason: String,
    },
    /// The family has no such field.
    #[error("no field '{field}' in a {family}{}", hint(.nearest))]
    UnknownField {
        /// The requested name.
        field: String,
        /// The family, as `config.json` names it.
        family: &'static str,
        /// The most similar field.
        nearest: Option<String>,
    },
    /// No model has this name.
    #[error("unknown model '{name}'\nhint: did you mean {}?", .nearest.join(", "))]
    UnknownName {
        /// The requested name.
        name: String,
        /// Similar names, most similar first.
        nearest: Vec<String>,
    },
    /// A parameter that the family has no first value for.
    #[error(transparent)]
    NoFirstValue(#[from] NoFirstValue),
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("\nhint: did you mean {name}?")).unwrap_or_default()
}

/// The model lacks the requested capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {family} cannot {what}; it can {}", .can.join(", "))]
pub struct CannotError {
    /// The family of the model.
    pub family: &'static str,
    /// The requested capability.
    pub what: &'static str,
    /// The capabilities it has.
    pub can: Vec<&'static str>,
}

/// Makes [`ModelConfig`], [`Model`] and every dispatch from the list of families. `$d` is a dollar sign, for the
/// macros that this one defines.
macro_rules! families {
    (($d:tt) $($(#[$doc:meta])* $name:ident: $module:ident { $config:ident, $model:ident },)*) => {
        $(pub mod $module;)*
        $(pub use $module::{$config, $model};)*

        /// The configuration of a model of any family. On disk: the family's fields and `family`; without `family`
        /// it is a `vit`.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(tag = "family", rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum ModelConfig {
            $($(#[$doc])* $name($config),)*
        }

        /// A model of any family.
        #[derive(Module, Debug)]
        // The size of a variant does not matter: one model is in memory, beside megabytes of weights.
        #[allow(clippy::large_enum_variant)]
        #[non_exhaustive]
        pub enum Model {
            $($(#[$doc])* $name($model),)*
        }

        /// `each_config!(self, config => expression)`: evaluates the expression for the configuration of the
        /// present family.
        macro_rules! each_config {
            ($d of:expr, $d config:ident => $d expression:expr) => {
                match $d of { $($crate::models::ModelConfig::$name($d config) => $d expression,)* }
            };
        }

        /// `each_model!(self, model => expression)`: the same for a model.
        macro_rules! each_model {
            ($d of:expr, $d model:ident => $d expression:expr) => {
                match $d of { $($crate::models::Model::$name($d model) => $d expression,)* }
            };
        }

        /// `each_family!(Config => expression)`: a list of the expression for each family's configuration type.
        macro_rules! each_family {
            ($d of:ident => $d expression:expr) => {
                vec![$({
                    type $d of = $crate::models::$config;
                    $d expression
                },)*]
            };
        }

        impl ModelConfig {
            /// The families' names, as in `config.json`, in the order of the list.
            pub const FAMILIES: &'static [&'static str] = &[$(stringify!($module),)*];

            /// The name of the family.
            pub fn family(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($module),)* }
            }

            /// A configuration of `family` from its fields.
            fn of_family(family: &str, fields: Value) -> Result<Self, serde_json::Error> {
                match family {
                    $(stringify!($module) => serde_json::from_value(fields).map(Self::$name),)*
                    other => Err(serde::de::Error::custom(format!(
                        "unknown family `{other}`, expected one of {}", Self::FAMILIES.join(", ")
                    ))),
                }
            }

            /// A model of the configuration's family.
            fn wrap_build(&self, device: &Device) -> Model {
                match self { $(Self::$name(config) => Model::$name(config.build(device)),)* }
            }
        }

        $(
            impl From<$config> for ModelConfig {
                fn from(config: $config) -> Self {
                    Self::$name(config)
                }
            }

            impl TryFrom<ModelConfig> for $config {
                type Error = ModelConfig;

                /// Returns the configuration if it is of another family.
                fn try_from(config: ModelConfig) -> Result<Self, ModelConfig> {
                    match config {
                        ModelConfig::$name(config) => Ok(config),
                        #[allow(unreachable_patterns)] // A list of one family leaves nothing else.
                        other => Err(other),
                    }
                }
            }

            impl From<$model> for Model {
                fn from(model: $model) -> Self {
                    Self::$name(model)
                }
            }
        )*
    };
}

families! { ($)
    /// The plain Vision Transformer.
    Vit: vit { VitConfig, Vit },
    /// DeiT with its distillation token.
    Deit: deit { DeitConfig, Deit },
    /// PiT: stages of a Vision Transformer with pooling between.
    Pit: pit { PitConfig, Pit },
    /// T2T-ViT: tokens of tokens.
    T2t: t2t { T2tConfig, T2t },
    /// Masked autoencoders.
    Mae: mae { MaeConfig, Mae },
    /// Masked patch prediction and SimMIM.
    Mim: mim { MimConfig, Mim },
    /// BEiT, first and second version.
    Beit: beit { BeitConfig, Beit },
    /// EVA, EVA-02, and Vision Transformers with rotary positions.
    Eva: eva { EvaConfig, Eva },
    /// ResNet and its relatives.
    Resnet: resnet { ResNetConfig, ResNet },
    /// RegNetX and RegNetY.
    Regnet: regnet { RegNetConfig, RegNet },
    /// ConvNeXt, first and second version.
    Convnext: convnext { ConvNextConfig, ConvNext },
    /// Swin Transformer, first and second version.
    Swin: swin { SwinConfig, Swin },
    /// timm's own form of Swin V2.
    SwinCr: swin_cr { SwinCrConfig, SwinCr },
    /// Twins-PCPVT and Twins-SVT.
    Twins: twins { TwinsConfig, Twins },
    /// The steps from ResNet-50 to ConvNeXt-T.
    Ladder: ladder { LadderConfig, Ladder },
    /// BiT: ResNets with norms before their convolutions.
    Bit: bit { BitConfig, Bit },
    /// A convolutional network as the patches of a Vision Transformer.
    Hybrid: hybrid { HybridConfig, Hybrid },
}

pub(crate) use each_config;
pub(crate) use each_family;

impl Config for ModelConfig {
    type Model = Model;

    fn validate(&self) -> Result<(), ConfigError> {
        each_config!(self, config => config.validate())
    }

    fn build(&self, device: &Device) -> Model {
        self.wrap_build(device)
    }

    fn input(&self) -> Input {
        each_config!(self, config => config.input())
    }

    fn map_grid(&self) -> Option<[usize; 2]> {
        each_config!(self, config => config.map_grid())
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        each_config!(self, config => config.walk())
    }

    fn heads(&self) -> &'static [&'static str] {
        each_config!(self, config => config.heads())
    }

    fn method(&self) -> Option<&'static str> {
        each_config!(self, config => config.method())
    }

    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        each_config!(self, config => config.first(key, shape))
    }
}

impl Network for Model {
    fn linears(&self) -> Vec<(String, &Linear)> {
        each_model!(self, model => model.linears())
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        each_model!(self, model => model.linears_mut())
    }

    fn visit_parts(&mut self, visit: &mut Visitor<'_>) {
        each_model!(self, model => model.visit_parts(visit))
    }

    fn depth(&self, key: &str) -> Depth {
        each_model!(self, model => model.depth(key))
    }

    fn decays(&self, key: &str) -> bool {
        each_model!(self, model => model.decays(key))
    }

    fn heads(&self) -> &'static [&'static str] {
        each_model!(self, model => model.heads())
    }

    fn chain(&self) -> Option<&dyn Chain> {
        each_model!(self, model => model.chain())
    }

    fn backbone(&self) -> Option<&dyn Backbone> {
        each_model!(self, model => model.backbone())
    }

    fn classify(&self) -> Option<&dyn Classify> {
        each_model!(self, model => model.classify())
    }

    fn reconstruct(&self) -> Option<&dyn Reconstruct> {
        each_model!(self, model => model.reconstruct())
    }

    fn drop_head(&mut self) {
        each_model!(self, model => model.drop_head());
    }

    fn check_inputs(&self, inputs: &Inputs) -> Result<(), InputError> {
        match (self.config().input(), inputs) {
            (Input::Image(_), Inputs::Images(images)) => self.check_images(images, Sizes::Own),
            (Input::Image(_), Inputs::Masked(images, masks)) => {
                self.check_images(images, Sizes::Own)?;
                self.check_masks(images, masks)
            }
            (Input::Clip { .. }, Inputs::Clips(_)) | (Input::ImageText { .. }, Inputs::ImageText(..)) => {
                Ok(())
            }
            (expected, found) => Err(InputError::Kind { found: found.kind(), expected: expected.kind() }),
        }
    }
}

impl Model {
    /// How this model is built.
    pub fn config(&self) -> ModelConfig {
        each_model!(self, model => model.config().clone().into())
    }

    /// The name of the family.
    pub fn family(&self) -> &'static str {
        self.config().family()
    }

    /// The model as a backbone.
    ///
    /// # Errors
    /// [`CannotError`] if its family makes no features.
    pub fn as_backbone(&self) -> Result<&dyn Backbone, CannotError> {
        self.backbone().ok_or_else(|| self.cannot("make features"))
    }

    /// The model as a classifier. It may lack a head; [`Classify::num_classes`] is 0 then.
    ///
    /// # Errors
    /// [`CannotError`] if its family has no classes.
    pub fn as_classifier(&self) -> Result<&dyn Classify, CannotError> {
        self.classify().ok_or_else(|| self.cannot("name classes"))
    }

    /// The model as one that predicts masked patches.
    ///
    /// # Errors
    /// [`CannotError`] if its family does not.
    pub fn as_reconstruct(&self) -> Result<&dyn Reconstruct, CannotError> {
        self.reconstruct().ok_or_else(|| self.cannot("predict masked patches"))
    }

    /// The error for a missing capability; it lists the ones that exist.
    fn cannot(&self, what: &'static str) -> CannotError {
        let can = [
            ("name classes", self.classify().is_some()),
            ("make features", self.backbone().is_some()),
            ("predict masked patches", self.reconstruct().is_some()),
        ];
        let can = can.into_iter().filter(|(_, here)| *here).map(|(what, _)| what).collect();
        CannotError { family: self.family(), what, can }
    }

    /// Logits of images, `[B, C, H, W] -> [B, K]`, for inference only. Images are spread over rayon's threads.
    /// [Packing](Self::pack) makes it faster. Not for training: dropout draws in the calling thread.
    ///
    /// Several threads may use one model at a time. For the most images per second, give each thread a rayon pool
    /// of one thread and call this within `rayon::ThreadPool::install` (`vitrum bench --streams`).
    ///
    /// # Errors
    /// [`AnswerError`]: a model without classes, or images of another shape, size or type than the model's.
    pub fn logits(&self, images: Tensor<4>) -> Result<Tensor<2>, AnswerError> {
        self.logits_at(images, Sizes::Own)
    }

    /// [`logits`](Self::logits) for images of the accepted sizes.
    ///
    /// # Errors
    /// As [`logits`](Self::logits), and a size that the model cannot take.
    pub fn logits_at(&self, images: Tensor<4>, sizes: Sizes) -> Result<Tensor<2>, AnswerError> {
        let model = self.as_classifier()?;
        self.check_images(&images, sizes)?;
        Ok(in_parts(images, |images| model.forward(images.into())))
    }
}
