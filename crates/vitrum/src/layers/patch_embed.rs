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
    #[module(skip)]
    prepared: Option<Tensor<2>>,
}

impl PatchProjection {
    /// Keeps the kernel as the matrix `[C·P·P, D]` that a forward pass wants, for answering alone: it is made from
    /// values that no longer change. Else it is made anew each time.
    pub fn prepare(&mut self) {
        let kernel = self.matrix();
        let data = kernel.to_data(); // in the order of the matrix, not of the kernel
        self.prepared = Some(Tensor::from_data(data, (&kernel.device(), kernel.dtype())));
    }

    /// Forgets the prepared form, so that the parameter is what counts again.
    pub fn forget_prepared(&mut self) {
        self.prepared = None;
    }

    /// `[C·P·P, D]`.
    fn matrix(&self) -> Tensor<2> {
        let weight = self.weight.val();
        let [d, c, p, q] = weight.dims();
        weight.reshape([d, c * p * q]).transpose()
    }
}

/// Cuts an image into patches that do not overlap and projects each to a token
/// (paper, equation 1). The convolution with stride `P` is written as the product it is.
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
        Self {
            proj: PatchProjection { weight, bias: bias.then(|| parameter([dim], device)), prepared: None },
        }
    }

    /// `[B, C, H, W] -> ([B, N, D], [H/P, W/P])`, patches row by row. Rows and columns of pixels that
    /// do not fill a patch are left out, as a strided convolution leaves them out.
    pub fn forward(&self, images: Tensor<4>) -> (Tensor<3>, [usize; 2]) {
        let [b, c, h, w] = images.dims();
        let [d, _, p, q] = self.proj.weight.lazy_shape().dims::<4>();
        let (gh, gw) = (h / p, w / q);
        let images = if [gh * p, gw * q] == [h, w] {
            images
        } else {
            images.narrow(2, 0, gh * p).narrow(3, 0, gw * q)
        };
        let patches = images.reshape([b, c, gh, p, gw, q]).permute([0, 2, 4, 1, 3, 5]); // [B, gh, gw, C, P, P]
        let patches: Tensor<2> = patches.reshape([b * gh * gw, c * p * q]);
        let kernel = self.proj.prepared.clone().unwrap_or_else(|| self.proj.matrix());
        let bias = self.proj.bias.as_ref().map(|bias| bias.val());
        let tokens = vitrum_kernels::linear(patches, kernel, bias); // [B·N, D]
        (tokens.reshape([b, gh * gw, d]), [gh, gw])
    }
}
