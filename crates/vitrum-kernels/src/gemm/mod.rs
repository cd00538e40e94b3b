//! The matrix product behind linear layers: `C = A B`, with an epilogue while the numbers are in cache.
//!
//! The scheme is that of Goto and van de Geijn (doi:10.1145/1356052.1356053). The sum is cut into blocks of at most
//! [`DEPTH`] terms. For each block, strips of A as high as a tile and strips of B as wide as a tile are packed in the
//! order in which the innermost loop reads them. A tile of C stays in registers for the whole block. The output is cut
//! into a grid of rows and columns for the threads.
//!
//! Every element is computed by the same sequence of operations however the output is cut: one chain of fused
//! multiply-adds per block of the sum, with blocks added in order. The blocks depend on `k` alone. So the numbers of a
//! row depend neither on the number of threads nor on the other rows.
//!
//! # Speed
//!
//! Two Zen 5 cores with AVX-512, `f32`. The peak from registers alone is 235 GFLOP/s with one thread and 468 with two.
//! The table shows GFLOP/s of the product with two threads, best of nine, before experiment G4 below. Its columns are
//! terms × columns of the product for M rows. One thread reached 78 to 94 % of its peak, least at 197 × 768 × 3072.
//!
//! | M | D | D × 3D | D × D | D × 4D | 4D × D |
//! |---|---|---|---|---|---|
//! | 197 | 192 | 383 | 338 | 394 | 369 |
//! | 197 | 768 | 386 | 412 | 379 | 396 |
//! | 1576 | 768 | 383 | 403 | 370 | 378 |
//! | 4160 | 192 | 376 | 355 | 384 | 346 |
//!
//! # Experiments
//!
//! | Id | Experiment | Verdict | Code | Commit |
//! |---|---|---|---|---|
//! | G1 | Pack strips with a loop over a width known only at run time | dropped | not in git | ec787e1 |
//! | G2 | Pack B once for all calls | kept | in git | cd4b443 |
//! | G3 | Packed weights in pages of 2 MB | dropped | not in git | cd4b443 |
//! | G4 | Pack B row by row through all strips | kept | in git | ec787e1 |
//! | G5 | Read A in place if few strips of B use it | kept | in git | 9f61414 |
//! | G6 | Read A in place also if A is small | kept | in git | cd4b443 |
//! | G7 | Copy A row by row instead of transposing it | dropped | not in git | cd4b443 |
//! | G8 | Prefetch the next unpacked block of B during the tiles | dropped | not in git | ec787e1 |
//! | G9 | Prefetch the rows of B six instead of two ahead while packing | dropped | constant | 484f99f |
//! | G10 | Keep workers awake between the products of a pass | dropped | not in git | 484f99f |
//! | G11 | Other sizes of blocks | dropped | constant | ec787e1 |
//! | G12 | Whole tiles in the epilogue without a check of each piece's length | kept | in git | 98cedd7 |
//! | G13 | Activations as closures | dropped | not in git | ec787e1 |
//!
//! To run one again: "in git" means that the commit made the change, so compare it with its parent. "Constant" means
//! that editing a constant is the whole change. "Not in git" means that the commit recorded only the result. Compare
//! with the benches of linear layers, MLPs and activations, or with `vitrum bench` for whole models:
//!
//! ```text
//! cargo bench -p vitrum-kernels --bench ops -- linear
//! ```
//!
//! Results, in GFLOP/s as above where no unit is given:
//!
//! - G1: 308, with four prefetches per row; whole vectors give 383. Strips of A narrower than a vector use whole
//!   vectors too.
//! - G2: meant to save the 10 % that packing takes at M = 197. It gained 0 to 7 % with weights in cache and 2 to 5 %
//!   with weights out of it (noisy, before G4, which gained as much). It allows prefetching the next strip into the
//!   second-level cache, which gains 5 to 8 %: 204 to 218 of 247 at 197 × 768 × 3072 with one thread. With K = 256 and
//!   all in cache the loop reaches 240. Used for inference ([`Packed`]).
//! - G3: no change.
//! - G4: it touches fewer pages at once. 177 to 196 at 197 × 768 × 3072 with one thread, 3 to 5 % elsewhere.
//! - G5: 1.05 to 1.07 times as fast with 192 columns, 1.00 to 1.07 with 384 to 768, 0.96 to 0.98 with more (median of
//!   five alternating rounds, one thread). Rows at multiples of 2 KB are still packed. Before, with two threads and one
//!   image, each thread packed A for half of the columns.
//! - G6: with packed weights 1.00 to 1.05 up to 197 rows of 768 and more strips, 0.98 with 788 rows.
//! - G7: 0.95 to 1.03.
//! - G8: no change.
//! - G9: no change. The distance is in `pack::side_by_side`.
//! - G10: no change: 8.4 ms for ViT-Ti with one image either way.
//! - G11: 192, 384, 512, 768 terms, 4 or 16 strips, 192 or 768 rows: within the noise of 5 %. The constants are DEPTH,
//!   STRIPS and ROWS.
//! - G12: GELU went from 4.5 to 3.4 % of ViT-Ti. With G5 and a grid of equal shares, ViT-Ti with one image went from
//!   8.5 to 7.7 ms.
//! - G13: 28 to 190, since closures are never inlined and so are compiled without vector instructions. Written out: 285
//!   to 400.

mod epilogue;
mod pack;
mod packed;
mod patches;
mod terms;
mod tile;

pub(crate) use epilogue::{ApplyRows, Epilogue};
pub(crate) use packed::Packed;
use patches::PackPatches;
pub(crate) use patches::{Patches, Window};
pub(crate) use terms::{Numbers, Pairs, Terms};
pub(crate) use tile::Tile;

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use crate::prefetch::PrefetchQueue;
use crate::simd::{self, Kernel, Real, Simd, Vector};
use crate::threads::{Shared, for_each_block, share, threads, with_kept};
use pack::{SLACK, Strip};

/// Terms of the sum per block. A strip of B then takes 32 KB of the first-level cache at any level and type.
const DEPTH: usize = 256;
/// Rows of A that are packed together: 384 KB of `f32`, a share of the second-level cache.
const ROWS: usize = 384;
/// A is read in place, where possible, if at most this many strips of B use it.
const FEW_STRIPS: usize = 16;
/// A is also read in place, where possible, if it has at most this many bytes, a share of the second-level cache.
const CACHED_A_BYTES: usize = 640 << 10;
/// Rows of A at a multiple of this distance (in bytes) evict each other from the first-level cache.
pub(crate) const CONFLICT_STRIDE: usize = 2048;
/// Strips of B that are packed together: 256 KB with AVX-512.
const STRIPS: usize = 8;
/// Blocks of the grid per thread, so that other threads can help a delayed one.
const SHARES: usize = 4;

/// A matrix in memory.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, T> {
    values: &'a [T],
    /// Steps between rows and between columns.
    steps: [usize; 2],
}

impl<'a, T: Real> View<'a, T> {
    /// `[rows, columns]`, contiguous and row by row.
    pub(crate) fn rows(values: &'a [T], rows: usize, columns: usize) -> Self {
        Self::new(values, [rows, columns], [columns, 1])
    }

    /// The same numbers, read as the transpose `[columns, rows]`.
    pub(crate) fn columns(values: &'a [T], rows: usize, columns: usize) -> Self {
        Self::new(values, [columns, rows], [1, columns])
    }

    /// `[rows, columns]` with these steps between rows and between columns.
    pub(crate) fn new(values: &'a [T], shape: [usize; 2], steps: [usize; 2]) -> Self {
        let view = Self { values, steps };
        view.check(shape);
        view
    }

    /// Panics unless `shape` lies within the numbers.
    fn check(&self, [rows, columns]: [usize; 2]) {
        let last = |length: usize, step: usize| length.saturating_sub(1).saturating_mul(step);
        let end = last(rows, self.steps[0]).saturating_add(last(columns, self.steps[1]));
        assert!(rows == 0 || columns == 0 || end < self.values.len(), "a matrix exceeds its numbers");
    }

    /// Whether rows are contiguous and the rows of a tile do not share a few sets of the first-level cache, so that
    /// they can be read in place.
    fn is_cache_friendly(&self) -> bool {
        self.steps[1] == 1 && !(self.steps[0] * size_of::<T>()).is_multiple_of(CONFLICT_STRIDE)
    }

    fn at(&self, row: usize, column: usize) -> *const T {
        self.values.as_ptr().wrapping_add(row * self.steps[0] + column * self.steps[1])
    }
}

/// Operand A of a product, `[m, k]`.
#[derive(Clone, Copy)]
pub(crate) enum OperandA<'a, T> {
    /// A matrix in memory.
    View(View<'a, T>),
    /// The patches of a convolution, row by row; they exist only as packed strips.
    Patches(&'a Patches<'a, T>),
    /// The transpose of the patches.
    PatchColumns(&'a Patches<'a, T>),
}

impl<'a, T> From<View<'a, T>> for OperandA<'a, T> {
    fn from(view: View<'a, T>) -> Self {
        OperandA::View(view)
    }
}

impl<T: Real> OperandA<'_, T> {
    /// Panics unless the operand is `[m, k]`.
    fn check(&self, [m, k]: [usize; 2]) {
        match self {
            OperandA::View(view) => view.check([m, k]),
            OperandA::Patches(patches) => assert_eq!(patches.shape(), [m, k], "patches of another shape"),
            OperandA::PatchColumns(patches) => {
                assert_eq!(patches.shape(), [k, m], "patches of another shape")
            }
        }
    }

    /// The matrix, if its rows can be read in place.
    fn in_place(&self) -> Option<&View<'_, T>> {
        match self {
            OperandA::View(view) if view.is_cache_friendly() => Some(view),
            _ => None,
        }
    }

    /// Packs `rows` and `terms` as a strip.
    ///
    /// # Safety
    /// As [`Strip::pack`].
    #[inline(always)]
    unsafe fn pack<V: Vector<Scalar = T>>(&self, rows: &Range<usize>, terms: &Range<usize>, to: *mut T) {
        let (patches, turned) = match self {
            OperandA::View(view) => {
                let strip = Strip::of_rows(view, rows.start, rows.len(), terms.start, terms.len());
                // SAFETY: upheld by the caller.
                return unsafe { strip.pack::<V>(rows.len(), to) };
            }
            OperandA::Patches(patches) => (patches, false),
            OperandA::PatchColumns(patches) => (patches, true),
        };
        simd::run(PackPatches { patches, rows: rows.clone(), terms: terms.clone(), to, turned });
    }
}

/// Operand B of a product, `[k, n]`.
pub(crate) enum OperandB<'a, T> {
    /// Packed during the product.
    View(View<'a, T>),
    /// Packed before.
    Packed(&'a Packed<T>),
}

impl<'a, T> From<View<'a, T>> for OperandB<'a, T> {
    fn from(view: View<'a, T>) -> Self {
        OperandB::View(view)
    }
}

impl<'a, T> From<&'a Packed<T>> for OperandB<'a, T> {
    fn from(packed: &'a Packed<T>) -> Self {
        OperandB::Packed(packed)
    }
}

impl<T: Real> OperandB<'_, T> {
    /// Panics unless the operand is `[k, n]`.
    fn check(&self, shape: [usize; 2]) {
        match self {
            OperandB::View(view) => view.check(shape),
            OperandB::Packed(packed) => assert_eq!(packed.shape(), shape, "a packed matrix of another shape"),
        }
    }
}

/// `C = A B` or `C += A B`, followed by an epilogue.
pub(crate) struct Gemm<'a, T> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// `[m, k]`
    pub a: OperandA<'a, T>,
    /// `[k, n]`
    pub b: OperandB<'a, T>,
    /// Step between rows of C, and of the matrices of the epilogue.
    pub c_step: usize,
    /// Whether to add to what is in C.
    pub add: bool,
    pub epilogue: Epilogue<'a, T>,
}

impl<'a, T: Real> Gemm<'a, T> {
    /// `C = A B` with contiguous rows of C and without an epilogue.
    pub(crate) fn new(
        [m, n, k]: [usize; 3],
        a: impl Into<OperandA<'a, T>>,
        b: impl Into<OperandB<'a, T>>,
    ) -> Self {
        Self { m, n, k, a: a.into(), b: b.into(), c_step: n, add: false, epilogue: Epilogue::Nothing }
    }

    /// With this epilogue.
    pub(crate) fn then(self, epilogue: Epilogue<'a, T>) -> Self {
        Self { epilogue, ..self }
    }
}

impl<T: Real> Gemm<'_, T> {
    /// Computes C, `[m, n]`, row by row.
    ///
    /// # Safety
    /// `c` must have space for `m` rows of `n` numbers, `c_step` apart, that no other thread uses. If `add` is set, they
    /// must be initialised. The same holds for the buffers that the epilogue writes.
    pub(crate) unsafe fn run(&self, c: Shared<T>) {
        // SAFETY: upheld by the caller.
        unsafe { self.run_terms::<Numbers>(c) }
    }

    /// Computes C with terms of another kind.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    pub(crate) unsafe fn run_terms<R: Terms<T>>(&self, c: Shared<T>) {
        self.check();
        if self.m == 0 || self.n == 0 {
            return;
        }
        let grid = Grid::new(self.m, self.n, tile_shape::<T>(), threads());
        let cost = self.m.saturating_mul(self.n).saturating_mul(self.k.max(1));
        for_each_block(
            grid.row_blocks * grid.column_blocks,
            cost,
            || (),
            |(), index| {
                let (row, column) = (index % grid.row_blocks, index / grid.row_blocks);
                let tiles = share(grid.tiles, grid.row_blocks, row);
                let strips = share(grid.strips, grid.column_blocks, column);
                with_kept(&SCRATCH, |scratch| {
                    R::run(Block::<T, R>::new(self, grid, tiles, strips, scratch, c))
                });
            },
        );
    }
}

impl<T: Real> Gemm<'_, T> {
    /// Computes C with the calling thread alone, rows first: for a thread that takes its rows through several products.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    pub(crate) unsafe fn run_alone<R: Terms<T>>(&self, c: Shared<T>) {
        self.check();
        if self.m == 0 || self.n == 0 {
            return;
        }
        let grid = Grid::new(self.m, self.n, tile_shape::<T>(), 1);
        for block in 0..grid.row_blocks {
            let tiles = share(grid.tiles, grid.row_blocks, block);
            let strips = 0..grid.strips;
            with_kept(&SCRATCH, |scratch| R::run(Block::<T, R>::new(self, grid, tiles, strips, scratch, c)));
        }
    }

    fn check(&self) {
        self.a.check([self.m, self.k]);
        self.b.check([self.k, self.n]);
        assert!(self.c_step >= self.n, "rows of C overlap");
        self.epilogue.check(self.m, self.n, self.c_step);
    }
}

/// Blocks of a sum of `k` terms.
fn sum_blocks(k: usize) -> impl Iterator<Item = Range<usize>> {
    let blocks = k.div_ceil(DEPTH).max(1);
    (0..blocks).map(move |block| share(k, blocks, block))
}

/// The largest height of a tile, and its width in numbers.
fn tile_shape<T: Real>() -> [usize; 2] {
    struct TileShape<T>(PhantomData<T>);
    impl<T: Real> Kernel for TileShape<T> {
        type Output = [usize; 2];
        #[inline(always)]
        unsafe fn run<S: Simd>(self) -> [usize; 2] {
            [height::<S>(), WIDTH * T::In::<S>::LANES]
        }
    }
    simd::run(TileShape::<T>(PhantomData))
}

/// The largest height of a tile: sums fill 24 of 32 registers, or 12 of 16.
const fn height<S: Simd>() -> usize {
    if S::MANY_REGISTERS { TALLEST } else { 6 }
}

/// The largest height of a tile at any level.
const TALLEST: usize = 12;

/// Width of a tile in vectors.
const WIDTH: usize = 2;

/// How the output is cut.
#[derive(Clone, Copy)]
struct Grid {
    /// Number of tiles down the rows; their heights differ by at most one.
    tiles: usize,
    /// Number of tiles across the columns.
    strips: usize,
    row_blocks: usize,
    column_blocks: usize,
}

impl Grid {
    fn new(m: usize, n: usize, [height, width]: [usize; 2], threads: usize) -> Self {
        let (tiles, strips) = (m.div_ceil(height), n.div_ceil(width));
        let mut row_blocks = tiles.div_ceil(ROWS / height);
        // If there are too few blocks of rows, columns are cut too, into blocks large enough to pay for packing A
        // again.
        let wanted = (threads * SHARES).div_ceil(row_blocks).min(strips / STRIPS);
        let fewest = threads.div_ceil(row_blocks).min(strips);
        let column_blocks = (wanted - wanted % threads).max(fewest);
        if !(row_blocks * column_blocks).is_multiple_of(threads) {
            // An equal number for each thread: with five blocks for two threads, one would idle a fifth of the time.
            row_blocks = row_blocks.next_multiple_of(threads).min(tiles);
        }
        Self { tiles, strips, row_blocks, column_blocks }
    }
}

/// Rows of A for one block of the sum.
#[derive(Clone, Copy)]
struct BlockA<T> {
    at: *const T,
    /// Step between rows; `None` if A is packed tile by tile.
    step: Option<usize>,
}

/// Some tiles and strips of a product.
struct Block<'a, T, R> {
    call: &'a Gemm<'a, T>,
    grid: Grid,
    tiles: Range<usize>,
    strips: Range<usize>,
    scratch: &'a mut Vec<Line>,
    c: Shared<T>,
    terms: PhantomData<R>,
}

impl<T: Real, R: Terms<T>> Kernel for Block<'_, T, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: upheld by the caller.
        unsafe {
            match height::<S>() {
                TALLEST => self.sums::<S, TALLEST>(),
                _ => self.sums::<S, 6>(),
            }
        }
    }
}

impl<'a, T: Real, R: Terms<T>> Block<'a, T, R> {
    fn new(
        call: &'a Gemm<'a, T>,
        grid: Grid,
        tiles: Range<usize>,
        strips: Range<usize>,
        scratch: &'a mut Vec<Line>,
        c: Shared<T>,
    ) -> Self {
        Self { call, grid, tiles, strips, scratch, c, terms: PhantomData }
    }

    /// Rows of tile `index`.
    fn tile_rows(&self, index: usize) -> Range<usize> {
        share(self.call.m, self.grid.tiles, index)
    }

    /// # Safety
    /// Here and below: the processor must have the instructions of `S`, and the conditions of [`Gemm::run`] hold.
    #[inline(always)]
    unsafe fn sums<S: Simd, const MR: usize>(self) {
        let call = self.call;
        let width = WIDTH * T::In::<S>::LANES;
        let rows = self.tile_rows(self.tiles.start).start..self.tile_rows(self.tiles.end - 1).end;
        let depth = call.k.min(DEPTH);
        let is_cached = rows.len() * call.k * size_of::<T>() <= CACHED_A_BYTES;
        let in_place = call.a.in_place().filter(|_| is_cached || self.strips.len() <= FEW_STRIPS);
        let a_length =
            if in_place.is_some() { 0 } else { (rows.len() * depth + SLACK).next_multiple_of(LINE_NUMBERS) };
        let length = a_length + STRIPS * width * depth + SLACK;
        let a = Line::reserve::<T>(self.scratch, length);
        let b = a.wrapping_add(a_length);
        for terms in sum_blocks(call.k) {
            // SAFETY: the scratch has space for the rows and for STRIPS strips.
            unsafe {
                let block_a = match in_place {
                    Some(a) => BlockA { at: a.at(rows.start, terms.start), step: Some(a.steps[0]) },
                    None => self.pack_a::<T::In<S>>(&terms, a),
                };
                for first in self.strips.clone().step_by(STRIPS) {
                    let strips = first..self.strips.end.min(first + STRIPS);
                    let b = match &call.b {
                        OperandB::Packed(packed) => packed.strip(&terms, strips.start),
                        OperandB::View(view) => {
                            pack_strips::<T, T::In<S>>(view, call.n, strips.clone(), &terms, b);
                            b.cast_const()
                        }
                    };
                    self.tiles::<S, MR>(&terms, strips, block_a, b);
                }
            }
        }
    }

    /// Packs the rows of A, tile by tile.
    #[inline(always)]
    unsafe fn pack_a<V: Vector<Scalar = T>>(&self, terms: &Range<usize>, mut to: *mut T) -> BlockA<T> {
        let block_a = BlockA { at: to.cast_const(), step: None };
        for tile in self.tiles.clone() {
            let rows = self.tile_rows(tile);
            // SAFETY: the strip lies within the rows of A and the terms of the sum; strips are written one after the
            // other.
            unsafe { self.call.a.pack::<V>(&rows, terms, to) };
            to = to.wrapping_add(rows.len() * terms.len());
        }
        block_a
    }

    /// Computes the tiles of some packed strips.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const MR: usize>(
        &self,
        terms: &Range<usize>,
        strips: Range<usize>,
        block_a: BlockA<T>,
        b: *const T,
    ) {
        let (call, k, width) = (self.call, terms.len(), WIDTH * T::In::<S>::LANES);
        let (add, last) = (call.add || terms.start > 0, terms.end == call.k);
        for (index, strip) in strips.enumerate() {
            let b = b.wrapping_add(index * width * k);
            let columns = strip * width..call.n.min((strip + 1) * width);
            let mut a = block_a.at;
            let mut queue = PrefetchQueue::new(b, width * k);
            for tile in self.tiles.clone() {
                let rows = self.tile_rows(tile);
                // SAFETY: the tile lies in C, whose validity the caller upholds; packed strips have `k` terms.
                unsafe {
                    let c = self.c.at(rows.start * call.c_step + columns.start);
                    let (b_step, c_step, ahead) = (width, call.c_step, queue.lines(k));
                    let tile = Tile { k, a, b, b_step, c, c_step, add, ahead };
                    if columns.len() == width {
                        tile.of_height::<S, R, WIDTH, MR>(block_a.step, rows.len());
                    } else {
                        tile.narrow::<S, R, MR>(block_a.step, rows.len(), columns.len());
                    }
                    if last {
                        call.epilogue.apply::<T::In<S>>(&self.c, call.c_step, rows.clone(), columns.clone());
                    }
                }
                a = a.wrapping_add(rows.len() * block_a.step.unwrap_or(k));
            }
        }
    }
}

/// Packs strips of `b`, `[k, n]`, for one block of the sum.
///
/// # Safety
/// As [`Strip::pack`], for all strips.
#[inline(always)]
unsafe fn pack_strips<T: Real, V: Vector<Scalar = T>>(
    b: &View<T>,
    n: usize,
    strips: Range<usize>,
    terms: &Range<usize>,
    to: *mut T,
) {
    let width = WIDTH * V::LANES;
    let whole = if b.steps[1] == 1 { (n / width).clamp(strips.start, strips.end) } else { strips.start };
    // SAFETY: the strips lie within the columns of B and the terms of the sum.
    unsafe {
        let from = b.at(terms.start, strips.start * width);
        pack::side_by_side::<V>(from, b.steps[0], whole - strips.start, terms.len(), to);
        for (index, strip) in strips.clone().enumerate().skip(whole - strips.start) {
            let first = strip * width;
            let strip = Strip::of_columns(b, first, width.min(n - first), terms.start, terms.len());
            strip.pack::<V>(width, to.wrapping_add(index * width * terms.len()));
        }
    }
}

/// A cache line of scratch, so that packed operands are aligned to cache lines.
#[derive(Clone, Copy)]
#[repr(align(64))]
// The field only gives the line its size; it is used through pointers.
pub(crate) struct Line(#[allow(dead_code)] [MaybeUninit<u8>; 64]);

impl Line {
    /// Ensures space for this many numbers.
    pub(crate) fn reserve<T>(lines: &mut Vec<Line>, numbers: usize) -> *mut T {
        let length = (numbers * size_of::<T>()).div_ceil(size_of::<Line>());
        if lines.len() < length {
            lines.clear();
            lines.reserve_exact(length);
            // SAFETY: the capacity is there, and uninitialised bytes are valid values.
            unsafe { lines.set_len(length) };
        }
        lines.as_mut_ptr().cast()
    }
}

/// Numbers per line for the smallest type; a multiple of it is a whole number of lines for any type.
const LINE_NUMBERS: usize = 16;

// Kept between calls: fresh pages would cost as much as packing.
thread_local!(static SCRATCH: Cell<Vec<Line>> = const { Cell::new(Vec::new()) });
