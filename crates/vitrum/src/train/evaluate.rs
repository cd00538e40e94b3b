//! Accuracy and loss of a model over a dataset, in batches.

use burn::tensor::{DType, Device};

use super::TrainError;
use super::log::Confusion;
use crate::checkpoint::load::ModelError;
use crate::data::batch;
use crate::data::loader::{Batch, Loader};
use crate::models::Model;
use crate::tasks::classify::rows;
use crate::tasks::evaluate::{Accuracy, Evaluation};

/// What a pass over a dataset showed.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// Percentages and loss.
    pub accuracy: Accuracy,
    /// How often each class was taken for which.
    pub confusion: Confusion,
}

/// One batch of an evaluation, for whoever watches.
pub struct Seen<'a> {
    /// The images.
    pub batch: &'a Batch,
    /// Their classes.
    pub labels: &'a [usize],
    /// What the model says of each, `[K]`.
    pub logits: &'a [Vec<f64>],
    /// Percentages so far.
    pub accuracy: &'a Accuracy,
}

/// Runs `model`, which keeps no graph, over all of `loader`. `watch` sees each batch and ends the pass by returning
/// false; the result is then `None`.
///
/// # Errors
/// Images that cannot be read beyond what the loader allows, and labels the model has no class for.
pub fn evaluate(
    model: &Model,
    loader: &mut Loader,
    num_classes: usize,
    device: &Device,
    watch: &mut dyn FnMut(Seen<'_>) -> bool,
) -> Result<Option<Evaluated>, TrainError> {
    let mut evaluation = Evaluation::default();
    let mut confusion = Confusion::new(num_classes);
    while let Some(mut batch) = loader.next().transpose()? {
        let values = std::mem::take(&mut batch.values);
        let images = batch::to_tensor(values.clone(), batch.shape, DType::F32, device)?;
        batch.values = values;
        let logits = rows(model.logits(images).map_err(ModelError::from)?);
        let mut labels = Vec::with_capacity(logits.len());
        for ((name, label), logits) in batch.names.iter().zip(&batch.labels).zip(&logits) {
            let label = label.filter(|label| *label < num_classes).ok_or_else(|| {
                TrainError::Option(format!("{name}: label {label:?}, expected 0 to {}", num_classes - 1))
            })?;
            confusion.add(label, evaluation.add(logits, label).pred);
            labels.push(label);
        }
        let Some(accuracy) = evaluation.accuracy() else { continue };
        if !watch(Seen { batch: &batch, labels: &labels, logits: &logits, accuracy: &accuracy }) {
            return Ok(None);
        }
    }
    let accuracy = evaluation
        .accuracy()
        .ok_or_else(|| TrainError::Option("the validation part holds no readable image".into()))?;
    Ok(Some(Evaluated { accuracy, confusion }))
}
