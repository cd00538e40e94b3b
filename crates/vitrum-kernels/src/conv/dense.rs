//! Convolutions as products of patches and kernels, one product per group.

use super::fold::{Fold, Folded};
use super::{ConvForm, Sizes};
use crate::gemm::{Gemm, OperandA, OperandB, Packed, Patches, View, Window};
use crate::simd::Real;
use crate::threads::{Shared, for_each_block, written};

/// With fewer channels than this, the runs of single pixels are too short to pack well. Then a row of the kernel is one
/// run, and the maps are copied with their padding.
const FEW_CHANNELS: usize = 16;
/// Cost of moving a number, in multiplications (see `threads`).
const COST: usize = 4;

/// The kernel of a convolution.
#[derive(Clone, Copy)]
pub(super) enum Kernel<'a, T> {
    /// `[kh, kw, C / groups, N]`.
    Plain(&'a [T]),
    /// One matrix `[kh · kw · C / groups, N / groups]` per group.
    Packed(&'a [Packed<T>]),
}

/// The maps as a convolution reads them.
struct Source<'a, T> {
    x: &'a [T],
    /// The maps with their padding, if runs reach over several pixels.
    padded: Option<Vec<T>>,
    window: Window,
    runs: Vec<[isize; 2]>,
    /// Numbers per run.
    length: usize,
    is_pointwise: bool,
}

impl<'a, T: Real> Source<'a, T> {
    fn new(x: &'a [T], sizes: Sizes) -> Self {
        let Sizes { b: maps, c, form, .. } = sizes;
        let window = Window { maps, grid: form.grid, pixel: c, out: form.out(), stride: form.stride };
        let is_pointwise = form.is_pointwise();
        let joins = form.groups == 1 && c < FEW_CHANNELS && form.dilation[1] == 1 && form.kernel[1] > 1;
        if !joins {
            let [length, _] = sizes.group();
            return Self { x, padded: None, window, runs: form.taps(), length, is_pointwise };
        }
        let grid = [0, 1].map(|axis| form.grid[axis] + form.before[axis] + form.after[axis]);
        let padded = Some(padded(x, sizes, grid));
        let runs = (0..form.kernel[0]).map(|row| [(row * form.dilation[0]) as isize, 0]).collect();
        let window = Window { grid, ..window };
        Self { x, padded, window, runs, length: form.kernel[1] * c, is_pointwise }
    }

    /// Calls `work` with the patches of the channels of a group, as rows or as columns.
    fn with_patches<R>(&self, group: usize, are_rows: bool, work: impl FnOnce(OperandA<'_, T>) -> R) -> R {
        let (pixel, first) = (self.window.pixel, if self.padded.is_some() { 0 } else { group * self.length });
        if self.is_pointwise {
            let [h, w] = self.window.grid;
            let (m, x) = (self.window.maps * h * w, &self.x[first.min(self.x.len())..]);
            let view = match are_rows {
                true => View::new(x, [m, self.length], [pixel, 1]),
                false => View::new(x, [self.length, m], [1, pixel]),
            };
            return work(view.into());
        }
        let values = self.padded.as_deref().unwrap_or(self.x);
        let patches = Patches::new(values, self.window, &self.runs, first, self.length);
        work(if are_rows { OperandA::Patches(&patches) } else { OperandA::PatchColumns(&patches) })
    }
}

/// The maps with zeros around them, and 16 more at the end, so that a register may read past the last number.
fn padded<T: Real>(x: &[T], sizes: Sizes, [rows, columns]: [usize; 2]) -> Vec<T> {
    let Sizes { b, c, form: ConvForm { grid: [h, w], before: [top, left], .. }, .. } = sizes;
    let mut maps = vec![T::ZERO; b * rows * columns * c + 16];
    let to = Shared::new(&mut maps);
    for_each_block(
        b * h,
        x.len().saturating_mul(COST),
        || (),
        |(), line| {
            let (map, y) = (line / h, line % h);
            let at = ((map * rows + top + y) * columns + left) * c;
            // SAFETY: lines do not overlap.
            unsafe { to.part(at, w * c) }.copy_from_slice(&x[line * w * c..(line + 1) * w * c]);
        },
    );
    maps
}

/// The convolution `[B, H'·W', N]`.
pub(super) fn forward<T: Real>(x: &[T], kernel: Kernel<T>, fold: &Fold<T>, sizes: Sizes) -> Vec<T> {
    let Sizes { m, n, form, .. } = sizes;
    let [_, columns] = sizes.group();
    let source = Source::new(x, sizes);
    let terms = source.runs.len() * source.length;
    let folded = Folded::new(fold, n);
    let write = |y: Shared<T>| {
        for group in 0..form.groups {
            let first = group * columns;
            source.with_patches(group, true, |patches| {
                let b: OperandB<T> = match kernel {
                    Kernel::Plain(weight) => {
                        View::new(&weight[first.min(weight.len())..], [terms, columns], [n, 1]).into()
                    }
                    Kernel::Packed(groups) => (&groups[group]).into(),
                };
                let product = Gemm::new([m, columns, terms], patches, b);
                let product = Gemm { c_step: n, epilogue: folded.epilogue(first, columns), ..product };
                // SAFETY: the groups write all their columns, and nothing else.
                unsafe { product.run(y.offset(first)) };
            });
        }
    };
    // SAFETY: the groups write all channels.
    unsafe { written(m * n, write) }
}

/// The gradient of the kernel.
pub(super) fn d_weight<T: Real>(x: &[T], grad: &[T], sizes: Sizes) -> Vec<T> {
    let Sizes { m, n, form, .. } = sizes;
    let [_, columns] = sizes.group();
    let source = Source::new(x, sizes);
    let terms = source.runs.len() * source.length;
    let write = |d_weight: Shared<T>| {
        for group in 0..form.groups {
            let first = group * columns;
            source.with_patches(group, false, |patches| {
                let b = View::new(&grad[first.min(grad.len())..], [m, columns], [n, 1]);
                let product = Gemm { c_step: n, ..Gemm::new([terms, columns, m], patches, b) };
                // SAFETY: as in `forward`.
                unsafe { product.run(d_weight.offset(first)) };
            });
        }
    };
    // SAFETY: as in `forward`.
    unsafe { written(terms * n, write) }
}

/// The pixels of the maps that are `stride` apart; the same pixels of the kernel reach all of them.
struct Phase {
    /// Number of rows and columns.
    count: [usize; 2],
    /// The kernel's pixels that reach these pixels, with the offset of the result's pixel.
    taps: Vec<(usize, [isize; 2])>,
}

impl Phase {
    fn new(form: &ConvForm, first: [usize; 2]) -> Self {
        // The result's position p reads the pixel p · stride + tap · dilation - before.
        let reach = |axis: usize| {
            let stride = form.stride[axis] as isize;
            let at = move |tap: usize| {
                first[axis] as isize + form.before[axis] as isize - (tap * form.dilation[axis]) as isize
            };
            let reads = move |tap: &usize| at(*tap).rem_euclid(stride) == 0;
            (0..form.kernel[axis]).filter(reads).map(move |tap| (tap, at(tap).div_euclid(stride)))
        };
        let columns: Vec<_> = reach(1).collect();
        let taps = reach(0).flat_map(|(y, down)| {
            columns.iter().map(move |&(x, across)| (y * form.kernel[1] + x, [down, across]))
        });
        let count = [0, 1].map(|axis| (form.grid[axis] - first[axis]).div_ceil(form.stride[axis]));
        Self { count, taps: taps.collect() }
    }
}

/// The gradient of the maps: for each phase a convolution of the result's gradient.
pub(super) fn d_x<T: Real>(weight: &[T], grad: &[T], sizes: Sizes) -> Vec<T> {
    let Sizes { b, c, form, .. } = sizes;
    let [h, w] = form.grid;
    let [down, across] = form.stride;
    if (down, across) == (1, 1) {
        let phase = Phase::new(&form, [0, 0]);
        // SAFETY: the phase writes all pixels.
        return unsafe { written(b * h * w * c, |d_x| phase_gradient(weight, grad, sizes, &phase, d_x)) };
    }
    let mut d_x = vec![T::ZERO; b * h * w * c];
    let to = Shared::new(&mut d_x);
    for y in 0..down.min(h) {
        for x in 0..across.min(w) {
            let phase = Phase::new(&form, [y, x]);
            if phase.taps.is_empty() {
                continue;
            }
            let [rows, columns] = phase.count;
            // SAFETY: the phase writes all its pixels.
            let part = unsafe {
                written(b * rows * columns * c, |part| phase_gradient(weight, grad, sizes, &phase, part))
            };
            for_each_block(
                b * rows,
                part.len().saturating_mul(COST),
                || (),
                |(), line| {
                    let (map, row) = (line / rows, y + line % rows * down);
                    for column in 0..columns {
                        let at = ((map * h + row) * w + x + column * across) * c;
                        let from = (line * columns + column) * c;
                        // SAFETY: pixels do not overlap.
                        unsafe { to.part(at, c) }.copy_from_slice(&part[from..from + c]);
                    }
                },
            );
        }
    }
    d_x
}

/// Writes the gradient of a phase's pixels, `[B, rows · columns, C]`.
///
/// # Safety
/// `to` must have space for it.
unsafe fn phase_gradient<T: Real>(weight: &[T], grad: &[T], sizes: Sizes, phase: &Phase, to: Shared<T>) {
    let Sizes { b, c, n, form, .. } = sizes;
    let [group_c, group_n] = sizes.group();
    let [rows, columns] = phase.count;
    let m = b * rows * columns;
    let window = Window { maps: b, grid: form.out(), pixel: n, out: phase.count, stride: [1, 1] };
    let runs: Vec<[isize; 2]> = phase.taps.iter().map(|(_, offset)| *offset).collect();
    let terms = runs.len() * group_n;
    for group in 0..form.groups {
        let first = group * group_n;
        let turned;
        let b = match phase.taps[..] {
            [(tap, _)] => {
                let kernel = &weight[(tap * group_c * n + first).min(weight.len())..];
                View::new(kernel, [group_n, group_c], [1, n])
            }
            _ => {
                turned = turn(weight, sizes, group, &phase.taps);
                View::rows(&turned, terms, group_c)
            }
        };
        let patches;
        let a = match form.is_pointwise() {
            true => View::new(&grad[first.min(grad.len())..], [m, group_n], [n, 1]).into(),
            false => {
                patches = Patches::new(grad, window, &runs, first, group_n);
                OperandA::Patches(&patches)
            }
        };
        let product = Gemm { c_step: c, ..Gemm::new([m, group_c, terms], a, b) };
        // SAFETY: upheld by the caller; groups write different columns.
        unsafe { product.run(to.offset(group * group_c)) };
    }
}

/// The kernel of a group, transposed at each of these taps: `[taps · N / groups, C / groups]`.
fn turn<T: Real>(weight: &[T], sizes: Sizes, group: usize, taps: &[(usize, [isize; 2])]) -> Vec<T> {
    const SIDE: usize = 16;
    let n = sizes.n;
    let [group_c, group_n] = sizes.group();
    let write = |turned: Shared<T>| {
        for_each_block(
            taps.len(),
            (taps.len() * group_c * group_n).saturating_mul(COST),
            || (),
            |(), index| {
                let (tap, _) = taps[index];
                let to = turned.offset(index * group_n * group_c);
                for top in (0..group_c).step_by(SIDE) {
                    for left in (0..group_n).step_by(SIDE) {
                        for i in top..group_c.min(top + SIDE) {
                            let from = (tap * group_c + i) * n + group * group_n;
                            for j in left..group_n.min(left + SIDE) {
                                // SAFETY: each tap has its own numbers.
                                unsafe { to.at(j * group_c + i).write(weight[from + j]) };
                            }
                        }
                    }
                }
            },
        );
    };
    // SAFETY: the taps write all numbers.
    unsafe { written(taps.len() * group_n * group_c, write) }
}
