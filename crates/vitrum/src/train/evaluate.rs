//! Accuracy and loss of a model over a dataset, in batches.

use burn::tensor::{DType, Device};

use super::TrainError;
use crate::data::batch;
use crate::data::loader::{Batch, Loader};
use crate::models::Model;
use crate::tasks::classify::rows;
use crate::tasks::evaluate::{Accuracy, Answer, Evaluation};

/// What a pass over a dataset showed.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// Percentages and loss.
    pub accuracy: Accuracy,
    /// How often class `label` was taken for class `pred`, at `label * K + pred`; empty beyond 4096 classes.
    pub confusion: Vec<u32>,
}

/// One batch of an evaluation, for whoever watches.
pub struct Seen<'a> {
    /// The images.
    pub batch: &'a Batch,
    /// The answer to each.
    pub answers: &'a [Answer],
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
    let counted = num_classes <= 4096;
    let mut confusion = vec![0; if counted { num_classes * num_classes } else { 0 }];
    while let Some(mut batch) = loader.next().transpose()? {
        let values = std::mem::take(&mut batch.values);
        let images = batch::to_tensor(values.clone(), batch.shape, DType::F32, device)?;
        batch.values = values;
        let logits = rows(model.backbone().forward(images));
        let mut answers = Vec::with_capacity(logits.len());
        for ((name, label), logits) in batch.names.iter().zip(&batch.labels).zip(&logits) {
            let label = label.filter(|label| *label < num_classes).ok_or_else(|| {
                TrainError::Option(format!("{name}: label {label:?}, expected 0 to {}", num_classes - 1))
            })?;
            let answer = evaluation.add(logits, label);
            if counted {
                confusion[label * num_classes + answer.pred] += 1;
            }
            answers.push(answer);
        }
        let Some(accuracy) = evaluation.accuracy() else { continue };
        if !watch(Seen { batch: &batch, answers: &answers, accuracy: &accuracy }) {
            return Ok(None);
        }
    }
    let accuracy = evaluation
        .accuracy()
        .ok_or_else(|| TrainError::Option("the validation part holds no readable image".into()))?;
    Ok(Some(Evaluated { accuracy, confusion }))
}
