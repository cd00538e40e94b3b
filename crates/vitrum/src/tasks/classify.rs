//! Images to classes, or to numbers.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use serde::Serialize;

use super::attention::{AttentionMap, attention};
use super::embed::unit_vectors;
use crate::Error;
use crate::checkpoint::card::ProblemType;
use crate::checkpoint::load::{LoadOptions, Loaded, ModelError, load};
use crate::checkpoint::write::WriteOptions;
use crate::data::decode::{decode, open};
use crate::data::{DecodeOptions, Preprocess, RgbImage, batch};
use crate::models::{Config, Model};

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

impl Prediction {
    /// The name of the class, or its index if it has none.
    pub fn name(&self) -> String {
        self.label.clone().unwrap_or_else(|| self.index.to_string())
    }
}

/// A model with its preprocessing and labels. Several threads may use it at a time; see [`Model::logits`].
#[derive(Debug)]
pub struct Classifier {
    loaded: Loaded,
    preprocess: Preprocess,
    device: Device,
}

impl Classifier {
    /// A classifier from a folder, a name with weights, or `hf:ORG/NAME`, on the CPU.
    ///
    /// # Errors
    /// Faulty files, or a card without preprocessing.
    pub fn load(source: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load_with(&LoadOptions::new(source.as_ref()))
    }

    /// A classifier on the CPU, with other weights, classes, image size or precision than the model's own.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(options: &LoadOptions<'_>) -> Result<Self, Error> {
        let device = Device::flex();
        Self::new(load(options, &device)?, device)
    }

    /// A classifier from a loaded model.
    ///
    /// # Errors
    /// [`ModelError::NoHead`] if the model has no classes, [`Error::NoPreprocess`] if the preprocessing is unknown,
    /// [`Error::Preprocess`] if it is invalid.
    pub fn new(loaded: Loaded, device: Device) -> Result<Self, Error> {
        let classifier = loaded.model.as_classifier().map_err(ModelError::from)?;
        if classifier.num_classes() == 0 {
            return Err(ModelError::NoHead { model: loaded.name }.into());
        }
        let preprocess = preprocess_of(&loaded)?;
        Ok(Self { loaded, preprocess, device })
    }

    /// Packs the weights for many pictures ([`Model::pack`]): the same answers, faster. Packing takes the time of a
    /// few pictures.
    pub fn pack(mut self) -> Self {
        self.loaded.model = self.loaded.model.pack();
        self
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
        &self.loaded.model
    }

    /// The model with all that came with it: card, [report](Loaded::report) of the loaded tensors, and
    /// [notes](Loaded::notes) on what was assumed, skipped or changed.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// [`loaded`](Self::loaded), by value.
    pub fn into_loaded(self) -> Loaded {
        self.loaded
    }

    /// The class names, in the order of the logits.
    pub fn labels(&self) -> Option<&[String]> {
        self.loaded.labels.as_deref()
    }

    /// What the outputs mean, as the model's card says.
    pub fn problem(&self) -> ProblemType {
        self.loaded.card.as_ref().map(|card| card.problem).unwrap_or_default()
    }

    /// The name of a class, or of a number.
    pub fn label(&self, index: usize) -> Option<&str> {
        self.labels()?.get(index).map(String::as_str)
    }

    /// Writes the model as a folder that [`load`](Self::load), timm and `vitrum` read ([`Loaded::save`]).
    ///
    /// # Errors
    /// Those of [`Loaded::save`].
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<(), Error> {
        Ok(self.loaded.save(folder, &WriteOptions::default()).map(|_| ())?)
    }

    /// The `k` most probable classes of each picture, most probable first.
    ///
    /// # Errors
    /// A picture that cannot be preprocessed, [`Error::NotFinite`], and [`Error::OtherProblem`] if the model predicts
    /// numbers.
    pub fn predict(&self, images: &[RgbImage], k: usize) -> Result<Vec<Vec<Prediction>>, Error> {
        self.refuse_numbers()?;
        let logits = self.logits(self.batch(images)?)?;
        Ok(logits.iter().map(|row| self.answer(row, k)).collect())
    }

    /// The `k` most probable classes of an image file, turned as its EXIF orientation says.
    ///
    /// # Errors
    /// A file that cannot be read or decoded, and those of [`predict`](Self::predict).
    pub fn predict_file(&self, path: impl AsRef<Path>, k: usize) -> Result<Vec<Prediction>, Error> {
        self.one(open(path, &DecodeOptions::default())?, k)
    }

    /// The `k` most probable classes of an encoded image: the bytes of a JPEG, PNG, WebP, GIF, BMP or TIFF file.
    ///
    /// # Errors
    /// As [`predict_file`](Self::predict_file).
    pub fn predict_bytes(&self, bytes: &[u8], k: usize) -> Result<Vec<Prediction>, Error> {
        self.one(decode(bytes, &DecodeOptions::default())?, k)
    }

    fn one(&self, image: RgbImage, k: usize) -> Result<Vec<Prediction>, Error> {
        Ok(self.predict(&[image], k)?.pop().unwrap_or_default())
    }

    /// One unit vector per picture: the input of the classifier, divided by its length. The scalar product of two is
    /// the cosine of their angle; see [`nearest`](super::nearest).
    ///
    /// # Errors
    /// As [`predict`](Self::predict).
    pub fn embed(&self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>, Error> {
        unit_vectors(self.model(), self.batch(images)?)
    }

    /// [`embed`](Self::embed) for an image file.
    ///
    /// # Errors
    /// As [`predict_file`](Self::predict_file).
    pub fn embed_file(&self, path: impl AsRef<Path>) -> Result<Vec<f32>, Error> {
        let image = open(path, &DecodeOptions::default())?;
        Ok(self.embed(&[image])?.pop().unwrap_or_default())
    }

    /// Where block `block` looks, from 0.
    ///
    /// # Errors
    /// [`Error::NoAttention`] if the model has no such block or the block no attention; a picture that cannot be
    /// preprocessed.
    pub fn attention(&self, image: &RgbImage, block: usize) -> Result<AttentionMap, Error> {
        let pixels = self.batch(std::slice::from_ref(image))?;
        attention(self.model(), pixels, self.preprocess.transform(image)?, block)
    }

    fn batch(&self, images: &[RgbImage]) -> Result<Tensor<4>, Error> {
        Ok(batch::of_images(images, &self.preprocess, self.model().dtype(), &self.device)?)
    }

    /// The probabilities of all classes of each picture, `[K]`: softmax, or the sigmoid of each if a picture may have
    /// several classes.
    ///
    /// # Errors
    /// As [`predict`](Self::predict).
    pub fn scores(&self, images: &[RgbImage]) -> Result<Vec<Vec<f64>>, Error> {
        self.refuse_numbers()?;
        Ok(self.logits(self.batch(images)?)?.iter().map(|row| self.probabilities(row)).collect())
    }

    /// The predicted numbers of each picture, `[K]`.
    ///
    /// # Errors
    /// A picture that cannot be preprocessed, [`Error::NotFinite`], and [`Error::OtherProblem`] if the model predicts
    /// classes.
    pub fn values(&self, images: &[RgbImage]) -> Result<Vec<Vec<f64>>, Error> {
        if self.problem() != ProblemType::Regression {
            return Err(Error::OtherProblem { found: self.problem(), asked: "numbers" });
        }
        self.logits(self.batch(images)?)
    }

    fn refuse_numbers(&self) -> Result<(), Error> {
        match self.problem() {
            ProblemType::Regression => {
                Err(Error::OtherProblem { found: self.problem(), asked: "probabilities of classes" })
            }
            _ => Ok(()),
        }
    }

    /// The probabilities of a row of logits.
    fn probabilities(&self, logits: &[f64]) -> Vec<f64> {
        match self.problem() {
            ProblemType::MultiLabel => logits.iter().map(|logit| sigmoid(*logit)).collect(),
            _ => softmax(logits),
        }
    }

    /// The logits, or the predicted numbers, of images `[B, C, H, W]`, a row of `K` for each.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a logit is NaN or infinite.
    pub fn logits(&self, images: Tensor<4>) -> Result<Vec<Vec<f64>>, Error> {
        let rows = rows(self.model().logits(images).map_err(ModelError::from)?);
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
pub(crate) fn preprocess_of(loaded: &Loaded) -> Result<Preprocess, Error> {
    let (model, channels) = (loaded.name.clone(), loaded.model.config().input().image().channels);
    if !matches!(channels, 1 | 3) {
        return Err(Error::Channels { model, channels });
    }
    let because =
        |note: &String| note.split_once("preprocessing is not known: ").map(|(_, why)| why.to_string());
    let missing = || Error::NoPreprocess {
        model,
        why: loaded
            .notes
            .iter()
            .find_map(because)
            .map(|why| format!("how images are prepared is not known: {why}")),
    };
    let preprocess = loaded.preprocess.clone().ok_or_else(missing)?;
    preprocess.check()?;
    Ok(preprocess)
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
