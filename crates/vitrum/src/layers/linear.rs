//! Linear layers, and forms of their weights that are made for answering alone.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{DType, Device, Tensor, TensorData};
use vitrum_kernels::{QuantizeError, QuantizedWeight, linear_add_int8, linear_int8};

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
}

impl Linear {
    /// The prepared form, if there is one.
    pub fn prepared(&self) -> Option<&Prepared> {
        self.prepared.as_ref()
    }

    /// The weight in eight bits, if it is.
    pub fn int8(&self) -> Option<&QuantizedWeight> {
        self.prepared.as_ref().map(|Prepared::Int8(weight)| weight)
    }

    /// Forgets the prepared form, so that the parameters are what counts again.
    pub fn forget_prepared(&mut self) {
        self.prepared = None;
    }

    /// Turns the weight into eight bits, and gives up the floating-point one.
    ///
    /// # Errors
    /// [`QuantizeError`] if sums would be too long for 32 bits.
    pub fn quantize(&mut self) -> Result<(), QuantizeError> {
        if self.prepared.is_some() {
            return Ok(());
        }
        let shape = self.weight.lazy_shape().dims::<2>();
        let bias = self.bias_values();
        let weight = QuantizedWeight::quantize(&floats(self.weight.val()), shape, bias.as_deref())?;
        self.hold(weight);
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
        self.hold(weight);
        Ok(())
    }

    /// The parameter takes no memory from now on; whoever reads it gets what the eight bits stand for.
    fn hold(&mut self, weight: QuantizedWeight) {
        let (shape, values) = (weight.shape(), weight.clone());
        self.weight = lazy(shape, &self.weight.lazy_device(), false, move |device| {
            Tensor::from_data(TensorData::new(values.dequantize(), shape), (device, DType::F32))
        });
        self.prepared = Some(Prepared::Int8(weight));
    }

    fn bias_values(&self) -> Option<Vec<f32>> {
        self.bias.as_ref().map(|bias| floats(bias.val()))
    }
}

fn floats<const R: usize>(x: Tensor<R>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

/// A layer's product, `[.., d_in] -> [.., d_out]`, by the fast path where there is one.
pub(crate) fn project<const R: usize>(layer: &Linear, x: Tensor<R>) -> Tensor<R> {
    match &layer.prepared {
        Some(Prepared::Int8(weight)) => linear_int8(x, weight, vitrum_kernels::Activation::Identity),
        None => {
            let (weight, bias) = layer.values();
            vitrum_kernels::linear(x, weight, bias)
        }
    }
}

/// A layer that ends a residual branch, `residual + gamma · project(x)`; without gradients this is one operation.
pub(crate) fn project_add<const R: usize>(
    layer: &Linear,
    x: Tensor<R>,
    residual: Tensor<R>,
    gamma: Option<Tensor<1>>,
) -> Tensor<R> {
    match (&layer.prepared, gamma) {
        (Some(Prepared::Int8(weight)), None) => linear_add_int8(x, weight, residual),
        (Some(_), Some(gamma)) => residual + project(layer, x) * gamma.unsqueeze(),
        (None, gamma) => {
            let (weight, bias) = layer.values();
            vitrum_kernels::linear_add(x, weight, bias, residual, gamma)
        }
    }
}

impl Linear {
    /// Weight `[d_in, d_out]` and bias `[d_out]`.
    pub(crate) fn values(&self) -> (Tensor<2>, Option<Tensor<1>>) {
        (self.weight.val(), self.bias.as_ref().map(|bias| bias.val()))
    }
}

/// A layer of zeros that take no memory until they are read.
pub(crate) fn linear(d_in: usize, d_out: usize, bias: bool, device: &Device) -> Linear {
    Linear {
        weight: Initializer::Zeros.init_with([d_in, d_out], Some(d_in), Some(d_out), device),
        bias: bias.then(|| parameter([d_out], device)),
        prepared: None,
    }
}
