//! The image half of OpenAI's CLIP and of OpenCLIP's own towers.

use crate::checkpoint::keys::{Edit, Row};

/// Present in every file of this dialect, after `visual.`.
pub const TELLTALE: &str = "class_embedding";

/// Names after `visual.`. The projection into the shared space is timm's head, without a bias.
pub const ROWS: [Row; 14] = [
    ("class_embedding", "cls_token", Edit::Rank3),
    ("positional_embedding", "pos_embed", Edit::Rank3),
    ("conv1", "patch_embed.proj", Edit::Keep),
    ("ln_pre", "norm_pre", Edit::Keep),
    ("ln_post", "norm", Edit::Keep),
    ("proj", "head.weight", Edit::Transpose),
    ("transformer.resblocks.{N}.ln_1", "blocks.{N}.norm1", Edit::Keep),
    ("transformer.resblocks.{N}.attn.in_proj_weight", "blocks.{N}.attn.qkv.weight", Edit::Keep),
    ("transformer.resblocks.{N}.attn.in_proj_bias", "blocks.{N}.attn.qkv.bias", Edit::Keep),
    ("transformer.resblocks.{N}.attn.out_proj", "blocks.{N}.attn.proj", Edit::Keep),
    ("transformer.resblocks.{N}.ln_2", "blocks.{N}.norm2", Edit::Keep),
    ("transformer.resblocks.{N}.mlp.c_fc", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("transformer.resblocks.{N}.mlp.c_proj", "blocks.{N}.mlp.fc2", Edit::Keep),
    ("transformer.resblocks.{N}.ls_1.gamma", "blocks.{N}.ls1.gamma", Edit::Keep),
];
