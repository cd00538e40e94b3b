//! torch's `nn.TransformerEncoder`, a part of many models. Not a dialect: the names around it can be anything.

use crate::checkpoint::keys::{Edit, Row};

/// The names of a layer.
pub const ROWS: [Row; 7] = [
    ("layers.{N}.self_attn.in_proj_weight", "blocks.{N}.attn.qkv.weight", Edit::Keep),
    ("layers.{N}.self_attn.in_proj_bias", "blocks.{N}.attn.qkv.bias", Edit::Keep),
    ("layers.{N}.self_attn.out_proj", "blocks.{N}.attn.proj", Edit::Keep),
    ("layers.{N}.linear1", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("layers.{N}.linear2", "blocks.{N}.mlp.fc2", Edit::Keep),
    ("layers.{N}.norm1", "blocks.{N}.norm1", Edit::Keep),
    ("layers.{N}.norm2", "blocks.{N}.norm2", Edit::Keep),
];
