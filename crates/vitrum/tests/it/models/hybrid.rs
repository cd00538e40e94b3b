//! Hybrids: the linear layers of their backbones, and limits. Their numbers are compared in `parity.rs`.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use tempfile::TempDir;
use vitrum::checkpoint::apply::{Excuses, apply, collect};
use vitrum::checkpoint::card::CardSource;
use vitrum::checkpoint::load::{LoadOptions, load};
use vitrum::checkpoint::save::save;
use vitrum::checkpoint::write::WriteOptions;
use vitrum::checkpoint::{HostTensor, ModelCard};
use vitrum::models::convnext::ConvNextConfig;
use vitrum::models::hybrid::HybridConfig;
use vitrum::models::{Config, Model, ModelConfig, Network, Precision, Sizes, VitConfig};

use crate::formula;

const CLASSES: usize = 5;

/// A ViT on maps of 2x2 of a ConvNeXt.
fn hybrid(backbone: ConvNextConfig) -> HybridConfig {
    let config = HybridConfig {
        vit: VitConfig {
            img_size: [64, 64],
            patch_size: [1, 1],
            embed_dim: 16,
            depth: 2,
            num_heads: 2,
            num_classes: CLASSES,
            ..VitConfig::default()
        },
        backbone: Box::new(backbone.into()),
    };
    // As read from a file: the backbone has the hybrid's image.
    let config: ModelConfig = ModelConfig::from(config);
    serde_json::from_value::<ModelConfig>(serde_json::to_value(config).unwrap()).unwrap().try_into().unwrap()
}

fn first_version() -> ConvNextConfig {
    ConvNextConfig { depths: [1, 1, 2, 1], dims: [8, 16, 24, 32], ..ConvNextConfig::default() }
}

fn second_version() -> ConvNextConfig {
    ConvNextConfig { use_grn: true, ls_init_value: None, ..first_version() }
}

/// A model far from its first values.
fn model(config: &HybridConfig) -> Model {
    let device = Device::flex();
    let fresh = Model::from(config.init(&device, 0).unwrap());
    let mut map = collect(&fresh);
    for (key, tensor) in &mut map.tensors {
        let shape = tensor.shape().to_vec();
        *tensor = HostTensor::from_f32(shape.clone(), &formula::weight(key, &shape)).unwrap();
    }
    apply(fresh, map, DType::F32, &Excuses::default()).unwrap().0
}

fn logits(model: &Model) -> Vec<f32> {
    let shape = [2, 3, 64, 64];
    let images = Tensor::<4>::from_data(TensorData::new(formula::images(shape, 1.0), shape), &Device::flex());
    model.logits(images).unwrap().into_data().try_to_vec().unwrap()
}

/// The largest difference over the largest value.
fn relative(ours: &[f32], theirs: &[f32]) -> f32 {
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, |m: f32, v| m.max(v.abs()));
    largest(&mut ours.iter().zip(theirs).map(|(a, b)| a - b)) / largest(&mut theirs.iter().copied())
}

#[test]
fn linear_layers_of_the_backbone_come_first() {
    let model = model(&hybrid(first_version()));
    let names: Vec<String> = model.linears().into_iter().map(|(name, _)| name).collect();
    let backbone = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0)].into_iter().flat_map(|(stage, block)| {
        ["fc1", "fc2"].map(|layer| format!("patch_embed.backbone.stages.{stage}.blocks.{block}.mlp.{layer}"))
    });
    let vit = [0, 1].into_iter().flat_map(|block| {
        ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"].map(|layer| format!("blocks.{block}.{layer}"))
    });
    assert_eq!(names, backbone.chain(vit).collect::<Vec<_>>());
    let held = collect(&model);
    assert!(names.iter().all(|name| held.contains(&format!("{name}.weight"))), "{names:?}");
}

#[test]
fn linear_layers_of_the_backbone_are_packed_rounded_and_quantised() {
    for backbone in [first_version(), second_version()] {
        let has_gains = backbone.ls_init_value.is_some();
        let exact = model(&hybrid(backbone));
        let answers = logits(&exact);

        let mut packed = exact.clone().pack();
        assert!(packed.linears().iter().all(|(_, layer)| layer.packed().is_some()));
        let error = relative(&logits(&packed), &answers);
        // With gains, gain and residual meet in one rounding.
        assert!(if has_gains { error < 1e-6 } else { error == 0.0 }, "{error:e}");
        packed.forget_prepared();
        assert!(packed.linears().iter().all(|(_, layer)| layer.prepared().is_none()));
        assert_eq!(logits(&packed), answers);

        let bf16 = exact.clone().round_to_bf16();
        assert_eq!((bf16.precision(), bf16.bf16_layers()), (Precision::Bf16, 18));
        let error = relative(&logits(&bf16), &answers);
        assert!(error > 0.0 && error < 0.05, "{error:e}");

        let int8 = exact.clone().quantize(&[]).unwrap();
        assert_eq!((int8.precision(), int8.quantized_layers()), (Precision::Int8, 18));
        let error = relative(&logits(&int8), &answers);
        assert!(error > 0.0 && error < 0.2, "{error:e}");

        let skip = ["patch_embed.backbone.*".to_string()];
        let vit_alone = exact.quantize(&skip).unwrap();
        assert_eq!(vit_alone.quantized_layers(), 8);
        assert_ne!(logits(&vit_alone), logits(&int8));
    }
}

/// int8 and bf16 weights of the backbone are written and read, also as kernels of 1x1.
#[test]
fn rounded_backbones_load_as_they_were_saved() {
    for conv_mlp in [false, true] {
        let exact = model(&hybrid(ConvNextConfig { conv_mlp, ..second_version() }));
        for (rounded, precision) in [
            (exact.clone().round_to_bf16(), Precision::Bf16),
            (exact.clone().quantize(&[]).unwrap(), Precision::Int8),
        ] {
            let folder = TempDir::new().unwrap();
            let mut card = ModelCard::new(rounded.config(), CardSource::Timm, "");
            card.architecture = Some("vit_base_r50_s16_224".into());
            save(folder.path(), &rounded, &card, &WriteOptions { dtype: None, overwrite: true }).unwrap();
            let loaded = load(&LoadOptions::new(folder.path()), &Device::flex()).unwrap().model;
            assert_eq!(loaded.config(), rounded.config());
            assert_eq!(loaded.precision(), precision);
            assert_eq!(loaded.quantized_layers() + loaded.bf16_layers(), 18, "{precision:?}");
            assert_eq!(logits(&loaded), logits(&rounded), "{precision:?}, conv_mlp {conv_mlp}");
        }
    }
}

/// A hybrid of two by two cells on maps of another family.
fn on_maps_of(backbone: &str) -> ModelConfig {
    let text = format!(
        r#"{{"family": "hybrid", "img_size": [64, 96], "num_classes": 5, "embed_dim": 16, "depth": 1, "num_heads": 2,
            "patch_size": [2, 2], "backbone": {{{backbone}}}}}"#
    );
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_vit_stands_on_the_maps_of_every_pyramid() {
    let stages = r#""embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]"#;
    for backbone in [
        format!(r#""family": "swin", {stages}, "window_size": 3"#),
        format!(r#""family": "swin", "version": "v2", {stages}, "window_size": 3"#),
        format!(r#""family": "swin_cr", {stages}"#),
        r#""family": "twins", "embed_dims": [8, 8, 12, 16], "num_heads": [1, 2, 2, 2], "depths": [1, 1, 1, 2],
            "patch_size": 2, "sr_ratios": [2, 2, 1, 1], "wss": [3, 2, 2, 2]"#
            .to_string(),
    ] {
        let config = on_maps_of(&backbone);
        let model = config.init(&Device::flex(), 0).unwrap();
        assert_eq!(config.walk().unwrap().params, model.num_params() as u64, "{backbone}");
        // Its own size, and one that leaves odd maps.
        for [height, width] in [[64, 96], [76, 92]] {
            let shape = [2, 3, height, width];
            let images =
                Tensor::<4>::from_data(TensorData::new(formula::images(shape, 1.0), shape), &Device::flex());
            let logits: Vec<f32> =
                model.logits_at(images, Sizes::Any).unwrap().into_data().try_to_vec().unwrap();
            assert!(logits.len() == 10 && logits.iter().all(|logit| logit.is_finite()), "{backbone}");
            assert_ne!(logits[..5], logits[5..], "{backbone}");
        }
    }
}

/// Parameters and multiplications of a ViT on a small Swin, counted by hand.
#[test]
fn the_walk_over_a_swin_is_counted_by_hand() {
    let config = on_maps_of(
        r#""family": "swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 3"#,
    );
    let walk = config.walk().unwrap();
    // Biases and norms of a block: a table of 5x5 offsets for two heads, two norms, four linear layers.
    let block = |d: u64| 12 * d * d + (3 + 1 + 4 + 1) * d + 4 * d;
    let swin = (3 * 16 * 8 + 8 + 16) + (block(8) + 50) + (64 + 32 * 16) + (block(16) + 50) + 32;
    let vit = (4 * 16 * 16 + 16) + 16 + (1 + 4 * 6) * 16 + block(16) + 32 + (16 * 5 + 5);
    assert_eq!(walk.params, swin + vit);
    // Maps of 16x24 and 8x12. Windows of 3 fill 18x24 and 9x12.
    let attention = |windows: u64, d: u64| windows * 9 * 9 * 2 * d;
    let stage = |places: u64, windows: u64, d: u64| places * 12 * d * d + attention(windows, d);
    let swin = 384 * 48 * 8 + stage(384, 6 * 8, 8) + 96 * 32 * 16 + stage(96, 3 * 4, 16);
    // 4x6 patches and the class token.
    let vit = 24 * 64 * 16 + (25 * 12 * 16 * 16 + 25 * 25 * 2 * 16) + 16 * 5;
    assert_eq!(walk.macs, swin + vit);
    let shape = |name: &str| walk.steps.iter().find(|step| step.name == name).map(|step| step.shape.clone());
    assert_eq!(shape("patch_embed.backbone.layers.1.downsample"), Some(vec![8, 12, 16]));
    assert_eq!(shape("patch_embed.backbone.norm"), Some(vec![8, 12, 16]));
    assert!(walk.steps.iter().all(|step| !step.name.contains("global_pool")));
}

/// Families whose tokens are no maps of their own are refused by name.
#[test]
fn a_backbone_without_maps_is_refused() {
    let mut refused = 0;
    for family in ModelConfig::FAMILIES {
        let text = format!(r#"{{"family": "hybrid", "backbone": {{"family": "{family}"}}}}"#);
        let config = serde_json::from_str::<ModelConfig>(&text).map_err(|error| error.to_string());
        let walk = config.and_then(|config| {
            config.validate().map_err(|error| error.to_string())?;
            assert!(config.walk().is_ok(), "{family}");
            Ok(())
        });
        if let Err(error) = walk {
            let reason = format!("backbone is a {family}, which makes no feature maps");
            assert!(error.starts_with(&reason), "{error}");
            refused += 1;
        }
    }
    assert_eq!(refused, 9, "vit, deit, pit, t2t, mae, mim, beit, eva, hybrid");
}

/// A hybrid of hybrids is refused at its first level, however deep it is: reading every level would take days.
#[test]
fn a_nest_of_hybrids_is_refused_at_once() {
    let nest = (0..40).fold(r#"{"family": "bit"}"#.to_string(), |inner, _| {
        format!(r#"{{"family": "hybrid", "backbone": {inner}}}"#)
    });
    let error = serde_json::from_str::<ModelConfig>(&nest).unwrap_err().to_string();
    assert!(error.starts_with("backbone is a hybrid, which makes no feature maps"), "{error}");
}

/// Images that are too small for the backbone, and maps that are too small for a patch.
#[test]
fn small_images_are_refused_with_numbers() {
    let of = |side: usize, patch: usize| {
        let hybrid = hybrid(first_version());
        let vit = VitConfig { img_size: [side; 2], patch_size: [patch; 2], ..hybrid.vit.clone() };
        HybridConfig { vit, ..hybrid }.validate().map_err(|error| error.to_string())
    };
    assert_eq!(of(32, 1), Ok(()));
    assert_eq!(of(64, 2), Ok(()));
    assert_eq!(of(31, 1), Err("img_size is 31x31, expected at least 32x32".into()));
    let reason = "img_size is 63x63: its feature map of 1x1 holds no patch of 2x2";
    assert_eq!(of(63, 2), Err(reason.into()));
}
