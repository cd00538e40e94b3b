//! T2T-ViT's sizes, files and limits. Its numbers are compared in `parity.rs`.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;
use vitrum::checkpoint::apply::{Excuses, apply, collect, expected_tensors};
use vitrum::checkpoint::dialect::to_timm;
use vitrum::checkpoint::write::{WriteOptions, write_huggingface, write_model, write_timm};
use vitrum::checkpoint::{HostTensor, TensorMap};
use vitrum::layers::conv::Maps;
use vitrum::layers::observe::{Recorder, Silent};
use vitrum::layers::performer;
use vitrum::models::input::Sizes;
use vitrum::models::t2t::{QkScale, T2tConfig, TokensType};
use vitrum::models::{
    Chain, Config, ConfigError, Depth, Model, ModelConfig, Network, Precision, Want, catalogue,
};

use super::shared::{card, distance, file, images, loaded, logits};
use crate::formula;

/// Heads of 64, so that tensors alone show a model.
fn tiny() -> T2tConfig {
    T2tConfig {
        img_size: [64, 64],
        num_classes: 7,
        token_dim: 8,
        embed_dim: 128,
        depth: 2,
        num_heads: 2,
        mlp_ratio: 2.0,
        ..T2tConfig::default()
    }
}

fn plain() -> T2tConfig {
    T2tConfig { tokens_type: TokensType::Transformer, ..tiny() }
}

/// Tensors far from their first values, but for the waves.
fn tensors(config: &T2tConfig) -> TensorMap {
    let mut map = collect(&config.init(&Device::flex(), 0).unwrap());
    for (key, tensor) in map.tensors.iter_mut().filter(|(key, _)| *key != "pos_embed") {
        let shape = tensor.shape().to_vec();
        *tensor = HostTensor::from_f32(shape.clone(), &formula::weight(key, &shape)).unwrap();
    }
    map
}

/// A folder with the whole configuration.
fn folder(config: &T2tConfig) -> TempDir {
    let (folder, base) = (TempDir::new().unwrap(), T2tConfig::default().into());
    let options = WriteOptions::default();
    let told =
        write_model(folder.path(), &tensors(config), &card(config, "t2t_vit_14"), &base, &options).unwrap();
    assert!(told.unwrap().contains("timm has no T2T-ViT"));
    folder
}

// ---- Sizes

#[derive(Deserialize)]
struct Row {
    config: ModelConfig,
    params: u64,
    gmacs: f64,
}

/// The authors' models, with parameters in millions and multiply-accumulates in billions as their README prints them.
const PRINTED: [(&str, &str, &str); 11] = [
    ("t2t_vit_10", "5.9", "1.5"),
    ("t2t_vit_12", "6.9", "1.8"),
    ("t2t_vit_14", "21.5", "4.8"),
    ("t2t_vit_14_resnext", "21.5", "4.8"),
    ("t2t_vit_14_wide", "25.2", "5.2"),
    ("t2t_vit_19", "39.2", "8.5"),
    // Their README says 13.8 G; their code has this.
    ("t2t_vit_24", "64.1", "13.7"),
    ("t2t_vit_7", "4.3", "1.1"),
    ("t2t_vit_t_14", "21.5", "6.1"),
    ("t2t_vit_t_19", "39.2", "9.8"),
    ("t2t_vit_t_24", "64.1", "15.0"),
];

#[test]
fn parameters_and_gmacs_are_the_authors() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/golden/t2t.json");
    let rows: BTreeMap<String, Row> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let ours: Vec<&str> = catalogue::names().filter(|name| name.starts_with("t2t_")).collect();
    assert_eq!(ours, rows.keys().map(String::as_str).collect::<Vec<_>>());
    for ((name, row), (printed, params, gmacs)) in rows.iter().zip(PRINTED) {
        assert_eq!(name, printed);
        let config = ModelConfig::named(name).unwrap();
        assert_eq!(config, row.config, "{name}");
        let walk = config.walk().unwrap();
        assert_eq!(walk.params, row.params, "parameters of {name}");
        let found = walk.macs as f64 / 1e9;
        assert!((found - row.gmacs).abs() <= 0.000_51, "GMACs of {name}: {found} and not {}", row.gmacs);
        assert_eq!(format!("{:.1}", walk.params as f64 / 1e6), params, "{name}");
        assert_eq!(format!("{found:.1}"), gmacs, "{name}");
    }
}

#[test]
fn walk_counts_the_modules_parameters() {
    for config in [
        tiny(),
        plain(),
        T2tConfig { img_size: [37, 50], in_chans: 1, ..tiny() },
        T2tConfig { img_size: [37, 50], in_chans: 5, token_dim: 5, ..plain() },
        T2tConfig { num_classes: 0, qkv_bias: true, mlp_ratio: 2.7, ..tiny() },
    ] {
        let held = config.init(&Device::flex(), 0).unwrap().num_params() as u64;
        assert_eq!(config.walk().unwrap().params, held, "{config:?}");
    }
}

/// The paper's numbers of tokens: 56², 28² and 14², and what the head does not need of the last block.
#[test]
fn tokens_of_t2t_vit_14() {
    let walk = ModelConfig::named("t2t_vit_14").unwrap().walk().unwrap();
    let shape = |name: &str| &walk.steps.iter().find(|step| step.name == name).unwrap().shape;
    assert_eq!(shape("tokens_to_token.soft_split0"), &[56 * 56, 147]);
    assert_eq!(shape("tokens_to_token.attention1.features"), &[2, 56 * 56, 32]);
    assert_eq!(shape("tokens_to_token.soft_split1"), &[28 * 28, 576]);
    assert_eq!(shape("tokens_to_token.soft_split2"), &[14 * 14, 576]);
    assert_eq!(shape("tokens_to_token.project"), &[14 * 14, 384]);
    assert_eq!(shape("blocks.N.mlp.fc1"), &[197, 1152]);
    let (t, d) = (197, 384);
    assert_eq!(walk.macs - walk.macs_read, (t - 1) * (2 * t * d + 7 * d * d));
}

#[test]
fn a_wrong_field_is_named() {
    for (config, field) in [
        (T2tConfig { img_size: [2, 64], ..tiny() }, "img_size"),
        (T2tConfig { img_size: [64, usize::MAX], ..tiny() }, "img_size"),
        (T2tConfig { in_chans: 0, ..tiny() }, "in_chans"),
        (T2tConfig { in_chans: 1 << 12, ..tiny() }, "in_chans"),
        (T2tConfig { num_classes: usize::MAX, ..tiny() }, "num_classes"),
        (T2tConfig { token_dim: 1, ..tiny() }, "token_dim"),
        (T2tConfig { token_dim: usize::MAX, ..tiny() }, "token_dim"),
        (T2tConfig { embed_dim: 0, ..tiny() }, "embed_dim"),
        (T2tConfig { embed_dim: 129, ..tiny() }, "embed_dim"),
        (T2tConfig { num_heads: 0, ..tiny() }, "num_heads"),
        (T2tConfig { depth: 0, ..tiny() }, "depth"),
        (T2tConfig { mlp_ratio: f64::NAN, ..tiny() }, "mlp_ratio"),
        (T2tConfig { mlp_ratio: 1e9, ..tiny() }, "mlp_ratio"),
        (T2tConfig { qk_scale: QkScale::Number(0.0), ..tiny() }, "qk_scale"),
        (T2tConfig { qk_scale: QkScale::Number(f64::INFINITY), ..tiny() }, "qk_scale"),
        (T2tConfig { norm_eps: 0.0, ..tiny() }, "norm_eps"),
        (T2tConfig { token_drop_rate: 1.0, ..tiny() }, "token_drop_rate"),
        (T2tConfig { drop_path_rate: f64::NAN, ..tiny() }, "drop_path_rate"),
    ] {
        let error = config.walk().unwrap_err();
        assert!(
            matches!(error, ConfigError::Field { field: found, .. } if found == field),
            "{field}: {error}"
        );
    }
}

#[test]
fn the_scale_of_attention_is_named() {
    let base = ModelConfig::from(tiny());
    for (text, scale) in [
        (json!("head_dim"), QkScale::HeadDim),
        (json!("embed_dim"), QkScale::EmbedDim),
        (json!(0.25), QkScale::Number(0.25)),
    ] {
        let config = base.with("qk_scale", text.clone()).unwrap();
        assert_eq!(config, T2tConfig { qk_scale: scale, ..tiny() }.into());
        assert_eq!(config.field("qk_scale"), Some(text));
    }
    assert!(base.with("qk_scale", json!("width")).is_err());
    // It changes the answer, and equal scales give equal answers.
    let answer = |scale| {
        let config = T2tConfig { qk_scale: scale, ..tiny() };
        let model = config.skeleton(&Device::flex()).unwrap().into();
        let (model, _) = apply(model, tensors(&tiny()), DType::F32, &Excuses::default()).unwrap();
        logits(&model, [64, 64])
    };
    let head = answer(QkScale::HeadDim);
    assert_eq!(head, answer(QkScale::Number(0.125)));
    assert!(distance(&head, &answer(QkScale::EmbedDim)) > 1e-4);
}

#[test]
fn what_precedes_the_blocks_is_the_stem() {
    let model = tiny().build(&Device::flex());
    for (key, depth) in [
        ("tokens_to_token.attention1.kqv.weight", Depth::Stem),
        ("tokens_to_token.project.bias", Depth::Stem),
        ("cls_token", Depth::Stem),
        ("pos_embed", Depth::Stem),
        ("blocks.1.norm1.weight", Depth::Layer(1)),
        ("norm.bias", Depth::Close),
        ("head.weight", Depth::Head),
    ] {
        assert_eq!(model.depth(key), depth, "{key}");
    }
    assert!(!model.decays("cls_token") && !model.decays("tokens_to_token.attention2.w"));
    assert!(model.decays("blocks.0.attn.qkv.weight"));
}

/// Directions are orthogonal and of length sqrt(m), and other seeds have others; positions are waves.
#[test]
fn first_values_are_the_authors() {
    let map = |seed| collect(&T2tConfig { token_dim: 10, ..tiny() }.init(&Device::flex(), seed).unwrap());
    let (one, other) = (map(1), map(2));
    for name in ["tokens_to_token.attention1.w", "tokens_to_token.attention2.w"] {
        let w = one.get(name).unwrap();
        assert_eq!(w.shape(), [5, 10]);
        let rows: Vec<Vec<f64>> = w.to_f64().chunks(10).map(<[f64]>::to_vec).collect();
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate() {
                let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                let expected = if i == j { 5.0 } else { 0.0 };
                assert!((dot - expected).abs() < 1e-5, "{name}: {i} {j} {dot}");
            }
        }
        assert_ne!(w, other.get(name).unwrap());
    }
    assert_ne!(one.get("tokens_to_token.attention1.w"), one.get("tokens_to_token.attention2.w"));
    let waves = one.get("pos_embed").unwrap().to_f64();
    assert_eq!(waves[..2], [0.0, 1.0]);
    assert!((waves[128] - 1f64.sin()).abs() < 1e-6);
    let deviation = |key: &str| {
        let values = one.get(key).unwrap().to_f64();
        (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt()
    };
    for key in ["tokens_to_token.project.weight", "blocks.0.attn.qkv.weight", "cls_token", "head.weight"] {
        assert!((0.016..0.024).contains(&deviation(key)), "{key}: {}", deviation(key));
    }
    assert_eq!(deviation("tokens_to_token.attention1.mlp.0.bias"), 0.0);
}

// ---- Parts

/// The split against its definition, value by value, for kernels, steps and zeros of all kinds.
#[test]
fn windows_are_torchs_unfold() {
    let (b, c) = (2, 3);
    for ([h, w], kernel, stride, zeros) in
        [([6, 9], 3, 2, 1), ([9, 5], 7, 4, 2), ([4, 4], 2, 2, 0), ([5, 3], 3, 1, 2), ([1, 1], 1, 1, 0)]
    {
        let values = formula::noise("maps", b * h * w * c);
        let data = TensorData::new(values.clone(), [b, h * w, c]);
        let maps = Maps { x: Tensor::from_data(data, (&Device::flex(), DType::F64)), grid: [h, w] };
        let found = maps.unfold(kernel, stride, zeros);
        let [rows, columns] = found.grid;
        assert_eq!([rows, columns], [h, w].map(|side| (side + 2 * zeros - kernel) / stride + 1));
        let mut expected = Vec::new();
        for image in 0..b {
            for place in 0..rows * columns {
                for channel in 0..c {
                    for tap in 0..kernel * kernel {
                        let y = (place / columns * stride + tap / kernel).checked_sub(zeros);
                        let x = (place % columns * stride + tap % kernel).checked_sub(zeros);
                        expected.push(match (y, x) {
                            (Some(y), Some(x)) if y < h && x < w => {
                                values[((image * h + y) * w + x) * c + channel]
                            }
                            _ => 0.0,
                        });
                    }
                }
            }
        }
        assert_eq!(found.x.dims(), [b, rows * columns, c * kernel * kernel]);
        assert_eq!(found.x.into_data().try_to_vec::<f64>().unwrap(), expected);
    }
}

/// With many directions the features of a Performer come near the softmax that they stand for.
#[test]
fn random_features_stand_for_the_softmax() {
    let (t, e, m) = (6, 4, 20_000);
    let device = Device::flex();
    let tensor = |name: &str, rows: usize, scale: f64| {
        let values: Vec<f64> = formula::noise(name, rows * e).iter().map(|v| v * scale).collect();
        Tensor::<3>::from_data(TensorData::new(values, [1, rows, e]), (&device, DType::F64))
    };
    let [q, k, v] = ["q", "k", "v"].map(|name| tensor(name, t, 0.8));
    // Normal directions, by the sum of twelve uniform draws.
    let draws = formula::noise("w", 12 * m * e);
    let w: Vec<f64> = draws.chunks_exact(12).map(|draws| draws.iter().sum::<f64>() / 2.0).collect();
    let w = Tensor::<2>::from_data(TensorData::new(w, [m, e]), (&device, DType::F64));
    let found = performer::attention([q.clone(), k.clone(), v.clone()], w);
    let weights = burn::tensor::activation::softmax(q.matmul(k.swap_dims(1, 2)), 2);
    let expected = weights.matmul(v);
    let far = (found - expected).abs().max().into_scalar::<f64>();
    assert!(far < 0.02, "{far}");
}

/// Keys and queries far from zero: every feature is tiny, the sum beside 1e-8 too, and nothing is NaN.
#[test]
fn tiny_sums_give_numbers() {
    let device = Device::flex();
    for dtype in [DType::F32, DType::BF16] {
        for scale in [1.0, 8.0, 40.0] {
            let data = TensorData::new(
                formula::noise("q", 24).iter().map(|v| v * scale).collect::<Vec<f64>>(),
                [1, 6, 4],
            );
            let q = performer::widened(Tensor::<3>::from_data(data, (&device, dtype)));
            let w = TensorData::new(formula::noise("w", 8), [2, 4]);
            let w = performer::widened(Tensor::<2>::from_data(w, (&device, dtype)));
            assert_eq!(q.dtype(), DType::F32);
            let y = performer::attention([q.clone(), q.clone(), q], w).into_data();
            assert!(y.iter::<f32>().all(f32::is_finite), "{dtype:?} {scale}");
        }
    }
}

/// An image of another size than the model's gets the answer of the model that was loaded for that size.
#[test]
fn images_of_any_size() {
    for (config, sizes) in [(tiny(), [[96, 96], [37, 64], [16, 80]]), (plain(), [[48, 48], [64, 80], [3, 3]])]
    {
        let folder = folder(&config);
        let own = loaded(folder.path(), Precision::F32, [64, 64]);
        for size in sizes {
            let other = loaded(folder.path(), Precision::F32, size);
            assert_eq!(other.model.config().input().image().size, size);
            let (ours, theirs) = (logits(&own.model, size), logits(&other.model, size));
            assert!(distance(&ours, &theirs) < 1e-4, "{size:?}: {}", distance(&ours, &theirs));
        }
        let error = own.model.logits_at(images([64, 2]), Sizes::Any).unwrap_err().to_string();
        assert!(error.contains("at least 3x3"), "{error}");
    }
}

#[test]
fn levels_blocks_and_links_agree() {
    for config in [tiny(), plain()] {
        let model = Model::from(config.init(&Device::flex(), 5).unwrap());
        let features =
            |want| model.as_backbone().unwrap().features(images([64, 64]).into(), want, &mut Silent).levels;
        let levels = features(Want::Levels);
        assert_eq!(levels.len(), 2);
        assert!(levels.iter().all(|level| (level.prefix, level.grid) == (1, [1, 4, 4])));
        let block = features(Want::Blocks(&[1])).remove(0);
        assert_eq!(levels[1].tokens.to_data(), block.tokens.to_data());
        let head = features(Want::Head).remove(0);
        assert_eq!(head.tokens.dims(), [2, 1, 128]);
        let Model::T2t(t2t) = &model else { panic!("a T2T-ViT") };
        let mut x = t2t.first(images([64, 64]).into(), &mut Silent);
        for index in 0..t2t.links() {
            x = t2t.link(index, x, &mut Silent);
        }
        let last = t2t.last(x, &mut Silent).last();
        assert_eq!(last.tokens.to_data(), head.tokens.to_data());
    }
}

#[test]
fn values_have_the_authors_names() {
    for (config, own) in [
        (tiny(), ["tokens_to_token.attention1.kqv", "tokens_to_token.attention2.proj"]),
        (plain(), ["tokens_to_token.attention1.attn", "tokens_to_token.attention2.attn.weights"]),
    ] {
        let model = Model::from(config.init(&Device::flex(), 5).unwrap());
        let mut watch = Recorder { with_attention: true, ..Recorder::default() };
        let classifier = model.as_classifier().unwrap();
        let features = classifier.features(images([64, 64]).into(), Want::Last, &mut watch);
        classifier.head(features, &mut watch);
        let names: Vec<&str> = watch.seen.iter().map(|(name, _)| name.as_str()).collect();
        let common = [
            "tokens_to_token.soft_split0",
            "tokens_to_token.attention1",
            "tokens_to_token.project",
            "tokens_to_token",
            "pos_drop",
            "blocks.1.attn.weights",
            "blocks.1",
            "norm",
            "head",
        ];
        for name in common.into_iter().chain(own) {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
    }
}

// ---- Files

#[test]
fn our_own_folder_and_back() {
    let options = T2tConfig {
        qk_scale: QkScale::EmbedDim,
        norm_eps: 1e-4,
        token_drop_rate: 0.0,
        num_classes: 3,
        ..plain()
    };
    for config in [tiny(), plain(), options] {
        let folder = folder(&config);
        let found = loaded(folder.path(), Precision::F32, [64, 64]);
        assert_eq!(found.model.config(), config.clone().into());
        assert_eq!(collect(&found.model).tensors, tensors(&config).tensors);
        // No other library has it.
        let (other, base) = (TempDir::new().unwrap(), T2tConfig::default().into());
        let write = WriteOptions::default();
        let timm = write_timm(other.path(), &tensors(&config), &card(&config, "t2t_vit_14"), &base, &write);
        assert!(timm.unwrap_err().to_string().contains("timm has no T2T-ViT"));
        let transformers =
            write_huggingface(other.path(), &tensors(&config), &card(&config, "t2t_vit_14"), &write);
        assert!(transformers.unwrap_err().to_string().contains("transformers has no T2T-ViT"));
    }
}

/// The authors' files: weights of parallel training, without a configuration. The random directions are the file's.
#[test]
fn files_are_read_in_every_precision() {
    for config in [tiny(), plain()] {
        let mut theirs = TensorMap::new("theirs");
        let ours = tensors(&config);
        theirs.tensors =
            ours.tensors.clone().into_iter().map(|(key, t)| (format!("module.{key}"), t)).collect();
        let (_kept, path) = file(&theirs);
        let exact = loaded(&path, Precision::F32, [64, 64]);
        assert_eq!(exact.model.config(), config.clone().into());
        assert_eq!(collect(&exact.model).tensors, ours.tensors);
        assert!(exact.notes.iter().any(|note| note.contains("qk_scale=head_dim")), "{:?}", exact.notes);
        let answer = logits(&exact.model, [64, 64]);
        for (precision, most) in [(Precision::Bf16, 0.05), (Precision::Int8, 0.2)] {
            let rounded = loaded(&path, precision, [64, 64]);
            assert_eq!(rounded.model.precision(), precision);
            assert_eq!(rounded.model.linears().len(), 8);
            let far = distance(&answer, &logits(&rounded.model, [64, 64]));
            let largest = distance(&answer, &[0.0; 14]);
            assert!(far > 0.0 && far < most * largest, "{precision:?}: {far} of {largest}");
        }
        assert_eq!(logits(&exact.model.clone().pack(), [64, 64]), answer);
    }
}

/// A file without its fixed waves gets them; one without its random directions is refused.
#[test]
fn waves_may_be_missing_and_directions_not() {
    let mut map = tensors(&tiny());
    map.tensors.remove("pos_embed");
    let skeleton = || Model::from(tiny().skeleton(&Device::flex()).unwrap());
    let (model, _) = apply(skeleton(), map.clone(), DType::F32, &Excuses::default()).unwrap();
    let whole = tensors(&tiny());
    assert_eq!(collect(&model).get("pos_embed"), whole.get("pos_embed"));
    map.tensors.remove("tokens_to_token.attention2.w");
    let error = apply(skeleton(), map, DType::F32, &Excuses::default()).unwrap_err().to_string();
    assert!(error.contains("tokens_to_token.attention2.w"), "{error}");
}

/// The configuration of published models follows from their tensors, but for the scale of attention.
#[test]
fn tensors_show_the_configuration() {
    for name in ["t2t_vit_7", "t2t_vit_14", "t2t_vit_t_19", "t2t_vit_14_wide"] {
        let base = T2tConfig::try_from(ModelConfig::named(name).unwrap()).unwrap();
        let config = T2tConfig { depth: 2, num_classes: 3, img_size: [384, 384], ..base };
        let mut map = TensorMap::new(name);
        for (key, shape) in expected_tensors(&config.build(&Device::flex())) {
            let count = shape.iter().product();
            map.tensors.insert(key, HostTensor::from_f32(shape, &vec![0.0; count]).unwrap());
        }
        let converted = to_timm(map.clone()).unwrap();
        assert_eq!(converted.card().unwrap().config, config.clone().into(), "{name}");
        map.tensors.retain(|key, _| !key.starts_with("head."));
        let headless = to_timm(map).unwrap().card().unwrap().config;
        assert_eq!(headless, T2tConfig { num_classes: 0, ..config }.into(), "{name}");
    }
    let odd = T2tConfig { embed_dim: 96, ..tiny() };
    let error = to_timm(tensors(&odd)).unwrap().card().unwrap_err().to_string();
    assert!(error.contains("number of heads") && error.contains("state num_heads in a key file"), "{error}");
    let mut converted = to_timm(tensors(&odd)).unwrap();
    converted.told = json!({"num_heads": 4, "qk_scale": "embed_dim"}).as_object().unwrap().clone();
    let card = converted.card().unwrap();
    let expected = T2tConfig { num_heads: 4, qk_scale: QkScale::EmbedDim, ..odd };
    assert_eq!(card.config, expected.into());
    assert!(
        !card.notes.iter().any(|note| note.contains("assumed") && !note.contains("image")),
        "{:?}",
        card.notes
    );
    // A model with the same tensors and other heads is named.
    let named = |width: usize, heads: usize| {
        let config = T2tConfig { embed_dim: width, num_heads: heads, ..tiny() };
        to_timm(tensors(&config)).unwrap().card().unwrap().notes
    };
    let tells = |notes: Vec<String>| notes.iter().any(|note| note.contains("t2t_vit_14_resnext has 32"));
    assert!(tells(named(384, 6)) && !tells(named(128, 2)));
    let error = ModelConfig::from(tiny()).with("qk_scale", json!("x")).unwrap_err().to_string();
    assert!(error.contains("qk_scale") && error.contains("head_dim, embed_dim or a number"), "{error}");
    let oblong = tensors(&T2tConfig { img_size: [32, 80], ..tiny() });
    let error = to_timm(oblong).unwrap().card().unwrap_err().to_string();
    assert!(error.contains("no square image"), "{error}");
}
