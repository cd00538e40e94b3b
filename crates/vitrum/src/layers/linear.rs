//! Linear layers, and forms of their weights that are made for answering alone.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{DType, Device, Tensor, TensorData};
use vitrum_kernels::{
    PackedWeight, QuantizeError, QuantizedWeight, linear_add_int8, linear_add_packed, linear_int8,
    linear_packed, norm_linear_packed,
};

use super::norm::LayerNorm;
use super::{lazy, parameter};

/// A product with a bias: `[.., d_in] -> [.., d_out]`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[d_in, d_out]`; files hold `[d_out, d_in]`.
    pub weight: Param<Tensor<2>>,
    /// `[d_out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    prepared: Option<Prepared>,
}

/// A weight in the form that a forward pass without gradients takes. It is made from values that no longer change:
/// training and loading neither see nor keep it.
#[derive(Clone, Debug)]
pub enum Prepared {
    /// In eight bits.
    Int8(QuantizedWeight),
    /// The same numbers, or these rounded to bf16, in the order in which this processor reads them.
    Packed(PackedWeight),
}

impl Linear {
    /// The prepared form, if there is one.
    pub fn prepared(&self) -> Option<&Prepared> {
        self.prepared.as_ref()
    }

    /// The weight in eight bits, if it is.
    pub fn int8(&self) -> Option<&QuantizedWeight> {
        match &self.prepared {
            Some(Prepared::Int8(weight)) => Some(weight),
            _ => None,
        }
    }

    /// The weight in bf16, if it is.
    pub fn bf16(&self) -> Option<&PackedWeight> {
        self.packed().filter(|weight| weight.is_bf16())
    }

    /// The packed weight, in `f32` or bf16, if it is packed.
    pub fn packed(&self) -> Option<&PackedWeight> {
        match &self.prepared {
            Some(Prepared::Packed(weight)) => Some(weight),
            _ => None,
        }
    }

    /// Forgets the prepared form, so that the parameters are what counts again.
    pub fn forget_prepared(&mut self) {
        self.prepared = None;
    }

    /// Packs the weight, unless it has a prepared form, and gives up the other copy: whoever reads the parameter gets it
    /// unpacked. Does nothing where products would not read it so: on other devices, and in other types than `f32`.
    pub fn pack(&mut self) {
        if self.prepared.is_some() || !vitrum_kernels::has_fast_path(&self.weight.lazy_device(), DType::F32) {
            return;
        }
        let weight = self.weight.val();
        if weight.dtype() != DType::F32 {
            return;
        }
        let shape = weight.dims();
        self.hold_packed(PackedWeight::pack(&floats(weight), shape, self.bias_values().as_deref()));
    }

    /// Rounds the weight to bf16, packs it, and gives up the other copy: whoever reads the parameter gets it rounded. What
    /// meets the weight is rounded from now on, too. A weight in eight bits stays, and so does one on another device than the CPU.
    pub fn round_to_bf16(&mut self) {
        let on_cpu = vitrum_kernels::has_fast_path(&self.weight.lazy_device(), DType::F32);
        if self.int8().is_some() || self.bf16().is_some() || !on_cpu {
            return;
        }
        let shape = self.weight.lazy_shape().dims::<2>();
        let bias = self.bias_values();
        self.hold_packed(PackedWeight::pack_bf16(&floats(self.weight.val()), shape, bias.as_deref()));
    }

    fn hold_packed(&mut self, packed: PackedWeight) {
        let values = packed.clone();
        self.hold(packed.shape(), move || values.unpack(), Prepared::Packed(packed));
    }

    /// Turns the weight into eight bits, and gives up the floating-point one.
    ///
    /// # Errors
    /// [`QuantizeError`] if sums would be too long for 32 bits.
    pub fn quantize(&mut self) -> Result<(), QuantizeError> {
        if self.int8().is_some() {
            return Ok(());
        }
        let shape = self.weight.lazy_shape().dims::<2>();
        let bias = self.bias_values();
        let weight = QuantizedWeight::quantize(&floats(self.weight.val()), shape, bias.as_deref())?;
        self.hold_int8(weight);
        Ok(())
    }

    /// Takes a weight in eight bits, as `[d_out, d_in]` values with a scale for each row.
    ///
    /// # Errors
    /// [`QuantizeError`] if they are not as many as the layer's shape asks for.
    pub fn take_int8(&mut self, values: &[i8], scales: &[f32]) -> Result<(), QuantizeError> {
        let shape = self.weight.lazy_shape().dims::<2>();
        let bias = self.bias_values();
        let weight = QuantizedWeight::from_values(values, scales, shape, bias.as_deref())?;
        self.hold_int8(weight);
        Ok(())
    }

    fn hold_int8(&mut self, weight: QuantizedWeight) {
        let values = weight.clone();
        self.hold(weight.shape(), move || values.dequantize(), Prepared::Int8(weight));
    }

    /// The parameter takes no memory from now on; whoever reads it gets what the prepared form stands for.
    fn hold(
        &mut self,
        shape: [usize; 2],
        values: impl Fn() -> Vec<f32> + Send + Sync + 'static,
        prepared: Prepared,
    ) {
        self.weight = lazy(shape, &self.weight.lazy_device(), false, move |device| {
            Tensor::from_data(TensorData::new(values(), shape), (device, DType::F32))
        });
        self.prepared = Some(prepared);
    }

    fn bias_values(&self) -> Option<Vec<f32>> {
        self.bias.as_ref().map(|bias| floats(bias.val()))
    }
}

fn floats<const R: usize>(x: Tensor<R>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

impl Linear {
    /// A layer of zeros that take no memory until they are read.
    pub fn new(d_in: usize, d_out: usize, bias: bool, device: &Device) -> Self {
        Self {
            weight: Initializer::Zeros.init_with([d_in, d_out], Some(d_in), Some(d_out), device),
            bias: bias.then(|| parameter([d_out], device)),
            prepared: None,
        }
    }

    /// `[.., d_in] -> [.., d_out]`, by the prepared form where there is one.
    pub fn forward<const R: usize>(&self, x: Tensor<R>) -> Tensor<R> {
        match &self.prepared {
            Some(Prepared::Int8(weight)) => linear_int8(x, weight, vitrum_kernels::Activation::Identity),
            Some(Prepared::Packed(weight)) => linear_packed(x, weight),
            None => {
                let (weight, bias) = self.values();
                vitrum_kernels::linear(x, weight, bias)
            }
        }
    }

    /// The layer behind a norm, `forward(norm(x))`.
    pub fn after<const R: usize>(&self, norm: &LayerNorm, x: Tensor<R>) -> Tensor<R> {
        match self.packed() {
            Some(weight) => norm_linear_packed(x, norm.weight.val(), norm.bias.val(), norm.eps, weight),
            None => self.forward(norm.forward(x)),
        }
    }

    /// The layer at the end of a residual branch, `residual + gamma · forward(x)`; without gradients one operation.
    pub fn add_to<const R: usize>(
        &self,
        residual: Tensor<R>,
        x: Tensor<R>,
        gamma: Option<Tensor<1>>,
    ) -> Tensor<R> {
        match (&self.prepared, gamma) {
            (Some(Prepared::Int8(weight)), None) => linear_add_int8(x, weight, residual),
            (Some(Prepared::Int8(_)), Some(gamma)) => residual + self.forward(x) * gamma.unsqueeze(),
            (Some(Prepared::Packed(weight)), gamma) => linear_add_packed(x, weight, residual, gamma),
            (None, gamma) => {
                let (weight, bias) = self.values();
                vitrum_kernels::linear_add(x, weight, bias, residual, gamma)
            }
        }
    }

    /// Whether attention behind this projection multiplies in bf16: behind one in bf16, and behind one in eight bits,
    /// which is coarser, where the processor has an instruction for it.
    pub(super) fn rounds_attention(&self, device: &Device, dtype: DType) -> bool {
        match &self.prepared {
            Some(Prepared::Packed(weight)) => weight.is_bf16(),
            Some(Prepared::Int8(_)) => {
                vitrum_kernels::has_fast_path(device, dtype) && vitrum_kernels::bf16_level() == "avx512_bf16"
            }
            None => false,
        }
    }

    /// Weight `[d_in, d_out]` and bias `[d_out]`.
    pub(crate) fn values(&self) -> (Tensor<2>, Option<Tensor<1>>) {
        (self.weight.val(), self.bias.as_ref().map(|bias| bias.val()))
    }
}
