//! What the files of each family look like: one room per family, and what the rest asks of them.
//!
//! A family's room knows the names that libraries give its tensors, how a configuration follows from tensors, how
//! tensors of one size become those of another, and how other libraries write its configuration.

mod deit;
mod vit;

use serde_json::{Map, Value};

use super::fields::Fields;
pub use super::naming::Naming;
use super::naming::{Converted, ExtraTable};
use super::report::Report;
use super::{LoadError, TensorMap};
use crate::models::{Config, ConfigError, ModelConfig, each_config, each_family};

pub use vit::infer_config;

/// A configuration told from tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Inferred<C> {
    /// The model.
    pub config: C,
    /// What had to be assumed, in words.
    pub notes: Vec<String>,
}

/// What transformers calls a model.
#[derive(Clone, Debug, PartialEq)]
pub struct HuggingFaceModel {
    /// `model_type` of its `config.json`.
    pub model_type: &'static str,
    /// The Python class.
    pub class: &'static str,
    /// The other fields, but those of the labels.
    pub fields: Map<String, Value>,
    /// Whether transformers resizes the model's positions as it does itself, and timm would not compute the same.
    pub is_own: bool,
}

/// What a family's files look like.
pub trait Files: Config + Into<ModelConfig> {
    /// How libraries name its tensors.
    const NAMINGS: &'static [Naming];

    /// The convolution that meets the image (timm's `first_conv`).
    const FIRST_CONV: &'static str;

    /// Puts renamed tensors into timm's layout where that takes several of them.
    ///
    /// # Errors
    /// A tensor that does not fit the others.
    fn finish(_tensors: &mut TensorMap) -> Result<(), LoadError> {
        Ok(())
    }

    /// The configuration of tensors without a card: sizes from shapes, the rest as the library that wrote the file does
    /// it.
    ///
    /// # Errors
    /// Tensors that are no model of this family, or one whose sizes contradict each other.
    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError>;

    /// Takes from a file's configuration the fields that overrule the catalogue's: the number of classes, and the options
    /// in which the file's library differs from timm.
    ///
    /// # Errors
    /// As [`infer`](Files::infer).
    fn settle_named(self, file: &Converted) -> Result<Inferred<Self>, LoadError>;

    /// What the file tells where transformers' `config.json` does not: whether a model of no stated class has a head, and
    /// whether a bare model has a pooler.
    fn settle_huggingface(self, _file: &TensorMap, _class: Option<&str>) -> Inferred<Self> {
        Inferred { config: self, notes: Vec::new() }
    }

    /// Makes tensors of the model `of` fit this one: positions, channels, moved norms. Without `of` the grid of positions
    /// is a square and channels stay. Other sizes stay, and are reported as mismatched.
    fn fit(&self, tensors: &mut TensorMap, of: Option<&Self>, report: &mut Report);

    /// Rounds what conversion left wider than the file, before the tensors are written.
    ///
    /// # Errors
    /// A value beyond the type.
    fn narrow(_tensors: &mut TensorMap) -> Result<(), LoadError> {
        Ok(())
    }

    /// Width of the vector before the classifier (timm's `num_features`).
    fn num_features(&self) -> usize;

    /// An argument of timm's `model_args` that is no field of this name: `None` if it is one.
    fn timm_arg(&self, _key: &str, _value: &Value) -> Option<Result<Self, String>> {
        None
    }

    /// Makes `args`, the fields that differ from timm's architecture `base`, arguments of timm's.
    ///
    /// # Errors
    /// A difference that timm's arguments cannot state.
    fn timm_args(&self, base: &Self, args: &mut Map<String, Value>) -> Result<(), String>;

    /// The configuration of a transformers `config.json`; `None` if its `model_type` is not of this family. Classes are
    /// laid over afterwards.
    fn of_huggingface(_fields: &Fields<'_>, _class: Option<&str>) -> Option<Result<Self, String>> {
        None
    }

    /// The model as transformers knows it.
    ///
    /// # Errors
    /// A value that transformers has no field for.
    fn to_huggingface(&self) -> Result<HuggingFaceModel, String>;
}

/// [`Files::of_huggingface`] for any family.
type OfHuggingFace = fn(&Fields<'_>, Option<&str>) -> Option<Result<ModelConfig, String>>;

/// Rows that are no dialect of their own: timm's names themselves, and torch's encoder, which is part of models of any
/// name.
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

/// A family as a value.
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
    /// [`Files::FIRST_CONV`].
    pub(crate) fn first_conv(&self) -> &'static str {
        fn of<C: Files>(_: &C) -> &'static str {
            C::FIRST_CONV
        }
        each_config!(self, config => of(config))
    }

    /// [`Files::num_features`].
    pub fn num_features(&self) -> usize {
        each_config!(self, config => config.num_features())
    }

    /// [`Files::settle_named`].
    pub(crate) fn settle_named(self, file: &Converted) -> Result<Inferred<Self>, LoadError> {
        each_config!(self, config => config.settle_named(file).map(Inferred::any))
    }

    /// [`Files::settle_huggingface`].
    pub(crate) fn settle_huggingface(self, file: &TensorMap, class: Option<&str>) -> Inferred<Self> {
        each_config!(self, config => config.settle_huggingface(file, class).any())
    }

    /// [`Files::fit`]; a source of another family says nothing.
    pub(crate) fn fit(&self, tensors: &mut TensorMap, of: Option<&Self>, report: &mut Report) {
        each_config!(self, config => {
            let of = of.and_then(|of| of.clone().try_into().ok());
            config.fit(tensors, of.as_ref(), report);
        });
    }

    /// One of timm's `model_args`, laid over.
    pub(crate) fn with_timm_arg(&self, key: &str, value: &Value) -> Result<Self, String> {
        let known = each_config!(self, config => {
            config.timm_arg(key, value).map(|found| found.map(Self::from))
        });
        known.unwrap_or_else(|| {
            self.with(key, value.clone()).map_err(|error| match error {
                ConfigError::UnknownField { field, family, .. } => {
                    format!("unknown argument `{field}` = {value}, of a {family}")
                }
                other => other.to_string(),
            })
        })
    }

    /// The arguments with which timm makes this model out of its architecture `base`.
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
