//! The BatchNorm statistics of an update's passes, kept until the update is accepted.
//!
//! A layer reports its statistics to the observer of the pass and changes nothing itself. So a skipped update does not
//! change the running statistics. A block that is computed twice changes them once. A pass in a narrower type changes
//! those of the f32 model.

use std::collections::HashMap;
use std::fmt::Arguments;

use burn::module::Param;
use burn::tensor::{DType, Tensor};

use super::TrainError;
use super::optim::like;
use crate::layers::batch_norm::{RUNNING_MEAN, RUNNING_VAR};
use crate::layers::names::{Key, Map, map};
use crate::layers::observe::{BatchStatistics, Observer};
use crate::models::Network;

/// Batch statistics by the key of the running statistics, in the order of the passes.
#[derive(Debug, Default)]
pub struct Statistics {
    seen: HashMap<String, Vec<(Tensor<1>, f64)>>,
    /// The first layer that saw a batch of one value per channel.
    alone: Option<String>,
}

impl Observer for Statistics {
    fn wants_tokens(&self) -> bool {
        false
    }

    fn statistics(&mut self, name: Arguments<'_>, batch: BatchStatistics) {
        let BatchStatistics { mean, var, count, momentum } = batch;
        if count == 1 && self.alone.is_none() {
            self.alone = Some(name.to_string());
        }
        for (part, value) in [(RUNNING_MEAN, mean), (RUNNING_VAR, var)] {
            self.seen.entry(format!("{name}.{part}")).or_default().push((value.inner(), momentum));
        }
    }
}

impl Statistics {
    /// Refuses a batch of one value per channel, as PyTorch does: its norm is zero whatever the value is.
    ///
    /// # Errors
    /// [`TrainError::OneValue`].
    pub fn check(&self) -> Result<(), TrainError> {
        self.alone.clone().map_or(Ok(()), |layer| Err(TrainError::OneValue { layer }))
    }

    /// Updates the model's running statistics batch by batch, as PyTorch does.
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
