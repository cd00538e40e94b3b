//! Operand B of products, packed once for many calls.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Line, SLACK, View, pack_strips, sum_blocks};
use crate::simd::{self, Kernel, Real, Simd};

/// A matrix `[k, n]` in the order of the innermost loop. For each block of the sum it holds all strips one after the
/// other, each `[terms, width of a tile]`. Columns after the last one are zeros.
pub(crate) struct Packed<T> {
    k: usize,
    n: usize,
    /// Width of a tile in numbers, at the level in use.
    width: usize,
    lines: Vec<Line>,
    of: PhantomData<T>,
}

impl<T: Real> Packed<T> {
    /// Packs a view of `[k, n]`.
    pub(crate) fn new(b: View<T>, k: usize, n: usize) -> Self {
        b.check([k, n]);
        let width = super::tile_shape::<T>()[1];
        let mut packed = Self { k, n, width, lines: Vec::new(), of: PhantomData };
        let numbers = packed.strips() * width * k + SLACK;
        let to = Line::reserve::<T>(&mut packed.lines, numbers);
        for terms in sum_blocks(k) {
            let to = to.wrapping_add(packed.start(&terms, 0));
            simd::run(PackBlock { b, n, strips: 0..packed.strips(), terms, to });
        }
        packed
    }

    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.k, self.n]
    }

    fn strips(&self) -> usize {
        self.n.div_ceil(self.width)
    }

    /// Offset of a strip of a block of the sum, in numbers.
    fn start(&self, terms: &Range<usize>, strip: usize) -> usize {
        (terms.start * self.strips() + strip * terms.len()) * self.width
    }

    /// Pointer to a strip of a block of the sum.
    pub(super) fn strip(&self, terms: &Range<usize>, strip: usize) -> *const T {
        self.lines.as_ptr().cast::<T>().wrapping_add(self.start(terms, strip))
    }

    /// The matrix row by row.
    pub(crate) fn unpack(&self) -> Vec<T> {
        let mut rows = Vec::with_capacity(self.k * self.n);
        for terms in sum_blocks(self.k) {
            for p in 0..terms.len() {
                for strip in 0..self.strips() {
                    let columns = self.width.min(self.n - strip * self.width);
                    let from = self.strip(&terms, strip).wrapping_add(p * self.width);
                    // SAFETY: the strip was packed and has `width` numbers per term.
                    rows.extend_from_slice(unsafe { std::slice::from_raw_parts(from, columns) });
                }
            }
        }
        rows
    }
}

/// All strips of one block of the sum. The next block overwrites what packing leaves after the end.
struct PackBlock<'a, T> {
    b: View<'a, T>,
    n: usize,
    strips: Range<usize>,
    terms: Range<usize>,
    to: *mut T,
}

impl<T: Real> Kernel for PackBlock<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: there is space for the strips, and for what packing may write after them.
        unsafe { pack_strips::<T, T::In<S>>(&self.b, self.n, self.strips, &self.terms, self.to) };
    }
}
