//! The walk of the plain ViT.

use super::{Derived, GlobalPool, MlpLayer, PosEmbed, VitConfig};
use crate::layers::block::NormPlace;
use crate::layers::mlp::MlpConfig;
use crate::layers::rope::RopeType;
use crate::models::ConfigError;
use crate::models::network::Config;
use crate::models::shapes::{GATED, Step, Steps, Walk, held_by_block, long, product, unread};

/// From image to logits.
pub(super) fn walk(config: &VitConfig) -> Result<Walk, ConfigError> {
    config.validate()?;
    let ([h, w], [p, q]) = (config.img_size.map(long), config.patch_size.map(long));
    let (c, d) = (long(config.in_chans), long(config.embed_dim));
    let [gh, gw] = config.grid().map(long);
    let n = gh * gw;
    let t = num_tokens(config);

    let mut steps = Steps::default();
    steps.add("image", "C × H × W".into(), &[c, h, w], 0, 0);
    let patch = c * p * q;
    steps.add("patches", format!("{gh} × {gw} patches of {c}·{p}·{q}"), &[n, patch], 0, 0);
    if config.patch_norm {
        steps.add("patch_embed.norm_pixels", "LayerNorm of each patch".into(), &[n, patch], 2 * patch, 0);
    }
    let bias = if config.pre_norm { 0 } else { d };
    steps.add(
        "patch_embed",
        format!("linear {patch} → {d}"),
        &[n, d],
        patch * d + bias,
        product(n, patch, d),
    );
    if config.embed_norm {
        steps.add("patch_embed.norm", "LayerNorm".into(), &[n, d], 2 * d, 0);
    }
    if config.class_token {
        steps.add("cls_token", "class token in front".into(), &[n + 1, d], d, 0);
    }
    if config.reg_tokens > 0 {
        let registers = long(config.reg_tokens);
        steps.add("reg_token", format!("{registers} registers after it"), &[t, d], registers * d, 0);
    }
    position(config, &mut steps);
    if config.pre_norm {
        steps.add("norm_pre", "LayerNorm".into(), &[t, d], 2 * d, 0);
    }
    let before = steps.0.len();
    block(config, t, &mut steps);
    steps.0[before..].iter_mut().for_each(|step| step.repeat = config.depth);
    if config.pos_embed == PosEmbed::Cpe {
        for (place, block) in config.cpe_blocks.iter().enumerate() {
            let what = format!("3 × 3 depthwise on the grid, after block {block}");
            steps.add(&format!("pos_block.{place}"), what, &[t, d], 9 * d + d, product(n, 9, d));
        }
    }
    if config.has_norm() {
        steps.add("norm", "LayerNorm".into(), &[t, d], 2 * d, 0);
    }
    head(config, t, &mut steps);

    let unread = unread_behind(config, &steps.0, 1);
    Ok(Walk::new(steps.0, unread, held(config)))
}

/// Pixels, and the values of one block at a time.
fn held(config: &VitConfig) -> u64 {
    let ([h, w], c) = (config.img_size.map(long), long(config.in_chans));
    held_by_block(&config.block(0), num_tokens(config)).saturating_add(product(c, h, w))
}

/// Multiply-accumulates that the last block saves if the head reads only `read` prefix tokens: all other queries
/// and their MLP.
pub(crate) fn unread_behind(config: &VitConfig, steps: &[Step], read: usize) -> u64 {
    let moved_after = config.pos_embed == PosEmbed::Cpe && config.cpe_blocks.contains(&(config.depth - 1));
    if config.global_pool != GlobalPool::Token || moved_after {
        return 0;
    }
    unread(steps, "blocks.N", num_tokens(config), long(read))
}

/// `T`
fn num_tokens(config: &VitConfig) -> u64 {
    let [gh, gw] = config.grid().map(long);
    gh * gw + long(config.num_prefix_tokens())
}

fn position(config: &VitConfig, steps: &mut Steps) {
    let (d, a, [gh, gw]) = (long(config.embed_dim), long(config.num_heads), config.grid().map(long));
    let (t, prefix_rows) = (num_tokens(config), long(config.prefix_rows()));
    let rows = gh * gw + prefix_rows;
    match config.pos_embed {
        PosEmbed::Learn => steps.add("pos_embed", "learned positions".into(), &[t, d], rows * d, 0),
        PosEmbed::Learn2d => {
            let params = gw * (d / 2) + gh * (d - d / 2) + prefix_rows * d;
            steps.add("pos_embed", "learned columns and rows".into(), &[t, d], params, 0);
        }
        fixed if fixed.is_fixed() => {
            steps.add("pos_embed", "fixed sinusoids".into(), &[t, d], rows * d, 0);
        }
        PosEmbed::RelKeyShared => {
            let Bias { what, params, .. } = relative(config);
            steps.add("shared_rel_pos", what, &[2 * t - 1, a * long(config.head_dim())], params, 0);
        }
        shared if shared.is_shared() => {
            let Bias { what, params, macs } = relative(config);
            steps.add("shared_rel_pos", what, &[a, t, t], params, macs);
        }
        _ => {}
    }
    let Derived { shared_table, rope, .. } = config.derived;
    if shared_table {
        let Bias { what, params, macs } = relative(config);
        steps.add("rel_pos_bias", what, &[a, t, t], params, macs);
    }
    if let Some(rope) = rope {
        let (n, e) = (gh * gw, long(rope.head_dim));
        let learned = product(long(rope.depth), a, e);
        let (what, params) = match rope.kind {
            RopeType::Mixed => ("turns of queries and keys, learned for each block and head", learned),
            RopeType::Cat | RopeType::DinoV3 => ("turns of queries and keys", 0),
        };
        steps.add("rope", what.into(), &[n, e], params, 0);
    }
}

/// A relative bias: its description and its cost.
struct Bias {
    what: String,
    params: u64,
    macs: u64,
}

fn relative(config: &VitConfig) -> Bias {
    let ([gh, gw], a) = (config.grid().map(long), long(config.num_heads));
    let offsets = (2 * gh - 1) * (2 * gw - 1);
    if config.pos_embed.is_key() {
        let (rows, inner) = (2 * num_tokens(config) - 1, a * long(config.head_dim()));
        let macs = product(num_tokens(config), rows, inner);
        return Bias { what: "query · key of the offset".into(), params: rows * inner, macs };
    }
    if config.pos_embed.is_mlp() {
        let f = long(config.rel_pos_dim());
        let macs = product(offsets, 2, f).saturating_add(product(offsets, f, a));
        return Bias { what: format!("2 → {f} → {a} of log offsets"), params: 3 * f + a * f + a, macs };
    }
    let rows = offsets + if config.num_prefix_tokens() > 0 { 3 } else { 0 };
    Bias { what: "one bias per head and offset".into(), params: a * rows, macs: 0 }
}

fn block(config: &VitConfig, t: u64, steps: &mut Steps) {
    let [d, a] = [config.embed_dim, config.num_heads].map(long);
    let e = long(config.head_dim());
    let inner = a * e;
    let form = config.derived.qkv;
    let biases = if form.has_key_bias() { 3 } else { 2 };
    let qkv_bias = if config.qkv_bias { biases * inner } else { 0 };
    let proj_bias = u64::from(config.proj_bias);
    let norm = |steps: &mut Steps, name: &str, here: NormPlace| {
        if config.norms() == here {
            steps.add(name, "LayerNorm".into(), &[t, d], 2 * d, 0);
        }
    };
    norm(steps, "blocks.N.norm1", NormPlace::Before);
    let fused = if form.is_fused() { "blocks.N.attn.qkv" } else { "blocks.N.attn.q_proj, k_proj, v_proj" };
    steps.add(
        fused,
        format!("q, k, v: {a} heads of {e} each"),
        &[3, a, t, e],
        3 * d * inner + qkv_bias,
        product(t, d, 3 * inner),
    );
    if config.qk_norm {
        steps.add("blocks.N.attn.q_norm, k_norm", "LayerNorm per head".into(), &[2, a, t, e], 4 * e, 0);
    }
    if config.pos_embed == PosEmbed::RelKeyShared {
        let Bias { what, macs, .. } = relative(config);
        steps.add("blocks.N.attn.rel_pos", what, &[a, t, t], 0, macs);
    } else if config.pos_embed.is_relative() && !config.pos_embed.is_shared() {
        let Bias { what, params, macs } = relative(config);
        steps.add("blocks.N.attn.rel_pos", what, &[a, t, t], params, macs);
    }
    if config.derived.block_table {
        let Bias { what, params, macs } = relative(config);
        steps.add("blocks.N.attn.relative_position_bias_table", what, &[a, t, t], params, macs);
    }
    let relative = config.has_relative_bias();
    let what = if relative { "softmax(q·kᵀ / √E + bias)" } else { "softmax(q·kᵀ / √E)" };
    steps.add("blocks.N.attn.scores", what.into(), &[a, t, t], 0, product(t, inner, t));
    steps.add(
        "blocks.N.attn.context",
        "scores · v, heads side by side".into(),
        &[t, inner],
        0,
        product(t, t, inner),
    );
    if config.scale_attn_norm {
        steps.add("blocks.N.attn.norm", "LayerNorm".into(), &[t, inner], 2 * inner, 0);
    }
    steps.add(
        "blocks.N.attn.proj",
        format!("linear {inner} → {d}"),
        &[t, d],
        inner * d + proj_bias * d,
        product(t, inner, d),
    );
    let scale = |steps: &mut Steps, branch: usize| {
        if config.has_layer_scale() {
            let name = if config.derived.gains_are_vectors { "gamma_" } else { "ls" };
            steps.add(&format!("blocks.N.{name}{branch}"), "gain per channel".into(), &[t, d], d, 0);
        }
    };
    norm(steps, "blocks.N.norm1", NormPlace::Branch);
    scale(steps, 1);
    norm(steps, "blocks.N.norm1", NormPlace::Sum);
    norm(steps, "blocks.N.norm2", NormPlace::Before);
    let MlpConfig { layer, hidden, .. } = config.mlp();
    let f = long(hidden);
    let (name, what, wide) = match layer {
        MlpLayer::Mlp => ("mlp.fc1", format!("linear {d} → {f}"), f),
        MlpLayer::Swiglu => (GATED, format!("product of two linear {d} → {f}"), 2 * f),
        MlpLayer::SwigluPacked => {
            ("mlp.fc1", format!("linear {d} → {}, product of its halves", 2 * f), 2 * f)
        }
    };
    steps.add(&format!("blocks.N.{name}"), what, &[t, f], d * wide + proj_bias * wide, product(t, d, wide));
    if config.scale_mlp_norm {
        steps.add("blocks.N.mlp.norm", "LayerNorm".into(), &[t, f], 2 * f, 0);
    }
    steps.add(
        "blocks.N.mlp.fc2",
        format!("linear {f} → {d}"),
        &[t, d],
        f * d + proj_bias * d,
        product(t, f, d),
    );
    norm(steps, "blocks.N.norm2", NormPlace::Branch);
    scale(steps, 2);
    norm(steps, "blocks.N.norm2", NormPlace::Sum);
}

fn head(config: &VitConfig, t: u64, steps: &mut Steps) {
    let [d, k] = [config.embed_dim, config.num_classes].map(long);
    let [_, f] = config.attn_pool().map(long);
    match config.global_pool {
        GlobalPool::Token => steps.add("pool", "the class token".into(), &[d], 0, 0),
        GlobalPool::Avg => steps.add("pool", "mean over tokens".into(), &[d], 0, 0),
        GlobalPool::Max => steps.add("pool", "maximum over tokens".into(), &[d], 0, 0),
        GlobalPool::Avgmax => steps.add("pool", "half of mean and maximum".into(), &[d], 0, 0),
        GlobalPool::Map => {
            let pooled = if config.pool_include_prefix { t } else { t - long(config.num_prefix_tokens()) };
            let params = d + (d * d + d) + (2 * d * d + 2 * d) + (d * d + d) + 2 * d + (2 * d * f + f + d);
            let macs = product(1, d, d)
                + product(pooled, d, 2 * d)
                + 2 * product(1, d, pooled)
                + product(1, d, d)
                + 2 * product(1, d, f);
            steps.add("attn_pool", "attention with one learned query".into(), &[d], params, macs);
        }
    }
    if config.final_norm && config.use_fc_norm() {
        steps.add("fc_norm", "LayerNorm".into(), &[d], 2 * d, 0);
    }
    let width = config.representation_size.map_or(d, long);
    if config.representation_size.is_some() {
        let what = format!("tanh(linear {d} → {width})");
        steps.add("pre_logits", what, &[width], d * width + width, product(1, d, width));
    }
    if k > 0 {
        steps.add("head", format!("linear {width} → {k}"), &[k], width * k + k, product(1, width, k));
    }
}
