//! Training on pictures that are not files: a `Source` of your own.
//!
//! `cargo run --release --example own_data`

use std::ops::ControlFlow;

use vitrum::data::Source;
use vitrum::data::dataset::{DatasetError, ImageSource, Sample, Skipped, Target};
use vitrum::data::train_set::{TrainDataOptions, TrainSet, TrainSetOptions, TrainValSets};
use vitrum::prelude::*;
use vitrum::train::recipe::ImgSize;

/// Pictures of three colours with noise, made when they are asked for.
struct Colours {
    classes: Vec<String>,
    skipped: Skipped,
    next: usize,
    count: usize,
}

impl Source for Colours {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn count(&self) -> Option<usize> {
        Some(self.count)
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    fn next_sample(&mut self) -> Result<Option<Sample>, DatasetError> {
        if self.next == self.count {
            return Ok(None);
        }
        let (number, label) = (self.next, self.next % 3);
        self.next += 1;
        let mut image = RgbImage::filled(32, 32, [40, 40, 40]).expect("32 x 32 pixels");
        for (at, value) in image.data_mut().iter_mut().enumerate() {
            let noise = (at * 31 + number * 17) % 60;
            *value += (if at % 3 == label { 120 } else { 0 } + noise) as u8;
        }
        let name = format!("colour-{number}");
        Ok(Some(Sample { name, target: Some(Target::Class(label)), image: ImageSource::Pixels(image) }))
    }
}

fn main() -> Result<(), Error> {
    let classes = ["red", "green", "blue"].map(String::from).to_vec();
    let source = Colours { classes, skipped: Skipped::default(), next: 0, count: 120 };
    let set = TrainSet::from_source("colours", Box::new(source), &TrainSetOptions::default())?;
    let sets = TrainValSets::from_sets(set, None, &TrainDataOptions::new("colours"))?;
    let recipe = Recipe {
        model: "test_vit".into(),
        img_size: Some(ImgSize([32, 32])),
        model_kwargs: [("patch_size".to_string(), 8.into())].into(),
        epochs: 4,
        warmup_epochs: 1.0,
        batch_size: 16,
        lr: Some(1e-3),
        output: std::env::temp_dir().join(format!("vitrum-own-data-{}", std::process::id())),
        ..Recipe::default()
    };
    let outcome = Fit::new(&Job::new(recipe)).data(sets).run(&mut |event: &Event| {
        if let Event::Epoch(epoch) = event {
            println!("epoch {}: top-1 {:?}", epoch.epoch, epoch.score("top1"));
        }
        ControlFlow::Continue(())
    })?;
    let answers = outcome.classifier()?.predict(&[RgbImage::filled(32, 32, [200, 60, 60])?], 1)?;
    println!("a red picture is {}", answers[0][0].name());
    Ok(())
}
