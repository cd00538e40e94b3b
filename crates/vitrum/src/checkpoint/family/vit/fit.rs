//! Fits tensors of one Vision Transformer to another: grid, pooling, channels.

use super::convert::norm_to_fc_norm;
use crate::checkpoint::convert::adapt_channels;
use crate::checkpoint::report::{Adaptation, Report, ShapeChange};
use crate::checkpoint::resample::{resize_patch_embed, resize_pos_embed};
use crate::checkpoint::{HostTensor, TensorMap};
use crate::layers::position::{PosEmbed, PosResize};
use crate::layers::resample::resample_offsets;
use crate::models::limits::MAX_SIDE;
use crate::models::vit::VitConfig;

/// Fits tensors of the model `of` to `config`, and reports the changes.
pub(super) fn fit(config: &VitConfig, tensors: &mut TensorMap, of: Option<&VitConfig>, report: &mut Report) {
    resize_positions(config, tensors, of.map(VitConfig::grid), report);
    // With a norm over its pixels, the projection of a patch cannot be resized.
    let of_patches = of.filter(|_| !config.patch_norm);
    report
        .resized
        .extend(of_patches.and_then(|of| resize_patches(tensors, of.patch_size, config.patch_size)));
    report.adapted.extend(move_norm(config, tensors));
    report.adapted.extend(of.and_then(|of| change_channels(config, tensors, of.in_chans)));
}

const PROJECTION: &str = "patch_embed.proj.weight";

/// Resizes the patch projection from patches of `old` pixels to patches of `new`, as timm's `resample_patch_embed` does. A
/// tensor of another size stays unchanged.
pub(in crate::checkpoint::family) fn resize_patches(
    tensors: &mut TensorMap,
    old: [usize; 2],
    new: [usize; 2],
) -> Option<ShapeChange> {
    let kernel = tensors.get(PROJECTION).filter(|kernel| kernel.shape().get(2..) == Some(&old[..]))?;
    if old == new {
        return None;
    }
    let found = kernel.shape().to_vec();
    let resized = resize_patch_embed(kernel, new, PosResize::BicubicAntialias).ok()?;
    let expected = resized.shape().to_vec();
    tensors.tensors.insert(PROJECTION.into(), resized);
    Some(ShapeChange { key: PROJECTION.into(), found, expected })
}

/// Turns the norm of a token-pooling file into the norm after pooling, if the model has that norm.
fn move_norm(config: &VitConfig, tensors: &mut TensorMap) -> Vec<Adaptation> {
    let has_one = config.final_norm && config.use_fc_norm() && !config.has_norm();
    let foreign = has_one && !tensors.contains("fc_norm.weight");
    let moved = if foreign { norm_to_fc_norm(&mut tensors.tensors) } else { Vec::new() };
    let adaptation = |(source, key): (String, String)| {
        let shape = tensors.get(&key).map(|tensor| tensor.shape().to_vec()).unwrap_or_default();
        Adaptation { key, source, found: shape.clone(), expected: shape }
    };
    moved.into_iter().map(adaptation).collect()
}

/// Adapts the patch projection from `old` channels to the model's. A tensor without `old` channels stays unchanged, and
/// is reported as mismatched.
fn change_channels(config: &VitConfig, tensors: &mut TensorMap, old: usize) -> Option<Adaptation> {
    let kernel = tensors.get(PROJECTION).filter(|kernel| kernel.shape().get(1) == Some(&old))?;
    if old == config.in_chans {
        return None;
    }
    let found = kernel.shape().to_vec();
    let adapted = adapt_channels(kernel, config.in_chans).ok()?;
    let expected = adapted.shape().to_vec();
    tensors.tensors.insert(PROJECTION.into(), adapted);
    Some(Adaptation { key: PROJECTION.into(), source: PROJECTION.into(), found, expected })
}

/// Resizes learned position tables of another grid to the model's grid.
fn resize_positions(
    config: &VitConfig,
    tensors: &mut TensorMap,
    source_grid: Option<[usize; 2]>,
    report: &mut Report,
) {
    let prefix = config.prefix_rows();
    let grid = config.grid();
    let mut put = |tensors: &mut TensorMap, key: &str, table: HostTensor| {
        let Some(old) = tensors.tensors.insert(key.into(), table) else { return };
        let expected = tensors.get(key).map(|t| t.shape().to_vec()).unwrap_or_default();
        report.resized.push(ShapeChange { key: key.into(), found: old.shape().to_vec(), expected });
    };
    // A table that cannot be resized stays unchanged, and is reported as mismatched.
    let resize = |table: &HostTensor, old, new, prefix| {
        let exact = host(table.shape(), &table.to_f64());
        resize_pos_embed(&exact, old, new, prefix, config.pos_resize).ok()
    };
    if config.pos_embed == PosEmbed::Learn
        && let Some(table) = tensors.get("pos_embed")
        && let [1, rows, width] = *table.shape()
        && width == config.embed_dim
        && rows > prefix
        && let Some(old) = grid_of(rows - prefix, [source_grid, Some(grid)])
        && old != grid
        && old.iter().all(|&side| side <= MAX_SIDE)
        && let Some(resized) = resize(table, old, grid, prefix)
    {
        put(tensors, "pos_embed", resized);
    }
    if config.pos_embed == PosEmbed::Learn2d {
        let half = config.embed_dim / 2;
        let axes = [("pos_embed_x", grid[1], half), ("pos_embed_y", grid[0], config.embed_dim - half)];
        for (key, side, dim) in axes {
            if let Some(table) = tensors.get(key)
                && let [1, rows, width] = *table.shape()
                && width == dim
                && rows != side
                && rows <= MAX_SIDE
                && let Some(resized) = resize(table, [rows, 1], [side, 1], 0)
            {
                put(tensors, key, resized);
            }
        }
    }
    let tokens = config.num_prefix_tokens() + grid[0] * grid[1];
    let keys: Vec<String> =
        tensors.names().filter(|key| key.ends_with("relative_key_table")).map(str::to_string).collect();
    for key in keys.into_iter().filter(|_| config.pos_embed.is_key()) {
        if let Some(table) = tensors.get(&key)
            && let [rows, width] = *table.shape()
            && width == config.num_heads * config.head_dim()
            && rows % 2 == 1
            && rows != 2 * tokens - 1
        {
            let offsets = clipped_offsets(&table.to_f64(), width, tokens);
            put(tensors, &key, host(&[2 * tokens - 1, width], &offsets));
        }
    }
    let extra = if config.num_prefix_tokens() > 0 { 3 } else { 0 };
    let biases: Vec<String> = tensors
        .names()
        .filter(|key| key.ends_with("relative_position_bias_table"))
        .map(str::to_string)
        .collect();
    for key in biases {
        if let Some(table) = tensors.get(&key)
            && let [rows, heads] = *table.shape()
            && heads == config.num_heads
            && rows > extra
            // Without a named grid, offsets of a square come first even if the model has as many: timm's order.
            && let Some(old) = grid_of(rows - extra, [source_grid.map(offsets_of), None])
            && old != offsets_of(grid)
            && old.iter().all(|&side| side % 2 == 1 && side < 2 * MAX_SIDE)
        {
            let values = table.to_f64();
            let (offsets, rest) = values.split_at((rows - extra) * heads);
            let new = offsets_of(grid);
            let mut resized = resample_offsets(offsets, heads, old, new, config.bias_resize());
            resized.extend(rest);
            let rows = resized.len() / heads;
            put(tensors, &key, host(&[rows, heads], &resized));
        }
    }
}

/// Keys of offsets `[rows, width]` for sequences of `tokens`: those of the offsets that occur. Offsets that the table does
/// not reach get the key of its end, as in a forward pass.
fn clipped_offsets(table: &[f64], width: usize, tokens: usize) -> Vec<f64> {
    let keys: Vec<&[f64]> = table.chunks_exact(width.max(1)).collect();
    let (middle, most) = ((keys.len() / 2) as i64, tokens as i64 - 1);
    let row = |offset: i64| keys[(middle + offset).clamp(0, 2 * middle) as usize];
    (-most..=most).flat_map(row).copied().collect()
}

fn host(shape: &[usize], values: &[f64]) -> HostTensor {
    HostTensor::from_f64(shape.to_vec(), values).expect("the values were made to fill the shape")
}

/// Offsets between the rows and between the columns of a grid.
fn offsets_of(grid: [usize; 2]) -> [usize; 2] {
    grid.map(|side| 2 * side - 1)
}

/// The grid of a table with `n` rows: the first of `named` that has `n` cells, else a square.
fn grid_of(n: usize, named: [Option<[usize; 2]>; 2]) -> Option<[usize; 2]> {
    let named = named.into_iter().flatten().find(|[h, w]| h.checked_mul(*w) == Some(n));
    let side = n.isqrt();
    named.or_else(|| (side * side == n).then_some([side, side]))
}
