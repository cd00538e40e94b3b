//! Which devices have fast paths and the extension.

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device, Tensor};

/// Whether tensors of this device and type take a fast path.
pub fn has_fast_path(device: &Device, dtype: DType) -> bool {
    let flex = matches!(device.as_dispatch().clone().inner(), DispatchDevice::Flex(_));
    flex && matches!(dtype, DType::F32 | DType::F64)
}

/// Whether products in bf16 are computed by the device itself: it has no fast path of this crate, but bf16 of its own.
pub fn narrows(device: &Device) -> bool {
    !has_fast_path(device, DType::F32) && has_extension(device) && device.supports_dtype(DType::BF16)
}

/// Whether the backend of this device implements [`VitrumOps`](crate::extension::VitrumOps).
pub(crate) fn has_extension(device: &Device) -> bool {
    match device.as_dispatch().clone().inner() {
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(_) => true,
        #[allow(unreachable_patterns)] // Burn may have been built with further backends.
        _ => false,
    }
}

/// Whether layers with packed or quantised weights have a fast path for this tensor: `f32` on the CPU, without
/// gradients.
pub(crate) fn is_fast<const R: usize>(x: &Tensor<R>) -> bool {
    let device = x.device();
    x.dtype() == DType::F32
        && matches!(device.as_dispatch(), DispatchDevice::Flex(_))
        && !device.is_autodiff()
}
