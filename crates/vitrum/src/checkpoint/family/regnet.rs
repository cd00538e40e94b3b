//! Files of RegNets: timm, torchvision, transformers, and ClassyVision (the authors' code, also of VISSL and SEER).

mod design;

use serde_json::{Map, Value, json};

use super::maps::{Shapes, add_counts, counts, refuse_args};
use super::vit::huggingface::huggingface_activation;
use super::{Files, HuggingFaceModel, Inferred, Naming};
use crate::checkpoint::LoadError;
use crate::checkpoint::fields::{Fields, activation};
use crate::checkpoint::keys::{Edit, Row};
use crate::checkpoint::naming::{Converted, Dialect};
use crate::checkpoint::tensors::Tensors;
use crate::layers::mlp::Activation;
use crate::models::regnet::{RegNetConfig, RegNetStage};
use design::{bottle_ratio, se_ratio, with_design};

const TORCHVISION: [Row; 13] = [
    ("stem.0", "stem.conv", Edit::Keep),
    ("stem.1", "stem.bn", Edit::Keep),
    ("trunk_output.block{N}.block{N}-{M}.f.a.0", "s{N}.b{M+1}.conv1.conv", Edit::Keep),
    ("trunk_output.block{N}.block{N}-{M}.f.a.1", "s{N}.b{M+1}.conv1.bn", Edit::Keep),
    ("trunk_output.block{N}.block{N}-{M}.f.b.0", "s{N}.b{M+1}.conv2.conv", Edit::Keep),
    ("trunk_output.block{N}.block{N}-{M}.f.b.1", "s{N}.b{M+1}.conv2.bn", Edit::Keep),
    ("trunk_output.block{N}.block{N}-{M}.f.se.fc1", "s{N}.b{M+1}.se.fc1", Edit::Keep),
    ("trunk_output.block{N}.block{N}-{M}.f.se.fc2", "s{N}.b{M+1}.se.fc2", Edit::Keep),
    ("trunk_output.block{N}.block{N}-{M}.f.c.0", "s{N}.b{M+1}.conv3.conv", Edit::Keep),
    ("trunk_output.block{N}.block{N}-{M}.f.c.1", "s{N}.b{M+1}.conv3.bn", Edit::Keep),
    ("trunk_output.block{N}.block{N}-{M}.proj.0", "s{N}.b{M+1}.downsample.conv", Edit::Keep),
    ("trunk_output.block{N}.block{N}-{M}.proj.1", "s{N}.b{M+1}.downsample.bn", Edit::Keep),
    ("fc", "head.fc", Edit::Keep),
];

/// ClassyVision's names, and the head of VISSL's files.
const CLASSY: [Row; 13] = [
    ("trunk._feature_blocks.conv1.stem.0", "stem.conv", Edit::Keep),
    ("trunk._feature_blocks.conv1.stem.1", "stem.bn", Edit::Keep),
    ("trunk._feature_blocks.res{N}.block{N}-{M}.f.a.0", "s{N}.b{M+1}.conv1.conv", Edit::Keep),
    ("trunk._feature_blocks.res{N}.block{N}-{M}.f.a.1", "s{N}.b{M+1}.conv1.bn", Edit::Keep),
    ("trunk._feature_blocks.res{N}.block{N}-{M}.f.b.0", "s{N}.b{M+1}.conv2.conv", Edit::Keep),
    ("trunk._feature_blocks.res{N}.block{N}-{M}.f.b.1", "s{N}.b{M+1}.conv2.bn", Edit::Keep),
    ("trunk._feature_blocks.res{N}.block{N}-{M}.f.se.excitation.0", "s{N}.b{M+1}.se.fc1", Edit::Keep),
    ("trunk._feature_blocks.res{N}.block{N}-{M}.f.se.excitation.2", "s{N}.b{M+1}.se.fc2", Edit::Keep),
    ("trunk._feature_blocks.res{N}.block{N}-{M}.f.c", "s{N}.b{M+1}.conv3.conv", Edit::Keep),
    ("trunk._feature_blocks.res{N}.block{N}-{M}.f.final_bn", "s{N}.b{M+1}.conv3.bn", Edit::Keep),
    ("trunk._feature_blocks.res{N}.block{N}-{M}.proj", "s{N}.b{M+1}.downsample.conv", Edit::Keep),
    ("trunk._feature_blocks.res{N}.block{N}-{M}.bn", "s{N}.b{M+1}.downsample.bn", Edit::Keep),
    ("heads.0.clf.0", "head.fc", Edit::Keep),
];

/// transformers' names of what X and Y share.
const HUGGING_FACE: [Row; 8] = [
    ("embedder.embedder.convolution", "stem.conv", Edit::Keep),
    ("embedder.embedder.normalization", "stem.bn", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.layer.0.convolution", "s{N+1}.b{M+1}.conv1.conv", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.layer.0.normalization", "s{N+1}.b{M+1}.conv1.bn", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.layer.1.convolution", "s{N+1}.b{M+1}.conv2.conv", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.layer.1.normalization", "s{N+1}.b{M+1}.conv2.bn", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.shortcut.convolution", "s{N+1}.b{M+1}.downsample.conv", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.shortcut.normalization", "s{N+1}.b{M+1}.downsample.bn", Edit::Keep),
];

/// In an X, the last convolution follows the 3x3.
const HUGGING_FACE_X: [Row; 2] = [
    ("encoder.stages.{N}.layers.{M}.layer.2.convolution", "s{N+1}.b{M+1}.conv3.conv", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.layer.2.normalization", "s{N+1}.b{M+1}.conv3.bn", Edit::Keep),
];

/// In a Y, the gate is between them.
const HUGGING_FACE_Y: [Row; 4] = [
    ("encoder.stages.{N}.layers.{M}.layer.2.attention.0", "s{N+1}.b{M+1}.se.fc1", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.layer.2.attention.2", "s{N+1}.b{M+1}.se.fc2", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.layer.3.convolution", "s{N+1}.b{M+1}.conv3.conv", Edit::Keep),
    ("encoder.stages.{N}.layers.{M}.layer.3.normalization", "s{N+1}.b{M+1}.conv3.bn", Edit::Keep),
];

/// transformers' head, outside the base model.
const HEAD: [Row; 1] = [("classifier.1", "head.fc", Edit::Keep)];

const fn hugging_face(rows: &'static [&'static [Row]], telltales: &'static [&'static str]) -> Naming {
    Naming {
        rows,
        beside: &HEAD,
        base: "regnet.",
        heads: &["classifier.1"],
        widths: &["encoder.stages.3.layers.0.shortcut.normalization.weight"],
        left_out: counts,
        complete: add_counts,
        ..Naming::new(Dialect::HuggingFace, telltales)
    }
}

/// The reason to leave out a tensor of VISSL's files: counts, and heads of self-supervised training.
fn beside_classes(name: &str, tensors: &Tensors) -> Option<&'static str> {
    let is_unsupervised = name.contains("projection_head") || name.contains("prototypes");
    is_unsupervised.then_some("a head of self-supervised training").or_else(|| counts(name, tensors))
}

impl Files for RegNetConfig {
    const NAMINGS: &'static [Naming] = &[
        Naming {
            heads: &["head.fc"],
            widths: &["s4.b1.downsample.bn.weight"],
            left_out: counts,
            ..Naming::new(
                Dialect::Timm,
                &["s1.b1.conv1.conv.weight", "s1.b1.conv1.bn.weight", "stem.conv.weight"],
            )
        },
        Naming {
            rows: &[&TORCHVISION],
            heads: &["fc"],
            widths: &["trunk_output.block4.block4-0.proj.1.weight"],
            left_out: counts,
            ..Naming::new(
                Dialect::Torchvision,
                &["trunk_output.block1.block1-0.f.a.0.weight", "stem.0.weight"],
            )
        },
        Naming {
            rows: &[&CLASSY],
            heads: &["heads.0.clf.0"],
            widths: &["trunk._feature_blocks.res4.block4-0.bn.weight"],
            left_out: beside_classes,
            ..Naming::new(
                Dialect::Official,
                &[
                    "trunk._feature_blocks.res1.block1-0.f.a.0.weight",
                    "trunk._feature_blocks.conv1.stem.0.weight",
                ],
            )
        },
        hugging_face(
            &[&HUGGING_FACE, &HUGGING_FACE_X],
            &[
                "encoder.stages.0.layers.0.layer.2.convolution.weight",
                "embedder.embedder.convolution.weight",
                // A ResNet has the same names with another prefix.
                "regnet.embedder.embedder.convolution.weight",
            ],
        ),
        Naming {
            is_weak: true,
            ..hugging_face(
                &[&HUGGING_FACE, &HUGGING_FACE_X],
                &[
                    "encoder.stages.0.layers.0.layer.2.convolution.weight",
                    "embedder.embedder.convolution.weight",
                ],
            )
        },
        hugging_face(
            &[&HUGGING_FACE, &HUGGING_FACE_Y],
            &[
                "encoder.stages.0.layers.0.layer.3.convolution.weight",
                "encoder.stages.0.layers.0.layer.2.attention.0.weight",
                "embedder.embedder.convolution.weight",
            ],
        ),
    ];
    const TIMM_TAKES_SIZE: bool = false;

    fn first_conv(&self) -> String {
        "stem.conv".into()
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let shapes = Shapes(&file.map);
        let [stem_width, in_chans, ..] = shapes.get::<4>("stem.conv.weight")?;
        let num_classes = file.map.rows("head.fc.weight").unwrap_or(0);
        let mut config = Self { in_chans, num_classes, stem_width, ..Self::default() };
        let (mut stages, mut gates, mut from) = (Vec::new(), Vec::new(), stem_width);
        for s in 1..=shapes.count("s{}.b1.conv1.conv.weight", 1) {
            let depth = shapes.count(&format!("s{s}.b{{}}.conv1.conv.weight"), 1);
            let [inner, group, ..] = shapes.get::<4>(&format!("s{s}.b1.conv2.conv.weight"))?;
            let [width, ..] = shapes.get::<4>(&format!("s{s}.b1.conv3.conv.weight"))?;
            stages.push(RegNetStage { depth, width, inner, groups: inner.checked_div(group).unwrap_or(0) });
            for b in 1..=depth {
                if let Some([reduced, ..]) = shapes.find::<4>(&format!("s{s}.b{b}.se.fc1.weight")) {
                    gates.push((from, reduced));
                }
                from = width;
            }
        }
        let groups = stages.iter().filter_map(|stage| stage.inner.checked_div(stage.groups));
        config.group_size = groups.max().unwrap_or(1);
        config.bottle_ratio = bottle_ratio(&stages);
        config.se_ratio = se_ratio(&gates);
        let config = with_design(config, &stages).map_err(|e| LoadError::config(&file.map.path, e))?;
        let notes = vec!["activation and epsilon are assumed as usual for a RegNet".to_string()];
        Ok(Inferred { config, notes })
    }

    fn num_features(&self) -> usize {
        Self::num_features(self)
    }

    fn timm_args(&self, _base: &Self, args: &mut Map<String, Value>) -> Result<(), String> {
        refuse_args(args, &["norm_eps"])
    }

    fn of_huggingface(fields: &Fields<'_>, _class: Option<&str>) -> Option<Result<Self, String>> {
        (fields.text("model_type") == Ok(Some("regnet"))).then(|| read(fields))
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        write(self)
    }
}

/// The configuration of transformers' fields. They state the stages, and not the design.
fn read(fields: &Fields<'_>) -> Result<RegNetConfig, String> {
    let sizes = |key: &str, usual: [usize; 4]| {
        let found = fields.sizes(key)?.unwrap_or(usual.to_vec());
        let number = found.len();
        <[usize; 4]>::try_from(found)
            .map_err(|_| format!("`{key}` has {number} stages, only 4 are supported"))
    };
    if fields.flag("downsample_in_first_stage")? == Some(false) {
        return Err("`downsample_in_first_stage` false is not supported".into());
    }
    let has_gate = match fields.text("layer_type")?.unwrap_or("y") {
        "x" => false,
        "y" => true,
        other => return Err(format!("`layer_type` `{other}` is not supported")),
    };
    let act_layer = activation("hidden_act", fields.text("hidden_act")?.unwrap_or("relu"))?;
    if has_gate && act_layer != Activation::Relu {
        // transformers always has ReLU in the gate.
        return Err("`hidden_act` other than `relu` is not supported in `layer_type` `y`".into());
    }
    let group_size = fields.size("groups_width")?.unwrap_or(64);
    let (widths, depths) = (sizes("hidden_sizes", [128, 192, 512, 1088])?, sizes("depths", [2, 6, 12, 2])?);
    let stage = |(width, depth): (usize, usize)| {
        let groups = width.checked_div(group_size).unwrap_or(0).max(1);
        RegNetStage { depth, width, inner: width, groups }
    };
    let stages: Vec<RegNetStage> = widths.into_iter().zip(depths).map(stage).collect();
    let config = RegNetConfig {
        in_chans: fields.size("num_channels")?.unwrap_or(3),
        group_size,
        se_ratio: if has_gate { 0.25 } else { 0.0 },
        stem_width: fields.size("embedding_size")?.unwrap_or(32),
        act_layer,
        ..RegNetConfig::default()
    };
    with_design(config, &stages)
}

fn write(config: &RegNetConfig) -> Result<HuggingFaceModel, String> {
    let usual = RegNetConfig::default();
    let has_gate = config.se_ratio > 0.0;
    for (differs, what) in [
        (config.bottle_ratio != 1.0, "bottle_ratio"),
        (has_gate && config.se_ratio != 0.25, "se_ratio other than 0 and 0.25"),
        // A quarter of this width rounds to 0. timm then takes another width.
        (has_gate && config.stem_width <= 2, "stem_width of 2 and less with a gate"),
        (has_gate && config.act_layer != Activation::Relu, "act_layer other than ReLU with a gate"),
        (config.norm_eps != usual.norm_eps, "norm_eps"),
        (config.global_pool != usual.global_pool, "global_pool"),
    ] {
        if differs {
            return Err(format!("transformers' RegNet has no counterpart for this value of {what}"));
        }
    }
    let design = config.design();
    let fields = json!({
        "num_channels": config.in_chans,
        "embedding_size": config.stem_width,
        "hidden_sizes": design.iter().map(|stage| stage.width).collect::<Vec<_>>(),
        "depths": design.iter().map(|stage| stage.depth).collect::<Vec<_>>(),
        "groups_width": config.group_size,
        "layer_type": if has_gate { "y" } else { "x" },
        "hidden_act": huggingface_activation(config.act_layer),
        "downsample_in_first_stage": true,
    });
    let Value::Object(fields) = fields else { unreachable!("an object") };
    let class = if config.num_classes > 0 { "RegNetForImageClassification" } else { "RegNetModel" };
    Ok(HuggingFaceModel { model_type: "regnet", class, fields, is_own: false })
}
