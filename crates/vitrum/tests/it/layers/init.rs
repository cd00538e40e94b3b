//! First values: distributions by scheme, and that they depend on seed and name alone.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use vitrum::checkpoint::apply::collect;
use vitrum::layers::init::{Draw, initialize};
use vitrum::layers::parameter;
use vitrum::models::eva::EvaConfig;
use vitrum::models::vit::{Activation, BlockNorm, GlobalPool, MlpLayer, WeightInit};
use vitrum::models::{Config, ModelConfig, VitConfig};

fn config(weight_init: WeightInit) -> VitConfig {
    VitConfig {
        img_size: [32, 32],
        patch_size: [8, 8],
        num_classes: 10,
        embed_dim: 96,
        depth: 2,
        num_heads: 3,
        init_values: Some(1e-5),
        weight_init,
        ..VitConfig::default()
    }
}

fn values(config: VitConfig, seed: u64, key: &str) -> Vec<f64> {
    let model = ModelConfig::Vit(config).init(&Device::flex(), seed).unwrap();
    collect(&model).get(key).unwrap_or_else(|| panic!("no {key}")).to_f64()
}

/// Mean, deviation and largest magnitude.
fn moments(values: &[f64]) -> (f64, f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt(), values.iter().fold(0.0, |m: f64, v| m.max(v.abs())))
}

fn close(found: f64, expected: f64, share: f64, what: &str) {
    assert!((found - expected).abs() <= share * expected, "{what}: {found}, expected {expected}");
}

/// timm `ResPostBlock.init_weights`.
#[test]
fn norms_at_the_end_of_branches_begin_as_their_gains() {
    let config = || VitConfig { res_post_norm: true, ..config(WeightInit::Timm) };
    let draw = |key| moments(&values(config(), 1, key));
    for key in ["blocks.0.norm1.weight", "blocks.1.norm2.weight"] {
        close(draw(key).0, 1e-5, 1e-6, key);
    }
    assert_eq!(draw("norm.weight").0, 1.0);
    let model = ModelConfig::Vit(config()).init(&Device::flex(), 1).unwrap();
    assert!(!collect(&model).names().any(|key| key.contains("gamma")), "no gains besides");
}

/// Norms after the residuals and around the patch projection are plain norms.
#[test]
fn other_norms_begin_as_identities() {
    let config = || VitConfig {
        block_norm: BlockNorm::Post,
        patch_norm: true,
        embed_norm: true,
        ..config(WeightInit::Timm)
    };
    for layer in ["blocks.0.norm1", "blocks.1.norm2", "patch_embed.norm_pixels", "patch_embed.norm"] {
        assert_eq!(moments(&values(config(), 1, &format!("{layer}.weight"))), (1.0, 0.0, 1.0), "{layer}");
        assert_eq!(moments(&values(config(), 1, &format!("{layer}.bias"))).2, 0.0, "{layer}");
    }
    let other = VitConfig { res_post_norm: true, ..config() };
    let error = ModelConfig::Vit(other).init(&Device::flex(), 1).unwrap_err().to_string();
    assert!(error.contains("block_norm"), "{error}");
}

#[test]
fn timm_draws_a_narrow_normal() {
    let draw = |key| moments(&values(config(WeightInit::Timm), 1, key));
    for key in ["blocks.0.attn.qkv.weight", "blocks.1.mlp.fc1.weight", "head.weight", "pos_embed"] {
        close(draw(key).1, 0.02, 0.08, key);
    }
    assert_eq!(draw("blocks.0.attn.qkv.bias").2, 0.0);
    assert_eq!(draw("blocks.0.norm1.weight"), (1.0, 0.0, 1.0));
    assert_eq!(draw("blocks.0.norm1.bias").2, 0.0);
    close(draw("blocks.0.ls1.gamma").0, 1e-5, 1e-6, "LayerScale");
    close(draw("cls_token").1, 1e-6, 0.3, "class token");
    // PyTorch's default for the patch convolution: uniform within 1/sqrt(fan-in), bias too.
    let bound = (3.0 * 8.0 * 8.0_f64).powf(-0.5);
    for key in ["patch_embed.proj.weight", "patch_embed.proj.bias"] {
        let (_, deviation, largest) = draw(key);
        assert!(largest <= bound, "{key}");
        close(deviation, bound / 3f64.sqrt(), 0.15, key);
    }
}

#[test]
fn jax_draws_xavier_and_a_head_of_zeros() {
    let draw = |key| moments(&values(config(WeightInit::Jax), 1, key));
    assert_eq!(draw("head.weight").2, 0.0);
    assert_eq!(draw("head.bias").2, 0.0);
    let bound = (6.0 / (96.0 + 3.0 * 96.0_f64)).sqrt();
    assert!(draw("blocks.0.attn.qkv.weight").2 <= bound);
    close(draw("blocks.0.attn.qkv.weight").1, bound / 3f64.sqrt(), 0.05, "qkv");
    close(draw("blocks.0.mlp.fc1.bias").1, 1e-6, 0.2, "MLP bias");
    assert_eq!(draw("blocks.0.attn.proj.bias").2, 0.0);
    let deviation = (3.0 * 8.0 * 8.0_f64).powf(-0.5);
    close(draw("patch_embed.proj.weight").1, deviation, 0.05, "LeCun normal");
    assert_eq!(draw("patch_embed.proj.bias").2, 0.0);
    let (mean, ..) = moments(&values(config(WeightInit::JaxNlhb), 1, "head.bias"));
    close(mean, -(10f64.ln()), -1e-6, "head bias"); // a negative share of a negative number
}

/// timm's `SwiGLU.init_weights` and `GluMlp.init_weights`; its Eva leaves them out.
#[test]
fn gates_of_a_vit_begin_open() {
    for weight_init in [WeightInit::Timm, WeightInit::Jax, WeightInit::Moco] {
        let of = |mlp_layer| VitConfig { mlp_layer, act_layer: Activation::Silu, ..config(weight_init) };
        let draw = |key| moments(&values(of(MlpLayer::Swiglu), 1, key));
        close(draw("blocks.0.mlp.fc1_g.weight").1, 1e-6, 0.05, "weight of a gate");
        assert_eq!(draw("blocks.0.mlp.fc1_g.bias"), (1.0, 0.0, 1.0));
        let (_, other, _) = draw("blocks.0.mlp.fc1_x.weight");
        assert!(other > 0.01, "{weight_init:?}: {other}");

        // Rows of a file are outputs: 192 values, then 192 gates.
        let key = "blocks.0.mlp.fc1.weight";
        let packed = values(of(MlpLayer::SwigluPacked), 1, key);
        let (first, second) = packed.split_at(packed.len() / 2);
        close(moments(second).1, 1e-6, 0.05, "weights of gates");
        assert_eq!(first, &values(config(weight_init), 1, key)[..first.len()], "as without gates");
        let bias = values(of(MlpLayer::SwigluPacked), 1, "blocks.0.mlp.fc1.bias");
        let (first, second) = bias.split_at(bias.len() / 2);
        assert_eq!(second, [1.0; 192]);
        assert!(first.len() == 192 && moments(first).2 < 1e-5, "{weight_init:?}");
    }
    let eva = EvaConfig {
        img_size: [32, 32],
        patch_size: [8, 8],
        embed_dim: 96,
        depth: 1,
        num_heads: 3,
        swiglu_mlp: true,
        ..EvaConfig::default()
    };
    let eva = collect(&ModelConfig::from(eva).init(&Device::flex(), 1).unwrap());
    let weight = eva.get("blocks.0.mlp.fc1.weight").unwrap().to_f64();
    close(moments(&weight[weight.len() / 2..]).1, 0.02, 0.05, "EVA");
    assert_eq!(moments(&eva.get("blocks.0.mlp.fc1.bias").unwrap().to_f64()).2, 0.0);
}

#[test]
fn moco_takes_q_k_v_as_three_matrices() {
    let (_, deviation, largest) = moments(&values(config(WeightInit::Moco), 1, "blocks.0.attn.qkv.weight"));
    let bound = (6.0 / (96.0 + 96.0_f64)).sqrt();
    assert!(largest <= bound);
    close(deviation, bound / 3f64.sqrt(), 0.05, "qkv");
}

#[test]
fn latent_query_is_cut_at_two_deviations() {
    let config = VitConfig { global_pool: GlobalPool::Map, class_token: false, ..config(WeightInit::Timm) };
    let (_, _, largest) = moments(&values(config, 1, "attn_pool.latent"));
    assert!(largest <= 2.0 * 96f64.powf(-0.5));
}

#[test]
fn values_depend_on_seed_and_name_alone() {
    let key = "blocks.1.mlp.fc2.weight";
    let shallow = values(config(WeightInit::Timm), 7, key);
    let deep = values(VitConfig { depth: 5, ..config(WeightInit::Timm) }, 7, key);
    assert_eq!(shallow, deep);
    assert_ne!(shallow, values(config(WeightInit::Timm), 8, key));
    assert_ne!(shallow, values(config(WeightInit::Timm), 7, "blocks.0.mlp.fc2.weight"));
}

#[test]
fn a_skeleton_holds_no_values() {
    let config = ModelConfig::named("vit_gigantic_patch14_224").unwrap();
    let model = config.skeleton(&Device::flex()).unwrap(); // 7 GB, had it any
    assert_eq!(vitrum::checkpoint::apply::expected_tensors(&model).len(), 584); // 12 a block, and 8
    let _ = model.no_grad();
}

#[derive(Module, Debug)]
struct Matrices {
    wide: Param<Tensor<2>>,
    tall: Param<Tensor<2>>,
    square: Param<Tensor<2>>,
}

/// Rows are orthogonal, or columns where there are fewer of them; another seed draws other ones.
#[test]
fn orthogonal_rows_or_columns() {
    let device = Device::flex();
    let drawn = |seed| {
        let matrices = Matrices {
            wide: parameter([3, 7], &device),
            tall: parameter([7, 3], &device),
            square: parameter([4, 4], &device),
        };
        let rule = |_: &str, _: &[usize]| Some(Draw::Orthogonal(2.0));
        initialize(matrices, &rule, seed, DType::F64).unwrap()
    };
    let (one, other) = (drawn(1), drawn(2));
    assert_ne!(one.wide.val().to_data(), other.wide.val().to_data());
    for (name, rows) in
        [("wide", one.wide.val()), ("tall", one.tall.val().transpose()), ("square", one.square.val())]
    {
        let [n, _] = rows.dims();
        let products = rows.clone().matmul(rows.transpose()).into_data();
        for (index, value) in products.iter::<f64>().enumerate() {
            let expected = if index / n == index % n { 4.0 } else { 0.0 };
            assert!((value - expected).abs() < 1e-12, "{name}: {index} {value}");
        }
    }
}
