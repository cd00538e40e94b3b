//! timm (<https://github.com/huggingface/pytorch-image-models>), whose names vitrum uses, and projects built on it:
//! DeiT, MAE, DINO, DINOv2, OpenCLIP's `visual.trunk`.

use crate::checkpoint::keys::{Edit, Row};

/// Present in every file of this dialect.
pub const TELLTALE: &str = "patch_embed.proj.weight";

/// timm's own names, to compare other names with them.
pub const OWN: [Row; 17] = [
    ("blocks.{N}.norm1", "blocks.{N}.norm1", Edit::Keep),
    ("blocks.{N}.attn.qkv", "blocks.{N}.attn.qkv", Edit::Keep),
    ("blocks.{N}.attn.q_norm", "blocks.{N}.attn.q_norm", Edit::Keep),
    ("blocks.{N}.attn.k_norm", "blocks.{N}.attn.k_norm", Edit::Keep),
    ("blocks.{N}.attn.proj", "blocks.{N}.attn.proj", Edit::Keep),
    ("blocks.{N}.ls1.gamma", "blocks.{N}.ls1.gamma", Edit::Keep),
    ("blocks.{N}.norm2", "blocks.{N}.norm2", Edit::Keep),
    ("blocks.{N}.mlp.fc1", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("blocks.{N}.mlp.fc2", "blocks.{N}.mlp.fc2", Edit::Keep),
    ("blocks.{N}.ls2.gamma", "blocks.{N}.ls2.gamma", Edit::Keep),
    ("patch_embed.proj", "patch_embed.proj", Edit::Keep),
    ("cls_token", "cls_token", Edit::Keep),
    ("pos_embed", "pos_embed", Edit::Keep),
    ("reg_token", "reg_token", Edit::Keep),
    ("norm", "norm", Edit::Keep),
    ("fc_norm", "fc_norm", Edit::Keep),
    ("head", "head", Edit::Keep),
];

/// Older names, and those of projects. All other names are timm's already.
pub const ROWS: [Row; 6] = [
    // DeiT-III before LayerScale became a module.
    ("blocks.{N}.gamma_1", "blocks.{N}.ls1.gamma", Edit::Keep),
    ("blocks.{N}.gamma_2", "blocks.{N}.ls2.gamma", Edit::Keep),
    // timm before 2022, and DeiT's own code.
    ("pre_logits.fc", "pre_logits.fc", Edit::Keep),
    ("distillation_token", "dist_token", Edit::Keep),
    // DINOv2's SwiGLU.
    ("blocks.{N}.mlp.w12", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("blocks.{N}.mlp.w3", "blocks.{N}.mlp.fc2", Edit::Keep),
];
