//! Resizing position tables to another grid.
//!
//! Every method is linear and separable: two small matrices, one per axis. This file computes them in f64. They
//! serve checkpoints that are being loaded, images of another size, and patch kernels of another size. Sources:
//! PyTorch's `upsample` kernels, `scipy.ndimage.zoom`.

use serde::{Deserialize, Serialize};

/// How a position table is resized to another grid. Results of the methods differ by 9 % to 40 % of the largest
/// value, so each card names its method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PosResize {
    /// Bicubic with antialiasing: timm. For tables of relative positions see [`resample_offsets`].
    #[default]
    BicubicAntialias,
    /// Bicubic without antialiasing: DeiT, MAE, torchvision, Hugging Face.
    Bicubic,
    /// Bicubic with the scale factor `(new + 0.1) / old`: DINO, DINOv2.
    BicubicDino,
    /// Bilinear, half-pixel centres: timm's npz loader, SETR.
    Bilinear,
    /// Bilinear with aligned corners (`scipy.ndimage.zoom`, order 1): Google's vision_transformer.
    BilinearAligned,
    /// Nearest neighbour.
    Nearest,
}

/// The matrix `[new, old]` (row-major) that resamples one axis of `old` samples, at least one, to `new`.
pub fn axis_weights(old: usize, new: usize, method: PosResize) -> Vec<f64> {
    dense(old, axis_taps(old, new, method))
}

/// For each new sample the old samples that make it up, each with its weight.
type Taps = Vec<Vec<(usize, f64)>>;

fn axis_taps(old: usize, new: usize, method: PosResize) -> Taps {
    (0..new).map(|i| taps(i, old, new, method)).collect()
}

/// The same as a matrix `[new, old]`.
fn dense(old: usize, taps: Taps) -> Vec<f64> {
    let mut weights = vec![0.0; taps.len() * old];
    for (row, taps) in weights.chunks_exact_mut(old).zip(taps) {
        taps.into_iter().for_each(|(j, weight)| row[j] += weight);
    }
    weights
}

/// Resamples a table `[old_h * old_w, dim]` to `[new_h * new_w, dim]`, both row by row.
///
/// # Panics
/// If the table's length is not `old_h * old_w * dim`.
pub fn resample_grid(
    table: &[f64],
    dim: usize,
    old: [usize; 2],
    new: [usize; 2],
    method: PosResize,
) -> Vec<f64> {
    multiply(table, dim, old, new, |old, new| axis_taps(old, new, method))
}

/// Resamples the offsets of a relative bias, `[old_h * old_w, A]` to `[new_h * new_w, A]`; sides are `2 * patches - 1`.
///
/// # Panics
/// If the table's length is not `old_h * old_w * heads`, or a side of the old grid is even.
pub fn resample_offsets(
    table: &[f64],
    heads: usize,
    old: [usize; 2],
    new: [usize; 2],
    method: PosResize,
) -> Vec<f64> {
    multiply(table, heads, old, new, |old, new| offset_taps(old, new, method))
}

/// The matrix `[new, old]` (row-major) that resamples one axis of a relative bias; both lengths are odd.
///
/// [`PosResize::BicubicAntialias`] means timm's method for such tables (from BEiT: `resize_rel_pos_bias_table`,
/// without SciPy). It spreads the old offsets over the new ones in a geometric progression, dense near zero, and
/// interpolates linearly between them. Every other method treats the offsets as a grid; `Bicubic` is timm's
/// `resize_rel_pos_bias_table_simple`.
///
/// # Panics
/// If `old` is even.
pub fn offset_weights(old: usize, new: usize, method: PosResize) -> Vec<f64> {
    dense(old, offset_taps(old, new, method))
}

fn offset_taps(old: usize, new: usize, method: PosResize) -> Taps {
    assert!(old % 2 == 1, "{old} offsets: there is one of 0 and as many on both sides");
    if method != PosResize::BicubicAntialias {
        return axis_taps(old, new, method);
    }
    let places = geometric_places(old, new);
    let of_sample = |i: usize| {
        let at = i as f64 - (new / 2) as f64;
        let right = places.partition_point(|place| *place < at).min(old - 1);
        let left = right.saturating_sub(1);
        let (before, after) = ((at - places[left]).max(0.0), (places[right] - at).max(0.0));
        match before + after {
            0.0 => vec![(right, 1.0)],
            whole => vec![(left, after / whole), (right, before / whole)],
        }
    };
    (0..new).map(of_sample).collect()
}

/// Places of `old` offsets among `new` ones: 0, ±1, ±(1 + q), ±(1 + q + q²), …. The ratio q lies between 1.01 and
/// 1.5, and the last place is `new / 2`. Bisection finds q to within 1e-6, as in timm.
fn geometric_places(old: usize, new: usize) -> Vec<f64> {
    let (arm, reach) = (old / 2, (new / 2) as f64);
    let (mut low, mut high, mut q) = (1.01_f64, 1.5_f64, 1.01_f64);
    while high - low > 1e-6 {
        q = (low + high) / 2.0;
        let end = (1.0 - q.powi(arm as i32)) / (1.0 - q);
        if end > reach { high = q } else { low = q }
    }
    let mut places = vec![0.0; old];
    let mut place = 1.0;
    for step in 1..=arm {
        places[arm + step] = place;
        places[arm - step] = -place;
        place += q.powi(step as i32);
    }
    places
}

/// Resamples both axes of a table with the taps from `taps(old, new)`. The table between the axes is no larger than the
/// larger one of the other two.
fn multiply(
    table: &[f64],
    dim: usize,
    old: [usize; 2],
    new: [usize; 2],
    taps: impl Fn(usize, usize) -> Taps,
) -> Vec<f64> {
    assert_eq!(table.len(), old[0] * old[1] * dim, "table of {old:?} rows of {dim}");
    let (rows, columns) = (taps(old[0], new[0]), taps(old[1], new[1]));
    if old[0] * new[1] <= new[0] * old[1] {
        let wide = along(table, [old[0], old[1], dim], &columns); // [old_h, new_w, D]
        along(&wide, [1, old[0], new[1] * dim], &rows)
    } else {
        let tall = along(table, [1, old[0], old[1] * dim], &rows); // [new_h, old_w, D]
        along(&tall, [new[0], old[1], dim], &columns)
    }
}

/// Resamples the middle axis of `[outer, old, inner]`.
fn along(values: &[f64], [outer, old, inner]: [usize; 3], taps: &Taps) -> Vec<f64> {
    let new = taps.len();
    let mut result = vec![0.0; outer * new * inner];
    for block in 0..outer {
        for (i, taps) in taps.iter().enumerate() {
            let out = &mut result[(block * new + i) * inner..][..inner];
            for &(j, weight) in taps.iter().filter(|(_, weight)| *weight != 0.0) {
                let input = &values[(block * old + j) * inner..][..inner];
                out.iter_mut().zip(input).for_each(|(o, v)| *o += weight * v);
            }
        }
    }
    result
}

/// The old samples that make up new sample `i`, each with its weight.
fn taps(i: usize, old: usize, new: usize, method: PosResize) -> Vec<(usize, f64)> {
    let ratio = old as f64 / new as f64;
    let centre = i as f64 + 0.5;
    match method {
        PosResize::BicubicAntialias => antialiased(centre * ratio, ratio, old),
        PosResize::Bicubic => cubic(centre * ratio - 0.5, old),
        // interpolate(scale_factor = (new + 0.1) / old) divides by that factor.
        PosResize::BicubicDino => cubic(centre * (1.0 / ((new as f64 + 0.1) / old as f64)) - 0.5, old),
        PosResize::Bilinear => linear((centre * ratio - 0.5).max(0.0), old),
        PosResize::BilinearAligned if new > 1 => {
            linear(i as f64 * ((old - 1) as f64 / (new - 1) as f64), old)
        }
        PosResize::BilinearAligned => linear(0.0, old),
        // PyTorch computes this index in single precision.
        PosResize::Nearest => {
            vec![(((i as f32 * (old as f32 / new as f32)) as usize).min(old - 1), 1.0)]
        }
    }
}

/// The two neighbours of a non-negative position.
fn linear(at: f64, old: usize) -> Vec<(usize, f64)> {
    let first = (at.floor() as usize).min(old - 1);
    let share = at - first as f64;
    vec![(first, 1.0 - share), ((first + 1).min(old - 1), share)]
}

/// Keys' cubic with a = -0.75 and repeated borders, as in PyTorch without antialiasing.
fn cubic(at: f64, old: usize) -> Vec<(usize, f64)> {
    let first = at.floor();
    (-1..=2)
        .map(|offset| {
            let j = first + f64::from(offset);
            (j.clamp(0.0, old as f64 - 1.0) as usize, keys(at - j, -0.75))
        })
        .collect()
}

/// Keys' cubic with a = -0.5, widened when shrinking and normalised, as in Pillow and PyTorch with antialiasing.
fn antialiased(centre: f64, ratio: f64, old: usize) -> Vec<(usize, f64)> {
    let widen = ratio.max(1.0);
    let support = 2.0 * widen;
    let from = (centre - support + 0.5).max(0.0) as usize;
    let to = ((centre + support + 0.5) as usize).min(old);
    let mut taps: Vec<(usize, f64)> =
        (from..to).map(|j| (j, keys((j as f64 - centre + 0.5) / widen, -0.5))).collect();
    let total: f64 = taps.iter().map(|(_, weight)| weight).sum();
    taps.iter_mut().for_each(|(_, weight)| *weight /= total);
    taps
}

/// Keys' cubic convolution kernel (1981).
fn keys(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}
