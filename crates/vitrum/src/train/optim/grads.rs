//! Gradients of a model, by key.

use std::collections::HashMap;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Gradients, Tensor};
use vitrum_kernels::optim::sums_of_squares;

use super::flat;
use crate::layers::names::{Key, Layout, Visit, visit};

/// The gradient of one parameter.
#[derive(Clone, Debug)]
pub struct Grad {
    /// The parameter's key.
    pub key: String,
    /// The parameter.
    pub id: ParamId,
    /// Shape in memory.
    pub shape: Vec<usize>,
    /// The order of its numbers in memory.
    pub layout: Layout,
    /// The values, flattened, on the device without autodiff.
    pub value: Tensor<1>,
}

impl Grad {
    /// Whether a number is NaN or infinite.
    pub(crate) fn is_bad(&self) -> bool {
        self.value.clone().into_data().iter::<f64>().any(|x| !x.is_finite())
    }
}

/// The gradients of a model, in the order of its parameters. Parameters that are frozen, or not part of the loss,
/// have none.
#[derive(Clone, Debug, Default)]
pub struct GradMap {
    grads: Vec<Grad>,
    places: HashMap<String, usize>,
}

impl GradMap {
    /// Takes the gradients of `model`'s parameters out of a backward pass's result.
    pub fn collect<M: Module>(model: &M, gradients: Gradients) -> Self {
        let mut collector = Collector { gradients, map: Self::default() };
        visit(model, &mut collector);
        collector.map
    }

    /// The gradients, in the order of the parameters.
    pub fn iter(&self) -> impl Iterator<Item = &Grad> {
        self.grads.iter()
    }

    /// The gradient of the parameter with this key.
    pub fn get(&self, key: &str) -> Option<&Grad> {
        self.places.get(key).map(|place| &self.grads[*place])
    }

    /// Number of parameters with a gradient.
    pub fn len(&self) -> usize {
        self.grads.len()
    }

    /// Whether there are no gradients.
    pub fn is_empty(&self) -> bool {
        self.grads.is_empty()
    }

    /// The sum of two maps, for several batches of the same model. A gradient that only one map has is kept.
    ///
    /// # Panics
    /// If a parameter's gradients differ in length.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        for grad in other.grads {
            match self.places.get(&grad.key) {
                Some(&place) => {
                    let mine = &mut self.grads[place].value;
                    let empty = Tensor::empty([0], (&mine.device(), mine.dtype()));
                    *mine = std::mem::replace(mine, empty) + grad.value;
                }
                None => self.push(grad),
            }
        }
        self
    }

    /// Multiplies every number by `factor`. One over the number of batches gives the mean of their gradients.
    #[must_use]
    pub fn scale(self, factor: f64) -> Self {
        let Self { grads, places } = self;
        let scaled = |grad: Grad| Grad { value: grad.value.mul_scalar(factor), ..grad };
        Self { grads: grads.into_iter().map(scaled).collect(), places }
    }

    /// The gradients with other values of the same length.
    pub(crate) fn map(mut self, mut value: impl FnMut(&Grad) -> Tensor<1>) -> Self {
        for grad in &mut self.grads {
            grad.value = value(grad);
        }
        self
    }

    /// Square root of the sum of all squares, in f64 for any type.
    pub fn norm(&self) -> f64 {
        self.sums_of_squares().iter().sum::<f64>().sqrt()
    }

    /// The first parameter whose gradient has a NaN or infinite number.
    pub fn first_non_finite(&self) -> Option<&str> {
        // A sum of squares may overflow although every number is finite.
        self.suspects(&self.sums_of_squares()).find(|grad| grad.is_bad()).map(|grad| grad.key.as_str())
    }

    /// The gradients whose sum of squares is not finite.
    pub(crate) fn suspects(&self, sums: &[f64]) -> impl Iterator<Item = &Grad> {
        self.grads.iter().zip(sums).filter(|(_, sum)| !sum.is_finite()).map(|(grad, _)| grad)
    }

    /// Σ x² of each gradient in `f32`, `[P]` on the device. Nothing waits for the device.
    pub(crate) fn squares(&self) -> Tensor<1> {
        let squares = self.grads.iter().map(|grad| grad.value.clone().cast(DType::F32).square().sum());
        Tensor::cat(squares.collect(), 0)
    }

    fn sums_of_squares(&self) -> Vec<f64> {
        sums_of_squares(&self.grads.iter().map(|grad| grad.value.clone()).collect::<Vec<_>>())
    }

    fn push(&mut self, grad: Grad) {
        self.places.insert(grad.key.clone(), self.grads.len());
        self.grads.push(grad);
    }
}

struct Collector {
    gradients: Gradients,
    map: GradMap,
}

impl Visit for Collector {
    fn float<const R: usize>(&mut self, key: &Key, param: &Param<Tensor<R>>) {
        let Some(grad) = param.base().grad_remove(&mut self.gradients) else { return };
        self.map.push(Grad {
            key: key.name.clone(),
            id: param.id,
            shape: grad.dims().to_vec(),
            layout: key.layout,
            value: flat(grad),
        });
    }
}
