//! 3x3 convolutions at every pixel by Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray 2015, arXiv:1509.09308).
//!
//! A tile of 2x2 results takes 16 products per pair of channels instead of 36. The products of one place of the tile are
//! a matrix product over channels, so 16 matrix products do the work:
//!
//! ```text
//! Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A        d: 4x4 pixels, g: 3x3 kernel, Y: 2x2 results
//! ```
//!
//! All factors are 0, ±1 and ½, so few digits are lost. A thread takes a run of tiles from pixels to results, so that the
//! transformed numbers stay in its cache. The numbers of a tile depend neither on the run nor on the other maps.
//!
//! An infinite pixel gives NaN where the plain sum would be infinite. Pixels from a quarter of the largest number on may
//! overflow.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::Sizes;
use super::fold::{Fold, Folded};
use crate::gemm::{ApplyRows, Gemm, Numbers, Packed, View};
use crate::simd::{self, Kernel, Real, Simd, Vector};
use crate::threads::{Shared, for_each_block, share, threads, with_kept, written};

/// Places of a tile of 4x4 pixels.
const PLACES: usize = 16;
/// Most tiles that a thread takes at once: a multiple of the height of a tile of the product.
const RUN: usize = 48;
/// Numbers between the rows of a transformed tile, so that rows do not evict each other from the first-level cache.
const GAP: usize = 16;
/// Fewer channels than this do not pay for the transforms.
const FEW_CHANNELS: usize = 32;
/// Most products, as a share of those of the plain convolution.
const LARGEST_SHARE: f64 = 0.5;
/// Cost of moving a number, in multiplications (see `threads`).
const COST: usize = 4;

/// Whether a convolution is faster this way. The answer depends on the form and the channels alone, so that the numbers
/// of a map do not depend on the other maps.
pub(super) fn pays<T: Real>(sizes: &Sizes) -> bool {
    let form = &sizes.form;
    let [rows, columns] = form.out();
    let products = (PLACES * rows.div_ceil(2) * columns.div_ceil(2)) as f64;
    size_of::<T>() == 4
        && form.kernel == [3, 3]
        && [form.stride, form.dilation] == [[1, 1]; 2]
        && sizes.group().into_iter().all(|channels| channels >= FEW_CHANNELS)
        && products <= LARGEST_SHARE * (9 * rows * columns) as f64
}

/// The transformed kernel `G g Gᵀ`: for each place a matrix `[C / groups, N / groups]` per group.
pub(super) struct Transformed<T>(Vec<Packed<T>>);

impl<T: Real> Transformed<T> {
    /// Transforms the kernel `[3, 3, C / groups, N]` of a convolution.
    pub(super) fn new(weight: &[T], sizes: Sizes) -> Self {
        let ([c, n], step) = (sizes.group(), sizes.n);
        let places = transform(weight, c * step);
        Self::pack(sizes, |place, group| {
            let from = &places[place * c * step + group * n..];
            Packed::new(View::new(from, [c, n], [step, 1]), c, n)
        })
    }

    /// Transforms the kernel of the gradient of the maps: `weight` turned by 180° and transposed.
    pub(super) fn turned(weight: &[T], sizes: Sizes) -> Self {
        let ([c, n], step) = (sizes.group(), sizes.n);
        let places = transform(weight, c * step);
        // The first and the last factor of G change places.
        let turn = |line: usize| if line.is_multiple_of(3) { 3 - line } else { line };
        Self::pack(sizes, |place, group| {
            let place = turn(place / 4) * 4 + turn(place % 4);
            let from = &places[place * c * step + group * n..];
            Packed::new(View::new(from, [n, c], [1, step]), n, c)
        })
    }

    fn pack(sizes: Sizes, matrix: impl Fn(usize, usize) -> Packed<T> + Sync + Send) -> Self {
        let groups = sizes.form.groups;
        let matrix = |index: usize| matrix(index / groups, index % groups);
        Self((0..PLACES * groups).into_par_iter().map(matrix).collect())
    }
}

/// `G g Gᵀ` of kernels `[9, numbers]`: `[16, numbers]`.
fn transform<T: Real>(weight: &[T], numbers: usize) -> Vec<T> {
    const PART: usize = 1024;
    let write = |to: Shared<T>| {
        for_each_block(
            numbers.div_ceil(PART),
            numbers.saturating_mul(PLACES * COST),
            || (),
            |(), part| {
                let numbers_here = part * PART..numbers.min((part + 1) * PART);
                simd::run(TransformKernels { weight, numbers, part: numbers_here, to });
            },
        );
    };
    // SAFETY: the parts write all numbers of all places.
    unsafe { written(PLACES * numbers, write) }
}

struct TransformKernels<'a, T> {
    weight: &'a [T],
    numbers: usize,
    part: Range<usize>,
    to: Shared<T>,
}

impl<T: Real> Kernel for TransformKernels<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let lanes = T::In::<S>::LANES;
        let whole = self.part.start + self.part.len() / lanes * lanes;
        // SAFETY: the caller has the instructions; the numbers are below `numbers`, and parts do not overlap.
        unsafe {
            for at in (self.part.start..whole).step_by(lanes) {
                self.kernels::<T::In<S>>(at);
            }
            for at in whole..self.part.end {
                self.kernels::<T::One>(at);
            }
        }
    }
}

impl<T: Real> TransformKernels<'_, T> {
    /// # Safety
    /// The processor must have the instructions of `V`; the kernels `at .. at + LANES` must exist.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant indices keep the numbers in registers (likewise below).
    unsafe fn kernels<V: Vector<Scalar = T>>(&self, at: usize) {
        // SAFETY: upheld by the caller.
        unsafe {
            let mut left = [[V::splat(T::ZERO); 3]; 4];
            for column in 0..3 {
                let mut g = [V::splat(T::ZERO); 3];
                for (row, g) in g.iter_mut().enumerate() {
                    *g = V::load(self.weight.as_ptr().add((row * 3 + column) * self.numbers + at));
                }
                let g = factors_of_g(g);
                for row in 0..4 {
                    left[row][column] = g[row];
                }
            }
            for (row, left) in left.into_iter().enumerate() {
                for (column, u) in factors_of_g(left).into_iter().enumerate() {
                    u.store(self.to.at((row * 4 + column) * self.numbers + at));
                }
            }
        }
    }
}

/// `G g` of a column g.
#[inline(always)]
fn factors_of_g<V: Vector>([a, b, c]: [V; 3]) -> [V; 4] {
    // SAFETY: only called in kernels, which have the instructions of `V`.
    let half = unsafe { V::splat(V::Scalar::from_f64(0.5)) };
    let (ends, middle) = (a.add(c).mul(half), b.mul(half));
    [a, ends.add(middle), ends.sub(middle), c]
}

/// How the results of maps fall into tiles.
#[derive(Clone, Copy)]
struct Tiling {
    sizes: Sizes,
    /// Tiles down and across a map.
    tiles: [usize; 2],
}

impl Tiling {
    fn new(sizes: Sizes) -> Self {
        Self { sizes, tiles: sizes.form.out().map(|size| size.div_ceil(2)) }
    }

    /// Tiles of all maps.
    fn count(&self) -> usize {
        self.sizes.b * self.tiles[0] * self.tiles[1]
    }

    /// The map of a tile, and its row and column among the map's tiles.
    fn place(&self, tile: usize) -> [usize; 3] {
        let [down, across] = self.tiles;
        [tile / (down * across), tile / across % down, tile % across]
    }
}

/// The convolution `[B, H'·W', N]`.
pub(super) fn forward<T: Real>(x: &[T], kernel: &Transformed<T>, fold: &Fold<T>, sizes: Sizes) -> Vec<T> {
    let tiling = Tiling::new(sizes);
    let Sizes { c, n, m, form, .. } = sizes;
    let ([group_c, group_n], groups) = (sizes.group(), form.groups);
    let folded = Folded::new(fold, n);
    folded.epilogue(0, n).check(m, n, n);
    let zeros = vec![T::ZERO; c];
    let count = tiling.count();
    let runs = count.div_ceil(RUN).next_multiple_of(threads()).min(count);
    let write = |y: Shared<T>| {
        for_each_block(
            runs,
            count.saturating_mul(PLACES * group_c * n),
            || (),
            |(), index| {
                let tiles = share(count, runs, index);
                with_kept(&SCRATCH, |scratch| {
                    let step = c + GAP;
                    let pixels = tiles.len() * step * PLACES;
                    let sums = tiles.len() * n;
                    let v = Shared::new(numbers_in(scratch, pixels + PLACES * sums));
                    // SAFETY: the scratch holds pixels and sums of all places; runs write different results. The
                    // epilogue was checked.
                    unsafe {
                        let place_size = tiles.len() * step;
                        let products = v.offset(pixels);
                        simd::run(TransformPixels {
                            x,
                            zeros: &zeros,
                            tiling,
                            tiles: tiles.clone(),
                            step,
                            v,
                        });
                        for (index, kernel) in kernel.0.iter().enumerate() {
                            let (place, group) = (index / groups, index % groups);
                            let a = &v.part(place * place_size, place_size)[group * group_c..];
                            let a = View::new(a, [tiles.len(), group_c], [step, 1]);
                            Gemm { c_step: n, ..Gemm::new([tiles.len(), group_n, group_c], a, kernel) }
                                .run_alone::<Numbers>(products.offset(place * sums + group * group_n));
                        }
                        simd::run(TransformResults { folded: &folded, tiling, tiles, products, y });
                    }
                });
            },
        );
    };
    // SAFETY: the tiles write all results.
    unsafe { written(m * n, write) }
}

/// A cache line of scratch. It is always initialised, for products read it as a matrix with gaps.
#[derive(Clone, Copy)]
#[repr(align(64))]
// The field only gives the line its size; it is used through pointers.
struct Line(#[allow(dead_code)] [u8; 64]);

thread_local!(static SCRATCH: Cell<Vec<Line>> = const { Cell::new(Vec::new()) });

/// Space for this many numbers: zeros, or what an earlier call has left.
fn numbers_in<T: Real>(scratch: &mut Vec<Line>, numbers: usize) -> &mut [T] {
    let lines = (numbers * size_of::<T>()).div_ceil(size_of::<Line>());
    if scratch.len() < lines {
        scratch.resize(lines, Line([0; 64]));
    }
    // SAFETY: the lines have space for the numbers, and any initialised bytes are floating-point numbers.
    unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast(), numbers) }
}

/// `Bᵀ d B` of each tile of a run: `[16, tiles, C]`, with rows at `step`.
struct TransformPixels<'a, T> {
    x: &'a [T],
    /// A pixel beside the map.
    zeros: &'a [T],
    tiling: Tiling,
    tiles: Range<usize>,
    step: usize,
    v: Shared<T>,
}

impl<T: Real> Kernel for TransformPixels<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let c = self.tiling.sizes.c;
        let lanes = T::In::<S>::LANES;
        for index in 0..self.tiles.len() {
            let pixels = self.pixels(self.tiles.start + index);
            // SAFETY: the caller has the instructions; channels are below C, and v has a row per place and tile.
            unsafe {
                for channel in (0..c - c % lanes).step_by(lanes) {
                    self.channels::<T::In<S>>(&pixels, index, channel);
                }
                for channel in c - c % lanes..c {
                    self.channels::<T::One>(&pixels, index, channel);
                }
            }
        }
    }
}

impl<T: Real> TransformPixels<'_, T> {
    /// The 4x4 pixels of a tile.
    #[inline(always)]
    fn pixels(&self, tile: usize) -> [[*const T; 4]; 4] {
        let form = &self.tiling.sizes.form;
        let [map, row, column] = self.tiling.place(tile);
        let mut pixels = [[self.zeros.as_ptr(); 4]; 4];
        for (y, line) in pixels.iter_mut().enumerate() {
            let Some(y) = (2 * row + y).checked_sub(form.before[0]).filter(|y| *y < form.grid[0]) else {
                continue;
            };
            for (x, pixel) in line.iter_mut().enumerate() {
                let Some(x) = (2 * column + x).checked_sub(form.before[1]).filter(|x| *x < form.grid[1])
                else {
                    continue;
                };
                *pixel =
                    self.x[((map * form.grid[0] + y) * form.grid[1] + x) * self.tiling.sizes.c..].as_ptr();
            }
        }
        pixels
    }

    /// # Safety
    /// The processor must have the instructions of `V`, and the channels `channel .. channel + LANES` must exist.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn channels<V: Vector<Scalar = T>>(
        &self,
        pixels: &[[*const T; 4]; 4],
        index: usize,
        channel: usize,
    ) {
        let place = self.tiles.len() * self.step;
        // SAFETY: upheld by the caller.
        unsafe {
            let to = self.v.at(index * self.step + channel);
            let mut left = [[V::splat(T::ZERO); 4]; 4];
            for x in 0..4 {
                let mut d = [V::splat(T::ZERO); 4];
                for y in 0..4 {
                    d[y] = V::load(pixels[y][x].add(channel));
                }
                let d = factors_of_b(d);
                for y in 0..4 {
                    left[y][x] = d[y];
                }
            }
            for y in 0..4 {
                let line = factors_of_b(left[y]);
                for x in 0..4 {
                    line[x].store(to.add((y * 4 + x) * place));
                }
            }
        }
    }
}

/// `Bᵀ d` of a column d.
#[inline(always)]
fn factors_of_b<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 4] {
    [a.sub(c), b.add(c), c.sub(b), b.sub(d)]
}

/// `Aᵀ m A` of each tile of a run, with the epilogue.
struct TransformResults<'a, T> {
    folded: &'a Folded<'a, T>,
    tiling: Tiling,
    tiles: Range<usize>,
    /// `[16, tiles, N]`
    products: Shared<T>,
    y: Shared<T>,
}

impl<T: Real> Kernel for TransformResults<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let n = self.tiling.sizes.n;
        let lanes = T::In::<S>::LANES;
        let across = self.tiling.tiles[1];
        let epilogue = self.folded.epilogue(0, n);
        let mut tile = self.tiles.start;
        while tile < self.tiles.end {
            // The tiles of one line of tiles.
            let end = self.tiles.end.min((tile / across + 1) * across);
            // SAFETY: the caller has the instructions; channels are below N; the rows of the epilogue are those of
            // these tiles, which are computed.
            unsafe {
                for tile in tile..end {
                    let results = self.results(tile);
                    for channel in (0..n - n % lanes).step_by(lanes) {
                        self.channels::<T::In<S>>(&results, tile, channel);
                    }
                    for channel in n - n % lanes..n {
                        self.channels::<T::One>(&results, tile, channel);
                    }
                }
                for rows in self.lines(tile..end) {
                    ApplyRows { epilogue: &epilogue, c: self.y, n, rows }.run::<S>();
                }
            }
            tile = end;
        }
    }
}

impl<T: Real> TransformResults<'_, T> {
    /// The positions of the results of tiles that stand beside each other, for both lines.
    #[inline(always)]
    fn lines(&self, tiles: Range<usize>) -> [Range<usize>; 2] {
        let [height, width] = self.tiling.sizes.form.out();
        let [map, row, column] = self.tiling.place(tiles.start);
        let columns = 2 * column..width.min(2 * (column + tiles.len()));
        let mut lines = [0..0, 0..0];
        for (y, line) in lines.iter_mut().enumerate() {
            if 2 * row + y < height {
                let start = (map * height + 2 * row + y) * width;
                *line = start + columns.start..start + columns.end;
            }
        }
        lines
    }

    /// Where the 2x2 results of a tile go; null outside the map.
    #[inline(always)]
    fn results(&self, tile: usize) -> [[*mut T; 2]; 2] {
        let mut results = [[std::ptr::null_mut(); 2]; 2];
        for (line, results) in self.lines(tile..tile + 1).into_iter().zip(&mut results) {
            for (position, result) in line.zip(results) {
                *result = self.y.at(position * self.tiling.sizes.n);
            }
        }
        results
    }

    /// # Safety
    /// The processor must have the instructions of `V`, and the channels `channel .. channel + LANES` must exist.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn channels<V: Vector<Scalar = T>>(
        &self,
        results: &[[*mut T; 2]; 2],
        tile: usize,
        channel: usize,
    ) {
        let (n, place) = (self.tiling.sizes.n, self.tiles.len() * self.tiling.sizes.n);
        // SAFETY: upheld by the caller.
        unsafe {
            let from = self.products.at((tile - self.tiles.start) * n + channel);
            let mut left = [[V::splat(T::ZERO); 4]; 2];
            for x in 0..4 {
                let mut m = [V::splat(T::ZERO); 4];
                for y in 0..4 {
                    m[y] = V::load(from.add((y * 4 + x) * place));
                }
                let m = factors_of_a(m);
                for y in 0..2 {
                    left[y][x] = m[y];
                }
            }
            for y in 0..2 {
                let line = factors_of_a(left[y]);
                for x in 0..2 {
                    if !results[y][x].is_null() {
                        line[x].store(results[y][x].add(channel));
                    }
                }
            }
        }
    }
}

/// `Aᵀ m` of a column m.
#[inline(always)]
fn factors_of_a<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 2] {
    [a.add(b).add(c), b.sub(c).sub(d)]
}
