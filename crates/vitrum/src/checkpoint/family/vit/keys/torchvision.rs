//! torchvision (`torchvision/models/vision_transformer.py`). Its first release has `mlp.linear_1` and `mlp.linear_2`.

use crate::checkpoint::keys::{Edit, Row};

/// Present in every file of this dialect.
pub const TELLTALE: &str = "conv_proj.weight";

/// All of torchvision's names.
pub const ROWS: [Row; 15] = [
    ("class_token", "cls_token", Edit::Keep),
    ("conv_proj", "patch_embed.proj", Edit::Keep),
    ("encoder.pos_embedding", "pos_embed", Edit::Keep),
    ("encoder.layers.encoder_layer_{N}.ln_1", "blocks.{N}.norm1", Edit::Keep),
    (
        "encoder.layers.encoder_layer_{N}.self_attention.in_proj_weight",
        "blocks.{N}.attn.qkv.weight",
        Edit::Keep,
    ),
    ("encoder.layers.encoder_layer_{N}.self_attention.in_proj_bias", "blocks.{N}.attn.qkv.bias", Edit::Keep),
    ("encoder.layers.encoder_layer_{N}.self_attention.out_proj", "blocks.{N}.attn.proj", Edit::Keep),
    ("encoder.layers.encoder_layer_{N}.ln_2", "blocks.{N}.norm2", Edit::Keep),
    ("encoder.layers.encoder_layer_{N}.mlp.0", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("encoder.layers.encoder_layer_{N}.mlp.3", "blocks.{N}.mlp.fc2", Edit::Keep),
    ("encoder.layers.encoder_layer_{N}.mlp.linear_1", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("encoder.layers.encoder_layer_{N}.mlp.linear_2", "blocks.{N}.mlp.fc2", Edit::Keep),
    ("encoder.ln", "norm", Edit::Keep),
    ("heads.pre_logits", "pre_logits.fc", Edit::Keep),
    ("heads.head", "head", Edit::Keep),
];
