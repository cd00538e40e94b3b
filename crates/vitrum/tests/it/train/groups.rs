//! Parameter groups against timm's, parameter by parameter.

use std::collections::BTreeMap;

use burn::tensor::Device;
use serde::Deserialize;
use vitrum::models::vit::PosEmbed;
use vitrum::models::{Config, ModelConfig, VitConfig};
use vitrum::train::groups::{GroupConfig, Groups};

use super::golden_json;

#[derive(Deserialize)]
struct Golden {
    depth: usize,
    extra: Vec<String>,
    models: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    /// Name of the catalogue; without one, `config` is all there is.
    name: Option<String>,
    /// Fields of the configuration.
    config: serde_json::Map<String, serde_json::Value>,
    layer_decays: [f64; 2],
    parameters: BTreeMap<String, Cells>,
}

/// Weight decay: plain, with more patterns, with layer decay, with both. Scales of the last two.
#[derive(Deserialize)]
struct Cells {
    decay: [f64; 4],
    scale: [f64; 2],
}

/// The named model's configuration with the case's fields and the fixture's depth.
fn config_of(case: &Case, depth: usize) -> ModelConfig {
    if case.config.contains_key("family") {
        return serde_json::from_value(case.config.clone().into()).unwrap();
    }
    let base = case
        .name
        .as_ref()
        .map_or_else(|| VitConfig::default().into(), |name| ModelConfig::named(name).unwrap());
    let fields = case.config.iter().map(|(key, value)| (key.as_str(), value.clone()));
    base.with("depth", depth.into()).unwrap().with_all(fields).unwrap()
}

#[test]
fn every_parameter_is_in_timms_group() {
    let golden: Golden = golden_json("groups.json");
    assert_eq!(golden.models.len(), 21);
    for case in &golden.models {
        let model = config_of(case, golden.depth).skeleton(&Device::flex().autodiff()).unwrap();
        let groups = |layer_decay, no_weight_decay: &[String]| {
            let no_weight_decay = no_weight_decay.to_vec();
            Groups::new(&model, &GroupConfig { weight_decay: 0.05, layer_decay, no_weight_decay }).unwrap()
        };
        let [first, second] = case.layer_decays;
        let ours = [
            groups(None, &[]),
            groups(None, &golden.extra),
            groups(Some(first), &[]),
            groups(Some(second), &golden.extra),
        ];
        for (key, cells) in &case.parameters {
            let ours = ours.each_ref().map(|groups| groups.get(key).unwrap_or_else(|| panic!("{key}")));
            assert_eq!(ours.map(|group| group.weight_decay), cells.decay, "{:?}: {key}", case.name);
            assert_eq!([ours[0].lr_scale, ours[1].lr_scale], [1.0; 2]);
            for (group, theirs) in ours[2..].iter().zip(cells.scale) {
                assert!((group.lr_scale - theirs).abs() <= 1e-15, "{:?}: {key} {theirs}", case.name);
            }
        }
        // Running statistics are in no group of timm's.
        let is_trained = |key: &&str| !key.ends_with(".running_mean") && !key.ends_with(".running_var");
        let known: Vec<&String> = case.parameters.keys().collect();
        let keys = ours[0].iter().map(|(key, _)| key).filter(is_trained);
        assert_eq!(keys.collect::<Vec<_>>(), known, "{:?}", case.name);
    }
}

#[test]
fn positions_timm_does_not_have_keep_to_the_same_rules() {
    let config =
        |pos_embed| VitConfig { depth: 3, embed_dim: 48, num_heads: 3, pos_embed, ..VitConfig::default() };
    let groups = |pos_embed| {
        let model = ModelConfig::Vit(config(pos_embed)).skeleton(&Device::flex()).unwrap();
        let config = GroupConfig { weight_decay: 0.1, layer_decay: Some(0.5), no_weight_decay: Vec::new() };
        Groups::new(&model, &config).unwrap()
    };
    let learned = groups(PosEmbed::Learn2d);
    for key in ["pos_embed_x", "pos_embed_y", "pos_embed_prefix"] {
        let group = learned.get(key).unwrap();
        assert_eq!((group.layer, group.weight_decay, group.lr_scale), (0, 0.0, 0.0625), "{key}");
    }
    let convolved = groups(PosEmbed::Cpe);
    let block = convolved.iter().find(|(key, _)| key.starts_with("pos_block.0.")).unwrap().1;
    assert_eq!(block.layer, convolved.get("blocks.0.norm1.weight").unwrap().layer);
}
