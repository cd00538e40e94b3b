//! Mixed precision: parameters are kept and updated in f32; forward and backward passes run on copies in a narrower
//! type (Micikevicius et al. 2018, arXiv:1710.03740; bf16 needs no loss scaling).

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};

use crate::layers::names::{Key, Map, map};

/// The model with its parameters in `dtype`, on a graph of its own: gradients are those of the copies, in `dtype`. Any
/// number of backward passes may reach a copy, so the parts of a recomputed pass may share it. Parameters that passes
/// compute with exactly ([`Key::is_exact`]) keep their type.
pub fn narrowed<M: Module>(model: &M, dtype: DType) -> M {
    map(model.clone(), &mut Narrow(dtype))
}

struct Narrow(DType);

impl Map for Narrow {
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        if key.is_exact {
            return param;
        }
        // The stored value: the factors of a low-rank update are parameters too, and come here themselves.
        let value = param.base();
        let narrow = match value.is_require_grad() {
            true => Tensor::from_inner(value.inner().cast(self.0)).require_grad(),
            false => value.cast(self.0),
        };
        Param::initialized(param.id, narrow)
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::tensor::{DType, Device, Tensor};

    use super::narrowed;
    use crate::layers::Linear;
    use crate::layers::rope::{GridIndexing, Rope, RopeConfig, RopeType};
    use crate::train::optim::GradMap;

    #[derive(Module, Debug)]
    struct Parts {
        linear: Linear,
        rope: Rope,
    }

    fn parts(device: &Device) -> Parts {
        let rope = RopeConfig {
            kind: RopeType::Mixed,
            depth: 1,
            num_heads: 1,
            head_dim: 4,
            prefix_tokens: 0,
            temperature: 10.0,
            grid_offset: 0.0,
            indexing: GridIndexing::Xy,
            rotate_half: false,
            reference: None,
        };
        Parts { linear: Linear::new(3, 2, true, device), rope: Rope::new(rope, device) }
    }

    /// Each of two backward passes reaches every copy; only the frequencies keep their type.
    #[test]
    fn copies_serve_several_backward_passes() {
        let device = Device::flex().autodiff();
        let wide = parts(&device).train();
        let narrow = narrowed(&wide, DType::BF16);
        let freqs = narrow.rope.freqs.as_ref().unwrap().val();
        assert_eq!([narrow.linear.weight.val().dtype(), freqs.dtype()], [DType::BF16, DType::F32]);
        for _ in 0..2 {
            let x = Tensor::<2>::ones([5, 3], (&device, DType::BF16));
            let loss = narrow.linear.forward(x).sum() + freqs.clone().sum().cast(DType::BF16);
            let gradients = GradMap::collect(&narrow, loss.backward());
            let found: Vec<(&str, f64)> = gradients
                .iter()
                .map(|grad| (&*grad.key, grad.value.clone().max().into_scalar::<f64>()))
                .collect();
            assert_eq!(found, [("linear.weight", 5.0), ("linear.bias", 5.0), ("rope.freqs", 1.0)]);
        }
    }
}
