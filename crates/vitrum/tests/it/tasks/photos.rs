//! Real photographs: the classes and probabilities that timm gives them (`fixtures/export_photos.py`). Model and
//! photographs are not part of this repository; without them the test says so and passes.

use serde::Deserialize;
use vitrum::data::{DecodeOptions, decode};
use vitrum::tasks::Classifier;

use crate::data::decode::real_data;

#[derive(Deserialize)]
struct Golden {
    photos: Vec<Photo>,
}

#[derive(Deserialize)]
struct Photo {
    file: String,
    class: usize,
    prob: f64,
}

/// JPEG decoders differ by a few levels of 255, so a near tie may fall the other way; nothing else may.
#[test]
fn a_real_model_answers_as_timm_does() {
    let (Some(model), Some(images)) =
        (real_data("vit_tiny_patch16_224"), real_data("imagenet-sample/images"))
    else {
        return;
    };
    let golden = include_bytes!("../../../../../fixtures/golden/photos.json");
    let Golden { photos } = serde_json::from_slice(golden).unwrap();
    assert_eq!(photos.len(), 40);
    let classifier = Classifier::load(model).unwrap();
    let mut differ = Vec::new();
    for batch in photos.chunks(8) {
        let open = |photo: &Photo| decode::open(images.join(&photo.file), &DecodeOptions::timm()).unwrap();
        let pictures: Vec<_> = batch.iter().map(open).collect();
        for (photo, answers) in batch.iter().zip(classifier.predict(&pictures, 1000).unwrap()) {
            let theirs = answers.iter().find(|answer| answer.index == photo.class).unwrap();
            assert!(
                (theirs.prob - photo.prob).abs() < 0.03,
                "{}: {} of {}",
                photo.file,
                theirs.prob,
                photo.prob
            );
            if answers[0].index != photo.class {
                differ.push(&photo.file);
            }
        }
    }
    assert!(differ.len() <= 1, "{differ:?}");
}
