//! The teacher: a frozen model that computes logits for the student's batches.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::checkpoint::load::{LoadOptions, Loaded, ModelError, load};
use crate::data::Preprocess;
use crate::models::{CannotError, Model};
use crate::train::objective::Batch;

/// Why a model cannot be the teacher of a student.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TeacherError {
    /// It cannot be loaded.
    #[error("teacher: {0}")]
    Load(#[from] ModelError),
    /// Its family has no classifier.
    #[error("teacher {name}: {source}")]
    NoClasses {
        /// Its name.
        name: String,
        /// What the family can do.
        source: CannotError,
    },
    /// Its number of classes differs from the student's.
    #[error(
        "teacher {name} has {found} classes, the student has {expected}\nhint: fine-tune the teacher on the student's images first"
    )]
    Classes {
        /// Its name.
        name: String,
        /// Its classes.
        found: usize,
        /// The student's.
        expected: usize,
    },
    /// Some of the student's classes are among the teacher's, and some are not.
    #[error("teacher {name} has no class '{class}', but it has other classes of the student")]
    UnknownClass {
        /// Its name.
        name: String,
        /// The first missing class.
        class: String,
    },
    /// The student does not have one or two heads.
    #[error("distillation needs a model with one or two heads; this one has {found}")]
    Heads {
        /// Its number of heads.
        found: usize,
    },
}

/// Options for loading a teacher.
#[derive(Clone, Debug)]
pub struct TeacherOptions {
    /// A folder, a file of weights, a name of the catalogue, `hf:ORG/NAME`, or `demo`.
    pub model: String,
    /// A file of weights for a name of the catalogue.
    pub checkpoint: Option<PathBuf>,
    /// The preprocessing of the student's images, with their size.
    pub student: Preprocess,
    /// The names of the student's classes, in order.
    pub classes: Vec<String>,
    /// Number of the student's classes. It exceeds the number of names if some classes have no images.
    pub num_classes: usize,
    /// Cache the logits of each image. Correct only if an image is the same in every epoch.
    pub cache: bool,
    /// Never use the network.
    pub offline: bool,
}

/// A model that computes logits for a student's batches. It keeps no autodiff graph. It computes in f32, even if the
/// student computes in bf16. Int8 weights of a file stay int8.
pub struct Teacher {
    name: String,
    model: Model,
    num_classes: usize,
    /// From the student's normalised values to the teacher's: factor and offset, `[1, C, 1, 1]`.
    renormalise: Option<[Tensor<4>; 2]>,
    /// The teacher's class index for each class of the student; `None` if the order is the same.
    order: Option<Tensor<1, Int>>,
    /// Cached logits `[K]` by image index.
    kept: Option<Mutex<HashMap<u32, Vec<f32>>>>,
}

impl Teacher {
    /// Loads the teacher at the student's image size, on `device`. Also returns notes for the user.
    ///
    /// # Errors
    /// [`TeacherError`]: it cannot be loaded, or its classes do not match the student's.
    pub fn load(options: &TeacherOptions, device: &Device) -> Result<(Self, Vec<String>), TeacherError> {
        let [channels, height, width] = options.student.input_size;
        let loaded = load(
            &LoadOptions {
                checkpoint: options.checkpoint.clone(),
                img_size: Some([height, width]),
                in_chans: Some(channels),
                offline: options.offline,
                ..LoadOptions::new(options.model.clone())
            },
            device,
        )?;
        Self::new(loaded, options, device)
    }

    /// A teacher from a loaded model, for images of the student's size, on `device`. Also returns notes for the user.
    ///
    /// # Errors
    /// [`TeacherError`]: it is not a classifier, or its classes do not match the student's.
    pub fn new(
        loaded: Loaded,
        options: &TeacherOptions,
        device: &Device,
    ) -> Result<(Self, Vec<String>), TeacherError> {
        let Loaded { model, name, preprocess, labels, report, notes, .. } = loaded;
        let mut notes: Vec<String> = notes.iter().map(|note| format!("teacher: {note}")).collect();
        let num_classes = match model.as_classifier() {
            Ok(classifier) => classifier.num_classes(),
            Err(source) => return Err(TeacherError::NoClasses { name, source }),
        };
        let [_, height, width] = options.student.input_size;
        for change in report.iter().flat_map(|report| &report.resized) {
            notes.push(format!("teacher {name}: {} resized for images of {height}x{width}", change.key));
        }
        for change in report.iter().flat_map(|report| &report.adapted) {
            notes.push(format!("teacher {name}: {} adapted to the student's images", change.key));
        }
        if preprocess.is_none() {
            notes.push(format!("teacher {name}: its normalisation is unknown, so the student's is used"));
        }
        let renormalise = preprocess.and_then(|own| renormalise(&options.student, &own, device));
        if renormalise.is_some() {
            notes.push(format!("teacher {name}: images are renormalised with its mean and deviation"));
        }
        let kept = options.cache.then(Mutex::default);
        let this = Self { num_classes, renormalise, order: None, kept, model: model.pack(), name };
        this.check_classes(options.num_classes)?;
        let order = this.order(labels.as_deref(), options, &mut notes)?;
        let order = order.map(|order| Tensor::from_data(TensorData::from(order.as_slice()), device));
        Ok((Self { order, ..this }, notes))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Refuses a student with another number of classes.
    ///
    /// # Errors
    /// [`TeacherError::Classes`].
    pub fn check_classes(&self, expected: usize) -> Result<(), TeacherError> {
        let (name, found) = (self.name.clone(), self.num_classes);
        if found == expected { Ok(()) } else { Err(TeacherError::Classes { name, found, expected }) }
    }

    /// The teacher's class index for each class of the student, matched by name; `None` if the order is the same.
    fn order(
        &self,
        labels: Option<&[String]>,
        options: &TeacherOptions,
        notes: &mut Vec<String>,
    ) -> Result<Option<Vec<i32>>, TeacherError> {
        let (name, ours) = (&self.name, &options.classes);
        let distinct = |names: &[String]| names.iter().collect::<BTreeSet<_>>().len() == names.len();
        let known = labels.filter(|labels| distinct(labels) && distinct(ours) && ours.len() == labels.len());
        let places: HashMap<&String, i32> = known.into_iter().flatten().zip(0..).collect();
        if !ours.iter().any(|class| places.contains_key(class)) {
            notes.push(format!("teacher {name}: its classes are matched with the student's in their order"));
            return Ok(None);
        }
        let place = |class: &String| {
            let unknown = || TeacherError::UnknownClass { name: name.clone(), class: class.clone() };
            places.get(class).copied().ok_or_else(unknown)
        };
        let order = ours.iter().map(place).collect::<Result<Vec<i32>, _>>()?;
        Ok(Some(order).filter(|order| !order.iter().copied().eq(0..)))
    }

    /// Logits for a batch, `[B, K]`, in the order of the student's classes.
    pub fn answers(&self, batch: &Batch) -> Tensor<2> {
        match &self.kept {
            Some(kept) if !batch.indexes.is_empty() => self.kept_answers(kept, batch),
            _ => self.ask(batch),
        }
    }

    fn kept_answers(&self, kept: &Mutex<HashMap<u32, Vec<f32>>>, batch: &Batch) -> Tensor<2> {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let rows: Option<Vec<&Vec<f32>>> = batch.indexes.iter().map(|index| kept.get(index)).collect();
        if let Some(rows) = rows {
            let values: Vec<f32> = rows.into_iter().flatten().copied().collect();
            let shape = [batch.indexes.len(), self.num_classes];
            return Tensor::from_data(
                TensorData::new(values, shape),
                &batch.inputs.clone().inner().images().device(),
            );
        }
        let answers = self.ask(batch);
        let values = answers.to_data().iter::<f32>().collect::<Vec<_>>();
        let rows = values.chunks_exact(self.num_classes).map(<[f32]>::to_vec);
        kept.extend(batch.indexes.iter().copied().zip(rows));
        answers
    }

    fn ask(&self, batch: &Batch) -> Tensor<2> {
        let images = batch.inputs.clone().inner().images().cast(DType::F32);
        let images = match self.renormalise.clone() {
            Some([factor, offset]) => images * factor + offset,
            None => images,
        };
        let logits = self.model.logits(images).expect("`load` saw that the teacher classifies");
        match self.order.clone() {
            Some(order) => logits.select(1, order),
            None => logits,
        }
    }
}

/// Factor and offset from values normalised for `student` to values normalised for `teacher`; `None` if they are the
/// same.
fn renormalise(student: &Preprocess, teacher: &Preprocess, device: &Device) -> Option<[Tensor<4>; 2]> {
    let channels = student.input_size[0];
    let level = |levels: &[f32], c: usize| f64::from(levels[c.min(levels.len() - 1)]);
    let values = |f: &dyn Fn(usize) -> f64| {
        let values: Vec<f32> = (0..channels).map(|c| f(c) as f32).collect();
        Tensor::<4>::from_data(TensorData::new(values, [1, channels, 1, 1]), device)
    };
    let same = |a: &[f32], b: &[f32]| (0..channels).all(|c| level(a, c) == level(b, c));
    if same(&student.mean, &teacher.mean) && same(&student.std, &teacher.std) {
        return None;
    }
    let factor = values(&|c| level(&student.std, c) / level(&teacher.std, c));
    let offset = values(&|c| (level(&student.mean, c) - level(&teacher.mean, c)) / level(&teacher.std, c));
    Some([factor, offset])
}
