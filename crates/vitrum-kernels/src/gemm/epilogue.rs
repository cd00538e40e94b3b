//! The epilogue of a product, applied to a tile of the output while it is in the first-level cache.

use std::marker::PhantomData;
use std::ops::Range;

use super::WIDTH;
use crate::activation::{Activation, ActivationFn, Differentiable as _, with_activation};
use crate::prefetch::prefetch;
use crate::simd::{Kernel, Real, Simd, Vector};
use crate::threads::Shared;

/// The last step of a product. All matrices are `[m, n]`, row by row at the step of C; vectors are `[n]`.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue<'a, T> {
    /// Leaves C as it is.
    Nothing,
    /// `C = activation(C + bias)`; `keep`, if given, receives the argument of the activation.
    Activate { bias: Option<&'a [T]>, activation: Activation, keep: Option<Shared<T>> },
    /// `C = residual + gamma · (C + bias)`.
    Add { bias: Option<&'a [T]>, gamma: Option<&'a [T]>, residual: &'a [T] },
    /// `C = activation(scale · C + shift + residual)`: a folded norm, with the end of a residual branch.
    Fold { scale: &'a [T], shift: &'a [T], residual: Option<&'a [T]>, activation: Activation },
    /// `C = C · activation'(x)`, the backward pass of an activation; `value` receives `activation(x)`.
    Derivative { x: &'a [T], activation: Activation, value: Shared<T> },
}

/// An epilogue over rows of C, as a job of its own. Its creator must have checked the epilogue for C, and computed the
/// rows.
pub(crate) struct ApplyRows<'a, T> {
    pub epilogue: &'a Epilogue<'a, T>,
    pub c: Shared<T>,
    /// Columns; rows are contiguous.
    pub n: usize,
    pub rows: Range<usize>,
}

impl<T: Real> Kernel for ApplyRows<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: upheld by the caller. The creator of the job has checked the epilogue and computed the rows.
        unsafe { self.epilogue.pieces::<T::In<S>, false>(&self.c, self.n, self.rows, 0..self.n) };
    }
}

/// Part of a row: `count` numbers from offset `at` in each matrix, and from `column` in each vector. With `WHOLE`, it
/// is always a whole vector.
#[derive(Clone, Copy)]
struct Piece<const WHOLE: bool> {
    at: usize,
    column: usize,
    count: usize,
}

impl<const WHOLE: bool> Piece<WHOLE> {
    /// # Safety
    /// The processor must have the instructions of `V`, and the piece must lie within the numbers.
    #[inline(always)]
    unsafe fn load<V: Vector>(self, from: *const V::Scalar) -> V {
        // SAFETY: upheld by the caller.
        unsafe {
            if WHOLE || self.count == V::LANES { V::load(from) } else { V::load_part(from, self.count) }
        }
    }

    /// # Safety
    /// As `load`.
    #[inline(always)]
    unsafe fn store<V: Vector>(self, numbers: V, to: *mut V::Scalar) {
        // SAFETY: upheld by the caller.
        unsafe {
            if WHOLE || self.count == V::LANES {
                numbers.store(to)
            } else {
                numbers.store_part(to, self.count)
            }
        }
    }
}

impl<'a, T: Real> Epilogue<'a, T> {
    /// `C + bias`, or C if there is no bias.
    pub(crate) fn bias(bias: Option<&'a [T]>) -> Self {
        Epilogue::Activate { bias, activation: Activation::Identity, keep: None }
    }

    /// Panics if an operand has another size than `[m, n]` asks for.
    pub(crate) fn check(&self, m: usize, n: usize, step: usize) {
        let vector = |x: &Option<&[T]>| x.is_none_or(|x| x.len() == n);
        let least = if m == 0 { 0 } else { (m - 1) * step + n };
        let matrix = |x: &[T]| x.len() >= least;
        let fits = match self {
            Epilogue::Nothing => true,
            Epilogue::Activate { bias, .. } => vector(bias),
            Epilogue::Add { bias, gamma, residual, .. } => vector(bias) && vector(gamma) && matrix(residual),
            Epilogue::Fold { scale, shift, residual, .. } => {
                scale.len() == n && shift.len() == n && residual.is_none_or(matrix)
            }
            Epilogue::Derivative { x, .. } => matrix(x),
        };
        assert!(fits, "an operand of the epilogue does not fit a product of [{m}, {n}]");
    }

    /// Prefetches what the epilogue adds to a tile of C, before the tile is computed: it comes from memory, which takes
    /// longer than a row of the epilogue.
    #[inline(always)]
    pub(super) fn prefetch(&self, step: usize, rows: Range<usize>, columns: Range<usize>) {
        let residual = match self {
            Epilogue::Add { residual, .. } | Epilogue::Fold { residual: Some(residual), .. } => residual,
            _ => return,
        };
        for row in rows {
            let from = residual.as_ptr().wrapping_add(row * step);
            prefetch(from.wrapping_add(columns.start));
            prefetch(from.wrapping_add(columns.end - 1));
        }
    }

    /// Applies the epilogue to a tile of C, whose rows are `step` apart.
    ///
    /// # Safety
    /// The processor must have the instructions of `V`. The epilogue must be checked. The tile must be computed and lie
    /// in `c`. No other thread may use it, in `c` and in the buffers that are written.
    #[inline(always)]
    pub(super) unsafe fn apply<V: Vector<Scalar = T>>(
        &self,
        c: &Shared<T>,
        step: usize,
        rows: Range<usize>,
        columns: Range<usize>,
    ) {
        // SAFETY: upheld by the caller.
        unsafe {
            if columns.len() == WIDTH * V::LANES {
                self.pieces::<V, true>(c, step, rows, columns);
            } else {
                self.pieces::<V, false>(c, step, rows, columns);
            }
        }
    }

    /// # Safety
    /// As `apply`; with `WHOLE` the columns must be whole vectors.
    #[inline(always)]
    unsafe fn pieces<V: Vector<Scalar = T>, const WHOLE: bool>(
        &self,
        c: &Shared<T>,
        step: usize,
        rows: Range<usize>,
        columns: Range<usize>,
    ) {
        // SAFETY: pieces lie in the tile; `check` has verified the sizes.
        unsafe {
            let (bias, activation, keep) = match *self {
                Epilogue::Nothing => return,
                Epilogue::Activate { bias, activation, keep } => (bias, activation, keep),
                Epilogue::Fold { scale, shift, residual, activation } => {
                    with_activation!(activation, function => {
                        for piece in Pieces::<V, WHOLE>::new(step, rows, columns) {
                            let shift = piece.load::<V>(shift.as_ptr().add(piece.column));
                            let scale = piece.load::<V>(scale.as_ptr().add(piece.column));
                            let mut x = piece.load::<V>(c.at(piece.at)).mul_add(scale, shift);
                            if let Some(residual) = residual {
                                x = x.add(piece.load(residual.as_ptr().add(piece.at)));
                            }
                            piece.store(function.value(x), c.at(piece.at));
                        }
                    });
                    return;
                }
                Epilogue::Add { bias, gamma, residual } => {
                    for piece in Pieces::<V, WHOLE>::new(step, rows, columns) {
                        let x = biased::<V, WHOLE>(piece, c, bias);
                        let residual = piece.load::<V>(residual.as_ptr().add(piece.at));
                        let sum = match gamma {
                            Some(gamma) => x.mul_add(piece.load(gamma.as_ptr().add(piece.column)), residual),
                            None => x.add(residual),
                        };
                        piece.store(sum, c.at(piece.at));
                    }
                    return;
                }
                Epilogue::Derivative { x, activation, value } => {
                    with_activation!(activation, function => {
                        for piece in Pieces::<V, WHOLE>::new(step, rows, columns) {
                            let x = piece.load::<V>(x.as_ptr().add(piece.at));
                            let (active, derivative) = function.value_and_derivative(x);
                            piece.store(active, value.at(piece.at));
                            piece.store(piece.load::<V>(c.at(piece.at)).mul(derivative), c.at(piece.at));
                        }
                    });
                    return;
                }
            };
            if bias.is_none() && activation == Activation::Identity && keep.is_none() {
                return;
            }
            with_activation!(activation, function => {
                for piece in Pieces::<V, WHOLE>::new(step, rows, columns) {
                    let x = biased::<V, WHOLE>(piece, c, bias);
                    if let Some(keep) = keep {
                        piece.store(x, keep.at(piece.at));
                    }
                    piece.store(function.value(x), c.at(piece.at));
                }
            });
        }
    }
}

/// C, plus the bias if there is one.
///
/// # Safety
/// As [`Piece::load`].
#[inline(always)]
unsafe fn biased<V: Vector, const WHOLE: bool>(
    piece: Piece<WHOLE>,
    c: &Shared<V::Scalar>,
    bias: Option<&[V::Scalar]>,
) -> V {
    // SAFETY: upheld by the caller.
    unsafe {
        let x = piece.load::<V>(c.at(piece.at));
        match bias {
            Some(bias) => x.add(piece.load(bias.as_ptr().add(piece.column))),
            None => x,
        }
    }
}

/// The pieces of a tile: whole vectors, and the remainder of each row. This is an iterator, because closures cannot be
/// forced inline and so would be compiled without the instructions of the level.
struct Pieces<V, const WHOLE: bool> {
    /// Step between rows.
    step: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    column: usize,
    of: PhantomData<V>,
}

impl<V: Vector, const WHOLE: bool> Pieces<V, WHOLE> {
    #[inline(always)]
    fn new(step: usize, rows: Range<usize>, columns: Range<usize>) -> Self {
        Self { step, rows, column: columns.start, columns, of: PhantomData }
    }
}

impl<V: Vector, const WHOLE: bool> Iterator for Pieces<V, WHOLE> {
    type Item = Piece<WHOLE>;

    #[inline(always)]
    fn next(&mut self) -> Option<Piece<WHOLE>> {
        if self.column >= self.columns.end {
            self.column = self.columns.start;
            self.rows.start += 1;
        }
        if self.rows.is_empty() {
            return None;
        }
        let column = self.column;
        self.column += V::LANES;
        Some(Piece {
            at: self.rows.start * self.step + column,
            column,
            count: V::LANES.min(self.columns.end - column),
        })
    }
}
