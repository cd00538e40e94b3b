//! A training loop of your own, with a loss of your own: the focal loss of arXiv:1708.02002.
//!
//! `cargo run --release --example own_loop`

use burn::tensor::activation::log_softmax;
use vitrum::burn;
use vitrum::data::batch;
use vitrum::data::demo::DemoSet;
use vitrum::layers::observe::Observer;
use vitrum::models::{Features, Inputs};
use vitrum::prelude::*;
use vitrum::train::TrainError;
use vitrum::train::objective::{Batch, Objective, Targets};
use vitrum::train::optim::{OptimConfig, OptimName};
use vitrum::train::trainer::{Trainer, TrainerConfig};

/// `-(1 - p)² log p` of the true class, mean over the batch.
struct Focal;

impl Objective<Model> for Focal {
    fn check(&self, model: &Model) -> Result<(), TrainError> {
        model.classify().map(|_| ()).ok_or(TrainError::NoClasses)
    }

    fn loss(&self, model: &Model, features: Features, batch: &Batch, watch: &mut dyn Observer) -> Tensor<1> {
        let classifier = model.classify().expect("checked");
        let log = log_softmax(classifier.head(features, watch), 1); // [B, K]
        let focus = (log.clone().exp() * -1.0 + 1.0).powf_scalar(2.0);
        (batch.targets.soft() * focus * log).sum_dim(1).mean().neg()
    }
}

fn main() -> Result<(), Error> {
    let (device, classes) = (Device::flex(), 10);
    let loaded = load(&LoadOptions { num_classes: Some(classes), ..LoadOptions::new("demo") }, &device)?;
    let preprocess = loaded.preprocess.clone().expect("the demo model says how its pictures are prepared");
    // AdamW at one learning rate. `TrainerConfig::from_recipe` has schedules, clipping and averages as well.
    let config = TrainerConfig::new(OptimConfig::new(OptimName::AdamW), 1e-3);
    let mut trainer = Trainer::with_config(loaded.model, Box::new(Focal), config, &device)?;
    let updates = 12;
    let set = DemoSet::new(64, 16 * updates, 3);
    for update in 0..updates {
        let pictures: Vec<usize> = (update * 16..(update + 1) * 16).collect();
        let images: Vec<RgbImage> = pictures.iter().map(|&index| set.image(index)).collect();
        let images = batch::of_images(&images, &preprocess, DType::F32, &device.clone().autodiff())?;
        let labels: Vec<i64> = pictures.iter().map(|&index| set.label(index) as i64).collect();
        let labels = Tensor::<1, burn::tensor::Int>::from_data(labels.as_slice(), &device.clone().autodiff());
        let targets = Targets::Soft(labels.one_hot::<2>(classes).float());
        let updated = trainer.update(vec![Batch::new(Inputs::Images(images), targets)])?;
        println!("update {update}: loss {:.4}, learning rate {:.1e}", updated.loss, updated.lr);
    }
    let folder = std::env::temp_dir().join(format!("vitrum-own-loop-{}", std::process::id()));
    Loaded { model: trainer.model(), ..loaded }.save(&folder, &Default::default())?;
    println!("saved {}", folder.display());
    Ok(())
}
