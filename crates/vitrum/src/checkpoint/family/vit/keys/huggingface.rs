//! Hugging Face transformers: ViT, DeiT, ViT-MAE, DINOv2. Files have the names of 4.x, even if 5.x wrote them. 5.x has
//! other names in memory. Both are read.

use crate::checkpoint::keys::{Edit, Row};
use crate::checkpoint::tensors::Tensors;

/// Present in every file of this dialect, with the base model's prefix or without a prefix.
pub const TELLTALE: &str = "embeddings.patch_embeddings.projection.weight";

/// Names without the base model's prefix (`vit.`, `deit.`, `dinov2.`). Writing uses the first row for a timm name.
pub const ROWS: [Row; 35] = [
    ("embeddings.cls_token", "cls_token", Edit::Keep),
    ("embeddings.distillation_token", "dist_token", Edit::Keep),
    ("embeddings.register_tokens", "register_tokens", Edit::Keep),
    ("embeddings.position_embeddings", "pos_embed", Edit::Keep),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj", Edit::Keep),
    ("encoder.layer.{N}.layernorm_before", "blocks.{N}.norm1", Edit::Keep),
    ("encoder.layer.{N}.attention.attention.query", "blocks.{N}.attn.q", Edit::Keep),
    ("encoder.layer.{N}.attention.attention.key", "blocks.{N}.attn.k", Edit::Keep),
    ("encoder.layer.{N}.attention.attention.value", "blocks.{N}.attn.v", Edit::Keep),
    ("encoder.layer.{N}.attention.output.dense", "blocks.{N}.attn.proj", Edit::Keep),
    ("encoder.layer.{N}.layernorm_after", "blocks.{N}.norm2", Edit::Keep),
    ("encoder.layer.{N}.intermediate.dense", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("encoder.layer.{N}.output.dense", "blocks.{N}.mlp.fc2", Edit::Keep),
    ("layernorm", "norm", Edit::Keep),
    ("pooler.dense", "pre_logits.fc", Edit::Keep),
    // 5.x in memory.
    ("layers.{N}.layernorm_before", "blocks.{N}.norm1", Edit::Keep),
    ("layers.{N}.attention.q_proj", "blocks.{N}.attn.q", Edit::Keep),
    ("layers.{N}.attention.k_proj", "blocks.{N}.attn.k", Edit::Keep),
    ("layers.{N}.attention.v_proj", "blocks.{N}.attn.v", Edit::Keep),
    ("layers.{N}.attention.o_proj", "blocks.{N}.attn.proj", Edit::Keep),
    ("layers.{N}.layernorm_after", "blocks.{N}.norm2", Edit::Keep),
    ("layers.{N}.mlp.fc1", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("layers.{N}.mlp.fc2", "blocks.{N}.mlp.fc2", Edit::Keep),
    // DINOv2, 5.x in memory.
    ("encoder.layer.{N}.attention.q_proj", "blocks.{N}.attn.q", Edit::Keep),
    ("encoder.layer.{N}.attention.k_proj", "blocks.{N}.attn.k", Edit::Keep),
    ("encoder.layer.{N}.attention.v_proj", "blocks.{N}.attn.v", Edit::Keep),
    ("encoder.layer.{N}.attention.o_proj", "blocks.{N}.attn.proj", Edit::Keep),
    // DINOv2.
    ("encoder.layer.{N}.norm1", "blocks.{N}.norm1", Edit::Keep),
    ("encoder.layer.{N}.norm2", "blocks.{N}.norm2", Edit::Keep),
    ("encoder.layer.{N}.mlp.fc1", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("encoder.layer.{N}.mlp.fc2", "blocks.{N}.mlp.fc2", Edit::Keep),
    ("encoder.layer.{N}.mlp.weights_in", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("encoder.layer.{N}.mlp.weights_out", "blocks.{N}.mlp.fc2", Edit::Keep),
    ("encoder.layer.{N}.layer_scale1.lambda1", "blocks.{N}.ls1.gamma", Edit::Keep),
    ("encoder.layer.{N}.layer_scale2.lambda1", "blocks.{N}.ls2.gamma", Edit::Keep),
];

/// Heads, outside the base model's prefix.
pub const HEADS: [Row; 3] = [
    ("classifier", "head", Edit::Keep),
    ("cls_classifier", "head", Edit::Keep),
    ("distillation_classifier", "head_dist", Edit::Keep),
];

/// The reason to leave out a tensor that the classifier does not use; `None` to keep it. `file` has all tensors.
pub fn left_out(name: &str, file: &Tensors) -> Option<&'static str> {
    let has_classifier =
        || ["classifier.weight", "cls_classifier.weight"].iter().any(|head| file.contains_key(*head));
    match name {
        "embeddings.mask_token" => Some("used only while pretraining"),
        _ if name.starts_with("decoder.") => Some("the decoder of masked image modelling"),
        _ if name.starts_with("pooler.") && has_classifier() => {
            Some("the classifier does not use the pooler")
        }
        _ => None,
    }
}
