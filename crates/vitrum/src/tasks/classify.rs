//! Images to classes, or to numbers.

use std::path::Path;

use burn::tensor::{DType, Device, Tensor};
use serde::Serialize;

use crate::Error;
use crate::checkpoint::card::ProblemType;
use crate::checkpoint::load::{LoadOptions, Loaded, ModelError, load};
use crate::data::{Preprocess, RgbImage, batch};
use crate::models::Model;

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Index of the class.
    pub index: usize,
    /// Its name, if the model's card has names.
    pub label: Option<String>,
    /// Probability: softmax, or the sigmoid of a model with several classes per image.
    pub prob: f64,
}

/// A model with its preprocessing and labels. Several threads may use it at a time; see [`Model::logits`].
#[derive(Debug)]
pub struct Classifier {
    model: Model,
    preprocess: Preprocess,
    labels: Option<Vec<String>>,
    problem: ProblemType,
    device: Device,
}

impl Classifier {
    /// A classifier from a folder, a name with weights, or `hf:ORG/NAME`, on the CPU.
    ///
    /// # Errors
    /// Faulty files, or a card without preprocessing.
    pub fn load(source: impl AsRef<Path>) -> Result<Self, Error> {
        let device = Device::flex();
        let loaded = load(&LoadOptions::new(source.as_ref().to_string_lossy()), &device)?;
        Self::new(loaded, device)
    }

    /// A classifier from a loaded model.
    ///
    /// # Errors
    /// [`ModelError::NoHead`] if the model has no classes, [`Error::NoPreprocess`] if the preprocessing is unknown.
    pub fn new(loaded: Loaded, device: Device) -> Result<Self, Error> {
        let classifier = loaded.model.as_classifier().map_err(ModelError::from)?;
        if classifier.num_classes() == 0 {
            return Err(ModelError::NoHead { model: loaded.name }.into());
        }
        let preprocess = preprocess_of(&loaded)?;
        let problem = loaded.card.as_ref().map(|card| card.problem).unwrap_or_default();
        Ok(Self { model: loaded.model, preprocess, labels: loaded.labels, problem, device })
    }

    /// Packs the weights for many pictures ([`Model::pack`]): the same answers, faster. Packing takes the time of a
    /// few pictures.
    pub fn pack(self) -> Self {
        Self { model: self.model.pack(), ..self }
    }

    /// The preprocessing of pictures.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// The device of the model.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What the outputs mean, as the model's card says.
    pub fn problem(&self) -> ProblemType {
        self.problem
    }

    /// The name of a class, or of a number.
    pub fn label(&self, index: usize) -> Option<&str> {
        self.labels.as_ref()?.get(index).map(String::as_str)
    }

    /// The `k` most probable classes of each picture, most probable first.
    ///
    /// # Errors
    /// A picture that cannot be preprocessed, [`Error::NotFinite`], and [`Error::OtherProblem`] if the model predicts
    /// numbers.
    pub fn predict(&self, images: &[RgbImage], k: usize) -> Result<Vec<Vec<Prediction>>, Error> {
        self.refuse_numbers()?;
        let batch = batch::of_images(images, &self.preprocess, DType::F32, &self.device)?;
        let logits = self.logits(batch)?;
        Ok(logits.iter().map(|row| self.answer(row, k)).collect())
    }

    /// The probabilities of all classes of each picture, `[K]`: softmax, or the sigmoid of each if a picture may have
    /// several classes.
    ///
    /// # Errors
    /// As [`predict`](Self::predict).
    pub fn scores(&self, images: &[RgbImage]) -> Result<Vec<Vec<f64>>, Error> {
        self.refuse_numbers()?;
        let batch = batch::of_images(images, &self.preprocess, DType::F32, &self.device)?;
        Ok(self.logits(batch)?.iter().map(|row| self.probabilities(row)).collect())
    }

    /// The predicted numbers of each picture, `[K]`.
    ///
    /// # Errors
    /// A picture that cannot be preprocessed, [`Error::NotFinite`], and [`Error::OtherProblem`] if the model predicts
    /// classes.
    pub fn values(&self, images: &[RgbImage]) -> Result<Vec<Vec<f64>>, Error> {
        if self.problem != ProblemType::Regression {
            return Err(Error::OtherProblem { found: self.problem, asked: "numbers" });
        }
        let batch = batch::of_images(images, &self.preprocess, DType::F32, &self.device)?;
        self.logits(batch)
    }

    fn refuse_numbers(&self) -> Result<(), Error> {
        match self.problem {
            ProblemType::Regression => {
                Err(Error::OtherProblem { found: self.problem, asked: "probabilities of classes" })
            }
            _ => Ok(()),
        }
    }

    /// The probabilities of a row of logits.
    fn probabilities(&self, logits: &[f64]) -> Vec<f64> {
        match self.problem {
            ProblemType::MultiLabel => logits.iter().map(|logit| sigmoid(*logit)).collect(),
            _ => softmax(logits),
        }
    }

    /// The logits, or the predicted numbers, of images `[B, C, H, W]`, a row of `K` for each.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a logit is NaN or infinite.
    pub fn logits(&self, images: Tensor<4>) -> Result<Vec<Vec<f64>>, Error> {
        let rows = rows(self.model.logits(images).map_err(ModelError::from)?);
        match rows.iter().position(|row| !row.iter().all(|logit| logit.is_finite())) {
            Some(image) => Err(Error::NotFinite { image }),
            None => Ok(rows),
        }
    }

    /// The `k` most probable classes from logits `[B, K]`. Of a model that predicts numbers they mean nothing.
    pub fn answers(&self, logits: Tensor<2>, k: usize) -> Vec<Vec<Prediction>> {
        rows(logits).iter().map(|row| self.answer(row, k)).collect()
    }

    fn answer(&self, logits: &[f64], k: usize) -> Vec<Prediction> {
        let probabilities = self.probabilities(logits);
        let prediction = |index: usize| Prediction {
            index,
            label: self.label(index).map(str::to_string),
            prob: probabilities[index],
        };
        top_k(&probabilities, k).into_iter().map(prediction).collect()
    }
}

/// The preprocessing of a loaded model.
pub(super) fn preprocess_of(loaded: &Loaded) -> Result<Preprocess, Error> {
    let because =
        |note: &String| note.split_once("preprocessing is not known: ").map(|(_, why)| why.to_string());
    let missing = || Error::NoPreprocess {
        model: loaded.name.clone(),
        why: loaded
            .notes
            .iter()
            .find_map(because)
            .map(|why| format!("how images are prepared is not known: {why}")),
    };
    loaded.preprocess.clone().ok_or_else(missing)
}

/// The rows of `[B, K]` on the host.
pub fn rows(x: Tensor<2>) -> Vec<Vec<f64>> {
    let [_, k] = x.dims();
    let values: Vec<f64> = x.into_data().iter::<f64>().collect();
    values.chunks_exact(k.max(1)).map(<[f64]>::to_vec).collect()
}

/// Softmax of one row of logits, in f64.
pub fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let total: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|value| value / total).collect()
}

/// The sigmoid of a logit, in f64.
pub fn sigmoid(logit: f64) -> f64 {
    let exponential = (-logit.abs()).exp();
    let larger = 1.0 / (1.0 + exponential);
    if logit < 0.0 { exponential * larger } else { larger }
}

/// Indices of the `k` largest values, largest first. Of equal values the first wins; NaN comes last.
pub fn top_k(values: &[f64], k: usize) -> Vec<usize> {
    let key = |index: &usize| if values[*index].is_nan() { f64::NEG_INFINITY } else { values[*index] };
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| key(b).total_cmp(&key(a)).then(a.cmp(b)));
    order.truncate(k);
    order
}
