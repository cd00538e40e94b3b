//! `ViT` and `SimpleViT` of vit-pytorch (<https://github.com/lucidrains/vit-pytorch>), releases 0.6.7 to 1.26.
//!
//! Blocks have three layouts: `Residual(PreNorm(…))` up to 0.9, `PreNorm(…)` up to 1.2, then a norm within each branch.
//! `SimpleViT` always has the last. Pixels of a patch are in the order rows, columns, channels.

use crate::checkpoint::keys::{Edit, Row};

/// Present in every file since 1.0.
pub const DUAL_NORM_TELLTALES: [&str; 2] = ["to_patch_embedding.2.weight", "to_patch_embedding.3.weight"];

/// Patches with a norm on their pixels and one on the tokens, since 1.0.
pub const DUAL_NORM: [Row; 4] = [
    ("to_patch_embedding.1", "patch_embed.norm_pixels", Edit::Pixels),
    ("to_patch_embedding.2.weight", "patch_embed.proj.weight", Edit::Pixels),
    ("to_patch_embedding.2.bias", "patch_embed.proj.bias", Edit::Keep),
    ("to_patch_embedding.3", "patch_embed.norm", Edit::Keep),
];

/// Present in every file from 0.7 to 0.40.
pub const TELLTALE: &str = "to_patch_embedding.1.weight";

/// Present in every file before 0.7.
pub const OLD_TELLTALE: &str = "patch_to_embedding.weight";

/// Patches without norms, before 1.0.
pub const PATCHES: [Row; 4] = [
    ("to_patch_embedding.1.weight", "patch_embed.proj.weight", Edit::Pixels),
    ("to_patch_embedding.1.bias", "patch_embed.proj.bias", Edit::Keep),
    ("patch_to_embedding.weight", "patch_embed.proj.weight", Edit::Pixels),
    ("patch_to_embedding.bias", "patch_embed.proj.bias", Edit::Keep),
];

/// Everything else.
pub const ROWS: [Row; 28] = [
    ("cls_token", "cls_token", Edit::Rank3),
    ("pos_embedding", "pos_embed", Edit::Rank3),
    ("transformer.norm", "norm", Edit::Keep),
    // The norm within its branch. `SimpleViT` has no dropout, so its layers are numbered differently.
    ("transformer.layers.{N}.0.norm", "blocks.{N}.norm1", Edit::Keep),
    ("transformer.layers.{N}.0.to_qkv", "blocks.{N}.attn.qkv", Edit::Keep),
    ("transformer.layers.{N}.0.to_out.0", "blocks.{N}.attn.proj", Edit::Keep),
    ("transformer.layers.{N}.0.to_out", "blocks.{N}.attn.proj", Edit::Keep),
    ("transformer.layers.{N}.1.net.0", "blocks.{N}.norm2", Edit::Keep),
    ("transformer.layers.{N}.1.net.1", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("transformer.layers.{N}.1.net.3", "blocks.{N}.mlp.fc2", Edit::Keep),
    ("transformer.layers.{N}.1.net.4", "blocks.{N}.mlp.fc2", Edit::Keep),
    // `PreNorm`. The norm of attention has the name above.
    ("transformer.layers.{N}.0.fn.to_qkv", "blocks.{N}.attn.qkv", Edit::Keep),
    ("transformer.layers.{N}.0.fn.to_out.0", "blocks.{N}.attn.proj", Edit::Keep),
    ("transformer.layers.{N}.1.norm", "blocks.{N}.norm2", Edit::Keep),
    ("transformer.layers.{N}.1.fn.net.0", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("transformer.layers.{N}.1.fn.net.3", "blocks.{N}.mlp.fc2", Edit::Keep),
    // `Residual(PreNorm(…))`.
    ("transformer.layers.{N}.0.fn.norm", "blocks.{N}.norm1", Edit::Keep),
    ("transformer.layers.{N}.0.fn.fn.to_qkv", "blocks.{N}.attn.qkv", Edit::Keep),
    ("transformer.layers.{N}.0.fn.fn.to_out.0", "blocks.{N}.attn.proj", Edit::Keep),
    ("transformer.layers.{N}.1.fn.norm", "blocks.{N}.norm2", Edit::Keep),
    ("transformer.layers.{N}.1.fn.fn.net.0", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("transformer.layers.{N}.1.fn.fn.net.3", "blocks.{N}.mlp.fc2", Edit::Keep),
    // Heads: a norm and a linear layer up to 1.2, only the linear layer since 1.4.
    ("mlp_head.0", "fc_norm", Edit::Keep),
    ("mlp_head.1", "head", Edit::Keep),
    ("mlp_head", "head", Edit::Keep),
    ("linear_head.0", "fc_norm", Edit::Keep),
    ("linear_head.1", "head", Edit::Keep),
    ("linear_head", "head", Edit::Keep),
];
