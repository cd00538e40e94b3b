//! Apple's AIMv2 (arXiv:2411.14402).

use crate::checkpoint::keys::{Edit, Row};

/// Present in every file of this dialect.
pub const TELLTALE: &str = "preprocessor.patchifier.proj.weight";

/// Apple's names. The gate of an MLP is `fc1`, the product beside it `fc3`.
pub const ROWS: [Row; 11] = [
    ("preprocessor.patchifier.proj", "patch_embed.proj", Edit::Keep),
    ("preprocessor.patchifier.norm", "patch_embed.norm", Edit::Keep),
    ("preprocessor.pos_embed", "pos_embed", Edit::Rank3),
    ("trunk.blocks.{N}.norm_1", "blocks.{N}.norm1", Edit::Keep),
    ("trunk.blocks.{N}.attn.qkv", "blocks.{N}.attn.qkv", Edit::Keep),
    ("trunk.blocks.{N}.attn.proj", "blocks.{N}.attn.proj", Edit::Keep),
    ("trunk.blocks.{N}.norm_2", "blocks.{N}.norm2", Edit::Keep),
    ("trunk.blocks.{N}.mlp.fc1", "blocks.{N}.mlp.fc1_g", Edit::Keep),
    ("trunk.blocks.{N}.mlp.fc3", "blocks.{N}.mlp.fc1_x", Edit::Keep),
    ("trunk.blocks.{N}.mlp.fc2", "blocks.{N}.mlp.fc2", Edit::Keep),
    ("trunk.post_trunk_norm", "norm", Edit::Keep),
];
