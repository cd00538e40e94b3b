//! Recipes: what is refused, and the files of `recipes/`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use vitrum::models::{Config, catalogue};
use vitrum::train::Task;
use vitrum::train::optim::OptimName;
use vitrum::train::recipe::{
    BUILTIN, DEVICES, ImgSize, METRICS, Recipe, RecipeError, SCHEDULES, builtin, keys, parse, read,
};
use vitrum::train::score::Measure;

fn good() -> Recipe {
    Recipe { data: "demo".into(), ..Recipe::default() }
}

/// The recipe with these lines of TOML laid over it.
fn with(recipe: &Recipe, text: &str) -> Recipe {
    let overlay = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
    recipe.with(&overlay, "test").unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// The key that is refused, and why.
fn refusal(recipe: &Recipe) -> Option<(&'static str, String)> {
    match recipe.check() {
        Ok(()) => None,
        Err(RecipeError::Field { key, reason }) => Some((key, reason)),
        Err(other) => panic!("another error: {other}"),
    }
}

#[test]
fn defaults_are_runs() {
    assert_eq!(refusal(&good()), None);
    assert_eq!(refusal(&Recipe { data: "demo".into(), ..Recipe::finetune() }), None);
    assert_eq!(refusal(&Recipe::default()).map(|(key, _)| key), Some("data"));
}

#[test]
fn values_out_of_range_are_refused() {
    for text in [
        "val_fraction = 1.0",
        "val_fraction = -0.1",
        "fraction = 0.0",
        "fraction = 1.5",
        "max_bad = -1.0",
        "shuffle_buffer = 0",
        "num_classes = 0",
        "in_chans = 0",
        "img_size = 0",
        "img_size = \"0x32\"",
        "drop = 1.0",
        "proj_drop = -0.1",
        "attn_drop = 1.0",
        "pos_drop = 1.0",
        "patch_drop = 1.0",
        "drop_path = 1.0",
        "head_init_scale = inf",
        "head_init_bias = nan",
        "lr = 0.0",
        "lr = -1e-3",
        "lr = nan",
        "lr = inf",
        "lr_base = 0.0",
        "lr_base_size = 0",
        "weight_decay = -0.1",
        "momentum = 1.0",
        "opt_betas = []",
        "opt_betas = [0.9, 1.0]",
        "opt_betas = [0.9, 0.9, 0.9, 0.9]",
        "opt_eps = 0.0",
        "clip_grad = 0.0",
        "layer_decay = 0.0",
        "layer_decay = 1.1",
        "epochs = 0",
        "max_steps = 0",
        "warmup_epochs = -1.0",
        "warmup_lr = -1.0",
        "min_lr = -1.0",
        "min_lr = 1.0",
        "decay_epochs = 0.0",
        "decay_rate = 0.0",
        "decay_milestones = [2.0, 1.0]",
        "decay_milestones = [0.0]",
        "lr_k_decay = 0.0",
        "scale = [0.5, 0.4]",
        "scale = [0.0, 1.0]",
        "scale = [0.1, 1.1]",
        "ratio = [2.0, 1.0]",
        "ratio = [-1.0, 1.0]",
        "hflip = 1.1",
        "vflip = -0.1",
        "color_jitter = -1.0",
        "grayscale_prob = 2.0",
        "gaussian_blur_prob = nan",
        "reprob = 1.5",
        "recount = 0",
        "mixup = -0.2",
        "cutmix = -1.0",
        "cutmix_minmax = [0.8, 0.2]",
        "cutmix_minmax = [0.2, 1.2]",
        "mixup_prob = 1.5",
        "mixup_switch_prob = -0.5",
        "smoothing = 1.0",
        "crop_pct = 0.0",
        "crop_pct = 1.2",
        "mean = [0.5, 0.5]",
        "std = [0.0]",
        "std = [0.5, 0.5, -0.5]",
        "batch_size = 0",
        "validation_batch_size = 0",
        "grad_accum_steps = 0",
        "model_ema_decay = 1.0",
        "log_interval = 0",
        "val_interval = 0",
        "checkpoint_hist = 0",
        "model_kwargs = { depth = 0 }",
        "model_kwargs = { depht = 3 }",
        "model_kwargs = { depth = \"many\" }",
    ] {
        let key = text.split(' ').next().expect("a key");
        let (refused, reason) = refusal(&with(&good(), text)).unwrap_or_else(|| panic!("{text} is accepted"));
        let by_model = key == "model_kwargs" && refused == "model";
        assert!(refused == key || by_model, "{text}: {refused} {reason}");
    }
    assert_eq!(refusal(&Recipe { seed: u64::MAX, ..good() }).map(|(key, _)| key), Some("seed"));
    let huge = Recipe { batch_size: usize::MAX, grad_accum_steps: 2, ..good() };
    assert_eq!(refusal(&huge).map(|(key, _)| key), Some("grad_accum_steps"));
}

#[test]
fn unknown_names_are_told_the_nearest() {
    for (text, meant) in [
        ("opt = \"lamp\"", "lamb"),
        ("sched = \"cosin\"", "cosine"),
        ("lr_base_scale = \"liner\"", "linear"),
        ("clip_mode = \"norms\"", "norm"),
        ("remode = \"pixels\"", "pixel"),
        ("mixup_mode = \"elems\"", "elem"),
        ("train_interpolation = \"bicubik\"", "bicubic"),
        ("interpolation = \"lancos\"", "lanczos"),
        ("crop_mode = \"centre\"", "center"),
        ("amp_dtype = \"bfloat16\"", "bf16"),
        ("eval_metric = \"top-1\"", "top1"),
        ("device = \"vulcan\"", "vulkan"),
        ("aa = \"randaug-m9\"", "rand"),
        ("model = \"vit_tiny_patch16_242\"", "vit_tiny_patch16_224"),
        ("gp = \"mean\"", "avg"),
        ("model_kwargs = { emded_dim = 64 }", "embed_dim"),
    ] {
        let key = text.split(' ').next().expect("a key");
        let (refused, reason) = refusal(&with(&good(), text)).unwrap_or_else(|| panic!("{text} is accepted"));
        assert_eq!(refused, key, "{text}: {reason}");
        let hint = reason.split("hint:").nth(1).unwrap_or(&reason);
        assert!(hint.contains(meant), "{text}: {reason}");
    }
}

#[test]
fn tasks_are_known_by_name() {
    assert_eq!(good().task().expect("the default is known"), Task::Classify);
    // Recipes from before there were tasks.
    let old = parse("epochs = 3", "old.toml").expect("a recipe");
    assert_eq!(Recipe::default().with(&old, "old.toml").expect("known keys").task, "classify");
    let unknown = |task: &str| match (Recipe { task: task.into(), ..good() }).check() {
        Err(RecipeError::UnknownTask { name, nearest, known }) => (name, nearest, known),
        other => panic!("{task}: {other:?}"),
    };
    let known = ["classify", "multilabel", "regress", "pretrain"].map(String::from).to_vec();
    assert_eq!(unknown("clasify"), ("clasify".into(), Some("classify".into()), known.clone()));
    assert_eq!(unknown("walk"), ("walk".into(), None, known));
}

#[test]
fn the_metric_is_a_score_of_the_judge() {
    let (key, reason) =
        refusal(&Recipe { eval_metric: "mIoU".into(), ..good() }).expect("no score of the task");
    assert_eq!((key, reason.as_str()), ("eval_metric", "'mIoU' is not known: want loss, top1, top5"));
    let measures = [Measure::higher("mIoU"), Measure::lower("loss")];
    assert!(Recipe { eval_metric: "mIoU".into(), ..good() }.check_for(&measures).is_ok());
    let refused = good().check_for(&measures).expect_err("no score of this judge").to_string();
    assert!(refused.contains("eval_metric 'top1' is not known: want mIoU, loss"), "{refused}");
}

#[test]
fn pairs_that_contradict_each_other_are_refused() {
    for (text, key) in [
        ("overfit_batches = 2\nmixup = 0.2", "overfit_batches"),
        ("overfit_batches = 2\ncutmix_minmax = [0.1, 0.2]", "overfit_batches"),
        ("overfit_batches = 2\nfraction = 0.5", "overfit_batches"),
        ("bce_sum = true", "bce_sum"),
        ("bce_target_thresh = 0.2", "bce_target_thresh"),
        ("linear_probe = true\nlora_rank = 4", "linear_probe"),
        ("linear_probe = true\nfreeze = [\"blocks.*\"]", "linear_probe"),
        ("linear_probe = true\nlayer_decay = 0.7", "linear_probe"),
        ("linear_probe = true\ndrop_path = 0.1", "linear_probe"),
        ("mixup = 0.2\nmixup_mode = \"pair\"\nbatch_size = 3", "batch_size"),
        ("no_aug = true\ncrop_pad = 4", "crop_pad"),
        ("no_aug = true\naa = \"3a\"", "aa"),
        ("no_aug = true\nreprob = 0.2", "reprob"),
        ("model_ema_warmup = true", "model_ema_warmup"),
        ("lora_rank = 4\nlora_alpha = 0.0", "lora_alpha"),
        ("opt = \"sgd\"\nmomentum = 0.0", "momentum"),
        ("warmup_steps = 10\nmax_steps = 10", "warmup_steps"),
        ("sched = \"multistep\"\ndecay_milestones = []", "decay_milestones"),
        ("lr = 1e-4\nmin_lr = 1e-3", "min_lr"),
        ("in_chans = 1\nmean = [0.5, 0.5, 0.5]", "mean"),
        ("img_size = 8", "model"),
    ] {
        assert_eq!(refusal(&with(&good(), text)).map(|(key, _)| key), Some(key), "{text}");
        // Each of the two alone is a run, where it is not half of a sentence itself.
        let lines: Vec<&str> = text.lines().collect();
        if let [_, second] = lines[..] {
            let alone = refusal(&with(&good(), second)).map(|(key, _)| key);
            let needs_first = ["lora_alpha", "max_steps", "decay_milestones", "mean", "min_lr"];
            let allowed = alone.is_none() || needs_first.iter().any(|key| second.starts_with(key));
            assert!(allowed, "{second}: {alone:?}");
        }
    }
    for text in [
        "bce_loss = true\nbce_sum = true\nbce_target_thresh = 0.2",
        "linear_probe = true\ndrop = 0.2",
        "mixup = 0.2\nmixup_mode = \"pair\"\nbatch_size = 4",
        "epochs = 1\nmax_steps = 10",
        "in_chans = 1\nmean = [0.5]\nstd = [0.5]",
        "img_size = 32\nmodel_kwargs = { patch_size = 4, pos_embed = \"none\", init_values = 1e-5 }",
    ] {
        assert_eq!(refusal(&with(&good(), text)), None, "{text}");
    }
}

#[test]
fn known_names_are_runs() {
    for opt in OptimName::ALL.map(OptimName::as_str) {
        assert_eq!(refusal(&Recipe { opt: opt.into(), ..good() }), None, "{opt}");
    }
    for sched in SCHEDULES {
        assert_eq!(refusal(&Recipe { sched: sched.into(), ..good() }), None, "{sched}");
    }
    for device in DEVICES.into_iter().chain(["cuda:0", "cuda:3"]) {
        assert_eq!(refusal(&Recipe { device: device.into(), ..good() }), None, "{device}");
    }
    for metric in METRICS {
        assert_eq!(refusal(&Recipe { eval_metric: metric.into(), ..good() }), None, "{metric}");
    }
    for aa in ["rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2", "original", "originalr", "v0", "v0r", "3a"] {
        assert_eq!(refusal(&Recipe { aa: Some(aa.into()), ..good() }), None, "{aa}");
    }
    for model in catalogue::names() {
        assert_eq!(refusal(&Recipe { model: model.into(), ..good() }), None, "{model}");
    }
}

#[test]
fn the_model_is_the_catalogues_with_the_recipes_changes() {
    let text = "model = \"deit_tiny_patch16_224\"\nimg_size = [32, 64]\nin_chans = 1\ngp = \"avg\"\ndrop_path = 0.2\n\
                proj_drop = 0.1\nmodel_kwargs = { patch_size = 4, depth = 3, init_values = 1e-5 }";
    let config =
        vitrum::models::VitConfig::try_from(with(&good(), text).model_config(Some(10)).expect("a model"))
            .expect("a ViT");
    assert_eq!((config.img_size, config.patch_size, config.in_chans), ([32, 64], [4, 4], 1));
    assert_eq!((config.depth, config.embed_dim, config.num_classes), (3, 192, 10));
    assert_eq!((config.drop_path_rate, config.proj_drop_rate, config.init_values), (0.2, 0.1, Some(1e-5)));
    let own = Recipe { num_classes: Some(7), ..good() };
    let config =
        vitrum::models::VitConfig::try_from(own.model_config(Some(10)).expect("a model")).expect("a ViT");
    assert_eq!(config.num_classes, 7);
    let layer_scale = "model = \"test_vit2\"\nmodel_kwargs = { init_values = \"none\" }";
    let config =
        vitrum::models::VitConfig::try_from(with(&good(), layer_scale).model_config(None).expect("a model"))
            .expect("a ViT");
    assert_eq!(config.init_values, None);
}

#[test]
fn a_warm_up_longer_than_the_run_is_doubted() {
    let doubts = |text: &str| with(&good(), text).doubts();
    assert_eq!(
        doubts("epochs = 3\nlr = 5e-4"),
        ["warmup_epochs 5 of 3 epochs: the learning rate never reaches its peak of 5e-4"]
    );
    for fine in [
        "epochs = 6",
        "epochs = 3\nwarmup_epochs = 1",
        "epochs = 3\nwarmup_prefix = true",
        "epochs = 3\nwarmup_steps = 2",
        "epochs = 3\nmax_steps = 9",
        "epochs = 3\nsched = \"none\"",
    ] {
        assert!(doubts(fine).is_empty(), "{fine}");
    }
    assert!(Recipe::finetune().doubts().is_empty());
}

/// Every file of `recipes/`.
fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let mut found: Vec<PathBuf> = walkdir::WalkDir::new(&root)
        .into_iter()
        .map(|entry| entry.expect("an entry").into_path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    found.sort();
    found
}

#[test]
fn every_recipe_is_built_in_and_is_a_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let table = std::fs::read_to_string(root.join("README.md")).expect("the table");
    let mut names = BTreeSet::new();
    for path in files() {
        let overlay = read(&path).unwrap_or_else(|e| panic!("{e}"));
        let name = path.strip_prefix(&root).expect("inside").with_extension("").display().to_string();
        let short = name.rsplit('/').next().expect("a name");
        for asked in [name.as_str(), short, &format!("{name}.toml")] {
            assert_eq!(builtin(asked).expect("built in"), overlay, "{asked}");
        }
        let mut recipe = Recipe::default().with(&overlay, &name).expect("a recipe");
        if recipe.data.is_empty() {
            recipe.data = "somewhere".into();
        }
        recipe.check().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(recipe.doubts().is_empty(), "{name}: {:?}", recipe.doubts());
        let classes = (recipe.task != "pretrain").then_some(10);
        recipe.model_config(classes).expect("a model").walk().expect("shapes");
        let text = std::fs::read_to_string(&path).expect("a text");
        for word in ["# Paper:", "# Command:", "# Hardware:", "# Expected:", "# State:"] {
            assert!(text.contains(word), "{name}: no '{word}'");
        }
        assert!(text.contains(&format!("-c {name}")), "{name}: the command names another recipe");
        assert!(table.contains(&format!("| `{name}` |")), "{name} is not in the table");
        names.insert(name);
    }
    let known: BTreeSet<String> = BUILTIN.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(known, names);
    assert_eq!(table.lines().filter(|line| line.starts_with("| `")).count(), names.len());
    let told = builtin("cifar10_vit_tiny_patch").expect_err("unknown").to_string();
    assert!(told.contains("did you mean 'cifar10_vit_tiny_patch4'"), "{told}");
}

#[test]
fn numbers_of_the_recipes_are_those_of_their_sources() {
    let recipe =
        |name: &str| Recipe::default().with(&builtin(name).expect("built in"), name).expect("a recipe");
    let epochs = |r: &Recipe| r.epochs + if r.warmup_prefix { r.warmup_epochs as usize } else { 0 };
    let rows = [
        ("vit_b16_paper_scratch", 4096, 3e-3, 300),
        ("vit_b16_finetune_384", 512, 0.03, 8),
        ("deit_small", 1024, 1e-3, 300),
        ("deit_small_distilled", 1024, 1e-3, 300),
        ("pit_small", 1024, 1e-3, 300),
        ("pit_small_distilled", 1024, 1e-3, 300),
        ("t2t_vit_14", 512, 5e-4, 300),
        ("t2t_vit_7", 512, 1e-3, 300),
        ("augreg_s16_300ep", 4096, 1e-3, 300),
        ("bigvision_s16_90ep", 1024, 1e-3, 90),
        ("swin_tiny", 1024, 1e-3, 300),
    ];
    for (name, batch, lr, length) in rows {
        let recipe = recipe(name);
        assert_eq!((recipe.global_batch(), recipe.peak_lr(), epochs(&recipe)), (batch, lr, length), "{name}");
    }
    // 22.0 M parameters of S/16, less the class token and its position, and the layer before the head.
    let walk = recipe("bigvision_s16_90ep").model_config(None).expect("a model").walk().expect("shapes");
    assert_eq!(walk.params, 22_050_664 - 384 - 384 + 384 * 384 + 384);
}

#[test]
fn errors_name_file_and_key() {
    let told = |text: &str| parse(text, "mine.toml").expect_err("refused").to_string();
    let unknown = told("batchsize = 3");
    assert!(
        unknown.contains("mine.toml: unknown key 'batchsize'") && unknown.contains("'batch_size'"),
        "{unknown}"
    );
    assert!(told("epochs = \"many\"").starts_with("mine.toml: epochs: "));
    assert!(told("epochs = ").starts_with("mine.toml: not a TOML file: "));
    assert!(
        read(Path::new("no such file.toml"))
            .expect_err("refused")
            .to_string()
            .starts_with("no such file.toml: ")
    );
}

proptest! {
    /// No value of any number makes a check panic, and what is accepted survives its own TOML.
    #[test]
    fn checks_never_panic(bits in any::<u64>(), at in any::<prop::sample::Index>()) {
        let number = f64::from_bits(bits);
        let all = keys();
        let key = at.get(&all);
        for value in [toml::Value::Float(number), toml::Value::Integer(bits as i64 >> 1), toml::Value::Integer((bits % 9) as i64)] {
            let overlay = [(key.clone(), value)].into_iter().collect();
            let Ok(recipe) = good().with(&overlay, "test") else { continue };
            if recipe.check().is_ok() {
                let text = toml::to_string(&recipe.to_table()).expect("TOML");
                let again = Recipe::default().with(&text.parse().expect("TOML"), "again").expect("a recipe");
                prop_assert_eq!(again, recipe);
            }
        }
    }
}

#[test]
fn sizes_of_images_are_read() {
    assert_eq!(with(&good(), "img_size = \"32x48\"").img_size, Some(ImgSize([32, 48])));
}
