//! Mixed precision: parameters are kept and updated in f32; forward and backward passes run on copies in a narrower
//! type (Micikevicius et al. 2018, arXiv:1710.03740; bf16 needs no loss scaling).

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor};

/// The model with its parameters in `dtype`. Gradients flow to the parameters of `model`.
pub fn narrowed<M: Module>(model: &M, dtype: DType) -> M {
    model.clone().map(&mut Narrow(dtype))
}

struct Narrow(DType);

impl ModuleMapper for Narrow {
    fn map_float<const R: usize>(&mut self, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        // The effective value, so that gradients also reach low-rank updates.
        Param::initialized(param.id, param.val().cast(self.0))
    }
}
