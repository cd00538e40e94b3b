//! timm (<https://github.com/huggingface/pytorch-image-models>), whose names are ours, and everyone who
//! built on it: DeiT, MAE, DINO, DINOv2, OpenCLIP's `visual.trunk`.

use crate::checkpoint::keys::{Edit, Row};

/// Present in every file of this dialect.
pub const TELLTALE: &str = "patch_embed.proj.weight";

/// Names that changed since; all others are timm's already.
pub const ROWS: [Row; 4] = [
    // DeiT-III before LayerScale became a module.
    ("blocks.{N}.gamma_1", "blocks.{N}.ls1.gamma", Edit::Keep),
    ("blocks.{N}.gamma_2", "blocks.{N}.ls2.gamma", Edit::Keep),
    // timm before 2022, and DeiT's own code.
    ("pre_logits.fc", "pre_logits.fc", Edit::Keep),
    ("distillation_token", "dist_token", Edit::Keep),
];
