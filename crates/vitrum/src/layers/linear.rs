//! Linear layers, and prepared forms of their weights for inference.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{DType, Device, Tensor, TensorData};
use vitrum_kernels::{
    PackedWeight, QuantizeError, QuantizedWeight, linear_add_int8, linear_add_packed, linear_int8,
    linear_packed, norm_linear_packed,
};

use super::drop::records;
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
    /// A bias that the module around this layer holds, for prepared forms.
    #[module(skip)]
    outer_bias: Option<Vec<f32>>,
}

/// A weight prepared for forward passes without gradients. It is made from final values: training and loading
/// neither see it nor keep it.
#[derive(Clone, Debug)]
pub enum Prepared {
    /// In int8.
    Int8(QuantizedWeight),
    /// The same numbers, or these rounded to bf16, in the order in which this processor reads them.
    Packed(PackedWeight),
    /// Rounded to bf16, on a device that multiplies in bf16.
    Narrow(Box<NarrowWeight>),
}

/// A weight in bf16 on a device that multiplies in bf16.
#[derive(Clone, Debug)]
pub struct NarrowWeight {
    /// `[d_in, d_out]`
    weight: Tensor<2>,
    /// `[d_out]`, in `f32`.
    bias: Option<Tensor<1>>,
}

impl NarrowWeight {
    /// The layer with a product in bf16. The bias is added in the type of `x`.
    fn forward<const R: usize>(&self, x: Tensor<R>) -> Tensor<R> {
        let dtype = x.dtype();
        let y = vitrum_kernels::linear(x.cast(DType::BF16), self.weight.clone(), None).cast(dtype);
        match &self.bias {
            Some(bias) => y + bias.clone().unsqueeze(),
            None => y,
        }
    }
}

impl Linear {
    /// The prepared form, if there is one.
    pub fn prepared(&self) -> Option<&Prepared> {
        self.prepared.as_ref()
    }

    /// The int8 weight, if there is one.
    pub fn int8(&self) -> Option<&QuantizedWeight> {
        match &self.prepared {
            Some(Prepared::Int8(weight)) => Some(weight),
            _ => None,
        }
    }

    /// Whether the weight is prepared in bf16.
    pub fn is_bf16(&self) -> bool {
        match &self.prepared {
            Some(Prepared::Packed(weight)) => weight.is_bf16(),
            Some(Prepared::Narrow(_)) => true,
            _ => false,
        }
    }

    /// The packed weight in `f32` or bf16, if there is one.
    pub fn packed(&self) -> Option<&PackedWeight> {
        match &self.prepared {
            Some(Prepared::Packed(weight)) => Some(weight),
            _ => None,
        }
    }

    /// Drops the prepared form. Forward passes use the parameters again.
    pub fn forget_prepared(&mut self) {
        self.prepared = None;
    }

    /// Packs the weight, unless it has a prepared form, and frees the other copy. Reading the parameter unpacks it.
    /// Does nothing where products cannot use packed weights: on other devices and for other types than `f32`.
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

    /// Rounds the weight to bf16, packs it on the CPU, and frees the other copy. Reading the parameter gives rounded
    /// values. From now on the layer's inputs are rounded too. On other devices the products are rounded to bf16 as
    /// well. Weights in int8, and weights on devices without bf16, stay as they are.
    pub fn round_to_bf16(&mut self) {
        let device = self.weight.lazy_device();
        if self.int8().is_some() || self.is_bf16() {
            return;
        }
        let shape = self.weight.lazy_shape().dims::<2>();
        if vitrum_kernels::has_fast_path(&device, DType::F32) {
            let bias = self.bias_values();
            let weight = PackedWeight::pack_bf16(&floats(self.weight.val()), shape, bias.as_deref());
            self.hold_packed(weight);
        } else if vitrum_kernels::narrows(&device) {
            let narrow = self.narrowed();
            let values = narrow.weight.clone();
            self.hold(shape, move || floats(values.clone()), Prepared::Narrow(Box::new(narrow)));
        }
    }

    /// The weight in bf16, with the bias of this layer or of the module around it.
    fn narrowed(&self) -> NarrowWeight {
        let weight = self.weight.val().detach();
        let device = weight.device();
        let bias = self.bias_values().map(|bias| {
            let length = [bias.len()];
            Tensor::from_data(TensorData::new(bias, length), (&device, DType::F32))
        });
        NarrowWeight { weight: weight.cast(DType::BF16), bias }
    }

    fn hold_packed(&mut self, packed: PackedWeight) {
        let values = packed.clone();
        self.hold(packed.shape(), move || values.unpack(), Prepared::Packed(packed));
    }

    /// Quantises the weight to int8 and frees the floating-point copy.
    ///
    /// # Errors
    /// [`QuantizeError`] if sums would overflow 32 bits.
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

    /// Takes an int8 weight: `[d_out, d_in]` values and one scale per row.
    ///
    /// # Errors
    /// [`QuantizeError`] if the counts do not match the layer's shape.
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

    /// Frees the parameter's memory. Reading the parameter computes its value from the prepared form.
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
        self.bias.as_ref().map(|bias| floats(bias.val())).or_else(|| self.outer_bias.clone())
    }

    /// Sets the bias `[d_out]` that prepared forms hold if this layer has none: the module around it holds one.
    pub(super) fn set_outer_bias(&mut self, bias: &Tensor<1>) {
        self.outer_bias = Some(floats(bias.clone()));
    }
}

fn floats<const R: usize>(x: Tensor<R>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

impl Linear {
    /// A layer of zeros. They take no memory until they are read.
    pub fn new(d_in: usize, d_out: usize, bias: bool, device: &Device) -> Self {
        Self {
            weight: Initializer::Zeros.init_with([d_in, d_out], Some(d_in), Some(d_out), device),
            bias: bias.then(|| parameter([d_out], device)),
            prepared: None,
            outer_bias: None,
        }
    }

    /// `[.., d_in] -> [.., d_out]`, with the prepared form if there is one.
    ///
    /// # Panics
    /// In a training step with a prepared weight, which gets no gradient. So do [`after`](Linear::after) and
    /// [`add_to`](Linear::add_to).
    pub fn forward<const R: usize>(&self, x: Tensor<R>) -> Tensor<R> {
        match self.prepared_for(&x) {
            Some(Prepared::Int8(weight)) => linear_int8(x, weight, vitrum_kernels::Activation::Identity),
            Some(Prepared::Packed(weight)) => linear_packed(x, weight),
            Some(Prepared::Narrow(narrow)) => narrow.forward(x),
            None => {
                let (weight, bias) = self.values();
                vitrum_kernels::linear(x, weight, bias)
            }
        }
    }

    /// The layer after a norm and before an activation, `activation(forward(norm(x)))`.
    pub fn after<const R: usize>(
        &self,
        norm: &LayerNorm,
        x: Tensor<R>,
        activation: vitrum_kernels::Activation,
    ) -> Tensor<R> {
        match (self.prepared_for(&x), norm.gain_and_offset()) {
            (Some(Prepared::Packed(weight)), Some([gain, offset])) => {
                norm_linear_packed(x, gain, offset, norm.eps, weight, activation)
            }
            _ => vitrum_kernels::activate(self.forward(norm.forward(x)), activation),
        }
    }

    /// The layer at the end of a residual branch, `residual + gamma · forward(x)`. Without gradients it is one
    /// operation.
    pub fn add_to<const R: usize>(
        &self,
        residual: Tensor<R>,
        x: Tensor<R>,
        gamma: Option<Tensor<1>>,
    ) -> Tensor<R> {
        match (self.prepared_for(&x), gamma) {
            (Some(Prepared::Int8(weight)), None) => linear_add_int8(x, weight, residual),
            (Some(Prepared::Int8(_)), Some(gamma)) => residual + self.forward(x) * gamma.unsqueeze(),
            (Some(Prepared::Packed(weight)), gamma) => linear_add_packed(x, weight, residual, gamma),
            (Some(Prepared::Narrow(_)), None) => residual + self.forward(x),
            (Some(Prepared::Narrow(_)), Some(gamma)) => residual + self.forward(x) * gamma.unsqueeze(),
            (None, gamma) => {
                let (weight, bias) = self.values();
                vitrum_kernels::linear_add(x, weight, bias, residual, gamma)
            }
        }
    }

    /// The prepared form, for a pass without gradients.
    fn prepared_for<const R: usize>(&self, x: &Tensor<R>) -> Option<&Prepared> {
        let prepared = self.prepared.as_ref()?;
        assert!(
            !records(x),
            "Linear: the weight is prepared for inference (packed, bf16 or int8) and would get no gradient; train the \
             model as it was loaded"
        );
        Some(prepared)
    }

    /// Whether the attention after this projection multiplies in bf16. It does after a bf16 projection, and after
    /// an int8 one (which is coarser) if the processor has the instruction.
    pub(crate) fn rounds_attention(&self, device: &Device, dtype: DType) -> bool {
        match &self.prepared {
            Some(Prepared::Packed(_) | Prepared::Narrow(_)) => self.is_bf16(),
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

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Distribution, Tensor};

    use super::Linear;

    /// A weight in bf16 has the layer's bias, or that of the module around it, as other prepared forms have.
    #[test]
    fn narrow_weights_have_every_bias() {
        let device = Device::flex();
        device.seed(4);
        let draw = |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let (x, bias) = (draw([5, 16]), draw([1, 8]).reshape([8]));
        let mut own = Linear::new(16, 8, true, &device);
        own.weight = burn::module::Param::from_tensor(draw([16, 8]));
        own.bias = Some(burn::module::Param::from_tensor(bias.clone()));
        let mut outer = Linear::new(16, 8, false, &device);
        outer.weight = own.weight.clone();
        outer.set_outer_bias(&bias);
        let exact = own.forward(x.clone());
        for layer in [own, outer] {
            let narrow = layer.narrowed().forward(x.clone());
            assert_eq!(narrow.dtype(), DType::F32);
            let error: f64 = (narrow - exact.clone()).abs().max().into_scalar();
            let most: f64 = exact.clone().abs().max().into_scalar();
            assert!(error < most / 64.0, "{error} of {most}");
        }
    }
}
