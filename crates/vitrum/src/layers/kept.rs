//! Biases of scores, kept between the passes of a prepared model.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;

/// The bias of the last grid, `[1, A, T, T]`, once the model is prepared for many images. It depends on parameters and the
/// grid alone; looking it up anew takes 5 % of a BEiT-B with one image.
#[derive(Clone, Debug, Default)]
pub struct Kept(Option<Arc<Mutex<Option<Bias>>>>);

/// A grid and its bias.
type Bias = ([usize; 2], Tensor<4>);

impl Kept {
    /// Keeps the bias from the next pass on. The parameters must not change then.
    pub fn keep(&mut self) {
        self.0.get_or_insert_default();
    }

    /// Computes it in every pass again.
    pub fn forget(&mut self) {
        self.0 = None;
    }

    /// The bias of a grid.
    pub(crate) fn get(&self, grid: [usize; 2], compute: impl FnOnce() -> Tensor<4>) -> Tensor<4> {
        let Some(kept) = &self.0 else { return compute() };
        let last = || kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, bias)) = &*last()
            && *of == grid
        {
            return bias.clone();
        }
        // The lock is free here: computing may run another pass on this thread, which would wait for it forever.
        let bias = compute();
        *last() = Some((grid, bias.clone()));
        bias
    }
}
