//! Preprocessing equals timm's evaluation transform, in bytes and in floats.

use vitrum::data::preprocess::PreprocessError;
use vitrum::data::{CropMode, Interpolation, Preprocess, RgbImage};

use super::pattern::pattern;
use super::{digest, golden_lines, number};

fn named<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_str(&format!("{name:?}")).unwrap()
}

#[test]
fn equals_timm_on_900_random_cases() {
    let mut wrong = Vec::new();
    let lines = golden_lines("preprocess.txt");
    for line in &lines {
        let f: Vec<&str> = line.split(' ').collect();
        let image = pattern(number(f[0]), number(f[1]), number(f[2]), number(f[3]));
        let preprocess = Preprocess {
            input_size: [3, number(f[4]), number(f[5])],
            crop_mode: named(f[6]),
            interpolation: named(f[7]),
            crop_pct: number(f[8]),
            mean: f[9..12].iter().map(|m| number(m)).collect(),
            std: f[12..15].iter().map(|s| number(s)).collect(),
        };
        let hashes = match preprocess.transform(&image) {
            Ok(pixels) => {
                let values = preprocess.normalize(&pixels).unwrap();
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                [digest(pixels.data()), digest(&bytes)]
            }
            Err(PreprocessError::Resize(_)) => ["error", "error"].map(String::from),
            Err(other) => panic!("{line}: {other}"),
        };
        if hashes[..] != f[15..] {
            wrong.push(line);
        }
    }
    assert!(lines.len() >= 900);
    assert!(
        wrong.is_empty(),
        "{} of {} differ from timm, first: {:?}",
        wrong.len(),
        lines.len(),
        wrong.first()
    );
}

#[test]
fn reads_a_pretrained_cfg_of_timm() {
    let json = r#"{"tag": "augreg_in21k_ft_in1k", "num_classes": 1000, "input_size": [3, 384, 384],
        "fixed_input_size": true, "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "squash",
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "classifier": "head"}"#;
    let preprocess: Preprocess = serde_json::from_str(json).unwrap();
    assert_eq!(preprocess.input_size, [3, 384, 384]);
    assert_eq!(preprocess.interpolation, Interpolation::Bicubic);
    assert_eq!(preprocess.crop_mode, CropMode::Squash);
    assert_eq!(preprocess.crop_pct, 1.0);
    assert_eq!(preprocess.mean, [0.5; 3]);
    let again: Preprocess = serde_json::from_str(&serde_json::to_string(&preprocess).unwrap()).unwrap();
    assert_eq!(again, preprocess);
}

#[test]
fn reads_hugging_face_processors() {
    let vit = r#"{"do_normalize": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5], "size": 224, "resample": 2}"#;
    let vit = Preprocess::from_huggingface(vit, 3).unwrap();
    assert_eq!((vit.crop_mode, vit.crop_pct, vit.input_size), (CropMode::Squash, 1.0, [3, 224, 224]));
    assert_eq!(vit.interpolation, Interpolation::Bilinear);
    let deit = r#"{"crop_size": {"height": 224, "width": 224}, "do_center_crop": true, "resample": 3,
        "size": {"height": 256, "width": 256}, "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225]}"#;
    let deit = Preprocess::from_huggingface(deit, 3).unwrap();
    assert_eq!((deit.crop_mode, deit.crop_pct, deit.input_size), (CropMode::Squash, 0.875, [3, 224, 224]));
    let clip = r#"{"crop_size": 224, "do_center_crop": true, "resample": 3, "size": {"shortest_edge": 240},
        "do_normalize": false}"#;
    let clip = Preprocess::from_huggingface(clip, 1).unwrap();
    assert_eq!((clip.crop_mode, clip.input_size, clip.mean, clip.std), {
        (CropMode::Center, [1, 224, 224], vec![0.0], vec![1.0])
    });
    assert_eq!((224.0 / clip.crop_pct).floor(), 240.0);
    let convnext = |edge: usize| {
        let normal = r#""image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]"#;
        let json =
            format!(r#"{{"size": {{"shortest_edge": {edge}}}, "crop_pct": 0.875, "resample": 3, {normal}}}"#);
        let read = Preprocess::from_huggingface(&json, 3).unwrap();
        (read.crop_mode, read.crop_pct, read.input_size[1])
    };
    assert_eq!(convnext(224), (CropMode::Center, 0.875, 224));
    assert_eq!(convnext(384), (CropMode::Squash, 1.0, 384));
    for bad in [r#"{"size": {"edge": 7}}"#, "[]", r#"{"size": 0}"#, r#"{"size": 224, "resample": 9}"#] {
        let read = Preprocess::from_huggingface(bad, 3);
        assert!(matches!(read, Err(PreprocessError::HuggingFace(_))), "{bad}");
    }
    // ConvNeXT's processor has defaults for mean and deviation; other processors have others.
    for open in [
        r#"{"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3}"#,
        r#"{"size": {"shortest_edge": 224}, "resample": 3, "do_normalize": false}"#,
        r#"{"size": 224, "do_center_crop": true, "resample": 3, "do_normalize": false}"#,
        r#"{"size": {"longest_edge": 7}, "resample": 3, "do_normalize": false}"#,
        r#"{"size": [224, 448], "do_center_crop": true, "crop_size": 224, "resample": 3}"#,
    ] {
        let read = Preprocess::from_huggingface(open, 3);
        assert!(matches!(read, Err(PreprocessError::NotKnown(_))), "{open}: {read:?}");
    }
    let vast = r#"{"size": 224, "resample": 3, "do_normalize": false}"#;
    let read = Preprocess::from_huggingface(vast, usize::MAX);
    assert!(matches!(read, Err(PreprocessError::NotKnown(_))), "{read:?}");
}

#[test]
fn a_grey_model_gets_one_channel() {
    let image = pattern(0, 4, 40, 30);
    let mean = vec![0.5];
    let grey = Preprocess { input_size: [1, 28, 28], mean: mean.clone(), std: mean, ..Preprocess::default() };
    let pixels = grey.transform(&image).unwrap();
    let values = grey.normalize(&pixels).unwrap();
    assert_eq!(values.len(), 28 * 28);
    let [r, g, b] = pixels.pixel(3, 5).unwrap();
    assert!(r == g && g == b);
    assert_eq!(values[5 * 28 + 3], (f32::from(r) / 255.0 - 0.5) / 0.5);
}

#[test]
fn wrong_fields_are_named() {
    let image = RgbImage::filled(4, 4, [1, 2, 3]).unwrap();
    let good = Preprocess::default();
    let cases = [
        ("input_size", Preprocess { input_size: [2, 224, 224], ..good.clone() }),
        ("input_size", Preprocess { input_size: [3, 0, 224], ..good.clone() }),
        ("input_size", Preprocess { input_size: [3, usize::MAX, 224], ..good.clone() }),
        ("crop_pct", Preprocess { crop_pct: 0.0, ..good.clone() }),
        ("crop_pct", Preprocess { crop_pct: f64::NAN, ..good.clone() }),
        ("crop_pct", Preprocess { crop_pct: 1e-30, ..good.clone() }),
        ("mean", Preprocess { mean: vec![0.5], ..good.clone() }),
        ("std", Preprocess { std: vec![0.5, 0.0, 0.5], ..good.clone() }),
    ];
    for (expected, preprocess) in cases {
        match preprocess.apply(&image) {
            Err(PreprocessError::Field { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    assert!(matches!(good.normalize(&image), Err(PreprocessError::Size { width: 4, height: 4, .. })));
}
