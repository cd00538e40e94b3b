//! Files of timm's own form of Swin V2.

use serde_json::{Map, Value};

use super::maps::{Shapes, refuse_args};
use super::{Files, HuggingFaceModel, Inferred, Naming};
use crate::checkpoint::fields::mlp_ratio;
use crate::checkpoint::keys::{Edit, Row};
use crate::checkpoint::naming::{Converted, Dialect};
use crate::checkpoint::{Dtype, HostTensor, LoadError, TensorMap};
use crate::models::Config;
use crate::models::swin_cr::SwinCrConfig;

const META: &str = "stages.0.blocks.0.attn.meta_mlp.fc1.weight";
const PATCHES: &str = "patch_embed.proj.weight";
const WIDTHS: &[&str] = &["stages.{N}.blocks.0.norm2.weight"];

/// The head in timm's first files.
const FIRST: [Row; 1] = [("head", "head.fc", Edit::Keep)];

/// The inverse of the scale, in timm's first files.
const TAU: &str = ".attn.tau";
const SCALE: &str = ".attn.logit_scale";

/// Names of tensors with this ending.
fn ending(tensors: &TensorMap, end: &str) -> Vec<String> {
    tensors.names().filter(|name| name.ends_with(end)).map(str::to_string).collect()
}

const fn first(telltales: &'static [&'static str]) -> Naming {
    Naming { rows: &[&FIRST], widths: WIDTHS, ..Naming::new(Dialect::Official, telltales) }
}

impl Files for SwinCrConfig {
    const NAMINGS: &'static [Naming] = &[
        Naming { heads: &["head.fc"], widths: WIDTHS, ..Naming::new(Dialect::Timm, &[PATCHES, META]) },
        first(&[PATCHES, META, "head.weight"]),
        first(&[PATCHES, META, "stages.0.blocks.0.attn.tau"]),
    ];

    fn first_conv(&self) -> String {
        "patch_embed.proj".into()
    }

    /// Inverse scales become logarithms of scales, in f64.
    fn finish(tensors: &mut TensorMap) -> Result<(), LoadError> {
        for name in ending(tensors, TAU) {
            let Some(tau) = tensors.tensors.remove(&name) else { continue };
            let values: Vec<f64> = tau.to_f64().into_iter().map(|tau| (1.0 / tau).ln()).collect();
            let scale = HostTensor::from_f64(tau.shape().to_vec(), &values)
                .map_err(|error| LoadError::tensor(&tensors.path, &name, error))?;
            tensors.tensors.insert(name.replace(TAU, SCALE), scale);
        }
        Ok(())
    }

    fn narrow(tensors: &mut TensorMap) -> Result<(), LoadError> {
        let Some(dtype) = tensors.get(PATCHES).map(HostTensor::dtype) else { return Ok(()) };
        for name in ending(tensors, SCALE) {
            let Some(scale) = tensors.get(&name).filter(|scale| scale.dtype() == Dtype::F64) else {
                continue;
            };
            let narrow = scale.cast(dtype).map_err(|error| LoadError::tensor(&tensors.path, &name, error))?;
            tensors.tensors.insert(name, narrow);
        }
        Ok(())
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let shapes = Shapes(&file.map);
        let [embed_dim, in_chans, p, q] = shapes.get::<4>(PATCHES)?;
        let mut config = Self { embed_dim, in_chans, patch_size: [p, q], ..Self::default() };
        let stages = shapes.count("stages.{}.blocks.0.attn.qkv.weight", 0);
        (config.depths, config.num_heads) = (Vec::new(), Vec::new());
        for stage in 0..stages {
            config.depths.push(shapes.count(&format!("stages.{stage}.blocks.{{}}.attn.qkv.weight"), 0));
            let [heads] = shapes.get::<1>(&format!("stages.{stage}.blocks.0.attn.logit_scale"))?;
            config.num_heads.push(heads);
        }
        let [hidden, width] = shapes.get::<2>("stages.0.blocks.0.mlp.fc1.weight")?;
        config.mlp_ratio = mlp_ratio(hidden, width);
        config.num_classes = file.map.rows("head.fc.weight").unwrap_or(0);
        let Some(config) = config.with_norms_of(&file.map) else {
            let reason = "is not where a period of extra norms, or ends of stages, have it";
            return Err(LoadError::tensor(&file.map.path, "norm3", reason));
        };
        config.validate().map_err(|error| LoadError::config(&file.map.path, error))?;
        let [h, w] = config.img_size;
        let Inferred { config, mut notes } = config.settle_named(file)?;
        notes.push(format!(
            "tensors do not show images and windows: assumed images of {h}x{w} and windows of an eighth of the patches"
        ));
        notes.push("epsilon is assumed as usual for a Swin".into());
        Ok(Inferred { config, notes })
    }

    fn num_features(&self) -> usize {
        self.swin().num_features()
    }

    fn timm_arg(&self, key: &str, value: &Value) -> Option<Result<Self, String>> {
        let same = || Some(Ok(self.clone()));
        match (key, value) {
            // They concern input, initialisation and memory, not the computation.
            ("dynamic_img_size" | "strict_img_size" | "sequential_attn", Value::Bool(_))
            | ("weight_init", Value::String(_)) => same(),
            ("norm_layer", _) if matches!(value.as_str(), Some("layernorm" | "LayerNorm")) => same(),
            ("norm_layer", _) => Some(Err(format!("`norm_layer` {value} is not supported"))),
            _ => None,
        }
    }

    fn timm_args(&self, _base: &Self, args: &mut Map<String, Value>) -> Result<(), String> {
        args.remove("meta_drop_rate"); // only training has it
        refuse_args(args, &["norm_eps"])
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        Err("transformers does not have timm's own form of Swin V2".into())
    }
}

impl SwinCrConfig {
    /// The options that give the norms of a file; `None` if none do. Those without a period come first.
    fn with_norms_of(self, file: &TensorMap) -> Option<Self> {
        let deepest = self.depths.iter().copied().max().unwrap_or(0);
        let options = (0..=deepest).flat_map(|period| [(period, false), (period, true)]);
        let fits = |config: &Self| {
            let blocks = config.depths.iter().enumerate();
            let mut blocks = blocks.flat_map(|(stage, &depth)| (0..depth).map(move |block| (stage, block)));
            blocks.all(|(stage, block)| {
                let norm = format!("stages.{stage}.blocks.{block}.norm3.weight");
                file.contains(&norm) == config.has_extra_norm(stage, block)
            })
        };
        let of = |(extra_norm_period, extra_norm_stage)| Self {
            extra_norm_period,
            extra_norm_stage,
            ..self.clone()
        };
        options.map(of).find(fits)
    }
}
