//! The parts every family is made of: patches → tokens → encoder → one vector.
//!
//! Fields are named as in timm's checkpoints, so a parameter's path in the module is its key in the
//! file. Shape letters: `B` batch, `C` channels, `H W` pixels, `P` patch, `N` patches, `T` tokens
//! (`N` and the prefix), `D` width, `A` heads, `E = D/A`, `F` width of the MLP, `L` depth, `K` classes.

pub mod attention;
pub mod batch_norm;
pub mod block;
pub mod drop;
pub mod init;
pub mod linear;
pub mod mlp;
pub mod names;
pub mod norm;
pub mod observe;
pub mod patch_embed;
pub mod pool;
pub mod position;
pub mod resample;
pub mod tokens;

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Shape, Tensor};

pub use linear::{Linear, Prepared};

/// A parameter of zeros that takes no memory until it is read, so that loading a checkpoint never
/// pays for values it is about to replace. [`init::initialize`] gives fresh models their values.
pub fn parameter<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    lazy(shape, device, true, move |device| Tensor::zeros(shape, device))
}

/// A lazily made parameter; `trained` says whether an optimiser may touch it.
pub(crate) fn lazy<const D: usize>(
    shape: [usize; D],
    device: &Device,
    trained: bool,
    make: impl FnOnce(&Device) -> Tensor<D> + Send + Sync + 'static,
) -> Param<Tensor<D>> {
    Param::uninitialized(
        ParamId::new(),
        move |device, require_grad| {
            let value = make(device);
            if require_grad { value.require_grad() } else { value }
        },
        device.clone(),
        trained,
        Shape::from(shape),
    )
}
