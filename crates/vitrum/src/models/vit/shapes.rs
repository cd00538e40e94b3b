//! The walk of the plain ViT.

use super::{BlockFn, Derived, GlobalPool, MlpLayer, PosEmbed, VitConfig};
use crate::layers::block::NormPlace;
use crate::layers::mlp::MlpConfig;
use crate::layers::parallel::ParallelThingsBlock;
use crate::layers::rope::RopeType;
use crate::models::ConfigError;
use crate::models::network::Config;
use crate::models::shapes::{GATED, Step, Steps, Walk, held_by_block, long, product, unread};

/// From image to logits.
pub(super) fn walk(config: &VitConfig) -> Result<Walk, ConfigError> {
    config.validate()?;
    let mut steps = encoder_steps(config, None);
    head(config, num_tokens(config), &mut steps);
    let unread = unread_behind(config, &steps.0, 1);
    Ok(Walk::new(steps.0, unread, held(config)))
}

/// From the image to the norm after the blocks. With `seen`, the blocks get so many patches and the prefix.
pub(crate) fn encoder_steps(config: &VitConfig, seen: Option<usize>) -> Steps {
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
        let what = format!("{} of each patch", config.norm_layer.name());
        let params = long(config.norm_layer.vectors()) * patch;
        steps.add("patch_embed.norm_pixels", what, &[n, patch], params, 0);
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
        add_norm(config, &mut steps, "patch_embed.norm", n, config.embed_dim);
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
        add_norm(config, &mut steps, "norm_pre", t, config.embed_dim);
    }
    let t = seen.map_or(t, |seen| long(seen + config.num_prefix_tokens()));
    if let Some(seen) = seen {
        steps.add("seen", format!("{seen} of {n} patches, the others masked"), &[t, d], 0, 0);
    }
    blocks(config, t, &mut steps);
    if config.pos_embed == PosEmbed::Cpe {
        for (place, block) in config.cpe_blocks.iter().enumerate() {
            let what = format!("3 × 3 depthwise on the grid, after block {block}");
            steps.add(&format!("pos_block.{place}"), what, &[t, d], 9 * d + d, product(n, 9, d));
        }
    }
    if config.has_norm() {
        add_norm(config, &mut steps, "norm", t, config.embed_dim);
    }
    steps
}

/// Pixels, and the values of one block at a time.
pub(crate) fn held(config: &VitConfig) -> u64 {
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

/// The steps of all blocks; a step that all of them have stands once.
fn blocks(config: &VitConfig, t: u64, steps: &mut Steps) {
    let before = steps.0.len();
    match config.block_fn {
        BlockFn::Block => {
            let norm = |steps: &mut Steps, name: &str, here: NormPlace| {
                if config.norms() == here {
                    add_norm(config, steps, &format!("blocks.N.{name}"), t, config.embed_dim);
                }
            };
            norm(steps, "norm1", NormPlace::Before);
            attention(config, "blocks.N.attn", t, steps);
            norm(steps, "norm1", NormPlace::Branch);
            gain(config, 1, t, steps);
            norm(steps, "norm1", NormPlace::Sum);
            norm(steps, "norm2", NormPlace::Before);
            mlp(config, "blocks.N.mlp", t, steps);
            norm(steps, "norm2", NormPlace::Branch);
            gain(config, 2, t, steps);
            norm(steps, "norm2", NormPlace::Sum);
        }
        BlockFn::ParallelScalingBlock | BlockFn::DiffParallelScalingBlock => scaling(config, t, steps),
        BlockFn::ParallelThingsBlock => things(config, t, steps),
    }
    // Blocks differ in their heads of keys and values alone.
    let counts = kv_heads(config);
    let mut counts = counts.iter().map(|(_, count)| *count).cycle();
    for step in &mut steps.0[before..] {
        let next = if step.name.ends_with(QKV_SEPARATE) { counts.next() } else { None };
        step.repeat = next.unwrap_or(config.depth);
    }
}

fn add_norm(config: &VitConfig, steps: &mut Steps, name: &str, t: u64, width: usize) {
    let (norm, width) = (config.norm_layer, long(width));
    steps.add(name, norm.name().into(), &[t, width], long(norm.vectors()) * width, 0);
}

/// The attention of a block under `name`, with both projections.
fn attention(config: &VitConfig, name: &str, t: u64, steps: &mut Steps) {
    let [d, a, e] = [config.embed_dim, config.num_heads, config.head_dim()].map(long);
    let inner = a * e;
    let form = config.derived.qkv;
    let fused = if form.is_fused() { "qkv" } else { QKV_SEPARATE };
    for (heads, _) in kv_heads(config) {
        let kv = long(heads) * e;
        let key_bias = if form.has_key_bias() { kv } else { 0 };
        let bias = if config.qkv_bias { inner + key_bias + kv } else { 0 };
        let what = match heads == config.num_heads {
            true => format!("q, k, v: {a} heads of {e} each"),
            false => format!("q: {a} heads of {e}; k, v: {heads} heads each, for groups of queries"),
        };
        let width = inner + 2 * kv;
        steps.add(&format!("{name}.{fused}"), what, &[3, a, t, e], d * width + bias, product(t, d, width));
    }
    scores(config, name, t, steps);
    if config.scale_attn_norm {
        add_norm(config, steps, &format!("{name}.norm"), t, config.num_heads * config.head_dim());
    }
    let bias = if config.proj_bias { d } else { 0 };
    let what = format!("linear {inner} → {d}");
    steps.add(&format!("{name}.proj"), what, &[t, d], inner * d + bias, product(t, inner, d));
}

/// The layer of three products; blocks with other numbers of heads have a step each.
const QKV_SEPARATE: &str = "q_proj, k_proj, v_proj";

/// The numbers of heads of keys and values, each with the number of blocks that have it.
fn kv_heads(config: &VitConfig) -> Vec<(usize, usize)> {
    let mut counts: Vec<(usize, usize)> = Vec::new();
    for heads in (0..config.depth).map(|index| config.kv_heads(index)) {
        match counts.iter_mut().find(|(known, _)| *known == heads) {
            Some((_, count)) => *count += 1,
            None => counts.push((heads, 1)),
        }
    }
    counts
}

/// Attention between its projections.
fn scores(config: &VitConfig, name: &str, t: u64, steps: &mut Steps) {
    let [a, e] = [config.num_heads, config.head_dim()].map(long);
    let inner = a * e;
    let two = config.has_differential();
    let (maps, width) = if two { (2 * a, e / 2) } else { (a, e) };
    if config.qk_norm {
        let norm = config.norm_layer;
        let what = format!("{} per head", norm.name());
        let params = 2 * long(norm.vectors()) * width;
        steps.add(&format!("{name}.q_norm, k_norm"), what, &[2, maps, t, width], params, 0);
    }
    if config.pos_embed == PosEmbed::RelKeyShared {
        let Bias { what, macs, .. } = relative(config);
        steps.add(&format!("{name}.rel_pos"), what, &[a, t, t], 0, macs);
    } else if config.pos_embed.is_relative() && !config.pos_embed.is_shared() {
        let Bias { what, params, macs } = relative(config);
        steps.add(&format!("{name}.rel_pos"), what, &[a, t, t], params, macs);
    }
    if config.derived.block_table {
        let Bias { what, params, macs } = relative(config);
        steps.add(&format!("{name}.relative_position_bias_table"), what, &[a, t, t], params, macs);
    }
    let what =
        if config.has_relative_bias() { "softmax(q·kᵀ / √E + bias)" } else { "softmax(q·kᵀ / √E)" };
    steps.add(&format!("{name}.scores"), what.into(), &[maps, t, t], 0, product(t, inner, t));
    if two {
        let what = "λ, the weight of every second map".into();
        steps.add(&format!("{name}.lambda_q1, k1, q2, k2"), what, &[1], 4 * width, 0);
    }
    let what = if two {
        "(scores₁ - λ scores₂) · v, heads side by side"
    } else {
        "scores · v, heads side by side"
    };
    steps.add(&format!("{name}.context"), what.into(), &[t, inner], 0, product(t, t, inner));
    if two {
        steps.add(&format!("{name}.sub_norm"), "RMSNorm per head".into(), &[t, inner], e, 0);
    }
}

fn gain(config: &VitConfig, branch: usize, t: u64, steps: &mut Steps) {
    let (d, derived) = (long(config.embed_dim), &config.derived);
    if config.has_layer_scale() && !(branch == 2 && derived.gain_on_attention_only) {
        let name = if derived.gains_are_vectors { "gamma_" } else { "ls" };
        steps.add(&format!("blocks.N.{name}{branch}"), "gain per channel".into(), &[t, d], d, 0);
    }
}

/// The MLP of a block under `name`.
fn mlp(config: &VitConfig, name: &str, t: u64, steps: &mut Steps) {
    let MlpConfig { layer, hidden, .. } = config.mlp();
    let [d, f] = [config.embed_dim, hidden].map(long);
    let bias = u64::from(config.proj_bias);
    let (fc1, what, wide) = match layer {
        MlpLayer::Mlp => ("fc1", format!("linear {d} → {f}"), f),
        MlpLayer::Swiglu => (GATED, format!("product of two linear {d} → {f}"), 2 * f),
        MlpLayer::SwigluPacked => ("fc1", format!("linear {d} → {}, product of its halves", 2 * f), 2 * f),
    };
    steps.add(&format!("{name}.{fc1}"), what, &[t, f], d * wide + bias * wide, product(t, d, wide));
    if config.scale_mlp_norm {
        add_norm(config, steps, &format!("{name}.norm"), t, hidden);
    }
    steps.add(
        &format!("{name}.fc2"),
        format!("linear {f} → {d}"),
        &[t, d],
        f * d + bias * d,
        product(t, f, d),
    );
}

/// Attention beside the MLP.
fn scaling(config: &VitConfig, t: u64, steps: &mut Steps) {
    let [d, a, e, f] = [config.embed_dim, config.num_heads, config.head_dim(), config.mlp().hidden].map(long);
    let inner = a * e;
    let bias = if config.proj_bias { d } else { 0 };
    let linear = |steps: &mut Steps, name: &str, d_in: u64| {
        let what = format!("linear {d_in} → {d}");
        steps.add(&format!("blocks.N.{name}"), what, &[t, d], d_in * d + bias, product(t, d_in, d));
    };
    add_norm(config, steps, "blocks.N.in_norm", t, config.embed_dim);
    let width = f + 3 * inner;
    // Without a bias of this projection, the hidden layer has one of its own.
    let in_bias = if config.qkv_bias { width } else { f };
    let what = format!("hidden layer of {f}; q, k, v: {a} heads of {e} each");
    steps.add("blocks.N.in_proj", what, &[t, width], d * width + in_bias, product(t, d, width));
    scores(config, "blocks.N.attn", t, steps);
    match config.block_fn {
        BlockFn::DiffParallelScalingBlock => linear(steps, "out_proj", inner + f),
        _ => {
            linear(steps, "attn_out_proj", inner);
            linear(steps, "mlp_out_proj", f);
        }
    }
    if config.has_layer_scale() {
        steps.add("blocks.N.ls", "gain per channel".into(), &[t, d], d, 0);
    }
}

/// Two attentions, then two MLPs.
fn things(config: &VitConfig, t: u64, steps: &mut Steps) {
    let d = config.embed_dim;
    for (list, layer) in [("attns", "attn"), ("ffns", "mlp")] {
        for branch in 0..ParallelThingsBlock::PARALLEL {
            let name = format!("blocks.N.{list}.{branch}");
            add_norm(config, steps, &format!("{name}.norm"), t, d);
            match layer {
                "attn" => attention(config, &format!("{name}.attn"), t, steps),
                _ => mlp(config, &format!("{name}.mlp"), t, steps),
            }
            if config.has_layer_scale() {
                steps.add(&format!("{name}.ls"), "gain per channel".into(), &[t, long(d)], long(d), 0);
            }
        }
    }
}

fn head(config: &VitConfig, t: u64, steps: &mut Steps) {
    let [d, k] = [config.embed_dim, config.num_classes].map(long);
    let f = long(config.attn_pool().hidden);
    match config.global_pool {
        GlobalPool::Token => steps.add("pool", "the class token".into(), &[d], 0, 0),
        GlobalPool::Avg => steps.add("pool", "mean over tokens".into(), &[d], 0, 0),
        GlobalPool::Max => steps.add("pool", "maximum over tokens".into(), &[d], 0, 0),
        GlobalPool::Avgmax => steps.add("pool", "half of mean and maximum".into(), &[d], 0, 0),
        GlobalPool::Map => {
            let pooled = if config.pool_include_prefix { t } else { t - long(config.num_prefix_tokens()) };
            let norm = long(config.norm_layer.vectors()) * d;
            let params = d + (d * d + d) + (2 * d * d + 2 * d) + (d * d + d) + norm + (2 * d * f + f + d);
            let macs = product(1, d, d)
                + product(pooled, d, 2 * d)
                + 2 * product(1, d, pooled)
                + product(1, d, d)
                + 2 * product(1, d, f);
            steps.add("attn_pool", "attention with one learned query".into(), &[d], params, macs);
        }
    }
    if config.final_norm && config.use_fc_norm() {
        let norm = config.norm_layer;
        steps.add("fc_norm", norm.name().into(), &[d], long(norm.vectors()) * d, 0);
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
