//! The evaluation loop: passes a model's logits over a dataset to a judge, batch by batch.

use burn::tensor::{DType, Device, Tensor};

use super::TrainError;
use super::judge::{Answers, Judge};
use crate::data::batch;
use crate::data::dataset::Target;
use crate::data::loader::{Batch, Loader};

/// How far a pass over a dataset goes, and what it keeps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    /// Number of images to judge, from the first on; `None`: all.
    pub limit: Option<usize>,
    /// Keep the pixels of each batch for [`Evaluated::batch`]. By default, the model consumes them.
    pub keep_pixels: bool,
}

/// One batch of an evaluation.
pub struct Evaluated<'a, J: ?Sized> {
    /// The images; without pixels unless [`Pass::keep_pixels`] is set.
    pub batch: &'a Batch,
    /// The judged images: their names, logits and targets.
    pub answers: Answers<'a>,
    /// The judge, after this batch.
    pub judge: &'a J,
}

/// The forward pass. It takes images `[B, C, H, W]` and their names, and returns the logits `[K]` of each image.
pub type Forward<'a, E> = dyn FnMut(Tensor<4>, &[String]) -> Result<Vec<Vec<f64>>, E> + 'a;

/// Passes the images of `loader` to `answer`, and the logits to `judge`.
///
/// `watch` receives each batch. If it returns false, the pass ends and the result is false.
///
/// # Errors
/// [`TrainError`]: more unreadable images than the loader allows, an image without a label ([`TrainError::NoLabel`]),
/// a label or a kind of target that the judge refuses, or no readable image at all ([`TrainError::NoImages`]). Errors of `answer` and
/// `watch`.
pub fn evaluate<J: Judge + ?Sized, E: From<TrainError>>(
    answer: &mut Forward<'_, E>,
    loader: &mut Loader,
    judge: &mut J,
    device: &Device,
    pass: Pass,
    watch: &mut dyn FnMut(Evaluated<'_, J>) -> Result<bool, E>,
) -> Result<bool, E> {
    let mut left = pass.limit.unwrap_or(usize::MAX);
    let mut is_empty = true;
    while left > 0 {
        let Some(mut batch) = loader.next().transpose().map_err(TrainError::from)? else { break };
        let values = if pass.keep_pixels { batch.values.clone() } else { std::mem::take(&mut batch.values) };
        let images = batch::to_tensor(values, batch.shape, DType::F32, device).map_err(TrainError::from)?;
        let mut logits = answer(images, &batch.names)?;
        let count = logits.len().min(batch.names.len()).min(left);
        logits.truncate(count);
        let targets = targets(&batch, count)?;
        let labels: Option<Vec<usize>> = targets.iter().map(Target::class).collect();
        let names = &batch.names[..count];
        let answers = match &labels {
            Some(labels) => Answers::Classes { names, logits: &logits, labels },
            None => Answers::Targets { names, logits: &logits, targets: &targets },
        };
        judge.add(&answers)?;
        left -= count;
        is_empty &= count == 0;
        if count > 0 && !watch(Evaluated { batch: &batch, answers, judge })? {
            return Ok(false);
        }
    }
    if is_empty { Err(TrainError::NoImages.into()) } else { Ok(true) }
}

/// The targets of the first `count` images.
fn targets(batch: &Batch, count: usize) -> Result<Vec<Target>, TrainError> {
    let target = |(name, target): (&String, &Option<Target>)| {
        target.clone().ok_or_else(|| TrainError::NoLabel { name: name.clone() })
    };
    batch.names.iter().zip(&batch.targets).take(count).map(target).collect()
}
