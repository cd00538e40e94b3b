//! Image to tokens.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::norm::{LayerNorm, NormConfig};
use super::parameter;

/// The projection of a flattened patch, held as the equivalent convolution's kernel.
#[derive(Module, Debug)]
pub struct PatchProjection {
    /// `[D, C, P, P]`.
    pub weight: Param<Tensor<4>>,
    /// `[D]`.
    pub bias: Option<Param<Tensor<1>>>,
}

/// How a [`PatchEmbed`] is built.
#[derive(Clone, Copy, Debug)]
pub struct PatchEmbedConfig {
    /// `C`.
    pub in_chans: usize,
    /// `P`: height and width of a patch.
    pub patch_size: [usize; 2],
    /// `D`.
    pub dim: usize,
    /// Bias of the projection.
    pub bias: bool,
    /// A norm on the pixels of each patch.
    pub norm_pixels: bool,
    /// A norm on each token.
    pub norm: bool,
    /// The form of both.
    pub form: NormConfig,
}

/// Cuts an image into non-overlapping patches and projects each to a token (paper, equation 1). The convolution
/// with stride `P` is computed as a matrix product.
///
/// Norms may stand before and after it (Kumar et al. 2023, "Dual PatchNorm", arXiv:2302.01327).
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// Norm of each patch's `C·P·P` pixels, in the order of the kernel: channels, rows, columns.
    pub norm_pixels: Option<LayerNorm>,
    /// `C·P·P -> D`.
    pub proj: PatchProjection,
    /// Norm of the tokens.
    pub norm: Option<LayerNorm>,
}

impl PatchEmbed {
    /// A projection, with the norms that the configuration asks for.
    pub fn new(config: &PatchEmbedConfig, device: &Device) -> Self {
        let PatchEmbedConfig { in_chans, patch_size: [p, q], dim, bias, form, .. } = *config;
        let norm = |wanted: bool, width| wanted.then(|| form.build(width, device));
        let weight = parameter([dim, in_chans, p, q], device);
        Self {
            norm_pixels: norm(config.norm_pixels, in_chans * p * q),
            proj: PatchProjection { weight, bias: bias.then(|| parameter([dim], device)) },
            norm: norm(config.norm, dim),
        }
    }

    /// `[B, C, H, W] -> ([B, N, D], [H/P, W/P])`, patches row by row. Pixels at the right and bottom that do not
    /// fill a patch are left out, as in a strided convolution.
    ///
    /// # Panics
    /// For an empty batch, images without a patch, and another number of channels or float type than the weight's.
    pub fn forward(&self, images: Tensor<4>) -> (Tensor<3>, [usize; 2]) {
        let [b, _, h, w] = images.dims();
        let [_, _, p, q] = self.proj.weight.lazy_shape().dims::<4>();
        assert!(b > 0 && h >= p && w >= q, "patch_embed: {b} images of {h}x{w} hold no patch of {p}x{q}");
        let images = match &self.norm_pixels {
            Some(norm) => normed(images, [p, q], norm),
            None => images,
        };
        let bias = self.proj.bias.as_ref().map(|bias| bias.val());
        let tokens = vitrum_kernels::patch_embed(images, self.proj.weight.val(), bias);
        let tokens = match &self.norm {
            Some(norm) => norm.forward(tokens),
            None => tokens,
        };
        (tokens, [h / p, w / q])
    }
}

/// Images whose patches went through a norm, each as one vector: `[B, C, H, W]`, without what fills no patch.
fn normed(images: Tensor<4>, [p, q]: [usize; 2], norm: &LayerNorm) -> Tensor<4> {
    let [b, c, h, w] = images.dims();
    let [gh, gw] = [h / p, w / q];
    let whole = images.narrow(2, 0, gh * p).narrow(3, 0, gw * q);
    let patches = whole.reshape([b, c, gh, p, gw, q]).permute([0, 2, 4, 1, 3, 5]); // [B, H/P, W/P, C, P, P]
    let patches = norm.forward(patches.reshape([b, gh * gw, c * p * q]));
    let patches = patches.reshape([b, gh, gw, c, p, q]).permute([0, 3, 1, 4, 2, 5]); // [B, C, H/P, P, W/P, P]
    patches.reshape([b, c, gh * p, gw * q])
}
