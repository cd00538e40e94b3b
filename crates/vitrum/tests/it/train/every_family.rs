//! A run of every family stops in the middle, goes on, and leaves the bytes of a run that never stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Map, Value};
use vitrum::models::{Config, ModelConfig};
use vitrum::train::log::{Event, Watch};
use vitrum::train::recipe::Overlay;
use vitrum::train::resume::{FileSum, Resume};
use vitrum::train::{Job, Outcome, Recipe, fit};

use super::fit::{Heard, job};

/// Tiny models, at least one of each family: the name they begin from, and its arguments.
const MODELS: &[(&str, &str)] = &[
    ("test_vit", "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2, proj_drop_rate = 0.1"),
    (
        "vit_relpos_small_patch16_224",
        "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2, attn_drop_rate = 0.1",
    ),
    (
        "vit_tiny_patch16_224",
        "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2, pos_embed = 'rel_key'",
    ),
    ("cpvt_tiny_patch16_224", "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2"),
    ("deit_tiny_distilled_patch16_224", "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2"),
    (
        "pit_ti_distilled_224",
        "patch_size = 8, stride = 4, base_dims = [4, 4, 4], depth = [1, 2, 1], heads = [1, 2, 4], pos_drop_rate = 0.1",
    ),
    (
        "t2t_vit_7",
        "token_dim = 8, embed_dim = 16, depth = 2, num_heads = 2, attn_drop_rate = 0.1, token_drop_rate = 0.1",
    ),
    ("t2t_vit_t_14", "token_dim = 8, embed_dim = 16, depth = 2, num_heads = 2"),
    ("beit_base_patch16_224", "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2"),
    (
        "beitv2_base_patch16_224",
        "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2, use_rel_pos_bias = false, use_shared_rel_pos_bias = true",
    ),
    (
        "eva_giant_patch14_224",
        "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2, attn_drop_rate = 0.1",
    ),
    (
        "eva02_base_patch14_224",
        "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2, scale_attn_inner = true, pos_drop_rate = 0.1",
    ),
    (
        "vit_small_patch16_rope_mixed_224",
        "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2, num_reg_tokens = 2",
    ),
    ("vit_small_patch16_dinov3", "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2"),
    (
        "vit_pe_core_tiny_patch16_384",
        "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2, attn_pool_num_heads = 2",
    ),
    (
        "vit_large_patch16_sapiens2",
        "patch_size = 8, embed_dim = 24, depth = 2, num_heads = 3, num_kv_heads = [3, 1]",
    ),
    (
        "vit_dpwee_patch16_reg1_gap_256",
        "patch_size = 8, embed_dim = 24, depth = 2, num_heads = 3, qk_norm = true",
    ),
    ("resnet14t", "layers = [1, 1], channels = [8, 12], stem_width = 8"),
    ("regnety_002", "depth = 4, w0 = 8, wa = 6.5, wm = 1.6, group_size = 4, stem_width = 8"),
    ("convnextv2_atto", "depths = [1, 1, 1, 1], dims = [4, 6, 8, 10]"),
    (
        "swin_tiny_patch4_window7_224",
        "embed_dim = 8, depths = [2, 2], num_heads = [2, 4], window_size = 3, attn_drop_rate = 0.1",
    ),
    (
        "swinv2_tiny_window8_256",
        "embed_dim = 8, depths = [2, 2], num_heads = [2, 4], window_size = 4, proj_drop_rate = 0.1",
    ),
    (
        "swinv2_cr_tiny_224",
        "embed_dim = 8, depths = [2, 2], num_heads = [2, 4], window_size = 4, proj_drop_rate = 0.1",
    ),
    (
        "twins_pcpvt_small",
        "embed_dims = [8, 8, 12, 16], num_heads = [1, 1, 2, 2], mlp_ratios = [2, 2, 2, 2], depths = [1, 1, 2, 1]",
    ),
    (
        "twins_svt_small",
        "embed_dims = [8, 8, 12, 16], num_heads = [1, 1, 2, 2], depths = [1, 1, 2, 1], wss = [4, 3, 2, 1]",
    ),
    ("mae_vit_tiny_patch4_32", "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2, decoder_depth = 1"),
    (
        "mpp_vit_base_patch16_224",
        "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2, proj_drop_rate = 0.1",
    ),
    (
        "simmim_vit_base_patch16_224",
        "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2, mask_patch_size = 16, drop_path_rate = 0.1",
    ),
    ("ladder_resnet50", "step = 'depthwise', width = 4"),
    ("resnetv2_50x1_bit", "layers = [1, 1], channels = [16, 32], stem_chs = 16, num_groups = 4"),
    (
        "vit_tiny_r_s16_p8_224",
        "patch_size = 2, embed_dim = 16, depth = 1, num_heads = 2, backbone = { family = 'bit', num_classes = 0, \
         layers = [], stem_chs = 16, num_groups = 4, preact = false, stem_type = 'same', same_padding = true }",
    ),
];

/// A family that is added is added here.
#[test]
fn no_family_is_forgotten() {
    let tried: BTreeSet<&str> =
        MODELS.iter().map(|(name, _)| ModelConfig::named(name).expect("a known name").family()).collect();
    assert_eq!(tried, ModelConfig::FAMILIES.iter().copied().collect());
}

/// Six updates in one epoch, with everything random switched on.
fn recipe(output: &Path, model: &str, kwargs: &str) -> Recipe {
    // Pretraining has no labels to mix, and no head to drop from.
    let of_task = match ModelConfig::named(model).expect("a known name").method() {
        Some(_) => "task = 'pretrain'\neval_metric = 'loss'\npicture_interval = 0",
        None => "drop = 0.1\ndrop_path = 0.1\nmixup = 0.2\ncutmix = 1.0",
    };
    let overlay: Overlay = toml::from_str(&format!(
        r#"
        data = "demo:48"
        model = "{model}"
        img_size = 32
        model_kwargs = {{ {kwargs} }}
        {of_task}
        epochs = 1
        warmup_epochs = 0.25
        batch_size = 8
        opt = "adamw"
        lr = 2e-3
        clip_grad = 1.0
        aa = "rand-m9-mstd0.5-inc1"
        reprob = 0.25
        model_ema = true
        model_ema_decay = 0.9
        grad_checkpointing = true
        workers = 1
        log_interval = 1
        experiment = "run"
        "#
    ))
    .unwrap_or_else(|error| panic!("{model}: {error}"));
    Recipe { output: output.to_path_buf(), ..Recipe::default().with(&overlay, "test").expect("known keys") }
}

/// An object without the values that are another on every run: times, speeds, memory, the folder.
fn repeatable(object: &Map<String, Value>) -> Map<String, Value> {
    let keep = |key: &str| !["second", "time", "memory", "output"].iter().any(|part| key.contains(part));
    let inner = |value: &Value| match value {
        Value::Object(inner) => Value::Object(repeatable(inner)),
        other => other.clone(),
    };
    object.iter().filter(|(key, _)| keep(key)).map(|(key, value)| (key.clone(), inner(value))).collect()
}

/// What a run leaves: checksums of the model, of the last checkpoint (weights, average, optimiser) and of the tables; the
/// checkpoint's state and the lines of metrics as text.
fn left(outcome: &Outcome) -> BTreeMap<&'static str, String> {
    let run = outcome.folder.path();
    let read = |name: &str| std::fs::read(run.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let last = String::from_utf8(read("checkpoints/last")).expect("a name");
    let of_last = |name: &str| read(&format!("checkpoints/{}/{name}", last.trim()));
    let text = |line: &[u8]| match serde_json::from_slice(line).expect("an object of JSON") {
        Value::Object(object) => Value::Object(repeatable(&object)).to_string(),
        other => panic!("no object: {other}"),
    };
    let metrics = read("metrics.jsonl");
    let mut files: BTreeMap<&str, String> = [
        ("model", read("model/model.safetensors")),
        ("configuration", read("model/config.json")),
        ("summary.csv", read("summary.csv")),
        ("weights", of_last("model.safetensors")),
        ("average", of_last("model_ema.safetensors")),
        ("optimiser", of_last("optim.safetensors")),
    ]
    .map(|(name, bytes)| (name, FileSum::of(&bytes).sha256))
    .into();
    // Pretraining has no classes.
    if run.join("plots/confusion_matrix.csv").exists() {
        files.insert("confusion_matrix.csv", FileSum::of(&read("plots/confusion_matrix.csv")).sha256);
    }
    files.insert("state", text(&of_last("state.json")));
    let lines = metrics.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(text);
    files.insert("metrics.jsonl", lines.collect::<Vec<_>>().join("\n"));
    files
}

/// Asks to stop after an update.
struct StopsAt(u64);

impl Watch for StopsAt {
    fn event(&mut self, event: &Event) -> ControlFlow<()> {
        match event {
            Event::Step(step) if step.update == self.0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

#[test]
fn runs_go_on_as_if_they_never_had_stopped() {
    for (model, kwargs) in MODELS {
        let folders = [0, 1].map(|_| tempfile::tempdir().expect("a folder"));
        let [whole, parts] = folders.each_ref().map(|folder| job(recipe(folder.path(), model, kwargs)));
        let run =
            |job: &Job| fit(job, &mut Heard::default()).unwrap_or_else(|error| panic!("{model}: {error}"));
        let unbroken = run(&whole);
        let stopped =
            fit(&parts, &mut StopsAt(4)).expect("the same run").stopped.expect("a run that stopped");
        assert!(stopped.ends_with("step-00000004"), "{model}: {}", stopped.display());
        let resumed = run(&Job { resume: Some(Resume::Auto), ..parts });
        let [unbroken, resumed] = [unbroken, resumed].map(|outcome| left(&outcome));
        for (name, expected) in &unbroken {
            assert_eq!(resumed.get(name), Some(expected), "{model}: {name}");
        }
    }
}
