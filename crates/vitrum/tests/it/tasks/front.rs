//! The front page: files and bytes, vectors, attention, saving in any precision.

use burn::tensor::{DType, Device, Tensor};
use serde_json::json;
use vitrum::Error;
use vitrum::checkpoint::LoadError;
use vitrum::checkpoint::load::ModelError;
use vitrum::checkpoint::write::WriteOptions;
use vitrum::data::{DemoSet, batch, open_all};
use vitrum::layers::observe::{Recorder, Seen};
use vitrum::models::{ModelConfig, Want};
use vitrum::prelude::*;

fn pictures(count: usize) -> Vec<RgbImage> {
    let set = DemoSet::new(48, count, 5);
    (0..count).map(|index| set.image(index)).collect()
}

fn demo(precision: Precision) -> Loaded {
    load(&LoadOptions { precision, ..LoadOptions::new("demo") }, &Device::flex()).unwrap()
}

/// Logits of three pictures, bit for bit.
fn bits(loaded: &Loaded) -> Vec<u32> {
    let preprocess = loaded.preprocess.as_ref().unwrap();
    let images = batch::of_images(&pictures(3), preprocess, DType::F32, &Device::flex()).unwrap();
    loaded.model.logits(images).unwrap().into_data().iter::<f32>().map(f32::to_bits).collect()
}

#[test]
fn files_bytes_and_pictures_have_the_same_answers() {
    let folder = tempfile::tempdir().unwrap();
    let vit = Classifier::load("demo").unwrap();
    let pictures = pictures(4);
    let files: Vec<_> = (0..4).map(|n| folder.path().join(format!("{n}.png"))).collect();
    pictures.iter().zip(&files).for_each(|(picture, file)| picture.save(file).unwrap());
    let answers = vit.predict(&pictures, 3).unwrap();
    for (file, answer) in files.iter().zip(&answers) {
        assert_eq!(&vit.predict_file(file, 3).unwrap(), answer);
        assert_eq!(&vit.predict_bytes(&std::fs::read(file).unwrap(), 3).unwrap(), answer);
    }
    assert_eq!(open_all(&files, &DecodeOptions::default()).unwrap(), pictures);
    assert_eq!(answers[0][0].name(), vit.label(answers[0][0].index).unwrap());
    let unnamed = Prediction { index: 7, label: None, prob: 1.0 };
    assert_eq!(unnamed.name(), "7");
    assert!(matches!(vit.predict_bytes(b"no picture", 1), Err(Error::Decode(_))));
    assert!(matches!(vit.predict_file(folder.path().join("none.png"), 1), Err(Error::Decode(_))));
}

#[test]
fn vectors_have_length_one_and_find_themselves() {
    let (vit, features) = (Classifier::load("demo").unwrap(), Embedder::load("demo").unwrap());
    let pictures = pictures(12);
    let index = vit.embed(&pictures).unwrap();
    assert_eq!(index, features.embed(&pictures).unwrap());
    for (place, vector) in index.iter().enumerate() {
        let length: f32 = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
        let found = nearest(vector, &index, 3);
        assert_eq!((found.len(), found[0].0), (3, place));
        assert!(found[0].1 > found[1].1 && found[1].1 >= found[2].1);
    }
    // Vectors of another length are not compared.
    assert_eq!(nearest(&[1.0, 0.0], &[vec![1.0], vec![0.6, 0.8], vec![-1.0, 0.0]], 9), [(1, 0.6), (2, -1.0)]);
}

#[test]
fn attention_is_the_class_tokens_row_averaged_over_heads() {
    let vit = Classifier::load("demo").unwrap();
    let picture = &pictures(1)[0];
    let map = vit.attention(picture, 2).unwrap();
    assert_eq!((map.grid, map.weights.len()), ([8, 8], 64));
    let images =
        batch::of_images(std::slice::from_ref(picture), vit.preprocess(), DType::F32, vit.device()).unwrap();
    let mut recorder = Recorder { with_attention: true, seen: Vec::new() };
    vit.model().as_backbone().unwrap().features(images.into(), Want::Last, &mut recorder);
    let all = recorder.seen.iter().find(|(name, _)| name == "blocks.2.attn.weights").unwrap();
    let Seen::Attention(weights) = &all.1 else { panic!("not attention") };
    let [_, heads, tokens, _] = weights.dims();
    let values: Vec<f32> = weights.clone().into_data().iter::<f32>().collect();
    for (patch, weight) in map.weights.iter().enumerate() {
        let mean =
            (0..heads).map(|head| values[head * tokens * tokens + 1 + patch]).sum::<f32>() / heads as f32;
        assert!((mean - weight).abs() < 1e-6, "{patch}: {mean} {weight}");
    }
    // Packed weights look at the same patches.
    assert_eq!(Classifier::load("demo").unwrap().pack().attention(picture, 2).unwrap(), map);
    let overlay = map.overlay();
    assert_eq!([overlay.width(), overlay.height()], [32, 32]);
    let darker = overlay.data().iter().zip(map.image.data()).all(|(after, before)| after <= before);
    assert!(darker && overlay.data() != map.image.data());
    assert!(matches!(vit.attention(picture, 9), Err(Error::NoAttention { block: 9, family: "vit" })));
}

/// The first prefix token of a model with registers and no class token is a register: the map is the patches' mean.
#[test]
fn a_register_is_not_taken_for_a_class_token() {
    let config = ModelConfig::named("vit_tiny_patch16_224").unwrap();
    let fields = json!({
        "img_size": [32, 32], "patch_size": [8, 8], "embed_dim": 24, "depth": 1, "num_heads": 2, "num_classes": 3,
        "class_token": false, "reg_tokens": 2, "global_pool": "avg", "fc_norm": false,
    });
    let fields = fields.as_object().unwrap().iter().map(|(name, value)| (name.as_str(), value.clone()));
    let config = config.with_all(fields).unwrap();
    let device = Device::flex();
    let loaded = Loaded { model: config.init(&device, 3).unwrap(), ..demo(Precision::F32) };
    let picture = &pictures(1)[0];
    let vit = Classifier::new(loaded, device.clone()).unwrap();
    let images =
        batch::of_images(std::slice::from_ref(picture), vit.preprocess(), DType::F32, &device).unwrap();
    let mut recorder = Recorder { with_attention: true, seen: Vec::new() };
    vit.model().as_backbone().unwrap().features(images.into(), Want::Last, &mut recorder);
    let Some((_, Seen::Attention(weights))) =
        recorder.seen.iter().find(|(name, _)| name == "blocks.0.attn.weights")
    else {
        panic!("no attention")
    };
    let mean = weights.clone().mean_dim(1).narrow(2, 2, 16).mean_dim(2).narrow(3, 2, 16);
    let mean: Vec<f32> = mean.into_data().iter::<f32>().collect();
    let map = vit.attention(picture, 0).unwrap();
    assert!(map.weights.iter().zip(&mean).all(|(a, b)| (a - b).abs() < 1e-6), "{:?} {mean:?}", map.weights);
}

#[test]
fn a_model_of_any_precision_is_saved_and_loads_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut sizes = Vec::new();
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let place = folder.path().join(precision.name());
        let before = demo(precision);
        assert_eq!(before.model.precision(), precision);
        before.save(&place, &WriteOptions::default()).unwrap();
        let after = load(&LoadOptions::new(&place), &Device::flex()).unwrap();
        assert_eq!(after.model.precision(), precision);
        assert_eq!(bits(&after), bits(&before), "{}", precision.name());
        let told = after.notes.iter().any(|note| note.contains("saved in bf16"));
        assert_eq!(told, precision == Precision::Bf16, "{:?}", after.notes);
        assert_eq!((&after.labels, &after.preprocess), (&before.labels, &before.preprocess));
        sizes.push(std::fs::metadata(place.join("model.safetensors")).unwrap().len());
        let again = before.save(&place, &WriteOptions::default()).unwrap_err();
        assert!(matches!(again, ModelError::Load(LoadError::Exists { .. })), "{again}");
        before.save(&place, &WriteOptions { overwrite: true, ..WriteOptions::default() }).unwrap();
    }
    assert!(sizes[0] > sizes[1] && sizes[1] > sizes[2], "{sizes:?}");
    // Packing changes neither the file nor the answers.
    let mut packed = demo(Precision::F32);
    packed.model = packed.model.pack();
    packed.save(folder.path().join("packed"), &WriteOptions::default()).unwrap();
    let file = |name: &str| std::fs::read(folder.path().join(name).join("model.safetensors")).unwrap();
    assert!(file("packed") == file("f32"));
    // bf16 weights train as floats.
    let place = folder.path().join("bf16");
    let floats = LoadOptions { floats_only: true, ..LoadOptions::new(&place) };
    assert_eq!(load(&floats, &Device::flex()).unwrap().model.precision(), Precision::F32);
}

#[test]
fn a_classifier_is_saved_with_its_changes() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("model");
    let options = LoadOptions { num_classes: Some(3), patch_size: Some([8, 8]), ..LoadOptions::new("demo") };
    let vit = Classifier::load_with(&options).unwrap();
    let report = vit.loaded().report.as_ref().unwrap();
    assert!(report.resized.iter().any(|change| change.key == "patch_embed.proj.weight"), "{report}");
    vit.save(&place).unwrap();
    let again = Classifier::load(&place).unwrap();
    let pictures = pictures(2);
    assert_eq!(again.predict(&pictures, 3).unwrap(), vit.predict(&pictures, 3).unwrap());
    assert_eq!(again.model().config(), vit.model().config());
}

#[cfg(unix)]
#[test]
fn a_path_keeps_its_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    Classifier::load("demo").unwrap().save(&place).unwrap();
    assert!(Classifier::load(&place).is_ok());
}

#[test]
fn images_that_no_model_takes_are_refused() {
    let model = demo(Precision::F32).model;
    let device = Device::flex();
    let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, (&device, DType::F32));
    let refused = |images: Tensor<4>| model.logits(images).unwrap_err().to_string();
    assert_eq!(refused(zeros([1, 4, 32, 32])), "images have 4 channels, the model takes 3");
    assert!(refused(zeros([2, 3, 40, 24])).starts_with("images are 40x24, the model takes 32x32"));
    assert!(refused(zeros([1, 3, 2, 2])).starts_with("images are 2x2"));
    let doubles = Tensor::<4>::zeros([1, 3, 32, 32], (&device, DType::F64));
    assert_eq!(refused(doubles), "images are of type f64, the model's weights of type f32");
    // An empty batch has no answers.
    assert_eq!(model.logits(zeros([0, 3, 32, 32])).unwrap().dims(), [0, 10]);
    // Any size, if that is asked for; not one that holds no patch.
    use vitrum::models::Sizes;
    assert_eq!(model.logits_at(zeros([2, 3, 40, 24]), Sizes::Any).unwrap().dims(), [2, 10]);
    let tiny = model.logits_at(zeros([1, 3, 2, 2]), Sizes::Any).unwrap_err().to_string();
    assert!(tiny.starts_with("images of 2x2: "), "{tiny}");
    use vitrum::tasks::embed;
    assert!(embed::pooled(&model, zeros([1, 1, 32, 32])).is_err());
    assert!(embed::tokens(&model, zeros([1, 3, 16, 16])).is_err());
    assert_eq!(embed::tokens_at(&model, zeros([1, 3, 16, 16]), Sizes::Any).unwrap().dims(), [1, 17, 64]);
}

#[test]
fn a_forward_pass_without_a_patch_panics_with_words() {
    let model = demo(Precision::F32).model;
    for shape in [[0, 3, 32, 32], [1, 3, 2, 32]] {
        let images = Tensor::<4>::zeros(shape, &Device::flex());
        let pass = || model.classify().unwrap().forward(images.clone().into());
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(pass)).expect_err("a panic");
        let text = panic.downcast_ref::<String>().expect("a text");
        assert!(text.contains("hold no patch of 4x4"), "{text}");
    }
}

#[test]
fn channels_that_pictures_lack_have_no_preprocessing() {
    let options = LoadOptions { in_chans: Some(4), ..LoadOptions::new("demo") };
    let error = Classifier::load_with(&options).unwrap_err().to_string();
    assert!(error.contains("images of 4 channels: pictures have 1 or 3"), "{error}");
    // Tensors can be given.
    let model = load(&options, &Device::flex()).unwrap().model;
    let images = Tensor::<4>::ones([1, 4, 32, 32], (&Device::flex(), DType::F32));
    assert_eq!(model.logits(images).unwrap().dims(), [1, 10]);
}

#[test]
fn pictures_that_fit_no_memory_are_refused() {
    let error = RgbImage::filled(u32::MAX, u32::MAX, [0, 0, 0]).unwrap_err().to_string();
    assert!(error.ends_with("is too large"), "{error}");
    assert!(RgbImage::filled(1 << 30, 1 << 30, [0, 0, 0]).is_err());
    let folder = tempfile::tempdir().unwrap();
    let error = pictures(1)[0].save(folder.path().join("a.xyz")).unwrap_err().to_string();
    assert!(error.contains("a.xyz: the image cannot be written"), "{error}");
}

#[test]
fn every_error_becomes_the_crates_error() {
    fn all() -> Result<(), Error> {
        let sets = vitrum::data::train_set::TrainDataOptions::new("/nothing/here");
        vitrum::data::train_set::TrainValSets::open(&sets)?;
        fit(&Job::new(Recipe::default()), &mut |_: &Event| std::ops::ControlFlow::Continue(()))?;
        RgbImage::filled(0, 1, [0; 3])?;
        demo(Precision::F32).model.logits(Tensor::zeros([1, 1, 1, 1], &Device::flex()))?;
        demo(Precision::F32).model.as_backbone()?;
        Ok(())
    }
    assert!(matches!(all(), Err(Error::TrainData(_))));
}

/// The first lines of the library's front page are those of the repository's.
#[test]
fn the_repositorys_example_is_the_front_pages() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let Ok(readme) = std::fs::read_to_string(root) else { return };
    let code = readme.split("```rust,no_run\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(include_str!("../../../README.md").contains(code), "{code}");
}
