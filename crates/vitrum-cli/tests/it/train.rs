//! From flags and files to the recipe of a run.

use std::collections::BTreeSet;

use vitrum::train::recipe::{Recipe, keys};

use crate::sandbox::Sandbox;

/// What `--show-recipe` prints, as a table of TOML.
fn shown(sandbox: &Sandbox, args: &str) -> toml::Table {
    let text = sandbox.ok(&format!("{args} --show-recipe")).out;
    text.parse().unwrap_or_else(|e| panic!("vitrum {args}: no TOML ({e}):\n{text}"))
}

/// For every key: what is typed, the value as TOML, and what must be typed besides to make it a run.
const FLAGS: &[(&str, &str, &str, &str)] = &[
    ("data", "--data elsewhere", "'elsewhere'", ""),
    ("val_data", "--val-data v", "'v'", ""),
    ("train_split", "--train-split t", "'t'", ""),
    ("val_split", "--val-split v", "'v'", ""),
    ("val_fraction", "--val-fraction 0.25", "0.25", ""),
    ("fraction", "--fraction 0.5", "0.5", ""),
    ("class_map", "--class-map names.txt", "'names.txt'", ""),
    ("image_dir", "--image-dir pictures", "'pictures'", ""),
    ("target_columns", "--target-columns age --target-columns size", "['age', 'size']", "--task regress"),
    ("workers", "-j 3", "3", ""),
    ("cache", "--cache ram", "'ram'", ""),
    ("sequential", "--sequential", "true", ""),
    ("shuffle_buffer", "--shuffle-buffer 7", "7", ""),
    ("max_bad", "--max-bad 2", "2.0", ""),
    ("task", "--task classify", "'classify'", ""),
    ("regression_loss", "--regression-loss l1", "'l1'", "--task regress"),
    ("model", "-m deit_tiny_patch16_224", "'deit_tiny_patch16_224'", ""),
    ("pretrained", "--pretrained hf:timm/x", "'hf:timm/x'", ""),
    ("keys", "--keys names.toml", "'names.toml'", ""),
    ("num_classes", "--num-classes 5", "5", ""),
    ("img_size", "--img-size 160x96", "[160, 96]", ""),
    ("in_chans", "--in-chans 1", "1", ""),
    ("gp", "--gp avg", "'avg'", ""),
    ("drop", "--drop 0.1", "0.1", ""),
    ("proj_drop", "--proj-drop 0.1", "0.1", ""),
    ("attn_drop", "--attn-drop 0.1", "0.1", ""),
    ("pos_drop", "--pos-drop 0.1", "0.1", ""),
    ("patch_drop", "--patch-drop 0.1", "0.1", ""),
    ("drop_path", "--drop-path 0.1", "0.1", ""),
    ("head_init_scale", "--head-init-scale 0.001", "0.001", ""),
    ("head_init_bias", "--head-init-bias -6.9", "-6.9", ""),
    (
        "model_kwargs",
        "--model-kwargs depth=3 init_values=1e-5 qkv_bias=False pos_embed=learn_2d img_size=[64,32]",
        "{ depth = 3, init_values = 1e-5, qkv_bias = false, pos_embed = 'learn_2d', img_size = [64, 32] }",
        "",
    ),
    ("freeze", "--freeze blocks.0.* --freeze pos_embed", "['blocks.0.*', 'pos_embed']", ""),
    ("linear_probe", "--linear-probe", "true", ""),
    ("freeze_bn", "--freeze-bn", "true", ""),
    ("lora_rank", "--lora-rank 4", "4", ""),
    ("lora_alpha", "--lora-alpha 8", "8.0", ""),
    ("method", "--method mae", "'mae'", "--task pretrain --eval-metric loss -m vit_tiny_patch16_224"),
    ("mask_ratio", "--mask-ratio 0.6", "0.6", "--task pretrain --eval-metric loss -m mae_vit_tiny_patch4_32"),
    (
        "mask_kind",
        "--mask-kind block",
        "'block'",
        "--task pretrain --eval-metric loss -m mae_vit_tiny_patch4_32",
    ),
    (
        "norm_pix_loss",
        "--norm-pix-loss",
        "true",
        "--task pretrain --eval-metric loss -m mae_vit_tiny_patch4_32",
    ),
    (
        "decoder_embed_dim",
        "--decoder-embed-dim 96",
        "96",
        "--task pretrain --eval-metric loss -m mae_vit_tiny_patch4_32",
    ),
    (
        "decoder_depth",
        "--decoder-depth 2",
        "2",
        "--task pretrain --eval-metric loss -m mae_vit_tiny_patch4_32",
    ),
    (
        "decoder_num_heads",
        "--decoder-num-heads 6",
        "6",
        "--task pretrain --eval-metric loss -m mae_vit_tiny_patch4_32",
    ),
    ("picture_interval", "--picture-interval 3", "3", ""),
    ("teacher", "--teacher hf:timm/x", "'hf:timm/x'", ""),
    ("teacher_checkpoint", "--teacher-path t.pth", "'t.pth'", "--teacher vit_tiny_patch16_224"),
    ("distillation_type", "--distillation-type soft", "'soft'", "--teacher-model t"),
    ("distillation_alpha", "--distillation-alpha 0.1", "0.1", ""),
    ("distillation_tau", "--distillation-tau 3", "3.0", ""),
    ("cache_teacher", "--cache-teacher", "true", "--teacher t --distillation-type hard --no-aug"),
    ("opt", "--opt lamb", "'lamb'", ""),
    ("lr", "--lr 5e-4", "5e-4", ""),
    ("lr_base", "--lr-base 1e-3", "1e-3", ""),
    ("lr_base_size", "--lr-base-size 256", "256", ""),
    ("lr_base_scale", "--lr-base-scale sqrt", "'sqrt'", ""),
    ("weight_decay", "--weight-decay 0.3", "0.3", ""),
    ("momentum", "--momentum 0.8", "0.8", ""),
    ("opt_betas", "--opt-betas 0.9 0.95", "[0.9, 0.95]", ""),
    ("opt_eps", "--opt-eps 1e-6", "1e-6", ""),
    ("clip_grad", "--clip-grad 1", "1.0", ""),
    ("clip_mode", "--clip-mode agc", "'agc'", ""),
    ("layer_decay", "--layer-decay .75", "0.75", ""),
    ("no_weight_decay", "--no-weight-decay head.*", "['head.*']", ""),
    ("sched", "--sched step", "'step'", ""),
    ("sched_on_updates", "--sched-on-updates=false", "false", ""),
    ("epochs", "--epochs 90", "90", ""),
    ("max_steps", "--max-steps 1000", "1000", ""),
    ("warmup_epochs", "--warmup-epochs 2.5", "2.5", ""),
    ("warmup_steps", "--warmup-steps 100", "100", ""),
    ("warmup_lr", "--warmup-lr 1e-5", "1e-5", ""),
    ("warmup_prefix", "--warmup-prefix", "true", ""),
    ("min_lr", "--min-lr 1e-5", "1e-5", ""),
    ("cooldown_epochs", "--cooldown-epochs 10", "10", ""),
    ("decay_epochs", "--decay-epochs 2.4", "2.4", ""),
    ("decay_milestones", "--decay-milestones 30,60", "[30.0, 60.0]", ""),
    ("decay_rate", "--decay-rate 0.97", "0.97", ""),
    ("patience_epochs", "--patience-epochs 4", "4", ""),
    ("patience", "--patience 5", "5", ""),
    ("lr_k_decay", "--lr-k-decay 1.5", "1.5", ""),
    ("no_aug", "--no-aug", "true", ""),
    ("crop_pad", "--crop-pad 4", "4", ""),
    ("crop_pad_mode", "--crop-pad-mode reflect", "'reflect'", ""),
    ("scale", "--scale 0.2 0.9", "[0.2, 0.9]", ""),
    ("ratio", "--ratio 0.5 2", "[0.5, 2.0]", ""),
    ("hflip", "--hflip 0", "0.0", ""),
    ("vflip", "--vflip 0.5", "0.5", ""),
    ("color_jitter", "--color-jitter 0.3", "0.3", ""),
    ("color_jitter_prob", "--color-jitter-prob 0.8", "0.8", ""),
    ("grayscale_prob", "--grayscale-prob 0.2", "0.2", ""),
    ("gaussian_blur_prob", "--gaussian-blur-prob 0.1", "0.1", ""),
    ("aa", "--aa rand-m9-mstd0.5-inc1", "'rand-m9-mstd0.5-inc1'", ""),
    ("aug_repeats", "--aug-repeats 3", "3", ""),
    ("reprob", "--reprob 0.25", "0.25", ""),
    ("remode", "--remode const", "'const'", ""),
    ("recount", "--recount 2", "2", ""),
    ("mixup", "--mixup .8", "0.8", ""),
    ("cutmix", "--cutmix 1", "1.0", ""),
    ("cutmix_minmax", "--cutmix-minmax 0.2 0.8", "[0.2, 0.8]", ""),
    ("mixup_prob", "--mixup-prob 0.5", "0.5", ""),
    ("mixup_switch_prob", "--mixup-switch-prob 0.3", "0.3", ""),
    ("mixup_mode", "--mixup-mode elem", "'elem'", ""),
    ("mixup_off_epoch", "--mixup-off-epoch 250", "250", ""),
    ("smoothing", "--smoothing 0", "0.0", ""),
    ("bce_loss", "--bce-loss", "true", ""),
    ("bce_target_thresh", "--bce-target-thresh 0.2", "0.2", "--bce-loss"),
    ("bce_sum", "--bce-sum", "true", "--bce-loss"),
    ("train_interpolation", "--train-interpolation bicubic", "'bicubic'", ""),
    ("interpolation", "--interpolation bilinear", "'bilinear'", ""),
    ("crop_pct", "--crop-pct 0.875", "0.875", ""),
    ("crop_mode", "--crop-mode squash", "'squash'", ""),
    ("mean", "--mean 0.4 0.5 0.6", "[0.4, 0.5, 0.6]", ""),
    ("std", "--std 0.2 0.2 0.3", "[0.2, 0.2, 0.3]", ""),
    ("batch_size", "-b 64", "64", ""),
    ("validation_batch_size", "--validation-batch-size 200", "200", ""),
    ("grad_accum_steps", "--grad-accum-steps 4", "4", ""),
    ("grad_checkpointing", "--grad-checkpointing", "true", ""),
    ("amp_dtype", "--amp-dtype bf16", "'bf16'", ""),
    ("model_ema", "--model-ema", "true", ""),
    ("model_ema_decay", "--model-ema-decay 0.999", "0.999", ""),
    ("model_ema_warmup", "--model-ema-warmup", "true", "--model-ema"),
    ("output", "--output out", "'out'", ""),
    ("experiment", "--experiment first", "'first'", ""),
    ("exist_ok", "--exist-ok", "true", ""),
    ("seed", "--seed 7", "7", ""),
    ("log_interval", "--log-interval 10", "10", ""),
    ("val_interval", "--val-interval 2", "2", ""),
    ("checkpoint_every", "--checkpoint-every 500steps", "'500steps'", ""),
    ("checkpoint_hist", "--checkpoint-hist 10", "10", ""),
    ("eval_metric", "--eval-metric loss", "'loss'", ""),
    ("time", "--time 3.5h", "'3.5h'", ""),
    ("device", "--device cpu", "'cpu'", ""),
    ("overfit_batches", "--overfit-batches 2", "2", ""),
];

#[test]
fn every_key_has_a_flag_that_sets_it_and_nothing_else() {
    let sandbox = Sandbox::empty();
    let tested: Vec<String> = FLAGS.iter().map(|(key, ..)| key.to_string()).collect();
    assert_eq!(tested, keys(), "every key of a recipe, in its order");
    for (key, typed, value, besides) in FLAGS {
        let positional = if *key == "data" { "" } else { "somewhere" };
        let before = if *key == "data" {
            Recipe { data: "somewhere".into(), ..Recipe::default() }.to_table()
        } else {
            shown(&sandbox, &format!("train somewhere {besides}"))
        };
        let after = shown(&sandbox, &format!("train {positional} {besides} {typed}"));
        let wanted: toml::Table = format!("value = {value}").parse().expect("TOML");
        assert_eq!(after.get(*key), wanted.get("value"), "{typed}");
        // The default is the only task.
        let has_other = *key != "task";
        assert!(!has_other || before.get(*key) != after.get(*key), "{typed} shows nothing but the default");
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for other in names.into_iter().filter(|other| *other != key) {
            assert_eq!(before.get(other), after.get(other), "{typed} changes {other}");
        }
    }
}

#[test]
fn help_tells_of_every_key_and_of_no_other() {
    let help = Sandbox::empty().ok("train --help").out;
    let (_, own) = help.split_once("\nData:\n").expect("the headings of a recipe");
    let long = |line: &str| {
        let line = line.trim_start();
        let line =
            line.get(4..).filter(|_| line.starts_with('-') && line.get(2..4) == Some(", ")).unwrap_or(line);
        let name = line.strip_prefix("--")?.split([' ', '[', '=']).next()?;
        Some(name.replace('-', "_"))
    };
    let flags: Vec<String> = own.lines().filter_map(long).collect();
    assert_eq!(flags, keys());
    for heading in [
        "Data",
        "Model",
        "Distillation",
        "Optimiser",
        "Schedule",
        "Augmentation",
        "Batch",
        "Moving average",
        "Run",
    ] {
        assert!(help.contains(&format!("\n{heading}:\n")), "no {heading}");
    }
}

#[test]
fn other_programs_names_are_understood() {
    let sandbox = Sandbox::empty();
    for (theirs, ours) in [
        ("--learning-rate 1e-3", "--lr 1e-3"),
        ("--learning_rate 1e-3", "--lr 1e-3"),
        ("--num_train_epochs 7", "--epochs 7"),
        ("--per-device-train-batch-size 8", "--batch-size 8"),
        ("--per_device_eval_batch_size 8", "--validation-batch-size 8"),
        ("--output_dir o", "--output o"),
        ("--gradient_accumulation_steps 2", "--grad-accum-steps 2"),
        ("--save_total_limit 4", "--checkpoint-hist 4"),
        ("--max_grad_norm 1", "--clip-grad 1"),
        ("--label_smoothing_factor 0.2", "--smoothing 0.2"),
        ("--imgsz 64", "--img-size 64"),
        ("--batch 8", "--batch-size 8"),
        ("--project p --name n", "--output p --experiment n"),
        ("--optimizer sgd --lr0 0.1", "--opt sgd --lr 0.1"),
        ("--batch_size 8 --warmup_epochs 1", "--batch-size 8 --warmup-epochs 1"),
        ("--lr 1 --lr 2", "--lr 2"),
        ("--no-aug=true --model-ema=false", "--no-aug"),
    ] {
        let (a, b) =
            (shown(&sandbox, &format!("train d {theirs}")), shown(&sandbox, &format!("train d {ours}")));
        assert_eq!(a, b, "{theirs}");
    }
}

#[test]
fn later_words_go_over_earlier_ones() {
    let sandbox = Sandbox::empty();
    sandbox.write("one.toml", "epochs = 50\nlr = 0.5\nmixup = 0.2\n");
    sandbox.write("two.toml", "lr = 0.25\nclip_grad = 1\n");
    let table = shown(&sandbox, "train d -c one.toml --config two.toml --mixup 0.4");
    let expected = Recipe {
        data: "d".into(),
        epochs: 50,
        lr: Some(0.25),
        clip_grad: Some(1.0),
        mixup: 0.4,
        ..Recipe::default()
    };
    assert_eq!(table, expected.to_table());
    // What is printed is a recipe again.
    sandbox.write("again.toml", toml::to_string(&table).expect("TOML"));
    assert_eq!(shown(&sandbox, "train -c again.toml"), table);

    let tuned = shown(&sandbox, "finetune d --epochs 3");
    assert_eq!(tuned, Recipe { data: "d".into(), epochs: 3, ..Recipe::finetune() }.to_table());
    let built_in = shown(&sandbox, "train d -c deit_small -b 16");
    assert_eq!(
        (built_in["aug_repeats"].as_integer(), built_in["batch_size"].as_integer()),
        (Some(3), Some(16))
    );
    let demo = shown(&sandbox, "train --recipe demo");
    assert_eq!(demo["data"].as_str(), Some("demo:15000"));
    assert_eq!(shown(&sandbox, "train demo"), demo, "a newcomer's first run");
    assert_eq!(shown(&sandbox, "train demo --resume auto"), demo, "and its continuation");
    let probe = shown(&sandbox, "finetune d --linear-probe");
    assert!(!probe.contains_key("layer_decay") && probe["linear_probe"].as_bool() == Some(true));
    assert_eq!(shown(&sandbox, "train demo -m vit_tiny_patch16_224")["data"].as_str(), Some("demo"));
    // A file goes before a built-in recipe of its name.
    sandbox.write("demo", "data = 'mine'");
    assert_eq!(shown(&sandbox, "train -c demo")["data"].as_str(), Some("mine"));
}

#[test]
fn a_dry_run_tells_of_the_model() {
    let ran =
        Sandbox::empty().ok("train d -m vit_tiny_patch16_224 -b 64 --grad-accum-steps 2 --lr 1e-3 --dry-run");
    assert!(ran.err.contains("vit_tiny_patch16_224  5.72 M parameters"), "{}", ran.err);
    assert!(ran.err.contains("128 images, learning rate 1e-3"), "{}", ran.err);
    assert!(ran.out.contains("batch_size = 64\n"), "{}", ran.out);
}

#[test]
fn doubts_are_told_on_stderr() {
    let sandbox = Sandbox::empty();
    let ran = sandbox.ok("train d --epochs 3 --show-recipe");
    assert!(ran.err.starts_with("warning: warmup_epochs 5 of 3 epochs"), "{}", ran.err);
    assert_eq!(sandbox.ok("train d --epochs 3 --show-recipe -q").err, "");
    assert_eq!(sandbox.ok("train d --epochs 6 --show-recipe").err, "");
}

#[test]
fn a_resumed_run_keeps_its_arguments() {
    let sandbox = Sandbox::empty();
    std::fs::create_dir_all(sandbox.path("runs/a/checkpoints/step-00000003")).expect("folders");
    sandbox.write("runs/a/args.toml", "data = 'flowers'\nepochs = 4\nlr = 0.125\n");
    for path in ["runs/a", "runs/a/checkpoints", "runs/a/checkpoints/step-00000003"] {
        let table = shown(&sandbox, &format!("train --resume {path} --lr 0.5 --allow-changed-args"));
        let told = (table["data"].as_str(), table["epochs"].as_integer(), table["lr"].as_float());
        assert_eq!(told, (Some("flowers"), Some(4), Some(0.5)), "{path}");
    }
    for typed in ["d --resume", "d --resume auto", "--resume=auto d", "d --resume_from_checkpoint runs/b"] {
        assert_eq!(shown(&sandbox, &format!("train {typed}"))["data"].as_str(), Some("d"), "{typed}");
    }
}

#[test]
fn what_makes_no_run_is_refused() {
    let sandbox = Sandbox::empty();
    sandbox.write("bad.toml", "epohcs = 3\n");
    sandbox.write("broken.toml", "epochs = \n");
    std::fs::create_dir(sandbox.path("folder")).expect("a folder");
    for (args, code, texts) in [
        ("train", 2, vec!["DATA is missing", "Usage: vitrum train"]),
        ("finetune demo -m test_vit", 1, vec!["'test_vit' is a name", "hint: --pretrained"]),
        ("finetune --lr 1", 2, vec!["DATA is missing", "Usage: vitrum finetune"]),
        ("train -c deit_small --show-recipe", 2, vec!["DATA is missing"]),
        ("train d --data e", 2, vec!["cannot be used with"]),
        ("train d --lr fast", 2, vec!["--lr", "want a number"]),
        ("train d --lr -1", 1, vec!["lr must be above 0, found -1"]),
        ("train d --epochs -3", 2, vec!["--epochs", "whole number"]),
        ("train d --epochs 2.5", 2, vec!["--epochs", "whole number"]),
        ("train d --scale 0.5", 2, vec!["--scale"]),
        ("train d --img-size 0x", 2, vec!["--img-size", "want N or HxW"]),
        ("train d --checkpoint-every often", 2, vec!["--checkpoint-every", "10min"]),
        ("train d --time soon", 2, vec!["--time", "3.5h"]),
        ("train d --model-ema=maybe", 2, vec!["--model-ema", "want true or false"]),
        ("train d --cache disk", 1, vec!["command line: cache", "ram"]),
        (
            "train d --task classfy",
            1,
            vec!["task 'classfy' is not known: want classify", "did you mean 'classify'"],
        ),
        ("train d --eval-metric mIoU", 1, vec!["eval_metric 'mIoU' is not known: want loss, top1, top5"]),
        ("train d --opt adamx", 1, vec!["opt 'adamx' is not known", "hint: did you mean 'adam"]),
        ("train d -m vit_tiny", 1, vec!["vit_tiny", "hint: did you mean"]),
        ("train d --model-kwargs depth", 2, vec!["want KEY=VALUE"]),
        (
            "train d --model-kwargs depht=3",
            1,
            vec!["model_kwargs asks for 'depht', which a vit does not have", "'depth'"],
        ),
        ("train d --overfit-batches 1 --mixup 0.2", 1, vec!["overfit_batches", "mixup"]),
        ("train d -c bad.toml", 1, vec!["bad.toml: unknown key 'epohcs'", "did you mean 'epochs'"]),
        ("train d -c broken.toml", 1, vec!["broken.toml: not a TOML file"]),
        ("train d -c nosuch.toml", 1, vec!["no recipe 'nosuch.toml'"]),
        ("train d -c deit_smal", 1, vec!["did you mean 'deit_small'"]),
        ("train d -c folder", 1, vec!["folder: a folder"]),
        ("train d --leraning-rate 1", 2, vec!["unexpected argument", "--learning-rate"]),
    ] {
        sandbox.fails(args, code, &texts);
    }
}

#[test]
fn examples_of_the_help_are_understood() {
    let sandbox = Sandbox::empty();
    for command in ["train", "finetune", "distill"] {
        let help = sandbox.ok(&format!("{command} --help")).out;
        let (_, examples) = help.split_once("Examples:").expect("examples");
        let typed: Vec<&str> =
            examples.lines().filter_map(|line| line.trim().strip_prefix("vitrum ")).collect();
        assert!(typed.len() >= 3, "{examples}");
        for line in typed {
            shown(&sandbox, line.trim_end_matches("--show-recipe"));
        }
        let (_, named) = help.split_once("built in: ").expect("names");
        let (named, _) = named.split_once(".\n").expect("their end");
        let named: BTreeSet<&str> = named.split([',', '\n', ' ']).filter(|name| !name.is_empty()).collect();
        let known: BTreeSet<&str> = vitrum::train::recipe::BUILTIN.iter().map(|(name, _)| *name).collect();
        assert_eq!(named, known);
    }
}

const SMALL: &str = "demo:60 --img-size 32 --epochs 1 --warmup-epochs 0 -b 16 --lr 2e-3 \
    --model-kwargs patch_size=8 embed_dim=16 depth=2 num_heads=2";

/// A teacher, its student, and both answers of the student.
#[test]
fn a_student_learns_from_a_teacher() {
    let sandbox = Sandbox::empty();
    sandbox.ok(&format!("train {SMALL} -m test_vit --experiment teacher"));
    let teacher = "runs/classify/teacher/model";
    let student = format!("{SMALL} -m deit_tiny_distilled_patch16_224 --teacher {teacher}");
    let told = sandbox.ok(&format!("distill {student} --experiment student")).err;
    assert!(told.contains("teacher"), "{told}");
    let args = std::fs::read_to_string(sandbox.path("runs/classify/student/args.toml")).expect("a recipe");
    for line in ["teacher = \"runs/classify/teacher/model\"", "distillation_type = \"hard\""] {
        assert!(args.contains(line), "{args}");
    }
    let answer = |head: &str| {
        sandbox.ok(&format!("val demo:60 -m runs/classify/student/model --format json {head}")).out
    };
    let loss = |text: String| {
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        json["loss"].as_f64().unwrap_or_else(|| panic!("no loss in {text}"))
    };
    let losses = ["", "--answer class", "--answer dist"].map(|head| loss(answer(head)));
    assert_eq!(losses[0], loss(answer("--answer mean")));
    assert!(losses[0] != losses[1] && losses[1] != losses[2], "{losses:?}");
    sandbox.fails(&format!("val demo:60 -m {teacher} --answer class"), 1, &["--answer", "vit"]);

    let told = sandbox.ok(
        "finetune demo:60 -m runs/classify/student/model --epochs 1 --model-kwargs head_dist=false --experiment one",
    );
    assert!(told.err.contains("head_dist is left out"), "{}", told.err);
    for (args, texts) in [
        (format!("distill {SMALL} -m vit_tiny_patch16_224"), vec!["distillation_type needs a teacher"]),
        (format!("distill {student} --cache-teacher"), vec!["cache_teacher", "no_aug"]),
        (format!("distill {student} --distillation-type strict"), vec!["distillation_type", "soft"]),
        (format!("distill {student} --num-classes 99"), vec!["teacher", "99"]),
    ] {
        sandbox.fails(&args, 1, &texts);
    }
    let idle = sandbox.ok(&format!("train {student} --dry-run")).err;
    assert!(idle.contains("is not asked"), "{idle}");
}
