//! Extra tensors in files published with papers (DeiT, MAE, DINO, DINOv2). All other tensors have timm's names.

/// The reason to leave out a tensor that the classifier does not use; `None` to keep it.
pub fn left_out(name: &str) -> Option<&'static str> {
    const PARTS: [(&str, &str); 8] = [
        ("decoder.", "the head of masked image modelling"),
        ("mask_token", "used only while pretraining"),
        ("decoder_embed.", "MAE's decoder"),
        ("decoder_pos_embed", "MAE's decoder"),
        ("decoder_blocks.", "MAE's decoder"),
        ("decoder_norm.", "MAE's decoder"),
        ("decoder_pred.", "MAE's decoder"),
        ("head.last_layer.", "DINO's projection head"),
    ];
    if let Some((_, reason)) = PARTS.iter().find(|(part, _)| name.starts_with(part)) {
        return Some(reason);
    }
    if name.starts_with("head.mlp.") {
        return Some("DINO's projection head");
    }
    // MoCo v3 and others have a small network in place of the classifier.
    let layer = name.strip_prefix("head.")?.split('.').next()?;
    layer.bytes().all(|digit| digit.is_ascii_digit()).then_some("a projection head of pretraining")
}

/// DINOv2's register tokens. timm calls them `reg_token`, and adds the class token's position to the token.
pub const REGISTERS: &str = "register_tokens";
