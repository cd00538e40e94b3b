//! Mixed precision: parameters are kept and updated in f32; forward and backward passes run on copies in a narrower
//! type (Micikevicius et al. 2018, arXiv:1710.03740; bf16 needs no loss scaling).

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};

use crate::layers::names::{Key, Map, map};

/// The model with its parameters in `dtype`. Gradients flow to the parameters of `model`. Running statistics keep their
/// type, as in torch: a frozen batch norm computes with them. So do random directions.
pub fn narrowed<M: Module>(model: &M, dtype: DType) -> M {
    map(model.clone(), &mut Narrow(dtype))
}

struct Narrow(DType);

impl Map for Narrow {
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        if key.stays_wide {
            return param;
        }
        // The effective value, so that gradients also reach low-rank updates.
        Param::initialized(param.id, param.val().cast(self.0))
    }
}
