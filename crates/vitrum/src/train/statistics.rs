//! What BatchNorm layers saw in the passes of an update, kept aside until the update is accepted.
//!
//! A layer tells its statistics to the observer of the pass and changes nothing. So a skipped update leaves the running
//! statistics as they were, a block that is computed twice moves them once, and a pass in narrow numbers moves those of
//! the model in f32.

use std::collections::HashMap;
use std::fmt::Arguments;

use burn::module::Param;
use burn::tensor::{DType, Tensor};

use super::optim::like;
use crate::layers::batch_norm::{RUNNING_MEAN, RUNNING_VAR};
use crate::layers::names::{Key, Map, map};
use crate::layers::observe::{BatchStatistics, Observer};
use crate::models::Network;

/// Batches' statistics by the key of the running ones, in the order of the passes.
#[derive(Debug, Default)]
pub struct Statistics {
    seen: HashMap<String, Vec<(Tensor<1>, f64)>>,
}

impl Observer for Statistics {
    fn wants_tokens(&self) -> bool {
        false
    }

    fn statistics(&mut self, name: Arguments<'_>, batch: BatchStatistics) {
        let BatchStatistics { mean, var, momentum } = batch;
        for (part, value) in [(RUNNING_MEAN, mean), (RUNNING_VAR, var)] {
            self.seen.entry(format!("{name}.{part}")).or_default().push((value.inner(), momentum));
        }
    }
}

impl Statistics {
    /// The model with its running statistics moved, batch by batch, as PyTorch moves them.
    pub fn commit<M: Network>(self, model: M) -> M {
        if self.seen.is_empty() {
            return model;
        }
        map(model, &mut Commit(self.seen))
    }
}

struct Commit(HashMap<String, Vec<(Tensor<1>, f64)>>);

impl Map for Commit {
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        let Some(batches) = self.0.remove(&key.name) else { return param };
        let (id, old, mapper) = param.consume();
        let dtype = old.dtype();
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let begin = old.clone().inner().cast(wide).reshape([-1]);
        let running = batches.into_iter().fold(begin, |running: Tensor<1>, (batch, momentum)| {
            running.mul_scalar(1.0 - momentum) + batch.cast(wide).mul_scalar(momentum)
        });
        let value = running.cast(dtype).reshape(old.dims());
        Param::from_mapped_value(id, like(value, &old), mapper)
    }
}
