//! Features of a dataset, and their cache.

use std::path::{Path, PathBuf};

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use vitrum::checkpoint::load::{LoadOptions, Loaded, load};
use vitrum::data::train_set::{TrainDataOptions, TrainValSets};
use vitrum::data::{DemoSet, Preprocess};
use vitrum::layers::names::{Key, Map, map};
use vitrum::models::{Config, ModelConfig, VitConfig};
use vitrum::probe::{FeatureOptions, Features, Pool, ProbeError, features, fingerprint};
use vitrum::tasks::Embedder;

fn embedder() -> Embedder {
    Embedder::load("demo").unwrap()
}

fn options(cache: Option<&Path>) -> FeatureOptions {
    FeatureOptions { cache: cache.map(PathBuf::from), workers: 2, batch_size: 7, ..FeatureOptions::default() }
}

/// A folder of class folders: 24 pictures for training, 10 for validation.
fn pictures(folder: &Path) -> TrainDataOptions {
    let set = DemoSet::new(32, 100, 3);
    for index in 0..34 {
        let part = if index < 24 { "train" } else { "val" };
        let folder = folder.join(part).join(format!("class{}", index % 3));
        std::fs::create_dir_all(&folder).unwrap();
        set.image(index).save(folder.join(format!("{index:02}.png"))).unwrap();
    }
    TrainDataOptions::new(folder)
}

fn compute(
    embedder: &Embedder,
    data: &TrainDataOptions,
    options: &FeatureOptions,
) -> Result<Features, ProbeError> {
    features(embedder, &TrainValSets::open(data).unwrap(), options, &mut |_, _| {})
}

#[test]
fn features_are_what_the_embedder_gives() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(folder.path());
    let sets = TrainValSets::open(&data).unwrap();
    let embedder = embedder();
    let mut told = Vec::new();
    let found = features(&embedder, &sets, &options(None), &mut |done, all| told.push((done, all))).unwrap();
    assert_eq!(told, [7, 14, 21, 24, 31, 34].map(|done| (done, 34)));
    assert_eq!((found.train.len(), found.val.len(), found.num_classes()), (24, 10, 3));
    assert_eq!(found.reused, None);
    for image in [0, 11, 23] {
        let name = &found.train.names()[image];
        let picture =
            vitrum::data::decode::open(folder.path().join("train").join(name), &Default::default()).unwrap();
        let row: Vec<f32> = embedder.pooled(&[picture]).unwrap().into_data().iter::<f32>().collect();
        let gap = row.iter().zip(found.train.row(image)).map(|(a, b)| (a - b).abs());
        assert!(crate::compare::largest(gap) < 1e-5, "{name}");
        assert_eq!(found.classes[found.train.labels()[image]], name.rsplit('/').nth(1).unwrap());
    }
    let again = compute(&embedder, &data, &FeatureOptions { workers: 1, ..options(None) }).unwrap();
    assert_eq!((again.train, again.val), (found.train, found.val), "the number of workers changes nothing");
}

#[test]
fn pooling_is_chosen() {
    let data = TrainDataOptions { demo_size: 32, ..TrainDataOptions::new("demo:20") };
    let embedder = embedder();
    let of = |pool: Pool| compute(&embedder, &data, &FeatureOptions { pool, ..options(None) });
    let [head, token, avg, both] = Pool::ALL.map(|pool| of(pool).unwrap().val);
    let picture = DemoSet::part(32, 20, vitrum::data::dataset::Split::Val).image(0);
    let tokens = embedder.tokens(&[picture]).unwrap(); // [1, T, D]
    let [_, t, d] = tokens.dims();
    let near = |ours: &[f32], theirs: Tensor<1>| {
        let gap = theirs
            .into_data()
            .iter::<f32>()
            .zip(ours.to_vec())
            .map(|(a, b)| (a - b).abs())
            .collect::<Vec<_>>();
        assert!(crate::compare::largest(gap) < 1e-5);
    };
    near(token.row(0), tokens.clone().narrow(1, 0, 1).reshape([d]));
    near(avg.row(0), tokens.narrow(1, 1, t - 1).mean_dim(1).reshape([d]));
    assert_eq!(both.row(0), [token.row(0), avg.row(0)].concat());
    assert!(head == token || head == avg, "the head reads one of them");
}

/// A ViT without a class token, and its weights after `edit`.
fn tokenless() -> Embedder {
    let config = VitConfig {
        img_size: [16, 16],
        patch_size: [8, 8],
        embed_dim: 8,
        depth: 1,
        num_heads: 2,
        class_token: false,
        reg_tokens: 2,
        global_pool: vitrum::models::vit::GlobalPool::Avg,
        num_classes: 0,
        ..VitConfig::default()
    };
    let model = ModelConfig::Vit(config).init(&Device::flex(), 1).unwrap();
    let preprocess = Some(Preprocess { input_size: [3, 16, 16], ..Preprocess::default() });
    let (name, notes) = ("tiny".to_string(), Vec::new());
    let loaded = Loaded { model, name, preprocess, labels: None, card: None, report: None, notes };
    Embedder::new(loaded, Device::flex()).unwrap()
}

#[test]
fn registers_are_no_class_token() {
    let data = TrainDataOptions { demo_size: 16, ..TrainDataOptions::new("demo:20") };
    for pool in [Pool::Token, Pool::Both] {
        let error = compute(&tokenless(), &data, &FeatureOptions { pool, ..options(None) }).unwrap_err();
        assert_eq!(error.to_string(), "this vit has no class token: its features are averages");
    }
    let avg = compute(&tokenless(), &data, &FeatureOptions { pool: Pool::Avg, ..options(None) }).unwrap();
    assert_eq!((avg.dim(), avg.train.len(), avg.val.len()), (8, 20, 10));
}

#[test]
fn the_cache_is_used_for_the_same_features_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (place, cache) = (folder.path().join("pictures"), folder.path().join("cache"));
    let data = pictures(&place);
    let model = embedder();
    let kept = options(Some(&cache));
    let first = compute(&model, &data, &kept).unwrap();
    let file = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let reused = |model: &Embedder, data: &TrainDataOptions, options: &FeatureOptions| {
        compute(model, data, options).unwrap().reused
    };

    let second = compute(&model, &data, &kept).unwrap();
    assert_eq!(second.reused.as_ref(), Some(&file));
    assert_eq!((&second.train, &second.val, &second.classes), (&first.train, &first.val, &first.classes));
    let other_batch = FeatureOptions { batch_size: 3, workers: 1, ..kept.clone() };
    assert_eq!(reused(&model, &data, &other_batch).as_ref(), Some(&file), "neither changes the features");

    // Any reader of safetensors reads it.
    let bytes = std::fs::read(&file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let numbers = tensors.tensor("val.features").unwrap();
    assert_eq!(numbers.shape(), [10, first.dim()]);
    let values: Vec<f32> =
        numbers.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(values, first.val.values());
    let names: Vec<String> = serde_json::from_slice(tensors.tensor("train.names").unwrap().data()).unwrap();
    assert_eq!(names, first.train.names());

    // Other pooling, other seed of the split, another picture, other weights: computed.
    let avg = FeatureOptions { pool: Pool::Avg, ..kept.clone() };
    assert_eq!(reused(&model, &data, &avg), None);
    let half = TrainDataOptions { fraction: 0.5, ..data.clone() };
    assert_eq!(reused(&model, &half, &kept), None);
    assert_eq!(reused(&doubled(), &data, &kept), None);
    let picture = place.join("train/class0/00.png");
    let before = std::fs::read(&picture).unwrap();
    DemoSet::new(32, 9, 77).image(5).save(&picture).unwrap();
    let changed = compute(&model, &data, &kept).unwrap();
    assert_eq!(changed.reused, None);
    assert_ne!(changed.train.row(0), first.train.row(0));
    std::fs::write(&picture, before).unwrap();
    assert_eq!(reused(&model, &data, &kept).as_ref(), Some(&file), "as before");

    // A file that is cut off, or of another fingerprint under this name, is written anew.
    for bad in [&bytes[..bytes.len() - 5], &bytes[..40], b"", b"no safetensors at all, but long enough"] {
        std::fs::write(&file, bad).unwrap();
        assert_eq!(reused(&model, &data, &kept), None);
        assert_eq!(std::fs::read(&file).unwrap(), bytes);
    }
    let place = bytes.windows(11).position(|part| part == b"fingerprint").unwrap() + 14;
    let mut other = bytes.clone();
    other[place] = if other[place] == b'0' { b'1' } else { b'0' };
    std::fs::write(&file, other).unwrap();
    assert_eq!(reused(&model, &data, &kept), None);
}

struct Scaled(f64);

impl Map for Scaled {
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        if key.name == "norm.weight" { param.map(|weight| weight * self.0) } else { param }
    }
}

/// The demo model with one tensor changed.
fn changed(factor: f64) -> Embedder {
    let loaded = load(&LoadOptions::new("demo"), &Device::flex()).unwrap();
    let model = map(loaded.model, &mut Scaled(factor));
    Embedder::new(Loaded { model, ..loaded }, Device::flex()).unwrap()
}

fn doubled() -> Embedder {
    changed(2.0)
}

#[test]
fn fingerprints_do_not_depend_on_packing() {
    let data = TrainDataOptions { demo_size: 32, ..TrainDataOptions::new("demo:20") };
    let sets = TrainValSets::open(&data).unwrap();
    let of = |model: &Embedder| fingerprint(model, &sets, &options(None)).unwrap();
    assert_eq!(of(&embedder()), of(&embedder().pack()));
    assert_ne!(of(&embedder()), of(&doubled()));
    assert_eq!(of(&embedder()).len(), 64);
}

#[test]
fn what_gives_no_features_is_refused() {
    let data = TrainDataOptions { demo_size: 32, val_fraction: 0.0, ..TrainDataOptions::new("demo:20") };
    let error = compute(&changed(f64::NAN), &data, &options(None)).unwrap_err().to_string();
    assert!(error.starts_with("training image demo/disc/001000: its features are not finite"), "{error}");
    let small = FeatureOptions { max_bytes: Some(1000), ..options(None) };
    let error = compute(&embedder(), &data, &small).unwrap_err();
    assert!(matches!(error, ProbeError::TooLarge { images: 30, limit: 1000, .. }), "{error}");
    assert!(matches!(
        compute(&embedder(), &data, &FeatureOptions { batch_size: 0, ..options(None) }),
        Err(ProbeError::Option { field: "batch_size", .. })
    ));

    let folder = tempfile::tempdir().unwrap();
    let data = pictures(folder.path());
    std::fs::remove_dir_all(folder.path().join("val")).unwrap();
    let data = TrainDataOptions { data: folder.path().join("train"), val_fraction: 0.0, ..data };
    let error = compute(&embedder(), &data, &options(None)).unwrap_err();
    assert!(matches!(error, ProbeError::NoValidation { .. }), "{error}");
    // Unreadable images are refused, or left out and told.
    std::fs::write(folder.path().join("train/class1/01.png"), "no picture").unwrap();
    let data = TrainDataOptions { val_fraction: 0.2, ..data };
    let error = compute(&embedder(), &data, &options(None)).unwrap_err();
    assert!(error.to_string().contains("01.png"), "{error}");
    let lenient = FeatureOptions { max_bad: vitrum::data::loader::MaxBad::Count(1), ..options(None) };
    let found = compute(&embedder(), &data, &lenient).unwrap();
    assert_eq!((found.train.len() + found.val.len(), found.bad.len()), (23, 1));
    assert!(found.bad[0].name.ends_with("01.png"));
}
