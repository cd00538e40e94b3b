//! The files of each family: one module per family, and the trait that each module implements.
//!
//! A family's module names its tensors in each library, infers a configuration from tensors, fits tensors to other
//! sizes, and reads and writes other libraries' configurations.

mod beit;
mod bit;
mod convnext;
mod deit;
mod eva;
mod hybrid;
mod ladder;
mod mae;
mod maps;
mod mim;
mod pit;
mod regnet;
mod resnet;
mod swin;
mod swin_cr;
mod t2t;
mod twins;
mod vit;

use serde_json::{Map, Value, json};

use super::fields::Fields;
pub use super::naming::Naming;
use super::naming::{Converted, ExtraTable};
use super::report::Report;
use super::{LoadError, TensorMap};
use crate::models::{Config, ConfigError, ModelConfig, each_config, each_family};

pub use vit::infer_config;

/// A configuration inferred from tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Inferred<C> {
    /// The model.
    pub config: C,
    /// The assumptions, for the user.
    pub notes: Vec<String>,
}

/// What transformers calls a model.
#[derive(Clone, Debug, PartialEq)]
pub struct HuggingFaceModel {
    /// `model_type` of its `config.json`.
    pub model_type: &'static str,
    /// The Python class.
    pub class: &'static str,
    /// The other fields, without the labels.
    pub fields: Map<String, Value>,
    /// Whether transformers computes the same as this model, with its position resizing, and timm does not.
    pub is_own: bool,
}

/// The files of a family.
pub trait Files: Config + Into<ModelConfig> {
    /// How libraries name its tensors.
    const NAMINGS: &'static [Naming];
    /// Whether timm's constructor takes the size of the images, `img_size`. Other models of timm take any size.
    const TIMM_TAKES_SIZE: bool = true;

    /// The first convolution on the image (timm's `first_conv`).
    fn first_conv(&self) -> String;

    /// Conversions to timm's layout that need several tensors. The tensors are renamed already.
    ///
    /// # Errors
    /// A tensor that does not fit the others.
    fn finish(_tensors: &mut TensorMap) -> Result<(), LoadError> {
        Ok(())
    }

    /// The configuration of tensors without a card: sizes from shapes, the rest from defaults of the file's library.
    ///
    /// # Errors
    /// Tensors that do not form a model of this family, or whose sizes contradict each other.
    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError>;

    /// Overrides a catalogue configuration with what the file shows: the options in which the file's library differs
    /// from timm. The number of classes is the file's already.
    ///
    /// # Errors
    /// As [`infer`](Files::infer).
    fn settle_named(self, _file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let notes = headless(&self);
        Ok(Inferred { config: self, notes })
    }

    /// Settles what transformers' `config.json` leaves open, such as whether a bare model has a pooler. A model without
    /// a stated class and without a head in the file has no classes already.
    fn settle_huggingface(self, _file: &TensorMap, _class: Option<&str>) -> Inferred<Self> {
        Inferred { config: self, notes: Vec::new() }
    }

    /// Fits tensors of the model `of` to this one: resizes positions, adapts channels, moves norms. Without `of` it
    /// assumes a square position grid and keeps the channels. Other sizes stay, and are reported as mismatched. The
    /// default adapts the channels of the first convolution.
    fn fit(&self, tensors: &mut TensorMap, of: Option<&Self>, report: &mut Report) {
        let channels = |config: &Self| config.input().image().channels;
        maps::change_channels(&self.first_conv(), channels(self), of.map(channels), tensors, report);
    }

    /// The weights of linear layers that timm holds as kernels of 1x1.
    fn kernels(&self) -> Vec<String> {
        Vec::new()
    }

    /// Rounds tensors that conversion made wider than the file's dtype, before writing.
    ///
    /// # Errors
    /// A value beyond the range of the dtype.
    fn narrow(_tensors: &mut TensorMap) -> Result<(), LoadError> {
        Ok(())
    }

    /// Width of the vector before the classifier (timm's `num_features`).
    fn num_features(&self) -> usize;

    /// The model without the parts that pretraining alone needs, for a family that is pretrained without labels. It is a
    /// classifier, without classes so far.
    fn encoder(&self) -> Option<ModelConfig> {
        None
    }

    /// Whether a tensor serves pretraining alone.
    fn serves_pretraining(_key: &str) -> bool {
        false
    }

    /// Applies an argument of timm's `model_args` that has no field of the same name. `None`: apply it as a field.
    fn timm_arg(&self, _key: &str, _value: &Value) -> Option<Result<Self, String>> {
        None
    }

    /// Turns `args`, the fields that differ from timm's architecture `base`, into timm's arguments.
    ///
    /// # Errors
    /// A difference that timm's arguments cannot state.
    fn timm_args(&self, base: &Self, args: &mut Map<String, Value>) -> Result<(), String>;

    /// The configuration of a transformers `config.json`; `None` if its `model_type` is not of this family. The caller
    /// sets the number of classes.
    fn of_huggingface(_fields: &Fields<'_>, _class: Option<&str>) -> Option<Result<Self, String>> {
        None
    }

    /// The model in transformers' terms.
    ///
    /// # Errors
    /// A value that transformers has no field for.
    fn to_huggingface(&self) -> Result<HuggingFaceModel, String>;
}

/// A note for a model without classes.
fn headless(config: &impl Files) -> Vec<String> {
    let model: ModelConfig = config.clone().into();
    match model.num_classes() {
        0 => vec!["no head in this file: the model gives features, not classes".into()],
        _ => Vec::new(),
    }
}

/// [`Files::of_huggingface`] for any family.
type OfHuggingFace = fn(&Fields<'_>, Option<&str>) -> Option<Result<ModelConfig, String>>;

/// Rows that do not form a dialect: timm's own names, and torch's encoder, which is part of many models.
pub(super) const EXTRA_TABLES: &[ExtraTable] = &[
    ExtraTable { library: "timm", rows: &vit::keys::timm::OWN, config: &[] },
    ExtraTable {
        library: "torch.nn.TransformerEncoder",
        rows: &vit::keys::torch::ROWS,
        config: &[
            "act_layer = \"relu\"",
            "norm_eps = 1e-5",
            "block_norm = \"post\"  # norm_first=True is \"pre\"",
        ],
    },
];

/// The constants and functions of a family's [`Files`].
pub(crate) struct Family {
    pub namings: &'static [Naming],
    pub finish: fn(&mut TensorMap) -> Result<(), LoadError>,
    pub narrow: fn(&mut TensorMap) -> Result<(), LoadError>,
    pub infer: fn(&Converted) -> Result<Inferred<ModelConfig>, LoadError>,
    pub of_huggingface: OfHuggingFace,
}

impl Family {
    fn of<C: Files>() -> Self {
        Self {
            namings: C::NAMINGS,
            finish: C::finish,
            narrow: C::narrow,
            infer: |file| C::infer(file).map(Inferred::any),
            of_huggingface: |fields, class| {
                C::of_huggingface(fields, class).map(|found| found.map(Into::into))
            },
        }
    }
}

/// All families with their names, in the order of the list.
pub(crate) fn families() -> impl Iterator<Item = (&'static str, Family)> {
    ModelConfig::FAMILIES.iter().copied().zip(each_family!(C => Family::of::<C>()))
}

/// The namings of all families, with the family's name.
pub(crate) fn namings() -> impl Iterator<Item = (&'static str, &'static Naming)> {
    families().flat_map(|(name, family)| family.namings.iter().map(move |naming| (name, naming)))
}

/// The family of this name.
pub(crate) fn family(name: &str) -> Family {
    let found = families().find(|(family, _)| *family == name);
    found.map(|(_, family)| family).expect("the name of a configuration's or a file's family is in the list")
}

impl<C: Into<ModelConfig>> Inferred<C> {
    fn any(self) -> Inferred<ModelConfig> {
        Inferred { config: self.config.into(), notes: self.notes }
    }
}

impl ModelConfig {
    /// [`Files::first_conv`].
    pub(crate) fn first_conv(&self) -> String {
        each_config!(self, config => config.first_conv())
    }

    /// [`Files::TIMM_TAKES_SIZE`].
    pub(crate) fn timm_takes_size(&self) -> bool {
        fn takes_size<C: Files>(_: &C) -> bool {
            C::TIMM_TAKES_SIZE
        }
        each_config!(self, config => takes_size(config))
    }

    /// [`Files::encoder`].
    pub fn encoder(&self) -> Option<Self> {
        each_config!(self, config => Files::encoder(config))
    }

    /// [`Files::serves_pretraining`].
    pub(crate) fn serves_pretraining(&self, key: &str) -> bool {
        fn serves<C: Files>(_: &C, key: &str) -> bool {
            C::serves_pretraining(key)
        }
        each_config!(self, config => serves(config, key))
    }

    /// [`Files::kernels`].
    pub(crate) fn kernels(&self) -> Vec<String> {
        each_config!(self, config => config.kernels())
    }

    /// [`Files::num_features`].
    pub fn num_features(&self) -> usize {
        each_config!(self, config => config.num_features())
    }

    /// The configuration with as many classes as the file's head has.
    fn with_head_of(self, file: &TensorMap) -> Result<Self, LoadError> {
        let head = self.heads().first().and_then(|head| file.rows(&format!("{head}.weight")));
        let classes = head.unwrap_or(0);
        if classes == self.num_classes() {
            return Ok(self);
        }
        self.with("num_classes", json!(classes)).map_err(|error| LoadError::config(&file.path, error))
    }

    /// [`Files::settle_named`].
    pub(crate) fn settle_named(self, file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let config = self.with_head_of(&file.map)?;
        each_config!(config, config => config.settle_named(file).map(Inferred::any))
    }

    /// [`Files::settle_huggingface`].
    pub(crate) fn settle_huggingface(
        self,
        file: &TensorMap,
        class: Option<&str>,
    ) -> Result<Inferred<Self>, LoadError> {
        let has_head = self.heads().iter().any(|head| file.contains(&format!("{head}.weight")));
        let config = if class.is_none() && !has_head { self.with_head_of(file)? } else { self };
        Ok(each_config!(config, config => config.settle_huggingface(file, class).any()))
    }

    /// [`Files::fit`]. Ignores `of` from another family.
    pub(crate) fn fit(&self, tensors: &mut TensorMap, of: Option<&Self>, report: &mut Report) {
        each_config!(self, config => {
            let of = of.and_then(|of| of.clone().try_into().ok());
            config.fit(tensors, of.as_ref(), report);
        });
    }

    /// [`with`](ModelConfig::with), also for an argument of timm's constructor that is no field: it changes nothing if the
    /// model does what it says.
    ///
    /// # Errors
    /// Those of [`with`](ModelConfig::with), and [`ConfigError::Value`] for an argument that says otherwise.
    pub fn with_argument(&self, name: &str, value: Value) -> Result<Self, ConfigError> {
        let unknown = match self.with(name, value.clone()) {
            Err(error @ ConfigError::UnknownField { .. }) => error,
            known => return known,
        };
        let of_timm = each_config!(self, config => {
            config.timm_arg(name, &value).map(|found| found.map(Self::from))
        });
        match of_timm {
            Some(applied) => applied.map_err(|reason| ConfigError::Value { field: name.into(), reason }),
            None => Err(unknown),
        }
    }

    /// The configuration with one of timm's `model_args` applied.
    pub(crate) fn with_timm_arg(&self, key: &str, value: &Value) -> Result<Self, String> {
        let known = each_config!(self, config => {
            config.timm_arg(key, value).map(|found| found.map(Self::from))
        });
        known.unwrap_or_else(|| {
            self.with(key, value.clone()).map_err(|error| match error {
                ConfigError::UnknownField { field, family, .. } => {
                    format!("unknown argument `{field}` = {value} for a {family}")
                }
                other => other.to_string(),
            })
        })
    }

    /// The arguments that turn timm's architecture `base` into this model.
    pub(crate) fn timm_args(&self, base: &Self) -> Result<Map<String, Value>, String> {
        if self.family() != base.family() {
            return Err(format!("timm's architecture is a {}, the model a {}", base.family(), self.family()));
        }
        let mut args = self.differences(base);
        each_config!(self, config => match base.clone().try_into() {
            Ok(base) => config.timm_args(&base, &mut args)?,
            Err(_) => unreachable!("the families are the same"),
        });
        Ok(args)
    }

    /// [`Files::to_huggingface`].
    pub(crate) fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        each_config!(self, config => config.to_huggingface())
    }
}
