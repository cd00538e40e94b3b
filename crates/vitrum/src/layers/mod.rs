//! The building blocks of every family: patches → tokens → encoder → one vector.
//!
//! Fields have the names of timm's checkpoints, so a parameter's path in the module is its key in the file. Shape
//! letters: `B` batch, `C` channels, `H W` pixels, `P` patch, `N` patches, `T` tokens (prefix and `N`), `D` width,
//! `A` heads, `E = D/A`, `F` width of the MLP, `L` depth, `K` classes.

pub mod attention;
pub mod batch_norm;
pub mod block;
pub mod conv;
pub mod differential;
pub mod drop;
pub mod init;
pub mod kept;
pub mod linear;
pub mod mask;
pub mod mlp;
pub mod names;
pub mod norm;
pub mod observe;
pub mod parallel;
pub mod patch_embed;
pub mod performer;
pub mod pool;
pub mod position;
pub mod qkv;
pub mod reduced_attention;
pub mod resample;
pub mod rope;
pub mod squeeze_excite;
pub mod swiglu;
pub mod tokens;
pub mod window;

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Shape, Tensor};

pub use linear::{Linear, Prepared};

/// A parameter of zeros. It takes no memory until it is read, so loading a checkpoint does not pay for values that
/// it replaces. [`init::initialize`] gives fresh models their values.
pub fn parameter<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    lazy(shape, device, true, move |device| Tensor::zeros(shape, device))
}

/// A lazy parameter; `trained` says whether an optimiser may change it.
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
