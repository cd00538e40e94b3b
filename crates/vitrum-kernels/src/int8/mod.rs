//! Linear layers in eight bits: whole numbers multiplied, floating point in and out.
//!
//! Weights have one scale for each column of the output and are symmetric about 0 ([`QuantizedWeight`]). Each row of
//! the input is quantised when it arrives, to 0 … 255 between its smallest and largest number (0 included, and
//! represented exactly), so a row of the output does not depend on which other rows there are. Products are summed in
//! 32 bits, exactly. Scales, bias and activation are applied in `f32` while a tile is in the first-level cache.
//!
//! A block of rows stays with one thread: quantised, multiplied with all columns, and in an MLP quantised again and
//! multiplied with the second weight, so that what lies between never leaves the thread's cache.

mod dot;
mod extension;
mod weight;

pub use dot::int8_level;
pub use extension::{Int8Ops, linear_add_int8, linear_int8, mlp_add_int8, mlp_int8};
pub use weight::{QuantizeError, QuantizedWeight, quantize_weight_rows};

use std::cell::Cell;
use std::ops::Range;

use crate::activation::{Activation, Curve, with_curve};
use crate::simd::{Simd, Vector};
use crate::threads::{Shared, for_each_block, share, threads, written};
use dot::{Dot, MAX_PANELS, MAX_ROWS, PANEL, Tile};
use weight::Parts;

/// Rows of a block, at most: quantised they are a share of the second-level cache.
const ROWS: usize = 96;
/// Blocks per thread, so that a thread that is held up can be helped.
const SHARES: usize = 2;
/// Rows that are worth a block of their own: with fewer the weights are read too often.
const LEAST_ROWS: usize = 24;
/// Multiplications of eight bits that take as long as one of `f32` (see `threads`).
const CHEAPER: usize = 4;

/// `activation(x weight + bias)` of rows `x`, `[m, k]`, plus `residual`; returns `[m, n]`.
fn linear(
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
                with_scratch(|scratch| {
                    dot::run(Block { x, rows, parts, panels, activation, next: None, residual, scratch, to })
                });
            },
        );
    };
    // SAFETY: the blocks write all numbers.
    unsafe { written(m * parts.n, write) }
}

/// `activation(x fc1 + fc1_bias) fc2 + fc2_bias` of rows `x`, `[m, d]`, plus `residual`; returns `[m, n]`.
fn mlp(
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
                with_scratch(|scratch| {
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
    /// Blocks of rows; of columns too where the rows alone would leave threads without work.
    fn new(m: usize, panels: usize) -> Self {
        let threads = threads();
        let most = m.div_ceil(LEAST_ROWS).max(1);
        let rows = m.div_ceil(ROWS).max((threads * SHARES).min(most));
        let columns = if rows >= threads { 1 } else { threads.div_ceil(rows).min(panels.max(1)) };
        Self { rows, columns }
    }
}

/// Room that a thread keeps from call to call.
#[derive(Default)]
struct Scratch {
    /// Rows in eight bits.
    quantized: Vec<u8>,
    rows: Vec<Row>,
    /// What lies between two products.
    hidden: Vec<f32>,
}

fn with_scratch(work: impl FnOnce(&mut Scratch)) {
    thread_local!(static SCRATCH: Cell<Scratch> = Cell::default());
    let mut scratch = SCRATCH.take();
    work(&mut scratch);
    SCRATCH.set(scratch);
}

/// What a quantised row stands for: `x ≈ scale · (q - zero)`.
#[derive(Clone, Copy, Default)]
struct Row {
    scale: f32,
    zero: i32,
}

/// Rows of a product, and of a second one on what comes out.
struct Block<'a> {
    /// `[rows, k]`
    x: &'a [f32],
    rows: usize,
    parts: &'a Parts,
    panels: Range<usize>,
    activation: Activation,
    next: Option<&'a Parts>,
    /// Added to what comes out last, `[rows, n]`.
    residual: Option<&'a [f32]>,
    scratch: &'a mut Scratch,
    /// `[rows, n]` of the last product.
    to: Shared<f32>,
}

impl dot::Job for Block<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<D: Dot>(self) {
        let Self { x, rows, parts, panels, activation, next, residual, scratch, to } = self;
        let Scratch { quantized, rows: scales, hidden } = scratch;
        // SAFETY: the caller's; the first product writes all of `hidden`, for it has all panels then.
        unsafe {
            quantize_rows::<D>(x, rows, parts.k, quantized, scales);
            let Some(second) = next else {
                multiply::<D>(quantized, scales, parts, panels, activation, residual, to);
                return;
            };
            hidden.clear();
            hidden.reserve(rows * parts.n);
            multiply::<D>(quantized, scales, parts, panels, activation, None, Shared::room(hidden));
            hidden.set_len(rows * parts.n);
            quantize_rows::<D>(hidden, rows, parts.n, quantized, scales);
            let (panels, activation) = (0..second.panels(), Activation::Identity);
            multiply::<D>(quantized, scales, second, panels, activation, residual, to);
        }
    }
}

/// Bytes from one quantised row to the next: whole panels of terms, and a cache line more, for rows at multiples of
/// 4 KiB would all want the same place in the cache.
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
        // SAFETY: the caller's.
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
        // SAFETY: a whole panel's numbers are read, and a row has room for one more than it has.
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

/// The smallest and the largest number, and 0, of a row; NaN if one is NaN or infinite.
///
/// # Safety
/// The processor must have the instructions of `V`.
#[inline(always)]
unsafe fn range<V: Vector<Scalar = f32>>(row: &[f32]) -> (f32, f32) {
    let bulk = row.len() - row.len() % V::LANES;
    // SAFETY: whole vectors, and the rest, of the row.
    unsafe {
        let zero = V::splat(0.0);
        // The largest of x and of -x; and Σ 0 · x, which is NaN if one x is not finite.
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
    lanes[..V::LANES].iter().copied().fold(0.0, f32::max)
}

/// `activation(x weight + bias)` for some panels of the weight.
///
/// # Safety
/// The processor must have the instructions of `D`; `to` must have room for the rows.
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
                b: parts.packed[panel * parts.panel()..].as_ptr(),
                b_step: parts.panel(),
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

/// A tile's sums.
#[repr(align(64))]
struct Sums([f32; MAX_ROWS * MAX_PANELS * PANEL]);

/// Scales, bias, activation and residual of a tile.
///
/// # Safety
/// The processor must have the instructions of `V`; `to` must have room for rows of `n` numbers.
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
    // SAFETY: the caller's; scales and bias reach to the end of the last panel.
    unsafe {
        with_curve!(activation, curve => {
            for (index, row) in rows.iter().enumerate() {
                let sums = &sums.0[index * MAX_PANELS * PANEL..];
                for column in columns.clone().step_by(V::LANES) {
                    let sum = V::load(sums[column - columns.start..].as_ptr());
                    let scale = V::load(parts.scales[column..].as_ptr()).mul(V::splat(row.scale));
                    let mut y = curve.value(sum.mul_add(scale, V::load(parts.bias[column..].as_ptr())));
                    let (at, count) = (index * parts.n + column, columns.end - column);
                    if let Some(residual) = residual {
                        let from = residual[at..].as_ptr();
                        y = y.add(if count >= V::LANES { V::load(from) } else { V::load_part(from, count) });
                    }
                    if count >= V::LANES { y.store(to.at(at)) } else { y.store_part(to.at(at), count) }
                }
            }
        });
    }
}
