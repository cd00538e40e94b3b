//! Google's `.npz` files. vision_transformer numbers the parts of a block 1, 3, 2 (attention, MLP, second norm),
//! big_vision 0, 0, 1. In both, kernels are `[in, out]`, and heads have their own axis.

use crate::checkpoint::keys::{Edit, Row};

/// Present in every file of this dialect, perhaps after `opt/target/`, `params/` or `params/img/`.
pub const TELLTALE: &str = "embedding/kernel";

/// Prefix of tensors that stack all blocks along their first axis.
pub const STACKED: &str = "Transformer/encoderblock/";

/// Prefix of the same tensors block by block; the number follows.
pub const NUMBERED: &str = "Transformer/encoderblock_";

/// All names of both conventions. They do not collide.
pub const ROWS: [Row; 57] = [
    ("embedding/kernel", "patch_embed.proj.weight", Edit::Kernel),
    ("embedding/bias", "patch_embed.proj.bias", Edit::Keep),
    ("cls", "cls_token", Edit::Rank3),
    ("Transformer/posembed_input/pos_embedding", "pos_embed", Edit::Rank3),
    ("pos_embedding", "pos_embed", Edit::Rank3),
    ("Transformer/encoder_norm/scale", "norm.weight", Edit::Flatten),
    ("Transformer/encoder_norm/bias", "norm.bias", Edit::Flatten),
    ("pre_logits/kernel", "pre_logits.fc.weight", Edit::Transpose),
    ("pre_logits/bias", "pre_logits.fc.bias", Edit::Keep),
    ("head/kernel", "head.weight", Edit::Transpose),
    ("head/bias", "head.bias", Edit::Flatten),
    ("Transformer/encoderblock_{N}/LayerNorm_0/scale", "blocks.{N}.norm1.weight", Edit::Flatten),
    ("Transformer/encoderblock_{N}/LayerNorm_0/bias", "blocks.{N}.norm1.bias", Edit::Flatten),
    // vision_transformer
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_1/query/kernel",
        "blocks.{N}.attn.q.weight",
        Edit::ToHeads,
    ),
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_1/key/kernel",
        "blocks.{N}.attn.k.weight",
        Edit::ToHeads,
    ),
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_1/value/kernel",
        "blocks.{N}.attn.v.weight",
        Edit::ToHeads,
    ),
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_1/query/bias",
        "blocks.{N}.attn.q.bias",
        Edit::Flatten,
    ),
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_1/key/bias",
        "blocks.{N}.attn.k.bias",
        Edit::Flatten,
    ),
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_1/value/bias",
        "blocks.{N}.attn.v.bias",
        Edit::Flatten,
    ),
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_1/out/kernel",
        "blocks.{N}.attn.proj.weight",
        Edit::FromHeads,
    ),
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_1/out/bias",
        "blocks.{N}.attn.proj.bias",
        Edit::Flatten,
    ),
    ("Transformer/encoderblock_{N}/LayerNorm_2/scale", "blocks.{N}.norm2.weight", Edit::Flatten),
    ("Transformer/encoderblock_{N}/LayerNorm_2/bias", "blocks.{N}.norm2.bias", Edit::Flatten),
    ("Transformer/encoderblock_{N}/MlpBlock_3/Dense_0/kernel", "blocks.{N}.mlp.fc1.weight", Edit::Transpose),
    ("Transformer/encoderblock_{N}/MlpBlock_3/Dense_0/bias", "blocks.{N}.mlp.fc1.bias", Edit::Flatten),
    ("Transformer/encoderblock_{N}/MlpBlock_3/Dense_1/kernel", "blocks.{N}.mlp.fc2.weight", Edit::Transpose),
    ("Transformer/encoderblock_{N}/MlpBlock_3/Dense_1/bias", "blocks.{N}.mlp.fc2.bias", Edit::Flatten),
    // big_vision
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_0/query/kernel",
        "blocks.{N}.attn.q.weight",
        Edit::ToHeads,
    ),
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_0/key/kernel",
        "blocks.{N}.attn.k.weight",
        Edit::ToHeads,
    ),
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_0/value/kernel",
        "blocks.{N}.attn.v.weight",
        Edit::ToHeads,
    ),
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_0/query/bias",
        "blocks.{N}.attn.q.bias",
        Edit::Flatten,
    ),
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_0/key/bias",
        "blocks.{N}.attn.k.bias",
        Edit::Flatten,
    ),
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_0/value/bias",
        "blocks.{N}.attn.v.bias",
        Edit::Flatten,
    ),
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_0/out/kernel",
        "blocks.{N}.attn.proj.weight",
        Edit::FromHeads,
    ),
    (
        "Transformer/encoderblock_{N}/MultiHeadDotProductAttention_0/out/bias",
        "blocks.{N}.attn.proj.bias",
        Edit::Flatten,
    ),
    ("Transformer/encoderblock_{N}/LayerNorm_1/scale", "blocks.{N}.norm2.weight", Edit::Flatten),
    ("Transformer/encoderblock_{N}/LayerNorm_1/bias", "blocks.{N}.norm2.bias", Edit::Flatten),
    ("Transformer/encoderblock_{N}/MlpBlock_0/Dense_0/kernel", "blocks.{N}.mlp.fc1.weight", Edit::Transpose),
    ("Transformer/encoderblock_{N}/MlpBlock_0/Dense_0/bias", "blocks.{N}.mlp.fc1.bias", Edit::Flatten),
    ("Transformer/encoderblock_{N}/MlpBlock_0/Dense_1/kernel", "blocks.{N}.mlp.fc2.weight", Edit::Transpose),
    ("Transformer/encoderblock_{N}/MlpBlock_0/Dense_1/bias", "blocks.{N}.mlp.fc2.bias", Edit::Flatten),
    // big_vision's pooling by attention (MAP)
    ("MAPHead_0/probe", "attn_pool.latent", Edit::Rank3),
    ("MAPHead_0/MultiHeadDotProductAttention_0/query/kernel", "attn_pool.q.weight", Edit::ToHeads),
    ("MAPHead_0/MultiHeadDotProductAttention_0/query/bias", "attn_pool.q.bias", Edit::Flatten),
    ("MAPHead_0/MultiHeadDotProductAttention_0/key/kernel", "attn_pool.k.weight", Edit::ToHeads),
    ("MAPHead_0/MultiHeadDotProductAttention_0/key/bias", "attn_pool.k.bias", Edit::Flatten),
    ("MAPHead_0/MultiHeadDotProductAttention_0/value/kernel", "attn_pool.v.weight", Edit::ToHeads),
    ("MAPHead_0/MultiHeadDotProductAttention_0/value/bias", "attn_pool.v.bias", Edit::Flatten),
    ("MAPHead_0/MultiHeadDotProductAttention_0/out/kernel", "attn_pool.proj.weight", Edit::FromHeads),
    ("MAPHead_0/MultiHeadDotProductAttention_0/out/bias", "attn_pool.proj.bias", Edit::Flatten),
    ("MAPHead_0/LayerNorm_0/scale", "attn_pool.norm.weight", Edit::Flatten),
    ("MAPHead_0/LayerNorm_0/bias", "attn_pool.norm.bias", Edit::Flatten),
    ("MAPHead_0/MlpBlock_0/Dense_0/kernel", "attn_pool.mlp.fc1.weight", Edit::Transpose),
    ("MAPHead_0/MlpBlock_0/Dense_0/bias", "attn_pool.mlp.fc1.bias", Edit::Flatten),
    ("MAPHead_0/MlpBlock_0/Dense_1/kernel", "attn_pool.mlp.fc2.weight", Edit::Transpose),
    ("MAPHead_0/MlpBlock_0/Dense_1/bias", "attn_pool.mlp.fc2.bias", Edit::Flatten),
    ("MAPHead_0/MlpBlock_0/LayerNorm_0/scale", "attn_pool.mlp.norm.weight", Edit::Flatten),
];
