//! Tables of the ViT paper (arXiv:2010.11929) that need no training: the variants of table 1, the compute of table 6.

use serde_json::json;
use vitrum::models::{Config, ModelConfig};

/// Table 1: layers, hidden size, size of the MLP, heads, parameters in millions.
#[test]
fn variants_of_the_vit_paper() {
    for (name, classes, layers, hidden, mlp, heads, millions) in [
        // The paper's 86 M has no head of 1000 classes (with one, 86.6 M).
        ("vit_base_patch16_224", 0, 12, 768, 3072, 12, 86.0),
        // Its 307 M is that of L/32 with a head (L/16: 304.3 M).
        ("vit_large_patch32_224", 1000, 24, 1024, 4096, 16, 307.0),
        ("vit_huge_patch14_224", 1000, 32, 1280, 5120, 16, 632.0),
    ] {
        let config = ModelConfig::named(name).unwrap().with("num_classes", json!(classes)).unwrap();
        let walk = config.walk().unwrap();
        assert_eq!((walk.params as f64 / 1e6).round(), millions, "{name}");
        let ModelConfig::Vit(vit) = config else { panic!("{name} is a ViT") };
        assert_eq!(
            (vit.depth, vit.embed_dim, vit.mlp_hidden_dim(), vit.num_heads),
            (layers, hidden, mlp, heads)
        );
    }
}

/// Images of JFT-300M, as many as the paper's exaFLOPs ask for.
const JFT: f64 = 303e6;

/// Table 6: epochs, the paper's exaFLOPs, and by how many percent those of the networks here are more. Training takes three
/// times the operations of a forward pass, and a multiply-accumulate is two operations.
#[test]
fn pretraining_compute_of_the_vit_paper() {
    let mut wrong = Vec::new();
    for (name, epochs, exaflops, percent) in [
        ("vit_base_patch32_224", 7, 55.0, 2.0),
        ("vit_base_patch16_224", 7, 224.0, -0.2),
        ("vit_large_patch32_224", 7, 196.0, -0.2),
        ("vit_large_patch16_224", 7, 783.0, 0.0),
        ("vit_large_patch16_224", 14, 1567.0, 0.0),
        ("vit_huge_patch14_224", 14, 4262.0, -0.1),
        ("resnetv2_50x1_bit", 7, 50.0, 4.1),
        ("resnetv2_101x1_bit", 7, 96.0, 3.4),
        ("resnetv2_152x2_bit", 7, 563.0, 3.6),
        ("resnetv2_152x2_bit", 14, 1126.0, 3.6),
        ("vit_base_r50_s16_224", 7, 274.0, 0.0),
        ("vit_large_r50_s32_224", 7, 246.0, 0.4),
    ] {
        let config = ModelConfig::named(name).unwrap();
        let config = config.with_argument("img_size", json!([224, 224])).unwrap();
        let config = config.with("num_classes", json!(1000)).unwrap();
        let ours = 6.0 * config.walk().unwrap().macs as f64 * JFT * f64::from(epochs) / 1e18;
        let more = 100.0 * (ours / exaflops - 1.0);
        if (more - percent).abs() > 0.06 {
            wrong.push(format!("{name}: {ours:.2} exaFLOPs are {more:.2} % more than {exaflops}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
