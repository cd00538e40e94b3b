//! Tables from each library's names of a Swin to timm's.

use crate::checkpoint::family::Naming;
use crate::checkpoint::keys::{Edit, Row};
use crate::checkpoint::naming::Dialect;
use crate::checkpoint::tensors::Tensors;

/// The authors' names, and timm's before 0.9: the step to the next grid ends a stage, timm's begins one.
const OFFICIAL: [Row; 3] = [
    ("layers.{N}.downsample.norm", "layers.{N+1}.downsample.norm", Edit::Keep),
    ("layers.{N}.downsample.reduction", "layers.{N+1}.downsample.reduction", Edit::Keep),
    ("head", "head.fc", Edit::Keep),
];

/// torchvision's names: `features` are the patches, a stage, a step to the next grid, a stage and so on in turn.
const TORCHVISION: [Row; 17] = [
    ("features.0.0", "patch_embed.proj", Edit::Keep),
    ("features.0.2", "patch_embed.norm", Edit::Keep),
    ("features.{2N+1}.{M}.norm1", "layers.{N}.blocks.{M}.norm1", Edit::Keep),
    ("features.{2N+1}.{M}.attn.qkv", "layers.{N}.blocks.{M}.attn.qkv", Edit::Keep),
    ("features.{2N+1}.{M}.attn.proj", "layers.{N}.blocks.{M}.attn.proj", Edit::Keep),
    (
        "features.{2N+1}.{M}.attn.relative_position_bias_table",
        "layers.{N}.blocks.{M}.attn.relative_position_bias_table",
        Edit::Keep,
    ),
    ("features.{2N+1}.{M}.attn.logit_scale", "layers.{N}.blocks.{M}.attn.logit_scale", Edit::Keep),
    ("features.{2N+1}.{M}.attn.cpb_mlp.{K}", "layers.{N}.blocks.{M}.attn.cpb_mlp.{K}", Edit::Keep),
    (
        "features.{2N+1}.{M}.attn.relative_coords_table",
        "layers.{N}.blocks.{M}.attn.relative_coords_table",
        Edit::Keep,
    ),
    (
        "features.{2N+1}.{M}.attn.relative_position_index",
        "layers.{N}.blocks.{M}.attn.relative_position_index",
        Edit::Keep,
    ),
    ("features.{2N+1}.{M}.norm2", "layers.{N}.blocks.{M}.norm2", Edit::Keep),
    ("features.{2N+1}.{M}.mlp.0", "layers.{N}.blocks.{M}.mlp.fc1", Edit::Keep),
    ("features.{2N+1}.{M}.mlp.3", "layers.{N}.blocks.{M}.mlp.fc2", Edit::Keep),
    ("features.{2N+2}.norm", "layers.{N+1}.downsample.norm", Edit::Keep),
    ("features.{2N+2}.reduction", "layers.{N+1}.downsample.reduction", Edit::Keep),
    ("norm", "norm", Edit::Keep),
    ("head", "head.fc", Edit::Keep),
];

/// Names in transformers' files of both versions. Writing uses the first row for a timm name.
const HUGGING_FACE: [Row; 13] = [
    ("embeddings.patch_embeddings.projection", "patch_embed.proj", Edit::Keep),
    ("embeddings.norm", "patch_embed.norm", Edit::Keep),
    ("encoder.layers.{N}.blocks.{M}.layernorm_before", "layers.{N}.blocks.{M}.norm1", Edit::Keep),
    ("encoder.layers.{N}.blocks.{M}.attention.self.query", "layers.{N}.blocks.{M}.attn.q", Edit::Keep),
    ("encoder.layers.{N}.blocks.{M}.attention.self.key", "layers.{N}.blocks.{M}.attn.k", Edit::Keep),
    ("encoder.layers.{N}.blocks.{M}.attention.self.value", "layers.{N}.blocks.{M}.attn.v", Edit::Keep),
    ("encoder.layers.{N}.blocks.{M}.attention.output.dense", "layers.{N}.blocks.{M}.attn.proj", Edit::Keep),
    ("encoder.layers.{N}.blocks.{M}.layernorm_after", "layers.{N}.blocks.{M}.norm2", Edit::Keep),
    ("encoder.layers.{N}.blocks.{M}.intermediate.dense", "layers.{N}.blocks.{M}.mlp.fc1", Edit::Keep),
    ("encoder.layers.{N}.blocks.{M}.output.dense", "layers.{N}.blocks.{M}.mlp.fc2", Edit::Keep),
    ("encoder.layers.{N}.downsample.norm", "layers.{N+1}.downsample.norm", Edit::Keep),
    ("encoder.layers.{N}.downsample.reduction", "layers.{N+1}.downsample.reduction", Edit::Keep),
    ("layernorm", "norm", Edit::Keep),
];

/// What only the first version has, and its names in 5.x in memory.
const HUGGING_FACE_1: [Row; 8] = [
    (
        "encoder.layers.{N}.blocks.{M}.attention.self.relative_position_bias_table",
        "layers.{N}.blocks.{M}.attn.relative_position_bias_table",
        Edit::Keep,
    ),
    (
        "encoder.layers.{N}.blocks.{M}.attention.relative_position_bias.relative_position_bias_table",
        "layers.{N}.blocks.{M}.attn.relative_position_bias_table",
        Edit::Keep,
    ),
    ("encoder.layers.{N}.blocks.{M}.attention.q_proj", "layers.{N}.blocks.{M}.attn.q", Edit::Keep),
    ("encoder.layers.{N}.blocks.{M}.attention.k_proj", "layers.{N}.blocks.{M}.attn.k", Edit::Keep),
    ("encoder.layers.{N}.blocks.{M}.attention.v_proj", "layers.{N}.blocks.{M}.attn.v", Edit::Keep),
    ("encoder.layers.{N}.blocks.{M}.attention.o_proj", "layers.{N}.blocks.{M}.attn.proj", Edit::Keep),
    ("encoder.layers.{N}.blocks.{M}.mlp.fc1", "layers.{N}.blocks.{M}.mlp.fc1", Edit::Keep),
    ("encoder.layers.{N}.blocks.{M}.mlp.fc2", "layers.{N}.blocks.{M}.mlp.fc2", Edit::Keep),
];

/// What only the second version has. It comes before the rows of both.
const HUGGING_FACE_2: [Row; 4] = [
    (
        "encoder.layers.{N}.blocks.{M}.attention.self.query.bias",
        "layers.{N}.blocks.{M}.attn.q_bias",
        Edit::Keep,
    ),
    (
        "encoder.layers.{N}.blocks.{M}.attention.self.value.bias",
        "layers.{N}.blocks.{M}.attn.v_bias",
        Edit::Keep,
    ),
    (
        "encoder.layers.{N}.blocks.{M}.attention.self.logit_scale",
        "layers.{N}.blocks.{M}.attn.logit_scale",
        Edit::Keep,
    ),
    (
        "encoder.layers.{N}.blocks.{M}.attention.self.continuous_position_bias_mlp.{K}",
        "layers.{N}.blocks.{M}.attn.cpb_mlp.{K}",
        Edit::Keep,
    ),
];

/// transformers' head, outside the base model.
const HEAD: [Row; 1] = [("classifier", "head.fc", Edit::Keep)];

const QKV: &str = "layers.0.blocks.0.attn.qkv.weight";
const PATCHES: &str = "patch_embed.proj.weight";
const HUGGING_FACE_PATCHES: &str = "embeddings.patch_embeddings.projection.weight";
const WIDTHS: &[&str] = &["norm.weight", "layers.{N}.blocks.0.norm2.weight"];

/// All namings.
pub(super) const NAMINGS: [Naming; 6] = [
    Naming {
        heads: &["head.fc"],
        widths: WIDTHS,
        left_out,
        shows,
        ..Naming::new(Dialect::Timm, &[QKV, PATCHES])
    },
    Naming {
        rows: &[&OFFICIAL],
        widths: WIDTHS,
        left_out,
        shows,
        ..Naming::new(Dialect::Official, &[QKV, PATCHES, "layers.0.downsample.reduction.weight"])
    },
    Naming {
        rows: &[&TORCHVISION],
        widths: &["norm.weight"],
        left_out,
        shows,
        ..Naming::new(Dialect::Torchvision, &["features.0.0.weight", "features.1.0.attn.qkv.weight"])
    },
    hugging_face(
        &[HUGGING_FACE_PATCHES, "encoder.layers.0.blocks.0.attention.self.query.weight"],
        &[&HUGGING_FACE, &HUGGING_FACE_1],
        "swin.",
    ),
    // Swin in 5.x, in memory.
    hugging_face(
        &[HUGGING_FACE_PATCHES, "encoder.layers.0.blocks.0.attention.q_proj.weight"],
        &[&HUGGING_FACE, &HUGGING_FACE_1],
        "swin.",
    ),
    hugging_face(
        &[
            HUGGING_FACE_PATCHES,
            "encoder.layers.0.blocks.0.attention.self.query.weight",
            "encoder.layers.0.blocks.0.attention.self.logit_scale",
        ],
        &[&HUGGING_FACE_2, &HUGGING_FACE],
        "swinv2.",
    ),
];

const fn hugging_face(
    telltales: &'static [&'static str],
    rows: &'static [&'static [Row]],
    base: &'static str,
) -> Naming {
    Naming {
        rows,
        beside: &HEAD,
        base,
        heads: &["classifier"],
        widths: &["layernorm.weight"],
        left_out,
        ..Naming::new(Dialect::HuggingFace, telltales)
    }
}

/// Whether a buffer shows windows.
fn shows(name: &str) -> bool {
    ["relative_position_index", "relative_coords_table", "attn_mask"].iter().any(|end| name.ends_with(end))
}

/// The reason to leave out a tensor that the model computes by itself, or that only pretraining uses.
fn left_out(name: &str, _: &Tensors) -> Option<&'static str> {
    match name {
        _ if shows(name) => Some("follows from the size of the windows"),
        _ if name.ends_with("mask_token") || name.starts_with("decoder.") => {
            Some("used only while pretraining")
        }
        _ => None,
    }
}
