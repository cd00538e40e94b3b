//! Microsoft's BEiT-3, the vision path (branch `A`) of its multiway transformer.

use crate::checkpoint::keys::{Edit, Row};

/// Present in every file of this dialect.
pub const TELLTALE: &str = "beit3.vision_embed.proj.weight";

/// The table of positions, with two rows in front that no token reads.
pub const POSITIONS: &str = "beit3.encoder.embed_positions.A.weight";

/// The vision path's names.
pub const ROWS: [Row; 13] = [
    ("beit3.vision_embed.proj", "patch_embed.proj", Edit::Keep),
    ("beit3.vision_embed.cls_token", "cls_token", Edit::Keep),
    ("beit3.encoder.layers.{N}.self_attn_layer_norm.A", "blocks.{N}.norm1", Edit::Keep),
    ("beit3.encoder.layers.{N}.self_attn.q_proj.A", "blocks.{N}.attn.q", Edit::Keep),
    ("beit3.encoder.layers.{N}.self_attn.k_proj.A", "blocks.{N}.attn.k", Edit::Keep),
    ("beit3.encoder.layers.{N}.self_attn.v_proj.A", "blocks.{N}.attn.v", Edit::Keep),
    ("beit3.encoder.layers.{N}.self_attn.inner_attn_ln.A", "blocks.{N}.attn.norm", Edit::Keep),
    ("beit3.encoder.layers.{N}.self_attn.out_proj.A", "blocks.{N}.attn.proj", Edit::Keep),
    ("beit3.encoder.layers.{N}.final_layer_norm.A", "blocks.{N}.norm2", Edit::Keep),
    ("beit3.encoder.layers.{N}.ffn.A.fc1", "blocks.{N}.mlp.fc1", Edit::Keep),
    ("beit3.encoder.layers.{N}.ffn.A.ffn_layernorm", "blocks.{N}.mlp.norm", Edit::Keep),
    ("beit3.encoder.layers.{N}.ffn.A.fc2", "blocks.{N}.mlp.fc2", Edit::Keep),
    ("beit3.encoder.layer_norm.A", "norm", Edit::Keep),
];

/// The reason to leave out a tensor; `None` to keep it.
pub fn left_out(name: &str) -> Option<&'static str> {
    const HEADS: [&str; 5] = ["mlm_head.", "mim_head.", "language_head.", "vision_head.", "logit_scale"];
    match name {
        "beit3.text_embed.weight" => Some("the text half"),
        "beit3.vision_embed.mask_token" => Some("used only while pretraining"),
        _ if name.contains(".B.") => Some("the text half"),
        _ if HEADS.iter().any(|head| name.starts_with(head)) => Some("a head of pretraining"),
        _ => None,
    }
}
