//! Int8 linear layers: integers are multiplied, input and output are floats.
//!
//! Weights have one scale per column of the output and are symmetric about 0 ([`QuantizedWeight`]). Each row of the
//! input is quantised on arrival to 0 … 255, between its smallest and largest number. The range includes 0, which is
//! exact. So a row of the output does not depend on the other rows. Products are summed exactly in 32 bits. Scales,
//! bias and activation are applied in `f32` while a tile is in the first-level cache.
//!
//! One thread keeps a block of rows: it quantises them and multiplies them with all columns. In an MLP it quantises the
//! result again and multiplies it with the second weight, so the hidden numbers never leave its cache.

mod dot;
mod weight;

pub use weight::{QuantizeError, QuantizedWeight, quantize_weight_rows};

use std::cell::Cell;
use std::ops::Range;

use crate::activation::{Activation, ActivationFn, with_activation};
use crate::prefetch::PrefetchQueue;
use crate::simd::{Real, Simd, Vector};
use crate::threads::{Shared, for_each_block, share, threads, with_kept, written};
use dot::{Dot, MAX_PANELS, MAX_ROWS, PANEL, Tile};
use weight::Parts;

/// Most rows per block. Quantised, they take a share of the second-level cache.
const ROWS: usize = 96;
/// Blocks per thread, so that other threads can help a delayed one.
const SHARES: usize = 2;
/// Least rows per block: with fewer rows, the weights are read too often.
const LEAST_ROWS: usize = 24;
/// Multiplications in eight bits per multiplication of `f32` in the same time (see `threads`).
const CHEAPER: usize = 4;

/// `activation(x weight + bias)` of rows `x`, `[m, k]`, plus `residual`. Returns `[m, n]`.
pub(crate) fn linear(
    x: &[f32],
    m: usize,
    weight: &QuantizedWeight,
    activation: Activation,
    residual: Option<&[f32]>,
) -> Vec<f32> {
    let parts = weight.parts();
    assert!(
        residual.is_none_or(|r| r.len() == m * parts.n),
        "linear_int8: the residual must be like the output"
    );
    assert_eq!(x.len(), m * parts.k, "linear_int8: x must be [{m}, {}]", parts.k);
    let grid = Grid::new(m, parts.panels());
    let cost = m.saturating_mul(parts.k.max(1)).saturating_mul(parts.n) / CHEAPER;
    let write = |y: Shared<f32>| {
        for_each_block(
            grid.rows * grid.columns,
            cost,
            || (),
            |(), index| {
                let rows = share(m, grid.rows, index % grid.rows);
                let panels = share(parts.panels(), grid.columns, index / grid.rows);
                let x = &x[rows.start * parts.k..rows.end * parts.k];
                let residual = residual.map(|r| &r[rows.start * parts.n..rows.end * parts.n]);
                let (rows, to) = (rows.len(), y.offset(rows.start * parts.n));
                with_kept(&SCRATCH, |scratch| {
                    dot::run(Block { x, rows, parts, panels, activation, next: None, residual, scratch, to })
                });
            },
        );
    };
    // SAFETY: the blocks write all numbers.
    unsafe { written(m * parts.n, write) }
}

/// `activation(x fc1 + fc1_bias) fc2 + fc2_bias` of rows `x`, `[m, d]`, plus `residual`. Returns `[m, n]`.
pub(crate) fn mlp(
    x: &[f32],
    m: usize,
    fc1: &QuantizedWeight,
    fc2: &QuantizedWeight,
    activation: Activation,
    residual: Option<&[f32]>,
) -> Vec<f32> {
    let (first, second) = (fc1.parts(), fc2.parts());
    let Grid { rows: blocks, columns } = Grid::new(m, first.panels().min(second.panels()));
    if columns > 1 {
        return linear(&linear(x, m, fc1, activation, None), m, fc2, Activation::Identity, residual);
    }
    assert_eq!(x.len(), m * first.k, "mlp_int8: x must be [{m}, {}]", first.k);
    assert_eq!(first.n, second.k, "mlp_int8: the second weight must have a row for each column of the first");
    assert!(
        residual.is_none_or(|r| r.len() == m * second.n),
        "mlp_int8: the residual must be like the output"
    );
    let cost = m.saturating_mul(first.n).saturating_mul(first.k + second.n) / CHEAPER;
    let write = |y: Shared<f32>| {
        for_each_block(
            blocks,
            cost,
            || (),
            |(), index| {
                let rows = share(m, blocks, index);
                let x = &x[rows.start * first.k..rows.end * first.k];
                let residual = residual.map(|r| &r[rows.start * second.n..rows.end * second.n]);
                let (rows, to) = (rows.len(), y.offset(rows.start * second.n));
                let (panels, next) = (0..first.panels(), Some(second));
                with_kept(&SCRATCH, |scratch| {
                    dot::run(Block { x, rows, parts: first, panels, activation, next, residual, scratch, to })
                });
            },
        );
    };
    // SAFETY: the blocks write all numbers.
    unsafe { written(m * second.n, write) }
}

/// How the output is cut.
struct Grid {
    rows: usize,
    columns: usize,
}

impl Grid {
    /// Cuts the rows into blocks, and the columns too if the rows alone would leave threads idle.
    fn new(m: usize, panels: usize) -> Self {
        let threads = threads();
        let most = m.div_ceil(LEAST_ROWS).max(1);
        let rows = m.div_ceil(ROWS).max((threads * SHARES).min(most));
        let columns = if rows >= threads { 1 } else { threads.div_ceil(rows).min(panels.max(1)) };
        Self { rows, columns }
    }
}

/// Scratch that each thread keeps between calls.
#[derive(Default)]
struct Scratch {
    /// Rows in eight bits.
    quantized: Vec<u8>,
    rows: Vec<Row>,
    /// The numbers between two products.
    hidden: Vec<f32>,
}

thread_local!(static SCRATCH: Cell<Scratch> = Cell::default());

/// Scale and zero point of a quantised row: `x ≈ scale · (q - zero)`.
#[derive(Clone, Copy, Default)]
struct Row {
    scale: f32,
    zero: i32,
}

/// Rows of a product, and of an optional second product on its result.
struct Block<'a> {
    /// `[rows, k]`
    x: &'a [f32],
    rows: usize,
    parts: &'a Parts,
    panels: Range<usize>,
    activation: Activation,
    next: Option<&'a Parts>,
    /// Added to the last result, `[rows, n]`.
    residual: Option<&'a [f32]>,
    scratch: &'a mut Scratch,
    /// `[rows, n]` of the last product.
    to: Shared<f32>,
}

impl dot::DotKernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<D: Dot>(self) {
        let Self { x, rows, parts, panels, activation, next, residual, scratch, to } = self;
        let Scratch { quantized, rows: scales, hidden } = scratch;
        // SAFETY: upheld by the caller. The first product writes all of `hidden`, since it has all panels.
        unsafe {
            quantize_rows::<D>(x, rows, parts.k, quantized, scales);
            let Some(second) = next else {
                multiply::<D>(quantized, scales, parts, panels, activation, residual, to);
                return;
            };
            hidden.clear();
            hidden.reserve(rows * parts.n);
            multiply::<D>(quantized, scales, parts, panels, activation, None, Shared::of_capacity(hidden));
            hidden.set_len(rows * parts.n);
            quantize_rows::<D>(hidden, rows, parts.n, quantized, scales);
            let (panels, activation) = (0..second.panels(), Activation::Identity);
            multiply::<D>(quantized, scales, second, panels, activation, residual, to);
        }
    }
}

/// Bytes between quantised rows: whole panels of terms, plus one cache line. Without it, rows at multiples of 4 KiB
/// would evict each other from the cache.
fn step<D: Dot>(k: usize) -> usize {
    (k.next_multiple_of(64) + 64) * D::BYTES
}

/// Quantises rows `x`, `[rows, k]`.
///
/// # Safety
/// The processor must have the instructions of `D`.
#[inline(always)]
unsafe fn quantize_rows<D: Dot>(
    x: &[f32],
    rows: usize,
    k: usize,
    quantized: &mut Vec<u8>,
    scales: &mut Vec<Row>,
) {
    let step = step::<D>(k);
    quantized.resize((rows * step).max(quantized.len()), 0);
    scales.clear();
    for (index, row) in (0..rows).map(|row| (row, &x[row * k..(row + 1) * k])) {
        // SAFETY: upheld by the caller.
        let (low, high) = unsafe { range::<<D::Float as Simd>::F32>(row) };
        let scale = high / 255.0 - low / 255.0;
        let (factor, row_scale) = if scale >= f32::MIN_POSITIVE && scale.is_finite() {
            (1.0 / scale, scale)
        } else {
            (0.0, if scale.is_finite() { 0.0 } else { f32::NAN })
        };
        let zero = (-low * factor).round_ties_even() as i32;
        scales.push(Row { scale: row_scale, zero });
        let to = &mut quantized[index * step..][..step];
        let bulk = k - k % PANEL;
        // SAFETY: whole panels are read, and a row has space for one panel more than its numbers.
        unsafe {
            for p in (0..bulk).step_by(PANEL) {
                D::quantize(row.as_ptr().add(p), factor, zero, to.as_mut_ptr().add(p * D::BYTES));
            }
            if bulk < k {
                let mut rest = [0f32; PANEL];
                rest[..k - bulk].copy_from_slice(&row[bulk..]);
                D::quantize(rest.as_ptr(), factor, zero, to.as_mut_ptr().add(bulk * D::BYTES));
            }
        }
    }
}

/// The smallest and the largest of the numbers of a row and 0; NaN if one number is NaN or infinite.
///
/// # Safety
/// The processor must have the instructions of `V`.
#[inline(always)]
unsafe fn range<V: Vector<Scalar = f32>>(row: &[f32]) -> (f32, f32) {
    let bulk = row.len() - row.len() % V::LANES;
    // SAFETY: whole vectors and the remainder of the row.
    unsafe {
        let zero = V::splat(0.0);
        // The largest x, the largest -x, and Σ 0 · x, which is NaN if any x is not finite.
        let (mut high, mut low, mut finite) = (zero, zero, zero);
        let mut take = |x: V| {
            high = high.max(x);
            low = low.max(zero.sub(x));
            finite = x.mul_add(zero, finite);
        };
        for p in (0..bulk).step_by(V::LANES) {
            take(V::load(row.as_ptr().add(p)));
        }
        if bulk < row.len() {
            take(V::load_part(row.as_ptr().add(bulk), row.len() - bulk));
        }
        let finite = finite.sum();
        (finite - largest(low), finite + largest(high))
    }
}

/// The largest lane.
#[inline(always)]
fn largest<V: Vector<Scalar = f32>>(x: V) -> f32 {
    let mut lanes = [0f32; 16];
    // SAFETY: no level has more than 16 lanes.
    unsafe { x.store(lanes.as_mut_ptr()) };
    let mut width = V::LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] = if lanes[i] > lanes[i + width] { lanes[i] } else { lanes[i + width] };
        }
    }
    lanes[0]
}

/// `activation(x weight + bias)` for some panels of the weight.
///
/// # Safety
/// The processor must have the instructions of `D`; `to` must have space for the rows.
#[inline(always)]
unsafe fn multiply<D: Dot>(
    quantized: &[u8],
    scales: &[Row],
    parts: &Parts,
    panels: Range<usize>,
    activation: Activation,
    residual: Option<&[f32]>,
    to: Shared<f32>,
) {
    let (rows, step) = (scales.len(), step::<D>(parts.k));
    let tiles = rows.div_ceil(D::ROWS);
    let mut sums = Sums([0.0; MAX_ROWS * MAX_PANELS * PANEL]);
    for panel in panels.clone().step_by(D::PANELS) {
        let count = D::PANELS.min(panels.end - panel);
        let b = parts.packed[panel * parts.panel()..].as_ptr();
        let mut queue = PrefetchQueue::new(b, count * parts.panel());
        for tile in 0..tiles {
            let tile_rows = share(rows, tiles, tile);
            let mut zeros = [0; MAX_ROWS];
            for (zero, row) in zeros.iter_mut().zip(&scales[tile_rows.clone()]) {
                *zero = row.zero;
            }
            let operands = Tile {
                groups: parts.groups(),
                a: quantized[tile_rows.start * step..].as_ptr(),
                a_step: step,
                b,
                b_step: parts.panel(),
                ahead: queue.lines(parts.groups()),
                zeros: &zeros,
                sums: parts.sums[panel * PANEL..].as_ptr(),
                to: sums.0.as_mut_ptr(),
            };
            // SAFETY: tile and panels lie in the operands, and columns below `n` in the output.
            unsafe {
                D::tile(operands, tile_rows.len(), count);
                let columns = panel * PANEL..((panel + count) * PANEL).min(parts.n);
                let scales = &scales[tile_rows.clone()];
                let to = to.offset(tile_rows.start * parts.n);
                let residual = residual.map(|r| &r[tile_rows.start * parts.n..]);
                finish::<<D::Float as Simd>::F32>(&sums, scales, parts, columns, activation, residual, to);
            }
        }
    }
}

/// The sums of a tile.
#[repr(align(64))]
struct Sums([f32; MAX_ROWS * MAX_PANELS * PANEL]);

/// Applies scales, bias, activation and residual to a tile.
///
/// # Safety
/// The processor must have the instructions of `V`; `to` must have space for rows of `n` numbers.
#[inline(always)]
unsafe fn finish<V: Vector<Scalar = f32>>(
    sums: &Sums,
    rows: &[Row],
    parts: &Parts,
    columns: Range<usize>,
    activation: Activation,
    residual: Option<&[f32]>,
    to: Shared<f32>,
) {
    for column in columns.clone().step_by(V::LANES) {
        let sums = &sums.0[column - columns.start..];
        let count = V::LANES.min(columns.end - column);
        // SAFETY: upheld by the caller.
        unsafe {
            match activation {
                Activation::Gelu => {
                    finish_vector::<V, _>(ApproximateGelu, sums, rows, parts, (column, count), residual, to);
                }
                other => with_activation!(other, function => {
                    finish_vector::<V, _>(function, sums, rows, parts, (column, count), residual, to);
                }),
            }
        }
    }
}

/// The same for one vector of columns, or for the last `count`.
///
/// # Safety
/// As [`finish`].
#[inline(always)]
unsafe fn finish_vector<V: Vector<Scalar = f32>, C: ActivationFn>(
    function: C,
    sums: &[f32],
    rows: &[Row],
    parts: &Parts,
    (column, count): (usize, usize),
    residual: Option<&[f32]>,
    to: Shared<f32>,
) {
    let residual = residual.map(|residual| &residual[..(rows.len() - 1) * parts.n + column + count]);
    // SAFETY: upheld by the caller. Scales and bias are padded to whole panels, the sums to whole rows of a tile.
    unsafe {
        let scales = V::load(parts.scales[column..].as_ptr());
        let bias = V::load(parts.bias[column..].as_ptr());
        for (index, row) in rows.iter().enumerate() {
            let sum = V::load(sums.as_ptr().add(index * MAX_PANELS * PANEL));
            let mut y = function.value(sum.mul_add(scales.mul(V::splat(row.scale)), bias));
            let at = index * parts.n + column;
            if let Some(residual) = residual {
                let from = residual.as_ptr().add(at);
                y = y.add(if count == V::LANES { V::load(from) } else { V::load_part(from, count) });
            }
            if count == V::LANES { y.store(to.at(at)) } else { y.store_part(to.at(at), count) }
        }
    }
}

/// GELU with an error of at most 6e-5, in a third of the time: `x (1/2 + x P(x²))`. P is fitted on |x| ≤ 4.4; beyond, Φ
/// is practically 0 or 1.
///
/// The result is quantised next. Half a quantisation step of a row that reaches up to 4 is 8e-3, far more than the
/// error.
#[derive(Clone, Copy)]
struct ApproximateGelu;

impl ApproximateGelu {
    const END: f32 = 4.4;
    /// P minimises the largest error of `x² P(x²)` (a linear program) with Φ(4.4) fixed at 1. The last coefficient was
    /// moved by 5e-7 so that this holds in `f32`. Highest power first.
    const P: [f32; 9] = [
        3.569_084_6e-11,
        -3.753_755_5e-9,
        1.740_743_2e-7,
        -4.724_668e-6,
        8.429_074e-5,
        -1.054_976_8e-3,
        9.642_965e-3,
        -6.607_629e-2,
        3.987_620_2e-1,
    ];
}

impl ActivationFn for ApproximateGelu {
    #[inline(always)]
    unsafe fn value<V: Vector>(self, x: V) -> V {
        // SAFETY: upheld by the caller.
        unsafe {
            let constant = |number: f32| V::splat(V::Scalar::from_f64(number.into()));
            let (zero, least) = (constant(0.0), constant(-Self::END));
            let clamped = zero.sub(zero.sub(x.max(least)).max(least));
            let square = clamped.mul(clamped);
            let mut share = constant(Self::P[0]);
            for coefficient in &Self::P[1..] {
                share = share.mul_add(square, constant(*coefficient));
            }
            share.mul_add(clamped, constant(0.5)).mul(x)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Gelu;

    fn approximate(x: f32) -> f32 {
        type One = <f32 as Real>::One;
        let mut y = 0.0;
        // SAFETY: a one-number vector of plain Rust needs no special instructions; the pointers are to one number.
        unsafe { ApproximateGelu.value(One::splat(x)).store(&mut y) };
        y
    }

    fn exact(x: f32) -> f32 {
        type One = <f32 as Real>::One;
        let mut y = 0.0;
        // SAFETY: as above.
        unsafe { Gelu.value(One::splat(x)).store(&mut y) };
        y
    }

    #[test]
    fn near_gelu_is_as_near_as_it_says() {
        let mut worst = 0f32;
        for step in -60_000..60_000 {
            let x = step as f32 / 5000.0;
            worst = worst.max((approximate(x) - exact(x)).abs());
        }
        assert!(worst < 6e-5, "{worst:e}");
        for x in [20.0, 1e3, 1e6] {
            assert!((approximate(x) - x).abs() <= 3e-6 * x && approximate(-x).abs() <= 3e-6 * x, "{x}");
        }
        assert!(approximate(f32::NAN).is_nan());
        assert_eq!(approximate(0.0), 0.0);
    }
}
