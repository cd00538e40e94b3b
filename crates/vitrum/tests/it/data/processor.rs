//! Hugging Face's processors: their words, what they leave out, and the size that enters the model.

use burn::tensor::Device;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use vitrum::checkpoint::load::{LoadOptions, load};
use vitrum::data::preprocess::{IMAGENET_MEAN, PreprocessError};
use vitrum::data::{CropMode, DemoSet, Preprocess};
use vitrum::tasks::Embedder;

use crate::checkpoint::golden;

fn fields(json: Value) -> Map<String, Value> {
    let Value::Object(fields) = json else { panic!("an object") };
    fields
}

fn read(json: Value) -> Result<(Preprocess, Vec<String>), PreprocessError> {
    Preprocess::from_processor(&fields(json), 3)
}

fn not_known(json: Value) -> String {
    match read(json) {
        Err(PreprocessError::NotKnown(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// A processor of this class that states all but what is tested.
fn of(class: &str, more: Value) -> Value {
    let mut all = json!({"image_processor_type": class, "resample": 2, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5], "rescale_factor": 1.0 / 255.0});
    all.as_object_mut().unwrap().extend(fields(more));
    all
}

#[test]
fn one_number_is_what_its_class_takes_it_for() {
    for (class, mode) in [
        ("ViTImageProcessor", CropMode::Squash),
        ("ViTImageProcessorFast", CropMode::Squash),
        ("ViTFeatureExtractor", CropMode::Squash),
        ("DeiTFeatureExtractor", CropMode::Squash),
        ("CLIPFeatureExtractor", CropMode::Center),
        ("BitImageProcessor", CropMode::Center),
    ] {
        let crop = json!({"size": 64, "crop_size": 48, "do_center_crop": true});
        let (found, notes) = read(of(class, crop)).unwrap();
        assert_eq!((found.crop_mode, found.input_size, found.crop_pct), (mode, [3, 48, 48], 0.75), "{class}");
        assert!(notes.is_empty(), "{notes:?}");
    }
    let convnext = |size| read(of("ConvNextFeatureExtractor", json!({"size": size}))).unwrap().0;
    assert_eq!((convnext(224).crop_mode, convnext(224).crop_pct), (CropMode::Center, 0.875));
    assert_eq!((convnext(384).crop_mode, convnext(384).input_size), (CropMode::Squash, [3, 384, 384]));
    // A share to crop is ConvNeXT's alone.
    let vit = read(of("ViTImageProcessor", json!({"size": 64, "crop_pct": 0.5}))).unwrap().0;
    assert_eq!((vit.crop_mode, vit.crop_pct), (CropMode::Squash, 1.0));
}

#[test]
fn what_a_file_leaves_out_is_its_classs() {
    let (bit, _) = read(json!({"image_processor_type": "BitImageProcessor"})).unwrap();
    assert_eq!((bit.input_size, bit.crop_mode, bit.crop_pct), ([3, 224, 224], CropMode::Center, 1.0));
    assert_eq!((bit.interpolation.name(), bit.mean[0]), ("bicubic", 0.481_454_66));
    let (deit, _) = read(json!({"feature_extractor_type": "DeiTFeatureExtractor"})).unwrap();
    assert_eq!((deit.input_size, deit.crop_mode, deit.crop_pct), ([3, 224, 224], CropMode::Squash, 0.875));
    let (vit, _) =
        read(json!({"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 48}}))
            .unwrap();
    assert_eq!((vit.input_size, vit.interpolation.name(), vit.mean), ([3, 32, 48], "bilinear", vec![0.5; 3]));
    let (dino, _) = read(json!({"image_processor_type": "DINOv3ViTImageProcessorFast"})).unwrap();
    assert_eq!(dino.mean, IMAGENET_MEAN);
    assert!(not_known(json!({"image_processor_type": "OtherImageProcessor"})).contains("`size` is missing"));
    let (_, notes) = read(of("OtherImageProcessor", json!({"size": 8}))).unwrap();
    assert!(notes[0].contains("`OtherImageProcessor` is not known"), "{notes:?}");
}

#[test]
fn steps_switched_off_and_other_factors_are_honoured() {
    let levels = |more: Value| {
        let found = read(of("ViTImageProcessor", more)).unwrap().0;
        let value = |x: f32| (x / 255.0 - found.mean[0]) / found.std[0];
        [value(0.0), value(51.0), value(255.0)]
    };
    let near = |found: [f32; 3], expected: [f32; 3]| {
        let gap =
            found.iter().zip(&expected).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
        assert!(gap < 1e-6, "{found:?} {expected:?}");
    };
    near(levels(json!({"size": 8})), [-1.0, -0.6, 1.0]);
    near(levels(json!({"size": 8, "do_normalize": false})), [0.0, 0.2, 1.0]);
    near(levels(json!({"size": 8, "do_rescale": false})), [-1.0, 101.0, 509.0]);
    near(levels(json!({"size": 8, "do_rescale": false, "do_normalize": false})), [0.0, 51.0, 255.0]);
    near(levels(json!({"size": 8, "rescale_factor": 1.0 / 127.5})), [-1.0, -0.2, 3.0]);
    // As many digits as files have.
    near(levels(json!({"size": 8, "rescale_factor": 0.003_921_568_6})), [-1.0, -0.6, 1.0]);
    assert!(matches!(
        read(of("ViTImageProcessor", json!({"rescale_factor": 0}))),
        Err(PreprocessError::HuggingFace(_))
    ));
}

#[test]
fn what_has_no_equal_is_refused_and_unknown_words_are_said() {
    for (more, told) in [
        (json!({"do_resize": false}), "`do_resize` is false"),
        (
            json!({"size": {"shortest_edge": 64, "longest_edge": 90}, "crop_size": 64, "do_center_crop": true}),
            "`longest_edge`",
        ),
        (json!({"size": {"longest_edge": 90}}), "`longest_edge`"),
        (json!({"size": {"max_height": 90, "max_width": 90}}), "`max_height`"),
        (json!({"size": {"shortest_edge": 64}}), "no fixed size"),
        (
            json!({"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 32}, "do_center_crop": true}),
            "differ in shape",
        ),
        (json!({"size": 64, "do_pad": true}), "`do_pad` is true"),
        (json!({"size": 64, "do_flip_channel_order": true}), "`do_flip_channel_order` is true"),
    ] {
        assert!(not_known(of("ViTImageProcessor", more)).contains(told), "{told}");
    }
    let quiet = json!({"size": 64, "do_pad": false, "pad_size": null, "do_convert_rgb": true, "processor_class": "X"});
    assert!(read(of("ViTImageProcessor", quiet)).unwrap().1.is_empty());
    let (_, notes) = read(of("ViTImageProcessor", json!({"size": 64, "size_divisor": 32}))).unwrap();
    assert!(notes.len() == 1 && notes[0].contains("`size_divisor` is not known"), "{notes:?}");
}

/// The golden ViT of 8 pixels with this processor.
fn folder(file: &str, processor: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("hf_vit").join(name), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join(file), processor.to_string()).unwrap();
    folder
}

#[test]
fn the_processors_size_enters_the_model() {
    let crop = |height: usize, width: usize| {
        let size = json!({"height": height + 4, "width": (height + 4) * width / height});
        of(
            "DeiTImageProcessor",
            json!({"size": size, "crop_size": {"height": height, "width": width}, "do_center_crop": true}),
        )
    };
    for ([height, width], tokens) in [([12, 12], 10), ([8, 16], 9), ([16, 8], 9), ([8, 8], 5)] {
        let folder = folder("preprocessor_config.json", &crop(height, width));
        let options = LoadOptions::new(folder.path());
        let loaded = load(&options, &Device::flex()).unwrap();
        let told = loaded.notes.join("\n");
        let other = [height, width] != [8, 8];
        assert_eq!(
            told.contains(&format!("images enter as {height}x{width}")) && told.contains("8x8"),
            other,
            "{told}"
        );
        assert_eq!(loaded.report.as_ref().unwrap().resized.len(), usize::from(other));
        let embedder = Embedder::new(loaded, Device::flex()).unwrap();
        assert_eq!(embedder.tokens(&[DemoSet::new(16, 1, 9).image(0)]).unwrap().dims(), [1, tokens, 8]);
        // Numbers need no processor, and a size that is asked for wins.
        for (options, size) in [
            (LoadOptions { size_of_processor: false, ..LoadOptions::new(folder.path()) }, [8, 8]),
            (LoadOptions { img_size: Some([20, 20]), ..LoadOptions::new(folder.path()) }, [20, 20]),
        ] {
            let config =
                vitrum::models::VitConfig::try_from(load(&options, &Device::flex()).unwrap().model.config())
                    .expect("a ViT");
            assert_eq!(config.img_size, size);
        }
    }
}

#[test]
fn the_processor_may_stand_within_processor_config() {
    let inner = of("ViTImageProcessor", json!({"size": {"height": 12, "width": 12}}));
    let folder = folder("processor_config.json", &json!({"processor_class": "X", "image_processor": inner}));
    // It comes before the older file, as in transformers 5.
    let older = of("ViTImageProcessor", json!({"size": {"height": 16, "width": 16}}));
    std::fs::write(folder.path().join("preprocessor_config.json"), older.to_string()).unwrap();
    let loaded = load(&LoadOptions::new(folder.path()), &Device::flex()).unwrap();
    assert_eq!(loaded.preprocess.unwrap().input_size, [3, 12, 12]);
}
