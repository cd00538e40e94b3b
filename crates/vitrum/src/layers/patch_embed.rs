//! Image to tokens.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::parameter;

/// The projection of a flattened patch, held as the equivalent convolution's kernel.
#[derive(Module, Debug)]
pub struct PatchProjection {
    /// `[D, C, P, P]`.
    pub weight: Param<Tensor<4>>,
    /// `[D]`.
    pub bias: Option<Param<Tensor<1>>>,
}

/// Cuts an image into non-overlapping patches and projects each to a token (paper, equation 1). The convolution
/// with stride `P` is computed as a matrix product.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// `C·P·P -> D`.
    pub proj: PatchProjection,
}

impl PatchEmbed {
    /// A projection of `in_chans` × `patch_size` to `dim`.
    pub fn new(in_chans: usize, patch_size: [usize; 2], dim: usize, bias: bool, device: &Device) -> Self {
        let [p, q] = patch_size;
        let weight = parameter([dim, in_chans, p, q], device);
        Self { proj: PatchProjection { weight, bias: bias.then(|| parameter([dim], device)) } }
    }

    /// `[B, C, H, W] -> ([B, N, D], [H/P, W/P])`, patches row by row. Pixels at the right and bottom that do not
    /// fill a patch are left out, as in a strided convolution.
    pub fn forward(&self, images: Tensor<4>) -> (Tensor<3>, [usize; 2]) {
        let [_, _, h, w] = images.dims();
        let [_, _, p, q] = self.proj.weight.lazy_shape().dims::<4>();
        let bias = self.proj.bias.as_ref().map(|bias| bias.val());
        (vitrum_kernels::patch_embed(images, self.proj.weight.val(), bias), [h / p, w / q])
    }
}
