//! Pretraining on images alone: data without labels, the same run with any number of workers, what follows it.

use std::path::Path;

use burn::tensor::{Device, Distribution, Tensor};
use tempfile::TempDir;
use vitrum::checkpoint::load::{LoadOptions, load};
use vitrum::data::demo::DemoSet;
use vitrum::layers::observe::Silent;
use vitrum::models::{Config, Model, ModelConfig, Want};
use vitrum::tasks::{MaskKind, Reconstructor};
use vitrum::train::recipe::{ImgSize, Overlay};
use vitrum::train::{Recipe, TrainError, fit};

use super::fit::{Heard, job};

/// Folders of any names and depth.
fn pictures(folder: &Path, count: usize) {
    let set = DemoSet::new(32, count, 5);
    for index in 0..count {
        let place = folder.join(["holiday", "holiday/sea", "x"][index % 3]);
        std::fs::create_dir_all(&place).unwrap();
        let image = set.image(index);
        let path = place.join(format!("{index}.png"));
        image::save_buffer(path, image.data(), 32, 32, image::ExtendedColorType::Rgb8).unwrap();
    }
}

/// A tiny model and a short run; the lines of `more` override it.
fn recipe(output: &Path, data: &str, more: &str) -> Recipe {
    let of_mae = r#"
        model = "mae_vit_tiny_patch4_32"
        model_kwargs = { patch_size = [8, 8], embed_dim = 32, depth = 2, num_heads = 2 }
        decoder_embed_dim = 16
        decoder_depth = 1
        decoder_num_heads = 2
        "#;
    let of_vit = r#"
        model = "test_vit"
        model_kwargs = { patch_size = [8, 8], embed_dim = 32, depth = 2, num_heads = 2 }
        "#;
    let model = if more.contains("method") || more.contains("model =") { of_vit } else { of_mae };
    let shared = format!(
        r#"
        data = "{data}"
        img_size = 32
        epochs = 2
        warmup_epochs = 0.25
        batch_size = 8
        lr = 3e-3
        workers = 1
        log_interval = 1
        experiment = "run"
        "#
    );
    let mut recipe = Recipe::pretrain();
    for text in [&shared, model, more] {
        let overlay: Overlay = toml::from_str(text).unwrap();
        recipe = recipe.with(&overlay, "test").unwrap();
    }
    Recipe { output: output.to_path_buf(), ..recipe }
}

#[test]
fn a_folder_without_classes_is_enough() {
    let folder = TempDir::new().unwrap();
    pictures(&folder.path().join("data"), 60);
    let data = folder.path().join("data").display().to_string();
    let mut heard = Heard::default();
    let more = "epochs = 12\nmodel_ema = true\nmodel_ema_decay = 0.9";
    let outcome = fit(&job(recipe(&folder.path().join("runs"), &data, more)), &mut heard).unwrap();
    let (first, last) = (heard.losses[0], heard.losses[heard.losses.len() - 1]);
    assert!(last < 0.9 * first, "{first} to {last}");
    let run = folder.path().join("runs/pretrain/run");
    assert_eq!(outcome.finished.eval_metric, "loss");
    assert!(outcome.finished.best_metric.is_some_and(f64::is_finite));
    #[cfg(feature = "plots")]
    for name in ["predicted_0001", "predicted_0010", "predicted_0012"] {
        assert!(run.join(format!("samples/{name}.jpg")).is_file(), "{name}");
    }

    // The whole model, for predictions.
    let device = Device::flex();
    let loaded = load(&LoadOptions::new(run.join("model")), &device).unwrap();
    assert_eq!((loaded.model.family(), loaded.labels.is_none()), ("mae", true));
    let reconstructor = Reconstructor::new(loaded, device).unwrap();
    let masks = reconstructor.sampler(MaskKind::Random, 1).unwrap().of_validation(0, 2);
    let set = DemoSet::new(32, 2, 9);
    let views = reconstructor.views(&[set.image(0), set.image(1)], &masks).unwrap();
    assert_eq!((views.shape, views.losses.len()), ([8, 3, 32, 32], 2));
    let view = |at: usize| &views.values[at * 3072..(at + 1) * 3072];
    // Where nothing is masked, the pasted picture is the original; elsewhere it is the prediction.
    let shown = view(0).iter().zip(view(3)).filter(|(a, b)| a == b).count();
    let predicted = view(2).iter().zip(view(3)).filter(|(a, b)| a == b).count();
    assert_eq!((shown, predicted), (3072 / 4, 3072 * 3 / 4));
    assert_ne!(view(0), view(1));

    // The encoder, for a classifier.
    let fine: Overlay = toml::from_str(&format!(
        r#"
        model = "vit_tiny_patch16_224"
        pretrained = "{}"
        gp = "avg"
        data = "demo:32"
        max_steps = 2
        batch_size = 8
        img_size = 32
        workers = 1
        "#,
        run.join("model").display()
    ))
    .unwrap();
    let fine =
        Recipe { output: folder.path().join("fine"), ..Recipe::finetune().with(&fine, "test").unwrap() };
    let mut heard = Heard::default();
    let tuned = fit(&job(fine), &mut heard).unwrap();
    let notes = heard.notes.join("\n");
    assert!(notes.contains("only the encoder of the mae is used"), "{notes}");
    let config = tuned.model.model.config();
    assert_eq!((tuned.model.model.family(), config.num_classes()), ("vit", 10));
    assert_eq!(config.field("embed_dim"), Some(32.into()));
    assert_eq!(config.field("pos_embed"), Some("learn".into()));
}

#[test]
fn the_encoder_is_the_one_that_was_pretrained() {
    let folder = TempDir::new().unwrap();
    fit(&job(recipe(folder.path(), "demo:32", "max_steps = 2")), &mut Heard::default()).unwrap();
    let model = folder.path().join("pretrain/run/model");
    let device = Device::flex();
    let whole = load(&LoadOptions::new(&model), &device).unwrap().model;
    let classes = LoadOptions { num_classes: Some(4), ..LoadOptions::new(&model) };
    let encoder = load(&classes, &device).unwrap().model;
    let images = Tensor::<4>::random([2, 3, 32, 32], Distribution::Normal(0.0, 1.0), &device);
    let tokens = |model: &Model| {
        let features = model.as_backbone().unwrap().features(images.clone().into(), Want::Last, &mut Silent);
        features.last().tokens.into_data()
    };
    assert_eq!(tokens(&whole), tokens(&encoder));
}

#[test]
fn every_method_learns_and_workers_change_nothing() {
    for (method, more) in [
        ("mpp", "method = 'mpp'"),
        (
            "mpp",
            "method = 'mpp'\nmodel_kwargs = { target = 'downsized', patch_size = [8, 8], embed_dim = 32, depth = 2, \
             num_heads = 2 }",
        ),
        ("simmim", "method = 'simmim'"),
        (
            "mae",
            "method = 'mae'\ndecoder_embed_dim = 16\ndecoder_depth = 1\ndecoder_num_heads = 2\nnorm_pix_loss = true\n\
             mask_kind = 'block'",
        ),
        ("mae", "mask_kind = 'grid'\namp_dtype = 'bf16'\ngrad_checkpointing = true"),
    ] {
        let run = |workers: usize| {
            let folder = TempDir::new().unwrap();
            let recipe = Recipe { epochs: 4, workers, ..recipe(folder.path(), "demo:160", more) };
            let mut heard = Heard::default();
            let outcome = fit(&job(recipe), &mut heard).unwrap_or_else(|error| panic!("{method}: {error}"));
            assert_eq!(outcome.model.model.config().method(), Some(method));
            let bytes = std::fs::read(folder.path().join("pretrain/run/model/model.safetensors")).unwrap();
            (heard.losses, bytes)
        };
        let (one, three) = (run(1), run(3));
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let count = one.0.len();
        let (first, last) = (mean(&one.0[..4]), mean(&one.0[count - 8..]));
        assert!(last < first, "{method}: {first} to {last}");
        assert!(one == three, "{method}: workers change the result");
    }
}

/// From a classifier's weights, and from those of an encoder without a head: the rest begins fresh, and that is said.
#[test]
fn pretraining_begins_from_an_encoder() {
    let folder = TempDir::new().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let classifier = "task = 'classify'\neval_metric = 'top1'\nmax_steps = 1\nmodel = 'test_vit'";
    fit(&job(recipe(&first, "demo:32", classifier)), &mut Heard::default()).unwrap();
    let start = first.join("classify/run/model");
    let device = Device::flex();
    let images = Tensor::<4>::random([2, 3, 32, 32], Distribution::Normal(0.0, 1.0), &device);
    let tokens = |model: &Model| -> Vec<f32> {
        let features = model.as_backbone().unwrap().features(images.clone().into(), Want::Last, &mut Silent);
        features.last().tokens.into_data().iter::<f32>().collect()
    };
    let before = tokens(&load(&LoadOptions::new(&start), &device).unwrap().model);
    let small = "method = 'mae'\ndecoder_embed_dim = 16\ndecoder_depth = 1\ndecoder_num_heads = 2";
    for (method, asked, part) in [
        ("mae", small, "decoder_embed.weight to decoder_pred.bias"),
        ("mpp", "method = 'mpp'", "mask_token to decoder.0.bias"),
        (
            "mae",
            "model = 'mae_vit_tiny_patch4_32'\ndecoder_depth = 1",
            "decoder_embed.weight to decoder_pred.bias",
        ),
    ] {
        let more = format!(
            "{asked}\nmodel_kwargs = {{}}\npretrained = '{}'\nmax_steps = 1\nlr = 1e-12\nweight_decay = 0.0",
            start.display()
        );
        std::fs::remove_dir_all(&second).ok();
        let mut heard = Heard::default();
        let outcome = fit(&job(recipe(&second, "demo:32", &more)), &mut heard).unwrap();
        let config = outcome.model.model.config();
        assert_eq!((config.method(), config.field("pos_embed")), (Some(method), Some("learn".into())));
        let name = if asked.contains("model") {
            "mae_vit_tiny_patch4_32".into()
        } else {
            format!("test_vit ({method})")
        };
        assert_eq!(outcome.finished.model, name);
        if asked.contains("model") {
            let named = ModelConfig::named("mae_vit_tiny_patch4_32").unwrap();
            assert_eq!(config.field("decoder_embed_dim"), named.field("decoder_embed_dim"));
        }
        let notes = heard.notes.join("\n");
        assert!(
            notes.contains("the encoder of the") && notes.contains("without the head of the file"),
            "{notes}"
        );
        assert!(notes.contains(part), "{notes}");
        let whole = load(&LoadOptions::new(second.join("pretrain/run/model")), &device).unwrap().model;
        let after = tokens(&whole);
        let gap = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(before.len() == after.len() && gap < 1e-5, "{method}: {gap}");
    }
    // The weights are not those of the model asked for.
    let more = format!(
        "model = 'mae_vit_large_patch16_224'\nmodel_kwargs = {{}}\npretrained = '{}'\nmax_steps = 1",
        start.display()
    );
    let error = fit(&job(recipe(&second, "demo:32", &more)), &mut Heard::default());
    assert!(matches!(error, Err(TrainError::OtherWeights { .. })), "{:?}", error.err());
}

#[test]
fn what_a_recipe_cannot_ask() {
    let folder = TempDir::new().unwrap();
    let said = |more: &str| match fit(&job(recipe(folder.path(), "demo:32", more)), &mut Heard::default()) {
        Err(error) => error,
        Ok(_) => panic!("{more}: no error"),
    };
    for (more, part) in [
        ("mixup = 0.2", "mixup"),
        ("cutmix = 1.0", "cutmix"),
        ("num_classes = 4", "num_classes"),
        ("bce_loss = true", "bce_loss"),
        ("linear_probe = true", "linear_probe"),
        ("method = 'dino'", "mae, mpp, simmim"),
        ("mask_ratio = 1.5", "mask_ratio"),
        ("eval_metric = 'top5'", "eval_metric"),
        ("model = 'resnet18'\nmodel_kwargs = {}\nmethod = 'mpp'", "not a resnet"),
        ("task = 'classify'\neval_metric = 'top1'\nmask_ratio = 0.5", "mask_ratio"),
    ] {
        let error = said(more).to_string();
        assert!(error.contains(part), "{more}: {error}");
    }
    let error = said("model = 'resnet18'\nmodel_kwargs = {}");
    assert!(matches!(error, TrainError::NoReconstruction), "{error}");
    assert!(error.to_string().contains("predicts masked patches"), "{error}");
    assert!(!folder.path().join("pretrain").exists(), "a refused run leaves nothing");
    let sized =
        Recipe { img_size: Some(ImgSize([36, 32])), ..recipe(folder.path(), "demo:32", "max_steps = 1") };
    // A side that patches do not divide is cut, as in the Vision Transformer.
    assert!(fit(&job(sized), &mut Heard::default()).is_ok());
}

/// Pictures beside folders, folders in folders, tables without labels, archives: every picture counts.
#[test]
fn every_picture_counts() {
    use vitrum::data::dataset::{DatasetOptions, TargetKind, open_dataset};
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("mixed");
    pictures(&root, 30);
    std::fs::copy(root.join("x/2.png"), root.join("top.png")).unwrap();
    let options = DatasetOptions { targets: TargetKind::Nothing, ..DatasetOptions::default() };
    let count = |path: &Path| {
        let mut source = open_dataset(path, &options).unwrap_or_else(|error| panic!("{error}"));
        assert!(source.classes().is_empty(), "{}", path.display());
        let mut count = 0;
        while source.next_sample().unwrap().is_some() {
            count += 1;
        }
        assert!(source.skipped().is_empty(), "{}", source.skipped());
        count
    };
    assert_eq!(count(&root), 31);
    let table = folder.path().join("table.csv");
    std::fs::write(&table, "file,label\nmixed/top.png,\nmixed/x/2.png,not a number; or two\n").unwrap();
    assert_eq!(count(&table), 2);
    std::fs::write(&table, "file\nmixed/top.png\nmixed/x/2.png\n").unwrap();
    assert_eq!(count(&table), 2);
    #[cfg(feature = "tar")]
    {
        let archive = folder.path().join("all.tar");
        let mut builder = tar::Builder::new(std::fs::File::create(&archive).unwrap());
        builder.append_dir_all("data", &root).unwrap();
        builder.append_path_with_name(root.join("top.png"), "first.png").unwrap();
        // A companion that would be no label.
        let mut header = tar::Header::new_gnu();
        header.set_size(9);
        header.set_cksum();
        builder.append_data(&mut header, "first.cls", &b"not a cls"[..]).unwrap();
        builder.finish().unwrap();
        assert_eq!(count(&archive), 32);
    }
}
