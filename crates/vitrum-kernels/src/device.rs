//! What a device can do.

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device, Tensor};

/// Whether tensors of this device and type take a fast path.
pub fn has_fast_path(device: &Device, dtype: DType) -> bool {
    let flex = matches!(device.as_dispatch().clone().inner(), DispatchDevice::Flex(_));
    flex && matches!(dtype, DType::F32 | DType::F64)
}

/// Whether [`VitrumOps`] is spread over this device's backend.
pub(crate) fn has_extension(device: &Device) -> bool {
    match device.as_dispatch().clone().inner() {
        DispatchDevice::Flex(_) => true,
        #[cfg(any(feature = "vulkan", feature = "webgpu"))]
        DispatchDevice::Cube(_) => true,
        #[allow(unreachable_patterns)] // Burn may have been built with further backends.
        _ => false,
    }
}

/// Whether such layers take tensors like this one: in `f32` on the CPU, outside of training.
pub(crate) fn is_fast<const R: usize>(x: &Tensor<R>) -> bool {
    let device = x.device();
    x.dtype() == DType::F32
        && matches!(device.as_dispatch(), DispatchDevice::Flex(_))
        && !device.is_autodiff()
}
