//! Infers a configuration from tensors alone.

use super::Inferred;
use crate::checkpoint::family::maps::{Shapes, assumed_heads};
use crate::checkpoint::fields::mlp_ratio;
use crate::checkpoint::naming::Converted;
use crate::checkpoint::{LoadError, TensorMap};
use crate::models::Config;
use crate::models::vit::{AttnLayer, BlockFn, GlobalPool, MlpLayer, NormLayer, PosEmbed, VitConfig};

/// Infers the configuration of tensors under timm's names.
///
/// Their shapes give sizes, depth, classes and optional parts. They do not give the activation, epsilon, dropout and position
/// resizing: these come from `hint`, else from [`VitConfig::default`]. Some models have tensors that show the number of
/// heads. For others it comes from `hint`, else heads are assumed to be 64 wide.
///
/// # Errors
/// Tensors that do not form a Vision Transformer, or whose sizes contradict each other.
pub fn infer_config(map: &TensorMap, hint: Option<&VitConfig>) -> Result<Inferred<VitConfig>, LoadError> {
    infer_with(map, hint, &Told::default())
}

/// Facts known besides the tensors.
#[derive(Default)]
pub(in crate::checkpoint::family) struct Told {
    /// Number of attention heads.
    pub num_heads: Option<usize>,
    /// Height and width of the images.
    pub img_size: Option<[usize; 2]>,
    /// Additional prefix tokens of a derived family.
    pub more_tokens: usize,
}

impl Told {
    /// The facts from a file, for a family with `more_tokens` additional prefix tokens.
    pub fn of(file: &Converted, more_tokens: usize) -> Self {
        Self { num_heads: file.num_heads, img_size: file.img_size(), more_tokens }
    }
}

/// [`infer_config`] with facts known besides the tensors.
pub(in crate::checkpoint::family) fn infer_with(
    map: &TensorMap,
    hint: Option<&VitConfig>,
    told: &Told,
) -> Result<Inferred<VitConfig>, LoadError> {
    let shapes = Shapes(map);
    let mut config = hint.cloned().unwrap_or_default();
    config.more_tokens = told.more_tokens;
    config.img_size = told.img_size.unwrap_or(config.img_size);
    let mut notes = Vec::new();
    let [width, channels, rows, columns] = shapes.get("patch_embed.proj.weight")?;
    config.embed_dim = width;
    config.in_chans = channels;
    config.patch_size = [rows, columns];
    let keys = BlockKeys::of(map);
    config.block_fn = keys.block_fn;
    config.depth = depth(&shapes, &keys.qkv)?;
    let (hidden, mlp_layer) = mlp(&shapes, &keys, width)?;
    config.mlp_layer = mlp_layer;
    config.mlp_ratio = mlp_ratio(hidden, width);
    let has = |layer: &str| map.contains(&format!("blocks.0.{layer}"));
    let is_differential = has(&format!("{}lambda_q1", keys.attn));
    config.attn_layer =
        if is_differential && !keys.block_fn.is_scaling() { AttnLayer::Diff } else { AttnLayer::Attn };
    config.norm_layer = match has(&format!("{}.weight", keys.norm)) && !has(&format!("{}.bias", keys.norm)) {
        true => NormLayer::RmsNorm,
        false => NormLayer::LayerNorm,
    };
    config.scale_attn_norm = has(&format!("{}norm.weight", keys.attn)) && !keys.block_fn.is_scaling();
    config.scale_mlp_norm = has(&format!("{}norm.weight", keys.mlp)) && !keys.block_fn.is_scaling();
    config.qkv_bias = has(&format!("{}.bias", keys.qkv));
    config.proj_bias = has(&format!("{}.bias", keys.proj));
    config.qk_norm = has(&format!("{}q_norm.weight", keys.attn));
    config.pre_norm = map.contains("norm_pre.weight");
    config.patch_norm = map.contains("patch_embed.norm_pixels.weight");
    config.embed_norm = map.contains("patch_embed.norm.weight");
    config.init_values = match has(&format!("{}.gamma", keys.gain)) {
        true => config.init_values.or(Some(1e-5)),
        false => config.init_values.filter(|_| config.res_post_norm),
    };
    config.class_token = map.contains("cls_token");
    config.reg_tokens = match map.contains("reg_token") {
        true => shapes.get::<3>("reg_token")?[1],
        false => 0,
    };
    config.num_classes = match map.contains("head.weight") {
        true => shapes.get::<2>("head.weight")?[0],
        false => 0,
    };
    config.representation_size = match map.contains("pre_logits.fc.weight") {
        true => Some(shapes.get::<2>("pre_logits.fc.weight")?[0]),
        false => None,
    };
    let [fused, _] = shapes.get(&format!("blocks.0.{}.weight", keys.qkv))?;
    let inner = if keys.block_fn.is_scaling() { fused.saturating_sub(hidden) / 3 } else { fused / 3 };
    config.num_heads = match told.num_heads {
        Some(heads) => heads,
        None => heads(&shapes, &config, &keys, inner, hint, &mut notes)?,
    };
    config.attn_head_dim = head_dim(inner, &config, map)?;
    pooling(&mut config, map, hint);
    positions(&mut config, &shapes, hint.is_some() || told.img_size.is_some(), &mut notes)?;
    config.validate().map_err(|error| LoadError::config(&map.path, error))?;
    Ok(Inferred { config, notes })
}

/// The keys of a block's layers, which depend on its form.
struct BlockKeys {
    block_fn: BlockFn,
    /// The first projection, and the last of attention.
    qkv: String,
    proj: String,
    /// In front of the keys of attention and of the MLP.
    attn: String,
    mlp: String,
    norm: String,
    gain: String,
}

impl BlockKeys {
    fn of(map: &TensorMap) -> Self {
        let new = |block_fn, [qkv, proj, attn, mlp, norm, gain]: [&str; 6]| {
            let [qkv, proj, attn, mlp, norm, gain] = [qkv, proj, attn, mlp, norm, gain].map(str::to_string);
            Self { block_fn, qkv, proj, attn, mlp, norm, gain }
        };
        if map.contains("blocks.0.in_proj.weight") {
            let is_fused = map.contains("blocks.0.out_proj.weight");
            let (block_fn, proj) = match is_fused {
                true => (BlockFn::DiffParallelScalingBlock, "out_proj"),
                false => (BlockFn::ParallelScalingBlock, "attn_out_proj"),
            };
            return new(block_fn, ["in_proj", proj, "", "", "in_norm", "ls"]);
        }
        if map.contains("blocks.0.attns.0.attn.qkv.weight") {
            let keys =
                ["attns.0.attn.qkv", "attns.0.attn.proj", "attns.0.attn.", "ffns.0.mlp.", "attns.0.norm"];
            let [qkv, proj, attn, mlp, norm] = keys;
            return new(BlockFn::ParallelThingsBlock, [qkv, proj, attn, mlp, norm, "attns.0.ls"]);
        }
        new(BlockFn::Block, ["attn.qkv", "attn.proj", "attn.", "mlp.", "norm1", "ls1"])
    }
}

/// Width of the MLP, as timm counts it, and its form.
fn mlp(shapes: &Shapes<'_>, keys: &BlockKeys, width: usize) -> Result<(usize, MlpLayer), LoadError> {
    match keys.block_fn {
        BlockFn::ParallelScalingBlock => {
            let [_, hidden] = shapes.get("blocks.0.mlp_out_proj.weight")?;
            return Ok((hidden, MlpLayer::Mlp));
        }
        BlockFn::DiffParallelScalingBlock => {
            let [_, both] = shapes.get("blocks.0.out_proj.weight")?;
            return Ok((both.saturating_sub(width), MlpLayer::Mlp));
        }
        BlockFn::Block | BlockFn::ParallelThingsBlock => {}
    }
    let name = |layer: &str| format!("blocks.0.{}{layer}.weight", keys.mlp);
    let is_split = shapes.0.contains(&name("fc1_g"));
    let [hidden, _] = shapes.get(&name(if is_split { "fc1_g" } else { "fc1" }))?;
    let is_halved = shapes.0.get(&name("fc2")).is_some_and(|fc2| fc2.shape() == [width, hidden / 2]);
    let layer = match (is_split, is_halved) {
        (true, _) => MlpLayer::Swiglu,
        (false, true) => MlpLayer::SwigluPacked,
        (false, false) => MlpLayer::Mlp,
    };
    Ok((hidden, layer))
}

/// The number of blocks. Block numbers must run from 0 without a gap.
fn depth(shapes: &Shapes<'_>, qkv: &str) -> Result<usize, LoadError> {
    let Shapes(map) = shapes;
    let depth = shapes.count(&format!("blocks.{{}}.{qkv}.weight"), 0);
    let beyond = format!("blocks.{depth}.{qkv}.weight");
    let numbers = map.names().filter_map(|n| n.strip_prefix("blocks.")?.split('.').next()?.parse().ok());
    match numbers.max() {
        Some(last) if usize::saturating_add(last, 1) == depth => Ok(depth),
        _ => Err(LoadError::tensor(&map.path, &beyond, "is missing")),
    }
}

/// Width of a head; `None` if all heads together (`inner`) are as wide as a token.
fn head_dim(inner: usize, config: &VitConfig, map: &TensorMap) -> Result<Option<usize>, LoadError> {
    match config.num_heads {
        _ if inner == config.embed_dim => Ok(None),
        heads if heads > 0 && inner.is_multiple_of(heads) => Ok(Some(inner / heads)),
        heads => {
            let reason = format!("the query width {inner} is not divisible by {heads} heads");
            Err(LoadError::tensor(&map.path, "blocks.0.attn.qkv.weight", reason))
        }
    }
}

/// Number of heads, `inner` wide together: from per-head tensors, else from the hint, else for a head width of 64.
fn heads(
    shapes: &Shapes<'_>,
    config: &VitConfig,
    keys: &BlockKeys,
    inner: usize,
    hint: Option<&VitConfig>,
    notes: &mut Vec<String>,
) -> Result<usize, LoadError> {
    let width = config.embed_dim;
    // With differential attention a head has two queries.
    let queries = if config.has_differential() { 2 } else { 1 };
    for (is_there, layer) in [(config.qk_norm, "q_norm.weight"), (config.has_differential(), "lambda_q1")] {
        if is_there {
            let [head] = shapes.get(&format!("blocks.0.{}{layer}", keys.attn))?;
            return Ok(inner / head / queries);
        }
    }
    if let Some(network) = network(shapes.0, "fc2") {
        return Ok(shapes.get::<2>(&network)?[0]);
    }
    for table in
        ["blocks.0.attn.rel_pos.relative_position_bias_table", "shared_rel_pos.relative_position_bias_table"]
    {
        if shapes.0.contains(table) {
            return Ok(shapes.get::<2>(table)?[1]);
        }
    }
    if let Some(hint) = hint
        && hint.embed_dim == width
    {
        return Ok(hint.num_heads);
    }
    assumed_heads(&shapes.0.path, inner, 64, notes)
}

/// Key of a layer's weight in the MLP that computes relative position biases, if there is one.
fn network(map: &TensorMap, layer: &str) -> Option<String> {
    let keys = ["blocks.0.attn.rel_pos", "shared_rel_pos"].map(|place| format!("{place}.mlp.{layer}.weight"));
    keys.into_iter().find(|key| map.contains(key))
}

/// Sets pooling, and the place of the last norm.
fn pooling(config: &mut VitConfig, map: &TensorMap, hint: Option<&VitConfig>) {
    let fc_norm = map.contains("fc_norm.weight");
    let norm = map.contains("norm.weight");
    config.final_norm = norm || fc_norm;
    if map.contains("attn_pool.latent") {
        config.global_pool = GlobalPool::Map;
    } else if hint.is_none() || (!config.class_token && config.global_pool == GlobalPool::Token) {
        config.global_pool = if fc_norm || !config.class_token { GlobalPool::Avg } else { GlobalPool::Token };
    }
    let by_pool = matches!(config.global_pool, GlobalPool::Avg | GlobalPool::Max | GlobalPool::Avgmax);
    config.fc_norm = match norm || fc_norm {
        true if fc_norm != by_pool => Some(fc_norm),
        _ => None,
    };
}

/// Sets the position encoding, and the image size that it implies.
fn positions(
    config: &mut VitConfig,
    shapes: &Shapes<'_>,
    hinted: bool,
    notes: &mut Vec<String>,
) -> Result<(), LoadError> {
    let map = shapes.0;
    let patch = config.patch_size;
    if map.contains("pos_embed_x") {
        config.pos_embed = PosEmbed::Learn2d;
        let [_, columns, _] = shapes.get("pos_embed_x")?;
        let [_, rows, _] = shapes.get("pos_embed_y")?;
        config.img_size = image(map, [rows, columns], patch)?;
    } else if map.contains("pos_embed") {
        config.pos_embed = PosEmbed::Learn;
        let [_, rows, _] = shapes.get("pos_embed")?;
        let prefix = config.num_prefix_tokens();
        let grid = if hinted { Some(config.grid()).filter(|[h, w]| h * w > 0) } else { None };
        let (prefix_rows, grid) = split_rows(rows, prefix, grid).ok_or_else(|| {
            LoadError::tensor(
                &map.path,
                "pos_embed",
                format!("{rows} rows are not a square grid plus 0 or {prefix} prefix tokens"),
            )
        })?;
        config.no_embed_class = prefix > 0 && prefix_rows == 0;
        config.img_size = image(map, grid, patch)?;
    } else if let Some((kind, key)) = key_table(map) {
        config.pos_embed = kind;
        let [rows, _] = shapes.get(key)?;
        let prefix = config.num_prefix_tokens();
        let known = if hinted { Some(config.grid()).filter(|[h, w]| h * w > 0) } else { None };
        let tokens = rows.div_ceil(2);
        let grid = split_rows(tokens, prefix, known).filter(|&(in_front, _)| in_front == prefix);
        let (_, grid) = grid.ok_or_else(|| {
            let reason = format!("{tokens} tokens are not a square grid plus {prefix} prefix tokens");
            LoadError::tensor(&map.path, key, reason)
        })?;
        config.img_size = image(map, grid, patch)?;
    } else {
        position_without_table(config, map);
        let convolutions = shapes.count("pos_block.{}.proj.0.weight", 0);
        if convolutions > 0 && config.cpe_blocks.len() != convolutions {
            config.cpe_blocks = (0..convolutions).collect();
            notes.push(format!(
                "the tensors do not show which blocks the positions follow (cpe_blocks); the first {convolutions} are assumed"
            ));
        }
        if let Some(network) = network(map, "fc1") {
            let [width, _] = shapes.get(&network)?;
            config.pos_embed =
                if network.starts_with("blocks") { PosEmbed::RelMlp } else { PosEmbed::RelMlpShared };
            config.rel_pos_dim = (width != VitConfig::default().rel_pos_dim()).then_some(width);
            if !hinted && config.init_values.is_none() {
                notes.push(
                    "the tensors do not show whether norms are before the branches of a block or at their end \
                     (res_post_norm); before is assumed"
                        .into(),
                );
            }
        }
        if config.pos_embed == PosEmbed::None && !hinted {
            notes.push(
                "no positions in the tensors, so none are assumed; rotary positions need the model's name or configuration"
                    .into(),
            );
        }
        let multiple = |side: usize, patch: usize| (side / patch.max(1)).max(1).saturating_mul(patch);
        config.img_size = [multiple(config.img_size[0], patch[0]), multiple(config.img_size[1], patch[1])];
        notes.push(format!("the image size is not in the tensors; {:?} is assumed", config.img_size));
    }
    Ok(())
}

fn image(map: &TensorMap, grid: [usize; 2], patch: [usize; 2]) -> Result<[usize; 2], LoadError> {
    let side = |axis: usize| grid[axis].checked_mul(patch[axis]);
    side(0)
        .zip(side(1))
        .map(|(height, width)| [height, width])
        .ok_or_else(|| LoadError::tensor(&map.path, "pos_embed", "the image size overflows"))
}

/// The encoding with keys of offsets, and the name of its first table.
fn key_table(map: &TensorMap) -> Option<(PosEmbed, &'static str)> {
    let tables = [
        (PosEmbed::RelKey, "blocks.0.attn.rel_pos.relative_key_table"),
        (PosEmbed::RelKeyShared, "shared_rel_pos.relative_key_table"),
    ];
    tables.into_iter().find(|(_, key)| map.contains(key))
}

/// Sets a position encoding without a `pos_embed` table.
fn position_without_table(config: &mut VitConfig, map: &TensorMap) {
    if map.contains("blocks.0.attn.rel_pos.relative_position_bias_table") {
        config.pos_embed = PosEmbed::RelBias;
    } else if map.contains("shared_rel_pos.relative_position_bias_table") {
        config.pos_embed = PosEmbed::RelBiasShared;
    } else if map.contains("pos_block.0.proj.0.weight") {
        config.pos_embed = PosEmbed::Cpe;
    } else if matches!(config.pos_embed, PosEmbed::Learn | PosEmbed::Learn2d | PosEmbed::Cpe)
        || config.pos_embed.is_relative()
    {
        config.pos_embed = PosEmbed::None;
    }
}

/// Splits a position table of `rows` rows into prefix rows and a grid, for a model with `prefix` prefix tokens.
///
/// A known grid is used if it fits; else the grid is square.
pub(crate) fn split_rows(
    rows: usize,
    prefix: usize,
    grid: Option<[usize; 2]>,
) -> Option<(usize, [usize; 2])> {
    if let Some(grid) = grid {
        let patches = grid[0].checked_mul(grid[1])?;
        for in_front in [prefix, 0] {
            if patches.checked_add(in_front) == Some(rows) {
                return Some((in_front, grid));
            }
        }
    }
    [prefix, 0].into_iter().find_map(|in_front| {
        let patches = rows.checked_sub(in_front).filter(|&n| n > 0)?;
        let side = patches.isqrt();
        (side * side == patches).then_some((in_front, [side, side]))
    })
}
