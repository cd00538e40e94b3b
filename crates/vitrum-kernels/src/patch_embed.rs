//! Patches and their projection: a convolution with equal kernel and stride, computed as a matrix product.
//!
//! Patches are gathered as rows. The numbers of one line of a channel are contiguous in a row. The kernel is read in
//! place. The backward pass gathers the patches again instead of keeping them.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;

use crate::gemm::{Epilogue, Gemm, View};
use crate::linear::{LinearGradients, LinearWants, sum_rows};
use crate::simd::Real;
use crate::threads::{Shared, for_each_block, written};

/// Cost of moving a number, in multiplications (see `threads`).
const COST: usize = 4;

/// Sizes of images `[B, C, H, W]`, a kernel `[D, C, P, Q]` and the grid of whole patches.
#[derive(Clone, Copy)]
struct Sizes {
    b: usize,
    c: usize,
    h: usize,
    w: usize,
    d: usize,
    p: usize,
    q: usize,
    grid: [usize; 2],
}

impl Sizes {
    fn new(images: &FlexTensor, weight: &FlexTensor) -> Self {
        let (images, weight) = (images.shape(), weight.shape());
        let [b, c, h, w] = std::array::from_fn(|axis| images[axis]);
        let [d, _, p, q] = std::array::from_fn(|axis| weight[axis]);
        Self { b, c, h, w, d, p, q, grid: [h / p, w / q] }
    }

    /// Number of patches of all images.
    fn rows(&self) -> usize {
        self.b * self.grid[0] * self.grid[1]
    }

    /// Numbers per patch.
    fn terms(&self) -> usize {
        self.c * self.p * self.q
    }

    /// Calls `work(i, j, count)` for each line of all patches: `count` numbers, from number `i` of the images and
    /// number `j` of the patches on.
    fn for_each_line(&self, work: impl Fn(usize, usize, usize) + Sync + Send) {
        let Self { c, h, w, p, q, grid: [gh, gw], .. } = *self;
        // A block is a row of patches.
        for_each_block(
            self.b * gh,
            self.rows().saturating_mul(self.terms()).saturating_mul(COST),
            || (),
            |(), block| {
                let (image, y) = (block / gh, block % gh);
                for line in 0..c * p {
                    let (channel, inside) = (line / p, line % p);
                    let from = ((image * c + channel) * h + y * p + inside) * w;
                    let to = block * gw * self.terms() + line * q;
                    for x in 0..gw {
                        work(from + x * q, to + x * self.terms(), q);
                    }
                }
            },
        );
    }

    /// The patches `[rows, C·P·Q]`.
    fn patches<T: Real>(&self, images: &[T]) -> Vec<T> {
        // SAFETY: every number of a patch belongs to one line.
        unsafe {
            written(self.rows() * self.terms(), |patches: Shared<T>| {
                self.for_each_line(|from, to, count| {
                    let line = &images[from..from + count];
                    patches.at(to).copy_from_nonoverlapping(line.as_ptr(), count);
                });
            })
        }
    }

    /// Writes patches back to their images; uncovered pixels are zeros.
    fn images<T: Real>(&self, patches: &[T]) -> Vec<T> {
        let mut images = vec![T::ZERO; self.b * self.c * self.h * self.w];
        let to = Shared::new(&mut images);
        self.for_each_line(|at, from, count| {
            // SAFETY: lines of patches do not overlap.
            unsafe { to.part(at, count) }.copy_from_slice(&patches[from..from + count]);
        });
        images
    }
}

/// Tokens `[B, N, D]`. Tensors must be contiguous.
pub(crate) fn forward<T: Real>(
    images: &FlexTensor,
    weight: &FlexTensor,
    bias: Option<&FlexTensor>,
) -> FlexTensor {
    let sizes = Sizes::new(images, weight);
    let (m, k, n) = (sizes.rows(), sizes.terms(), sizes.d);
    let patches = sizes.patches(T::slice(images));
    let (a, b) = (View::rows(&patches, m, k), View::columns(T::slice(weight), n, k));
    let product = Gemm::new([m, n, k], a, b).then(Epilogue::bias(bias.map(T::slice)));
    // SAFETY: the product writes all its numbers.
    let tokens = unsafe { written(m * n, |tokens| product.run(tokens)) };
    T::tensor(tokens, Shape::new([sizes.b, sizes.grid[0] * sizes.grid[1], n]))
}

/// Gradients of images, weight and bias, as far as `wants` asks for them, from the gradient of the tokens.
pub(crate) fn backward<T: Real>(
    images: &FlexTensor,
    weight: &FlexTensor,
    grad: &FlexTensor,
    wants: LinearWants,
) -> LinearGradients<FlexTensor> {
    let sizes = Sizes::new(images, weight);
    let (m, k, n) = (sizes.rows(), sizes.terms(), sizes.d);
    let grad = T::slice(grad);
    let d_images = wants.x.then(|| {
        let (a, b) = (View::rows(grad, m, n), View::rows(T::slice(weight), n, k));
        let product = Gemm::new([m, k, n], a, b);
        // SAFETY: the product writes all its numbers.
        let d_patches: Vec<T> = unsafe { written(m * k, |d_patches| product.run(d_patches)) };
        T::tensor(sizes.images(&d_patches), images.shape())
    });
    let d_weight = wants.weight.then(|| {
        let patches = sizes.patches(T::slice(images));
        let (a, b) = (View::columns(grad, m, n), View::rows(&patches, m, k));
        let product = Gemm::new([n, k, m], a, b);
        // SAFETY: as above.
        T::tensor(unsafe { written(n * k, |d_weight| product.run(d_weight)) }, weight.shape())
    });
    let d_bias = wants.bias.then(|| {
        // SAFETY: all sums are written.
        T::tensor(unsafe { written(n, |sums| sum_rows(grad, n, false, sums)) }, Shape::new([n]))
    });
    (d_images, d_weight, d_bias)
}
